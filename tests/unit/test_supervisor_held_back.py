# SPDX-License-Identifier: Apache-2.0
"""What of log pages is not acted on yet, in words."""

import time

import pytest

from discoverd.plan.evidence import Pending, Wait
from discoverd.plan.facts import Answer, HeldBack
from discoverd.sources.log_pages import LogPages
from discoverd.supervisor.held_back import held_back

DC = "tcp:192.0.2.1:8009:nqn.dc"


def pages(*waits: tuple[Wait, float], more: int = 0) -> LogPages:
    """A page that lists so many more, and no longer some for each of which something has to come before."""
    made = LogPages()
    made.pending = {DC: {f"unit{number}": Pending(wait, "why", until) for number, (wait, until) in enumerate(waits)}}
    made.waiting = {DC: frozenset(made.pending[DC])}
    made.listed = {DC: len(waits) + more}
    made.authoritative = {DC: Answer("generation 7")}
    return made


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time on the wall, at 0 seconds of CLOCK_BOOTTIME, which a test may set."""
    at = [time.mktime((2026, 1, 2, 14, 0, 0, 0, 0, -1))]
    monkeypatch.setattr(time, "time", lambda: at[0])
    monkeypatch.setattr(time, "clock_gettime", lambda _: 0.0)
    return at


def test_pages_that_wait_for_nothing_hold_nothing_back() -> None:
    assert held_back(LogPages(), {}) == {}


def test_missing_controllers_are_counted_with_the_page_and_the_time() -> None:
    text = "2 of 5 controllers that its log page listed are missing from it (generation 7), and stay until 14:02 at "
    text += "least: it has started anew, and has to say so again"
    found = held_back(pages((Wait.CONFIRMATION, 60.5), (Wait.CONFIRMATION, 90.0), more=3), {})
    assert found == {DC: HeldBack(Wait.CONFIRMATION, text, 90.0, "14:02")}


@pytest.mark.parametrize(
    ("waits", "told", "why"),
    [
        ((Wait.DAMPING, Wait.CONFIRMATION, Wait.SHARE), Wait.SHARE, "they are more than disconnect-share"),
        ((Wait.DAMPING, Wait.CONFIRMATION), Wait.CONFIRMATION, "it has started anew, and has to say so again"),
        ((Wait.DAMPING,), Wait.DAMPING, "they come and go"),
    ],
)
def test_most_telling_reason_is_told_with_those_that_have_it(waits: tuple[Wait, ...], told: Wait, why: str) -> None:
    (found,) = held_back(pages(*((wait, 600.0 - 60 * number) for number, wait in enumerate(waits))), {}).values()
    assert found.wait is told
    assert found.text.startswith(f"1 of {len(waits)} controllers")
    assert found.text.endswith(f": {why}")
    assert found.until == 600.0 - 60 * (len(waits) - 1)


def test_clock_that_is_set_does_not_change_the_words(now: list[float]) -> None:
    before = held_back(pages((Wait.DAMPING, 60.0)), {})
    now[0] += 3600
    assert held_back(pages((Wait.DAMPING, 60.0)), before) == before
    # But another time is worked out.
    assert held_back(pages((Wait.DAMPING, 120.0)), before)[DC].clock == "15:02"


@pytest.mark.parametrize(("until", "clock"), [(0.0, "14:00"), (1.0, "14:01"), (60.0, "14:01"), (61.0, "14:02")])
def test_time_is_the_next_full_minute(until: float, clock: str) -> None:
    assert held_back(pages((Wait.DAMPING, until)), {})[DC].clock == clock
