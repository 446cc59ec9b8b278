# SPDX-License-Identifier: Apache-2.0
"""What is asked of Avahi and believed of it, with a made-up bus on which it comes, goes, refuses and is imitated."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from discoverd.bus import avahi
from discoverd.bus.avahi import IPV4, IPV6, TCP, UDP, Announced, News, Running, Service, Unasked, Withdrawn
from discoverd.bus.client import Message, MessageType

from . import virtual_time
from .fake_host import until

OWNER = ":1.7"
SERVER = "org.freedesktop.Avahi.Server"
BROWSER = "org.freedesktop.Avahi.ServiceBrowser"
RESOLVER = "org.freedesktop.Avahi.ServiceResolver"
ONE = Service(2, IPV4, "dc-one", TCP, "local")
TWO = Service(2, IPV4, "dc-two", TCP, "local")


class Bus:
    """The made-up bus and the Avahi on it."""

    def __init__(self) -> None:
        self.owner = OWNER
        self.handler: Callable[[Message], None] | None = None
        self.lost: asyncio.Future[None] | None = None
        self.disconnected = False
        self.calls: list[tuple[str, str]] = []
        # The resolvers that exist, by path.
        self.resolvers: dict[str, Service] = {}
        # Errors for calls, by member.
        self.errors: dict[str, str] = {}
        self.hangs = ""
        # What happens when a member is called, before the answer.
        self.meanwhile: dict[str, Callable[[], None]] = {}
        self._made = 0

    async def connect(self) -> "Bus":
        self.lost = asyncio.get_running_loop().create_future()
        return self

    def add_message_handler(self, handler: Callable[[Message], None]) -> None:
        self.handler = handler

    async def wait_for_disconnect(self) -> None:
        assert self.lost
        await self.lost

    def disconnect(self) -> None:
        self.disconnected = True

    async def call(self, message: Message) -> Message:
        await asyncio.sleep(0)
        self.calls.append((message.member, message.destination))
        if message.member == self.hangs:
            await asyncio.Event().wait()
        self.meanwhile.pop(message.member, lambda: None)()
        if error := self.errors.get(message.member):
            return Message(message_type=MessageType.ERROR, error_name=error, reply_serial=1, signature="s", body=["no"])
        body: list[object] = []
        match message.member:
            case "GetNameOwner":
                if not self.owner:
                    return Message(
                        message_type=MessageType.ERROR,
                        error_name="org.freedesktop.DBus.Error.NameHasNoOwner",
                        reply_serial=1,
                    )
                body = [self.owner]
            case "ServiceBrowserNew":
                body = ["/browser"]
            case "ServiceResolverNew":
                self._made += 1
                path = f"/resolver{self._made}"
                self.resolvers[path] = Service(*message.body[:5])
                assert message.body[5] == message.body[1], "an address of the family of the announcement"
                body = [path]
            case "Free":
                del self.resolvers[message.path]
        signature = "s" if message.member == "GetNameOwner" else "o" if body else ""
        return Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature=signature, body=body)

    # What Avahi, or somebody else, sends.

    def signal(self, interface: str, member: str, signature: str, body: list[object], sender: str = "") -> None:
        message = Message(
            message_type=MessageType.SIGNAL,
            path="/some",
            interface=interface,
            member=member,
            signature=signature,
            body=body,
        )
        message.sender = sender or self.owner
        assert self.handler
        self.handler(message)

    def item(self, member: str, service: Service, sender: str = "", flags: int = 4) -> None:
        body: list[object] = [service.interface, service.protocol, service.name, service.type, service.domain, flags]
        self.signal(BROWSER, member, "iisssu", body, sender)

    def found(self, service: Service, address: str = "192.0.2.1", sender: str = "", flags: int = 4) -> None:
        where = [service.interface, service.protocol, service.name, service.type, service.domain]
        body: list[object] = [*where, "array.local", service.protocol, address, 8009, [b"p=rdma", b"p=tcp"], flags]
        self.signal(RESOLVER, "Found", "iissssisqaayu", body, sender)

    def owned_by(self, owner: str) -> None:
        self.owner = owner
        body: list[object] = ["org.freedesktop.Avahi", "", owner]
        self.signal("org.freedesktop.DBus", "NameOwnerChanged", "sss", body, "org.freedesktop.DBus")


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    made = Bus()

    @asynccontextmanager
    async def system_bus() -> AsyncIterator[Bus]:
        try:
            yield await made.connect()
        finally:
            made.disconnect()

    monkeypatch.setattr(avahi, "system_bus", system_bus)
    return made


@asynccontextmanager
async def watching(bus: Bus, wanted: Callable[[Service], bool] = lambda _: True) -> AsyncIterator[list[News]]:
    """Watch, once Avahi browses or is known to be away, and end it."""
    seen: list[News] = []
    task = asyncio.create_task(avahi.watch(wanted, seen.append))
    await until(lambda: bool(seen))
    yield seen
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bus.disconnected


def announced(service: Service, address: str = "192.0.2.1") -> Announced:
    return Announced(service, address, 8009, (b"p=tcp", b"p=rdma"))


def test_a_service_is_announced_changes_and_goes(bus: Bus) -> None:
    async def main() -> None:
        async with watching(bus) as seen:
            assert seen == [Running(True)]
            assert bus.calls.count(("ServiceBrowserNew", OWNER)) == 2
            bus.item("ItemNew", ONE)
            await until(lambda: ONE in bus.resolvers.values())
            bus.found(ONE)
            bus.found(ONE, "192.0.2.9")
            bus.item("ItemRemove", ONE)
            await until(lambda: not bus.resolvers)
            bus.found(ONE)
            assert seen[1:] == [announced(ONE), announced(ONE, "192.0.2.9"), Withdrawn(ONE)]

    virtual_time.run(main())


def test_an_answer_may_come_before_the_resolver_has_a_path(bus: Bus) -> None:
    async def main() -> None:
        async with watching(bus) as seen:
            bus.meanwhile["ServiceResolverNew"] = lambda: bus.found(ONE)
            bus.item("ItemNew", ONE)
            await until(lambda: announced(ONE) in seen)

    virtual_time.run(main())


def test_gone_and_back_while_its_resolver_is_made(bus: Bus) -> None:
    def gone_and_back() -> None:
        bus.item("ItemRemove", ONE)
        bus.item("ItemNew", ONE)

    async def main() -> None:
        async with watching(bus):
            bus.meanwhile["ServiceResolverNew"] = gone_and_back
            bus.item("ItemNew", ONE)
            await until(lambda: bus.calls.count(("Free", OWNER)) == 1)
            await until(lambda: list(bus.resolvers.items()) == [("/resolver2", ONE)])

    virtual_time.run(main())


def test_gone_while_its_resolver_is_made(bus: Bus) -> None:
    async def main() -> None:
        async with watching(bus):
            bus.meanwhile["ServiceResolverNew"] = lambda: bus.item("ItemRemove", ONE)
            bus.item("ItemNew", ONE)
            bus.item("ItemNew", TWO)
            await until(lambda: list(bus.resolvers.values()) == [TWO])

    virtual_time.run(main())


@pytest.mark.parametrize("sender", [":1.8", "org.freedesktop.Avahi", "org.freedesktop.DBus"])
def test_nobody_else_is_believed(bus: Bus, sender: str) -> None:
    async def main() -> None:
        async with watching(bus) as seen:
            bus.item("ItemNew", ONE)
            await until(lambda: ONE in bus.resolvers.values())
            bus.item("ItemNew", TWO, sender)
            bus.found(ONE, "203.0.113.1", sender)
            bus.item("ItemRemove", ONE, sender)
            bus.signal(BROWSER, "Failure", "s", ["no"], sender)
            bus.signal("org.freedesktop.DBus", "NameOwnerChanged", "sss", ["org.freedesktop.Avahi", "", ""], ":1.8")
            await asyncio.sleep(0.05)
            assert seen == [Running(True)]
            assert list(bus.resolvers.values()) == [ONE]

    virtual_time.run(main())


@pytest.mark.parametrize("flags", [4 | 8, 8 | 16])
def test_what_this_host_announces_does_not_count(bus: Bus, flags: int) -> None:
    """AVAHI_LOOKUP_RESULT_LOCAL and _OUR_OWN: any user can publish a service with Avahi."""

    async def story() -> None:
        async with watching(bus) as seen:
            bus.item("ItemNew", ONE, flags=flags)
            bus.item("ItemNew", TWO)
            await until(lambda: list(bus.resolvers.values()) == [TWO])
            # Its name was free on the link when it was heard first.
            bus.found(TWO, flags=flags)
            bus.found(TWO, flags=flags)
            await until(lambda: not bus.resolvers)
        assert seen == [Running(True), Withdrawn(TWO)]

    asyncio.run(story())


def test_no_other_form_is_taken(bus: Bus) -> None:
    async def main() -> None:
        async with watching(bus) as seen:
            bus.signal(BROWSER, "ItemNew", "s", ["x"])
            bus.signal(RESOLVER, "Found", "iisss", [2, 0, "dc-one", TCP, "local"])
            bus.signal(BROWSER, "Found", "iisss", [2, 0, "dc-one", TCP, "local"])
            bus.signal(BROWSER, "CacheExhausted", "", [])
            bus.signal(RESOLVER, "Failure", "s", ["Timeout reached"])
            bus.signal("org.freedesktop.DBus", "NameOwnerChanged", "sss", ["a.b", "", ""], "org.freedesktop.DBus")
            bus.found(ONE)
            await asyncio.sleep(0.05)
            assert seen == [Running(True)]
            assert bus.resolvers == {}

    virtual_time.run(main())


def test_avahi_comes_later_and_is_not_started_by_us(bus: Bus) -> None:
    bus.owner = ""

    async def main() -> None:
        async with watching(bus) as seen:
            assert seen == [Running(False)]
            await asyncio.sleep(0.05)
            assert {destination for _, destination in bus.calls} == {"org.freedesktop.DBus"}
            bus.owned_by(":1.20")
            await until(lambda: Running(True) in seen)
            assert bus.calls.count(("ServiceBrowserNew", ":1.20")) == 2
            assert seen == [Running(False), Running(True)]

    virtual_time.run(main())


def test_avahi_is_restarted(bus: Bus) -> None:
    async def main() -> None:
        async with watching(bus) as seen:
            bus.item("ItemNew", ONE)
            await until(lambda: ONE in bus.resolvers.values())
            bus.found(ONE)
            bus.owned_by("")
            bus.resolvers.clear()
            bus.owned_by(":1.20")
            await until(lambda: seen.count(Running(True)) == 2)
            bus.item("ItemNew", ONE, OWNER)
            bus.item("ItemNew", ONE)
            await until(lambda: ONE in bus.resolvers.values())
            assert seen == [Running(True), announced(ONE), Running(False), Running(True)]
            assert bus.calls[-1] == ("ServiceResolverNew", ":1.20")

    virtual_time.run(main())


@pytest.mark.parametrize("member", ["ServiceBrowserNew", "ServiceResolverNew"])
def test_avahi_goes_during_a_call(bus: Bus, member: str) -> None:
    def gone() -> None:
        bus.owned_by("")
        bus.errors[member] = "org.freedesktop.DBus.Error.ServiceUnknown"

    async def main() -> None:
        if member == "ServiceBrowserNew":
            bus.meanwhile[member] = gone
        async with watching(bus) as seen:
            bus.meanwhile[member] = gone
            if bus.owner:
                bus.item("ItemNew", ONE)
            await until(lambda: seen[-1] == Running(False))
            await asyncio.sleep(0.05)
            bus.errors.clear()
            bus.meanwhile.clear()
            bus.owned_by(":1.20")
            await until(lambda: seen[-1] == Running(True))

    virtual_time.run(main())


def test_only_what_is_wanted_is_asked_about(bus: Bus) -> None:
    six = Service(2, IPV6, "dc-one", UDP, "local")

    async def main() -> None:
        async with watching(bus, lambda service: service.protocol == IPV6):
            bus.item("ItemNew", ONE)
            bus.item("ItemNew", six)
            await until(lambda: list(bus.resolvers.values()) == [six])

    virtual_time.run(main())


def test_a_flood_takes_no_more_places_than_there_are(bus: Bus) -> None:
    async def main() -> None:
        async with watching(bus) as seen:
            for number in range(5000):
                bus.item("ItemNew", Service(2, IPV4, f"flood{number}", TCP, "local"))
            bus.item("ItemNew", Service(3, IPV4, "late", TCP, "local"))
            await until(lambda: len(bus.resolvers) == avahi.SERVICES_PER_INTERFACE)
            await until(lambda: seen[-1] == Unasked(4096 - avahi.SERVICES_PER_INTERFACE))
            # A place that falls free goes to the next.
            bus.item("ItemRemove", Service(2, IPV4, "flood0", TCP, "local"))
            await until(lambda: seen[-1] == Unasked(4095 - avahi.SERVICES_PER_INTERFACE))
            assert "flood32" in {service.name for service in bus.resolvers.values()}

    virtual_time.run(main())


def test_one_interface_does_not_take_the_places_of_another(bus: Bus) -> None:
    async def main() -> None:
        async with watching(bus) as seen:
            for interface in range(2, 8):
                for number in range(80):
                    bus.item("ItemNew", Service(interface, IPV4, f"dc{number}", TCP, "local"))
            await until(lambda: len(bus.resolvers) == avahi.SERVICES_MAX)
            await until(lambda: seen[-1] == Unasked(6 * 80 - avahi.SERVICES_MAX))
            per_interface = [service.interface for service in bus.resolvers.values()]
            assert [per_interface.count(interface) for interface in (2, 3, 4, 5, 6)] == [32, 32, 32, 32, 0]

    virtual_time.run(main())


def test_service_that_avahi_refuses_to_resolve_stops_no_other(bus: Bus) -> None:
    async def main() -> None:
        async with watching(bus):
            bus.errors["ServiceResolverNew"] = "org.freedesktop.Avahi.TooManyObjectsError"
            bus.item("ItemNew", ONE)
            await until(lambda: ("ServiceResolverNew", OWNER) in bus.calls)
            bus.errors.clear()
            bus.item("ItemNew", TWO)
            await until(lambda: list(bus.resolvers.values()) == [TWO])
            bus.item("ItemRemove", ONE)
            bus.item("ItemNew", ONE)
            await until(lambda: ONE in bus.resolvers.values())
            bus.errors["Free"] = "org.freedesktop.DBus.Error.UnknownObject"
            bus.item("ItemRemove", ONE)
            await until(lambda: ("Free", OWNER) in bus.calls)

    virtual_time.run(main())


@pytest.mark.parametrize("member", ["AddMatch", "GetNameOwner", "ServiceBrowserNew"])
def test_call_without_answer_times_out(bus: Bus, member: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avahi, "_CALL_TIMEOUT_SECONDS", 0.05)
    bus.hangs = member
    with pytest.raises(TimeoutError, match=r"answer"):
        virtual_time.run(avahi.watch(lambda _: True, lambda _: None))
    assert bus.disconnected


@pytest.mark.parametrize("member", ["AddMatch", "GetNameOwner", "ServiceBrowserNew"])
def test_a_refusal_is_told(bus: Bus, member: str) -> None:
    bus.errors[member] = "org.freedesktop.DBus.Error.AccessDenied"
    with pytest.raises(ConnectionError, match=f"{member}: no"):
        virtual_time.run(avahi.watch(lambda _: True, lambda _: None))
    assert bus.disconnected


def test_a_browser_that_fails_ends_the_watch(bus: Bus) -> None:
    async def main() -> None:
        async with watching(bus):
            bus.signal(BROWSER, "Failure", "s", ["out of memory"])
            await until(lambda: bus.disconnected)

    virtual_time.run(main())


@pytest.mark.parametrize("error", [None, EOFError()])
def test_the_bus_goes_away(bus: Bus, error: Exception | None) -> None:
    async def main() -> None:
        task = asyncio.create_task(avahi.watch(lambda _: True, lambda _: None))
        await until(lambda: ("ServiceBrowserNew", OWNER) in bus.calls)
        assert bus.lost
        if error:
            bus.lost.set_exception(error)
        else:
            bus.lost.set_result(None)
        await asyncio.wait_for(task, 5)
        assert bus.disconnected

    virtual_time.run(main())
