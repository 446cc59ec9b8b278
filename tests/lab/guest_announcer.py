# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest, on the other side of a link: a hostile announcer, with all that it announces. Prints nothing.

It announces discovery controllers by mDNS, each of which lists as many controllers as a log page may: most at targets
that accept a connection and say nothing, the first few where a host must not go. What it has seen of the host goes to
STATE, as JSON, once a second. It never says goodbye: what it announced ends with the lifetime of its records.
"""

import asyncio
import contextlib
import json
import os
import struct
import time
from collections import Counter
from pathlib import Path

from tests.cdc import log_page
from tests.cdc.fabric import Entry, Fabric, Instance
from tests.cdc.server import Server
from tests.lab.guest_mdns import Announcer, packets

STATE = Path("/run/lab-announcer.json")
ADDRESS, SILENT_ADDRESS = "192.0.2.66", "192.0.2.67"
FIRST_PORT, FIRST_SILENT_PORT = 8100, 5000
CONTROLLERS, ENTRIES, SILENT = 64, 1024, 32
# The host's own addresses, and what an administrator asks for.
TRAPS = (
    Entry("nqn.2024-08.com.example:vol1", SILENT_ADDRESS, str(FIRST_SILENT_PORT)),
    Entry("nqn.2024-08.com.example:vol2", ADDRESS, str(FIRST_PORT)),
    Entry("nqn.2024-08.com.example:trap1", "192.0.2.2", "22"),
    Entry("nqn.2024-08.com.example:trap2", "198.51.100.2", "22"),
    Entry("nqn.2024-08.com.example:trap3", "127.0.0.1", "22"),
    Entry("nqn.2024-08.com.example:trap4", "192.0.2.255", "4420"),
    Entry("nqn.2024-08.com.example:trap5", "0.0.0.0", "4420"),  # noqa: S104
    Entry("nqn.2024-08.com.example:trap6", "169.254.169.254", "22"),
)

# Entries at each silent target, without their NQN, and those of the traps.
_HEADS = [
    log_page._record(Entry("", SILENT_ADDRESS, str(FIRST_SILENT_PORT + number)), b"\0", False)
    for number in range(SILENT)
]
_TRAPS = [log_page._record(trap, b"\0", False) for trap in TRAPS]


class Listing:
    """A log page of names that no other controller lists, made in the moment in which a part of it is read."""

    def __init__(self, name: str) -> None:
        self._prefix = f"nqn.2024-08.com.example:foreign-{name}-"
        size = 1024 * (1 + ENTRIES)
        self._head = struct.pack("<QQHBxI", 1, ENTRIES, 0, 0, size).ljust(1024, b"\0")
        self.size = size

    def _record(self, number: int) -> bytes:
        if number < 0:
            return self._head
        if number < len(TRAPS):
            return _TRAPS[number]
        if number >= ENTRIES:
            return bytes(1024)
        basis = _HEADS[number % SILENT]
        return basis[:256] + f"{self._prefix}{number}".encode().ljust(256, b"\0") + basis[512:]

    def read(self, offset: int, length: int) -> bytes:
        first, skip = divmod(offset, 1024)
        parts = [self._record(number - 1) for number in range(first, first + (skip + length + 1023) // 1024)]
        return b"".join(parts)[skip : skip + length]


async def main() -> None:
    pages: dict[str, Listing] = {}

    def page(_: Fabric, instance: Instance, *__: object) -> Listing:
        return pages.setdefault(instance.name, Listing(instance.name))

    log_page.discovery = page  # type: ignore[assignment]
    announced = packets("foreign", ADDRESS, FIRST_PORT, CONTROLLERS)
    fabric = Fabric(Instance(f"dc{n}", ADDRESS, FIRST_PORT + n, dctype="ddc") for n in range(CONTROLLERS))
    seen: Counter[str] = Counter()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen["silent connections"] += 1
        seen["silent connections now"] += 1
        seen["silent connections at once"] = max(seen["silent connections at once"], seen["silent connections now"])
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass
        seen["silent connections now"] -= 1
        writer.close()

    for number in range(SILENT):
        await asyncio.start_server(say_nothing, SILENT_ADDRESS, FIRST_SILENT_PORT + number, backlog=1024)
    async with Server(fabric):
        announcer = asyncio.create_task(Announcer(ADDRESS, announced).run())
        began = time.monotonic()
        while not announcer.done():
            total: Counter[str] = sum((one.counters for one in fabric.instances.values()), Counter())
            counted = {**seen, **{name: total[name] for name in ("connect", "dim", "log-entries", "lost", "shutdown")}}
            counted["reached"] = sum(one.counters["connect"] > 0 for one in fabric.instances.values())
            counted["seconds"] = round(time.monotonic() - began)
            new = STATE.with_suffix(".new")
            new.write_text(json.dumps(counted))
            os.rename(new, STATE)
            await asyncio.sleep(1)
        announcer.result()


if __name__ == "__main__":
    asyncio.run(main())
