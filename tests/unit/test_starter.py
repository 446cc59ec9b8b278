# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to be started."""

from collections.abc import Mapping

import pytest

from discoverd.plan.candidate import CONFIGURATION, Candidate
from discoverd.plan.planner import Action, Decision
from discoverd.supervisor.starter import fair
from discoverd.tid import IO, TransportId

# Fairness -------------------------------------------------------------------------------------------------


def decision(name: str, origin: str = CONFIGURATION, action: Action = Action.START) -> Decision:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn." + name)
    candidate = Candidate(tid, IO, "listed somewhere", origin, ())
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


def test_who_waited_longest_is_first() -> None:
    """With room for one at a time, the first in the list would else have every turn."""
    two = [decision(f"{name}{number}", name) for name in "abc" for number in range(2)]
    assert order(*two, served={"a": 3.0, "b": 1.0}) == ["c0", "b0", "a0", "c1", "b1", "a1"]
    assert order(*two, decision("x"), served={CONFIGURATION: 9.0, "a": 1.0})[0] == "x"


@pytest.mark.parametrize("action", [Action.KEEP, Action.HOLD, Action.LEAVE])
def test_only_starts_wait_for_their_turn(action: Action) -> None:
    """What runs already is no reason for its origin to wait longer."""
    runs = [decision(f"r{number}", "a", action) for number in range(3)]
    starts = [decision("a0", "a"), decision("b0", "b"), decision("b1", "b")]
    assert order(*runs, *starts) == ["r0", "r1", "r2", "a0", "b0", "b1"]
    assert order(starts[2], *runs, starts[0]) == ["r0", "r1", "r2", "b1", "a0"]


def test_what_nobody_asks_for_does_not_wait() -> None:
    gone = Decision("gone", Action.LEAVE, "no longer listed", note="no longer listed")
    assert order(decision("a0", "a"), gone) == ["gone", "a0"]


def test_a_thousand_of_one_page_do_not_keep_the_other_pages_waiting() -> None:
    given = order(*(decision(f"a{number}", "a") for number in range(1000)), decision("b0", "b"))
    assert given.index("b0") == 1
