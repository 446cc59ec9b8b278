# SPDX-License-Identifier: Apache-2.0
"""Exclusion lists that are edited while they are watched: real files, real inotify, short waits."""

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from discoverd.kernel import inotify
from discoverd.kernel.inotify import Event, Inotify
from discoverd.sources import exclusion_files
from discoverd.sources.exclusion_files import ExclusionFiles

from . import virtual_time

SOAK = 0.1


class Desk:
    """The lists below a directory, their source, and how often it said that something changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes = 0
        self.source = ExclusionFiles(self.changed, str(root))
        self.loads = 0

    def changed(self) -> None:
        self.changes += 1

    def put(self, name: str, *entries: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "[exclusions]\n" + "".join(f"exclusion = {entry}\n" for entry in entries)
        temporary = path.parent / ".excl.tmp.abcdef"
        temporary.write_text(text)
        temporary.rename(path)

    @property
    def nqns(self) -> list[str]:
        return [entry.fields["nqn"] for entry in self.source.exclusions.entries]

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not reached():  # noqa: ASYNC110  # It has no event to wait for.
                await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """Long enough for an edit to be read."""
        await asyncio.sleep(3 * SOAK)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(exclusion_files, "DEBOUNCE_SECONDS", SOAK)
    (tmp_path / "etc" / "nvme").mkdir(parents=True)
    made = Desk(tmp_path / "etc" / "nvme")
    look = made.source._look

    def counted() -> object:
        made.loads += 1
        return look()

    monkeypatch.setattr(made.source, "_look", counted)
    return made


def run(desk: Desk, story: Callable[[Desk], Awaitable[None]]) -> None:
    """Tell a story while the source watches."""

    async def main() -> None:
        await desk.source.load()
        task = asyncio.create_task(desk.source.run())
        await desk.until(lambda: desk.loads == 2)
        await asyncio.sleep(0.02)
        try:
            await story(desk)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(main())


def test_the_first_load_needs_no_watch(desk: Desk) -> None:
    desk.put("exclusions.conf", "nqn=nqn.a")
    virtual_time.run(desk.source.load())
    assert (desk.nqns, desk.changes) == (["nqn.a"], 1)


@pytest.mark.parametrize("name", ["exclusions.conf", "exclusions.conf.d/a.conf", "exclusions/a"])
def test_each_list_is_watched_also_one_that_comes_later(desk: Desk, name: str) -> None:
    async def story(desk: Desk) -> None:
        for number, entries in enumerate((["nqn=nqn.a"], ["nqn=nqn.b"], []), 1):
            desk.put(name, *entries)
            await desk.until(lambda number=number: desk.changes == number)  # type: ignore[misc]
            assert desk.nqns == [entry.removeprefix("nqn=") for entry in entries]
        desk.put(name, "nqn=nqn.a")
        await desk.until(lambda: desk.changes == 4)
        (desk.root / name).unlink()
        await desk.until(lambda: desk.changes == 5)
        assert desk.nqns == []

    run(desk, story)


def test_a_burst_of_edits_is_read_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than a busy machine keeps two edits apart.
    monkeypatch.setattr(exclusion_files, "DEBOUNCE_SECONDS", 10 * SOAK)

    async def story(desk: Desk) -> None:
        for number in range(20):
            desk.put("exclusions.conf.d/a.conf", f"nqn=nqn.{number}")
            desk.put("exclusions.conf", f"nqn=nqn.{number}")
            await asyncio.sleep(SOAK / 10)
        await desk.until(lambda: desk.changes == 1)
        await desk.settled()
        assert (desk.loads, desk.changes, desk.nqns) == (3, 1, ["nqn.19", "nqn.19"])

    run(desk, story)


def test_edits_without_end_count_after_a_while(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusion_files, "DEBOUNCE_MAX_SECONDS", 4 * SOAK)

    async def story(desk: Desk) -> None:
        number = 0
        loop = asyncio.get_running_loop()
        began = edited = loop.time()
        longest_pause = 0.0
        while not desk.changes:
            number += 1
            desk.put("exclusions.conf", f"nqn=nqn.{number}")
            longest_pause, edited = max(longest_pause, loop.time() - edited), loop.time()
            await asyncio.sleep(SOAK / 10)
            assert loop.time() - began < 30
        # A busy machine may have paused for so long that the edits did end.
        assert loop.time() - began > 3 * SOAK or max(longest_pause, loop.time() - edited) >= SOAK

    run(desk, story)


def test_an_edit_that_changes_nothing_is_no_news(desk: Desk) -> None:
    desk.put("exclusions.conf", "nqn=nqn.a")

    async def story(desk: Desk) -> None:
        (desk.root / "exclusions.conf").write_text("[exclusions]\nexclusion = nqn=nqn.a\n# for a while\n")
        await desk.until(lambda: desk.loads == 3)
        await desk.settled()
        assert desk.changes == 1

    run(desk, story)


def test_file_that_is_no_list_is_not_read(desk: Desk) -> None:
    desk.put("exclusions.conf.d/a.conf", "nqn=nqn.a")

    async def story(desk: Desk) -> None:
        (desk.root / "nvme-fabrics.conf").write_text("x")
        (desk.root.parent / "fstab").write_text("x")
        (desk.root / "exclusions.conf.d" / ".excl.tmp.abcdef").write_text("x")
        await desk.settled()
        assert desk.loads == 2

    run(desk, story)


def test_the_directories_go_and_come_again(desk: Desk) -> None:
    desk.put("exclusions.conf.d/a.conf", "nqn=nqn.a")

    async def story(desk: Desk) -> None:
        shutil.rmtree(desk.root / "exclusions.conf.d")
        await desk.until(lambda: desk.nqns == [])
        desk.put("exclusions.conf.d/a.conf", "nqn=nqn.b")
        await desk.until(lambda: desk.nqns == ["nqn.b"])
        desk.put("exclusions.conf.d/b.conf", "nqn=nqn.c")
        await desk.until(lambda: desk.nqns == ["nqn.b", "nqn.c"])
        desk.root.rename(desk.root.parent / "nvme.old")
        await desk.until(lambda: desk.nqns == [])
        desk.put("exclusions.conf", "nqn=nqn.d")
        await desk.until(lambda: desk.nqns == ["nqn.d"])
        changes = desk.changes
        (desk.root.parent / "nvme.old" / "exclusions.conf.d" / "b.conf").unlink()
        await desk.settled()
        assert desk.changes == changes

    run(desk, story)


def test_lost_events_mean_reading_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = asyncio.Event()

    def read(self: Inotify) -> list[Event]:
        real(self)
        return [Event("", "", inotify.OVERFLOW)] if lost.is_set() else []

    real = Inotify.read
    monkeypatch.setattr(Inotify, "read", read)

    async def story(desk: Desk) -> None:
        desk.put("exclusions.conf", "nqn=nqn.a")
        await desk.settled()
        assert desk.changes == 0
        lost.set()
        (desk.root / "unrelated").touch()
        await desk.until(lambda: desk.nqns == ["nqn.a"])

    run(desk, story)


def test_faults_are_said_once_each_time_they_change(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "discoverd")

    async def story(desk: Desk) -> None:
        desk.put("exclusions.conf", "nqn=nqn.a", "subsysnqn=x")
        await desk.until(lambda: desk.changes == 1)
        desk.put("exclusions.conf", "nqn=nqn.b", "subsysnqn=x", "y")
        await desk.until(lambda: desk.changes == 2)

    run(desk, story)
    where = f"{desk.root}/exclusions.conf"
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", "exclusions read: 1 in force"),
        ("ERROR", f"{where}:3: 'subsysnqn' is no key of an exclusion; did you mean nqn?"),
        ("INFO", "exclusions read: 1 in force"),
        ("ERROR", f"{where}:4: 'y' has no '='; write KEY=VALUE, separated by semicolons"),
    ]


def test_a_directory_of_garbage_is_no_journal_of_garbage(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(20):
        desk.put(f"exclusions.conf.d/{number}.conf", *["x"] * 50)
    os.mkfifo(desk.root / "exclusions.conf")
    virtual_time.run(desk.source.load())
    said = [one.getMessage() for one in caplog.records]
    assert len(said) == exclusion_files.PROBLEMS_SAID + 1
    assert said[0] == f"{desk.root}/exclusions.conf: it is not a regular file, so nothing in it counts; mend that"
    assert said[-1] == "and 901 more faults in exclusion lists; mend these first"


@pytest.mark.parametrize("where", ["init", "watch"])
def test_without_inotify_the_lists_are_read_now_and_then(
    desk: Desk, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exclusion_files, "POLL_INTERVAL_SECONDS", 0.05)

    def refused(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device", "/etc/nvme")

    monkeypatch.setattr(Inotify, {"init": "__init__", "watch": "watch"}[where], refused)

    async def story(desk: Desk) -> None:
        for number in range(3):
            desk.put("exclusions.conf", f"nqn=nqn.{number}")
            await desk.until(lambda number=number: desk.nqns == [f"nqn.{number}"])  # type: ignore[misc]

    run(desk, story)
    said = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(said) == 1
    assert said[0].startswith("exclusions cannot be watched (No space left on device")
