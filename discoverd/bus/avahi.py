# SPDX-License-Identifier: Apache-2.0
"""What Avahi hears by mDNS about NVMe discovery controllers, over D-Bus (org.freedesktop.Avahi.Server of Avahi 0.7
and later).

Avahi sends the signals of a browser or resolver to the connection that made it and to nobody else, so they need no
match rule; and it sends them after the answer to the call that made it, so the relay lets them pass. What this host
announces itself does not count. A service keeps its resolver for as long as it is announced: only so is a change of its
address or TXT record heard of. Avahi is never started by us: calls go to the connection that owns its name, if there is
one.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from discoverd.bus.calls import RefusedError, call
from discoverd.bus.client import Message, MessageBus, MessageType
from discoverd.bus.relay import system_bus

log = logging.getLogger("discoverd.avahi")

TCP = "_nvme-disc._tcp"
UDP = "_nvme-disc._udp"
DOMAIN = "local"

# Avahi's numbers (avahi-common/address.h, avahi-common/defs.h).
IPV4 = 0
IPV6 = 1
_ANY = -1
_USE_MULTICAST = 2
# AVAHI_LOOKUP_RESULT_LOCAL and AVAHI_LOOKUP_RESULT_OUR_OWN: this host announces it. Any of its users can have it do so.
_LOCAL = 8 | 16

# As many services are asked about: anybody on the link can announce any number. Those beyond wait for a place.
SERVICES_MAX = 128
SERVICES_PER_INTERFACE = 32
# As many are remembered at all. Avahi's cache has no more for one interface (cache-entries-max).
_HEARD_MAX = 4096

_CALL_TIMEOUT_SECONDS = 25

_AVAHI = "org.freedesktop.Avahi"
_SERVER = _AVAHI + ".Server"
_BROWSER = _AVAHI + ".ServiceBrowser"
_RESOLVER = _AVAHI + ".ServiceResolver"
_DBUS = "org.freedesktop.DBus"
_DBUS_PATH = "/org/freedesktop/DBus"
_NO_OWNER = _DBUS + ".Error.NameHasNoOwner"

_SIGNATURES = {
    (_BROWSER, "ItemNew"): "iisssu",
    (_BROWSER, "ItemRemove"): "iisssu",
    (_BROWSER, "Failure"): "s",
    (_RESOLVER, "Found"): "iissssisqaayu",
    (_RESOLVER, "Failure"): "s",
}


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """What is announced and where it was heard: on one interface (the kernel's index), in one family (IPV4, IPV6)."""

    interface: int
    protocol: int
    name: str
    type: str
    domain: str


@dataclass(frozen=True, slots=True)
class Running:
    """Avahi is there and listens for us, or is not; then nothing that it told holds any more."""

    there: bool


@dataclass(frozen=True, slots=True)
class Announced:
    """A service is announced, or what is announced about it has changed. Unchecked: it came from the network.

    ``txt`` has the strings of the TXT record in the order of the announcement.
    """

    service: Service
    address: str
    port: int
    txt: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A service said goodbye, or was not heard of for too long."""

    service: Service


@dataclass(frozen=True, slots=True)
class Unasked:
    """So many services are announced beyond those that are asked about."""

    count: int


News = Running | Announced | Withdrawn | Unasked


async def watch(wanted: Callable[[Service], bool], handler: Callable[[News], None]) -> None:
    """Deliver news of the services that are ``wanted`` until the bus goes away, then return; Avahi may come and go.

    Raises OSError (TimeoutError and ConnectionError among them), or what the D-Bus client raises, if the bus or Avahi
    does not answer or refuses. Whatever the end, Avahi has nothing of ours left then: it goes with the connection.
    """
    async with system_bus() as bus:
        client = _Client(bus, wanted, handler)
        bus.add_message_handler(client.receive)
        lost = asyncio.ensure_future(bus.wait_for_disconnect())
        work = asyncio.create_task(client.run())
        try:
            await asyncio.wait([lost, work], return_when=asyncio.FIRST_COMPLETED)
            for ended in (work, lost):
                if ended.done():
                    # An EOFError is how the client tells that the bus has gone.
                    with contextlib.suppress(EOFError):
                        ended.result()
        finally:
            lost.cancel()
            work.cancel()
            await asyncio.gather(lost, work, return_exceptions=True)


class _Client:
    """One connection to the bus, and what Avahi lists for it.

    Signals only change what is known, in :meth:`receive`; calls are made one at a time, in :meth:`run`. So a storm of
    announcements costs no more than what is there when it has passed.
    """

    def __init__(self, bus: MessageBus, wanted: Callable[[Service], bool], handler: Callable[[News], None]) -> None:
        self._bus = bus
        self._wanted = wanted
        self._handler = handler
        # Avahi's unique name, '' if there is none, None as long as nobody told.
        self._owner: str | None = None
        self._browsed = ""
        self._failure = ""
        # What Avahi lists, each with a mark that tells one announcement from the next of the same name.
        self._listed: dict[Service, object] = {}
        # The paths of the resolvers; '' where Avahi refused to make one.
        self._resolvers: dict[Service, str] = {}
        self._to_free: list[str] = []
        self._unasked = 0
        self._news = asyncio.Event()

    # Signals -----------------------------------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """Take a signal of Avahi's, or of the bus about Avahi; any user of the bus can send one that looks the same."""
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == _DBUS and message.member == "NameOwnerChanged" and message.signature == "sss":
            if message.body[0] == _AVAHI:
                self._owned_by(message.body[2])
            return
        kind = (message.interface, message.member)
        if not self._owner or message.sender != self._owner or message.signature != _SIGNATURES.get(kind):
            return
        body = message.body
        match kind:
            case (_, "ItemNew"):
                if not body[5] & _LOCAL:
                    self._appeared(Service(*body[:5]))
            case (_, "ItemRemove"):
                self._disappeared(Service(*body[:5]))
            case (_, "Found"):
                service = Service(*body[:5])
                if body[10] & _LOCAL:
                    self._disappeared(service)
                elif service in self._listed:
                    # Avahi keeps a TXT record's strings in reverse, and hands them on like that.
                    txt = tuple(bytes(one) for one in reversed(body[9]))
                    self._handler(Announced(service, body[7], body[8], txt))
            case (interface, "Failure") if interface == _BROWSER:
                self._failure = body[0]
                self._news.set()
            case (_, "Failure"):
                # A resolver that has had no answer in time goes on waiting for one.
                log.debug("Avahi cannot resolve %s: %s", message.path, body[0])

    def _owned_by(self, owner: str) -> None:
        if self._owner or not owner:
            self._handler(Running(False))
        self._owner = owner
        self._browsed = ""
        self._listed.clear()
        self._resolvers.clear()
        self._to_free.clear()
        self._unasked = 0
        self._news.set()

    def _appeared(self, service: Service) -> None:
        if service not in self._listed and len(self._listed) < _HEARD_MAX and self._wanted(service):
            self._listed[service] = object()
            self._news.set()

    def _disappeared(self, service: Service) -> None:
        if self._listed.pop(service, None) is None:
            return
        if path := self._resolvers.pop(service, ""):
            self._to_free.append(path)
        self._handler(Withdrawn(service))
        self._news.set()

    # Calls -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep Avahi browsing, and a resolver for each service it lists, for ever."""
        rule = f"type='signal',sender='{_DBUS}',member='NameOwnerChanged',arg0='{_AVAHI}'"
        await self._call(_DBUS, _DBUS_PATH, _DBUS, "AddMatch", "s", rule)
        try:
            owner = await self._call(_DBUS, _DBUS_PATH, _DBUS, "GetNameOwner", "s", _AVAHI)
        except RefusedError as error:
            if error.name != _NO_OWNER:
                raise
            owner = ""
        if self._owner is None:
            self._owned_by(owner)
        while True:
            await self._news.wait()
            self._news.clear()
            if self._failure:
                raise ConnectionError(f"Avahi stopped browsing: {self._failure}")
            owner = self._owner
            if owner:
                try:
                    await self._attend(owner)
                except ConnectionError:
                    # Whoever has left in the meantime answers nothing.
                    if owner == self._owner:
                        raise

    async def _attend(self, owner: str) -> None:
        """Ask Avahi for what is missing, and free what is over."""
        if self._browsed != owner:
            for kind in (TCP, UDP):
                body = (_ANY, _ANY, kind, DOMAIN, _USE_MULTICAST)
                await self._call(owner, "/", _SERVER, "ServiceBrowserNew", "iissu", *body)
            if owner != self._owner:
                return
            self._browsed = owner
            self._handler(Running(True))
        while self._to_free:
            await self._free(owner, self._to_free.pop())
        for service in self._due():
            await self._resolve(owner, service)
        unasked = len(self._listed) - len(self._resolvers)
        if owner == self._owner and unasked != self._unasked and not self._news.is_set():
            self._unasked = unasked
            self._handler(Unasked(unasked))

    def _due(self) -> list[Service]:
        """Return the services that have no resolver and for which there is a place; who came first is served first."""
        places = Counter(service.interface for service in self._resolvers)
        due: list[Service] = []
        for service in self._listed:
            if len(self._resolvers) + len(due) == SERVICES_MAX:
                break
            if service not in self._resolvers and places[service.interface] < SERVICES_PER_INTERFACE:
                places[service.interface] += 1
                due.append(service)
        return due

    async def _resolve(self, owner: str, service: Service) -> None:
        mark = self._listed.get(service)
        if mark is None:
            return
        # An address of the family in which the service was heard: of several, Avahi would tell any one.
        where = (service.interface, service.protocol, service.name, service.type, service.domain)
        try:
            body = (*where, service.protocol, _USE_MULTICAST)
            path = await self._call(owner, "/", _SERVER, "ServiceResolverNew", "iisssiu", *body)
        except RefusedError as error:
            if owner != self._owner:
                raise
            log.debug("Avahi does not resolve %r: %s", service.name[:80], error)
            path = ""
        if self._listed.get(service) is mark:
            self._resolvers[service] = path
        elif path and owner == self._owner:
            self._to_free.append(path)
            self._news.set()

    async def _free(self, owner: str, path: str) -> None:
        try:
            await self._call(owner, path, _RESOLVER, "Free")
        except RefusedError as error:
            log.debug("Avahi does not free %s: %s", path, error)

    async def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *body: object
    ) -> Any:
        return await call(self._bus, _CALL_TIMEOUT_SECONDS, destination, path, interface, member, signature, *body)
