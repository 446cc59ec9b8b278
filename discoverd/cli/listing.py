# SPDX-License-Identifier: Apache-2.0
"""``discoverctl list``: all controllers of the host by subsystem, whoever they belong to."""

import json
from argparse import Namespace as Arguments
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from discoverd import state
from discoverd.cli import choose, namespaces, order, screen, terminal, text, watch
from discoverd.cli import overview as overviews
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.namespaces import Namespace
from discoverd.cli.overview import Controller, Overview
from discoverd.cli.plan_file import Refused
from discoverd.cli.screen import Column
from discoverd.cli.systemd import Systemd
from discoverd.config.errors import printable

VERSION = 2
_UNITS = "KMGTPE"
# Refusals that stand below a list; there may be a thousand.
_REFUSALS = 5

_Namespaces = Mapping[str, Sequence[Namespace]]


def run(asked: Arguments, overview: Overview) -> Exit:
    """List the controllers, once or again and again. Raises CliError for words and states that mean nothing."""
    states = _states(asked.state)
    chosen = choose.choose(asked.controller, overview) if asked.controller else overview.controllers
    if asked.watch:
        try:
            watch.follow(lambda: _again(asked, states))
        except KeyboardInterrupt:
            return Exit.OK
    for line in _lines(asked, overview, chosen, states):
        text.raw(line)
    if overview.plan.fault:
        text.remark(overview.plan.fault)
    return Exit.OK


def _states(asked: str) -> frozenset[str]:
    """Return the states that are asked for, in lower case, none for all. Raises CliError."""
    states = frozenset(word.strip().lower() for word in asked.split(",") if word.strip())
    if unknown := states - {one.lower() for one in order.STATES}:
        raise CliError(f"{min(unknown)} is no state; these are: {', '.join(order.STATES)}", Exit.USAGE)
    return states


def _again(asked: Arguments, states: frozenset[str]) -> list[str]:
    """Return the lines of a later look: what a word means may be gone by now, and what is wrong is a line."""
    try:
        # A connection to systemd ends when that starts anew.
        overview = overviews.look(Systemd())
        means = [choose.matches(word, overview.controllers) for word in asked.controller]
        meant = {id(one) for some in means for one in some}
        chosen = [one for one in overview.controllers if id(one) in meant or not asked.controller]
        lines = _lines(asked, overview, chosen, states)
        fault = overview.plan.fault
    except CliError as error:
        lines, fault = [], " ".join([str(error), *error.lines])
    except OSError as error:
        lines, fault = [], f"{error.filename or 'controllers'}: {error.strerror or error}"
    if asked.output in ("json", "name"):
        # A program takes each line for one of these; a document has the fault of the plan in it.
        if fault and not lines:
            text.remark(fault)
        return lines
    return lines + (_folded(printable(fault)) if fault else [])


def _lines(asked: Arguments, overview: Overview, chosen: Sequence[Controller], states: frozenset[str]) -> list[str]:
    chosen = [one for one in chosen if not states or one.state.lower() in states]
    controllers = order.ordered(chosen, asked.sort)
    refused = [] if asked.controller or states else [one for one in overview.plan.refusals if not one.expected]
    if asked.output == "name":
        return [printable(one.name) for one in controllers]
    if asked.output == "json":
        return [json.dumps(_document(controllers, refused, overview.plan.fault), indent=2)]
    legend = not asked.no_legend
    found = _table(controllers, legend, asked.sort, wide=asked.output == "wide")
    return found + (_legend(controllers, refused) if legend else [])


def _folded(line: str, indent: str = "") -> list[str]:
    """Return a line as wide as the terminal is, with all of it behind an indentation."""
    width = terminal.columns()
    folded = terminal.fold(line, width - len(indent), "  ") if width else [line]
    return [indent + part for part in folded]


def _table(controllers: Sequence[Controller], legend: bool, sort: str, *, wide: bool) -> list[str]:
    if not controllers:
        return []
    known = _namespaces(controllers) if wide else {}
    more = _wide_columns(known) if wide else []
    if not (width := terminal.columns()):
        columns = (screen.STATE, _DEVICE, _OWNER, _CONTROLLER, *(one for one in more if one is not _OWNER))
        return screen.table(controllers, (*columns, screen.STATUS), legend)
    layout = screen.tree if sort == "subsystem" else screen.flat
    return layout(controllers, (screen.STATE, _DEVICE, _ADDRESS, *more, screen.STATUS), width, legend)


def _legend(controllers: Sequence[Controller], refused: Sequence[Refused]) -> list[str]:
    """Return how many there are, and what is asked for and cannot be connected."""
    live = sum(one.live for one in controllers)
    count = f"{text.count(len(controllers), 'controller')}, {live} live"
    # Each path of a subsystem, and each log page that lists it, is refused by itself.
    grouped: dict[str, list[Refused]] = {}
    for one in refused:
        grouped.setdefault(one.subsysnqn or one.what, []).append(one)
    lines = _folded(count + (f"; {len(grouped)} cannot be connected:" if refused else ""))
    for name, found in list(grouped.items())[:_REFUSALS]:
        more = f", and {len(found) - 1} more" if found[1:] else ""
        lines += _folded(printable(f"{name} ({found[0].source}{more}): {found[0].reason}"), "  ")
    if len(grouped) > _REFUSALS:
        lines += _folded("and more, see: discoverctl status", "  ")
    return lines


