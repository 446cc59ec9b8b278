# SPDX-License-Identifier: Apache-2.0
"""How much of large answers each user gets."""

from hypothesis import given
from hypothesis import strategies as st

from discoverd.api.budget import BYTES_MAX, BYTES_PER_SECOND, LARGE_BYTES, Budget

USER, OTHER, ROOT = 1000, 1001, 0


def test_budget_comes_back_with_time() -> None:
    budget = Budget()
    assert budget.spend(USER, BYTES_MAX, 100)
    assert not budget.spend(USER, LARGE_BYTES + 1, 100)
    assert budget.spend(USER, LARGE_BYTES, 100), "small answers are not counted"
    assert budget.spend(OTHER, BYTES_MAX, 100)
    assert budget.spend(USER, BYTES_PER_SECOND, 101)
    assert not budget.spend(USER, BYTES_PER_SECOND, 101)


def test_answer_larger_than_the_budget_is_had_once() -> None:
    budget = Budget()
    assert budget.spend(USER, 2 * BYTES_MAX, 0)
    assert not budget.spend(USER, LARGE_BYTES + 1, 10)
    assert budget.spend(USER, 2 * BYTES_MAX, BYTES_MAX / BYTES_PER_SECOND + 1)


def test_root_has_no_budget() -> None:
    budget = Budget()
    assert all(budget.spend(ROOT, BYTES_MAX, 0) for _ in range(10))


@given(st.lists(st.tuples(st.integers(LARGE_BYTES + 1, BYTES_MAX), st.floats(0, 100)), max_size=50))
def test_nobody_gets_more_than_budget_and_time_allow(asked: list[tuple[int, float]]) -> None:
    budget, now, given_bytes, largest = Budget(), 0.0, 0, 0
    for size, pause in asked:
        now += pause
        largest = max(largest, size)
        given_bytes += size if budget.spend(USER, size, now) else 0
    assert given_bytes <= BYTES_MAX + now * BYTES_PER_SECOND + largest + 1
