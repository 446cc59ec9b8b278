# SPDX-License-Identifier: Apache-2.0
"""What is seen of controllers: their units as systemd shows them, and what their workers have written."""

import logging
from collections import ChainMap
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from discoverd import store
from discoverd.plan.facts import Report, UnitFact
from discoverd.plan.log_page import LogPageError, PageRead
from discoverd.supervisor.fields import about
from discoverd.systemd import fragments
from discoverd.systemd.fragments import Fragment, Fragments
from discoverd.systemd.units import Units

log = logging.getLogger("discoverd")

# Beyond so many, one list of all units is cheaper than asking for each.
UNITS_BY_NAME = 32


class Observed:
    """``units`` and ``reports`` are views, by instance, of what was seen last, ``fragments`` the unit files in the way.

    ``blocking`` runs a function beside the loop, one at a time.
    """

    def __init__(self, blocking: Callable[..., Awaitable[Any]]) -> None:
        self._blocking = blocking
        self._units: dict[str, UnitFact] = {}
        self._reports: dict[str, Report] = {}
        self.units: Mapping[str, UnitFact] = MappingProxyType(self._units)
        self.reports: Mapping[str, Report] = MappingProxyType(self._reports)
        self.fragments = Fragments()

    def units_and(self, masked: Iterable[str]) -> Mapping[str, UnitFact]:
        """Return the units, and as masked those that systemd has refused to start because of that, loaded or not."""
        return ChainMap({instance: UnitFact("masked", "inactive") for instance in masked}, self._units)

    def take_up(self, reports: Mapping[str, Report]) -> None:
        """Take over the reports that were there before the supervisor started."""
        self._reports.update(reports)

    async def read_units(self, units: Units, stale: frozenset[str] | None) -> list[str]:
        """Ask systemd about these units, None for all; return those that are not as they were. Raises UnitError."""
        if stale is None or len(stale) > UNITS_BY_NAME:
            facts = await units.list()
            asked = facts.keys() | self._units.keys()
        elif stale:
            facts = await units.list(stale)
            asked = set(stale)
        else:
            return []
        changed = [instance for instance in asked if facts.get(instance) != self._units.get(instance)]
        for instance in changed:
            if instance in facts:
                self._units[instance] = facts[instance]
            else:
                del self._units[instance]
        return changed

    async def read_fragments(self) -> bool:
        """Look for unit files in the way of ours, say so of those that come and go, and tell whether some have."""
        before, self.fragments = self.fragments, await self._blocking(fragments.find)
        gone: dict[str, Fragment] = {**before.found}
        for instance, fragment in self.fragments.found.items():
            if gone.pop(instance, None) != fragment:
                log.error("%s", fragment.problem, extra=about(instance))
        for instance, fragment in gone.items():
            log.info("%s is in the way of no unit any more", fragment.path, extra=about(instance))
        return self.fragments != before

    async def read_report(self, instance: str) -> Report | None:
        """Read a worker's report; return it, None where there is no usable one."""
        report: Report | None = await self._blocking(store.read_report, instance)
        if report is None:
            self._reports.pop(instance, None)
        else:
            self._reports[instance] = report
        return report

    async def read_page(self, instance: str) -> PageRead | None:
        """Return the log page that a discovery controller's worker has read last, None where there is no usable one."""
        try:
            page: PageRead | None = await self._blocking(store.read_log, instance)
        except LogPageError as error:
            log.warning("%s: its log page is not used: %s", instance, error, extra=about(instance))
            return None
        return page

    async def take_confirmation(self, instance: str) -> list[str]:
        """Return and remove an administrator's word on a log page; see discoverd.store.take_confirmation."""
        confirmed: list[str] = await self._blocking(store.take_confirmation, instance)
        return confirmed

    def forget_report(self, instance: str) -> None:
        """Keep no report of a controller about which there is nothing to decide any more."""
        self._reports.pop(instance, None)
