# SPDX-License-Identifier: Apache-2.0
"""Log pages, byte for byte: Supported Log Pages (00h) and Discovery (70h), Base Specification 2.0 §5.16.1.1 and .23."""

import random
import struct
from dataclasses import dataclass

from .fabric import NVM, Entry, Fabric, Instance
from .misbehaviour import Distortion

SUPPORTED, DISCOVERY = 0x00, 0x70
EXTENDED, PORT_LOCAL, ALL_SUBSYSTEMS = 1, 2, 4
HEADER_SIZE = 1024


@dataclass(frozen=True)
class Page:
    """A discovery log page, of which hosts read small parts many times."""

    head: bytes
    body: bytes

    @property
    def size(self) -> int:
        return len(self.head) + len(self.body)

    def read(self, offset: int, length: int) -> bytes:
        """These bytes, zeros behind the end."""
        end = offset + length
        start = max(offset - HEADER_SIZE, 0)
        part = self.head[offset:end] + self.body[start : max(end - HEADER_SIZE, 0)]
        return part.ljust(length, b"\0")


def supported(instance: Instance) -> Page:
    page = bytearray(1024)
    struct.pack_into("<I", page, 4 * SUPPORTED, 1)
    struct.pack_into("<I", page, 4 * DISCOVERY, 1 | instance.log_options << 16)
    return Page(bytes(page), b"")


def discovery(fabric: Fabric, instance: Instance, host: str, options: int) -> Page:
    """The page that this host sees, with options (LSP) as far as the instance knows them."""
    options &= instance.log_options
    view = fabric.view(instance, host)
    entries = fabric.all_subsystems(instance) if options & ALL_SUBSYSTEMS else view.entries
    count, body = _body(entries, instance, options)
    form = instance.distortion.form
    head = struct.pack("<QQHBxI", view.generation, count, form, options & 7, HEADER_SIZE + len(body))
    return Page(head.ljust(HEADER_SIZE, b"\0"), body)


# What was made of which entries. They are known by their identity: to compare or hash thousands for each part that is
# read would take longer than all the rest.
_made: dict[tuple[int, int, str, Distortion], tuple[tuple[Entry, ...], int, bytes]] = {}


def _body(entries: tuple[Entry, ...], instance: Instance, options: int) -> tuple[int, bytes]:
    key = id(entries), options, instance.address, instance.distortion
    if key not in _made:
        if len(_made) > 64:
            _made.clear()
        chosen = entries
        if options & PORT_LOCAL:
            chosen = tuple(entry for entry in entries if entry.subtype != NVM or entry.traddr == instance.address)
        _made[key] = (entries, *_make(chosen, bool(options & EXTENDED), instance.distortion))
    return _made[key][1:]


def _make(entries: tuple[Entry, ...], extended: bool, distortion: Distortion) -> tuple[int, bytes]:
    entries = entries[: int(len(entries) * distortion.keep)]
    entries = tuple(entry for entry in entries for _ in range(1 + distortion.duplicates))
    count = len(entries) if distortion.numrec is None else distortion.numrec
    pad = b" " if distortion.pad else b"\0"
    body = b"".join(_record(entry, pad, extended) for entry in entries)
    if distortion.half:
        body = body[: len(body) // 2]
    if distortion.garbage is not None:
        body = random.Random(distortion.garbage).randbytes(len(body))
    if distortion.raw is not None:
        body = bytes.fromhex(distortion.raw)
        count = len(body) // 1024 if distortion.numrec is None else distortion.numrec
    return count, body


def _record(entry: Entry, pad: bytes, extended: bool) -> bytes:
    def field(text: str, size: int) -> bytes:
        return text.encode("utf-8", "surrogateescape")[:size].ljust(size, pad)

    head = struct.pack(
        "<BBBBHHHH",
        entry.trtype,
        entry.family,
        entry.subtype,
        entry.treq,
        entry.portid,
        entry.cntlid,
        entry.asqsz,
        entry.eflags,
    )
    record = (head.ljust(32, b"\0") + field(entry.trsvcid, 32)).ljust(256, b"\0")
    record += field(entry.nqn, 256) + field(entry.traddr, 256) + bytes([entry.sectype]).ljust(256, b"\0")
    return record + struct.pack("<IHxx", 1032, 0) if extended else record
