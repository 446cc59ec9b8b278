# SPDX-License-Identifier: Apache-2.0
"""What systemd has, over the bus: the units of controllers, and discoverd.service.

systemd says of each property of each unit of the host that it has changed. That is far more than is needed, so it is
heard only which unit it was, and systemd is asked for all that have changed at once. Nobody needs a right for that.
Units are asked for by patterns, also one by its name: asked by name, systemd loads what it has not, and says so, and
says so again when it forgets it.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from discoverd.api import wire
from discoverd.api.connection import BUS, BUS_PATH, Connection, RefusedError
from discoverd.api.wire import Frame
from discoverd.cli.unit import Unit
from discoverd.tid import UNIT_PREFIX, UNIT_SUFFIX, unit_instance, unit_name

log = logging.getLogger("discoverd.api")

SYSTEMD = "org.freedesktop.systemd1"
SYSTEMD_PATH = "/org/freedesktop/systemd1"
MANAGER = SYSTEMD + ".Manager"
DAEMON = "discoverd.service"
DEBOUNCE_SECONDS = 0.1
# Whatever is heard, systemd works on our questions for a fifth of its time at most.
PAUSE_FACTOR = 4
RETRY_SECONDS = 5

_UNITS = SYSTEMD_PATH + "/unit/"
_CONTROLLERS = (_UNITS + "nvme_2dctrl_40").encode()
_DAEMON_PATH = (_UNITS + "discoverd_2eservice").encode()
_PROPERTIES = "org.freedesktop.DBus.Properties"
_ROWS = "a(ssssssouso)"
_ESCAPED = re.compile(rb"_([0-9a-f]{2})")
# As many are asked about one by one: systemd compares each of them with all that it has.
_ONE_BY_ONE_MAX = 16
_NO_OWNER = "org.freedesktop.DBus.Error.NameHasNoOwner"


class Units:
    """Asks systemd when there is news, and calls ``told`` when it has answered.

    ``found`` has the units by instance, ``daemon`` the state and the status line of discoverd.service; ``listed`` tells
    whether systemd has listed the units yet.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told
        self.found: dict[str, Unit] = {}
        self.daemon = ("", "")
        self.listed = False
        self._stale: set[str] = set()
        self._all = True
        self._daemon_stale = True
        self._news = asyncio.Event()
        self._owner = b""

    def reported(self, instance: str) -> None:
        """Hear that a worker has reported: what systemd said of its unit may be old."""
        self._stale.add(instance)
        self._news.set()

    def heard(self, connection: Connection, frame: Frame) -> None:
        """Take a signal of systemd's, or of the bus about systemd."""
        sender = frame.fields.get(wire.SENDER, b"")
        if sender == BUS.encode():
            if frame.text(wire.MEMBER) == "NameOwnerChanged" and frame.text(wire.SIGNATURE) == "sss":
                name, _, owner = frame.values("sss")
                if name == SYSTEMD:
                    self._owned_by(connection, owner)
            return
        path, instance = frame.fields.get(wire.PATH, b""), ""
        if path.startswith(_CONTROLLERS):
            instance = _instance(path)
        elif path == _DAEMON_PATH:
            self._daemon_stale = True
        elif frame.text(wire.MEMBER) in ("UnitNew", "UnitRemoved") and frame.text(wire.SIGNATURE) == "so":
            instance = unit_instance(frame.values("so")[0]) or ""
        elif frame.text(wire.MEMBER) == "Reloading":
            self._all = True
        if instance:
            self._stale.add(instance)
        # Of other units there is nothing to ask.
        if instance or self._daemon_stale or self._all:
            self._news.set()

    def _owned_by(self, connection: Connection, owner: str) -> None:
        connection.heard.discard(self._owner)
        self._owner = owner.encode()
        if owner:
            connection.heard.add(self._owner)
        self._all = self._daemon_stale = True
        self._news.set()

    async def run(self, connection: Connection) -> None:
        """Keep what is known up to date, until the bus has gone. Raises ConnectionError (also LostError)."""
        for rule in (
            f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'",
            f"type='signal',sender='{SYSTEMD}',interface='{_PROPERTIES}',path_namespace='{_UNITS[:-1]}'",
            f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='UnitNew'",
            f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='UnitRemoved'",
            f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='Reloading'",
        ):
            await connection.call(BUS, BUS_PATH, BUS, "AddMatch", "s", rule)
        subscribed = b""
        loop = asyncio.get_running_loop()
        try:
            (owner,) = await connection.call(BUS, BUS_PATH, BUS, "GetNameOwner", "s", SYSTEMD, answer="s")
        except RefusedError as error:
            if error.name != _NO_OWNER:
                raise
            owner = ""
        self._owned_by(connection, str(owner))
        while True:
            await self._news.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
            self._news.clear()
            if not self._owner:
                continue
            try:
                if subscribed != self._owner:
                    subscribed = self._owner
                    await self._ask(connection, "Subscribe")
                began = loop.time()
                await self._look(connection)
                await asyncio.sleep(PAUSE_FACTOR * (loop.time() - began))
            except (RefusedError, TimeoutError, wire.WireError) as error:
                log.warning("systemd: %s; asking again", error)
                self._all = self._daemon_stale = True
                loop.call_later(RETRY_SECONDS, self._news.set)

    async def _look(self, connection: Connection) -> None:
        if self._daemon_stale:
            self._daemon_stale = False
            await self._look_at_daemon(connection)
        stale, self._stale = self._stale, set()
        if self._all or len(stale) > _ONE_BY_ONE_MAX:
            self._all = False
            self.found = dict(_understand(await self._list(connection, [f"{UNIT_PREFIX}*{UNIT_SUFFIX}"])))
        elif stale:
            # No unit's name can have a character in it that means something in a pattern.
            found = dict(_understand(await self._list(connection, [unit_name(one) for one in stale])))
            for gone in stale - found.keys():
                self.found.pop(gone, None)
            self.found |= found
        else:
            return
        self.listed = True
        self._told()

    async def _look_at_daemon(self, connection: Connection) -> None:
        rows = await self._list(connection, [DAEMON])
        status = ""
        active = rows[0][3] if rows else "inactive"
        if rows and active not in ("inactive", "failed"):
            with contextlib.suppress(RefusedError):
                (value,) = await connection.call(
                    *(SYSTEMD, rows[0][6], _PROPERTIES, "Get", "ss"), SYSTEMD + ".Service", "StatusText", answer="v"
                )
                status = str(value[1])
        self.daemon = (active, status)
        self._told()

    async def _list(self, connection: Connection, patterns: list[str]) -> list[Any]:
        (rows,) = await self._ask(connection, "ListUnitsByPatterns", "asas", [], patterns, answer=_ROWS)
        return list(rows)

    async def _ask(
        self, connection: Connection, member: str, signature: str = "", *values: Any, answer: str = ""
    ) -> tuple[Any, ...]:
        return await connection.call(
            self._owner.decode(), SYSTEMD_PATH, MANAGER, member, signature, *values, answer=answer
        )


def _understand(rows: list[Any]) -> Iterable[tuple[str, Unit]]:
    for name, _, load, active, sub, _, path, job, _, _ in rows:
        instance = unit_instance(name)
        if instance and load != "not-found":
            yield instance, Unit(name, load, active, sub, bool(job), path)


def _instance(path: bytes) -> str:
    """Return the instance in the path of a unit's object, '' for none."""
    name = _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), path.rpartition(b"/")[2])
    return unit_instance(name.decode("utf-8", "replace")) or ""
