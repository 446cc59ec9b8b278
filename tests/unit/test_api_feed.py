# SPDX-License-Identifier: Apache-2.0
"""What the API reads of /run/discoverd, and hears of it when it changes."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from discoverd import state, store
from discoverd.api import feed
from discoverd.api.feed import Feed
from discoverd.kernel.admin import HEADER_SIZE
from discoverd.kernel.inotify import Inotify

from .fake_host import until
from .private_bus import DC, SECRET, instance, make, page, patch, plan, report, spec

ONE = instance(1)


class Told:
    """A feed, and what it has told."""

    def __init__(self) -> None:
        self.feed = Feed(lambda *fact: self.facts.append(fact))
        self.facts: list[tuple[str, str, bytes]] = []

    async def until(self, kind: str, name: str = "", has: bytes = b"") -> list[tuple[str, str, bytes]]:
        """Wait for a fact with something in it; return all that have come by then."""
        await until(lambda: any(one[:2] == (kind, name) and has in one[2] for one in self.facts))
        found = list(self.facts)
        self.facts.clear()
        return found


@pytest.fixture(autouse=True)
def _host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    patch(tmp_path, monkeypatch)


def run(test: Callable[[Told], Awaitable[None]]) -> None:
    async def running() -> None:
        told = Told()
        task = asyncio.create_task(told.feed.run())
        try:
            await test(told)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(running())


def test_all_that_there_is_and_what_comes_of_it() -> None:
    plan({ONE: "keep"})
    spec(ONE)
    report(ONE)

    async def test(told: Told) -> None:
        assert {one[:2] for one in await told.until("whole")} == {
            *(("plan", ""), ("whole", "")),
            *((kind, ONE) for kind in ("report", "spec", "log")),
        }
        await asyncio.to_thread(report, ONE, "live")
        await told.until("report", ONE, b"state=live")
        await asyncio.to_thread(plan, {ONE: "leave"})
        await told.until("plan", "", b'"leave"')
        await asyncio.to_thread(spec, DC)
        await told.until("spec", DC, b"traddr")
        await asyncio.to_thread(store.forget, ONE)
        await told.until("gone", ONE)

    run(test)


def test_directory_that_comes_later_or_again() -> None:
    root = Path(state.ROOT)
    (root / "controllers").rmdir()
    root.rmdir()

    async def test(told: Told) -> None:
        assert await told.until("whole") == [("plan", "", b""), ("whole", "", b"")]
        await asyncio.to_thread((root / "controllers").mkdir, parents=True)
        await asyncio.to_thread(spec, ONE)
        await told.until("spec", ONE, b"traddr")
        await asyncio.to_thread(store.forget, ONE)
        await asyncio.to_thread((root / "controllers").rmdir)
        await told.until("gone", ONE)
        await asyncio.to_thread((root / "controllers").mkdir)
        await asyncio.to_thread(spec, ONE)
        await told.until("spec", ONE, b"traddr")

    run(test)


def test_what_cannot_be_watched_is_told_once_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec(ONE)

    def watch(_: Inotify, directory: str) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory)

    monkeypatch.setattr(Inotify, "watch", watch)

    async def test(told: Told) -> None:
        assert ("plan", "", b"") in (facts := await told.until("whole"))
        assert any(one[:2] == ("spec", ONE) and b"traddr" in one[2] for one in facts)

    run(test)
    (line,) = caplog.messages
    assert line == f"{state.ROOT} cannot be watched: No space left on device; what changes there is not seen"


def test_whole_page_is_read_only_when_asked_for() -> None:
    spec(DC)
    page(b"g" * 100_000)

    async def test(told: Told) -> None:
        facts = {kind: content for kind, _, content in await told.until("whole")}
        assert len(facts["log"]) == feed.HEAD_BYTES_MAX + HEADER_SIZE
        assert (await told.feed.page(DC)).endswith(b"g" * 100_000)
        assert await told.feed.page(ONE) == b""

    run(test)


def test_storm_of_reports_is_told_as_it_is_by_then() -> None:
    for number in range(100):
        spec(instance(number))

    async def test(told: Told) -> None:
        await told.until("whole")

        def storm() -> None:
            for _ in range(20):
                for number in range(100):
                    report(instance(number), note="x" * 2000)
            report(ONE, "live")

        await asyncio.to_thread(storm)
        facts = await told.until("report", ONE, b"state=live")
        assert {one for _, one, _ in facts} == set(map(instance, range(100)))
        assert told.feed._due == {}

    run(test)


def test_no_secret_of_a_specification_is_read() -> None:
    spec(ONE)
    assert SECRET in Path(state.directory(ONE), "spec").read_text()

    async def test(told: Told) -> None:
        facts = await told.until("whole")
        assert any(kind == "spec" and content for kind, _, content in facts)
        assert all(SECRET.encode() not in content and b"dhchap" not in content for _, _, content in facts)

    run(test)


def test_files_that_are_no_state() -> None:
    folder = Path(state.CONTROLLERS)
    (folder / "file").write_text("x")
    spec(ONE)
    (folder / ONE / "report").symlink_to("/etc/passwd")
    os.mkfifo(folder / ONE / "log")
    (folder / "é\n").mkdir()

    async def test(told: Told) -> None:
        facts = await told.until("whole")
        assert {name for _, name, _ in facts} == {"", ONE, "file"}
        assert all(not content for kind, _, content in facts if kind in ("report", "log"))

    run(test)
