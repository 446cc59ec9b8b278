# SPDX-License-Identifier: Apache-2.0
"""Locks in a directory that only root can enter."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from discoverd.kernel import locks


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "run" / "locks"
    monkeypatch.setattr(locks, "DIRECTORY", str(made))
    return made


def test_the_directories_are_made_for_root_only(directory: Path) -> None:
    os.close(locks.take("one", 0, ""))
    os.close(locks.take("one", 0, ""))
    assert [path.stat().st_mode & 0o777 for path in (directory.parent, directory, directory / "one")] == [
        0o700,
        0o700,
        0o600,
    ]


def test_one_has_it_at_a_time() -> None:
    first = locks.take("one", 0, "")
    os.close(locks.take("other", 0, ""))
    with pytest.raises(locks.LockError) as caught:
        locks.take("one", 0.05, "it is taken")
    assert (caught.value.errno, caught.value.strerror) == (errno.ETIMEDOUT, "it is taken")
    threading.Timer(0.1, os.close, (first,)).start()
    began = time.monotonic()
    os.close(locks.take("one", 5, ""))
    assert 0.05 < time.monotonic() - began < 4


def test_lock_that_cannot_be_made_is_no_missing_controller(directory: Path) -> None:
    directory.parent.mkdir()
    directory.write_text("")
    with pytest.raises(locks.LockError, match="cannot lock") as caught:
        locks.take("one", 0, "")
    assert not isinstance(caught.value, FileNotFoundError)


def test_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "one").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(locks.LockError, match="cannot lock"):
        locks.take("one", 0, "")
    assert not (tmp_path / "elsewhere").exists()
