# SPDX-License-Identifier: Apache-2.0
"""``discoverctl plan``: what the configuration as it stands in its files would change, once discoverd goes by it."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from discoverd import exclusions, state
from discoverd.cli import text
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.plan_file import PlanFile, Planned
from discoverd.cli.systemd import Systemd
from discoverd.config import identity, record
from discoverd.config.errors import Diagnostic
from discoverd.config.files import Files, read_files
from discoverd.config.last_good import refusing, settle
from discoverd.config.sources import SourceFile
from discoverd.kernel import addresses
from discoverd.plan.candidate import UNMANAGED
from discoverd.plan.facts import Action, Decision, UnitFact
from discoverd.supervisor import forecast
from discoverd.tid import unit_instance

_WANTED = ("start", "keep", "keep stopped")
# Of these only that they differ is shown.
_SECRET = ("dhchap_secret", "dhchap_ctrl_secret", "tls_key")
ADDED, REMOVED, CHANGED = "+", "-", "~"


@dataclass(frozen=True, slots=True)
class Change:
    """A difference: ``kind`` is ADDED, REMOVED or CHANGED, ``text`` says what would happen and why.

    ``stopped``: it would be asked for, and an administrator has stopped it.
    """

    kind: str
    controller: str
    text: str
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A configuration, and what is wrong with it: ``complaints``, those among them for which a reload would not take
    it, and the faults in its exclusions, which cost their lines only.
    """

    basis: forecast.Basis
    complaints: tuple[Diagnostic, ...]
    refusing: tuple[Diagnostic, ...]
    exclusion_faults: tuple[Diagnostic, ...]


def show(directory: Path, in_force: PlanFile, systemd: Systemd, json: bool) -> Exit:
    """Print the difference between what is in force and the configuration in ``directory``.

    Returns FAILED if that has an error. Raises CliError.
    """
    if in_force.fault:
        raise CliError(in_force.fault)
    # What the supervisor would say to the journal is for nobody here.
    logging.getLogger("discoverd").addHandler(logging.NullHandler())
    logging.getLogger("discoverd").propagate = False
    draft = read(directory)
    left = forecast.read(addresses.read())
    units = {
        instance: UnitFact(unit.load, unit.active, unit.job)
        for unit in systemd.controllers()
        if (instance := unit_instance(unit.name))
    }
    decisions = asyncio.run(forecast.forecast(draft.basis, left, units))
    changes = difference(in_force.controllers, left.specs, decisions)
    told = (*draft.complaints, *draft.exclusion_faults)
    if json:
        rows = [{"change": one.kind, "controller": one.controller, "text": one.text} for one in changes]
        text.document({"version": 1, "changes": rows, "complaints": [str(one) for one in told]})
    else:
        for one in changes:
            text.line(f"{one.kind} {one.controller}: {one.text}")
        text.line(_summary(changes))
        for complaint in told:
            text.remark(str(complaint))
    if draft.refusing:
        text.remark("with these errors discoverd keeps the configuration that is in force; see: discoverd --check")
    if draft.exclusion_faults:
        text.remark("a line of the exclusions with an error excludes nothing, and all others count")
    return Exit.FAILED if any(one.severity == "error" for one in told) else Exit.OK


def read(directory: Path) -> Draft:
    """Read a configuration. Connections until the next boot go with each."""
    before = _moved(record.files(), directory)
    files = read_files(directory)
    if all(one.fault == identity.MISSING for one in files.identity):
        # A configuration that is tried out elsewhere comes without the files that say who this host is.
        files = replace(files, identity=identity.read_identity_files(identity.DIRECTORY))
    settled = settle(files, before)
    lists = exclusions.load(str(directory))
    problems = tuple(Diagnostic(file, line, min(line, 1), "error", what) for file, line, what in lists.problems)
    basis = forecast.Basis(settled.fabrics, settled.settings, settled.host, lists)
    return Draft(basis, settled.complaints, refusing(settled, settle(before)), problems)


