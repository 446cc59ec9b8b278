# SPDX-License-Identifier: Apache-2.0
"""Protocol data units of NVMe/TCP, read from and written for a byte stream (NVMe TCP Transport Specification 1.0 §3.6).

Nothing in here knows a command. `receive` and `encode` serve both sides, so tests of the controller use them as a host.
"""

import asyncio
import enum
import struct
from dataclasses import dataclass

from .crc32c import crc32c

# Larger than anything that a host of a discovery controller has reason to send.
MAX_LENGTH = 1 << 20
HDGSTF, DDGSTF, LAST_PDU, SUCCESS = 1, 2, 4, 8


class Kind(enum.IntEnum):
    IC_REQ = 0
    IC_RESP = 1
    H2C_TERM = 2
    C2H_TERM = 3
    COMMAND = 4
    RESPONSE = 5
    H2C_DATA = 6
    C2H_DATA = 7
    R2T = 9


HEADER_LENGTH = {
    Kind.IC_REQ: 128,
    Kind.IC_RESP: 128,
    Kind.H2C_TERM: 24,
    Kind.C2H_TERM: 24,
    Kind.COMMAND: 72,
    Kind.RESPONSE: 24,
    Kind.H2C_DATA: 24,
    Kind.C2H_DATA: 24,
    Kind.R2T: 24,
}
WITH_DATA = {Kind.COMMAND, Kind.H2C_DATA, Kind.C2H_DATA, Kind.H2C_TERM, Kind.C2H_TERM}
WITHOUT_DIGEST = {Kind.IC_REQ, Kind.IC_RESP, Kind.H2C_TERM, Kind.C2H_TERM}


class Fault(enum.IntEnum):
    """Fatal error status of a termination request (§3.6.2.4)."""

    INVALID_HEADER = 1
    SEQUENCE = 2
    HEADER_DIGEST = 3
    OUT_OF_RANGE = 4
    LIMIT = 5
    UNSUPPORTED = 6


class PduError(Exception):
    """What the other side sent ends the connection."""

    def __init__(self, fault: Fault, text: str, header: bytes = b"") -> None:
        super().__init__(text)
        self.fault = fault
        self.header = header


@dataclass(frozen=True)
class Digests:
    """Which digests a connection has agreed upon."""

    header: bool = False
    data: bool = False


NO_DIGESTS = Digests()


@dataclass(frozen=True)
class Pdu:
    """One PDU: `fields` are the header's bytes after the common eight. `intact` is false for a wrong data digest."""

    kind: Kind
    fields: bytes
    data: bytes = b""
    flags: int = 0
    intact: bool = True


def encode(pdu: Pdu, digests: Digests = NO_DIGESTS, alignment: int = 0) -> bytes:
    """Return the bytes of a PDU; its data begins at a multiple of `alignment` bytes."""
    size = HEADER_LENGTH[pdu.kind]
    header_digest = digests.header and pdu.kind not in WITHOUT_DIGEST
    data_digest = digests.data and bool(pdu.data) and pdu.kind not in WITHOUT_DIGEST
    start = size + 4 * header_digest
    if pdu.data and alignment:
        start += -start % alignment
    total = start + len(pdu.data) + 4 * data_digest
    flags = pdu.flags | HDGSTF * header_digest | DDGSTF * data_digest
    offset = start if pdu.data and pdu.kind not in WITHOUT_DIGEST else 0
    header = struct.pack("<BBBBI", pdu.kind, flags, size, offset, total if pdu.data else size + 4 * header_digest)
    header += pdu.fields.ljust(size - 8, b"\0")
    if header_digest:
        header += crc32c(header)
    if not pdu.data:
        return header
    return header.ljust(start, b"\0") + pdu.data + (crc32c(pdu.data) if data_digest else b"")


async def receive(reader: asyncio.StreamReader, digests: Digests = NO_DIGESTS) -> Pdu:
    """Read one PDU. Raises PduError for one that ends the connection, EOFError at the stream's end."""
    common = await reader.readexactly(8)
    number, flags, size, offset, total = struct.unpack("<BBBBI", common)
    try:
        kind = Kind(number)
    except ValueError:
        raise PduError(Fault.INVALID_HEADER, f"unknown PDU type {number}", common) from None
    if size != HEADER_LENGTH[kind] or not size <= total <= MAX_LENGTH:
        raise PduError(Fault.INVALID_HEADER, f"{kind.name} with header length {size}, length {total}", common)
    header = common + await reader.readexactly(size - 8)
    rest = await reader.readexactly(total - size)
    start = size
    if kind not in WITHOUT_DIGEST:
        if bool(flags & HDGSTF) != digests.header:
            raise PduError(Fault.INVALID_HEADER, f"{kind.name} with flags {flags:#x}", header)
        if digests.header:
            if rest[:4] != crc32c(header):
                raise PduError(Fault.HEADER_DIGEST, f"wrong header digest of {kind.name}", header)
            start += 4
    if total == start:
        return Pdu(kind, header[8:], b"", flags)
    if kind not in WITH_DATA:
        raise PduError(Fault.INVALID_HEADER, f"{kind.name} with data", header)
    if kind in WITHOUT_DIGEST:
        return Pdu(kind, header[8:], rest, flags)
    if not start <= offset <= total or bool(flags & DDGSTF) != digests.data:
        raise PduError(Fault.INVALID_HEADER, f"{kind.name} with flags {flags:#x}, data offset {offset}", header)
    data = rest[offset - size :]
    intact = True
    if digests.data:
        data, digest = data[:-4], data[-4:]
        intact = digest == crc32c(data)
    return Pdu(kind, header[8:], data, flags, intact)
