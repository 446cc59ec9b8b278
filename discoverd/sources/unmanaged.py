# SPDX-License-Identifier: Apache-2.0
"""Unmanaged controllers: I/O controllers that others connected, by hand or with another tool, and that no tool manages.

Where ``disconnect-scope`` is ``all`` they can be disconnected. This source asks for none of them; whether one is to go,
the planner says.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from discoverd import boot_record, registry
from discoverd.config.settings import Settings
from discoverd.kernel import controllers
from discoverd.plan.candidate import UNMANAGED, Candidate
from discoverd.sources import udev
from discoverd.sources.boot import existing
from discoverd.sources.configuring import work_anew
from discoverd.tid import TidError

# Before the first look, sources that answer at all have done so (seconds).
FIRST_LOOK_DELAY_SECONDS = 6
# From the kernel's news to a look: it announces a controller before all about it stands in sysfs.
DEBOUNCE_SECONDS = 1


class Unmanaged:
    """``found`` has them as they are connected, None as long as nobody has looked. ``changed`` is called when it is
    another one.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.found: tuple[Candidate, ...] | None = None
        self._changed = changed
        # Over which transports, and the host's own NQN.
        self._basis: tuple[tuple[str, ...], str] = ((), "")
        self._configured = asyncio.Event()
        self._again = asyncio.Event()

    def configure(self, settings: Settings, hostnqn: str) -> None:
        """Look for them as these settings say; unless the scope is ``all``, nobody looks."""
        wide = settings.disconnect_scope == "all"
        # On Fibre Channel the kernel's announcements have controllers connected, and there is no end of those.
        transports = tuple(one for one in settings.disconnect_transports if wide and one != "fc")
        if self._basis != (transports, hostnqn):
            self._basis = transports, hostnqn
            self.found = None
            self._configured.set()

    async def look(self) -> None:
        """Look once, whatever is settling still."""
        if self._basis[0]:
            self.found = await asyncio.to_thread(connected, *self._basis)

    def forget(self, instance: str) -> None:
        """Drop one that its worker has dealt with."""
        self.found = self.found and tuple(one for one in self.found if one.tid.instance != instance)
        self._changed()

    async def run(self) -> None:
        """Look at each change, for ever."""
        await work_anew(self._configured, self._look)

    async def _look(self) -> None:
        if not self._basis[0]:
            return
        unnoticed = "what others connect later is not disconnected"
        async with udev.listening_if_possible("nvme", self._heard, self._again.set, unnoticed):
            await asyncio.sleep(FIRST_LOOK_DELAY_SECONDS)
            while True:
                self._again.clear()
                found = await asyncio.to_thread(connected, *self._basis)
                if found != self.found:
                    self.found = found
                    self._changed()
                await self._again.wait()
                await asyncio.sleep(DEBOUNCE_SECONDS)

    def _heard(self, event: Mapping[str, str]) -> None:
        if event.get("ACTION") in ("add", "remove") or event.get("NVME_EVENT") == "connected":
            self._again.set()


def connected(transports: Iterable[str], hostnqn: str) -> tuple[Candidate, ...]:
    """Return the live I/O controllers over these transports that are not of the boot, nor any other tool's. Blocks.

    One that the registry has as ours is among them: it may be left from a unit that is no more.
    """
    recorded = boot_record.recorded()
    found = []
    for device in sorted(controllers.names()):
        live = controllers.Controller(device)
        # A kernel that does not tell an I/O controller (before 5.18) gives no reason to disconnect one.
        if live.transport not in transports or live.cntrltype != "io" or live.state != "live" or device in recorded:
            continue
        try:
            if registry.retrieve(device, "owner") in (None, registry.OWNER):
                found.append(existing(live, hostnqn, "connected by others", UNMANAGED))
        except (OSError, TidError):
            continue  # Whose, or which, it is cannot be told.
    return tuple(found)
