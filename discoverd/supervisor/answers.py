# SPDX-License-Identifier: Apache-2.0
"""What origins answer: that what they do not list is gone, or why that is not said; and about whom that has changed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from discoverd.notify import HELD_BACK
from discoverd.plan.candidate import UNMANAGED
from discoverd.plan.evidence import Pending
from discoverd.plan.facts import Answer, HeldBack, Known, Report
from discoverd.plan.planner import confirmable
from discoverd.supervisor.fields import about
from discoverd.supervisor.inventory import Inventory

log = logging.getLogger("discoverd")


@dataclass(frozen=True, slots=True)
class _Said:
    """What origins said when it was looked at last; fields as in Facts."""

    authoritative: Mapping[str, Answer] = field(default_factory=dict)
    inconclusive: Mapping[str, str] = field(default_factory=dict)
    pending: Mapping[str, Mapping[str, Pending]] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    held_back: Mapping[str, HeldBack] = field(default_factory=dict)
    confirming: frozenset[str] = frozenset()


class Answers:
    """The answers as they were when they were looked at last. ``evidence`` is that of Inventory.evidence."""

    def __init__(self) -> None:
        self._said = _Said()
        self.evidence = ("", "")

    def take(self, inventory: Inventory, reports: Mapping[str, Report], known: Mapping[str, Known]) -> list[str]:
        """Look at the present answers; return the instances about which they are others than before."""
        before, self._said = (
            self._said,
            _Said(
                inventory.authoritative,
                inventory.log_pages.inconclusive,
                inventory.log_pages.pending,
                inventory.log_pages.closed,
                inventory.held_back,
                inventory.confirming,
            ),
        )
        held_back = _differing(before.held_back, self._said.held_back)
        self._say_held_back(held_back, before.held_back)
        changed = [*(_changed(before, self._said, known) | held_back)]
        evidence = inventory.evidence(reports)
        if evidence != self.evidence:
            self.evidence = evidence
            changed += [*inventory.unmanaged, *(one for one, its in known.items() if its.origin == UNMANAGED)]
        return changed

    def _say_held_back(self, changed: set[str], before: Mapping[str, HeldBack]) -> None:
        for instance in sorted(changed):
            then, now = before.get(instance), self._said.held_back.get(instance)
            # How many they are may change with each reading.
            if now and (then is None or then.wait is not now.wait):
                log.warning("%s: %s", instance, confirmable(instance, now.text), extra=about(instance, event=HELD_BACK))


def _changed(before: _Said, now: _Said, known: Mapping[str, Known]) -> set[str]:
    """Return the instances about which an origin says something else, but for what is held back."""
    origins = before.authoritative.keys() ^ now.authoritative.keys()
    origins |= {one for one in now.inconclusive if now.inconclusive[one] != before.inconclusive.get(one)}
    changed = set(before.closed ^ now.closed)
    origins |= changed
    changed |= before.confirming ^ now.confirming
    if origins:
        changed |= {one for one, its in known.items() if not origins.isdisjoint(its.all_referrers)}
    for origin in now.authoritative.keys() & before.authoritative.keys():
        then, absent = before.authoritative[origin].absent, now.authoritative[origin].absent
        changed |= (absent or frozenset()) ^ (then or frozenset())
        changed |= _differing(before.pending.get(origin, {}), now.pending.get(origin, {}))
    return changed


def _differing(one: Mapping[str, object], other: Mapping[str, object]) -> set[str]:
    """Return the keys that do not have the same in both."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
