# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to be started, and how a unit is started, or made without running."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import cast

import pytest

from discoverd import state, store
from discoverd.plan.budgets import ANNOUNCED_FIRST_WAIT_SECONDS
from discoverd.plan.candidate import CONFIGURATION, Candidate
from discoverd.plan.facts import Action, Decision
from discoverd.supervisor import starter
from discoverd.supervisor.changes import Changes, News
from discoverd.supervisor.connection import Connection
from discoverd.supervisor.specifications import Specifications
from discoverd.supervisor.starter import Starter, fair
from discoverd.supervisor.status_line import Tally
from discoverd.systemd.unit_properties import Property, unit_properties, unless_exists
from discoverd.systemd.units import UnitError, Units
from discoverd.tid import IO, TransportId

from . import virtual_time
from .fake_host import until

# Fairness -------------------------------------------------------------------------------------------------


def decision(name: str, origin: str = CONFIGURATION, action: Action = Action.START, trusted: bool = True) -> Decision:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn." + name)
    candidate = Candidate(tid, IO, "listed somewhere", origin, (), trusted_parent=trusted)
    return Decision(name, action, "asked for", candidate)


def order(*decisions: Decision, served: Mapping[str, float] | None = None) -> list[str]:
    given = fair(decisions, served or {})
    assert sorted(map(id, given)) == sorted(map(id, decisions)), "each decision is there once"
    return [one.instance for one in given]


def test_each_discovery_controller_has_its_turn_after_the_configured() -> None:
    many = [decision(f"a{number}", "a") for number in range(3)]
    few = [decision(f"b{number}", "b") for number in range(2)]
    assert order(*many, *few, decision("c0", "c")) == ["a0", "b0", "c0", "a1", "b1", "a2"]
    assert order(*many, *few, decision("x"), decision("y")) == ["x", "y", "a0", "b0", "a1", "b1", "a2"]


def test_the_order_of_one_origin_is_kept() -> None:
    names = ["d", "a", "c", "b"]
    assert order(*(decision(name, "a") for name in names)) == names
    assert order(*(decision(name) for name in names)) == names
    assert order() == []


def test_origin_that_waited_longest_is_first() -> None:
    """With room for one at a time, the first in the list would else have every turn."""
    two = [decision(f"{name}{number}", name) for name in "abc" for number in range(2)]
    assert order(*two, served={"a": 3.0, "b": 1.0}) == ["c0", "b0", "a0", "c1", "b1", "a1"]
    assert order(*two, decision("x"), served={CONFIGURATION: 9.0, "a": 1.0})[0] == "x"


@pytest.mark.parametrize("action", [Action.KEEP, Action.KEEP_STOPPED, Action.LEAVE])
def test_only_starts_wait_for_their_turn(action: Action) -> None:
    """What runs already is no reason for its origin to wait longer."""
    runs = [decision(f"r{number}", "a", action) for number in range(3)]
    starts = [decision("a0", "a"), decision("b0", "b"), decision("b1", "b")]
    assert order(*runs, *starts) == ["r0", "r1", "r2", "a0", "b0", "b1"]
    assert order(starts[2], *runs, starts[0]) == ["r0", "r1", "r2", "b1", "a0"]


def test_withdrawal_does_not_wait_behind_starts() -> None:
    gone = Decision("gone", Action.LEAVE, "no longer listed", note="no longer listed")
    assert order(decision("a0", "a"), gone) == ["gone", "a0"]


def test_a_thousand_of_one_page_do_not_keep_the_other_pages_waiting() -> None:
    given = order(*(decision(f"a{number}", "a") for number in range(1000)), decision("b0", "b"))
    assert given.index("b0") == 1


# Units ----------------------------------------------------------------------------------------------------

PLACEHOLDER = "/libexec/placeholder"
SYSTEM = "nqn.root"


