# SPDX-License-Identifier: Apache-2.0
"""systemd's signals about the controllers' units, in the event loop (org.freedesktop.systemd1(5))."""

from collections.abc import Callable
from dataclasses import dataclass

from discoverd.bus import BusType, Message, MessageBus, MessageType
from discoverd.bus.calls import call
from discoverd.tid import unit_instance

# PID 1 is busy for long at boot; but a call without an end would hide that the bus is gone.
_CALL_TIMEOUT_SECONDS = 60

_SYSTEMD = "org.freedesktop.systemd1"
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


Signal = JobRemoved | ManagerChanged | Shutdown

_SHUTDOWN = "shutdown.target"

# Not UnitNew and UnitRemoved: they come for each device of the host too, and a job tells the same of our units.
_SIGNATURES = {"JobNew": "uos", "JobRemoved": "uoss", "Reloading": "b"}


async def watch(handler: Callable[[Signal], None], subscribed: Callable[[], None]) -> None:
    """Deliver signals to ``handler`` until the bus goes away, then return. Calls ``subscribed`` once they flow.

    Raises OSError, or what the D-Bus client raises, if the bus cannot be reached or refuses.
    """
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    receiver = Receiver(handler)
    try:
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
        await call(bus, _CALL_TIMEOUT_SECONDS, _SYSTEMD, "/org/freedesktop/systemd1", _MANAGER, "Subscribe")
        subscribed()
        await bus.wait_for_disconnect()
    finally:
        bus.disconnect()


class Receiver:
    """Takes systemd's signals and nobody else's: any user of the bus can send us one that looks the same."""

    def __init__(self, handler: Callable[[Signal], None]) -> None:
        self._handler = handler
        # The unique name of systemd's connection.
        self.owner = ""

    def receive(self, message: Message) -> None:
        """Hand on a message if it is one of systemd's, or of the bus about systemd."""
        if message.message_type is not MessageType.SIGNAL:
            return
        member = message.member
        if message.sender == _DBUS and member == "NameOwnerChanged" and message.signature == "sss":
            if message.body[0] == _SYSTEMD:
                self.owner = message.body[2]
                self._handler(ManagerChanged())
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
