# SPDX-License-Identifier: Apache-2.0
"""The connection to systemd: its signals, and calls through the unit agent; neither goes on without the other."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Never

from discoverd import state, store
from discoverd.plan.facts import UnitFact
from discoverd.supervisor.changes import Changes
from discoverd.supervisor.fields import about
from discoverd.systemd import unit_signals
from discoverd.systemd.units import UnitError, Units

log = logging.getLogger("discoverd")

# Seconds.
RECONNECT_SECONDS = 1


class _EndedError(Exception):
    """One half of the connection has ended, and said so."""


class Connection:
    """``units`` are the calls, None while there is no connection.

    ``agent`` is the path of the unit agent's launcher, and ``blocking`` runs a function beside the loop, one at a time.
    """

    def __init__(self, agent: str, blocking: Callable[..., Awaitable[Any]], changes: Changes) -> None:
        self._agent = agent
        self._blocking = blocking
        self._changes = changes
        self._complained = False
        self.units: Units | None = None

    async def run(self, heard: Callable[[unit_signals.Signal], None]) -> Never:
        """Stay connected, and hand on systemd's signals. A new connection is a ManagerChanged as well."""
        task = asyncio.current_task()
        while True:
            try:
                async with asyncio.TaskGroup() as both:
                    flowing = asyncio.Event()
                    both.create_task(self._listen(heard, flowing))
                    both.create_task(self._call(heard, flowing))
                    # Python 3.11 takes back the cancellation by which a group ends only while its body runs.
                    await asyncio.Event().wait()
            except* _EndedError:
                pass
            # And it loses one that comes while the group ends: the group's error has priority.
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, heard: Callable[[unit_signals.Signal], None], flowing: asyncio.Event) -> Never:
        try:
            await unit_signals.watch(heard, flowing.set)
            log.warning("the connection to the bus ended; connecting again")
        except Exception as error:
            # The client raises all kinds; whatever it is, the answer is to try again, and to have said so once.
            if not self._complained:
                why = str(error) or repr(error)
                log.warning("cannot talk to the bus: %s; trying again every %d s", why, RECONNECT_SECONDS)
            self._complained = True
        raise _EndedError

    async def _call(self, heard: Callable[[unit_signals.Signal], None], flowing: asyncio.Event) -> Never:
        """Run the agent once signals flow, and have it keep loaded what systemd has."""
        await flowing.wait()
        self._complained = False
        try:
            units = await Units.connect(self._agent)
            try:
                if await self._blocking(store.new_boot, await units.soft_reboots()):
                    self._changes.add_all_reports()
                for instance, unit in (await units.list()).items():
                    await self._keep_loaded(units, instance, unit)
                self.units = units
                # What it has said since the connection before was not heard.
                heard(unit_signals.ManagerChanged())
                await units.wait_lost()
            finally:
                self.units = None
                self._changes.wake()
                await units.close()
            log.warning("the process that talks to systemd ended; starting another")
        except (UnitError, OSError, state.StateError) as error:
            log.warning("cannot list the controllers' units: %s", error)
        raise _EndedError

    async def _keep_loaded(self, units: Units, instance: str, unit: UnitFact) -> None:
        if unit.load == "loaded":
            try:
                await units.reference(instance)
            except UnitError as error:
                log.warning("%s will be unloaded when it stops: %s", instance, error, extra=about(instance))
