# SPDX-License-Identifier: Apache-2.0
"""Files that the kernel or a daemon keeps for reading, of processes that may end at any moment among them.

Used by workers, so it imports only what they may.
"""

import posix
import time

# ENOMEM, ENFILE, EMFILE: they say nothing about what was to be read, and must not pass for its absence.
SHORTAGES = (12, 23, 24)


def head(path: str) -> bytes:
    """Return the first 64 bytes of a file, none if it cannot be read. Raises OSError for SHORTAGES only."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""
    try:
        return posix.read(fd, 64)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""  # The process has just ended.
    finally:
        posix.close(fd)


def whole(path: str, deadline: float = 0) -> bytes:
    """Return a file's content, empty if it cannot be read; what was read by ``deadline`` (monotonic) if one is given.

    Raises OSError for SHORTAGES only.
    """
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""
    chunks = []
    try:
        # The kernel gives a table page by page, so that each read is short.
        while (not deadline or time.monotonic() < deadline) and (chunk := posix.read(fd, 1 << 16)):
            chunks.append(chunk)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""  # The process has just ended.
    finally:
        posix.close(fd)
    return b"".join(chunks)
