# SPDX-License-Identifier: Apache-2.0
"""Discovery controllers on Fibre Channel: the kernel announces each port of a target that has one.

Follows drivers/nvme/host/fc.c: a ``change`` event of the device fc_udev_device for each pair of a port of this host
and a port of a target, when they see each other, and for all pairs again when ``nvme_discovery`` is written to.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from discoverd.config.settings import Settings
from discoverd.plan.candidate import FIBRE_CHANNEL, Refusal, Wish
from discoverd.sources import udev
from discoverd.sources.configuring import work_anew
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, TidError, TransportId

log = logging.getLogger("discoverd.fibre_channel")

# There as long as the nvme_fc module is, which the driver of a Fibre Channel adapter loads.
ANNOUNCE_AGAIN = Path("/sys/class/fc/fc_udev_device/nvme_discovery")
# At least so many seconds from one request for announcements to the next: each is answered for the whole fabric.
REQUEST_INTERVAL_SECONDS = 5
MOST_WISHES = 1024
MOST_REFUSALS = 16


class FibreChannel:
    """The source; see candidate.py for what a source's attributes are. Nothing that it knows ever goes away.

    The kernel does not say when a target's port is lost, and a discovery controller that is out of reach is given up
    by its worker.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.wishes: tuple[Wish, ...] = ()
        self.refusals: tuple[Refusal, ...] = ()
        self._changed = changed
        self._settings = Settings(fibre_channel=False)
        self._known: dict[TransportId, Wish] = {}
        self._refused: tuple[Refusal, ...] = ()
        self._configured = asyncio.Event()
        self._again = asyncio.Event()
        self._complaint = ""

    def configure(self, settings: Settings) -> None:
        """Take new settings. ``fibre_channel`` off: nothing is wanted, and the kernel is not listened to."""
        before, self._settings = self._settings, settings
        self._known = {tid: replace(wish, give_up_after=settings.give_up) for tid, wish in self._known.items()}
        now, then = ((one.fibre_channel, one.fc_kick_start_interval) for one in (settings, before))
        if now != then:
            self._configured.set()
        if now != then or settings.give_up != before.give_up:
            self._publish()

    def remember(self, wishes: Iterable[Wish]) -> None:
        """Take what an earlier supervisor knew; an announcement since then is newer."""
        for wish in tuple(wishes)[:MOST_WISHES]:
            self._known.setdefault(wish.tid, replace(wish, give_up_after=self._settings.give_up))
        self._publish()

    def lost(self) -> None:
        """Have everything announced again, for a discovery controller on Fibre Channel has been lost."""
        self._again.set()

    async def run(self) -> None:
        """Listen to announcements, for ever."""
        await work_anew(self._configured, self._serve)

    async def _serve(self) -> None:
        if not self._settings.fibre_channel:
            return
        try:
            async with udev.listening("fc", self._heard, self.lost):
                await self._ask()
        except (ImportError, OSError) as error:
            log.error("no Fibre Channel discovery: udev cannot be listened to: %s; check that pyudev is there", error)

    async def _ask(self) -> None:
        """Ask for announcements: at first, when one may have been missed, and at the interval that is set."""
        self._again.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.fc_kick_start_interval or None):
                    await self._again.wait()
            self._again.clear()
            await self._announce_again()
            await asyncio.sleep(REQUEST_INTERVAL_SECONDS)

    async def _announce_again(self) -> None:
        try:
            await asyncio.to_thread(ANNOUNCE_AGAIN.write_text, "add")
            self._complaint = ""
        except FileNotFoundError:
            pass  # No adapter for Fibre Channel.
        except OSError as error:
            text = (
                f"{error.strerror}; if the adapter's driver was loaded after discoverd was started, restart discoverd"
            )
            if text != self._complaint:
                self._complaint = text
                log.warning("cannot ask for Fibre Channel ports again, and hear of new ones only: %s", text)

    def _heard(self, event: Mapping[str, str]) -> None:
        if event.get("FC_EVENT") != "nvmediscovery":
            return
        traddr, host_traddr = event.get("NVMEFC_TRADDR", ""), event.get("NVMEFC_HOST_TRADDR", "")
        try:
            if not host_traddr:
                raise TidError("NVMEFC_HOST_TRADDR is missing")
            tid = TransportId.make(DISCOVERY, "fc", traddr, "", DISCOVERY_NQN, host_traddr=host_traddr)
            if tid not in self._known and len(self._known) >= MOST_WISHES:
                raise TidError(f"{MOST_WISHES} others were announced before it, and no more are taken")
        except TidError as error:
            self._refuse(f"Fibre Channel port {traddr!r:.80} seen by {host_traddr!r:.80}", str(error))
            return
        if tid not in self._known:
            log.info("Fibre Channel port %s announces a discovery controller to %s", tid.traddr, tid.host_traddr)
        source = f"announced by Fibre Channel port {tid.traddr}"
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._known[tid] = Wish(tid, DISCOVERY, source, FIBRE_CHANNEL, give_up_after=self._settings.give_up, asked=now)
        self._publish()

    def _refuse(self, what: str, reason: str) -> None:
        refusal = Refusal(what, "announced by the kernel's Fibre Channel transport", reason)
        if refusal not in self._refused:
            self._refused = (*self._refused, refusal)[-MOST_REFUSALS:]
            self._publish()

    def _publish(self) -> None:
        wanted = self._settings.fibre_channel
        self.wishes = tuple(self._known.values()) if wanted else ()
        self.refusals = self._refused if wanted else ()
        self._changed()
