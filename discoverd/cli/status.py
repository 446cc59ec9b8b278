# SPDX-License-Identifier: Apache-2.0
"""``discoverctl status``: discoverd itself, or everything that is known about one controller."""

from collections import Counter

from discoverd.cli import holdings, text
from discoverd.cli.exits import Exit
from discoverd.cli.holdings import Namespace
from discoverd.cli.listing import VERSION, moment, refusal, summary
from discoverd.cli.overview import Controller, Overview
from discoverd.cli.systemd import Systemd
from discoverd.cli.unit import DAEMON


def daemon(overview: Overview, systemd: Systemd, json: bool) -> Exit:
    """Print how discoverd is. Returns FAILED if it does not run."""
    unit = systemd.units([DAEMON])[DAEMON]
    # systemd keeps the last word of one that has ended.
    status = systemd.status(unit) if unit.up else ""
    counts = Counter(one.state for one in overview.controllers)
    plan = overview.plan
    if json:
        text.document(
            {
                "version": 1,
                "active": unit.active,
                "status": status,
                "controllers": dict(counts),
                "complaints": list(plan.complaints),
                "blocked_by": [{"path": one.path, "remedy": one.remedy} for one in overview.fragments.found.values()],
                "kept": [{"file": one.file, "since": one.since, "mistake": one.mistake} for one in plan.kept],
                "refusals": [refusal(one) for one in plan.refusals],
                "fault": plan.fault,
            }
        )
    else:
        text.line(f"discoverd:   {unit.active}" + (f" ({unit.sub})" if unit.sub else ""))
        text.line(f"status:      {status or '-'}")
        states = ", ".join(f"{number} {state}" for state, number in counts.most_common())
        text.line(f"controllers: {states or 'none'}")
        for fragment in overview.fragments.found.values():
            text.line(f"blocked:     {fragment.problem}")
        for complaint in plan.complaints:
            text.line(f"complaint:   {complaint}")
        for one in plan.refusals:
            text.line(f"refused:     {one.what} ({one.source}): {one.reason}")
    if plan.fault:
        text.remark(plan.fault)
    if unit.up:
        return Exit.OK
    text.remark(f"discoverd does not run; start it: systemctl start {DAEMON}")
    return Exit.FAILED


def controllers(chosen: list[Controller], json: bool) -> Exit:
    """Print all about these controllers. Returns NOT_LIVE unless each is live or parked."""
    details = [(one, *_namespaces(one)) for one in chosen]
    if json:
        text.document({"version": VERSION, "controllers": [_document(*detail) for detail in details]})
    else:
        for number, detail in enumerate(details):
            if number:
                text.line()
            _print(*detail)
    return Exit.OK if all(one.in_order for one in chosen) else Exit.NOT_LIVE


def _namespaces(controller: Controller) -> tuple[list[Namespace], str]:
    """Return the namespaces, and why they are not known, if so."""
    if controller.device is None:
        return [], ""
    try:
        return holdings.namespaces(controller.device.name), ""
    except OSError as error:
        return [], f"unknown: {error.strerror or error}"


def _document(controller: Controller, namespaces: list[Namespace], fault: str) -> dict[str, object]:
    planned, unit = controller.planned, controller.unit
    return {
        **summary(controller),
        "unit_load": unit.load if unit else "",
        "unit_active": unit.active if unit else "",
        "unit_sub": unit.sub if unit else "",
        "action": planned.action if planned else "",
        "reason": planned.reason if planned else "",
        "sources": sources(controller),
        "namespaces": [{"name": one.name, "users": one.users, "other_paths": one.others} for one in namespaces],
        "namespaces_fault": fault,
    }


def _print(controller: Controller, namespaces: list[Namespace], fault: str) -> None:
    unit, device, planned = controller.unit, controller.device, controller.planned
    text.line(controller.name)
    lines = [
        ("state", controller.state + (f" since {moment(controller.since)}" if controller.since else "")),
        ("status", controller.detail),
        ("unit", f"{unit.name}: {unit.load}, {unit.active} ({unit.sub})" if unit else "none"),
        ("device", f"{device.name}: {device.kernel.state}" if device else "none"),
        ("owner", (device.owner or "nobody") if device else ""),
        ("subsystem", controller.subsysnqn),
        ("source", sources(controller)),
        ("decision", f"{planned.action}: it is {planned.reason}" if planned else ""),
        ("note", planned.note if planned else ""),
        ("blocked", controller.fragment.problem if controller.fragment else ""),
    ]
    for one in namespaces:
        use = "used by " + ", ".join(one.users) if one.users else "not in use"
        others = "also through " + ", ".join(one.others) if one.others else "no other live path"
        lines.append(("namespace", f"{one.name}: {use}; {others}"))
    if fault:
        lines.append(("namespaces", fault))
    for title, value in lines:
        if value:
            text.line(f"  {title + ':':<12}{value}")


def sources(controller: Controller) -> str:
    """Return what asks for a controller, or asked for it last."""
    if controller.planned and controller.planned.sources:
        return controller.planned.sources
    return controller.spec.source if controller.spec else ""
