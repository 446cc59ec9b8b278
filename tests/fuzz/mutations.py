# SPDX-License-Identifier: Apache-2.0
"""Answers of a discovery controller, right ones to begin with and then damaged, the same for the same number."""

import random
import struct
from dataclasses import dataclass

from tests.unit.log_pages import entry, extended, extended_page, page

# What would do harm if it got through: as an option, a path, a line of a file, on a terminal.
HOSTILE = (
    b",hostnqn=nqn.evil",
    b"\nend\n",
    b"\noption.nqn=nqn.evil",
    b"../../../../etc/passwd",
    b"/",
    b"..",
    b".",
    b"\0",
    b"\x1b[2J",
    b"\xff\xfe",
    "é中\u202e".encode(),
    b"\xed\xa0\x80",
    b"%s%n%i",
    b"\\x2f\\x2e",
    b"nqn." + b"a" * 300,
    b"nqn.2024-08.com.example:a/../b",
    b"nqn.2024-08.com.example:a\\b",
    b"nqn.2024-08.com.example:a b",
    b"nqn.2024-08.com.example:a::b",
    b"nqn.2014-08.org.nvmexpress.discovery",
    b"fe80::1%../../x",
    b"fe80::1%eth0,x",
    b"::ffff:192.0.2.1",
    b"0.0.0.0",
    b"224.0.0.1",
    b"127.0.0.1",
    b"nn-0x1:pn-0x2",
    b"nn-0x" + b"f" * 40 + b":pn-0x2",
    b"65536",
    b"-1",
    b" 4420",
    b"4420\r",
)
_NUMBERS = (0, 1, 2, 7, 1023, 1024, 2048, 2049, 16_384, 16_385, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
_DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery"


@dataclass(frozen=True)
class Answers:
    """What a controller says. ``pages`` follow each other, one for each header that is read.

    A command whose number, counted from 0, is in ``statuses`` fails: with that NVMe status, or with an errno where the
    number is negative. ``persistent`` and ``pleo`` are the host's settings, not the controller's.
    """

    identity: bytes
    supported: bytes
    pages: tuple[bytes, ...]
    statuses: dict[int, int]
    dctype: str
    persistent: str
    pleo: bool


def answers(number: int) -> Answers:
    """Return the answers with this number."""
    chance = random.Random(number)
    first = _page(chance)
    pages = [first]
    if chance.random() < 0.2:
        # It changes while it is read.
        pages += [_page(chance) if chance.random() < 0.5 else _damaged(chance, first) for _ in range(3)]
    identity = bytearray(4096)
    struct.pack_into("<I", identity, 92, chance.choice((0, 1 << 31, 2**32 - 1)))
    struct.pack_into("<H", identity, 320, chance.choice((0, 10, 0xFFFF)))
    identity[1806] = chance.choice((0, 1, 2, 3, 255))
    supported = bytearray(1024)
    struct.pack_into("<I", supported, 0x70 * 4, chance.choice((0, 1, 0x10001, 0x20001, 0x70001, 2**32 - 1)))
    statuses = {}
    while chance.random() < 0.15:
        statuses[chance.randrange(8)] = chance.choice((0x4001, 0x2, 0x4109, 0x7FF, 0x370, -4, -5, -110))
    return Answers(
        _damaged(chance, bytes(identity)),
        _damaged(chance, bytes(supported)),
        tuple(pages),
        statuses,
        chance.choice(("", "ddc", "cdc", "none", "nonsense")),
        chance.choice(("auto", "no", "force")),
        chance.random() < 0.5,
    )


def _page(chance: random.Random) -> bytes:
    records = [_entry(chance) for _ in range(chance.choice((0, 1, 1, 2, 3, 8)))]
    generation = chance.choice(_NUMBERS)
    if chance.random() < 0.25:
        return _damaged(chance, extended_page(*(_extended(chance, one) for one in records), generation=generation))
    return _damaged(chance, page(*records, generation=generation))


def _extended(chance: random.Random, record: bytes) -> bytes:
    attributes = [chance.randbytes(chance.choice((0, 1, 4, 60, 3000))) for _ in range(chance.randrange(3))]
    length = chance.choice((*_NUMBERS[:12], 1032, 1033, 1036)) if chance.random() < 0.2 else None
    return extended(record, *attributes, length=None if length is None else length & 0xFFFFFFFF)


def _entry(chance: random.Random) -> bytes:
    """Return an entry in which any of the texts may be a hostile one."""

    def text(*right: str) -> bytes:
        base = chance.choice(right).encode()
        if chance.random() < 0.75:
            return base
        bad = chance.choice(HOSTILE)
        return bad if chance.random() < 0.5 else base + bad

    return entry(
        text("nqn.2024-08.com.example:vol1", "nqn.2024-08.com.example:vol2", _DISCOVERY),
        text("192.0.2.7", "2001:db8::1", "fe80::1", "nn-0x10:pn-0x20"),
        text("4420", "8009", ""),
        trtype=chance.choice((3, 3, 3, 1, 2, 254, 0, 255)),
        subtype=chance.choice((2, 2, 2, 1, 3, 0, 9)),
        eflags=chance.choice((0, 0, 1, 2, 4, 7, 0xFFFF)),
        pad=chance.choice((b"\0", b"\0", b" ", b"\xff")),
    )


def _damaged(chance: random.Random, data: bytes) -> bytes:
    """Return the data with a few bytes, numbers or texts of it replaced, or as a whole shorter or longer."""
    damaged = bytearray(data)
    while chance.random() < 0.5:
        at = chance.randrange(len(damaged))
        kind = chance.randrange(6)
        if kind == 0:
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            damaged[at] = chance.randrange(256)
        elif kind == 2:
            # Where the numbers of headers are.
            form, at = chance.choice((("<Q", 0), ("<Q", 8), ("<H", 16), ("<B", 18), ("<I", 20)))
            value = chance.choice(_NUMBERS) & ((1 << 8 * struct.calcsize(form)) - 1)
            struct.pack_into(form, damaged, at, value)
        elif kind == 3:
            # Where the texts of entries are.
            at = 1024 + 1024 * chance.randrange(8) + chance.choice((32, 256, 512))
            hostile = chance.choice(HOSTILE)
            damaged[at : at + len(hostile)] = hostile
        elif kind == 4:
            del damaged[max(24, at) :]
        else:
            damaged += chance.randbytes(chance.randrange(2048))
    return bytes(damaged)
