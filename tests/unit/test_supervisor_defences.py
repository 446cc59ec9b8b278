# SPDX-License-Identifier: Apache-2.0
"""What one hostile or busy part of the host cannot do to the rest: crowd out, restart, pile up, flood the journal."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from discoverd import state, store
from discoverd.plan.facts import Report, UnitFact
from discoverd.supervisor import daemon, refusals, starter
from discoverd.systemd import unit_signals

from .fake_host import (
    DC,
    DISCOVERY,
    FIRST,
    NQN,
    ONE,
    SECOND,
    TWO,
    Agent,
    Host,
    leave_log,
    quiet,
    report,
    spec_of,
    until,
)
from .log_pages import entry, page

# Fairness -------------------------------------------------------------------------------------------------


def test_a_long_page_does_not_keep_a_short_one_waiting(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "FIRST_ATTEMPT_TIMEOUT_SECONDS", 60)
    host.set("[Global]\nmax-connecting = 1\n")
    host.configure(DISCOVERY + "controller = transport=tcp;traddr=192.0.2.2\n")
    host.systemd.slow = True
    both = [DC, DC.replace("192.0.2.1", "192.0.2.2")]
    for parent, names in zip(both, (["a0", "a1", "a2"], ["b0"]), strict=True):
        Path(state.directory(parent)).mkdir(parents=True)
        (Path(state.directory(parent)) / "log").write_bytes(page(*(entry("nqn." + name) for name in names)))

    async def scenario() -> None:
        for number in range(1, 7):
            await until(lambda number=number: len(host.systemd.started) == number)  # type: ignore[misc]
            host.systemd.attempt_ends(host.systemd.started[-1])

    assert host.play(scenario) == 0
    assert host.systemd.started[:2] == both
    assert [name.rpartition(".")[2] for name in host.systemd.started[2:]] == ["a0", "b0", "a1", "a2"]


# Pace -----------------------------------------------------------------------------------------------------


def burn(seconds: float) -> None:
    """Use the processor for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@contextmanager
def pauses_of_rounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Return how long the supervisor has waited from now on, as it goes on."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    def counted(seconds: float) -> Awaitable[None]:
        if sys._getframe(1).f_code.co_name == "_rounds":
            pauses.append(seconds)
        return sleep(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "sleep", counted)
        yield pauses


def test_round_that_has_long_ended_does_not_delay_news(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        monkeypatch.setattr(daemon, "PAUSE_FACTOR", 1)
        update = host.inventory.update

        async def slow() -> dict[str, None]:
            burn(0.1)
            return await update()

        monkeypatch.setattr(host.inventory, "update", slow)
        report(ONE, "waiting")
        await until(lambda: "1 waiting" in host.status)
        monkeypatch.setattr(host.inventory, "update", update)
        await asyncio.sleep(1)
        with pauses_of_rounds(monkeypatch) as pauses:
            report(ONE, "live")
            await until(lambda: "1 live" in host.status)
            assert max(pauses) == daemon.DEBOUNCE_SECONDS

    assert host.play(scenario) == 0


def test_round_is_followed_by_a_pause_of_four_times_its_work_however_long(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        update = host.inventory.update
        worked = 0

        async def slow() -> dict[str, None]:
            nonlocal worked
            worked += 1
            burn(0.5)
            host.inventory._news()
            return await update()

        monkeypatch.setattr(host.inventory, "update", slow)
        with pauses_of_rounds(monkeypatch) as pauses:
            report(ONE, "waiting")
            await until(lambda: worked >= 2, patience=60)
            assert max(pauses) > 1.9
        monkeypatch.setattr(host.inventory, "update", update)

    assert host.play(scenario) == 0


def test_time_that_a_round_waits_is_not_its_work(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        read = store.read_report

        def slow(instance: str) -> Report | None:
            time.sleep(1)
            return read(instance)

        monkeypatch.setattr(store, "read_report", slow)
        with pauses_of_rounds(monkeypatch) as pauses:
            report(ONE, "waiting")
            await until(lambda: "1 waiting" in host.status)
            report(ONE, "live")
            await until(lambda: "1 live" in host.status)
            assert max(pauses) < 1

    assert host.play(scenario) == 0


# A stop that nobody heard of ------------------------------------------------------------------------------


def leave_report(instance: str, worker_state: str) -> None:
    """Report as a worker whose wake-up is lost."""
    (Path(state.directory(instance)) / "report").write_bytes(state.encode(state.REPORT, [("state", worker_state)]))


def test_a_stop_whose_wake_up_was_lost_is_no_reason_to_start(host: Host) -> None:
    host.configure(FIRST + SECOND)

    async def scenario() -> None:
        await until(lambda: host.status == "2 controllers: 2 live")
        leave_report(ONE, "stopped")
        host.systemd.units[ONE] = UnitFact("loaded", "inactive")
        host.systemd.signal(unit_signals.JobRemoved(ONE, "done"))
        await until(lambda: "1 live, 1 stopped" in host.status)
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE, TWO]


@pytest.mark.parametrize("after", [UnitFact("loaded", "inactive"), None])
def test_a_stop_in_the_middle_of_a_round_is_no_reason_to_start(
    host: Host, monkeypatch: pytest.MonkeyPatch, after: UnitFact | None
) -> None:
    """The reports were read before the stop, the units are listed after it. An unloaded one is loaded, not started."""
    host.configure(FIRST + SECOND)
    busy = False
    ask = Agent.list

    async def list_after_a_stop(agent: Agent, instances: Iterable[str] = ()) -> dict[str, UnitFact]:
        nonlocal busy
        if busy:
            busy = False
            await asyncio.to_thread(leave_report, ONE, "stopped")
            host.systemd.units[ONE] = UnitFact("loaded", "inactive")
        return await ask(agent, instances)

    monkeypatch.setattr(Agent, "list", list_after_a_stop)

    async def scenario() -> None:
        nonlocal busy
        await until(lambda: host.status == "2 controllers: 2 live")
        busy = True
        host.systemd.signal(unit_signals.JobRemoved(ONE, "done"))
        await until(lambda: "1 live, 1 stopped" in host.status)
        if after is None:
            # Nobody holds it any more, and what was read of it still counts.
            del host.systemd.units[ONE]
            host.systemd.signal(unit_signals.JobRemoved(ONE, "done"))
            await until(lambda: host.systemd.started == [ONE, TWO, ONE])
            await until(lambda: host.systemd.units.get(ONE) == UnitFact("loaded", "inactive"))
        await quiet()
        assert "1 live, 1 stopped" in host.status

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE, TWO] + ([ONE] if after is None else [])
    assert not host.systemd.units[ONE].running


def test_a_failed_unit_is_started_again(host: Host) -> None:
    """The other side: no stop was reported, so the wish stands."""
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: host.status == "1 controller: 1 live")
        host.systemd.units[ONE] = UnitFact("loaded", "failed")
        host.systemd.signal(unit_signals.JobRemoved(ONE, "done"))
        await until(lambda: host.systemd.started == [ONE, ONE])
        await until(lambda: host.status == "1 controller: 1 live")

    assert host.play(scenario) == 0


