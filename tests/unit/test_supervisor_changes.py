# SPDX-License-Identifier: Apache-2.0
"""The queue of what the supervisor is to look at."""

import asyncio
from collections.abc import Callable

import pytest

from discoverd.supervisor.changes import Changes, News

from . import virtual_time


async def wakes(changes: Changes) -> bool:
    """Tell whether a round would begin."""
    waiting = asyncio.ensure_future(changes.wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    woken = waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    return woken


@pytest.fixture
def changes() -> Changes:
    made = Changes()
    made.take()
    return made


def test_new_queue_has_all_units() -> None:
    assert Changes().take() == News((), None, frozenset())


@pytest.mark.parametrize(
    ("add", "news"),
    [
        (lambda one: one.add(["b", "a", "b"]), News(("b", "a"))),
        (lambda one: one.add_unit("a"), News(("a",), frozenset({"a"}))),
        (lambda one: one.add_all_units(), News((), None)),
        (lambda one: (one.add_all_units(), one.add_unit("a")), News(("a",), None)),
        (lambda one: one.add_report("a"), News((), frozenset(), frozenset({"a"}))),
        (lambda one: one.add_all_reports(), News((), frozenset(), None)),
        (lambda one: (one.add_all_reports(), one.add_report("a")), News((), frozenset(), None)),
        (lambda one: one.wake(), News()),
    ],
)
def test_added_change_wakes_and_is_taken_once(changes: Changes, add: Callable[[Changes], object], news: News) -> None:
    async def scenario() -> None:
        assert not await wakes(changes)
        add(changes)
        assert await wakes(changes)
        assert changes.undecided == bool(news.instances)
        assert changes.take() == news
        assert not await wakes(changes)
        assert changes.take() == News()

    virtual_time.run(scenario())


def test_change_put_back_comes_first_and_does_not_wake(changes: Changes) -> None:
    async def scenario() -> None:
        changes.put_back(["a", "b"], frozenset({"a"}))
        assert not await wakes(changes)
        assert changes.undecided
        changes.add_unit("c")
        changes.put_back(["d"], frozenset({"d"}))
        assert changes.take() == News(("d", "a", "b", "c"), frozenset({"a", "c", "d"}))

    virtual_time.run(scenario())


@pytest.mark.parametrize("first", [True, False])
def test_all_units_stay_all_when_some_are_put_back(changes: Changes, first: bool) -> None:
    changes.put_back([], None if first else frozenset({"a"}))
    if not first:
        changes.add_all_units()
    changes.put_back([], frozenset({"b"}))
    assert changes.take().units is None
