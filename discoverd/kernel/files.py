# SPDX-License-Identifier: Apache-2.0
"""Files that the kernel or a daemon keeps for reading, of processes that may end at any moment among them.

Used by workers, so it imports only what they may.
"""

import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# ENOMEM, ENFILE, EMFILE: they say nothing about what was to be read, and must not pass for its absence.
SHORTAGES = (12, 23, 24)


def head(path: str) -> bytes:
    """Return the first 64 bytes of a file, none if it cannot be read. Raises OSError for SHORTAGES only."""
    return _read(path, lambda fd: posix.read(fd, 64))


def whole(path: str, deadline: float = 0) -> bytes:
    """Return a file's content, empty if it cannot be read; what was read by ``deadline`` (monotonic) if one is given.

    Raises OSError for SHORTAGES only.
    """

    def pages(fd: int) -> bytes:
        chunks = []
        # The kernel gives a table page by page, so that each read is short.
        while (not deadline or time.monotonic() < deadline) and (chunk := posix.read(fd, 1 << 16)):
            chunks.append(chunk)
        return b"".join(chunks)

    return _read(path, pages)


def _read(path: str, read: "Callable[[int], bytes]") -> bytes:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return read(fd)
        finally:
            posix.close(fd)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""  # It is not there, or the process has just ended.
