# SPDX-License-Identifier: Apache-2.0
"""The last good configuration, as it is kept over restarts and boots: a copy of the files, for root only.

It holds what the files hold, secrets too, and goes into a directory and a file that nobody else can read. It counts on
the host that it was made on only: an image of that host is given files of its own.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import state
from .files import Files
from .identity import MISSING
from .sources import SourceFile

PATH = state.LASTING + "/last-good"
KIND = "discoverd-configuration 1"
MACHINE = Path("/etc/machine-id")
# All files, each of 1 MiB at most, and a third more for their form.
_LIMIT = 1 << 28
_MODE_BITS = 0o7777
_PARTS = ("settings", "fabrics", "identity")


class MissingError(state.StateError):
    """Nothing is kept."""


class UnreadableError(state.StateError):
    """Something is kept and cannot be read; what it holds may be good."""


@dataclass(frozen=True, slots=True)
class Record:
    """The files, and since when each counts as it is in there, in seconds since the epoch."""

    files: Files = field(default_factory=Files)
    since: Mapping[str, int] = field(default_factory=dict)


def renewed(before: Record, good: Files, now: int) -> Record:
    """Return the record of what is good now; what has not changed counts since when it did."""
    known = {source.path: source for source in before.files.all}
    since = {
        source.path: before.since.get(source.path, now) if known.get(source.path) == source else now
        for source in good.all
        if not source.fault
    }
    return Record(good, since)


def encode(record: Record, machine: str) -> bytes:
    """Return the bytes of a record made on this machine. Raises state.StateError for a name with a line break in it."""
    fields = [("machine", machine)]
    for part in _PARTS:
        for source in getattr(record.files, part):
            fields.append((part, source.path))
            if source.fault:
                fields.append(("missing", "yes"))
                continue
            fields += [("mode", str(source.mode)), ("since", str(record.since.get(source.path, 0)))]
            if source.drop_in:
                fields.append(("drop-in", "yes"))
            fields.append(("data", base64.b64encode(source.data).decode()))
    return state.encode(KIND, fields)


def decode(data: bytes, machine: str) -> Record:
    """Return the record. Raises state.StateError for anything but one that was made on this machine."""
    fields = state.decode(KIND, data)
    if fields[:1] != [("machine", machine)]:
        raise state.StateError("it was made on another machine")
    since: dict[str, int] = {}
    parts: dict[str, list[SourceFile]] = {part: [] for part in _PARTS}
    for key, rest in _grouped(fields[1:]):
        path = rest[key]
        if "missing" in rest:
            parts[key].append(SourceFile(path, fault=MISSING))
            continue
        try:
            content = base64.b64decode(rest["data"], validate=True)
            mode = state.number(rest["mode"])
            since[path] = state.number(rest["since"])
        except (KeyError, binascii.Error, ValueError) as error:
            raise state.StateError(f"what it says of {path[:80]!r} is damaged") from error
        if mode > _MODE_BITS:
            raise state.StateError(f"what it says of {path[:80]!r} is damaged")
        parts[key].append(SourceFile(path, content, mode, drop_in="drop-in" in rest))
    if len(parts["identity"]) not in (0, 2):
        raise state.StateError("it has half of an identity")
    return Record(Files(*(tuple(parts[part]) for part in _PARTS)), since)


def _grouped(fields: list[tuple[str, str]]) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for key, value in fields:
        if key in _PARTS:
            found.append((key, {key: value}))
        elif not found:
            raise state.StateError(f"it begins with {key[:40]!r}")
        else:
            found[-1][1][key] = value
    return found


def machine_id() -> str:
    """Return what tells this host from others, '' where there is nothing. Blocks."""
    try:
        return MACHINE.read_text(errors="replace").split("\n", 1)[0].strip()
    except OSError:
        return ""


def read() -> Record:
    """Return what is kept. Blocks.

    Raises MissingError, UnreadableError, and state.StateError for what holds nothing that can be used.
    """
    try:
        data = state.read(PATH, _LIMIT)
    except state.StateError as error:
        raise (UnreadableError if exists() else MissingError)(str(error)) from None
    return decode(data, machine_id())


def files() -> Files:
    """Return the files that are kept, none where nothing is kept that can be used. Blocks."""
    try:
        return read().files
    except state.StateError:
        return Files()


def exists() -> bool:
    """Tell whether something is kept, whether it can be used or not. Blocks."""
    return os.path.lexists(PATH)


def write(record: Record) -> None:
    """Keep this in place of what was kept before, in one step and lastingly. Blocks. Raises state.StateError."""
    folder = os.path.dirname(PATH)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        state.sweep(folder)
    except OSError as error:
        raise state.StateError(f"{folder}: {error.strerror}") from error
    state.write(PATH, encode(record, machine_id()), lasting=True)
