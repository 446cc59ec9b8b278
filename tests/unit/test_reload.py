# SPDX-License-Identifier: Apache-2.0
"""A reload is checked first, what was good outlives a restart, and who asks for it hears what came of it."""

import asyncio
import base64
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from discoverd import __main__, state
from discoverd.config import record
from discoverd.config.errors import Diagnostic
from discoverd.supervisor import last_good_file, lock, reload

from .fake_host import DISCOVERY, FIRST, ONE, SECOND, TWO, Host, quiet, spec_of, until

MISSPELT = FIRST.replace("controller", "controler")
BROKEN = FIRST.replace("trsvcid", "trsvcidd")


def misspell(host: Host, text: str) -> None:
    host.configure(text)
    os.kill(os.getpid(), signal.SIGHUP)


def remembers(text: str) -> bool:
    path = Path(record.PATH)
    return path.exists() and base64.b64encode(text.encode()) in path.read_bytes()


def live(host: Host, text: str) -> None:
    """A supervisor's life with a good configuration."""
    host.configure(text)
    host.messages.clear()

    async def scenario() -> None:
        await until(lambda: host.status.endswith(" live"))
        await until(lambda: remembers(text))

    assert host.play(scenario) == 0


@pytest.mark.parametrize("text", [MISSPELT, BROKEN])
def test_reload_with_a_mistake_takes_nothing_and_names_its_place(host: Host, text: str) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        host.set("[Global]\nmax-connecting = 3\n")
        misspell(host, text + SECOND)
        await until(lambda: f"{host.etc}/nvme-fabrics.conf:3:" in host.status)
        assert host.status.startswith("1 controller: 1 live; ")
        assert "; nothing was reloaded" in host.status
        assert spec_of(ONE).note == ""
        assert host.daemon
        # The whole of it, or nothing.
        assert host.daemon._configuration.current.settings.max_connecting == 16
        host.configure(SECOND)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: host.status == "2 controllers: 2 live")
        assert spec_of(ONE).note.startswith("no longer configured at")
        assert host.daemon._configuration.current.settings.max_connecting == 3

    assert host.play(scenario) == 0


@pytest.mark.parametrize("text", [MISSPELT, BROKEN, FIRST + "junk\n"])
def test_mistake_is_not_found_at_the_next_boot_as_an_empty_host(host: Host, text: str) -> None:
    live(host, FIRST)
    host.systemd.units.clear()
    host.systemd.started.clear()
    (Path(state.directory(ONE)) / "spec").unlink()
    host.configure(text)
    (host.etc / "nvme-fabrics.conf.d/more.conf").write_text(SECOND)

    async def scenario() -> None:
        await until(lambda: host.status.startswith("2 controllers: 2 live; "))
        assert f"{host.etc}/nvme-fabrics.conf:" in host.status
        assert "; until that is mended, the file counts as it was on 20" in host.status
        reason = host.decisions[ONE].reason
        assert reason.startswith(f"configured at {host.etc}/nvme-fabrics.conf:3, as the file was before the mistake in")
        plan = json.loads((host.root / "run/plan").read_text())
        (kept,) = plan["kept"]
        assert kept["file"] == f"{host.etc}/nvme-fabrics.conf"
        assert kept["mistake"] in plan["complaints"][0] or kept["mistake"].split(" (")[0] in plan["complaints"][0]

        host.configure(FIRST)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: host.status == "2 controllers: 2 live")
        await until(lambda: json.loads((host.root / "run/plan").read_text())["kept"] == [])
        assert host.decisions[ONE].reason == f"configured at {host.etc}/nvme-fabrics.conf:3"

    assert host.play(scenario) == 0
    assert sorted(host.systemd.started) == [ONE, TWO]


def test_removed_section_is_gone_after_a_restart(host: Host) -> None:
    live(host, FIRST + SECOND)
    host.systemd.units.clear()
    for instance in (ONE, TWO):
        (Path(state.directory(instance)) / "spec").unlink()
    host.systemd.started.clear()
    live(host, SECOND)
    assert host.systemd.started == [TWO]


def test_settings_and_identity_outlive_a_restart_too(host: Host) -> None:
    host.set("[Global]\ndisconnect-scope = none\n")
    live(host, FIRST)
    host.set("[Global]\ndisconnect-scope = nnoe\n")
    (host.etc / "hostnqn").write_text("nqn.nonsense\n")

    async def scenario() -> None:
        await until(lambda: host.status.startswith("1 controller: 1 live; "))
        assert host.daemon
        current = host.daemon._configuration.current
        assert current.settings.disconnect_scope == "none"
        assert current.host.hostnqn == "nqn.2024-08.com.example:host"

    assert host.play(scenario) == 0


def test_secrets_are_kept_for_root_only(host: Host) -> None:
    secret = FIRST + "kxchap-secret = DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:\n"
    live(host, secret)
    for place in (record.PATH, os.path.dirname(record.PATH)):
        assert os.stat(place).st_mode & 0o077 == 0
    live(host, FIRST)
    assert not remembers(secret)
    assert "ia6zGodOr4SEG0Zz" not in str(record.read())


def test_record_that_cannot_be_used_is_made_anew(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    Path(record.PATH).parent.mkdir()
    Path(record.PATH).write_text("discoverd-configuration 99\n")
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        await until(lambda: Path(record.PATH).read_bytes().startswith(record.KIND.encode() + b"\n"))

    assert host.play(scenario) == 0
    assert "the last good configuration cannot be used: it begins with 'discoverd-configuration 99'" in caplog.text


def test_record_that_was_removed_is_made_anew_at_a_reload(host: Host) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: remembers(FIRST))
        os.unlink(record.PATH)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: remembers(FIRST))

    assert host.play(scenario) == 0


