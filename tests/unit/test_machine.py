# SPDX-License-Identifier: Apache-2.0
"""The tables of a worker: each combination has a row, and no sequence of events breaks what they promise."""

import random
from pathlib import Path

import pytest

from discoverd import state
from discoverd.worker import machine
from discoverd.worker.machine import DECISIONS, GOALS, INPUTS, LINKS, TRANSITIONS, Event, Machine

from . import worker_states

NQN = "nqn.2024-08.com.example:vol1"
DOCUMENT = Path(__file__).parents[2] / "docs/design/worker.md"


def specification(**changes: object) -> state.Spec:
    spec = state.Spec("discovery", [("nqn", NQN), ("transport", "tcp"), ("traddr", "192.0.2.1"), ("trsvcid", "4420")])
    for name, value in changes.items():
        setattr(spec, name, value)
    return spec


def test_each_combination_has_a_row() -> None:
    assert set(TRANSITIONS) & set(INPUTS) == set()
    assert all(len(row) == len(LINKS) for row in [*TRANSITIONS.values(), *DECISIONS.values()])
    assert tuple(DECISIONS) == GOALS
    # Nothing is decided while an operation is under way.
    under_way = [LINKS.index(machine.CONNECTING), LINKS.index(machine.DISCONNECTING)]
    assert all(row[column] is None for row in DECISIONS.values() for column in under_way)


def test_diagram_of_the_states_is_the_tables() -> None:
    """To draw it anew: python -m tests.unit.worker_states."""
    assert worker_states.drawn(DOCUMENT.read_text()) == worker_states.diagram()


