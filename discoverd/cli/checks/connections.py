# SPDX-License-Identifier: Apache-2.0
"""Whether what is wanted is connected: controllers that are not, for minutes, and subsystems on their last path."""

import os
import time
from collections.abc import Iterable

from discoverd import state
from discoverd.cli import plan_file
from discoverd.cli.checks.finding import Finding, hint, problem
from discoverd.cli.overview import Controller
from discoverd.cli.text import count, quoted

# A worker waits up to 8 s between two attempts: these take two minutes at least.
_ATTEMPTS = 20
_MINUTES = 2
_NAMED = 3


def unconnected(controllers: Iterable[Controller]) -> list[Finding]:
    """Return the controllers that workers have had no connection to for minutes, those of one address and cause
    together."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    undone = _minutes_since_the_plan()
    groups: dict[tuple[str, str, bool], list[Controller]] = {}
    for one in controllers:
        if _is_wanted(one) and (since := _without(one, now, undone)):
            cause = one.report.cause if one.report else ""
            trusted = not (one.planned and one.planned.trust == "announced")
            groups.setdefault((one.traddr, f"{since}: {cause}" if cause else since, trusted), []).append(one)
    found = []
    for (_, why, trusted), some in groups.items():
        names = ", ".join(one.name for one in some[:_NAMED])
        more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
        make = problem if trusted else hint
        remedy = f"see what would help: discoverctl why {quoted(some[0].name)}"
        found.append(make(f"{names}{more}: not connected {why}", remedy))
    return found


def last_paths(controllers: Iterable[Controller]) -> list[Finding]:
    """Return the subsystems of which one path is left. That the others were stopped on purpose makes it a hint."""
    subsystems: dict[str, list[Controller]] = {}
    for one in controllers:
        if not one.is_discovery and one.subsysnqn:
            subsystems.setdefault(one.subsysnqn, []).append(one)
    found = []
    for nqn, paths in sorted(subsystems.items()):
        live = [one for one in paths if one.live]
        down = [one for one in paths if not one.live and _is_asked_for(one)]
        if len(live) != 1 or not down or live[0].device is None:
            continue
        make = problem if any(_is_wanted(one) for one in down) else hint
        text = f"{nqn} has one path left, {live[0].device.name}: if that is lost, its I/O stops"
        name = quoted(down[0].name)
        if make is hint:
            found.append(make(f"{text}; {count(len(down), 'other')} stopped", f"discoverctl start {name}"))
        else:
            found.append(make(f"{text}; {count(len(down), 'other')} down", f"see why: discoverctl why {name}"))
    return found


def _is_asked_for(one: Controller) -> bool:
    """Tell whether a source asks for it now, and no exclusion applies, whether it was stopped or not."""
    planned = one.planned
    if planned is None or planned.note or planned.excluded_by:
        return False
    return planned.action in ("start", "keep", "keep stopped")


def _is_wanted(one: Controller) -> bool:
    """Tell whether it is to be connected now."""
    foreign = one.device is not None and one.device.foreign
    masked = one.unit is not None and one.unit.load == "masked"
    stopped = one.planned is not None and one.planned.action == "keep stopped"
    return _is_asked_for(one) and not (foreign or masked or stopped)


def _minutes_since_the_plan() -> int:
    try:
        return int((time.time() - os.stat(plan_file.PATH).st_mtime) / 60)
    except OSError:
        return 0


def _without(one: Controller, now: float, undone: int) -> str:
    """Return for how long there has been no connection, '' if there is one, or it has been tried for a short time only.

    ``undone``: for so many minutes nothing has changed in the plan.
    """
    report = one.report
    if one.unit is None and one.planned and one.planned.action == "start" and undone >= _MINUTES:
        return f"for {undone} minutes: no unit was made for it"
    if report is None or one.live or not (one.unit and one.unit.running):
        return ""
    minutes = int((now - report.time) / 60)
    if report.state == state.WAITING and report.attempt >= _ATTEMPTS:
        return f"after {report.attempt} attempts"
    if report.state in (state.WAITING, state.CONNECTING, state.RECONNECTING) and minutes >= _MINUTES:
        return f"for {minutes} minutes"
    return ""
