# SPDX-License-Identifier: Apache-2.0
"""The specifications of workers: written where a decision changes them, and remembered, to write nothing twice."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from discoverd import state, store
from discoverd.config.settings import Settings
from discoverd.kernel import fabrics
from discoverd.plan.candidate import SOURCES, listed_by
from discoverd.plan.facts import Decision, Known
from discoverd.plan.planner import confirmable
from discoverd.tid import DISCOVERY

log = logging.getLogger("discoverd")


class Specifications:
    """What workers are asked to connect, and so which controllers are known.

    ``blocking`` runs a function beside the loop, one at a time. ``known`` is a view of the controllers that there is
    state for, by instance, and always shows the present ones. Methods that write tell whether the worker has something
    new to read, and raise state.StateError.
    """

    def __init__(self, blocking: Callable[..., Awaitable[Any]]) -> None:
        self._blocking = blocking
        self._known: dict[str, Known] = {}
        self.known: Mapping[str, Known] = MappingProxyType(self._known)
        # The decisions that the specifications on disk were made from.
        self._made_from: dict[str, Decision] = {}
        self._abilities: set[str] | None = None
        defaults = Settings()
        self._pleo, self._registration = defaults.pleo, defaults.registration
        self._parked_interval = defaults.parked_interval
        self._lacking: set[str] = set()

    def take_up(self, known: Mapping[str, Known]) -> None:
        """Take over the controllers that an earlier supervisor has left state of."""
        self._known.update(known)

    def configure(self, settings: Settings, abilities: frozenset[str] | None) -> None:
        """Take new settings; decisions that are looked at again are written anew where these make a difference.

        ``abilities`` are the options of connects that the kernel knows, None where it does not tell.
        """
        self._abilities = None if abilities is None else set(abilities)
        for decision in self._made_from.values():
            if decision.candidate is not None:
                self._say_lacking(decision.candidate.options)
        before = self._pleo, self._registration, self._parked_interval
        self._pleo, self._registration = settings.pleo, settings.registration
        self._parked_interval = settings.parked_interval
        if before != (self._pleo, self._registration, self._parked_interval):
            self._made_from.clear()

    async def write(self, decision: Decision) -> bool:
        """Have a worker connect the candidate of a decision."""
        instance, candidate = decision.instance, decision.candidate
        before = self._made_from.get(instance)
        if candidate is None:
            return False
        if before and _told(before) == _told(decision):
            return False
        self._say_lacking(candidate.options)
        spec = state.Spec(candidate.role, list(candidate.options))
        spec.source, spec.origin, spec.note = candidate.source, candidate.origin, decision.note
        if decision.held_back and not decision.note:
            spec.note = confirmable(instance, decision.held_back)
        spec.confirm = decision.confirm
        spec.referrers = " ".join(sorted(decision.referrers))
        spec.disconnect, spec.withdrawn = decision.disconnect, bool(decision.disconnect)
        spec.give_up_after, spec.source_optional = candidate.give_up_after, candidate.source_optional
        spec.attempts = candidate.attempts
        if candidate.announcement is not None:
            spec.announced_on, spec.announced_until = candidate.announcement.interface, candidate.announcement.until
        spec.persistent, spec.symname = candidate.persistent, candidate.symname
        spec.pleo = self._pleo and candidate.role == DISCOVERY
        if candidate.role == DISCOVERY:
            spec.parked_interval = self._parked_interval
        spec.trusted = candidate.trusted
        spec.register = self._registration == "all" or (candidate.trusted and self._registration == "trusted")
        written: bool = await self._blocking(store.write_spec, instance, spec)
        self._made_from[instance] = decision
        self._known[instance] = store.known(spec)
        return written

    async def withdraw(self, decision: Decision) -> bool:
        """Tell a worker that nobody asks for its controller any more."""
        instance = decision.instance
        spec = await self._blocking(store.read_spec, instance)
        if spec is None or (spec.withdrawn, spec.note, spec.disconnect) == (True, decision.note, decision.disconnect):
            return False
        spec.note, spec.withdrawn, spec.disconnect = decision.note, True, decision.disconnect
        self._known[instance] = store.known(spec)
        return await self._rewrite(instance, spec)

    async def attribute(self, decision: Decision) -> None:
        """Write down who may still ask for a controller; its worker need not know."""
        instance, owing = decision.instance, decision.referrers
        if not owing or owing == self._known[instance].all_referrers:
            return
        spec = await self._blocking(store.read_spec, instance)
        if spec is None:
            return
        spec.referrers = " ".join(sorted(owing))
        if spec.origin not in owing and (pages := owing - SOURCES):
            spec.origin = min(pages)
            spec.source = listed_by(spec.role, spec.origin)
        self._known[instance] = store.known(spec)
        await self._rewrite(instance, spec)

    async def limit(self, instance: str, give_up_after: int) -> bool:
        """Have a worker give up some day that was asked for by a discovery controller of which nothing is left."""
        origin = self._known[instance].origin if instance in self._known else ""
        if not give_up_after or not origin or origin in SOURCES or origin in self._known:
            return False
        spec = await self._blocking(store.read_spec, instance)
        if spec is None or spec.give_up_after:
            return False
        spec.give_up_after = give_up_after
        return await self._rewrite(instance, spec)

    async def _rewrite(self, instance: str, spec: state.Spec) -> bool:
        # Asked for again, it is written again as a whole.
        self._made_from.pop(instance, None)
        written: bool = await self._blocking(store.write_spec, instance, spec)
        return written

    def asked(self, instance: str) -> float | None:
        """Return when the candidate that was written last had been asked for (seconds, CLOCK_BOOTTIME)."""
        before = self._made_from.get(instance)
        return before.candidate.asked if before and before.candidate else None

    async def forget(self, instance: str) -> None:
        """Sweep the state of a controller."""
        await self._blocking(store.forget, instance)
        self._known.pop(instance, None)
        self._made_from.pop(instance, None)

    def _say_lacking(self, options: tuple[tuple[str, str], ...]) -> None:
        """Say once for all connections what this kernel does not know."""
        lacking = set(fabrics.lacking(list(options), self._abilities)) - self._lacking
        if lacking:
            self._lacking |= lacking
            log.warning("this kernel knows no %s: connecting without", ", ".join(sorted(lacking)))


def _told(decision: Decision) -> tuple[object, ...]:
    """Return what of a decision its worker is told: all but what was decided about the unit, and why."""
    told = decision.candidate, decision.note, decision.disconnect, decision.referrers
    return *told, decision.held_back, decision.confirm