# Columns ---------------------------------------------------------------------------------------------------


def address(controller: Controller) -> str:
    """Return where a controller is, and the host's side where that is given: ``tcp 192.0.2.1:4420 via eth0``."""
    one = controller
    host = f" via {one.host_iface}" if one.host_iface else ""
    host += f" from {one.host_traddr}" if one.host_traddr else ""
    return place(one.transport, one.traddr, one.trsvcid) + host


def place(transport: str, traddr: str, trsvcid: str) -> str:
    """Return where a target is, as in ``tcp [2001:db8::1]:4420``."""
    bare = f"[{traddr}]" if ":" in traddr and trsvcid else traddr
    return f"{transport} {bare}:{trsvcid}" if trsvcid else f"{transport} {bare}".rstrip()


_DEVICE = Column("DEVICE", lambda one: one.device.name if one.device else "")
_ADDRESS = Column("ADDRESS", address)
_OWNER = Column("OWNER", lambda one: one.device.owner if one.device else "")
_CONTROLLER = Column("CONTROLLER", lambda one: one.name)
_SINCE = Column("SINCE", lambda one: moment(one.since))


def _wide_columns(known: _Namespaces) -> list[Column]:
    def of(controller: Controller) -> Sequence[Namespace]:
        return known.get(controller.device.name, ()) if controller.device else ()

    return [
        _OWNER,
        _SINCE,
        Column("SIZE", lambda one: size(sum(namespace.size for namespace in of(one))) if of(one) else ""),
        Column("NAMESPACES", lambda one: ",".join(namespace.name for namespace in of(one))),
        Column("USERS", lambda one: ",".join(user for namespace in of(one) for user in namespace.users)),
    ]


def moment(seconds: float) -> str:
    """Return a time as short as can be told: the time of this day, or the day as well."""
    if not seconds:
        return ""
    # As whoever sits here reads a clock.
    then = datetime.fromtimestamp(seconds).astimezone()
    return then.strftime("%H:%M" if then.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")


def size(amount: int) -> str:
    """Return a size as lsblk(8) shows it: ``16M``, ``1.5T``."""
    value, unit = float(amount), "B"
    for larger in _UNITS:
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + unit


def _namespaces(controllers: Sequence[Controller]) -> _Namespaces:
    try:
        return namespaces.of(one.device.name for one in controllers if one.device)
    except OSError as error:
        raise CliError(f"cannot tell what is mounted: {error.strerror or error}; without: discoverctl list") from None


# For programs ----------------------------------------------------------------------------------------------


def _document(controllers: Sequence[Controller], refused: Sequence[Refused], fault: str) -> dict[str, object]:
    known = _namespaces(controllers)
    return {
        "version": VERSION,
        "controllers": [
            {**summary(one), "namespaces": _volumes(known.get(one.device.name, ()) if one.device else ())}
            for one in controllers
        ],
        "refused": [refusal(one) for one in refused],
        "fault": fault,
    }


def summary(controller: Controller) -> dict[str, object]:
    """Return what JSON says about a controller, each fact once; docs/schema/list.schema.json says what it means."""
    device, report, planned = controller.device, controller.report, controller.planned
    # What a worker said counts for the state that it was said about.
    said = report if report and controller.state in (report.state, overviews.LEFT_ALONE) else None
    began = datetime.fromtimestamp(controller.since, UTC) if controller.since else None
    return {
        "controller": controller.name,
        "unit": controller.unit_name if controller.unit else "",
        "role": controller.role,
        "transport": controller.transport,
        "address": controller.traddr,
        "service": controller.trsvcid,
        "subsysnqn": controller.subsysnqn,
        "host_iface": controller.host_iface,
        "host_address": controller.host_traddr,
        "state": controller.state,
        "since": began.isoformat(timespec="seconds").replace("+00:00", "Z") if began else None,
        "attempt": said.attempt if said else 0,
        "cause": said.cause if said and said.state != state.EXCLUDED else "",
        "errno": said.errno if said else 0,
        "kept": said.kept if said else "",
        "excluded_by": controller.excluded,
        "blocked_by": controller.fragment.path if controller.fragment and controller.known else "",
        "withdrawn_by": planned.withdrawn_by if planned else "",
        "trust": planned.trust if planned else "",
        "device": device.name if device else "",
        "kernel_state": device.kernel.state if device else "",
        "owner": device.owner if device else "",
    }


def refusal(one: Refused) -> dict[str, object]:
    """Return what JSON says about something that cannot be connected."""
    return {
        "what": one.what,
        "transport": one.transport,
        "address": one.traddr,
        "service": one.trsvcid,
        "subsysnqn": one.subsysnqn,
        "source": one.source,
        "reason": one.reason,
    }


def _volumes(found: Sequence[Namespace]) -> list[dict[str, object]]:
    return [{"name": one.name, "size": one.size, "users": list(one.users)} for one in found]
