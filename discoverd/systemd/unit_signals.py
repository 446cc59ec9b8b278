# SPDX-License-Identifier: Apache-2.0
"""systemd's signals about the controllers' units, in the event loop (org.freedesktop.systemd1(5))."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Never

from discoverd.bus.calls import RefusedError, call
from discoverd.bus.client import Message, MessageType
from discoverd.bus.relay import system_bus
from discoverd.systemd.references import References
from discoverd.tid import unit_instance

# PID 1 is busy for long at boot; but a call without an end would hide that the bus is gone.
_CALL_TIMEOUT_SECONDS = 60
# A call whose answer may be lost is made again, and does no harm.
_REFERENCE_TIMEOUT_SECONDS = 10
# While messages come that are not for us, all units are looked at so often.
MISSED_SECONDS = 5

_SYSTEMD = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = _SYSTEMD + ".Manager"
_DBUS = "org.freedesktop.DBus"
_DBUS_PATH = "/org/freedesktop/DBus"


@dataclass(frozen=True, slots=True)
class JobRemoved:
    """A job of a controller's unit has ended: ``result`` is done, failed, canceled, timeout, dependency or skipped."""

    instance: str
    result: str


@dataclass(frozen=True, slots=True)
class ManagerChanged:
    """systemd was reloaded or restarted, and may know other units than before."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """A shutdown, of whatever kind, has begun, or was called off."""

    begun: bool


@dataclass(frozen=True, slots=True)
class SignalsMissed:
    """So much was sent to us by others that the bus may have refused signals of systemd."""


@dataclass(frozen=True, slots=True)
class Released:
    """A unit is no longer kept loaded, and systemd may have none of that name any more."""

    instance: str


Signal = JobRemoved | ManagerChanged | Shutdown | SignalsMissed | Released

_SHUTDOWN = "shutdown.target"

# Not UnitNew and UnitRemoved: they come for each device of the host too, and a job tells the same of our units.
_SIGNATURES = {"JobNew": "uos", "JobRemoved": "uoss", "Reloading": "b"}


async def watch(handler: Callable[[Signal], None], subscribed: Callable[[References], None]) -> None:
    """Deliver signals to ``handler`` until the bus goes away, then return.

    Calls ``subscribed`` once they flow, with the references of this connection. Raises OSError, or what the D-Bus
    client raises, if the bus cannot be reached or refuses.
    """
    async with system_bus(Missed(handler).dropped) as bus:
        receiver = Receiver(handler)
        bus.add_message_handler(receiver.receive)
        for member in _SIGNATURES:
            rule = f"type='signal',sender='{_SYSTEMD}',interface='{_MANAGER}',member='{member}'"
            if member == "JobNew":
                rule += f",arg2='{_SHUTDOWN}'"
            await call(bus, _CALL_TIMEOUT_SECONDS, _DBUS, _DBUS_PATH, _DBUS, "AddMatch", "s", rule)
        # A systemd that re-executes takes its name again.
        rule = f"type='signal',sender='{_DBUS}',member='NameOwnerChanged',arg0='{_SYSTEMD}'"
        await call(bus, _CALL_TIMEOUT_SECONDS, _DBUS, _DBUS_PATH, _DBUS, "AddMatch", "s", rule)
        receiver.owner = await call(bus, _CALL_TIMEOUT_SECONDS, _DBUS, _DBUS_PATH, _DBUS, "GetNameOwner", "s", _SYSTEMD)
        ask = partial(call, bus, _CALL_TIMEOUT_SECONDS, _SYSTEMD, _PATH, _MANAGER)
        await ask("Subscribe")
        call_soon = partial(call, bus, _REFERENCE_TIMEOUT_SECONDS, _SYSTEMD, _PATH, _MANAGER)
        references = References(call_soon, lambda instance: handler(Released(instance)))
        subscribed(references)
        await _first(bus.wait_for_disconnect(), references.run(), _stay_subscribed(receiver, ask, references))


async def _stay_subscribed(
    receiver: "Receiver", ask: Callable[..., Awaitable[object]], references: References
) -> Never:
    """Call each systemd that takes the name: the relay lets only signals of those pass who have answered us."""
    while True:
        await receiver.moved.wait()
        receiver.moved.clear()
        # One that was executed anew still knows who had subscribed, and says so.
        with contextlib.suppress(RefusedError):
            await ask("Subscribe")
        references.renew()
        receiver.hear_anew()


async def _first(*works: Coroutine[object, object, object]) -> None:
    """Return, or raise, when the first of these ends, and end the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for one in ended:
        if isinstance(one, Exception):
            raise one


class Missed:
    """Makes a SignalsMissed of it when messages were dropped, in a while, for there are more to come."""

    def __init__(self, handler: Callable[[Signal], None]) -> None:
        self._handler = handler
        self._due = False

    def dropped(self) -> None:
        """Take the news that messages were dropped."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(MISSED_SECONDS, self._tell)

    def _tell(self) -> None:
        self._due = False
        self._handler(SignalsMissed())


class Receiver:
    """Takes systemd's signals and nobody else's: any user of the bus can send us one that looks the same."""

    def __init__(self, handler: Callable[[Signal], None]) -> None:
        self._handler = handler
        # The unique name of systemd's connection.
        self.owner = ""
        # Set when another has taken systemd's name.
        self.moved = asyncio.Event()

    def hear_anew(self) -> None:
        """Tell that systemd may have said something that was not heard."""
        self._handler(ManagerChanged())

    def receive(self, message: Message) -> None:
        """Hand on a message if it is one of systemd's, or of the bus about systemd."""
        if message.message_type is not MessageType.SIGNAL:
            return
        member = message.member
        if message.sender == _DBUS and member == "NameOwnerChanged" and message.signature == "sss":
            if message.body[0] == _SYSTEMD:
                self.owner = message.body[2]
                if self.owner:
                    self.moved.set()
                self.hear_anew()
            return
        ours = self.owner and message.sender == self.owner and message.interface == _MANAGER
        if not ours or message.signature != _SIGNATURES.get(member):
            return
        if member == "Reloading":
            if not message.body[0]:
                self._handler(ManagerChanged())
        elif message.body[2] == _SHUTDOWN:
            self._handler(Shutdown(member == "JobNew"))
        elif member == "JobRemoved" and (instance := unit_instance(message.body[2])) is not None:
            self._handler(JobRemoved(instance, message.body[3]))
