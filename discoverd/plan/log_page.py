# SPDX-License-Identifier: Apache-2.0
"""Discovery log pages: what a discovery controller sent, taken apart as the hostile input it may be.

Layout: NVMe-oF 1.1 §5.3, NVMe Base Specification 2.0 figure 295 (1024-byte header, 1024-byte entries).
"""

import struct
from dataclasses import dataclass

from discoverd.kernel.admin import ENTRY_SIZE, HEADER_SIZE, READ_ENTRIES, READ_UNTRUSTED_ENTRIES
from discoverd.plan.evidence import Asked

# Generation, number of entries, their format, total length in bytes.
_HEADER = struct.Struct("<QQHxxI")

REFERRAL, NVM, SELF = 1, 2, 3
DUPLICATE_RETURNED_INFORMATION, NOT_CONNECTED_TO_CDC = 0x1, 0x4


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: numbers as sent, texts without their padding. ``number`` counts from 0."""

    number: int
    trtype: int
    subtype: int
    eflags: int
    trsvcid: str
    subnqn: str
    traddr: str


@dataclass(frozen=True, slots=True)
class LogPage:
    """A log page, what in it could not be read, and how many entries ``beyond`` those that are looked at it has.

    ``length`` is how many bytes its header gives it, 0 if it does not say, and ``records`` how many entries.
    """

    generation: int
    entries: tuple[Entry, ...]
    refused: tuple[tuple[int, str], ...]
    beyond: int = 0
    records: int = 0
    length: int = 0

    @property
    def consistent(self) -> bool:
        """Tell whether its header's two statements of its size agree."""
        return self.length in (0, HEADER_SIZE + self.records * ENTRY_SIZE)


@dataclass(frozen=True, slots=True)
class PageRead:
    """A log page as a worker has read it: when (seconds, CLOCK_BOOTTIME), on which connection ('' if that is not known,
    else another text for each), and what it was asked for.
    """

    page: LogPage
    time: float
    connection: str = ""
    asked: Asked = Asked.UNKNOWN


class LogPageError(Exception):
    """A log page that is no log page; the text says why."""


def parse(data: bytes) -> LogPage:
    """Take a log page apart. An entry that cannot be right is refused by itself. Raises LogPageError."""
    if len(data) < HEADER_SIZE:
        raise LogPageError(f"{len(data)} bytes are no log page")
    generation, records, form, length = _HEADER.unpack_from(data)
    if form != 0:
        raise LogPageError(f"the record format {form} is unknown")
    read, rest = divmod(len(data) - HEADER_SIZE, ENTRY_SIZE)
    if rest or read not in (min(records, READ_ENTRIES), min(records, READ_UNTRUSTED_ENTRIES)):
        raise LogPageError(f"it claims {records} entries and has {len(data)} bytes")
    entries = []
    refused = []
    for number in range(read):
        start = HEADER_SIZE + number * ENTRY_SIZE
        raw = data[start : start + ENTRY_SIZE]
        try:
            entries.append(
                Entry(
                    number,
                    trtype=raw[0],
                    subtype=raw[2],
                    eflags=int.from_bytes(raw[10:12], "little"),
                    trsvcid=_text(raw[32:64]),
                    subnqn=_text(raw[256:512]),
                    traddr=_text(raw[512:768]),
                )
            )
        except UnicodeDecodeError:
            refused.append((number, "a text in it is not valid UTF-8"))
    return LogPage(generation, tuple(entries), tuple(refused), records - read, records, length)


def _text(raw: bytes) -> str:
    # Padded with NULs by the specification, with blanks by some controllers.
    return raw.partition(b"\0")[0].decode().strip(" ")
