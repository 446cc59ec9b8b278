# SPDX-License-Identifier: Apache-2.0
"""What changes in directories, through inotify(7). Not for workers: it needs ctypes."""

import ctypes
import errno
import os
from struct import Struct
from typing import NamedTuple

ATTRIB = 0x4
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
OVERFLOW = 0x4000
_IGNORED = 0x8000
_ONLYDIR = 0x0100_0000

# What makes a file of a directory come, go or be another, writers that rename and writers that do not.
_WANTED = ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
_HEADER = Struct("=iIII")
_BUFFER = 65536

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


class Event(NamedTuple):
    """A change. ``name`` is '' where it is about the directory itself, both are '' for OVERFLOW: events were lost."""

    directory: str
    name: str
    mask: int


class Inotify:
    """A set of watched directories. Its descriptor does not block, and is readable when there are events."""

    def __init__(self) -> None:
        """Raises OSError, EMFILE if this user has too many of them already."""
        fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd < 0:
            raise _error("inotify")
        self._fd: int = fd
        self._directories: dict[int, str] = {}

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._fd

    def close(self) -> None:
        """End all watches."""
        os.close(self._fd)

    def watch(self, directory: str) -> bool:
        """Watch what is at this path now, instead of what was there before. Returns whether there is such a directory.

        Raises OSError, ENOSPC if this user watches too much already. Blocks as long as looking up the path does.
        """
        watch = _libc.inotify_add_watch(self._fd, os.fsencode(directory), _WANTED | _ONLYDIR)
        error = None if watch >= 0 else _error(directory)
        for former in [one for one, path in self._directories.items() if path == directory and one != watch]:
            del self._directories[former]
            _libc.inotify_rm_watch(self._fd, former)
        if error is None:
            self._directories[watch] = directory
            return True
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise error

    def read(self) -> list[Event]:
        """Return what has happened since the last call; there may be more than one call returns."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        events = []
        offset = 0
        while offset < len(data):
            watch, mask, _, size = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            name = os.fsdecode(data[offset : offset + size].rstrip(b"\0"))
            offset += size
            if mask & OVERFLOW:
                events.append(Event("", "", mask))
            elif mask & _IGNORED:
                self._directories.pop(watch, None)
            elif watch in self._directories:
                events.append(Event(self._directories[watch], name, mask))
        return events


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
