# SPDX-License-Identifier: Apache-2.0
"""What to do about each controller, and why: a pure function from facts to decisions.

Nothing here stops a controller. That a source is silent, stale or gone is no reason to; the note in the
unit's status says what is no longer asked for.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from discoverd.candidate import Candidate


class Action(enum.Enum):
    """What to do about a unit."""

    START = "start"
    KEEP = "keep"
    # An administrator stopped it; it stays loaded, so that `systemctl start` works.
    HOLD = "hold"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class UnitFact:
    """What systemd says about a unit: LoadState, ActiveState, and whether a job is queued for it."""

    load: str
    active: str
    job: bool = False

    @property
    def running(self) -> bool:
        """Tell whether there is, or is about to be, a worker."""
        return self.active in ("active", "activating", "reloading", "deactivating") or self.job


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker has reported last; see discoverd.worker.controller for the states."""

    state: str
    status: str = ""
    device: str = ""
    log_read: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """A controller we have state for: what asked for it last, and which source that was (see Candidate)."""

    source: str
    origin: str


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known. Keys are instances of units.

    ``complete`` has the origins whose present answer is fresh and whole, so that not being in it means
    something.
    """

    candidates: tuple[Candidate, ...] = ()
    units: Mapping[str, UnitFact] = field(default_factory=dict)
    reports: Mapping[str, Report] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)
    complete: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one controller. ``reason`` completes "because it is …"; ``note`` goes into the unit's status."""

    instance: str
    action: Action
    reason: str
    candidate: Candidate | None = None
    note: str = ""


def plan(facts: Facts) -> tuple[Decision, ...]:
    """Return a decision for each controller that is wanted, running or known: configured ones first, in their order."""
    wanted: dict[str, list[Candidate]] = {}
    exact = {(one.tid.target, one.tid.hostnqn): one.tid.instance for one in facts.candidates if one.configured}
    # The sort is stable, and what an administrator wrote has the last word on how to connect.
    for candidate in sorted(facts.candidates, key=lambda one: not one.configured):
        instance = candidate.tid.instance
        if not candidate.configured and candidate.tid.any_source:
            # It would be content with the connection that an administrator wants made in a certain way, and take it.
            instance = exact.get((candidate.tid.target, candidate.tid.hostnqn), instance)
        wanted.setdefault(instance, []).append(candidate)
    decisions = [_wanted(instance, asked, facts) for instance, asked in wanted.items()]
    others = (facts.units.keys() | facts.known.keys()) - wanted.keys()
    decisions += [_unwanted(instance, facts) for instance in sorted(others)]
    return tuple(decisions)


def _wanted(instance: str, asked: list[Candidate], facts: Facts) -> Decision:
    candidate = asked[0]
    sources = " and ".join(dict.fromkeys(one.source for one in asked))
    unit = facts.units.get(instance)
    report = facts.reports.get(instance)
    if unit and unit.load == "masked":
        return Decision(instance, Action.LEAVE, f"{sources}, but its unit is masked", candidate)
    if unit and unit.running:
        return Decision(instance, Action.KEEP, sources, candidate)
    if report and report.state == "refused":
        # It failed, and stays so until somebody starts it: the administrator did not want it looked after.
        return Decision(
            instance, Action.HOLD, f"{sources}, but an administrator stopped its unit while in use", candidate
        )
    # We make a unit and start it in one call: one that is loaded and does not run was stopped by somebody, even if its
    # worker had no chance to say so. One that was killed because its stop took too long has said that it was stopping.
    ended = unit and unit.load == "loaded" and unit.active == "inactive"
    if ended or (report and report.state in ("stopped", "stopping")):
        return Decision(instance, Action.HOLD, f"{sources}, but an administrator stopped its unit", candidate)
    return Decision(instance, Action.START, sources, candidate)


def _unwanted(instance: str, facts: Facts) -> Decision:
    unit = facts.units.get(instance)
    known = facts.known.get(instance)
    if known is None:
        return Decision(instance, Action.LEAVE, "not asked for by any source, and unknown to discoverd")
    if known.origin not in facts.complete:
        action = Action.KEEP if unit and unit.running else Action.LEAVE
        return Decision(instance, action, f"it was {known.source}, and nothing newer is known")
    note = f"no longer {known.source}"
    if unit and unit.running:
        return Decision(instance, Action.KEEP, f"{note}; what runs is left as it is", note=note)
    return Decision(instance, Action.LEAVE, note, note=note)
