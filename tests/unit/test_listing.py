# SPDX-License-Identifier: Apache-2.0
"""discoverctl list: what it shows on terminals of any width and for programs, in which order, and again and again."""

import errno
import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from pystemd.dbusexc import DBusBaseError

from discoverd import state
from discoverd.cli import terminal, watch
from discoverd.cli.exits import Exit
from discoverd.cli.listing import size
from discoverd.cli.namespaces import Namespace
from discoverd.kernel import controllers
from discoverd.tid import DISCOVERY_NQN

from . import json_schema
from .fake_ctl import NQN, Desk, Unit, install, instance

WAITING = "1 s, attempt 4: connection refused: nothing listens there"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    return made


@pytest.fixture
def some(desk: Desk) -> Desk:
    """A subsystem with a path that is down, one that is stopped, and one that discoverd has nothing to do with."""
    desk.controller(10, "nvme10", detail="")
    desk.controller(2, "nvme2", detail="")
    desk.controller(2, "", address="198.51.100.1", report="waiting", detail=WAITING, attempt="4", cause="refused")
    desk.controller(3, "", report="stopped", detail="", unit=Unit("inactive"), action="keep stopped")
    desk.kernel(4, "nvme1", owner="stas")
    desk.volumes["nvme2"] = (Namespace("nvme2n1", 16 << 20, ("/srv/data",)), Namespace("nvme2n2", 1 << 20))
    return desk


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, lines: int = 24, colours: bool = False) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((columns, lines)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "" if colours else "1")


def listed(desk: Desk, *words: str) -> list[str]:
    status, output, errors = desk.run("list", *words)
    assert (status, errors) == (0, "")
    return output.splitlines()


# Order -----------------------------------------------------------------------------------------------------


def test_paths_stand_below_their_subsystem_and_numbers_count_as_such(
    some: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch, 80)
    assert listed(some, "--no-legend") == [
        NQN.format(2),
        "  live     nvme2   tcp 192.0.2.1:4420",
        "  waiting  -       tcp 198.51.100.1:4420  1 s, attempt 4: connection refused:",
        "                                          nothing listens there",
        NQN.format(3),
        "  stopped  -       tcp 192.0.2.1:4420",
        NQN.format(4),
        "  live     nvme1   tcp 192.0.2.1:4420     belongs to stas, and has no unit",
        NQN.format(10),
        "  live     nvme10  tcp 192.0.2.1:4420",
    ]


def test_discovery_controllers_come_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.controller(1, "nvme1", detail="")
    desk.kernel(9, "nvme9")
    desk.set("nvme9", "subsysnqn", DISCOVERY_NQN)
    desk.set("nvme9", "cntrltype", "discovery")
    on_terminal(monkeypatch, 80)
    assert [line for line in listed(desk) if line.startswith("nqn.")] == [DISCOVERY_NQN, NQN.format(1)]


@pytest.mark.parametrize(
    ("sort", "devices"),
    [
        ("subsystem", ["nvme2", "-", "-", "nvme1", "nvme10"]),
        ("device", ["nvme1", "nvme2", "nvme10", "-", "-"]),
        ("state", ["-", "-", "nvme2", "nvme1", "nvme10"]),
        ("address", ["nvme2", "-", "nvme1", "nvme10", "-"]),
    ],
)
def test_other_orders(some: Desk, sort: str, devices: list[str]) -> None:
    assert [line.split()[1] for line in listed(some, "--sort", sort, "--no-legend")] == devices


def test_what_has_changed_last_comes_first_by_since(desk: Desk) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    for volume, age in ((1, 500), (2, 5), (3, 50)):
        desk.controller(volume, f"nvme{volume}", detail="", since=str(int(now - age)))
    rows = listed(desk, "--sort", "since", "--no-legend")
    assert [line.split()[1] for line in rows] == ["nvme2", "nvme3", "nvme1"]


