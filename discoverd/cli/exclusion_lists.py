# SPDX-License-Identifier: Apache-2.0
"""Editing the exclusion lists, so that a reader sees the old or the new list, and no other writer's edit is lost."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from discoverd import exclusions
from discoverd.cli import files
from discoverd.cli.exits import CliError, Exit
from discoverd.kernel import locks

_LOCK_TIMEOUT_SECONDS = 10.0
_NAME = re.compile(r"[A-Za-z0-9_-]+")
# nvme-cli's for its temporary files, which it leaves out.
_TEMPORARY = ".excl.tmp."
_HEADER = """\
# NVMe exclusion list: {name}
#
# What is listed here is not connected automatically. Lines of the form
#   exclusion = KEY=VALUE[;KEY=VALUE...]
# where KEY is one of {keys}.
# An exclusion holds for a controller to which all of its fields apply. See discoverd-exclusions(5).

[exclusions]
"""


def path(root: str, name: str) -> str:
    """Return the path of a named list, of the default one for ''. Raises CliError for a name that none can have."""
    if not name:
        return f"{root}/{exclusions.MAIN}"
    if not _NAME.fullmatch(name):
        raise CliError(f"{name} is no name of a list; use letters, digits, '_' and '-'", Exit.USAGE)
    return f"{root}/{exclusions.DROP_INS}/{name}.conf"


def add(root: str, name: str, entries: Sequence[str]) -> list[tuple[str, bool]]:
    """Append entries to a list. Returns for each where it stands (``file:line``), and whether it is new.

    Raises CliError, and OSError where it cannot be written.
    """
    list_path = path(root, name)
    os.makedirs(os.path.dirname(list_path), 0o755, exist_ok=True)
    with _lock():
        data = exclusions.read(list_path)
        if data is None:
            data = _HEADER.format(name=name or "default", keys=", ".join(exclusions.KEYS)).encode()
        found = exclusions.scan(data)
        headers = [(kind, text) for _, kind, text in found if kind in (exclusions.HEADER, exclusions.BROKEN_HEADER)]
        places = {text: line for line, kind, text in found if kind == exclusions.ENTRY}
        lines = data.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n") if data else []
        if not headers or headers[-1] != (exclusions.HEADER, exclusions.SECTION):
            lines += ["", f"[{exclusions.SECTION}]"]
        result = []
        for entry in entries:
            new = entry not in places
            if new:
                lines.append(f"{exclusions.KEY} = {entry}")
                places[entry] = len(lines)
            result.append((f"{exclusions.printable(list_path)}:{places[entry]}", new))
        if any(new for _, new in result):
            _replace(list_path, lines)
    return result


def remove(root: str, unwanted: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Take the entries that are ``unwanted`` out of all lists. Returns where each stood (``file:line``), and its text.

    Raises CliError, and OSError where a list cannot be written.
    """
    result = []
    for list_path in exclusions.paths(root)[0]:
        if not os.path.exists(list_path):
            continue
        with _lock():
            try:
                data = exclusions.read(list_path) or b""
            except OSError:
                continue  # It excludes nothing either, and the doctor says why.
            entries = [(line, text) for line, kind, text in exclusions.scan(data) if kind == exclusions.ENTRY]
            going = {line: text for line, text in entries if unwanted(text)}
            if going:
                lines = data.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")
                _replace(list_path, [text for line, text in enumerate(lines, 1) if line not in going])
                result += [(f"{exclusions.printable(list_path)}:{line}", text) for line, text in going.items()]
    return result


@contextmanager
def _lock() -> Iterator[None]:
    """Hold the lock that all our writers of lists take."""
    try:
        who = f"fuser {locks.DIRECTORY}/exclusions"
        fd = locks.take("exclusions", _LOCK_TIMEOUT_SECONDS, f"another process edits the lists; see who: {who}")
    except OSError as error:
        raise CliError(str(error.strerror)) from None
    try:
        yield
    finally:
        os.close(fd)


def _replace(list_path: str, lines: list[str]) -> None:
    data = ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
    if len(data) > exclusions.MAX_SIZE:
        raise CliError(f"{list_path} would be larger than 1 MiB, and not be read any more; use another list: --list")
    # A list may be a link into a managed directory; the link stays.
    files.replace(Path(os.path.realpath(list_path)), data, 0o644, _TEMPORARY)
