# SPDX-License-Identifier: Apache-2.0
"""Log pages for others to read: what of one is kept all the time, and all of one, as its entries were sent.

A page is what a peer sent, so texts in it are made printable. Layout: NVMe Base Specification 2.0, figures 295 and 296.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from discoverd import state
from discoverd.config.errors import printable
from discoverd.kernel.admin import ENTRY_SIZE, HEADER_SIZE
from discoverd.tid import TRANSPORTS, unset

# Generation, number of entries.
_HEADER = struct.Struct("<QQ")
# Transport, family, type of subsystem, requirements, port, controller, size of the admin queue, flags.
_NUMBERS = struct.Struct("<BBBBHHHH")
_TRSVCID, _SUBNQN, _TRADDR, _TSAS = slice(32, 64), slice(256, 512), slice(512, 768), slice(768, 1024)
_TRANSPORTS = {1: "rdma", 2: "fc", 3: "tcp", 254: "loop"}
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1

Entry = tuple[int, int, int, int, int, int, int, int, int, str, str, str, bytes, str]


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a page without reading it: its generation, how many entries it has, when it was read (µs of
    CLOCK_BOOTTIME) and what it was asked for. ``fault`` says why there is none."""

    generation: int = 0
    entries: int = 0
    time: int = 0
    asked: str = ""
    fault: str = ""


def split(data: bytes) -> tuple[Head, bytes]:
    """Return the head of a file that a worker has left, or of its beginning, and the page."""
    if not data:
        return Head(fault="its log page was not read yet"), b""
    try:
        fields, page = state.split(state.LOG, data)
        told = dict(fields)
        time = state.number(told.get("milliseconds", "0")) * 1000
        if len(page) < HEADER_SIZE:
            raise state.StateError(f"{len(page)} bytes are no log page")
    except state.StateError as error:
        return Head(fault=printable(f"its log page makes no sense: {error}")), b""
    generation, entries = _HEADER.unpack_from(page)
    return Head(generation, entries, time & _U64, printable(told.get("asked", ""))), page


def entry(page: bytes, number: int, find: Callable[[str, str, str, str], str]) -> Entry:
    """Return an entry as the API tells it; ``find`` returns the object of a controller at transport, address, service
    and NQN."""
    start = HEADER_SIZE + number * ENTRY_SIZE
    raw = page[start : start + ENTRY_SIZE]
    trtype, *others = _NUMBERS.unpack_from(raw)
    trsvcid, subnqn, traddr = _text(raw[_TRSVCID]), _text(raw[_SUBNQN]), _text(raw[_TRADDR])
    transport = _TRANSPORTS.get(trtype, "")
    path = find(transport, traddr, unset(trsvcid), subnqn) if transport in TRANSPORTS else find("", "", "", "")
    adrfam, subtype, treq, portid, cntlid, asqsz, eflags = others
    tsas = raw[_TSAS].rstrip(b"\0")
    return (
        *(number & _U32, trtype, adrfam, subtype, treq),
        *(portid, cntlid, asqsz, eflags),
        *(trsvcid, subnqn, traddr, tsas, path),
    )


def count(page: bytes) -> int:
    """Return how many entries of a page were read, which are fewer than it says where it says too many."""
    return max(0, (len(page) - HEADER_SIZE) // ENTRY_SIZE)


def _text(raw: bytes) -> str:
    # Padded with NULs by the specification, with blanks by some controllers.
    return printable(raw.partition(b"\0")[0].decode("utf-8", "replace").strip(" "))
