# SPDX-License-Identifier: Apache-2.0
"""The command ``discoverd`` before it is the supervisor: there is one, and who types it learns what to type instead."""

import logging
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from discoverd import __main__ as command
from discoverd import state
from discoverd.supervisor import lock
from discoverd.systemd import journal

PACKAGE = Path(state.__file__).parents[1]
HOLDER = """
import sys
sys.path.append(sys.argv[1])
from discoverd import state
from discoverd.supervisor import lock
state.ROOT = sys.argv[2]
lock.take()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for the lock, a command line without options, and a process that is root's and nobody's service."""
    monkeypatch.setattr(state, "ROOT", str(tmp_path / "discoverd"))
    monkeypatch.setattr(sys, "argv", ["discoverd"])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "isatty", lambda _: False)
    monkeypatch.setattr(command, "LOCK_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(command, "AgentProcess", "the process of {}".format)
    for name in ("NOTIFY_SOCKET", "JOURNAL_STREAM"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGHUP)
    yield tmp_path / "discoverd"
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every supervisor that was run."""
    runs: list[str] = []

    class Supervisor:
        def __init__(self, libexec: str, agent: str) -> None:
            assert agent == f"the process of {libexec}/unit-agent"
            self._libexec = libexec

        async def run(self) -> int:
            runs.append(self._libexec)
            return 0

    monkeypatch.setattr("discoverd.supervisor.daemon.Supervisor", Supervisor)
    return runs


def hold(run: Path) -> "subprocess.Popen[str]":
    """Another process takes the lock, and has it until its standard input ends."""
    code = [sys.executable, "-c", HOLDER, str(PACKAGE), str(run)]
    process = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def other(run: Path) -> Iterator["subprocess.Popen[str]"]:
    with hold(run) as process:
        yield process


@pytest.mark.parametrize("managed", [False, True])
def test_supervisor_starts(run: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, managed: bool) -> None:
    if managed:
        monkeypatch.setenv("NOTIFY_SOCKET", "/somewhere")
        monkeypatch.setattr(os, "isatty", lambda _: True)
    assert command.main("/libexec") == 0
    assert started == ["/libexec"]
    assert (run.stat().st_mode & 0o777, (run / "supervisor.lock").stat().st_mode & 0o777) == (0o700, 0o600)


def test_reload_does_not_end_a_daemon_that_has_just_begun(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    take = lock.take

    def take_and_be_told(timeout: float) -> int:
        fd = take(timeout)
        os.kill(os.getpid(), signal.SIGHUP)
        return fd

    monkeypatch.setattr(lock, "take", take_and_be_told)
    assert command.main("/libexec") == 0
    assert started == ["/libexec"]


@pytest.mark.parametrize("surroundings", ["terminal", "pipe", "service"])
def test_a_second_one_says_what_to_type(
    other: "subprocess.Popen[str]",
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    surroundings: str,
) -> None:
    if surroundings == "service":
        monkeypatch.setenv("NOTIFY_SOCKET", "/somewhere")
    monkeypatch.setattr(os, "isatty", lambda fd: surroundings == "terminal" and fd == 2)
    assert command.main() == 1
    assert started == []
    said = capsys.readouterr().err
    assert said == (
        f"discoverd is running already, as PID {other.pid} and not as discoverd.service; "
        f"to change that: kill {other.pid} && systemctl start discoverd\n"
    )


def test_the_service_is_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "0::/system.slice/discoverd.service\n")
    assert command._running_already(4711) == (
        "discoverd is running already, as PID 4711 (discoverd.service); to see it: systemctl status discoverd; "
        "to restart it: systemctl restart discoverd"
    )


def test_a_killed_one_is_no_hindrance(run: Path, started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with hold(run) as process:
        process.kill()
    assert command.main() == 0
    assert (len(started), capsys.readouterr().err) == (1, "")


def test_a_service_waits_for_one_that_is_ending(
    other: "subprocess.Popen[str]", started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/somewhere")
    monkeypatch.setattr(command, "LOCK_TIMEOUT_SECONDS", 60.0)
    sleep = time.sleep

    def sleep_and_end(seconds: float) -> None:
        if not other.stdin or not other.stdin.closed:
            assert other.stdin
            other.stdin.close()
        sleep(seconds)

    monkeypatch.setattr("discoverd.supervisor.lock.time.sleep", sleep_and_end)
    assert command.main() == 0
    assert len(started) == 1


def test_in_a_terminal_it_does_not_run(
    run: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: fd == 0)
    assert command.main() == 1
    assert started == []
    assert not run.exists()
    said = "discoverd is a service and does not run in a terminal; to start it: systemctl start discoverd\n"
    assert capsys.readouterr().err == said


def test_a_real_terminal() -> None:
    parent, child = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    code = [sys.executable, "-m", "discoverd"]
    with subprocess.Popen(code, stdin=child, stdout=child, stderr=child, cwd=PACKAGE, env=environment) as process:
        os.close(child)
        assert process.wait(60) == 1
    said = os.read(parent, 4096)
    os.close(parent)
    assert b"systemctl start discoverd" in said or b"systemctl restart discoverd" in said
    assert b"Traceback" not in said


def test_start_without_root_is_refused(
    run: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command.main() == 1
    assert (started, run.exists()) == ([], False)
    assert capsys.readouterr().err.endswith("to start it, as root: systemctl start discoverd\n")


def test_a_directory_that_cannot_be_used(run: Path, started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run.write_text("a file")
    assert command.main() == 1
    assert started == []
    assert f"discoverd cannot use {run}: File exists; free space there" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["dbus-next", "sdnotify", "pystemd"])
def test_a_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    if package == "pystemd":
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    else:
        for name in ("discoverd.supervisor.daemon", "discoverd.systemd.unit_signals", "discoverd.systemd.notifier"):
            monkeypatch.delattr(name)
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delitem(sys.modules, "discoverd.bus.client")
        for name in ("dbus_next", "dbus_fast") if package == "dbus-next" else (package,):
            monkeypatch.setitem(sys.modules, name, None)
    assert command.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("discoverd cannot start: ")
    assert f"{package} " in said
    assert f"apt install python3-{package}; then: systemctl start discoverd" in said


@pytest.mark.parametrize("into_journal", [False, True])
def test_complaint_goes_to_the_journal_or_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], into_journal: bool
) -> None:
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + (not into_journal)}")
    journal.complain("it is so")
    assert capfd.readouterr().err == ("<3>it is so\n" if into_journal else "it is so\n")


@pytest.mark.parametrize("reader", ["journal", "terminal"])
def test_errors_are_seen_where_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], reader: str
) -> None:
    status = os.fstat(2)
    if reader == "journal":
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    monkeypatch.setattr(journal, "_SOCKET", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "socket"))
        handler = journal.JournalHandler()
        for level in (logging.ERROR, logging.WARNING):
            handler.handle(logging.LogRecord("discoverd", level, "", 0, "it is so", None, None))
            assert b"MESSAGE=it is so\n" in log.recv(4096)
        handler._socket.close()
    assert capfd.readouterr().err == ("" if reader == "journal" else "discoverd: it is so\n")
