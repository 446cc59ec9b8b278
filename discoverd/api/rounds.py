# SPDX-License-Identifier: Apache-2.0
"""What is known becomes objects, a round after the other.

A round takes all that is new; what comes meanwhile is for the next one. So a storm of changes costs a round after the
other, and no memory.
"""

import asyncio
import time

from discoverd.api.devices import Devices
from discoverd.api.facts import Facts
from discoverd.api.objects import Objects
from discoverd.api.units import Units
from discoverd.cli import overview
from discoverd.systemd import fragments

# News come in bursts; and all rounds together cost a fifth of a processor at most.
DEBOUNCE_SECONDS = 0.1
PAUSE_FACTOR = 4


class Rounds:
    """Shows ``facts``, ``units`` and ``devices`` as ``objects`` whenever one of them has set ``news``.

    ``ready`` is set when all that there is was shown once.
    """

    def __init__(self, news: asyncio.Event, facts: Facts, units: Units, devices: Devices, objects: Objects) -> None:
        self._news = news
        self._facts = facts
        self._units = units
        self._devices = devices
        self._objects = objects
        self._showing = asyncio.Lock()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Show what is known, for ever."""
        while True:
            await self._news.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
            self._news.clear()
            if not (self._facts.whole and self._units.listed):
                continue  # Nothing is shown by halves.
            began = time.thread_time()
            await self.show()
            self.ready.set()
            await asyncio.sleep(PAUSE_FACTOR * (time.thread_time() - began))

    async def look_again(self) -> None:
        """Show controllers of which nobody tells as they are now, unless they were looked at a moment ago."""
        if await self._devices.look():
            await self.show()

    async def show(self) -> None:
        """Show what is known now."""
        async with self._showing:
            await self._facts.understand()
            await self._devices.read()
            # As they are at this moment: they go on changing beside the threads.
            facts = (dict(self._units.found), dict(self._facts.specs), dict(self._facts.reports))
            found = list(self._devices.found.values())
            files = await asyncio.to_thread(fragments.find)
            # Beside the loop: it is one piece of work, and grows with the host.
            now = await asyncio.to_thread(overview.assemble, self._facts.plan, *facts, found, files)
            await self._devices.remember_untold(now.controllers)
            await self._objects.show(now, self._facts.heads, self._devices.identified)
            await self._objects.show_manager(now, self._units.daemon, self._facts.identity)
