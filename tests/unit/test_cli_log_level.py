# SPDX-License-Identifier: Apache-2.0
"""discoverctl log: the level at which discoverd logs, changed while it runs."""

import asyncio
import socket
from pathlib import Path

import pytest

from discoverd import log_level, state
from discoverd.cli.exits import Exit
from discoverd.systemd import journal

from .fake_ctl import Desk, install
from .fake_host import FIRST, Host, until


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    monkeypatch.setattr(state, "ROOT", str(tmp_path / "run"))
    monkeypatch.setattr(state, "WAKE_SOCKET", str(tmp_path / "run/wake"))
    monkeypatch.setattr("discoverd.cli.wake.TIMEOUT_SECONDS", 0.1)
    return made


def test_level_is_left_for_the_daemon_also_while_it_does_not_run(desk: Desk) -> None:
    status, _, errors = desk.run("log", "debug")
    assert status == Exit.FAILED
    assert "it takes the level at its next start" in errors
    assert log_level.read() == "debug"


def test_no_level(desk: Desk) -> None:
    with pytest.raises(SystemExit) as ended:
        desk.run("log", "loud")
    assert ended.value.code == Exit.USAGE
    (Path(state.ROOT) / "log-level").write_text("loud\n")
    assert log_level.read() is None


def test_daemon_takes_the_level_and_keeps_it_over_reloads(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[str] = []
    monkeypatch.setattr(journal, "set_up", levels.append)
    host.configure(FIRST)
    asked = Path(state.ROOT) / log_level.ASKED

    def tell(level: str) -> None:
        if level == log_level.DEFAULT:
            Path(log_level.path()).unlink()
        else:
            Path(log_level.path()).write_text(level + "\n")
        asked.touch()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
            wake.sendto(log_level.WAKE, state.WAKE_SOCKET)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        assert levels[-1] == "info"
        await asyncio.to_thread(tell, "debug")
        await until(lambda: not asked.exists())
        assert levels[-1] == "debug"
        assert host.daemon
        await host.daemon._reload()
        assert levels[-1] == "debug"
        await asyncio.to_thread(tell, log_level.DEFAULT)
        await until(lambda: not asked.exists())
        assert levels[-1] == "info"

    host.play(scenario)
