# SPDX-License-Identifier: Apache-2.0
"""``discoverctl list``: a line for each controller, whoever it belongs to."""

from discoverd.cli import text
from discoverd.cli.exits import Exit
from discoverd.cli.overview import Controller, Overview

_TITLES = ("STATE", "DEVICE", "OWNER", "CONTROLLER", "STATUS")


def show(overview: Overview, json: bool, legend: bool) -> Exit:
    """Print the table, or the JSON."""
    if json:
        controllers = [summary(one) for one in overview.controllers]
        text.document({"version": 1, "controllers": controllers, "fault": overview.plan.fault})
        return Exit.OK
    rows = [_row(one) for one in overview.controllers]
    if rows or not legend:
        text.table(_TITLES, rows, legend)
    if legend:
        live = sum(one.live for one in overview.controllers)
        text.line(f"{text.count(len(rows), 'controller')}, {live} live")
    if overview.plan.fault:
        text.remark(overview.plan.fault)
    return Exit.OK


def summary(controller: Controller) -> dict[str, object]:
    """Return what JSON says about a controller in a list."""
    device = controller.device
    return {
        "controller": controller.name,
        "unit": controller.unit_name if controller.unit else "",
        "state": controller.state,
        "live": controller.live,
        "status": controller.status,
        "cause": controller.report.cause if controller.report else "",
        "kept": controller.report.kept if controller.report else "",
        "excluded_by": controller.excluded,
        "withdrawn_by": controller.planned.withdrawn_by if controller.planned else "",
        "trust": controller.planned.trust if controller.planned else "",
        "device": device.name if device else "",
        "kernel_state": device.kernel.state if device else "",
        "owner": device.owner if device else "",
        "subsysnqn": controller.subsysnqn,
    }


def _row(controller: Controller) -> tuple[str, ...]:
    device = controller.device
    return (
        controller.state,
        device.name if device else "",
        device.owner if device else "",
        controller.name,
        controller.status,
    )
