# SPDX-License-Identifier: Apache-2.0
"""The supervisor on a made-up host."""

import asyncio
import json
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from discoverd import state, store
from discoverd.plan.candidate import Candidate
from discoverd.plan.facts import UnitFact
from discoverd.supervisor import daemon, reconciler, starter
from discoverd.systemd import unit_signals
from discoverd.tid import IO, TransportId

from . import virtual_time
from .fake_host import (
    DC,
    DISCOVERY,
    FIRST,
    NQN,
    ONE,
    PATIENCE,
    SECOND,
    SUBSYSTEM,
    TWO,
    Agent,
    Host,
    leave_log,
    leave_spec,
    quiet,
    report,
    spec_of,
    until,
)
from .log_pages import entry, page

# Start ----------------------------------------------------------------------------------------------------


def test_the_configured_is_started_with_its_specification(host: Host) -> None:
    host.configure(DISCOVERY + FIRST)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)
        # Not before the page of the discovery controller that answers is there as well.
        assert host.told("READY=1") == 0
        leave_log()
        await until(lambda: host.told("READY=1") == 1)

    assert host.play(scenario) == 0
    assert host.systemd.started == [DC, ONE]
    spec = spec_of(ONE)
    assert (spec.role, spec.note) == ("io", "")
    assert spec.source == f"configured at {host.etc}/nvme-fabrics.conf:5"
    assert spec.option("nqn") == NQN.format(1)
    assert spec_of(DC).role == "discovery"
    assert host.told("STOPPING=1") == 1
    assert host.systemd.agents[0].closed
    # Ending the supervisor stops nothing.
    assert all(unit.running for unit in host.systemd.units.values())


def test_specification_is_for_root_only(host: Host) -> None:
    host.configure(FIRST + "kxchap-secret = DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:\n")

    async def scenario() -> None:
        await until(lambda: host.systemd.started)

    host.play(scenario)
    assert "ia6zGodOr4SEG0Zz" in spec_of(ONE).option("dhchap_secret")
    assert "ia6zGodOr4SEG0Zz" not in repr(host.systemd.properties) + host.status
    assert os.stat(state.directory(ONE) + "/spec").st_mode & 0o077 == 0


def test_nothing_configured(host: Host) -> None:
    async def scenario() -> None:
        await until(lambda: host.told("READY=1"))

    assert host.play(scenario) == 0
    assert host.status == "0 controllers"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(host: Host, number: int) -> None:
    async def scenario() -> None:
        await until(lambda: host.told("READY=1"))
        os.kill(os.getpid(), number)
        await asyncio.sleep(5)

    assert host.play(scenario) == 0


