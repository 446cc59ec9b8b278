# SPDX-License-Identifier: Apache-2.0
"""What cannot be connected: what of it is kept, and how often it is logged."""

import time
from dataclasses import replace

import pytest

from discoverd.plan.candidate import Refusal
from discoverd.supervisor import refusals
from discoverd.supervisor.refusals import Refusals


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test may set."""
    at = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    return at


def some(number: int, mark: str = "a") -> tuple[Refusal, ...]:
    return tuple(Refusal(f"nqn.{mark}{one}", "in a log page", "it is bad") for one in range(number))


def test_refusal_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    made = Refusals()
    made.put(some(1))
    made.put(some(2))
    assert caplog.messages == ["nqn.a0 (in a log page): it is bad", "nqn.a1 (in a log page): it is bad"]
    assert made.current == some(2)


def test_refusal_that_is_no_fault_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "discoverd")
    expected = Refusal("2 entries over rdma", "in a log page", "there is no device", expected=True)
    Refusals().put((expected, *some(refusals.SAID_AT_ONCE - 1)))
    assert caplog.records[-1].getMessage() == "2 entries over rdma (in a log page): there is no device"
    assert [one.levelname for one in caplog.records[-2:]] == ["WARNING", "INFO"]


def test_refusal_that_was_gone_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    made = Refusals()
    for given in (some(1), (), some(1)):
        made.put(given)
    assert len(caplog.messages) == 2


def test_refusals_are_logged_again_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    made = Refusals()
    made.put(some(1))
    made.say_again()
    assert len(caplog.messages) == 1
    made.put(some(1))
    assert len(caplog.messages) == 2


def test_refusals_beyond_what_is_logged_at_once_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    made = Refusals()
    made.put(some(refusals.SAID_AT_ONCE))
    assert len(caplog.messages) == refusals.SAID_AT_ONCE
    made.put(some(refusals.SAID_AT_ONCE + 3, "b"))
    assert len(caplog.messages) == 2 * refusals.SAID_AT_ONCE + 1
    assert caplog.messages[-1] == "and 3 more that cannot be connected"


def test_refusals_beyond_the_limit_are_not_logged_for_some_minutes(
    caplog: pytest.LogCaptureFixture, now: list[float]
) -> None:
    made = Refusals()
    for number in range(refusals.SAID_LIMIT // refusals.SAID_AT_ONCE - 1):
        made.put(some(refusals.SAID_AT_ONCE, str(number)))
    # Room for so many, less two.
    made.put(some(refusals.SAID_AT_ONCE - 2, "x"))
    made.put(some(5, "y"))
    assert caplog.messages[-1] == "and 3 more that cannot be connected"
    before = len(caplog.messages)
    # Not even how many they are.
    made.put(some(5, "z"))
    now[0] += refusals.SAID_SECONDS - 1
    made.put(some(5, "u"))
    assert len(caplog.messages) == before
    now[0] += 1
    made.put(some(5, "v"))
    assert len(caplog.messages) == before + 5
    # And from then on.
    now[0] += refusals.SAID_SECONDS - 1
    for number in range(refusals.SAID_LIMIT):
        made.put(some(refusals.SAID_AT_ONCE, f"w{number}"))
    assert len(caplog.messages) == before + refusals.SAID_LIMIT + 1
    assert caplog.messages[-1] == "and 5 more that cannot be connected"


def test_refusals_of_the_announced_silence_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    made = Refusals()
    for number in range(refusals.SAID_LIMIT_ANNOUNCED):
        hostile = tuple(replace(one, trusted=False) for one in some(refusals.KEPT, f"hostile{number}-"))
        made.put(hostile)
    lines = [one for one in caplog.messages if not one.startswith("and ")]
    assert len(lines) == refusals.SAID_LIMIT_ANNOUNCED
    trusted = some(refusals.SAID_AT_ONCE)
    made.put((*hostile[: -len(trusted)], *trusted))
    assert made.current[: len(trusted)] == trusted, "first of those that are kept"
    assert caplog.messages[-len(trusted) :] == [f"{one.what} (in a log page): it is bad" for one in trusted]


def test_refusals_beyond_what_is_kept_are_one(caplog: pytest.LogCaptureFixture) -> None:
    made = Refusals()
    made.put(some(refusals.KEPT))
    assert made.current == some(refusals.KEPT)
    made.put(some(refusals.KEPT + 1))
    assert made.current[:-1] == some(refusals.KEPT)
    assert made.current[-1].reason == "so many entries cannot be connected that the rest is not shown"
