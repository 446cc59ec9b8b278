# SPDX-License-Identifier: Apache-2.0
"""discoverctl's verbs that only look: list, status, why; and how a word on the command line is understood."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pystemd.dbusexc import DBusBaseError
from pystemd.dbuslib import DBus

from discoverd import state, store
from discoverd.cli import holdings, plan_file, systemd
from discoverd.cli.exits import Exit
from discoverd.cli.holdings import Namespace
from discoverd.kernel import controllers
from discoverd.tid import unit_name

from .fake_ctl import NQN, Desk, Unit, install, instance


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    return made


def test_the_list_has_everybodys_controllers(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.controller(2, "", report="waiting", detail="8 s, attempt 4: connection refused")
    desk.kernel(3, "nvme7", owner="stas")
    desk.kernel(4, "nvme10")
    desk.kernel(5, "nvme2")
    desk.set("nvme2", "transport", "pcie")
    status, output, errors = desk.run("list")
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0].split() == ["STATE", "DEVICE", "OWNER", "CONTROLLER", "STATUS"]
    assert [line.split()[:4] for line in lines[1:5]] == [
        ["live", "nvme0", "nvme-ctrl", instance(1)],
        ["waiting", "-", "-", instance(2)],
        ["live", "nvme7", "stas", instance(3)],
        ["live", "nvme10", "-", instance(4)],
    ]
    assert lines[2].endswith(instance(2) + "  8 s, attempt 4: connection refused")
    assert lines[3].endswith("belongs to stas, and has no unit")
    assert lines[5] == "4 controllers, 3 live"
    assert len({line.index("tcp:") for line in lines[1:5]}) == 1


def test_the_list_for_programs(desk: Desk) -> None:
    name = desk.controller(1, "nvme0")
    status, output, _ = desk.run("list", "--json")
    assert status == 0
    found = json.loads(output)
    assert found["version"] == 2
    assert found["controllers"] == [
        {
            "controller": name,
            "unit": unit_name(name),
            "role": "io",
            "transport": "tcp",
            "address": "192.0.2.1",
            "service": "4420",
            "subsysnqn": NQN.format(1),
            "host_iface": "",
            "host_address": "",
            "state": "live",
            "since": None,
            "attempt": 0,
            "cause": "",
            "errno": 0,
            "kept": "",
            "excluded_by": "",
            "blocked_by": "",
            "withdrawn_by": "",
            "trust": "",
            "device": "nvme0",
            "kernel_state": "live",
            "owner": "nvme-ctrl",
            "namespaces": [],
        }
    ]
    _, output, _ = desk.run("list", "--no-legend")
    assert output == f"live  nvme0  nvme-ctrl  {name}  -\n"


def test_nothing_at_all(desk: Desk) -> None:
    assert desk.run("list") == (0, "0 controllers, 0 live\n", "")
    assert desk.run("list", "--no-legend") == (0, "", "")
    status, _, errors = desk.run("status", "nvme0")
    assert status == 4
    assert "discoverctl status" in errors


@pytest.mark.parametrize(
    ("unit", "report", "expected"),
    [
        (Unit("inactive"), "stopped", "stopped"),
        (Unit("failed"), "refused", "refused"),
        (Unit("failed"), "waiting", "failed"),
        (Unit("inactive", load="masked"), "stopped", "masked"),
        (Unit("active"), "foreign", "left alone"),
        (Unit("active"), "live", "connecting"),
        (Unit("activating"), "connecting", "connecting"),
    ],
)
def test_states(desk: Desk, unit: Unit, report: str, expected: str) -> None:
    desk.controller(1, "", unit=unit, report=report)
    _, output, _ = desk.run("list", "--json")
    assert json.loads(output)["controllers"][0]["state"] == expected


def test_a_loss_that_the_worker_has_not_seen_yet(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.set("nvme0", "state", "connecting")
    _, output, _ = desk.run("list")
    assert output.splitlines()[1].startswith("reconnecting  nvme0")


def test_what_the_kernel_is_still_making_is_nobodys_controller(desk: Desk) -> None:
    """Else monitor told of a controller without a name at each connect that it looked at in its middle."""
    desk.kernel(7, "nvme5")
    desk.set("nvme5", "state", "connecting")
    desk.set("nvme5", "subsysnqn", "")
    desk.write_plan()
    assert "nvme5" not in desk.run("list")[1]
    desk.set("nvme5", "subsysnqn", NQN.format(7))
    assert "nvme5" in desk.run("list")[1]


def test_a_device_is_one_units_only(desk: Desk) -> None:
    """Another unit asks for the same target, and is content with any connection."""
    desk.controller(1, "nvme0")
    other = desk.root / "run" / "controllers" / f"{instance(1)}::eth0"
    other.mkdir()
    (other / "spec").write_bytes((desk.root / "run" / "controllers" / instance(1) / "spec").read_bytes())
    _, output, _ = desk.run("list", "--json")
    assert [one["device"] for one in json.loads(output)["controllers"]] == ["nvme0", ""]


def test_device_without_an_entry_is_the_units_that_reported_it(desk: Desk) -> None:
    """Its options are those of both."""
    for name, device, word in (("b", "nvme0", "live"), ("a", "nvme0", "foreign")):
        other = desk.root / "run" / "controllers" / f"{instance(1)}::{name}"
        other.mkdir()
        spec = state.Spec("io", [("nqn", NQN.format(1)), ("transport", "tcp"), ("traddr", "192.0.2.1")])
        spec.options.append(("trsvcid", "4420"))
        (other / "spec").write_bytes(spec.encode())
        if word == "live":
            desk.kernel(1, device)
        inode = str(controllers.sysfs_inode(device))
        fields = [("state", word), ("status", word), ("device", device), ("kernel-instance", inode)]
        (other / "report").write_bytes(state.encode(state.REPORT, fields))
    # The interface may have been renamed since.
    desk.set("nvme0", "address", "traddr=192.0.2.1,trsvcid=4420,host_iface=old0")
    _, output, _ = desk.run("list", "--json")
    assert [one["device"] for one in json.loads(output)["controllers"]] == ["", "nvme0"]


def test_entry_of_another_target_is_not_the_units_device(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.set("nvme0", "address", "traddr=192.0.2.7,trsvcid=4420")
    _, output, _ = desk.run("list", "--json")
    assert json.loads(output)["controllers"][0]["device"] == ""


def test_the_worker_of_a_controller_that_others_own(desk: Desk) -> None:
    desk.controller(1, "nvme0", owner="stas", report="foreign", status="left alone: nvme0 belongs to stas")
    _, output, _ = desk.run("list")
    assert output.splitlines()[1].split()[:5] == ["left", "alone", "nvme0", "stas", instance(1)]
    assert "1 controller, 1 live" in output


def test_control_characters_of_a_peer_do_not_reach_the_terminal(desk: Desk) -> None:
    desk.controller(1, "nvme0", status="live \u202e nvme0")
    desk.set("nvme0", "subsysnqn", NQN.format(1) + "\x1b]0;x\x07")
    for words in (["list"], ["status", "nvme0"], ["why", "nvme0"], ["list", "--json"], ["status", "nvme0", "--json"]):
        _, output, errors = desk.run(*words)
        assert all(char == "\n" or char.isprintable() for char in output + errors)


@pytest.mark.parametrize(
    "word",
    [
        instance(1),
        unit_name(instance(1)),
        unit_name(instance(1)).removesuffix(".service"),
        "nvme0",
        "/dev/nvme0",
        NQN.format(1),
    ],
)
def test_names_for_a_controller(desk: Desk, word: str) -> None:
    desk.controller(1, "nvme0")
    desk.controller(2, "nvme1")
    _, output, _ = desk.run("status", "--json", word)
    assert [one["controller"] for one in json.loads(output)["controllers"]] == [instance(1)]


def test_a_subsystem_is_all_its_paths(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.controller(1, "nvme1", address="198.51.100.1")
    _, output, _ = desk.run("status", "--json", NQN.format(1))
    assert [one["device"] for one in json.loads(output)["controllers"]] == ["nvme0", "nvme1"]


def test_an_unknown_controller(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    status, output, errors = desk.run("why", NQN.format(11))
    assert (status, output) == (4, "")
    assert errors.splitlines()[0].endswith("the nearest:")
    assert f"  {NQN.format(1)}" in errors.splitlines()
    status, _, errors = desk.run("stop", "zzz")
    assert status == 4
    assert errors.splitlines()[1:] == [f"  {instance(1)}"]
    assert desk.bus.called == []


def test_status_of_one(desk: Desk) -> None:
    name = desk.controller(1, "nvme0")
    desk.namespaces["nvme0"] = [
        Namespace("nvme0n1", ("/data",), ()),
        Namespace("nvme0n2", (), ("nvme3",)),
    ]
    status, output, _ = desk.run("status", "nvme0")
    assert status == 0
    assert output.startswith(name + "\n")
    assert f"{unit_name(name)}: loaded, active (running)" in output
    assert "nvme0n1: used by /data; no other live path" in output
    assert "nvme0n2: not in use; also through nvme3" in output
    assert "configured at /etc/nvme/nvme-fabrics.conf:3" in output


def test_status_says_since_when_and_nothing_twice(desk: Desk) -> None:
    desk.controller(1, "nvme0", detail="excluded by f:3")
    _, output, _ = desk.run("status", "nvme0")
    assert re.search(r"^  state:      live since [0-9]{2}:[0-9]{2}$", output, re.MULTILINE)
    assert "  status:     excluded by f:3\n" in output


def test_status_tells_what_is_not_live(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.controller(1, "", address="198.51.100.1", report="waiting", status="waiting 2 s, attempt 1: timed out")
    assert desk.run("status", NQN.format(1))[0] == 3
    assert desk.run("status", "nvme0")[0] == 0


def test_status_of_the_daemon(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.plan["complaints"] = ["/etc/nvme/nvme-fabrics.conf:7:1: the unknown key x is ignored"]
    desk.plan["refusals"] = [{"what": "tcp array", "source": "a.conf:3", "reason": "the host name has no address"}]
    status, output, _ = desk.run("status")
    assert status == 0
    assert "1 controller: 1 live" in output
    assert "complaint:   /etc/nvme/nvme-fabrics.conf:7:1: the unknown key x is ignored" in output
    assert "refused:     tcp array (a.conf:3): the host name has no address" in output
    desk.plan["kept"] = [{"file": "x.conf", "since": "2026-11-21 14:05", "mistake": "x.conf:3: bad"}]
    assert json.loads(desk.run("status", "--json")[1])["kept"] == desk.plan["kept"]
    desk.bus.units["discoverd.service"].active = "inactive"
    status, output, errors = desk.run("status")
    assert status == 1
    assert errors.endswith("systemctl start discoverd.service\n")
    _, output, _ = desk.run("status", "--json")
    assert json.loads(output)["controllers"] == {"live": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "left no plan"),
        (b"", "truncated"),
        (b'{"version": 1, "contr', "truncated"),
        (b'{"version": 1}', "makes no sense"),
        (b'{"version": 1, "controllers": [7], "refusals": [], "complaints": []}', "makes no sense"),
        (b'{"version": 2, "all": "new"}', "of version 2"),
        (b"[]", "makes no sense"),
        (b"[" * 100000, "makes no sense"),
        (b"\xff\xfe", "makes no sense"),
    ],
)
def test_a_plan_that_cannot_be_used(desk: Desk, content: bytes | None, said: str) -> None:
    name = desk.controller(1, "nvme0")
    if content is not None:
        Path(plan_file.PATH).write_bytes(content)
    status, output, errors = desk.run_as_it_is("list")
    assert status == 0
    assert name in output
    assert said in errors
    assert "systemctl" in errors
    status, output, _ = desk.run_as_it_is("why", "nvme0")
    assert status == 0
    assert "It was configured at /etc/nvme/nvme-fabrics.conf:3 when discoverd decided last." in output


def test_a_plan_of_a_later_release_with_more_in_it(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.plan["controllers"][0]["weather"] = "fine"
    assert desk.run("list")[2] == ""


def why(desk: Desk, word: str) -> str:
    status, output, errors = desk.run("why", word)
    assert (status, errors) == (0, "")
    return output


def test_why_it_is_there(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    text = why(desk, "nvme0")
    assert "discoverd keeps it, because it is configured at /etc/nvme/nvme-fabrics.conf:3." in text
    assert "Its worker says: live nvme0." in text
    assert "The kernel has it as nvme0, live; its owner in the registry is nvme-ctrl." in text
    assert f"discoverctl stop {instance(1)}" in text


def test_why_it_is_stopped(desk: Desk) -> None:
    reason = "configured at x.conf:3, but an administrator stopped its unit"
    desk.controller(
        1, "", action="keep stopped", reason=reason, unit=Unit("inactive"), report="stopped", status="stopped"
    )
    text = why(desk, instance(1))
    assert f"discoverd does not start it: it is {reason}." in text
    assert text.endswith(f"To have it back: discoverctl start {instance(1)}\n")


def test_why_it_is_parked(desk: Desk) -> None:
    status = "parked until 14:05: it announces no changes"
    desk.controller(1, "", report="parked", status=status)
    text = why(desk, instance(1))
    assert f"Its worker says: {status}." in text
    assert "To read it now: systemctl reload discoverd." in text
    assert desk.run("status", instance(1))[0] == Exit.OK


def test_why_it_is_masked(desk: Desk) -> None:
    desk.planned(instance(1), "leave", "configured at x.conf:3, but its unit is masked")
    assert f"systemctl unmask {unit_name(instance(1))}" in why(desk, NQN.format(1))


@pytest.mark.parametrize("unit", [None, Unit("inactive"), Unit("inactive", load="bad-setting")])
def test_unit_file_in_the_way_is_told_with_the_remedy(desk: Desk, unit: Unit | None) -> None:
    path = desk.override()
    reason = f"configured at x.conf:3, but beside the unit file {path} systemd does not make its unit"
    name = desk.controller(1, "", action="leave", reason=reason, unit=unit, report="waiting", status="waiting 2 s")
    if unit is None:
        del desk.bus.units[unit_name(name)]
    remedy = f"mv -n '{path}' '{path}.d/override.conf' && systemctl daemon-reload"
    _, output, _ = desk.run("status")
    assert f"blocked:     {path} is a unit file" in output
    assert "controllers: 1 blocked" in output
    assert remedy in output
    _, output, _ = desk.run("status", "--json")
    assert json.loads(output)["blocked_by"][0]["path"] == path
    text = why(desk, instance(1))
    assert remedy in text
    assert "administrator" not in text
    status, _, errors = desk.run("start", instance(1))
    assert status == Exit.FAILED
    assert remedy in errors
    assert desk.bus.called == []


def test_unit_file_does_not_take_away_that_an_earlier_unit_runs(desk: Desk) -> None:
    path = desk.override()
    desk.controller(1, "nvme0")
    _, output, _ = desk.run("status", "nvme0")
    assert "state:      live" in output
    assert f"blocked:    {path} is a unit file" in output


def test_why_a_stop_was_refused(desk: Desk) -> None:
    desk.controller(1, "nvme0", action="keep stopped", unit=Unit("failed", "in use by /data"), report="refused")
    text = why(desk, "nvme0")
    assert "Its worker said last: in use by /data." in text
    assert f"discoverctl disconnect {instance(1)}" in text
    assert f"discoverctl start {instance(1)}" in text


def test_why_it_is_anothers(desk: Desk) -> None:
    desk.kernel(1, "nvme0", owner="stas")
    text = why(desk, "nvme0")
    assert "No source that discoverd has asks for it." in text
    assert "As long as stas owns it" in text


def test_why_another_unit_has_it(desk: Desk) -> None:
    """One that asks for the same target in another way."""
    status = f"left alone: nvme0 belongs to {unit_name(instance(1))}"
    desk.controller(1, "", address="198.51.100.1", report="foreign", status=status)
    text = why(desk, NQN.format(1))
    assert f"Its worker says: {status}." in text
    assert "It is left alone until that one lets it go" in text


def test_why_it_is_nobodys(desk: Desk) -> None:
    desk.kernel(1, "nvme0")
    assert "discoverctl disconnect nvme0" in why(desk, "nvme0")


def test_why_something_cannot_be_connected(desk: Desk) -> None:
    desk.refuse(NQN.format(7), "array.example", "the host name has no address")
    for word in ("array.example", NQN.format(7), "vol7", "*:vol7"):
        status, output, errors = desk.run("why", word)
        assert status == 4
        assert "It cannot be connected: tcp array.example (a.conf:3): the host name has no address." in output
        assert "systemctl reload discoverd" in errors


def test_why_answers_for_nothing_else_because_a_text_has_the_word(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.refuse(NQN.format(7), "array.example", f"unlike {NQN.format(8)}, the host name has no address")
    for word in (NQN.format(8), "host name", "a.conf"):
        status, output, errors = desk.run("why", word)
        assert (status, output) == (4, "")
        assert "there is no controller" in errors


def test_why_says_all_that_a_subsystem_means(desk: Desk) -> None:
    """One path is connected, the other one refused."""
    desk.controller(7, "nvme0")
    desk.refuse(NQN.format(7), "198.51.100.1", "TLS is not supported yet")
    status, output, _ = desk.run("why", "vol7", "nvme0")
    assert status == 0
    assert [line for line in output.splitlines() if line.startswith("tcp:")] == [
        instance(7),
        f"tcp:198.51.100.1:4420:{NQN.format(7)}",
    ]


def test_why_says_each_source_that_refuses_it(desk: Desk) -> None:
    """A section and a log page; and what is connected all the same."""
    for source in ("a.conf:3", "in the log page of x"):
        desk.refuse(NQN.format(7), "192.0.2.1", "TLS is not supported yet", source)
    assert desk.run("why", "vol7")[1].count("It cannot be connected") == 2
    desk.controller(7, "nvme0")
    status, output, _ = desk.run("why", "vol7")
    assert status == 0
    assert output.count("It cannot be connected") == 2
    assert output.splitlines().count(instance(7)) == 1


def failing(desk: Desk, address: str = "192.0.2.1", volume: int = 1, errno: int = 5, answer: str = "yes") -> None:
    desk.controller(
        volume,
        "",
        address=address,
        report="waiting",
        detail="8 s, attempt 4: the target refuses",
        cause="the target refuses",
        errno=str(errno),
        answer=answer,
    )


@pytest.mark.parametrize(
    ("errno", "answer", "said"),
    [
        (5, "yes", "Its target, 192.0.2.1 port 4420, answers, and refuses."),
        (110, "no", "Its target, 192.0.2.1 port 4420, does not answer."),
        (110, "yes", "Something answers at 192.0.2.1 port 4420, and no NVMe connection comes of it."),
        (111, "yes", "The host of its target answers, and nothing listens at 192.0.2.1 port 4420."),
    ],
)
def test_why_tells_silence_from_a_refusal_and_what_would_help(desk: Desk, errno: int, answer: str, said: str) -> None:
    failing(desk, errno=errno, answer=answer)
    text = why(desk, instance(1))
    assert said in text
    assert "What would help: " in text
    assert "{" not in text


def test_why_quotes_what_the_kernel_said_of_this_subsystem(desk: Desk) -> None:
    failing(desk)
    refusal = f"nvme nvme3: Connect for subsystem {NQN.format(1)} is not allowed, hostnqn: nqn.x"
    desk.kmsg(refusal, f"nvme nvme3: Connect for subsystem {NQN.format(10)} is not allowed, hostnqn: nqn.x", "other")
    text = why(desk, instance(1))
    assert f"The kernel says: {refusal}" in text
    assert text.count("The kernel says") == 1


def test_why_quotes_an_attempt_only_if_no_other_was_made_at_once(desk: Desk) -> None:
    failing(desk)
    desk.kmsg("nvme nvme3: failed to connect queue: 0 ret=-5")
    assert "The kernel says: nvme nvme3: failed to connect queue: 0 ret=-5" in why(desk, instance(1))
    failing(desk, "198.51.100.1")
    assert "The kernel says" not in why(desk, instance(1))


def test_why_quotes_what_the_kernel_says_while_it_reconnects(desk: Desk) -> None:
    desk.controller(1, "nvme3", report="reconnecting", detail="")
    desk.set("nvme3", "state", "connecting")
    earlier = "nvme nvme3: failed to connect socket: -111"
    desk.kmsg(earlier, 'nvme nvme3: new ctrl: NQN "x"', "nvme nvme3: failed to connect socket: -110", "nvme nvme33: x")
    text = why(desk, "nvme3")
    assert "The kernel says: nvme nvme3: failed to connect socket: -110" in text
    assert earlier not in text
    assert "nvme33" not in text
    assert "Its target, 192.0.2.1 port 4420, does not answer." in text


def test_why_goes_without_a_kernels_log(desk: Desk) -> None:
    failing(desk)
    assert "The kernel says" not in why(desk, instance(1))


def test_why_for_programs(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    _, output, _ = desk.run("why", "--json", "nvme0")
    (one,) = json.loads(output)["controllers"]
    assert one["controller"] == instance(1)
    assert one["why"][0].startswith("discoverd keeps it")


@pytest.fixture
def user(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The same host, with an ordinary user at the desk, for whom no specification can be read."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(store, "read_spec", lambda _: None)
    return desk


@pytest.mark.parametrize(
    "words", [["list"], ["list", "--json"], ["status"], ["status", "nvme0"], ["why", "nvme0"], ["metrics"], ["wait"]]
)
def test_ordinary_users_may_look(user: Desk, words: list[str]) -> None:
    name = user.controller(1, "nvme0")
    status, output, errors = user.run(*words)
    assert (status, errors) == (0, "")
    assert name in output or words in (["status"], ["wait"])


def test_ordinary_users_see_who_uses_a_namespace_is_not_theirs_to_know(
    user: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    user.controller(1, "nvme0")

    def denied(_: str) -> list[Namespace]:
        raise PermissionError(errno.EACCES, "Permission denied", "/dev/nvme0n1")

    monkeypatch.setattr(holdings, "namespaces", denied)
    status, output, _ = user.run("status", "nvme0")
    assert (status, "unknown: Permission denied" in output) == (0, True)


@pytest.mark.parametrize(
    "words",
    [
        ["disconnect", "nvme0"],
        ["confirm", "nvme0"],
        ["exclude", "nvme0"],
        ["unexclude", "nvme0"],
        ["connect", "192.0.2.7", NQN.format(7)],
        ["plan"],
        ["log", "debug"],
    ],
)
def test_what_is_for_root_says_so_before_anything_is_done(user: Desk, words: list[str]) -> None:
    user.controller(1, "nvme0")
    before = sorted(user.root.rglob("*"))
    status, output, errors = user.run(*words)
    assert (status, output) == (Exit.NOT_PERMITTED, "")
    assert errors.count("\n") == 1
    assert "run it as root" in errors or "discoverctl stop" in errors
    assert user.bus.called == []
    assert [path for path in sorted(user.root.rglob("*")) if path.name != "plan"] == before


def test_polkit_decides_who_may_act(user: Desk) -> None:
    name = user.controller(1, "nvme0")

    def stop(unit: str) -> None:
        user.bus.units[unit].active = "inactive"
        user.vanish("nvme0")

    user.bus.on_stop = stop
    assert user.run("stop", "nvme0")[0] == 0
    what = b"Interactive authentication required."
    denied = DBusBaseError(-errno.EACCES, b"org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", what)
    user.bus.refuses["RestartUnit"] = denied
    status, _, errors = user.run("restart", name)
    assert status == Exit.NOT_PERMITTED
    assert "Interactive authentication required" in errors


def test_where_all_is_closed_it_says_so(user: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an earlier version leaves it."""

    def denied(path: str) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", denied)
    status, _, errors = user.run("list")
    assert status == Exit.NOT_PERMITTED
    assert "run it as root" in errors


