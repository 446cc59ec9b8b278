# SPDX-License-Identifier: Apache-2.0
"""When what is only announced may be tried."""

import math
import random

from discoverd.plan.budgets import (
    ANNOUNCED_FIRST_WAIT_SECONDS,
    ANNOUNCED_LONGEST_WAIT_SECONDS,
    ANNOUNCED_PAUSE_SECONDS,
)
from discoverd.supervisor.turns import Turns


def attempt(turns: Turns, instance: str, now: float) -> None:
    assert turns.due(instance, now) == now
    turns.began(instance)
    turns.ended(instance, now)


def test_one_at_a_time() -> None:
    turns = Turns()
    turns.began("a")
    assert turns.due("b", 0) == math.inf
    turns.ended("a", 5)
    assert turns.due("b", 5) == 6


def test_each_failure_doubles_the_wait() -> None:
    turns = Turns()
    now, waits = 0.0, []
    for _ in range(9):
        attempt(turns, "a", now)
        waits.append(turns.due("a", now) - now)
        now = turns.due("a", now)
    first, longest = ANNOUNCED_FIRST_WAIT_SECONDS, ANNOUNCED_LONGEST_WAIT_SECONDS
    assert waits == [min(first * 2**number, longest) for number in range(9)]
    assert waits[-1] == longest


def test_ever_new_ones_are_tried_ever_slower() -> None:
    """Whoever announces may take a new name for each attempt."""
    turns = Turns()
    now, tried = 0.0, 0
    while now < 600:
        attempt(turns, f"new{tried}", now)
        turns.forget(f"new{tried}")
        tried += 1
        now = turns.due(f"new{tried}", now)
    assert tried < 600 / ANNOUNCED_PAUSE_SECONDS + ANNOUNCED_PAUSE_SECONDS


def test_connection_has_nobody_wait() -> None:
    turns = Turns()
    attempt(turns, "a", 0)
    attempt(turns, "b", 1)
    turns.connected("b")
    assert (turns.due("b", 1), turns.due("c", 1)) == (1, 1)
    assert turns.due("a", 1) == ANNOUNCED_FIRST_WAIT_SECONDS, "the other one is not there yet"


def test_news_of_others_change_nothing() -> None:
    turns = Turns()
    attempt(turns, "a", 0)
    turns.connected("trusted")
    assert turns.due("b", 0) == 1


def test_never_two_at_once_whatever_happens() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        turns, connecting, now = Turns(), set[str](), 0.0
        for _ in range(100):
            name = f"c{chance.randrange(5)}"
            match chance.randrange(4):
                case 0 if turns.due(name, now) <= now:
                    turns.began(name)
                    connecting.add(name)
                case 1 if connecting:
                    turns.ended(connecting.pop(), now)
                case 2:
                    turns.connected(name)
                case _:
                    now += chance.choice((0.5, 30, 4000))
            assert len(connecting) <= 1
