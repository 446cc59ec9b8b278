# SPDX-License-Identifier: Apache-2.0
"""The connection to systemd: its signals, and calls through the unit agent; neither goes on without the other."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Never

from discoverd import state, store
from discoverd.supervisor.changes import Changes
from discoverd.systemd import unit_signals
from discoverd.systemd.agent_process import AgentProcess
from discoverd.systemd.references import References
from discoverd.systemd.units import UnitError, Units

log = logging.getLogger("discoverd")

# Seconds.
RECONNECT_SECONDS = 1


class _EndedError(Exception):
    """One half of the connection has ended, and said so."""


class Connection:
    """``units`` are the calls, None while there is no connection.

    ``agent`` is the path of the unit agent's launcher, and ``process`` the one that was started with it already, if
    any. ``blocking`` runs a function beside the loop, one at a time.
    """

    def __init__(
        self,
        agent: str,
        blocking: Callable[..., Awaitable[Any]],
        changes: Changes,
        process: AgentProcess | None = None,
    ) -> None:
        self._agent = agent
        self._process = process
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
                    flowing: asyncio.Future[References] = asyncio.get_running_loop().create_future()
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

    async def _listen(
        self, heard: Callable[[unit_signals.Signal], None], flowing: "asyncio.Future[References]"
    ) -> Never:
        try:
            await unit_signals.watch(heard, flowing.set_result)
            log.warning("the connection to the bus ended; connecting again")
        except Exception as error:
            # The client raises all kinds; whatever it is, the answer is to try again, and to have said so once.
            if not self._complained:
                why = str(error) or repr(error)
                log.warning("cannot talk to the bus: %s; trying again every %d s", why, RECONNECT_SECONDS)
            self._complained = True
        raise _EndedError

    async def _call(self, heard: Callable[[unit_signals.Signal], None], flowing: "asyncio.Future[References]") -> Never:
        """Run the agent once signals flow, and have kept loaded what systemd has."""
        references = await flowing
        self._complained = False
        try:
            process, self._process = self._process, None
            units = await Units.connect(self._agent, references, process)
            try:
                if await self._blocking(store.new_boot, await units.soft_reboots()):
                    self._changes.add_all_reports()
                units.keep_loaded(instance for instance, unit in (await units.list()).items() if unit.load == "loaded")
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