def test_without_a_bus(desk: Desk) -> None:
    """Where there is no socket, pystemd's errors have texts in place of bytes."""
    desk.bus.refuses["open"] = DBusBaseError(-errno.ENOENT, "", "Could not open a bus to DBus")
    status, _, errors = desk.run("list")
    assert status == 1
    assert "cannot talk to systemd: Could not open a bus to DBus: No such file or directory; see: " in errors


def test_without_systemd(desk: Desk) -> None:
    desk.bus.refuses["open"] = DBusBaseError(-errno.ENOENT, None, b"No such file or directory")
    status, _, errors = desk.run("list")
    assert status == 1
    assert "cannot talk to systemd: No such file or directory" in errors


@pytest.mark.parametrize("verb", ["list", "status", "why x", "doctor", "start x", "exclude nqn=nqn.x", "confirm x"])
def test_bus_that_is_down_is_one_sentence(
    desk: Desk, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real client has another kind of error for it than for what the bus refuses."""
    monkeypatch.setattr(systemd, "DBus", DBus)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    status, output, errors = desk.run(*verb.split())
    assert (status, output) == (1, "")
    assert errors.startswith("discoverctl: cannot talk to systemd: ")
    assert errors.endswith(": No such file or directory; see: systemctl status dbus\n")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["why"], ["list", "--forec"], ["list", "-o", "yaml"]])
def test_usage(desk: Desk, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        desk.run(*words)
    assert ended.value.code == 2


@pytest.mark.parametrize("words", ["['x']", "['x' * 100000]"])
def test_output_that_does_not_fit_is_one_sentence(words: str) -> None:
    """Also where it fits into the buffer, which the interpreter writes at its end."""
    script = (
        "import sys\nfrom discoverd.cli import main, text\nfrom discoverd.cli.exits import Exit\n"
        f"main._run = lambda asked: text.document({words}) or Exit.OK\nsys.exit(main.main(['list']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", script]
        ended = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, check=False)
    said = b"discoverctl: output: No space left on device; mend that and try again\n"
    assert (ended.returncode, ended.stderr) == (1, said)


def test_character_that_the_locale_does_not_have_is_written_in_ascii() -> None:
    script = (
        "import sys\nfrom discoverd.cli import main, text\nfrom discoverd.cli.exits import Exit\n"
        "main._run = lambda asked: text.line('\u00e9\u2026') or Exit.OK\nsys.exit(main.main(['list']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "latin-1"}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"\xe9\\u2026\n", b"")


def test_output_that_nobody_reads_or_that_does_not_fit(tmp_path: Path) -> None:
    """In a process of its own, because the interpreter flushes at its end."""
    script = (
        "import os, sys\nfrom discoverd.cli import main, text\nfrom discoverd.cli.exits import Exit\n"
        "main._run = lambda asked: text.document(['x' * 100000]) or Exit.OK\nsys.exit(main.main(['list']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ended = subprocess.run(command, env=environment, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"")
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"discoverctl: output: No space left on device")
    assert b"Traceback" not in ended.stderr
