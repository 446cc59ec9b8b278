# SPDX-License-Identifier: Apache-2.0
"""systemd's signals about the controllers' units, in the event loop (org.freedesktop.systemd1(5))."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from discoverd.bus import BusType, Message, MessageBus, MessageType
from discoverd.tid import unit_instance

_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = _SYSTEMD + ".Manager"
_DBUS = "org.freedesktop.DBus"


@dataclass(frozen=True, slots=True)
class JobRemoved:
    """A job of a controller's unit has ended: ``result`` is done, failed, canceled, timeout, dependency or skipped."""

    instance: str
    result: str


@dataclass(frozen=True, slots=True)
class UnitChanged:
    """A controller's unit was loaded or unloaded."""

    instance: str


@dataclass(frozen=True, slots=True)
class ManagerChanged:
    """systemd was reloaded or restarted, and may know other units than before."""


Signal = JobRemoved | UnitChanged | ManagerChanged

# The member, and where in the body the unit's name stands.
_UNIT_POSITION = {"JobRemoved": 2, "UnitNew": 0, "UnitRemoved": 0}


async def watch(handler: Callable[[Signal], None], subscribed: Callable[[], None]) -> None:
    """Deliver signals to ``handler`` until the bus goes away, then return. Calls ``subscribed`` once they
    flow.

    Raises OSError, or what the D-Bus client raises, if the bus cannot be reached or refuses.
    """
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        bus.add_message_handler(lambda message: _dispatch(message, handler))
        for member in (*_UNIT_POSITION, "Reloading"):
            rule = f"type='signal',sender='{_SYSTEMD}',interface='{_MANAGER}',member='{member}'"
            await _call(bus, _DBUS, "/org/freedesktop/DBus", _DBUS, "AddMatch", "s", [rule])
        # A systemd that re-executes takes its name again.
        rule = f"type='signal',sender='{_DBUS}',member='NameOwnerChanged',arg0='{_SYSTEMD}'"
        await _call(bus, _DBUS, "/org/freedesktop/DBus", _DBUS, "AddMatch", "s", [rule])
        await _call(bus, _SYSTEMD, "/org/freedesktop/systemd1", _MANAGER, "Subscribe")
        subscribed()
        await bus.wait_for_disconnect()
    finally:
        bus.disconnect()


async def _call(
    bus: MessageBus,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    body: list[object] | None = None,
) -> None:
    message = Message(
        destination=destination,
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=body or [],
    )
    # PID 1 is busy for long at boot; but a call without an end would hide that the bus is gone.
    reply = await asyncio.wait_for(bus.call(message), timeout=60)
    if reply is None or reply.message_type is MessageType.ERROR:
        raise ConnectionError(f"{member}: {reply.body[0] if reply and reply.body else 'no answer'}")


def _dispatch(message: Message, handler: Callable[[Signal], None]) -> None:
    if message.message_type is not MessageType.SIGNAL:
        return
    if message.member == "NameOwnerChanged" or (message.member == "Reloading" and not message.body[0]):
        handler(ManagerChanged())
    elif message.member in _UNIT_POSITION and message.interface == _MANAGER:
        instance = unit_instance(message.body[_UNIT_POSITION[message.member]])
        if instance is not None:
            handler(JobRemoved(instance, message.body[3]) if message.member == "JobRemoved" else UnitChanged(instance))
