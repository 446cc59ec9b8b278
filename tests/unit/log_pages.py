# SPDX-License-Identifier: Apache-2.0
"""Discovery log pages to test with, byte for byte (NVMe-oF 1.1 §5.3)."""

import struct

TCP, FC, RDMA = 3, 2, 1


def entry(
    subnqn: str | bytes,
    traddr: str | bytes = "192.0.2.1",
    trsvcid: str | bytes = "4420",
    *,
    trtype: int = TCP,
    subtype: int = 2,
    eflags: int = 0,
    pad: bytes = b"\0",
) -> bytes:
    """Return one entry; texts longer than their fields are cut."""

    def field(text: str | bytes, size: int) -> bytes:
        data = text.encode() if isinstance(text, str) else text
        return data[:size].ljust(size, pad)

    head = struct.pack("<BBBBHHHH", trtype, 1, subtype, 4, 7, 0xFFFF, 32, eflags).ljust(32, b"\0")
    return (head + field(trsvcid, 32)).ljust(256, b"\0") + field(subnqn, 256) + field(traddr, 256) + bytes(256)


def page(*entries: bytes, generation: int = 1, records: int | None = None, form: int = 0, length: int = 0) -> bytes:
    """Return a page; ``length`` is what it claims to have, 0 for nothing."""
    header = struct.pack("<QQHxxI", generation, len(entries) if records is None else records, form, length)
    return header.ljust(1024, b"\0") + b"".join(entries)


def extended(basic: bytes, *attributes: bytes, length: int | None = None) -> bytes:
    """Return a basic entry as an extended one, with attributes of type 2; ``length`` is what it claims to have."""
    tail = b""
    for value in attributes:
        padded = value + b" " * (-len(value) % 4)
        tail += struct.pack("<HH", 2, len(padded)) + padded
    size = len(basic) + 8 + len(tail)
    return basic + struct.pack("<IHH", size if length is None else length, len(attributes), 0) + tail


def extended_page(*entries: bytes, generation: int = 1, length: int | None = None) -> bytes:
    """Return a page of extended entries; ``length`` is what it claims to have."""
    body = b"".join(entries)
    size = 1024 + len(body) if length is None else length
    return struct.pack("<QQHBxI", generation, len(entries), 0, 1, size).ljust(1024, b"\0") + body