def _moved(files: Files, directory: Path) -> Files:
    """Return the files in force as if they were in the directory of a draft, with which they are compared."""

    def moved(sources: tuple[SourceFile, ...]) -> tuple[SourceFile, ...]:
        places = ((one, Path(one.path)) for one in sources)
        return tuple(
            replace(one, path=str(directory / place.relative_to(identity.DIRECTORY)))
            if place.is_relative_to(identity.DIRECTORY)
            else one
            for one, place in places
        )

    return Files(moved(files.settings), moved(files.fabrics), moved(files.identity))


def difference(
    before: Mapping[str, Planned], specs: Mapping[str, state.Spec], after: Mapping[str, Decision]
) -> list[Change]:
    """Return what would be another decision, the new ones first."""
    changes = []
    for instance, decision in after.items():
        spec, was = specs.get(instance), before.get(instance)
        if spec is not None and spec.origin == UNMANAGED:
            continue
        if decision.candidate is not None and decision.candidate.origin == UNMANAGED:
            # One that is in the plan can be disconnected as it is.
            if was is None and not decision.excluded_by:
                what = f"may be disconnected, once no log page lists it: it is {decision.candidate.source}"
                changes.append(Change(REMOVED, instance, what))
            continue
        changes += _changes(instance, was, spec, decision)
    # What only the plan in force has is not asked for, has no unit, and no state.
    return sorted(changes, key=lambda one: (ADDED + REMOVED + CHANGED).index(one.kind))


def _changes(instance: str, was: Planned | None, spec: state.Spec | None, now: Decision) -> list[Change]:
    was_wanted = was is not None and was.action in _WANTED and not was.excluded_by and bool(was.sources)
    is_wanted = now.candidate is not None and now.action is not Action.LEAVE and not now.excluded_by
    if is_wanted and not was_wanted and now.action is Action.KEEP_STOPPED:
        return [Change(ADDED, instance, f"asked for, and kept stopped: it is {now.reason}", stopped=True)]
    if is_wanted and not was_wanted:
        return [Change(ADDED, instance, f"connected: it is {now.reason}")]
    if was_wanted and not is_wanted:
        stays = "; what is connected stays" if now.action is Action.KEEP and not now.disconnect else ""
        return [Change(REMOVED, instance, f"not connected any more: it is {now.reason}{stays}")]
    # Withdrawn before, it still runs, because it was not to be disconnected.
    if not is_wanted and now.disconnect and (spec is None or spec.disconnect != now.disconnect):
        return [Change(REMOVED, instance, f"may be disconnected: it is {now.reason}")]
    if not is_wanted or now.candidate is None or spec is None:
        return []
    given = _options(spec, now)
    return [Change(CHANGED, instance, f"from its next connect on: {', '.join(given)}")] if given else []


def _options(spec: state.Spec, decision: Decision) -> list[str]:
    """Return which options of a connect would be others."""
    assert decision.candidate is not None  # noqa: S101  # Who calls it has looked.
    before, after = dict(spec.options), dict(decision.candidate.options)
    before |= {"persistent": spec.persistent, "symname": spec.symname}
    after |= {"persistent": decision.candidate.persistent, "symname": decision.candidate.symname}
    found = []
    for name in dict.fromkeys([*before, *after]):
        then, now = before.get(name), after.get(name)
        if then == now:
            continue
        if name in _SECRET:
            found.append(f"{name}: {'another one' if then and now else 'none' if then else 'one'}")
        else:
            found.append(f"{name}: {_word(then)} becomes {_word(now)}")
    return found


def _word(value: str | None) -> str:
    return "none" if value is None else value or "set"


def _summary(changes: list[Change]) -> str:
    numbers = {kind: sum(one.kind == kind for one in changes) for kind in (ADDED, REMOVED, CHANGED)}
    if not changes:
        return "nothing would change"
    stopped = sum(one.stopped for one in changes)
    kept = f"{stopped} asked for and kept stopped, " if stopped else ""
    connected = numbers[ADDED] - stopped
    return (
        f"{connected} connected, {kept}{numbers[REMOVED]} not connected any more, {numbers[CHANGED]} with other options"
    )
