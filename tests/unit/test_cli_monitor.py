# SPDX-License-Identifier: Apache-2.0
"""discoverctl monitor: a line for each thing that happens to a controller."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from discoverd import state
from discoverd.cli import monitor
from discoverd.cli.exits import CliError

from .fake_ctl import Desk, install, instance


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    monkeypatch.setattr(state, "ROOT", str(tmp_path / "run"))
    monkeypatch.setattr(monitor, "DEBOUNCE_SECONDS", 0.02)
    made.write_plan()
    return made


def watched(capsys: pytest.CaptureFixture[str], act: Callable[[], None], as_json: bool = False) -> list[str]:
    """Return what is said of something that happens while it is watched."""

    def later() -> None:
        time.sleep(0.2)
        act()

    thread = threading.Thread(target=later)
    thread.start()
    monitor.watch(as_json, rounds=1)
    thread.join()
    return capsys.readouterr().out.splitlines()


def test_report_that_changes_is_told(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    name = desk.controller(1, "nvme0")
    desk.write_plan()
    text = "waiting 8 s, attempt 4: connection refused"
    lines = watched(capsys, lambda: desk.report(name, "waiting", text))
    assert lines[0] == "1 controller; what changes from now on follows"
    assert re.fullmatch(rf"\d\d:\d\d:\d\d  changed {re.escape(name)}: {text}", lines[1])
    assert len(lines) == 2


def test_what_comes_and_goes(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    def come() -> None:
        desk.controller(1, "nvme0")
        desk.write_plan()

    assert watched(capsys, come)[1].endswith(f"new     {instance(1)}: live nvme0")
    desk.plan["controllers"].clear()
    (Path(state.directory(instance(1))) / "spec").unlink()

    def go() -> None:
        desk.vanish("nvme0")
        desk.write_plan()

    assert watched(capsys, go)[1].endswith(f"gone    {instance(1)}")


def test_decision_that_changes(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    name = desk.controller(1, "nvme0")
    desk.write_plan()

    def decide() -> None:
        desk.plan["controllers"][0]["reason"] = "configured, but excluded by x:1"
        desk.write_plan()

    assert watched(capsys, decide)[1].endswith(f"decided {name}: keep: configured, but excluded by x:1")


def test_for_programs_each_line_is_an_object(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    name = desk.controller(1, "nvme0")
    desk.write_plan()
    (line,) = watched(capsys, lambda: desk.report(name, "waiting", "waiting 1 s"), as_json=True)
    found = json.loads(line)
    assert (found["controller"], found["event"], found["state"]) == (name, "changed", "waiting")
    assert abs(found["time"] - time.time()) < 60


def test_interrupt_is_its_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: monitor._Changes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(monitor._Changes, "wait", interrupted)
    status, output, errors = desk.run("monitor")
    assert (status, output, errors) == (0, "0 controllers; what changes from now on follows\n", "")


def test_without_state_there_is_nothing_to_watch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(state, "ROOT", str(tmp_path / "none"))
    with pytest.raises(CliError, match="systemctl start discoverd"):
        monitor._Changes()