def test_another_order_has_the_subsystem_in_each_line(some: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 70)
    assert listed(some, "--sort", "state")[:4] == [
        "STATE    DEVICE  ADDRESS                SUBSYSTEM",
        f"waiting  -       tcp 198.51.100.1:4420  {NQN.format(2)}",
        "    1 s, attempt 4: connection refused: nothing listens there",
        f"stopped  -       tcp 192.0.2.1:4420     {NQN.format(3)}",
    ]


# What is shown ---------------------------------------------------------------------------------------------


def test_only_some_states(some: Desk) -> None:
    assert len(listed(some, "--state", "waiting,stopped", "--no-legend")) == 2
    assert listed(some, "--state", "parked") == ["0 controllers, 0 live"]
    status, _, errors = some.run("list", "--state", "wating")
    assert status == Exit.USAGE
    assert "wating is no state" in errors
    # Whatever a controller can be in, also when none is.
    kernel = ("new", "live", "resetting", "connecting", "deleting", "deleting (no IO)", "dead")
    systemd = ("active", "reloading", "inactive", "failed", "activating", "deactivating", "maintenance", "refreshing")
    own = ("starting", "left alone", "blocked", "masked", *(one for one in state.STATES if one != state.FOREIGN))
    for word in (*kernel, *systemd, *own):
        assert some.run("list", "--state", word)[0] == 0, word
        assert word in errors


def test_only_some_controllers(some: Desk) -> None:
    assert [line.split()[1] for line in listed(some, "--no-legend", "vol2", "nvme1")] == ["nvme2", "-", "nvme1"]
    assert some.run("list", "nvme77")[0] == Exit.UNKNOWN


def test_names_alone(some: Desk) -> None:
    assert listed(some, "-o", "name")[0] == instance(2)
    assert len(listed(some, "-o", "name")) == 5


def test_wide_has_since_size_namespaces_and_users(some: Desk) -> None:
    titles, first, *_ = listed(some, "-o", "wide")
    words = ["STATE", "DEVICE", "OWNER", "CONTROLLER", "SINCE", "SIZE", "NAMESPACES", "USERS", "STATUS"]
    assert titles.split() == words
    assert first.split()[5:] == ["17M", "nvme2n1,nvme2n2", "/srv/data", "-"]


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(0, "0B"), (512, "512B"), (16 << 20, "16M"), (1536 << 30, "1.5T"), (1 << 60, "1E"), (1 << 70, "1024E")],
)
def test_sizes_are_those_of_lsblk(amount: int, shown: str) -> None:
    assert size(amount) == shown


