# SPDX-License-Identifier: Apache-2.0
"""The registry of owners, watched: made before or after, and changed within an entry."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from discoverd import registry
from discoverd.api.owners import Owners
from discoverd.kernel.inotify import Inotify

from .fake_host import until


class Watched:
    """The registry below a directory, and what is heard of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.heard: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Owners]:
        owners = Owners(self.heard.append)
        loop = asyncio.get_running_loop()
        loop.add_reader(owners, owners.heard)
        yield owners
        loop.remove_reader(owners)
        owners.close()

    async def is_heard(self, name: str) -> None:
        await until(lambda: name in self.heard)
        self.heard.clear()

    def own(self, entry: str, owner: str) -> None:
        """Have another tool change an entry as nvme-cli does."""
        (self.root / entry / ".tmp").write_text(owner)
        (self.root / entry / ".tmp").rename(self.root / entry / "owner")


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(registry, "ROOT", str(tmp_path / "registry"))
    return Watched(tmp_path / "registry")


def run(watched: Watched, test: Callable[[Owners], Awaitable[None]]) -> None:
    async def running() -> None:
        async with watched.running() as owners:
            await test(owners)

    asyncio.run(running())


def test_entries_that_were_there_are_watched(watched: Watched) -> None:
    (watched.root / "nvme3").mkdir(parents=True)
    (watched.root / ".nvme4.tmp").mkdir()

    async def test(_: Owners) -> None:
        await watched.is_heard("")
        await asyncio.to_thread(watched.own, ".nvme4.tmp", "stas")
        await asyncio.to_thread(watched.own, "nvme3", "stas")
        await watched.is_heard("nvme3")

    run(watched, test)


def test_registry_and_entries_that_come_later_are_watched(watched: Watched) -> None:
    async def test(owners: Owners) -> None:
        await asyncio.to_thread((watched.root / ".nvme3.tmp").mkdir, parents=True)
        owners.look()
        await watched.is_heard("")
        await asyncio.to_thread((watched.root / ".nvme3.tmp").rename, watched.root / "nvme3")
        await watched.is_heard("nvme3")
        await asyncio.to_thread(watched.own, "nvme3", "stas")
        await watched.is_heard("nvme3")

    run(watched, test)


def test_registry_that_is_made_anew_is_watched_again(watched: Watched) -> None:
    watched.root.mkdir()

    async def test(owners: Owners) -> None:
        await watched.is_heard("")
        await asyncio.to_thread(watched.root.rmdir)
        await watched.is_heard("")
        await asyncio.to_thread((watched.root / "nvme3").mkdir, parents=True)
        owners.look()
        await watched.is_heard("")
        await asyncio.to_thread(watched.own, "nvme3", "stas")
        await watched.is_heard("nvme3")

    run(watched, test)


def test_registry_that_cannot_be_watched_is_said_once_and_tried_again(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    (watched.root / "nvme3").mkdir(parents=True)

    def full(_: Inotify, directory: str) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory)

    async def test(owners: Owners) -> None:
        owners.look()
        assert watched.heard == []
        refusing.undo()
        owners.look()
        await watched.is_heard("")
        await asyncio.to_thread(watched.own, "nvme3", "stas")
        await watched.is_heard("nvme3")

    with pytest.MonkeyPatch.context() as refusing:
        refusing.setattr(Inotify, "watch", full)
        run(watched, test)
    (line,) = caplog.messages
    assert line == f"{watched.root} cannot be watched: No space left on device; owners that change are seen late"
