# SPDX-License-Identifier: Apache-2.0
"""discoverctl wait and restart."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from discoverd import state
from discoverd.cli import command_line, overview, wait
from discoverd.cli.exits import Exit
from discoverd.cli.overview import Overview
from discoverd.tid import DISCOVERY_NQN, unit_name

from .fake_ctl import NQN, Desk, Unit, install, instance


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    monkeypatch.setattr(wait, "_POLL_FIRST", 0.01)
    monkeypatch.setattr(wait, "_POLL_MOST", 0.01)
    return made


def meanwhile(act: Callable[[], None]) -> threading.Thread:
    """Have something happen while the command waits."""

    def later() -> None:
        time.sleep(0.1)
        act()

    thread = threading.Thread(target=later)
    thread.start()
    return thread


def test_what_is_live_is_not_waited_for(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.controller(2, "", address="192.0.2.2", action="leave", reason="configured, but its unit is masked")
    assert desk.run("wait", "--timeout", "0.05") == (0, "", "")
    assert desk.run("wait", "nvme0", "--timeout", "0.05") == (0, "", "")
    # No command needs systemd for this: whoever waits must not keep it busy.
    assert desk.bus.called == []


def test_wait_until_it_is_live(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.set("nvme0", "state", "connecting")
    thread = meanwhile(lambda: desk.set("nvme0", "state", "live"))
    assert desk.run("wait", NQN.format(1), "--timeout", "5s") == (0, "", "")
    thread.join()


def test_a_parked_discovery_controller_is_as_it_should_be(desk: Desk) -> None:
    desk.controller(1, "", report="parked", status="parked until 14:05: it announces no changes")
    assert desk.run("wait", "--timeout", "0.05")[0] == 0


def test_one_path_is_enough_for_a_subsystem(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.controller(1, "", address="192.0.2.2", report="waiting", status="waiting 8 s, attempt 4: no answer")
    assert desk.run("wait", "--for=any-path", "--timeout", "0.05")[0] == 0
    status, _, errors = desk.run("wait", "--for=live", "--timeout", "0.05")
    assert status == Exit.TIMED_OUT
    assert f"not live after 0.05 s: {instance(1, '192.0.2.2')}: waiting 8 s, attempt 4: no answer" in errors
    desk.controller(2, "", address="192.0.2.3", report="waiting", status="waiting 8 s")
    assert instance(2, "192.0.2.3") in desk.run("wait", "--for=any-path", "--timeout", "0.05")[2]


def test_wait_until_it_is_gone(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    assert desk.run("wait", "--for=gone", "nvme0", "--timeout", "0.05")[0] == Exit.TIMED_OUT
    thread = meanwhile(lambda: desk.vanish("nvme0"))
    assert desk.run("wait", "--for=gone", NQN.format(1), "--timeout", "5") == (0, "", "")
    thread.join()
    # What nobody knows is gone.
    assert desk.run("wait", "--for=gone", "nvme0", "--timeout", "0.05")[0] == 0


def test_another_subsystem_with_a_longer_name_is_not_what_is_waited_for(desk: Desk) -> None:
    desk.controller(10, "nvme0")
    status, _, errors = desk.run("wait", "vol1", "--timeout", "0.05")
    assert status == Exit.UNKNOWN
    assert "there is no controller vol1" in errors


def test_what_comes_meanwhile_need_not_be_gone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.controller(1, "nvme0")
    looks: list[Overview] = []
    look = overview.look

    def look_and_replace(systemd: None) -> Overview:
        looks.append(look(systemd))
        if len(looks) == 1:
            desk.kernel(2, "nvme1")
            desk.vanish("nvme0")
        return looks[-1]

    monkeypatch.setattr(overview, "look", look_and_replace)
    assert desk.run("wait", "--for=gone", "*:vol?", "--timeout", "30") == (0, "", "")
    assert [len(one.controllers) for one in looks] == [1, 2]


def discovery(desk: Desk, address: str) -> str:
    """Make a discovery controller that is wanted and live, and return its instance."""
    name = desk.controller(9, f"nvme{len(desk.plan['controllers'])}", address=address)
    spec = state.Spec("discovery", [("nqn", DISCOVERY_NQN), ("transport", "tcp"), ("traddr", address)])
    spec.options.append(("trsvcid", "4420"))
    (Path(state.directory(name)) / "spec").write_bytes(spec.encode())
    desk.set(f"nvme{len(desk.plan['controllers']) - 1}", "subsysnqn", DISCOVERY_NQN)
    return name


@pytest.mark.parametrize("goal", ["live", "any-path"])
def test_a_discovery_controller_counts_once_its_log_page_has_been_read(desk: Desk, goal: str) -> None:
    name = discovery(desk, "192.0.2.1")
    status, _, errors = desk.run("wait", f"--for={goal}", "--timeout", "0.05")
    assert (status, name in errors) == (Exit.TIMED_OUT, True)
    assert desk.run("wait", "nvme0", "--timeout", "0.05")[0] == 0
    desk.report(name, "live", "live nvme0", "nvme0", **{"log-read": "1234"})
    assert desk.run("wait", f"--for={goal}", "--timeout", "0.05") == (0, "", "")
    # The worker has read it of a controller that is another one by now.
    desk.report(name, "live", "live nvme0", "nvme0", **{"log-read": "1234", "kernel-instance": "1"})
    assert desk.run("wait", f"--for={goal}", "--timeout", "0.05")[0] == Exit.TIMED_OUT


@pytest.mark.parametrize(("word", "ends"), [("given up", False), ("parked", True), ("foreign", True)])
def test_a_discovery_controller_that_is_not_read_now(desk: Desk, word: str, ends: bool) -> None:
    name = discovery(desk, "192.0.2.1")
    if word != "foreign":
        desk.vanish("nvme0")
    desk.report(name, word, word)
    status = desk.run("wait", "--for=any-path", "--timeout", "0.05")[0]
    assert status == (0 if ends else Exit.TIMED_OUT)


def test_one_discovery_controller_does_not_stand_for_another(desk: Desk) -> None:
    first = discovery(desk, "192.0.2.1")
    second = discovery(desk, "192.0.2.2")
    for name in (first, second):
        desk.report(name, "live", "live", **{"log-read": "1234"})
    assert desk.run("wait", "--for=any-path", "--timeout", "0.05") == (0, "", "")
    desk.set("nvme1", "state", "connecting")
    status, _, errors = desk.run("wait", "--for=any-path", "--timeout", "0.05")
    assert (status, second in errors, first in errors) == (Exit.TIMED_OUT, True, False)


def test_what_is_not_known_may_come(desk: Desk) -> None:
    status, _, errors = desk.run("wait", NQN.format(1), "--timeout", "0.05")
    assert status == Exit.UNKNOWN
    assert f"there is no controller {NQN.format(1)}" in errors
    thread = meanwhile(lambda: desk.kernel(1, "nvme0"))
    assert desk.run("wait", NQN.format(1), "--timeout", "5")[0] == 0
    thread.join()


def test_without_a_plan_it_is_not_known_what_is_wanted(desk: Desk) -> None:
    status, _, errors = desk.run_as_it_is("wait", "--timeout", "0.05")
    assert status == Exit.TIMED_OUT
    assert "systemctl start discoverd" in errors


@pytest.mark.parametrize(("text", "expected"), [("5min", 300), ("1.5", 1.5), ("never", 0)])
def test_timeout_is_a_span_of_time(text: str, expected: float) -> None:
    assert command_line.parser().parse_args(["wait", "--timeout", text]).timeout == expected


def test_timeout_that_is_no_span_of_time(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        desk.run("wait", "--timeout=5y")
    assert ended.value.code == Exit.USAGE
    assert "argument --timeout: '5y' is not a time such as 30min, 72h or 3d, or never" in capsys.readouterr().err


def test_restart_restarts_every_path(desk: Desk) -> None:
    one, two = desk.controller(1, "nvme0"), desk.controller(1, "nvme1", address="192.0.2.2", unit=Unit("inactive"))
    desk.bus.on_start = lambda name: setattr(desk.bus.units[name], "active", "active")
    status, output, errors = desk.run("restart", NQN.format(1))
    assert (status, errors) == (0, "")
    assert [call[:2] for call in desk.bus.called] == [("RestartUnit", unit_name(one)), ("RestartUnit", unit_name(two))]
    assert output.startswith(f"{one}: live nvme0\n{two}: ")


def test_restart_of_what_is_masked_or_has_no_unit(desk: Desk) -> None:
    desk.controller(1, "", unit=Unit("inactive", load="masked"))
    status, _, errors = desk.run("restart", NQN.format(1))
    assert (status, "systemctl unmask" in errors) == (1, True)
    desk.kernel(2, "nvme7", owner="stas")
    assert desk.run("restart", "nvme7")[0] == Exit.REFUSED
