# SPDX-License-Identifier: Apache-2.0
"""The lock that makes a supervisor the only one of its host.

A second one would take the workers' wake socket from the first, and both would decide about the same units. It is a
POSIX record lock: the kernel says who holds it, so that no file has to be believed; it ends with the process, however
that ends; and no child inherits it. It would also end with the first descriptor of this file that the process closes,
so nothing else may open the file.
"""

import fcntl
import os
import struct
import time

from discoverd import state

# struct flock of fcntl(2): type, whence, start, length, process.
_FLOCK = "hhqqi"
_POLL_INTERVAL_SECONDS = 0.1


class HeldError(Exception):
    """Another process holds the lock. ``pid`` is its number, 0 where that is of another PID namespace."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid} holds it")
        self.pid = pid


def path() -> str:
    """Return where the file is; it stays when the process ends."""
    return state.ROOT + "/supervisor.lock"


def take(timeout: float = 0.0) -> int:
    """Take the lock for as long as the process lives, and return the file's descriptor, which is never closed.

    Blocks for ``timeout`` seconds at most. Raises HeldError, and OSError where there can be no such file.
    """
    os.makedirs(state.ROOT, mode=0o700, exist_ok=True)
    fd = os.open(path(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            pid = _holder(fd)
        if pid is None:
            continue  # It has ended between the two questions.
        if time.monotonic() >= end:
            os.close(fd)
            raise HeldError(pid)
        time.sleep(_POLL_INTERVAL_SECONDS)


def check() -> None:
    """Raise HeldError if another process holds the lock, and OSError where that cannot be told; touches nothing."""
    try:
        fd = os.open(path(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        pid = _holder(fd)
    finally:
        os.close(fd)
    if pid is not None:
        raise HeldError(pid)


def _holder(fd: int) -> int | None:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)
