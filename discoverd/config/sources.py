# SPDX-License-Identifier: Apache-2.0
"""Reading configuration files from disk: the only part of this package that can block."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

MAX_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The content of one file, or in ``fault`` the reason why there is none.

    ``mode`` holds the permission bits; ``drop_in`` tells a file of the ``.d`` directory from the main one. ``denied``:
    the fault is that this process may not read it.
    """

    path: str
    data: bytes = field(default=b"", repr=False)
    mode: int = 0o600
    fault: str = ""
    drop_in: bool = False
    denied: bool = False


def read_file(path: Path, *, drop_in: bool = False) -> SourceFile | None:
    """Read one regular file of at most 1 MiB; None when it does not exist."""
    name = str(path)
    try:
        # O_NONBLOCK: opening a FIFO that somebody put there must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        denied = isinstance(error, PermissionError)
        return SourceFile(name, fault=f"cannot be opened: {_reason(error)}", drop_in=drop_in, denied=denied)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return SourceFile(name, fault="is not a regular file", drop_in=drop_in)
        data = bytearray()
        while len(data) <= MAX_SIZE and (chunk := os.read(fd, MAX_SIZE + 1 - len(data))):
            data += chunk
    except OSError as error:
        return SourceFile(name, fault=f"cannot be read: {_reason(error)}", drop_in=drop_in)
    finally:
        os.close(fd)
    if len(data) > MAX_SIZE:
        return SourceFile(name, fault="is larger than 1 MiB", drop_in=drop_in)
    return SourceFile(name, bytes(data), stat.S_IMODE(status.st_mode), drop_in=drop_in)


def read_tree(main: Path) -> tuple[SourceFile, ...]:
    """Read ``main`` and ``main.d/*.conf``, main first, drop-ins in byte order of their names.

    Files and a directory that do not exist are left out.
    """
    file = read_file(main)
    return (*([file] if file else ()), *read_drop_ins(Path(f"{main}.d")))


def read_drop_ins(directory: Path) -> tuple[SourceFile, ...]:
    """Read ``*.conf`` in a directory, in byte order of their names; see :func:`read_tree`."""
    files: list[SourceFile | None] = []
    try:
        names = sorted(os.listdir(os.fsencode(directory)))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        denied = isinstance(error, PermissionError)
        fault = f"cannot be listed: {_reason(error)}"
        files.append(SourceFile(str(directory), fault=fault, drop_in=True, denied=denied))
        names = []
    for name in names:
        if name.endswith(b".conf") and name != b".conf":
            files.append(read_file(directory / os.fsdecode(name), drop_in=True))  # noqa: PERF401
    return tuple(file for file in files if file)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
