# SPDX-License-Identifier: Apache-2.0
"""Discovery controllers that announce themselves by mDNS (TP8009), heard through Avahi.

What is no longer announced stays a wish, to be given up after a time: silence is no evidence. See docs/design/mdns.md.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import replace

from discoverd.bus import avahi
from discoverd.bus.avahi import SERVICES_MAX, SERVICES_PER_INTERFACE, Announced, Service
from discoverd.config.settings import Settings
from discoverd.kernel.addresses import HostAddresses
from discoverd.plan.candidate import MDNS, Announcement, Refusal, Wish
from discoverd.sources.announcement import describe, harmless, identify
from discoverd.sources.ways import Ways
from discoverd.tid import DISCOVERY, TidError, TransportId

log = logging.getLogger("discoverd.mdns")

# Changes are gathered into one for so long.
DEBOUNCE_SECONDS = 0.5
# A service that is heard of again within so many seconds was never gone: Avahi was restarted, or its host was.
LOST_TIMEOUT_SECONDS = 5.0
# Where there is no room for what is announced, what is not announced is kept for so many seconds without a connection.
CROWDED_GIVE_UP_SECONDS = 60
# Seconds until Avahi, or the bus, is tried again.
RETRY_SECONDS = 5

# With those that were lost a moment ago, the first of which goes where there are more: names can come and go fast.
_HEARD_MAX = 2 * SERVICES_MAX

_FAMILIES = {avahi.IPV4: "ipv4", avahi.IPV6: "ipv6"}


class Mdns:
    """Wishes for announced discovery controllers, and for those that were announced before.

    Set ``unique_nqn`` to False, before :meth:`configure`, where the kernel takes none but the well-known NQN for a
    discovery controller. Call :meth:`locate` before :meth:`run`, so that no address of this host's is believed.
    ``known`` are the instances that have a unit.
    """

    def __init__(self, changed: Callable[[], None], known: Container[str] = ()) -> None:
        self.wishes: tuple[Wish, ...] = ()
        self.refusals: tuple[Refusal, ...] = ()
        self.unique_nqn = True
        self._changed = changed
        self._known = known
        self._settings = Settings()
        self._addresses = HostAddresses()
        self._browse_anew = asyncio.Event()
        # What Avahi tells, with the interface's name, and when that which it no longer tells was told last.
        self._heard: dict[Service, tuple[str, Announced]] = {}
        self._lost: dict[Service, float] = {}
        self._unasked = 0
        self._wishes: dict[TransportId, Wish] = {}
        # Until then (loop time) nothing ends: who is announced has not been heard yet.
        self._unsettled_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._said = ""

    def remember(self, wishes: tuple[Wish, ...]) -> None:
        """Take over what earlier supervisors knew. Call it once, at the start."""
        self._wishes = {wish.tid: wish for wish in wishes}
        self._unsettled_until = asyncio.get_running_loop().time() + LOST_TIMEOUT_SECONDS
        self._refresh()

    def forget(self, instance: str) -> None:
        """Drop the wish for a controller whose worker gave up, unless it is announced."""
        for tid, wish in self._wishes.items():
            if tid.instance == instance and not _is_announced(wish):
                del self._wishes[tid]
                self._refresh()
                return

    def configure(self, settings: Settings) -> None:
        """Browse, and judge what was heard, by these settings from now on."""
        before, self._settings = self._settings, settings
        if _browsing(before) != _browsing(settings):
            self._browse_anew.set()
        if not settings.mdns:
            self._heard.clear()
            self._lost.clear()
            self._unasked = 0
            self._unsettled_until = 0.0
        self._refresh()

    def locate(self, addresses: HostAddresses) -> None:
        """Take the addresses of this host: who announces one of them is not believed."""
        self._addresses = addresses
        self._refresh()

    async def run(self) -> None:
        """Listen for ever, with or without Avahi and the bus."""
        try:
            while True:
                self._browse_anew.clear()
                browsing = [asyncio.create_task(self._browse())] if self._settings.mdns else []
                try:
                    await self._browse_anew.wait()
                finally:
                    for task in browsing:
                        task.cancel()
                    await asyncio.gather(*browsing, return_exceptions=True)
                self._lose_all()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    # Avahi -------------------------------------------------------------------------------------------------

    async def _browse(self) -> None:
        while True:
            try:
                await avahi.watch(self._wanted, self._tell)
                why = "the connection to the bus ended"
            except Exception as error:
                # The D-Bus client raises all kinds; the answer to each is to try again.
                why = str(error) or repr(error)
            self._lose_all()
            self._say(logging.WARNING, f"no news from Avahi: {why}; trying again every {RETRY_SECONDS} s")
            await asyncio.sleep(RETRY_SECONDS)

    def _say(self, level: int, text: str) -> None:
        if text != self._said:
            self._said = text
            log.log(level, "%s", text)

    def _wanted(self, service: Service) -> bool:
        return service.domain == avahi.DOMAIN and self._accepts(service, _interface_name(service.interface))

    def _accepts(self, service: Service, interface: str) -> bool:
        settings = self._settings
        return (
            bool(interface)
            and (not settings.mdns_interfaces or interface in settings.mdns_interfaces)
            and interface not in settings.mdns_ignore_interfaces
            and (family := _FAMILIES.get(service.protocol)) in settings.mdns_families
            and family in settings.address_families
        )

    def _tell(self, news: avahi.News) -> None:
        match news:
            case Announced(service):
                self._hear(service, news)
            case avahi.Withdrawn(service):
                self._lose(service)
            case avahi.Unasked(count):
                self._unasked = count
            case avahi.Running(there):
                if there:
                    self._say(logging.INFO, "listening to mDNS through Avahi")
                else:
                    self._lose_all()
                    text = "Avahi is not running: nothing is discovered by mDNS; start avahi-daemon, or set mdns = no"
                    self._say(logging.INFO, text)
        self._refresh_in(DEBOUNCE_SECONDS)

    def _hear(self, service: Service, news: Announced) -> None:
        if not (interface := _interface_name(service.interface)):
            return
        self._lost.pop(service, None)
        if service not in self._heard and len(self._heard) >= _HEARD_MAX:
            if not self._lost:
                return  # Resolvers that are about to be freed tell of services that have come again.
            del self._heard[lost := next(iter(self._lost))], self._lost[lost]
        self._heard[service] = (interface, news)

    def _lose(self, service: Service) -> None:
        if service in self._heard:
            self._lost.setdefault(service, asyncio.get_running_loop().time())

    def _lose_all(self) -> None:
        for service in self._heard:
            self._lose(service)
        self._unasked = 0
        self._refresh_in(DEBOUNCE_SECONDS)

    # Wishes ------------------------------------------------------------------------------------------------

    def _refresh_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = loop.call_at(due, self._refresh)

    def _refresh(self) -> None:
        """Work out wishes and refusals from what was heard; tell if they changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = asyncio.get_running_loop().time()
        for service in [service for service, when in self._lost.items() if when + LOST_TIMEOUT_SECONDS <= now]:
            del self._lost[service], self._heard[service]
        announced, refusals = self._understand()
        beyond = self._unasked + self._update(announced, now)
        if beyond:
            reason = (
                f"more are announced than are looked at, {SERVICES_PER_INTERFACE} on one interface and {SERVICES_MAX} "
                "in all; find out who announces so many, or set mdns-ignore-interfaces"
            )
            refusals.append(Refusal(f"{beyond} more discovery controllers", "announced by mDNS", reason, trusted=False))
        waits = [when + LOST_TIMEOUT_SECONDS - now for when in self._lost.values()]
        if self._unsettled_until > now:
            waits.append(self._unsettled_until - now)
        if waits:
            self._refresh_in(max(DEBOUNCE_SECONDS, min(waits)))
        news = (tuple(self._wishes.values()), tuple(refusals))
        if news != (self.wishes, self.refusals):
            self.wishes, self.refusals = news
            self._changed()

    def _understand(self) -> tuple[dict[TransportId, list[tuple[str, str]]], list[Refusal]]:
        """Return the announced controllers, each with source texts and interfaces, in a stable order; and refusals."""
        announced: dict[TransportId, list[tuple[str, str]]] = {}
        refusals = []
        for service, (interface, news) in sorted(self._heard.items(), key=lambda item: (item[0].name, item[0])):
            if not self._accepts(service, interface):
                continue
            try:
                tid = identify(news, interface, self.unique_nqn, self._addresses)
                tid = Ways.of(self._settings).identity(tid, self._known)
            except TidError as error:
                where = f"announced by mDNS on {interface}"
                what = f"discovery controller '{harmless(service.name)}'"
                refusals.append(Refusal(what, where, str(error), trusted=False))
            else:
                announced.setdefault(tid, []).append((describe(service.name, interface), interface))
        # Heard in both families, it is refused once.
        return announced, list(dict.fromkeys(refusals))

    def _update(self, announced: dict[TransportId, list[tuple[str, str]]], now: float) -> int:
        """Bring the wishes up to date; return how many there was no room for."""
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        places = Counter(_interface_of(wish) for wish in self._wishes.values())
        beyond = 0
        crowded: set[str] = set()
        for tid, sources in announced.items():
            wish = self._wishes.get(tid)
            if wish is None:
                interface = sources[0][1]
                full = len(self._wishes) >= SERVICES_MAX
                if full or places[interface] >= SERVICES_PER_INTERFACE:
                    beyond += 1
                    crowded |= places.keys() if full else {interface}
                    continue
                places[interface] += 1
            # One announcement of several is named for as long as it is made, whatever others come and go.
            source, interface = next((one for one in sources if wish is not None and one[0] == wish.source), sources[0])
            asked = wish.asked if wish is not None and _is_announced(wish) else boottime
            self._wishes[tid] = Wish(tid, DISCOVERY, source, MDNS, asked=asked, announcement=Announcement(interface))
        for tid, wish in self._wishes.items():
            if tid in announced:
                continue
            if _is_announced(wish):
                if now < self._unsettled_until:
                    continue
                until = time.strftime("%Y-%m-%d %H:%M")
                announcement = Announcement(_interface_of(wish), until)
                wish = replace(wish, source=f"{wish.source} until {until}", asked=boottime, announcement=announcement)
            give_up_after = (
                CROWDED_GIVE_UP_SECONDS if _interface_of(wish) in crowded else self._settings.mdns_persistence
            )
            self._wishes[tid] = replace(wish, give_up_after=give_up_after)
        return beyond


def _browsing(settings: Settings) -> tuple[object, ...]:
    """Return the settings that decide what Avahi is asked."""
    families = settings.mdns_families, settings.address_families
    return settings.mdns, settings.mdns_interfaces, settings.mdns_ignore_interfaces, families


def _interface_name(index: int) -> str:
    with contextlib.suppress(OSError, OverflowError):
        return socket.if_indextoname(index)
    return ""


def _is_announced(wish: Wish) -> bool:
    return wish.announcement is None or not wish.announcement.ended


def _interface_of(wish: Wish) -> str:
    return wish.announcement.interface if wish.announcement else wish.tid.host_iface
