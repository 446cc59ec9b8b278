# SPDX-License-Identifier: Apache-2.0
"""discoverctl monitor: a line for each thing that happens to a controller."""

import errno
import json
import re
import select
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from discoverd import state
from discoverd.cli import monitor
from discoverd.cli.exits import CliError
from discoverd.kernel.inotify import Inotify

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


def test_a_loss_that_is_over_by_the_next_look_is_told(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    name = desk.controller(1, "nvme0", losses="1", reconnects="1")
    desk.write_plan()
    more = {"losses": "2", "reconnects": "2"}
    lines = watched(capsys, lambda: desk.report(name, "live", "live nvme0", "nvme0", **more))
    assert lines[1].endswith(f"changed {name}: live nvme0; its connection was lost and made again")
    # A worker that was started anew counts from 0.
    assert watched(capsys, lambda: desk.report(name, "live", "live nvme0", "nvme0"))[1:] == []


def anew(directory: Path) -> None:
    """Take a directory away, and make another one of that name."""
    directory.rename(directory.parent.parent / "gone")
    directory.mkdir()


def test_a_directory_that_is_made_anew_is_watched_again(desk: Desk) -> None:
    name = desk.controller(1, "nvme0")
    changes = monitor._Changes()
    acts: list[Callable[[], None]] = [lambda: anew(Path(state.directory(name))), lambda: desk.report(name, "live", "")]
    for act in acts:
        act()
        assert select.select([changes._inotify], [], [], 0)[0]
        changes.wait()
        changes.follow()
    shutil.rmtree(state.CONTROLLERS)
    changes.wait()
    changes.follow()
    Path(state.directory(name)).mkdir(parents=True)
    changes.wait()
    changes.follow()
    desk.report(name, "live", "live")
    assert select.select([changes._inotify], [], [], 0)[0]


def test_what_could_not_be_watched_is_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [desk.controller(number, f"nvme{number}") for number in (1, 2)]
    real = Inotify.watch
    full = [True]

    def watch(self: Inotify, directory: str) -> bool:
        if full[0] and directory.startswith(state.CONTROLLERS + "/"):
            raise OSError(errno.ENOSPC, "No space left on device", directory)
        return real(self, directory)

    monkeypatch.setattr(Inotify, "watch", watch)
    changes = monitor._Changes()
    full[0] = False
    changes.follow()
    for name in names:
        desk.report(name, "live", "live")
        assert select.select([changes._inotify], [], [], 0)[0]
        changes.wait()


def test_for_programs_each_line_is_an_object(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    name = desk.controller(1, "nvme0")
    desk.write_plan()
    (line,) = watched(capsys, lambda: desk.report(name, "waiting", "waiting 1 s"), as_json=True)
    found = json.loads(line)
    assert (found["controller"], found["event"], found["state"]) == (name, "changed", "waiting")
    assert (found["version"], found["losses"], found["reconnects"]) == (1, 0, 0)
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
