# SPDX-License-Identifier: Apache-2.0
"""Watching directories, with the kernel's real inotify."""

import errno
import os
import select
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from discoverd.kernel import inotify
from discoverd.kernel.inotify import Event, Inotify


@pytest.fixture
def watcher() -> Iterator[Inotify]:
    made = Inotify()
    yield made
    made.close()


def seen(watcher: Inotify) -> list[tuple[str, str, int]]:
    """Everything that has happened, directories by their last part, the flag of a directory taken away."""
    found = []
    while select.select([watcher], [], [], 0.05)[0]:
        found += [(os.path.basename(one.directory), one.name, one.mask & 0xFFFFFF) for one in watcher.read()]
    return found


def test_nothing_has_happened(watcher: Inotify, tmp_path: Path) -> None:
    assert watcher.watch(str(tmp_path))
    assert watcher.read() == []
    assert not os.get_inheritable(watcher.fileno())


def test_every_way_in_which_a_file_changes(watcher: Inotify, tmp_path: Path) -> None:
    here = tmp_path / "d"
    here.mkdir()
    assert watcher.watch(str(here))
    (here / "a").write_text("x")
    assert seen(watcher) == [("d", "a", inotify.CREATE), ("d", "a", inotify.CLOSE_WRITE)]
    (here / "a").rename(here / "b")
    assert seen(watcher) == [("d", "a", inotify.MOVED_FROM), ("d", "b", inotify.MOVED_TO)]
    (here / "b").chmod(0o600)
    assert seen(watcher) == [("d", "b", inotify.ATTRIB)]
    (here / "é").symlink_to("b")
    assert seen(watcher) == [("d", "é", inotify.CREATE)]
    (here / "b").read_text()
    assert seen(watcher) == []
    (here / "b").unlink()
    assert seen(watcher) == [("d", "b", inotify.DELETE)]


def test_a_directory_that_is_not_there_comes_and_goes(watcher: Inotify, tmp_path: Path) -> None:
    here = tmp_path / "d"
    assert watcher.watch(str(tmp_path))
    assert not watcher.watch(str(here))
    here.mkdir()
    assert [event.name for event in watcher.read()] == ["d"]
    assert watcher.watch(str(here))
    shutil.rmtree(here)
    assert ("d", "", inotify.DELETE_SELF) in seen(watcher)
    here.write_text("a file")
    assert not watcher.watch(str(here))


def test_replaced_directory_is_watched(watcher: Inotify, tmp_path: Path) -> None:
    here, away = tmp_path / "d", tmp_path / "away"
    here.mkdir()
    watcher.watch(str(here))
    here.rename(away)
    assert seen(watcher) == [("d", "", inotify.MOVE_SELF)]
    here.mkdir()
    watcher.watch(str(here))
    (away / "old").mkdir()
    (here / "new").mkdir()
    assert seen(watcher) == [("d", "new", inotify.CREATE)]
    # Watching the same again changes nothing.
    watcher.watch(str(here))
    (here / "newer").mkdir()
    assert seen(watcher) == [("d", "newer", inotify.CREATE)]


def test_lost_events_are_told(watcher: Inotify, tmp_path: Path) -> None:
    watcher.watch(str(tmp_path))
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip("this host's queue is too long to overflow it")
    for number in range(most // 2 + 10):
        # Two events each, different from the one before, which would be merged.
        (tmp_path / "a").rename(tmp_path / "b") if number else (tmp_path / "a").touch()
        (tmp_path / "b").rename(tmp_path / "a") if number else None
    found = []
    while events := watcher.read():
        found += events
    assert found[-1] == Event("", "", inotify.OVERFLOW)


def test_failures_name_what_and_why(watcher: Inotify, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="loop") as caught:
        watcher.watch(str(loop))
    assert caught.value.errno == errno.ELOOP
    monkeypatch.setattr(inotify._libc, "inotify_init1", lambda _: -1)
    with pytest.raises(OSError, match="inotify"):
        Inotify()
