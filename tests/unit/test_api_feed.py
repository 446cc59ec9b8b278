# SPDX-License-Identifier: Apache-2.0
"""The reader's end in the API: nobody waits for a log page without an answer."""

import asyncio
from pathlib import Path

import pytest

from discoverd.api import feed
from discoverd.api.feed import Feed, FeedError


def test_all_who_wait_for_a_page_that_does_not_come_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "SOCKET", str(tmp_path / "reader"))
    monkeypatch.setattr(feed, "PAGE_TIMEOUT_SECONDS", 0.1)

    ended: asyncio.Event

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    async def ask(one: Feed, after: float) -> bytes:
        await asyncio.sleep(after)
        return await one.page("a")

    async def run() -> None:
        nonlocal ended
        connected, ended = asyncio.Event(), asyncio.Event()
        one = Feed(lambda *_: connected.set())
        async with await asyncio.start_unix_server(silent, feed.SOCKET):
            running = asyncio.create_task(one.run())
            await connected.wait()
            answers = await asyncio.gather(ask(one, 0), ask(one, 0.05), return_exceptions=True)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await ended.wait()
        assert [type(answer) for answer in answers] == [FeedError, FeedError]

    asyncio.run(run())
