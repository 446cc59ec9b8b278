# SPDX-License-Identifier: Apache-2.0
"""Locks among our own processes: files that only root can open.

Whoever can open a file or directory can lock it, and keep the lock: so never one in sysfs or /etc, which all users can
read. Used by workers, so it imports only what they may.
"""

import fcntl
import posix
import time

from discoverd import state

DIRECTORY = state.ROOT + "/locks"
_POLL_INTERVAL_SECONDS = 0.02
_ETIMEDOUT = 110


class LockError(OSError):
    """A lock that could not be taken; ``strerror`` says why. Never a FileNotFoundError, whatever was not found."""


def take(name: str, seconds: float, meaning: str) -> int:
    """Wait for a lock, and return the descriptor that holds it until it is closed.

    Raises LockError: after ``seconds`` with ``meaning``, what it means that another process has it.
    """
    try:
        for folder in (DIRECTORY.rpartition("/")[0], DIRECTORY):
            try:
                posix.mkdir(folder, 0o700)
            except FileExistsError:
                pass
        fd = posix.open(f"{DIRECTORY}/{name}", posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LockError(error.errno, f"cannot lock {DIRECTORY}/{name}: {error.strerror}") from None
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                posix.close(fd)
                raise LockError(_ETIMEDOUT, meaning) from None
        time.sleep(_POLL_INTERVAL_SECONDS)
