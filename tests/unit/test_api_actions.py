# SPDX-License-Identifier: Apache-2.0
"""The places of each user: how many of his requests are carried out at once, and how soon after one in vain."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from discoverd.api import actions
from discoverd.api.actions import AT_ONCE, Actions
from discoverd.api.interfaces import ACCESS_DENIED, FAILED, INTERACTIVE_REQUIRED
from discoverd.api.refusal import RefusalError

USER, OTHER = 1000, 1001


async def ask(places: Actions, user: int, error: str = "") -> None:
    with contextlib.suppress(RefusalError):
        async with places.turn(user):
            if error:
                raise RefusalError(error, "")


@pytest.mark.parametrize("error", [ACCESS_DENIED, INTERACTIVE_REQUIRED])
def test_who_may_not_has_ever_fewer_processes_started(error: str) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        places = Actions()
        pauses: list[float] = []

        def soon(delay: float, release: Callable[..., None], *what: object) -> None:
            pauses.append(delay)
            loop.call_soon(release, *what)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_later", soon)
            for _ in range(8):
                # Whoever asked is answered at once, and the next one waits for a place.
                await ask(places, USER, error)
        assert pauses == [1, 2, 4, 8, 10, 10, 10, 10]

    asyncio.run(run())


def test_place_of_one_who_may_not_stays_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "PAUSE_SECONDS", 1000)
    monkeypatch.setattr(actions, "PAUSE_SECONDS_MAX", 1000)

    async def run() -> None:
        places = Actions()
        for _ in range(AT_ONCE):
            await ask(places, USER, ACCESS_DENIED)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask(places, USER), 0.05)
        await asyncio.wait_for(ask(places, OTHER), 5)

    asyncio.run(run())


def test_who_may_or_meets_another_error_does_not_wait() -> None:
    async def run() -> None:
        places = Actions()
        for _ in range(2 * AT_ONCE):
            await asyncio.wait_for(ask(places, USER), 5)
            await asyncio.wait_for(ask(places, USER, FAILED), 5)
        assert places._places == {}

    asyncio.run(run())
