# SPDX-License-Identifier: Apache-2.0
"""The digest of NVMe/TCP: CRC-32C (RFC 3720 §12.1), with a table."""


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
        rows.append(remainder)
    return tuple(rows)


_TABLE = _table()


def crc32c(data: bytes) -> bytes:
    """Return the four bytes as they follow a header or data in a PDU."""
    table = _TABLE
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = table[(remainder ^ byte) & 0xFF] ^ remainder >> 8
    return (remainder ^ 0xFFFFFFFF).to_bytes(4, "little")
