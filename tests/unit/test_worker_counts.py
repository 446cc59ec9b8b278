# SPDX-License-Identifier: Apache-2.0
"""What a worker counts: attempts to connect, connections lost, and connections made again."""

import itertools

from discoverd import state
from discoverd.worker import machine
from discoverd.worker.machine import Event, Machine


def spec() -> state.Spec:
    return state.Spec("io", [("nqn", "nqn.2024-08.com.example:vol1"), ("transport", "tcp"), ("traddr", "192.0.2.1")])


CLOCK = itertools.count(100, 20)


def tell(made: Machine, *given: Event) -> None:
    for event in given:
        now = float(next(CLOCK))
        made.step(event, now, now)


def test_counts() -> None:
    made = Machine(spec(), 0.0, lambda: 0.5)
    tell(made, Event(machine.DUE), Event(machine.NOT_FOUND), Event(machine.REFUSED, "no"))
    assert (made.counts.attempts, made.counts.losses, made.counts.reconnects) == (1, 0, 0)
    tell(made, Event(machine.DUE), Event(machine.NOT_FOUND), Event(machine.POSTPONED, "others come first"))
    # It was not its turn.
    assert made.counts.attempts == 1
    tell(made, Event(machine.DUE), Event(machine.NOT_FOUND), Event(machine.CONNECTED, "nvme0"))
    assert (made.counts.attempts, made.counts.losses, made.counts.reconnects) == (2, 0, 0)
    tell(made, Event(machine.DOWN), Event(machine.UP))
    assert (made.counts.losses, made.counts.reconnects) == (1, 1)
    # One loss, whatever the kernel makes of it.
    tell(made, Event(machine.DOWN), Event(machine.REMOVED))
    assert (made.counts.losses, made.counts.reconnects) == (2, 1)
    tell(made, Event(machine.DUE), Event(machine.NOT_FOUND), Event(machine.CONNECTED, "nvme1"))
    assert (made.counts.attempts, made.counts.losses, made.counts.reconnects) == (3, 2, 2)
    tell(made, Event(machine.REMOVED))
    assert made.counts.losses == 3


def test_adoption_is_no_attempt() -> None:
    made = Machine(spec(), 0.0, lambda: 0.5)
    tell(made, Event(machine.DUE), Event(machine.CONNECTED, "nvme0"))
    assert (made.counts.attempts, made.counts.reconnects) == (0, 0)
