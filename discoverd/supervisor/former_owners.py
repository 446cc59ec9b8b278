# SPDX-License-Identifier: Apache-2.0
"""Controllers that are wanted and left to an owner whose daemon does not run any more: they are taken back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Never

from discoverd import state, store
from discoverd.plan.facts import Action, Decision, Report
from discoverd.plan.former_owner import GONE_SECONDS, TOOLS, Standing, judge, patterns, present, services
from discoverd.supervisor.connection import Connection
from discoverd.supervisor.fields import about
from discoverd.supervisor.observed import Observed
from discoverd.supervisor.status_line import LEFT_ALONE, Tally
from discoverd.systemd.units import UnitError, Units

log = logging.getLogger("discoverd")

INTERVAL_SECONDS = 30


class FormerOwners:
    """Looks at the owners' daemons while there is a controller that is left to one, and is otherwise asleep.

    ``decisions`` is the reconciler's view.
    """

    def __init__(
        self,
        blocking: Callable[..., Awaitable[Any]],
        connection: Connection,
        observed: Observed,
        decisions: Mapping[str, Decision],
        tally: Tally,
    ) -> None:
        self._blocking = blocking
        self._connection = connection
        self._observed = observed
        self._decisions = decisions
        self._tally = tally
        self._news = asyncio.Event()
        # By instance and owner: since when its daemons are known not to run.
        self._gone: dict[tuple[str, str], float] = {}
        # The services of owners that systemd had at one look at least.
        self._seen: set[str] = set()
        # Whose worker was told; one of an earlier version does not listen.
        self._told: set[tuple[str, str]] = set()

    def notice(self) -> None:
        """Take what a round has brought."""
        if not self._news.is_set() and self._tally.has(LEFT_ALONE) and self._left():
            self._news.set()

    async def run(self) -> Never:
        """Take back what may be, for ever."""
        while True:
            await self._news.wait()
            while left := self._left():
                if self._connection.units is not None:
                    await self._look(self._connection.units, left)
                await asyncio.sleep(INTERVAL_SECONDS)
            self._gone.clear()
            self._told.clear()
            self._news.clear()

    def _left(self) -> dict[str, Report]:
        """Return the reports of those that are left to an owner with daemons, though somebody trusted asks for them."""
        return {
            instance: report
            for instance, report in self._observed.reports.items()
            if report.state == state.FOREIGN and report.owner in TOOLS and self._is_wanted(instance)
        }

    def _is_wanted(self, instance: str) -> bool:
        decision = self._decisions.get(instance)
        if decision is None or decision.action is not Action.KEEP or decision.note or decision.candidate is None:
            return False
        return decision.candidate.trusted

    async def _look(self, units: Units, left: Mapping[str, Report]) -> None:
        owners = {report.owner for report in left.values()}
        try:
            found = await units.others(services(owners), patterns(owners))
        except UnitError as error:
            log.debug("the owners of other controllers cannot be looked at: %s", error)
            return
        self._seen |= present(found)
        now = asyncio.get_running_loop().time()
        for instance, report in left.items():
            judgement = judge(report.owner, found, await self._blocking(store.holder, report.device), self._seen)
            key = instance, report.owner
            if judgement.standing is not Standing.GONE:
                self._gone.pop(key, None)
            elif now - self._gone.setdefault(key, now) >= GONE_SECONDS:
                await self._take_back(units, instance, report)

    async def _take_back(self, units: Units, instance: str, report: Report) -> None:
        if (instance, report.owner) not in self._told:
            self._told.add((instance, report.owner))
            text = "taking %s back from %s: no daemon of %s has run for a minute"
            log.info(text, report.device, report.owner, TOOLS[report.owner].name, extra=about(instance))
        try:
            await self._blocking(store.take_back, instance, report.device, report.owner)
            await units.hang_up(instance)
        except (state.StateError, UnitError) as error:
            log.warning("cannot take %s back: %s", report.device, error, extra=about(instance))