class World:
    """A kernel, an administrator and a supervisor that do as chance has it, and what must never be."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 1000.0
        self.machine = Machine(specification(), 5000.0, self.chance.random)
        # The operation under way: find, connect or disconnect.
        self.operation = ""
        self.ended: str | None = None
        self.forgotten = 0

    def tell(self, event: Event) -> None:
        before = self.machine
        for action in self.machine.step(event, self.now, self.now + 4000):
            if action.kind in (machine.FIND, machine.CONNECT, machine.DISCONNECT):
                follows = action.kind == machine.CONNECT and self.operation == machine.FIND
                assert not self.operation or follows, "two operations at once"
                self.operation = action.kind
            if action.kind == machine.CONNECT:
                assert before.goal in (machine.KEEP, machine.POLL), "connected though nobody asks for it"
            if action.kind == machine.DISCONNECT:
                self.check_disconnect(action.text)
            if action.kind == machine.END:
                assert self.ended is None, "ended twice"
                assert not self.operation or self.machine.link != machine.DISCONNECTING
                self.ended = action.report
        assert self.ended is not None or bool(self.machine.device) == (
            self.machine.link in (machine.LIVE, machine.RECONNECTING, machine.DISCONNECTING)
        )
        if self.ended is None and self.machine.link == machine.ABSENT:
            # It never falls asleep: something is due, unless the system goes down.
            assert self.machine.due > self.now

    def check_disconnect(self, operation: str) -> None:
        one = self.machine
        assert not one.foreign or operation == machine.GIVE_UP, "disconnected what is somebody else's"
        if operation == machine.POLL:
            assert not one.protected, "disconnected what is only looked after"
        if operation == machine.WITHDRAW:
            assert one.spec.withdrawn, "disconnected what somebody asks for"
            assert one.spec.disconnect, "disconnected though the setting says not to"
        if operation == machine.GIVE_UP:
            assert one.going_down
            assert self.now - one.going_down > machine.SILENCE_TIMEOUT_SECONDS

    def answer(self) -> None:
        """The operation under way ends."""
        operation, self.operation = self.operation, ""
        if operation == machine.FIND:
            # A connect may follow, which is the same operation to the machine.
            kind = self.chance.choice([machine.CONNECTED, machine.ATTACHED, *5 * [machine.NOT_FOUND], machine.EXCLUDED])
            self.operation = operation if kind == machine.NOT_FOUND else ""
            self.tell(Event(kind, "nvme0"))
            self.operation = "" if self.operation == machine.FIND else self.operation
        elif operation == machine.CONNECT:
            failures = [machine.REFUSED, machine.POSTPONED]
            kind = self.chance.choice([*3 * [machine.CONNECTED], machine.ATTACHED, *failures])
            seconds = self.chance.choice([0, 60])
            self.tell(Event(kind, "connection refused" if kind in failures else "nvme0", seconds, errno=111))
        elif operation == machine.DISCONNECT:
            kinds = [machine.DISCONNECTED, machine.KEPT, machine.REMOVED]
            if self.machine.operation == machine.STOP:
                kinds += [machine.LEFT, machine.REFUSED_STOP]
            if self.machine.operation == machine.GIVE_UP:
                kinds.append(machine.CALLED_OFF)
            self.tell(Event(self.chance.choice(kinds), "in use by /data", seconds=900))

    def happen(self) -> None:
        """One thing happens."""
        chance = self.chance
        self.now += chance.choice([0, 0.01, 0.5, 2, 15, 70])
        if self.operation and chance.random() < 0.5:
            self.answer()
            return
        kind = chance.choice(
            [
                machine.UP,
                machine.DOWN,
                machine.REMADE,
                machine.REMOVED,
                machine.SPECIFIED,
                machine.GOING_DOWN,
                machine.NOT_GOING_DOWN,
                machine.FOREIGN,
                machine.PROTECTED,
                machine.PERSISTENCE,
                machine.SOONER,
                machine.LINK_UP,
                *6 * [machine.DUE],
                *([machine.STOPPED] if chance.random() < 0.1 else []),
            ]
        )
        if kind == machine.REMOVED and self.machine.link == machine.DISCONNECTING:
            # Nobody looks meanwhile: the disconnect tells.
            return
        text = chance.choice(["", "somebody"])
        withdrawn = chance.random() < 0.3
        scope = chance.choice(["", "ours", "all"]) if withdrawn else ""
        spec = specification(
            withdrawn=withdrawn,
            disconnect=scope,
            note="no longer listed" if withdrawn else "",
            give_up_after=chance.choice([0, 0, 3600]),
            attempts=chance.choice([0, 0, 2]),
        )
        self.tell(Event(kind, text, chance.choice([0, 60]), spec=spec))


@pytest.mark.parametrize("hundred", range(10))
def test_no_sequence_of_events_breaks_a_promise(hundred: int) -> None:
    """Ten thousand sequences, in ten parts."""
    ended = set()
    for seed in range(1000 * hundred, 1000 * hundred + 1000):
        world = World(seed)
        try:
            world.tell(Event(machine.DUE))
            for _ in range(60):
                world.happen()
            # A stop ends it, whatever has happened before, as soon as nothing speaks against the disconnect.
            world.tell(Event(machine.NOT_GOING_DOWN))
            world.tell(Event(machine.STOPPED))
            for _ in range(200):
                if world.ended is not None:
                    break
                world.now += 1
                if world.operation:
                    world.answer()
                else:
                    world.tell(Event(machine.DUE))
            assert world.ended is not None, "it never ends"
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        ended.add(world.ended)
    assert ended == {"stopped", "refused", "withdrawn", "excluded", "given up"}


def test_controller_lost_in_a_shutdown_is_connected_once_it_is_called_off() -> None:
    one = Machine(specification(), 0.0, random.random)
    for event in (Event(machine.DUE), Event(machine.CONNECTED, "nvme0"), Event(machine.GOING_DOWN)):
        one.step(event, 1.0, 1.0)
    one.step(Event(machine.REMOVED), 2.0, 2.0)
    assert (one.state, one.due) == ("gone", machine.NEVER)
    assert one.step(Event(machine.DUE), 900.0, 900.0) == []
    assert [action.kind for action in one.step(Event(machine.NOT_GOING_DOWN), 901.0, 901.0)] == [machine.FIND]


# Turns ----------------------------------------------------------------------------------------------------


def attempt(one: Machine, now: float) -> str:
    """Return what is said of the turn when the next attempt comes."""
    assert [action.kind for action in one.step(Event(machine.DUE), now, now)] == [machine.FIND]
    (action,) = one.step(Event(machine.NOT_FOUND), now, now)
    assert action.kind == machine.CONNECT
    return action.text


def test_target_that_kept_the_kernel_is_connected_in_turn() -> None:
    one = Machine(specification(), 0.0, lambda: 0.5)
    assert attempt(one, 10) == ""
    one.step(Event(machine.REFUSED, "refused", 0.1, errno=111), 10, 10)
    assert attempt(one, 20) == ""
    one.step(Event(machine.REFUSED, "silent", machine.SLOW_CONNECT_SECONDS, errno=11), 24, 24)
    assert attempt(one, 40) == machine.IN_TURN
    one.step(Event(machine.POSTPONED, "others"), 40, 40)
    assert (one.state, one.attempts.count, one.attempts.turn, one.attempts.cause) == ("waiting", 2, "others", "silent")
    assert 40 + machine.TURN_WAIT_SECONDS / 2 <= one.due <= 40 + machine.TURN_WAIT_SECONDS
    assert attempt(one, 50) == machine.IN_TURN
    one.step(Event(machine.CONNECTED, "nvme0"), 51, 51)
    one.step(Event(machine.REMOVED), 500, 500)
    assert attempt(one, 510) == ""


def test_probe_that_fails_for_long_keeps_nobody_and_needs_no_turn() -> None:
    one = Machine(specification(), 0.0, lambda: 0.5)
    attempt(one, 10)
    one.step(Event(machine.REFUSED, "silent", 0.0, errno=110), 18, 18)
    assert attempt(one, 30) == ""


def test_what_is_only_announced_is_connected_in_turn_until_it_was_live() -> None:
    one = Machine(specification(announced_on="eth0"), 0.0, lambda: 0.5)
    assert attempt(one, 10) == machine.IN_TURN


def test_wait_for_a_turn_ends_with_the_time_that_it_has() -> None:
    one = Machine(specification(give_up_after=60), 0.0, lambda: 0.5)
    attempt(one, 10)
    one.step(Event(machine.POSTPONED, "others"), 10, 10)
    assert not one.ended
    attempt(one, 100)
    actions = one.step(Event(machine.POSTPONED, "others"), 100, 100)
    assert actions[-1].report == state.GIVEN_UP