def test_what_cannot_be_connected_is_counted_and_said(some: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    some.refuse(NQN.format(7), "192.0.2.1", "TLS is not supported yet, so it is not connected")
    reason = f"  {NQN.format(7)} (a.conf:3): TLS is not supported yet, so it is not connected"
    assert listed(some)[-2:] == ["5 controllers, 3 live; 1 cannot be connected:", reason]
    on_terminal(monkeypatch, 60)
    assert all(len(line) <= 60 for line in listed(some))
    assert "TLS" not in "".join(listed(some, "vol2"))
    some.refuse(NQN.format(7), "198.51.100.1", "TLS is not supported yet, so it is not connected")
    assert f"{NQN.format(7)} (a.conf:3, and 1 more): TLS" in "".join(listed(some))
    for volume in range(11, 17):
        some.refuse(NQN.format(volume), "192.0.2.1", "TLS")
    assert listed(some)[-1] == "  and more, see: discoverctl status"


@pytest.mark.parametrize("columns", [1, 12, 20, 33, 47, 60, 80, 140, 300])
@pytest.mark.parametrize("words", [[], ["-o", "wide"], ["--sort", "state"], ["--sort", "state", "-o", "wide"]])
def test_list_fits_any_terminal_and_loses_nothing(
    some: Desk, words: list[str], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch, columns)
    lines = listed(some, *words)
    # The titles are as short as they are.
    assert max(map(len, lines[1:])) <= max(columns, 12)
    text = "".join("".join(lines).split())
    assert "".join(WAITING.split()) in text or columns > 33
    for word in ("waiting", "nvme10", "198.51.100.1:4420"):
        assert word in text


def test_middle_of_a_long_nqn_is_cut(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.controller(1, "nvme1", detail="")
    on_terminal(monkeypatch, 20)
    assert listed(desk)[0] == "nqn.202…example:vol1"


def test_pipe_gets_all(some: Desk) -> None:
    row = next(line for line in listed(some) if "198.51.100.1" in line)
    assert row.split(maxsplit=3)[2:] == ["-", f"{instance(2, '198.51.100.1')}  {WAITING}"]


# Colours ---------------------------------------------------------------------------------------------------


def test_colours_on_a_terminal(some: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 80, colours=True)
    text = "\n".join(listed(some))
    assert "\x1b[32mlive\x1b[0m     nvme2" in text
    assert "\x1b[33mwaiting\x1b[0m  -" in text


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colours_where_they_are_not_wanted(
    some: Desk, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch, 80, colours=True)
    monkeypatch.setenv(name, value)
    assert "\x1b" not in "\n".join(listed(some))


def test_no_colours_in_a_pipe(some: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in "\n".join(listed(some))


def test_names_of_peers_do_not_command_the_terminal(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.kernel(1, "nvme0")
    desk.set("nvme0", "subsysnqn", NQN.format(1) + "\x1b[2J")
    on_terminal(monkeypatch, 80, colours=True)
    assert "\x1b[2J" not in "\n".join(listed(desk))


# For programs ----------------------------------------------------------------------------------------------


def document(desk: Desk, *words: str) -> dict[str, dict[str, object]]:
    _, output, _ = desk.run("list", "--json", *words)
    found = json.loads(output)
    assert json_schema.faults(found, json_schema.load("list.schema.json")) == []
    return {one["device"] or one["controller"]: one for one in found["controllers"]}


def test_json_is_as_its_schema_says(some: Desk) -> None:
    some.refuse(NQN.format(7), "192.0.2.1", "TLS is not supported yet")
    found = document(some)
    waiting = found[instance(2, "198.51.100.1")]
    assert {key: waiting[key] for key in ("state", "attempt", "cause", "address", "service", "role")} == {
        "state": "waiting",
        "attempt": 4,
        "cause": "refused",
        "address": "198.51.100.1",
        "service": "4420",
        "role": "io",
    }
    assert waiting["since"] is not None
    assert found["nvme1"]["owner"] == "stas"
    assert found["nvme2"]["namespaces"] == [
        {"name": "nvme2n1", "size": 16 << 20, "users": ["/srv/data"]},
        {"name": "nvme2n2", "size": 1 << 20, "users": []},
    ]


def test_schema_finds_faults(some: Desk) -> None:
    _, output, _ = some.run("list", "--json")
    found = json.loads(output)
    schema = json_schema.load("list.schema.json")
    one = found["controllers"][0]
    for change in ({"attempt": "4"}, {"attempt": -1}, {"role": "x"}, {"since": "now"}, {"status": "live"}):
        broken = {**found, "controllers": [{**one, **change}]}
        assert json_schema.faults(broken, schema) != []
    del one["cause"]
    assert json_schema.faults(found, schema) == ["$.controllers[0]: cause is missing"]


def test_both_ways_to_ask_for_json_are_the_same(some: Desk) -> None:
    assert some.run("list", "--json") == some.run("list", "-o", "json")


def test_json_of_a_loss_that_the_worker_has_not_seen_does_not_contradict_itself(desk: Desk) -> None:
    desk.controller(1, "nvme0", detail="4 entries", errno="111", cause="x")
    desk.set("nvme0", "state", "connecting")
    one = document(desk)["nvme0"]
    assert (one["state"], one["kernel_state"], one["since"], one["cause"]) == ("reconnecting", "connecting", None, "")
    assert "its worker has not seen yet" in listed(desk)[1]


def test_earlier_worker_says_no_more_in_the_status(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.controller(2, "", report="waiting", status="waiting 8 s, attempt 4: timed out")
    rows = [line.split(maxsplit=4) for line in listed(desk, "--no-legend")]
    assert [row[4] for row in rows] == ["-", "8 s, attempt 4: timed out"]


# Again and again -------------------------------------------------------------------------------------------


def watched(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, *acts: object, words: tuple[str, ...] = ()
) -> tuple[int, str, str]:
    """Watch, with these acts between the looks."""
    left = list(acts)

    def sleep(_: float) -> None:
        if not left:
            raise KeyboardInterrupt
        act = left.pop(0)
        if callable(act):
            act()

    monkeypatch.setattr(watch, "time", type("", (), {"sleep": staticmethod(sleep)}))
    return desk.run("list", "--watch", *words)


def test_watch_shows_changes_in_a_pipe(some: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    status, output, errors = watched(some, monkeypatch, None, lambda: some.set("nvme2", "state", "connecting"), None)
    assert (status, errors) == (0, "")
    assert [line for line in output.splitlines() if "live" in line and "controllers" in line] == [
        "5 controllers, 3 live",
        "5 controllers, 2 live",
    ]


def test_watch_takes_the_place_of_the_last_look_on_a_terminal(some: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 80, lines=5)
    _, output, _ = watched(some, monkeypatch, None)
    assert output.startswith("\x1b[2J\x1b[H")
    assert output.count("\x1b[H") == 2
    first = output.split("\x1b[J")[0]
    assert first.count("\n") == 4
    assert "more lines" in first


def test_watch_of_one_that_is_lost_goes_on_with_an_empty_list(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.kernel(1, "nvme3", owner="stas")
    acts = (lambda: desk.vanish("nvme3"), lambda: desk.kernel(1, "nvme3", owner=""), None)
    status, output, errors = watched(desk, monkeypatch, *acts, words=("nvme3",))
    assert (status, errors) == (0, "")
    counts = [line for line in output.splitlines() if line.endswith(" live")]
    assert counts == ["1 controller, 1 live", "0 controllers, 0 live", "1 controller, 1 live"]


def test_watch_goes_on_when_a_look_fails(some: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = DBusBaseError(-errno.ECONNRESET, b"org.freedesktop.DBus.Error.Disconnected", b"Connection reset by peer")
    acts = (lambda: some.bus.refuses.update(open=gone), some.bus.refuses.clear, None)
    status, output, errors = watched(some, monkeypatch, *acts)
    assert (status, errors) == (0, "")
    assert output.count("5 controllers, 3 live") == 2
    assert output.count("cannot talk to systemd: Connection reset by peer") == 1


@pytest.mark.parametrize("words", [("nvme9",), ("--state", "wating")])
def test_watch_begins_with_words_and_states_that_mean_something(
    some: Desk, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, output, errors = watched(some, monkeypatch, None, words=words)
    assert (status in (Exit.UNKNOWN, Exit.USAGE), output, words[-1] in errors) == (True, "", True)


def test_watch_says_what_is_wrong_with_the_plan(some: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    some.plan["version"] = 2
    _, output, errors = watched(some, monkeypatch)
    assert "of version 2" in output
    assert errors == ""


def test_sysfs_inode_of_a_controller_tells_the_device(some: Desk) -> None:
    """What is left of a device that another one has got the name of is not shown as that one's."""
    name = instance(2)
    some.report(name, "live", "live nvme2", "nvme2", detail="", **{"kernel-instance": "1"})
    assert controllers.sysfs_inode("nvme2") != 1
    assert document(some)["nvme2"]["state"] == state.LIVE


def test_narrowest_terminal_is_taken_for_a_little_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 0)
    assert terminal.columns() == 12