# What nobody asks for any more ----------------------------------------------------------------------------


def kept(instance: str) -> bool:
    return Path(state.directory(instance)).is_dir()


@pytest.mark.parametrize("last", ["live", "withdrawn", "waiting"])
def test_the_state_of_what_is_neither_wanted_nor_running_is_swept(host: Host, last: str) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)), entry(NQN.format(2)))
        await until(lambda: "3 live" in host.status)
        leave_log(entry(NQN.format(2)), generation=2)
        await until(lambda: ONE in host.systemd.hung_up)
        # It runs still, and is kept.
        assert kept(ONE)
        report(ONE, last)
        del host.systemd.units[ONE]
        host.systemd.signal(unit_signals.JobRemoved(ONE, "done"))
        await until(lambda: not kept(ONE))
        # The next round, whatever for, knows nothing of it.
        host.systemd.signal(unit_signals.JobRemoved(TWO, "done"))
        await until(lambda: host.status == "2 controllers: 2 live")
        assert kept(DC)
        assert kept(TWO)
        # Listed again, it is a new one.
        leave_log(entry(NQN.format(1)), entry(NQN.format(2)), generation=3)
        await until(lambda: host.status == "3 controllers: 3 live")
        assert spec_of(ONE).note == ""

    assert host.play(scenario) == 0
    assert host.systemd.started == [DC, ONE, TWO, ONE]


def test_that_an_administrator_stopped_it_is_not_forgotten(host: Host) -> None:
    """Else a log page that drops an entry and brings it back would undo the stop."""
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)))
        await until(lambda: "2 live" in host.status)
        host.systemd.stop(ONE)
        await until(lambda: "1 live, 1 stopped" in host.status)
        leave_log(generation=2)
        await until(lambda: "1 left alone" in host.status)
        await quiet()
        assert kept(ONE)
        leave_log(entry(NQN.format(1)), generation=3)
        await until(lambda: "1 live, 1 stopped" in host.status)
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.started == [DC, ONE]


def test_nothing_is_swept_while_its_source_is_silent(host: Host) -> None:
    host.configure(DISCOVERY)

    async def first() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)))
        await until(lambda: "2 live" in host.status)

    assert host.play(first) == 0
    (Path(state.directory(DC)) / "log").unlink()
    del host.systemd.units[ONE]
    host.messages.clear()

    async def second() -> None:
        await until(lambda: "1 left alone" in host.status)
        await quiet()

    assert host.play(second) == 0
    assert kept(ONE)


# Refusals -------------------------------------------------------------------------------------------------


def refused(number: int, mark: str = "a") -> list[bytes]:
    return [entry(f"nqn.{mark}{one},host_traddr=x") for one in range(number)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("number", "lines", "rest"), [(20, 20, None), (21, 20, "and 1 more"), (60, 20, "and 40 more")])
def test_a_page_full_of_nonsense_costs_few_lines_and_costs_them_once(
    host: Host, caplog: pytest.LogCaptureFixture, number: int, lines: int, rest: str | None
) -> None:
    assert refusals.SAID_AT_ONCE == 20
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(*refused(number), entry(NQN.format(1)))
        await until(lambda: "2 live" in host.status)
        # The same again, in another reading, and in rounds for other reasons.
        leave_log(*refused(number), entry(NQN.format(1)), generation=2)
        await quiet()
        host.systemd.signal(unit_signals.ManagerChanged())
        await quiet()
        await until(lambda: f"(and {number - 1} more, see the journal)" in host.status)

    assert host.play(scenario) == 0
    given = said(caplog)
    assert sum("is not allowed" in text for text in given) == lines
    assert [text for text in given if text.startswith("and ")] == ([f"{rest} that cannot be connected"] if rest else [])


def test_a_new_refusal_is_said_beside_the_old_ones(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(*refused(30))
        await until(lambda: "(and 29 more" in host.status)
        caplog.clear()
        leave_log(*refused(30), *refused(31, "b")[30:], generation=2)
        await until(lambda: "(and 30 more" in host.status)

    assert host.play(scenario) == 0
    # Not those either that were only counted the first time.
    (line,) = said(caplog)
    assert "nqn.b30" in line
