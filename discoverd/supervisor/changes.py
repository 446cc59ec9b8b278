# SPDX-License-Identifier: Apache-2.0
"""The queue of what the supervisor is to look at: whoever hears of a change adds to it, the reconciler empties it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class News:
    """What was in the queue at one moment.

    ``instances`` are to be decided about, in this order. ``units`` are those that systemd is to be asked about, and
    ``reports`` those whose workers have written one; None stands for all.
    """

    instances: tuple[str, ...] = ()
    units: frozenset[str] | None = frozenset()
    reports: frozenset[str] | None = frozenset()


class Changes:
    """The queue. In the beginning each unit is to be looked at."""

    def __init__(self) -> None:
        self._instances: dict[str, None] = {}
        self._units: set[str] | None = None
        self._reports: set[str] | None = set()
        self._event = asyncio.Event()

    @property
    def undecided(self) -> bool:
        """Tell whether there is an instance to be decided about."""
        return bool(self._instances)

    def __contains__(self, instance: str) -> bool:
        """Tell whether an instance is to be decided about: what was decided before is out of date."""
        return instance in self._instances

    def add(self, instances: Iterable[str]) -> None:
        """Have these decided about."""
        self._instances |= dict.fromkeys(instances)
        self.wake()

    def add_unit(self, instance: str) -> None:
        """Have systemd asked about a unit, and it decided about."""
        if self._units is not None:
            self._units.add(instance)
        self.add([instance])

    def add_all_units(self) -> None:
        """Have systemd asked about all units."""
        self._units = None
        self.wake()

    def add_report(self, instance: str) -> None:
        """Have a worker's report read."""
        if self._reports is not None:
            self._reports.add(instance)
        self.wake()

    def add_all_reports(self) -> None:
        """Have all reports read again."""
        self._reports = None
        self.wake()

    def wake(self) -> None:
        """Have a round begin, also if nothing is in the queue: a source may have something new."""
        self._event.set()

    async def wait(self) -> None:
        """Return when there is something to look at."""
        await self._event.wait()

    def take(self) -> News:
        """Empty the queue. For the reconciler only."""
        units = None if self._units is None else frozenset(self._units)
        reports = None if self._reports is None else frozenset(self._reports)
        news = News(tuple(self._instances), units, reports)
        self._instances, self._units, self._reports = {}, set(), set()
        self._event.clear()
        return news

    def put_back(self, instances: Iterable[str], units: frozenset[str] | None) -> None:
        """Put back, before what has come since, what could not be looked at; by itself it is no reason for a round."""
        self._instances = dict.fromkeys(instances) | self._instances
        self._units = None if units is None or self._units is None else self._units | units