def test_a_run_directory_that_cannot_be_made(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    (host.root / "run").write_text("a file where the directory belongs")

    async def scenario() -> None:
        await asyncio.sleep(5)

    assert host.play(scenario) == 1
    assert "free space there, or mount it writable" in caplog.text


def test_an_error_of_our_own_ends_it_so_that_it_is_started_anew(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    host.configure(FIRST)
    monkeypatch.setattr(reconciler, "plan", broken)

    async def scenario() -> None:
        await asyncio.sleep(5)

    assert host.play(scenario) == daemon.EXIT_SOFTWARE


def test_internal_error_in_connection_ends_daemon_and_is_logged(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: int) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(store, "new_boot", broken)

    async def scenario() -> None:
        await asyncio.sleep(5)

    assert host.play(scenario) == daemon.EXIT_SOFTWARE
    (record,) = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert record.getMessage() == "internal error, restarting: ZeroDivisionError('a fault of ours')"
    assert record.exc_info
    assert host.told("STOPPING=1") == 1


def test_internal_error_while_attempt_is_under_way_ends_daemon(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where ending that attempt takes time, and another unit is held meanwhile."""
    host.leave_stopped()
    host.configure(FIRST + SECOND)
    host.systemd.slow = True
    monkeypatch.setattr(starter, "FIRST_ATTEMPT_TIMEOUT_SECONDS", 60)

    async def scenario() -> None:
        await until(lambda: len(host.systemd.started) >= 2)
        monkeypatch.setattr(reconciler, "plan", lambda *_: 1 / 0)
        report(TWO, "live")
        await asyncio.sleep(5)

    assert host.play(scenario) == daemon.EXIT_SOFTWARE
    assert caplog.text.count("internal error") == 1


def test_stop_during_call_to_systemd_ends_daemon_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure(FIRST)
    asked = asyncio.Event()

    async def never(_: Agent, __: object = ()) -> dict[str, UnitFact]:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        monkeypatch.setattr(Agent, "list", never)
        host.systemd.signal(unit_signals.ManagerChanged())
        await asked.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(5)

    began = time.monotonic()
    assert host.play(scenario) == 0
    assert time.monotonic() - began < PATIENCE / 2


def test_stop_while_unit_is_being_held_is_no_error(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host.leave_stopped()
    began = asyncio.Event()

    async def never(*_: object) -> str:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(host.systemd, "start", never)

    async def second() -> None:
        await began.wait()
        assert "stopped-by-an-administrator" in os.listdir(state.directory(ONE))

    assert host.play(second) == 0
    assert "internal error" not in caplog.text
    assert sorted(os.listdir(state.directory(ONE))) == ["report", "spec", "spec.public"]


@pytest.mark.parametrize("lose", ["bus", "agent"])
def test_stop_while_connection_ends_is_not_lost(host: Host, monkeypatch: pytest.MonkeyPatch, lose: str) -> None:
    closing = asyncio.Event()

    async def close(agent: Agent) -> None:
        agent.ended.set()
        agent.closed = True
        closing.set()
        await asyncio.sleep(0.1)

    monkeypatch.setattr(Agent, "close", close)

    async def scenario() -> None:
        await until(lambda: host.told("READY=1"))
        if lose == "bus":
            host.systemd.lose_bus()
        else:
            host.systemd.agents[0].ended.set()
        await closing.wait()

    assert host.play(scenario) == 0
    assert len(host.systemd.agents) == 1


# Log pages ------------------------------------------------------------------------------------------------


def test_a_log_page_becomes_controllers(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)), entry(NQN.format(2)))
        await until(lambda: "3 live" in host.status)
        assert host.systemd.started == [DC, ONE, TWO]
        assert spec_of(ONE).source == f"listed in the log page of {DC}"
        assert spec_of(ONE).origin == DC

    assert host.play(scenario) == 0


def test_unlisted_controller_is_withdrawn(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)), entry(NQN.format(2)))
        await until(lambda: "3 live" in host.status)
        leave_log(entry(NQN.format(2)), generation=2)
        await until(lambda: ONE in host.systemd.hung_up)
        assert spec_of(ONE).note == f"no longer listed in the log page of {DC} (generation 2)"
        assert (spec_of(ONE).withdrawn, spec_of(ONE).disconnect) == (True, "ours")
        assert (spec_of(TWO).note, spec_of(TWO).disconnect) == ("", "")
        # Listed again: the note goes.
        leave_log(entry(NQN.format(1)), entry(NQN.format(2)), generation=3)
        await until(lambda: spec_of(ONE).note == "" and not spec_of(ONE).withdrawn)
        assert spec_of(ONE).disconnect == ""
        await until(lambda: host.systemd.hung_up == [ONE, ONE])

    assert host.play(scenario) == 0
    assert host.systemd.units[ONE].running


@pytest.mark.parametrize("broken", [b"", b"x" * 100, page(entry(NQN.format(1)))[:-1], page(form=7)])
def test_a_broken_log_page_takes_nothing_away(host: Host, broken: bytes) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)))
        await until(lambda: "2 live" in host.status)
        (Path(state.directory(DC)) / "log").write_bytes(broken)
        report(DC, "live", log_read="2")
        await quiet()

    assert host.play(scenario) == 0
    assert spec_of(ONE).note == ""
    assert host.systemd.hung_up == []


def test_a_hostile_entry_is_told_and_the_others_are_served(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry("nqn.a,host_traddr=x"), entry(NQN.format(1)))
        await until(lambda: "2 live" in host.status)
        assert "the character ',' is not allowed" in host.status

    assert host.play(scenario) == 0
    assert caplog.text.count("the character ',' is not allowed") == 1


def test_the_page_of_an_earlier_worker_counts_after_a_restart(host: Host) -> None:
    host.configure(DISCOVERY)
    os.makedirs(state.directory(DC))
    leave_log(entry(NQN.format(1)), generation=7)
    host.systemd.units = {DC: UnitFact("loaded", "active"), ONE: UnitFact("loaded", "active")}

    async def scenario() -> None:
        await until(lambda: "2 controllers" in host.status)

    assert host.play(scenario) == 0
    assert host.systemd.started == []
    assert sorted(host.systemd.referenced) == sorted([DC, ONE])


@pytest.mark.parametrize("forged", [b"", b"..", b"../../etc", b".hidden", b"\xff\xfe", b"x" * 4000, b"a\0b"])
def test_a_forged_wake_up_is_harmless(host: Host, forged: bytes) -> None:
    import socket

    async def scenario() -> None:
        await until(lambda: host.told("READY=1"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(forged, state.WAKE_SOCKET)
        await quiet()

    assert host.play(scenario) == 0


# What an administrator stopped ----------------------------------------------------------------------------


def test_stopped_unit_stays_stopped(host: Host) -> None:
    host.configure(FIRST + SECOND)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)
        host.systemd.stop(ONE)
        await until(lambda: "1 live, 1 stopped" in host.status)
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE, TWO]


def test_a_restarted_supervisor_loads_what_was_stopped_without_starting_it(host: Host) -> None:
    host.leave_stopped()

    async def second() -> None:
        await until(lambda: ONE in host.systemd.units)
        await until(lambda: "1 stopped" in host.status)
        await quiet()

    assert host.play(second) == 0
    assert host.systemd.started == [ONE, ONE]
    assert host.systemd.units[ONE] == UnitFact("loaded", "inactive")
    assert sorted(os.listdir(state.directory(ONE))) == ["report", "spec", "spec.public"], (
        "the next start is the administrator's"
    )


def test_a_start_that_came_while_a_stopped_unit_was_made_again_is_made_up_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "JOB_NEWS_TIMEOUT_SECONDS", 0.05)
    host.leave_stopped()

    async def second() -> None:
        await until(lambda: ONE in host.systemd.units)
        # The administrator's job, which the condition made end at once.
        host.systemd.signal(unit_signals.JobRemoved(ONE, "done"))
        await until(lambda: "1 live" in host.status)

    assert host.play(second) == 0


def test_a_masked_unit_is_left_alone(host: Host) -> None:
    host.configure(FIRST)
    host.systemd.units[ONE] = UnitFact("masked", "inactive")

    async def scenario() -> None:
        await until(lambda: "1 left alone" in host.status)
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.started == []


def test_a_masked_unit_that_is_not_loaded_is_left_alone_until_systemd_reloads(host: Host) -> None:
    host.configure(FIRST)
    host.systemd.masked.add(ONE)

    async def scenario() -> None:
        await until(lambda: "1 left alone" in host.status)
        await quiet()
        assert host.systemd.started == []
        host.systemd.masked.clear()
        host.systemd.signal(unit_signals.ManagerChanged())
        await until(lambda: "1 live" in host.status)

    assert host.play(scenario) == 0


# Bad configuration ----------------------------------------------------------------------------------------

BROKEN = "[Subsystem]\nnqn = nonsense\ncontroller = transport=tcp;traddr=192.0.2.1\n"


def test_a_broken_file_at_start(host: Host) -> None:
    """Everything else is served, and the status says what is wrong, and where."""
    host.configure(BROKEN)
    (host.etc / "nvme-fabrics.conf.d" / "good.conf").write_text(SECOND)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        assert f"{host.etc}/nvme-fabrics.conf:2:" in host.status

    assert host.play(scenario) == 0
    assert host.systemd.started == [TWO]


def test_a_broken_file_at_reload(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        host.configure(BROKEN)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: f"{host.etc}/nvme-fabrics.conf:2:" in host.status)
        await until(lambda: host.told("READY=1") == 2)
        await until(lambda: "1 live" in host.status)
        assert "keeping the one from before" in caplog.text
        assert host.systemd.hung_up == []
        assert spec_of(ONE).note == ""
        host.configure(FIRST + SECOND)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: host.status == "2 controllers: 2 live")

    assert host.play(scenario) == 0
    assert sum(text.startswith("RELOADING=1\nMONOTONIC_USEC=") for text in host.messages) == 2


def test_entries_of_nvme_clis_files_are_warned_of_and_not_connected(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.configure(FIRST)
    (host.etc / "discovery.conf").write_text("-t tcp -a 192.0.2.99\n")
    warning = f"{host.etc}/discovery.conf:1:1: nobody connects the discovery controller at tcp 192.0.2.99: "

    def complaints() -> list[str]:
        found: list[str] = json.loads(state.read(f"{state.ROOT}/plan"))["complaints"]
        return found

    async def scenario() -> None:
        await until(lambda: host.status == "1 controller: 1 live")
        assert warning in caplog.text
        (complaint,) = await asyncio.to_thread(complaints)
        assert complaint.startswith(warning)
        assert host.systemd.started == [ONE]
        (host.etc / "discovery.conf").unlink()
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: host.told("READY=1") == 2)
        await quiet()

    assert host.play(scenario) == 0
    assert complaints() == []


def test_parked_interval_reaches_workers_at_a_reload(host: Host) -> None:
    host.configure(DISCOVERY + FIRST)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)
        assert spec_of(DC).parked_interval == state.PARKED_INTERVAL_SECONDS
        (host.etc / "discoverd.conf").write_text("[Global]\nparked-interval = 1h\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: spec_of(DC).parked_interval == 3600)
        await until(lambda: DC in host.systemd.hung_up)
        assert ONE not in host.systemd.hung_up

    assert host.play(scenario) == 0


def test_a_reload_reads_what_is_parked(host: Host) -> None:
    host.configure(DISCOVERY + FIRST)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)
        report(DC, "parked", status="parked until 14:05: it announces no changes")
        await until(lambda: "1 live, 1 parked" in host.status)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: host.systemd.hung_up == [DC])

    assert host.play(scenario) == 0


def test_removed_section_keeps_connection(host: Host) -> None:
    host.configure(FIRST + SECOND)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)
        host.configure(FIRST)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: host.systemd.hung_up == [TWO])
        assert spec_of(TWO).note.startswith("no longer configured at")

    assert host.play(scenario) == 0
    assert host.systemd.units[TWO].running


def test_a_host_without_an_nqn(host: Host) -> None:
    host.configure(FIRST)
    (host.etc / "hostnqn").unlink()

    async def scenario() -> None:
        await until(lambda: "nvme gen-hostnqn" in host.status)
        assert host.daemon
        configuration = host.daemon._configuration
        host.set("[Global]\nmax-connecting = 3\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: configuration.current.settings.max_connecting == 3)
        (host.etc / "hostnqn").write_text("nqn.2024-08.com.example:host\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: host.status == "1 controller: 1 live")

    assert host.play(scenario) == 0


def test_reload_during_the_start_does_not_end_it(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        host.configure(DISCOVERY + FIRST)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "2 live" in host.status)
        # The page of the discovery controller is not there yet.
        assert host.told("READY=1") == 0
        leave_log()
        await until(lambda: host.told("READY=1") == 1)

    assert host.play(scenario) == 0
    assert not any(text.startswith("RELOADING=1") for text in host.messages)


def test_a_lost_nqn_at_reload_takes_nothing_away(host: Host) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        (host.etc / "hostnqn").unlink()
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "nvme gen-hostnqn" in host.status)
        assert "1 live" in host.status
        assert spec_of(ONE).note == ""

    assert host.play(scenario) == 0


def test_a_host_name_that_is_not_resolved_yet(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure(FIRST + SECOND.replace("192.0.2.1", "array.example.com"))
    known: list[str] = []

    def look_up(name: str, *_: object, **__: object) -> list[object]:
        if name not in known:
            raise OSError("Name or service not known")
        return [(2, 1, 6, "", ("192.0.2.1", 0))]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    monkeypatch.setattr("discoverd.sources.names.RETRY_SECONDS", 0.02)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        assert "'array.example.com' has no address" in host.status
        known.append("array.example.com")
        await until(lambda: host.status == "2 controllers: 2 live")

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE, TWO]


def test_a_bad_setting_keeps_its_value(host: Host) -> None:
    host.configure(FIRST)
    host.set("[Global]\nmax-connecting = many\n")

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        assert "discoverd.conf:2:" in host.status

    assert host.play(scenario) == 0


# How many at once -----------------------------------------------------------------------------------------


def test_no_more_than_asked_for_at_the_same_time_and_the_configured_first(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "FIRST_ATTEMPT_TIMEOUT_SECONDS", 60)
    host.set("[Global]\nmax-connecting = 2\n")
    host.configure(DISCOVERY + "".join(SUBSYSTEM.format(NQN.format(f"c{number}")) for number in range(4)))
    os.makedirs(state.directory(DC))
    leave_log(*(entry(NQN.format(f"found{number}")) for number in range(4)))
    host.systemd.slow = True

    async def scenario() -> None:
        for number in range(9):
            await until(lambda number=number: len(host.systemd.started) > number)  # type: ignore[misc]
            await asyncio.sleep(0.02)
            assert len(host.systemd.started) <= number + 2
            host.systemd.attempt_ends(host.systemd.started[number])

    assert host.play(scenario) == 0
    assert host.systemd.most_at_once == 2
    assert host.systemd.started[0] == DC
    assert all(":vol" in name and "found" not in name for name in host.systemd.started[1:5])
    assert all("found" in name for name in host.systemd.started[5:])


def test_an_attempt_without_an_end_gives_its_place_away(host: Host) -> None:
    host.set("[Global]\nmax-connecting = 1\n")
    host.configure(FIRST + SECOND)
    host.systemd.slow = True

    async def scenario() -> None:
        await until(lambda: host.systemd.started == [ONE, TWO])

    assert host.play(scenario) == 0


# What fails -----------------------------------------------------------------------------------------------


def test_a_refused_start_is_tried_again(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.configure(FIRST)
    host.systemd.refuses = "Transport endpoint is on fire"

    async def scenario() -> None:
        await until(lambda: "on fire" in caplog.text)
        host.systemd.refuses = ""
        await until(lambda: host.status == "1 controller: 1 live")

    assert host.play(scenario) == 0


def test_a_refused_list_is_asked_for_again(host: Host) -> None:
    host.configure(FIRST)
    host.systemd.refuses_to_list = "systemd has not answered for 60 s"

    async def scenario() -> None:
        await quiet()
        assert host.systemd.started == []
        host.systemd.refuses_to_list = ""
        await until(lambda: host.status == "1 controller: 1 live")

    assert host.play(scenario) == 0


def test_a_full_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure(FIRST + SECOND)
    write = state.write
    full = True

    def write_or_fail(path: str, data: bytes, mode: int = 0o600, lasting: bool = False) -> None:
        if full and ONE in path:
            raise state.StateError(f"{path}: No space left on device")
        write(path, data, mode, lasting)

    monkeypatch.setattr(state, "write", write_or_fail)

    async def scenario() -> None:
        nonlocal full
        await until(lambda: "1 live" in host.status)
        await until(lambda: "No space left on device" in host.status)
        full = False
        await until(lambda: host.status == "2 controllers: 2 live")

    assert host.play(scenario) == 0
    assert host.systemd.started == [TWO, ONE]


def test_the_bus_goes_and_comes_back(host: Host) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        host.systemd.bus_refuses = True
        host.systemd.lose_bus()
        await until(lambda: "not connected to systemd" in host.status)
        assert "1 live" in host.status
        report(ONE, "reconnecting")
        await until(lambda: "1 reconnecting" in host.status)
        host.systemd.bus_refuses = False
        await until(lambda: "not connected" not in host.status)

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE]
    assert all(agent.closed for agent in host.systemd.agents)


def test_a_bus_that_is_not_there_is_said_once(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.systemd.bus_refuses = True

    async def scenario() -> None:
        await until(lambda: host.systemd.watches > 4)
        await until(lambda: "not connected to systemd" in host.status)

    assert host.play(scenario) == 0
    assert caplog.text.count("the bus is not there") == 1


def test_the_agent_ends_and_another_takes_its_place(host: Host) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        host.systemd.agents[0].ended.set()
        await until(lambda: len(host.systemd.agents) == 2 and host.systemd.referenced == [ONE])
        host.configure(FIRST + SECOND)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "2 live" in host.status)
        # Signals do not go on without it, so that none is heard of what cannot be asked for.
        assert host.systemd.watches == 2

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE, TWO]
    assert all(agent.closed for agent in host.systemd.agents)


def test_unit_masked_before_connection_was_lost_is_looked_at_again(host: Host) -> None:
    """The reload of systemd that unmasked it may have gone unheard."""
    host.configure(FIRST)
    host.systemd.masked.add(ONE)

    async def scenario() -> None:
        await until(lambda: "1 left alone" in host.status)
        host.systemd.masked.clear()
        host.systemd.lose_bus()
        await until(lambda: "1 live" in host.status)

    assert host.play(scenario) == 0


# Restart --------------------------------------------------------------------------------------------------


def test_a_restarted_supervisor_changes_nothing(host: Host) -> None:
    host.configure(DISCOVERY)

    async def first() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)))
        await until(lambda: "2 live" in host.status)

    assert host.play(first) == 0
    before = {path: path.read_bytes() for path in Path(state.CONTROLLERS).rglob("*") if path.is_file()}
    host.messages.clear()

    async def second() -> None:
        await until(lambda: host.status == "2 controllers: 2 live")
        await quiet()

    assert host.play(second) == 0
    assert host.systemd.started == [DC, ONE]
    assert host.systemd.hung_up == []
    assert {path: path.read_bytes() for path in Path(state.CONTROLLERS).rglob("*") if path.is_file()} == before


def test_running_unit_is_kept_while_its_source_is_silent(host: Host) -> None:
    host.configure(DISCOVERY)
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", NQN.format(1))
    options = (("nqn", tid.subsysnqn), ("transport", "tcp"))
    leave_spec(Candidate(tid, IO, f"listed in the log page of {DC}", DC, options))
    host.systemd.units[ONE] = UnitFact("loaded", "active")

    async def scenario() -> None:
        await until(lambda: "2 controllers" in host.status)
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.hung_up == []
    assert spec_of(ONE).note == ""


def test_rubbish_in_the_run_directory_is_passed_over(host: Host) -> None:
    host.configure(FIRST)
    for name, content in (("a", b"\xff"), ("b", b"discoverd-spec 99\nend\n")):
        os.makedirs(state.directory(name))
        for file in ("spec", "report", "log"):
            (Path(state.directory(name)) / file).write_bytes(content)
    (Path(state.CONTROLLERS) / "file").write_bytes(b"")

    async def scenario() -> None:
        await until(lambda: host.status == "1 controller: 1 live")

    assert host.play(scenario) == 0


# Log lines ------------------------------------------------------------------------------------------------


def test_each_line_about_a_controller_names_it(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "discoverd")
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)

    assert host.play(scenario) == 0
    (record,) = [record for record in caplog.records if record.getMessage().startswith(f"starting {ONE}")]
    fields = record.__dict__["fields"]
    assert fields["NVME_CTRL"] == ONE
    assert fields["NVME_SUBSYSNQN"] == NQN.format(1)
    assert fields["NVME_TRADDR"] == "192.0.2.1"


def test_the_detector_sees_a_file_read_in_the_loop(host: Host) -> None:
    from blockbuster import BlockingError

    async def read() -> None:
        store.read_spec("x")

    with pytest.raises(BlockingError):
        virtual_time.run(read())


def test_unit_file_in_the_way_is_said_and_taken_back(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """As `systemctl edit nvme-ctrl@.service` leaves it; both it and the remedy end in a daemon-reload."""
    host.configure(FIRST)
    folder = host.root / "units"
    folder.mkdir()
    path = folder / "nvme-ctrl@.service"
    path.write_text("[Service]\nCPUWeight=50\n")

    async def scenario() -> None:
        await until(lambda: "1 blocked" in host.status)
        assert f"{path} is a unit file" in host.status
        await quiet()
        assert host.systemd.started == []
        assert "administrator" not in caplog.text
        path.unlink()
        host.systemd.signal(unit_signals.ManagerChanged())
        await until(lambda: "1 live" in host.status)
        # One that runs was made before, and goes on.
        path.write_text("[Service]\nCPUWeight=50\n")
        host.systemd.signal(unit_signals.ManagerChanged())
        await until(lambda: f"1 live; {path} is a unit file" in host.status)

    assert host.play(scenario) == 0
    said = [record for record in caplog.records if f"{path} is a unit file" in record.getMessage()]
    assert [record.levelname for record in said] == ["ERROR", "ERROR"]
