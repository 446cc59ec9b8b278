# SPDX-License-Identifier: Apache-2.0
"""Which signals count: systemd's, and the bus's about systemd, whatever else arrives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from discoverd.bus.calls import RefusedError
from discoverd.bus.client import Message, MessageType
from discoverd.systemd import unit_signals
from discoverd.systemd.references import References
from discoverd.systemd.unit_signals import (
    JobRemoved,
    ManagerChanged,
    Receiver,
    Released,
    Shutdown,
    Signal,
    SignalsMissed,
    watch,
)

from . import virtual_time
from .fake_host import until

SYSTEMD = ":1.1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "nvme-ctrl@tcp:a.service"


def receive(
    member: str, signature: str, body: list[object], sender: str = SYSTEMD, interface: str = MANAGER
) -> list[Signal]:
    seen: list[Signal] = []
    receiver = Receiver(seen.append)
    receiver.owner = SYSTEMD
    message = Message(
        message_type=MessageType.SIGNAL,
        path="/org/freedesktop/systemd1",
        interface=interface,
        member=member,
        signature=signature,
        body=body,
    )
    message.sender = sender
    receiver.receive(message)
    return seen


def test_systemds_signals() -> None:
    assert receive("JobRemoved", "uoss", [1, "/j", UNIT, "done"]) == [JobRemoved("tcp:a", "done")]
    assert receive("JobRemoved", "uoss", [1, "/j", "cron.service", "done"]) == []
    assert receive("Reloading", "b", [True]) == []
    assert receive("Reloading", "b", [False]) == [ManagerChanged()]


def test_a_shutdown_begins_or_is_called_off() -> None:
    assert receive("JobNew", "uos", [7, "/j", "shutdown.target"]) == [Shutdown(True)]
    assert receive("JobRemoved", "uoss", [7, "/j", "shutdown.target", "canceled"]) == [Shutdown(False)]
    assert receive("JobNew", "uos", [7, "/j", UNIT]) == []
    assert receive("JobNew", "uos", [7, "/j", "shutdown.target.wants"]) == []


@pytest.mark.parametrize("sender", [":1.66", "org.freedesktop.DBus"])
def test_nobody_elses(sender: str) -> None:
    assert receive("JobRemoved", "uoss", [1, "/j", UNIT, "done"], sender) == []
    assert receive("Reloading", "b", [False], sender) == []
    assert receive("JobNew", "uos", [7, "/j", "shutdown.target"], sender) == []
    assert receive("JobRemoved", "uoss", [7, "/j", "shutdown.target", "done"], sender) == []


@pytest.mark.parametrize("member", ["JobNew", "JobRemoved", "Reloading"])
def test_nobody_counts_before_systemd_is_known(member: str) -> None:
    seen: list[Signal] = []
    message = Message(message_type=MessageType.SIGNAL, path="/o", interface=MANAGER, member=member)
    message.sender = ""
    Receiver(seen.append).receive(message)
    assert seen == []


def test_no_other_form() -> None:
    assert receive("Reloading", "", []) == []
    assert receive("JobRemoved", "u", [5]) == []
    assert receive("JobNew", "uoss", [7, "/j", "shutdown.target", "done"]) == []
    assert receive("JobRemoved", "uoss", [1, "/j", UNIT, "done"], interface="a.b") == []


def owner_changed() -> Message:
    message = Message(
        message_type=MessageType.SIGNAL,
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member="NameOwnerChanged",
        signature="sss",
        body=["org.freedesktop.systemd1", SYSTEMD, ":1.99"],
    )
    message.sender = "org.freedesktop.DBus"
    return message


def test_systemd_takes_its_name_again() -> None:
    seen: list[Signal] = []
    receiver = Receiver(seen.append)
    receiver.receive(owner_changed())
    assert (seen, receiver.owner) == ([ManagerChanged()], ":1.99")


# The watch ------------------------------------------------------------------------------------------------


class Bus:
    """A made-up bus with a systemd on it; a call is answered with the name that systemd has on it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.handler: Callable[[Message], None] = lambda _: None
        self.lost = asyncio.Event()
        self.dropped: Callable[[], None] = lambda: None
        self.hangs = ""

    @asynccontextmanager
    async def system_bus(self, dropped: Callable[[], None]) -> AsyncIterator["Bus"]:
        self.dropped = dropped
        yield self

    def add_message_handler(self, handler: Callable[[Message], None]) -> None:
        self.handler = handler

    async def wait_for_disconnect(self) -> None:
        await self.lost.wait()
        raise EOFError

    async def call(self, message: Message) -> Message:
        self.calls.append((message.destination, message.member))
        if message.member == self.hangs:
            await asyncio.Event().wait()
        return Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="s", body=[SYSTEMD])


@asynccontextmanager
async def watching(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[list[Signal], References]]:
    seen: list[Signal] = []
    flowing: asyncio.Future[References] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(unit_signals, "system_bus", bus.system_bus)
    task = asyncio.create_task(watch(seen.append, flowing.set_result))
    yield seen, await flowing
    bus.lost.set()
    with pytest.raises(EOFError):
        await asyncio.wait_for(task, 5)


def test_dropped_messages_are_looked_after_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bus may have refused signals of systemd meanwhile."""

    async def main() -> None:
        bus = Bus()
        async with watching(bus, monkeypatch) as (seen, _):
            for _ in range(1000):
                bus.dropped()
            assert seen == []
            await asyncio.sleep(unit_signals.MISSED_SECONDS + 0.1)
            assert seen == [SignalsMissed()]
            await asyncio.sleep(100)
            assert len(seen) == 1, "nothing happens when nothing comes"
            bus.dropped()
            await asyncio.sleep(unit_signals.MISSED_SECONDS + 0.1)
            assert len(seen) == 2

    virtual_time.run(main())


def test_systemd_that_takes_its_name_again_is_called_for_its_signals_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bus = Bus()
        async with watching(bus, monkeypatch) as (seen, references):
            references._kept.add("tcp:a")
            subscribed = bus.calls.count(("org.freedesktop.systemd1", "Subscribe"))
            bus.handler(owner_changed())
            await until(lambda: bus.calls.count(("org.freedesktop.systemd1", "Subscribe")) == subscribed + 1)
            await until(lambda: ("org.freedesktop.systemd1", "RefUnit") in bus.calls)
            # Also what it has said between the two.
            await until(lambda: seen == [ManagerChanged()] * 2)

    virtual_time.run(main())


def test_released_unit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bus = Bus()
        async with watching(bus, monkeypatch) as (seen, references):

            async def refuse(*_: object) -> None:
                raise RefusedError("UnrefUnit", "x.NotReferenced", "")

            monkeypatch.setattr(references, "_ask", refuse)
            references.release("tcp:a")
            await until(lambda: seen == [Released("tcp:a")])

    virtual_time.run(main())