class Systemd:
    """What the starter takes for its calls to systemd. ``answers`` are by instance: a result, or what is raised."""

    def __init__(self, happened: list[str]) -> None:
        self._happened = happened
        self.calls: list[tuple[str, list[Property]]] = []
        self.answers: dict[str, str | Exception] = {}
        # Files that were there when a start of their unit came.
        self.files: list[str] = []

    async def make_stopped(self, instance: str, properties: list[Property]) -> str:
        return await self.start(instance, properties)

    @property
    def started(self) -> list[str]:
        return [instance for instance, _ in self.calls]

    async def start(self, instance: str, properties: list[Property]) -> str:
        self._happened.append(f"start {instance}")
        self.calls.append((instance, properties))
        folder = state.directory(instance)
        self.files += [name for name in (await asyncio.to_thread(_files, folder)) if name != "spec"]
        answer = self.answers.get(instance, "started")
        if isinstance(answer, Exception):
            raise answer
        return answer


def _files(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


class Room:
    """A starter between a queue, a connection, the specifications and the tally, as it works in the supervisor."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        # In which order specifications were written and units started.
        self.happened: list[str] = []
        self.full = False
        self.changes = Changes()
        self.changes.take()
        self.systemd = Systemd(self.happened)
        self.connection = Connection("/libexec/unit-agent", self._blocking, self.changes)
        self.connect()
        self.tally = Tally()
        specifications = Specifications(self._blocking)
        self.starter = Starter(PLACEHOLDER, {SYSTEM}, tasks, self.changes, self.connection, specifications, self.tally)

    def connect(self) -> None:
        self.connection.units = cast(Units, self.systemd)

    async def _blocking(self, function: object, instance: str, *_: object) -> bool:
        assert function is store.write_spec
        self.happened.append(f"write {instance}")
        if self.full:
            raise state.StateError("no space")
        await asyncio.sleep(0)
        return True

    @property
    def failures(self) -> str:
        """What the status line says is wrong."""
        return self.tally.line(connected=True, problems=()).partition("; ")[2]

    def begin(self, *decisions: Decision, most_at_once: int = 10) -> None:
        for one in decisions:
            self.starter.want(one)
        self.starter.go(most_at_once)

    async def ended(self, *instances: str) -> None:
        await until(lambda: not any(one in self.starter for one in instances))


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Room], Awaitable[None]]], Room]:
    monkeypatch.setattr(state, "ROOT", str(tmp_path))
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path))
    monkeypatch.setattr(starter, "JOB_NEWS_TIMEOUT_SECONDS", 0.01)

    def run(scenario: Callable[[Room], Awaitable[None]]) -> Room:
        async def main() -> Room:
            async with asyncio.TaskGroup() as tasks:
                room = Room(tasks)
                await scenario(room)
            return room

        return virtual_time.run(main())

    return run


Play = Callable[[Callable[[Room], Awaitable[None]]], Room]
A, B, C = decision("a"), decision("b"), decision("c")


def keep_stopped(name: str) -> Decision:
    (Path(state.CONTROLLERS) / name).mkdir(exist_ok=True)
    return decision(name, action=Action.KEEP_STOPPED)


def test_unit_gets_its_specification_before_it_is_started(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(A)
        assert ("a" in room.starter, room.starter.idle) == (True, False)
        await until(lambda: room.systemd.calls)
        room.starter.job_ended("a")
        await room.ended("a")
        assert room.starter.idle
        # Systemd has another unit now.
        assert room.changes.take() == News(("a",), frozenset({"a"}))

    room = play(scenario)
    assert room.happened == ["write a", "start a"]
    assert A.candidate
    assert room.systemd.calls == [("a", unit_properties(A.candidate.tid, IO, PLACEHOLDER, system=False))]


def test_unit_of_what_the_system_runs_from_is_told_apart(play: Play) -> None:
    system = decision("root")

    async def scenario(room: Room) -> None:
        room.begin(system)
        await until(lambda: room.systemd.calls)
        room.starter.job_ended("root")

    assert system.candidate
    assert play(scenario).systemd.calls[0][1] == unit_properties(system.candidate.tid, IO, PLACEHOLDER, system=True)


def test_no_more_are_started_at_once_than_may_be(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(A, B, C, most_at_once=2)
        await until(lambda: len(room.systemd.calls) == 2)
        room.starter.go(2)
        await asyncio.sleep(0.01)
        assert room.systemd.started == ["a", "b"]
        # The end of any job but that of these is no reason.
        room.starter.job_ended("x")
        room.starter.job_ended("b")
        await room.ended("b")
        room.starter.go(2)
        await until(lambda: room.systemd.started == ["a", "b", "c"])
        room.starter.job_ended("a")
        room.starter.job_ended("c")

    play(scenario)


def test_origin_that_was_served_last_waits(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(decision("p0", "p"), decision("p1", "p"), decision("q0", "q"), most_at_once=1)
        for name in ("p0", "q0", "p1"):
            await until(lambda name=name: room.systemd.started[-1:] == [name])  # type: ignore[misc]
            room.starter.job_ended(name)
            await room.ended(name)
            room.starter.go(1)

    play(scenario)


def test_served_origin_that_is_forgotten_does_not_wait(play: Play) -> None:
    async def scenario(room: Room) -> None:
        for name in ("q", "p"):
            room.begin(decision(f"{name}0", name))
            await until(lambda name=name: room.systemd.started[-1:] == [f"{name}0"])  # type: ignore[misc]
            room.starter.job_ended(f"{name}0")
            await room.ended(f"{name}0")
        room.starter.forget("p")
        room.begin(decision("q1", "q"), decision("p1", "p"), most_at_once=1)
        await until(lambda: room.systemd.started[2:] == ["p1"])
        room.starter.drop("q1")
        room.starter.job_ended("p1")

    play(scenario)


def announced(name: str, origin: str = "dc") -> Decision:
    return decision(name, origin, trusted=False)


def test_announced_controllers_are_tried_one_at_a_time_behind_the_trusted(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(announced("x"), announced("y"), A, B, most_at_once=2)
        await until(lambda: room.systemd.started == ["a", "b"])
        room.starter.job_ended("a")
        room.starter.job_ended("b")
        await room.ended("a", "b")
        room.starter.go(10)
        await until(lambda: room.systemd.started == ["a", "b", "x"])
        await asyncio.sleep(0.01)
        assert room.systemd.started == ["a", "b", "x"]
        room.starter.job_ended("x")
        await room.ended("x")
        room.changes.take()
        room.starter.connected("x")
        room.starter.go(10)
        await until(lambda: room.systemd.started == ["a", "b", "x", "y"])
        room.starter.job_ended("y")
        await room.ended("y")

    play(scenario)


def test_announced_controller_that_failed_is_tried_again_later_without_news(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(announced("x"))
        await until(lambda: room.systemd.started == ["x"])
        room.starter.job_ended("x")
        await room.ended("x")
        room.changes.take()
        room.begin(announced("x"))
        assert room.starter.idle, "nobody waits for it"
        began = asyncio.get_running_loop().time()
        await room.changes.wait()
        assert asyncio.get_running_loop().time() - began >= ANNOUNCED_FIRST_WAIT_SECONDS - 1
        room.starter.go(10)
        await until(lambda: room.systemd.started == ["x", "x"])
        room.starter.job_ended("x")
        await room.ended("x")

    play(scenario)


def test_announced_controller_has_no_protection_from_the_oom_killer(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(announced("x"))
        await until(lambda: room.systemd.calls)
        room.starter.job_ended("x")

    ((_, properties),) = play(scenario).systemd.calls
    assert ("OOMScoreAdjust", "i", 0) in properties


def test_first_attempt_without_end_gives_its_place_away(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "FIRST_ATTEMPT_TIMEOUT_SECONDS", 0.02)

    async def scenario(room: Room) -> None:
        room.begin(A)
        await room.ended("a")
        assert room.changes.take().instances == ("a",)
        assert room.failures == ""

    assert play(scenario).systemd.started == ["a"]


@pytest.mark.parametrize("answer", ["running", "masked"])
def test_unit_that_is_not_started_is_not_waited_for(play: Play, answer: str) -> None:
    async def scenario(room: Room) -> None:
        room.systemd.answers["a"] = answer
        room.begin(A)
        await room.ended("a")
        assert list(room.starter.masked) == (["a"] if answer == "masked" else [])

    play(scenario)


def test_masked_unit_is_looked_at_again_when_systemd_was_reloaded(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.systemd.answers = {"a": "masked", "b": "masked"}
        room.begin(A, B)
        await room.ended("a", "b")
        room.changes.take()
        room.starter.forget("b")
        assert list(room.starter.masked) == ["a"]
        room.starter.systemd_reloaded()
        assert list(room.starter.masked) == []
        assert room.changes.take().instances == ("a",)

    play(scenario)


def test_decision_about_unit_that_is_being_started_waits_for_the_next_look(play: Play) -> None:
    """It was made from facts before the start ended, and an administrator may have stopped the unit since."""

    async def scenario(room: Room) -> None:
        room.begin(A)
        room.begin(A)
        await until(lambda: room.systemd.calls)
        await asyncio.sleep(0.01)
        assert room.systemd.started == ["a"]
        room.starter.job_ended("a")
        await room.ended("a")
        assert not room.starter.idle
        room.begin(A, most_at_once=1)
        await asyncio.sleep(0.01)
        assert (room.systemd.started, "a" in room.starter) == (["a"], False)
        room.changes.take()
        room.begin(A, most_at_once=1)
        await until(lambda: room.systemd.started == ["a", "a"])
        room.starter.job_ended("a")

    play(scenario)


def test_dropped_decision_is_not_carried_out(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.starter.want(A)
        idle = [room.starter.idle]
        room.starter.drop("a")
        room.starter.drop("b")
        assert [*idle, room.starter.idle] == [False, True]
        room.starter.go(1)

    assert play(scenario).happened == []


def test_nothing_begins_without_a_connection(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.connection.units = None
        room.begin(A)
        assert "a" not in room.starter
        room.connect()
        room.starter.go(1)
        await until(lambda: room.systemd.calls)
        room.starter.job_ended("a")

    play(scenario)


# Failures -------------------------------------------------------------------------------------------------


def test_refused_start_is_told_and_tried_again_later(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "START_RETRY_SECONDS", 0.05)

    async def scenario(room: Room) -> None:
        room.systemd.answers["a"] = UnitError("No space left on device")
        room.begin(A)
        await room.ended("a")
        assert room.failures == "cannot start a: No space left on device"
        assert room.changes.take().instances == ("a",)
        # Whatever is decided meanwhile.
        room.begin(A)
        await asyncio.sleep(0.01)
        assert room.systemd.started == ["a"]
        await until(lambda: room.changes.undecided)
        assert room.changes.take() == News(("a",), frozenset({"a"}))
        room.systemd.answers.clear()
        room.starter.go(1)
        await until(lambda: room.systemd.started == ["a", "a"])
        await until(lambda: room.failures == "")
        room.starter.job_ended("a")

    play(scenario)


def test_refused_start_of_what_was_forgotten_is_tried_at_once(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.systemd.answers["a"] = UnitError("No")
        room.begin(A)
        await room.ended("a")
        room.starter.forget("a")
        room.systemd.answers.clear()
        room.changes.take()
        room.begin(A)
        await until(lambda: room.systemd.started == ["a", "a"])
        room.starter.job_ended("a")

    play(scenario)


def test_unit_without_its_specification_is_not_started(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.full = True
        room.begin(A)
        await room.ended("a")
        assert room.failures == "cannot start a: no space"

    assert play(scenario).happened == ["write a"]


def test_connection_lost_before_the_start_is_told(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(A)
        room.connection.units = None
        await room.ended("a")
        assert room.failures == "cannot start a: not connected to systemd"

    assert play(scenario).systemd.calls == []


# Units that an administrator stopped ----------------------------------------------------------------------


def test_kept_stopped_unit_is_made_with_a_failing_condition_and_can_be_started_then(play: Play) -> None:
    path = ""

    async def scenario(room: Room) -> None:
        nonlocal path
        one = keep_stopped("a")
        # It takes nobody's place.
        room.begin(one, most_at_once=0)
        await until(lambda: room.systemd.calls)
        room.starter.job_ended("a")
        await room.ended("a")
        path = f"{state.directory('a')}/{room.systemd.files[0]}"
        assert _files(state.directory("a")) == []

    room = play(scenario)
    assert room.systemd.started == ["a"]
    assert room.systemd.calls[0][1][-1] == unless_exists(path)


@pytest.mark.parametrize(("jobs", "again"), [(1, False), (2, True), (3, True)])
def test_start_in_vain_of_kept_stopped_unit_is_made_up_for(play: Play, jobs: int, again: bool) -> None:
    """One job is that which makes the unit."""

    async def scenario(room: Room) -> None:
        room.begin(keep_stopped("a"))
        await until(lambda: room.systemd.calls)
        for _ in range(jobs):
            room.starter.job_ended("a")

    room = play(scenario)
    assert room.systemd.calls[1:] == ([("a", [])] if again else [])


def test_jobs_of_unit_that_is_started_are_not_made_up_for(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(A)
        await until(lambda: room.systemd.calls)
        room.starter.job_ended("a")
        room.starter.job_ended("a")

    assert play(scenario).systemd.started == ["a"]


def test_start_that_cannot_be_made_up_for_is_told(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(keep_stopped("a"))
        await until(lambda: room.systemd.calls)
        room.systemd.answers["a"] = UnitError("No")
        room.starter.job_ended("a")
        room.starter.job_ended("a")

    room = play(scenario)
    assert (room.systemd.started, room.failures) == (["a", "a"], "cannot start a: No")


def test_start_is_not_made_up_for_without_a_connection(play: Play) -> None:
    async def scenario(room: Room) -> None:
        room.begin(keep_stopped("a"))
        await until(lambda: room.systemd.calls)
        room.starter.job_ended("a")
        room.starter.job_ended("a")
        room.connection.units = None

    assert play(scenario).systemd.started == ["a"]


def test_refused_kept_stopped_unit_can_be_started(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "START_RETRY_SECONDS", 0.01)

    async def scenario(room: Room) -> None:
        room.systemd.answers["a"] = UnitError("No")
        room.begin(keep_stopped("a"))
        await room.ended("a")
        assert room.systemd.files
        assert _files(state.directory("a")) == []
        assert room.failures == "cannot start a: No"

    play(scenario)


def test_kept_stopped_unit_that_cannot_be_let_go_is_told(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise PermissionError(1, "Operation not permitted", "/run/x")

    monkeypatch.setattr(store, "allow_start", refuse)

    async def scenario(room: Room) -> None:
        room.begin(keep_stopped("a"))
        await until(lambda: room.systemd.calls)
        room.starter.job_ended("a")
        await room.ended("a")
        assert room.failures == "a cannot be started: Operation not permitted: /run/x"

    play(scenario)


def test_end_of_the_daemon_lets_a_kept_stopped_unit_go(play: Play) -> None:
    class EndError(Exception):
        pass

    async def scenario(room: Room) -> None:
        room.begin(keep_stopped("a"))
        await until(lambda: room.systemd.calls)
        raise EndError

    with contextlib.suppress(ExceptionGroup):
        play(scenario)
    assert _files(state.directory("a")) == []


def test_end_of_the_daemon_begins_with_nothing_more(play: Play) -> None:
    class EndError(Exception):
        pass

    async def scenario(room: Room) -> None:
        room.begin(A, B, most_at_once=1)
        await until(lambda: room.systemd.calls)
        raise EndError

    with pytest.raises(ExceptionGroup) as raised:
        play(scenario)
    assert [type(one) for one in raised.value.exceptions] == [EndError]
