# SPDX-License-Identifier: Apache-2.0
"""The guest's journal as it arrives on the host, line by line, while the machine runs and after its end."""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ERR = 3
OUR_UNITS = re.compile(r"discoverd\.service|nvme-ctrl@.*\.service")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One journal entry. `unit` is the unit it came from or that systemd wrote it about; `fields` has all of it."""

    unit: str
    priority: int
    identifier: str
    message: str
    fields: dict[str, object]

    def __str__(self) -> str:
        return f"<{self.priority}> {self.unit or '-'} {self.identifier}: {self.message}"


def text_of(value: object) -> str:
    """A field as text: journalctl writes unprintable ones as lists of bytes, and repeated ones as lists."""
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return bytes(value).decode(errors="backslashreplace")
        return " ".join(text_of(item) for item in value)
    return "" if value is None else str(value)


def parse(line: str) -> Entry | None:
    """None for a line that a dying machine left unfinished."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return Entry(
        unit=text_of(fields.get("UNIT") or fields.get("_SYSTEMD_UNIT")),
        priority=int(text_of(fields.get("PRIORITY", "6")).split()[0]),
        identifier=text_of(fields.get("SYSLOG_IDENTIFIER")),
        message=text_of(fields.get("MESSAGE")),
        fields=fields,
    )


def read(path: Path, offset: int = 0) -> Iterator[Entry]:
    """Entries of the file that QEMU writes, from a byte offset at a line's start."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            entry = parse(line.decode(errors="replace"))
            if entry is not None:
                yield entry


def unexpected(entries: Iterable[Entry], allowed: Sequence[str] = ()) -> list[Entry]:
    """Entries of our units at priority err or worse whose message matches none of the allowed expressions."""
    return [
        entry
        for entry in entries
        if entry.priority <= ERR
        and OUR_UNITS.fullmatch(entry.unit)
        and not any(re.search(expression, entry.message) for expression in allowed)
    ]
