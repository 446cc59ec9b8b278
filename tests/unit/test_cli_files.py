# SPDX-License-Identifier: Apache-2.0
"""Files that discoverctl writes."""

import errno
import os
from pathlib import Path

import pytest

from discoverd.cli import files


def test_new_file_has_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    files.replace(path, b"new\n", 0o644, ".x.")
    assert path.read_bytes() == b"new\n"
    assert path.stat().st_mode & 0o7777 == 0o644
    assert os.listdir(tmp_path) == ["x.conf"]


def test_open_file_is_not_written_into(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text("old")
    with path.open() as reader:
        files.replace(path, b"new", 0o600, ".x.")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("call", ["fsync", "fchmod", "rename"])
def test_failure_keeps_old_content_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "x.conf"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        files.replace(path, b"new", 0o644, ".x.")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.conf"]


def test_both_file_and_directory_are_made_lasting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))[:3])
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    files.replace(tmp_path / "x.conf", b"new", 0o644, ".x.")
    assert synced == [".x.", tmp_path.name[:3]]
