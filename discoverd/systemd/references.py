# SPDX-License-Identifier: Apache-2.0
"""The references that keep stopped units loaded, so that `systemctl start` finds them.

systemd gives them to names on the bus only, and takes them away with the name (src/core/dbus-unit.c,
sd_bus_track_add_sender). So they are all that we ask of systemd over the bus. Any user of it can have answers delayed
and lost, so nothing waits for these calls.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Never

from discoverd.bus.calls import RefusedError
from discoverd.bus.client import Variant
from discoverd.systemd.unit_properties import Property
from discoverd.tid import unit_name

log = logging.getLogger("discoverd")

# Names of systemd's errors.
MASKED = "org.freedesktop.systemd1.UnitMasked"
_EXISTS = "org.freedesktop.systemd1.UnitExists"
_MISSING = "org.freedesktop.systemd1.NoSuchUnit"
# And of the bus's: systemd is just being executed anew, or so much waits for it that the bus takes no more.
_LATER = tuple(
    f"org.freedesktop.DBus.Error.{name}"
    for name in ("ServiceUnknown", "NameHasNoOwner", "NoReply", "LimitsExceeded", "Timeout", "TimedOut")
)
RETRY_SECONDS = 1


class _LaterError(Exception):
    """The call did not reach systemd."""


class References:
    """``ask`` calls a method of systemd's manager: its name, a signature, the arguments; see discoverd.bus.calls.

    ``released`` is told the instance of a unit that is kept no longer. All else that is wanted is done by :meth:`run`,
    one after the other, for as long as it takes.
    """

    def __init__(self, ask: Callable[..., Awaitable[Any]], released: Callable[[str], None]) -> None:
        self._ask = ask
        self._released = released
        self._kept: set[str] = set()
        # What is to be done: whether a unit is to be kept.
        self._wanted: dict[str, bool] = {}
        self._news = asyncio.Event()

    def keep(self, instances: Iterable[str]) -> None:
        """Keep loaded units loaded when they stop."""
        self._want(dict.fromkeys(instances, True))

    def release(self, instance: str) -> None:
        """Let a unit be unloaded when it does not run."""
        self._want({instance: False})

    def renew(self) -> None:
        """Ask anew for what is kept: a systemd that was executed anew may have lost its references."""
        kept, self._kept = self._kept, set()
        self.keep(kept - self._wanted.keys())

    def _want(self, wanted: dict[str, bool]) -> None:
        self._wanted |= wanted
        self._news.set()

    async def make(self, instance: str, properties: list[Property]) -> bool:
        """Make and start a unit, and keep it; tell whether it was made, and not there already.

        Raises what :func:`discoverd.bus.calls.call` does.
        """
        given = [["AddRef", Variant("b", True)]]
        given += [[name, Variant(signature, _value(signature, value))] for name, signature, value in properties]
        try:
            await self._ask("StartTransientUnit", "ssa(sv)a(sa(sv))", unit_name(instance), "fail", given, [])
        except RefusedError as error:
            if error.name != _EXISTS:
                raise
            self.keep([instance])
            return False
        self._kept.add(instance)
        return True

    async def run(self) -> Never:
        """Do what is wanted, for ever. Raises ConnectionError, or what the D-Bus client raises, if the bus goes."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._wanted:
                instance = next(iter(self._wanted))
                keep = self._wanted.pop(instance)
                try:
                    await (self._keep(instance) if keep else self._release(instance))
                except (TimeoutError, _LaterError):
                    # What has come to be wanted of it since counts.
                    self._wanted.setdefault(instance, keep)
                    await asyncio.sleep(RETRY_SECONDS)

    async def _call(self, member: str, instance: str) -> None:
        try:
            await self._ask(member, "s", unit_name(instance))
        except RefusedError as error:
            if error.name in _LATER:
                raise _LaterError from error
            raise

    async def _keep(self, instance: str) -> None:
        if instance in self._kept:
            return
        try:
            await self._call("RefUnit", instance)
        except RefusedError as error:
            # One that has ended meanwhile is none to keep.
            level = logging.DEBUG if error.name == _MISSING else logging.WARNING
            log.log(
                level,
                "%s will be unloaded when it stops: %s",
                instance,
                error,
                extra={"fields": {"NVME_CTRL": instance}},
            )
        else:
            self._kept.add(instance)

    async def _release(self, instance: str) -> None:
        self._kept.discard(instance)
        # They are counted, and one whose answer was lost counts as well.
        try:
            while True:
                await self._call("UnrefUnit", instance)
        except RefusedError as error:
            log.debug("%s is kept no longer: %s", instance, error)
        self._released(instance)


def _value(signature: str, value: object) -> object:
    """Return a value as the D-Bus client packs it: bytes, where a text goes as such."""
    if signature == "aay" and isinstance(value, list):
        return [one.encode() for one in value]
    return value
