# SPDX-License-Identifier: Apache-2.0
"""Files that discoverctl writes for others to read."""

import os
import tempfile
from pathlib import Path


def replace(path: Path, data: bytes, mode: int, prefix: str) -> None:
    """Write a file in one step, so that a reader sees the old or the new content, and make it lasting.

    Until then it has a name that begins with ``prefix``, in the same directory. Raises OSError; the old content is
    still there then, unless all that failed was to make the new one lasting.
    """
    fd, temporary = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchmod(fd, mode)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
