# SPDX-License-Identifier: Apache-2.0
"""Data of DIM commands as a host sends them, to be spoilt by tests."""

import struct
import uuid

from tests.unit.cdc.host import HOST

HOST_ID = uuid.UUID("22222222-2222-2222-2222-222222222222")


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", kind, len(value)) + value


def data(
    *attributes: bytes, nqn: str = HOST, copies: int = 1, entity: int = 1, form: int = 2, total: int | None = None
) -> bytes:
    """One host, in as many equal extended entries as `copies`; attributes default to the host ID."""
    exat = b"".join(attributes or (attribute(1, HOST_ID.bytes),))
    entry = bytearray(1032)
    struct.pack_into("<BB", entry, 0, 3, 1)
    struct.pack_into("<256s", entry, 256, nqn.encode())
    struct.pack_into("<IH", entry, 1024, 1032 + len(exat), len(attributes) or 1)
    body = (bytes(entry) + exat) * copies
    size = 1024 + len(body) if total is None else total
    head = struct.pack("<I4xQHHBxH", size, copies, form, entity, 0, 0x5F)
    head += struct.pack("<256s256s64s", nqn.encode(), b"lab", b"Linux 6.12")
    return head.ljust(1024, b"\0") + body
