# SPDX-License-Identifier: Apache-2.0
"""The first of the histories that `make fuzz` plays by the hundred thousand, and that they find what is wrong."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from discoverd.plan import evidence, facts, planner
from discoverd.plan.evidence import Asked, Evidence, Reading
from discoverd.sources import log_pages
from tests.fuzz import histories

# How many there are until each fault of the last test shows; most show in the first few.
ENOUGH = 500


def play(count: int) -> Counter[str]:
    reached: Counter[str] = Counter()
    for number in range(count):
        reached += histories.run(number)
    return reached


def test_the_rules_and_discoverd_withdraw_the_same() -> None:
    """And the histories reach what they are about."""
    reached = play(500)
    kinds = {"at once", "confirmation", "share", "confirm command", "damping", "closed", "ring"}
    assert {kind for kind in kinds if reached[kind] >= 5} == kinds


def test_the_same_number_is_the_same_history() -> None:
    assert histories.run(4711) == histories.run(4711)


Mutation = Callable[[pytest.MonkeyPatch], None]


def constant(name: str, value: float) -> Mutation:
    return lambda patch: patch.setattr(evidence, name, value)


def reading(**changes: Any) -> Mutation:
    """Have all readings taken with something else than they were read with."""
    read = Evidence.read

    def changed(self: Evidence, one: Reading, referred: Any) -> None:
        read(self, replace(one, **changes), referred)

    return lambda patch: patch.setattr(Evidence, "read", changed)


def pages_in_doubt_are_left_out(patch: pytest.MonkeyPatch) -> None:
    read = Evidence.read
    patch.setattr(Evidence, "read", lambda self, one, referred: None if one.inconclusive else read(self, one, referred))


def share(value: int) -> Mutation:
    judge = Evidence.judge

    def changed(self: Evidence, referred: Any, wanted: Any, weight: Any, _: int) -> Any:
        return judge(self, referred, wanted, weight, value)

    return lambda patch: patch.setattr(Evidence, "judge", changed)


def weight(worth: Callable[[int], int]) -> Mutation:
    judge = Evidence.judge

    def changed(self: Evidence, referred: Any, wanted: Any, weight: Any, share: int) -> Any:
        return judge(self, referred, wanted, lambda unit: worth(weight(unit)), share)

    return lambda patch: patch.setattr(Evidence, "judge", changed)


def gap(**changes: Any) -> Mutation:
    def changed(since: float, direct: bool) -> Any:
        one = original(since, direct)
        for name, value in changes.items():
            setattr(one, name, value)
        return one

    original = evidence._Gap
    return lambda patch: patch.setattr(evidence, "_Gap", changed)


def referrals_to_oneself_count(patch: pytest.MonkeyPatch) -> None:
    owes = planner._owes_answer

    def changed(origin: str, instance: str, facts: facts.Facts) -> bool:
        return origin == instance or owes(origin, instance, facts)

    patch.setattr(planner, "_owes_answer", changed)


def rings_keep_themselves(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(log_pages, "closed", lambda *_: frozenset())


def who_lists_last_decides(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planner, "_owes_answer", lambda *_: False)


def what_a_source_asked_for_goes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planner, "SOURCES", frozenset())


def no_word_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Evidence, "confirm", lambda *_: None)


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(constant("CONFIRM_READINGS", 1), id="one reading confirms"),
        pytest.param(constant("CONFIRM_SECONDS", 0), id="readings of one moment confirm"),
        pytest.param(constant("CONFIRM_SECONDS", 100_000), id="nothing is confirmed"),
        pytest.param(constant("HELD_SECONDS", 60), id="held for a minute"),
        pytest.param(constant("HELD_SECONDS", 1200), id="held for twenty minutes"),
        pytest.param(constant("DAMPING_RETURNS", 3), id="three returns are oscillation"),
        pytest.param(constant("DAMPING_SECONDS", 0), id="no damping"),
        pytest.param(constant("DAMPING_WINDOW_SECONDS", 6000), id="returns count for long"),
        pytest.param(reading(generation=0), id="generations do not go back"),
        pytest.param(reading(connection="1"), id="one connection"),
        pytest.param(reading(connection=""), id="connections are not known"),
        pytest.param(reading(possible_nqns=frozenset()), id="entries that cannot be used are nobody's"),
        pytest.param(reading(inconclusive=""), id="no page is inconclusive"),
        pytest.param(reading(asked=Asked.ALL_PORTS), id="all ports were asked for"),
        pytest.param(reading(asked=Asked.UNKNOWN), id="nobody knows what was asked for"),
        pages_in_doubt_are_left_out,
        pytest.param(share(100), id="share of all"),
        pytest.param(share(24), id="share of 24 percent"),
        pytest.param(weight(lambda _: 1), id="referrals weigh as much as volumes"),
        pytest.param(gap(direct=True), id="all gaps are proved at once"),
        pytest.param(gap(direct=False), id="no gap is proved at once"),
        referrals_to_oneself_count,
        rings_keep_themselves,
        who_lists_last_decides,
        what_a_source_asked_for_goes,
        no_word_is_kept,
    ],
)
def test_a_fault_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError, match="withdrawn"):
        play(ENOUGH)