def test_record_that_cannot_be_written_stops_nothing(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    Path(record.PATH).parent.write_text("in the way")
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        await until(lambda: "the next start cannot make up for a mistake in the configuration" in caplog.text)
        host.configure(FIRST + SECOND)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "2 live" in host.status)

    assert host.play(scenario) == 0


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that stands still until this is set."""
    moves = threading.Event()
    monkeypatch.setattr(last_good_file, "READ_TIMEOUT_SECONDS", 0.05)
    yield moves
    moves.set()


def test_disk_that_stands_still_delays_no_start(
    host: Host, still: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    live(host, FIRST)
    kept = Path(record.PATH).read_bytes()
    read = record.read
    monkeypatch.setattr(record, "read", lambda: still.wait() and read())
    host.configure(FIRST + SECOND)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)
        assert "was not read within" in caplog.text
        host.configure(SECOND)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: spec_of(ONE).note != "")
        await quiet()

    assert host.play(scenario) == 0
    # It may hold the only good version of a file.
    assert Path(record.PATH).read_bytes() == kept


def test_disk_that_stands_still_delays_no_stop(
    host: Host, still: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = threading.Event()

    def write(_: record.Record) -> None:
        writing.set()
        still.wait()

    monkeypatch.setattr(record, "write", write)
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status and writing.is_set())

    assert host.play(scenario, asyncio.run) == 0
    assert not still.is_set()
    assert all(one.daemon for one in threading.enumerate() if one.name == "last-good")


def test_record_that_cannot_be_read_is_not_written_over(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    Path(record.PATH).mkdir(parents=True)
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        await quiet()

    assert host.play(scenario) == 0
    assert "the last good configuration cannot be had" in caplog.text
    assert Path(record.PATH).is_dir()


# Who asks -------------------------------------------------------------------------------------------------


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon that holds the lock is this process."""

    def held() -> None:
        raise lock.HeldError(os.getpid())

    monkeypatch.setattr(lock, "check", held)
    monkeypatch.setattr(sys, "argv", ["discoverd", "--reload"])


@pytest.mark.usefixtures("asks")
def test_who_asks_hears_when_it_is_in_force(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        host.configure(DISCOVERY + FIRST)
        assert await asyncio.to_thread(__main__.main) == 0
        assert host.daemon
        assert len(host.daemon._configuration.current.fabrics.connections) == 2
        host.configure(DISCOVERY + BROKEN)
        assert await asyncio.to_thread(__main__.main) == 1

    assert host.play(scenario, asyncio.run) == 0
    said = capsys.readouterr().err
    assert "not reloaded, and the configuration from before stays in force: " in said
    assert f"{host.etc}/nvme-fabrics.conf:5:" in said


@pytest.mark.usefixtures("host")
def test_daemon_that_does_not_run_or_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    os.makedirs(state.ROOT)
    with pytest.raises(reload.ReloadError, match="discoverd does not run"):
        reload.ask()
    killed: list[int] = []

    def held() -> None:
        raise lock.HeldError(4711)

    monkeypatch.setattr(lock, "check", held)
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    # What it answered to somebody else, earlier, is no answer.
    reload.answer(reload.now(), [Diagnostic("x.conf", 3, 1, "error", "a mistake")])
    with pytest.raises(reload.ReloadError, match="has not answered"):
        reload.ask(0.05)
    assert killed == [4711]


@pytest.mark.usefixtures("host")
def test_daemon_of_an_earlier_version_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reloads, and leaves no answer."""
    os.makedirs(state.ROOT)

    def held() -> None:
        raise lock.HeldError(4711)

    monkeypatch.setattr(lock, "check", held)
    monkeypatch.setattr(os, "kill", lambda *_: None)
    monkeypatch.setattr(reload, "FIRST_ANSWER_SECONDS", 0.05)
    with pytest.raises(reload.ReloadError, match=r"of an earlier version, .*; then: systemctl restart discoverd"):
        reload.ask()


@pytest.mark.usefixtures("asks")
def test_who_asks_during_the_start_hears_of_its_mistakes(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.configure(BROKEN)

    async def scenario() -> None:
        asked = asyncio.create_task(asyncio.to_thread(__main__.main))
        assert await asked == 1

    began = reload.now()
    reload_now = reload.now
    with pytest.MonkeyPatch.context() as patch:
        # It asks just before the daemon begins to read.
        patch.setattr(reload, "now", lambda: began if threading.current_thread().name != "MainThread" else reload_now())
        patch.setattr(os, "kill", lambda *_: None)
        assert host.play(scenario, asyncio.run) == 0
    assert f"{host.etc}/nvme-fabrics.conf:3:" in capsys.readouterr().err


def test_daemon_in_another_pid_namespace_is_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number would be 0 here, which stands for all of our own process group."""

    def held() -> None:
        raise lock.HeldError(0)

    monkeypatch.setattr(lock, "check", held)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    with pytest.raises(reload.ReloadError, match="another PID namespace"):
        reload.ask()


@pytest.mark.usefixtures("host")
def test_user_who_may_not_ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def denied() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock, "check", denied)
    monkeypatch.setattr(sys, "argv", ["discoverd", "--reload"])
    assert __main__.main() == 1
    assert capsys.readouterr().err.endswith(
        "discoverd cannot be told: Permission denied; as root: systemctl reload discoverd\n"
    )
