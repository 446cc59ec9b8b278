# SPDX-License-Identifier: Apache-2.0
"""Owners in the registry that are daemons of this host and do not run."""

from collections.abc import Iterable

from discoverd import registry, store
from discoverd.cli.checks.finding import Finding, hint, problem
from discoverd.cli.overview import Controller, Device
from discoverd.cli.systemd import Systemd
from discoverd.plan.facts import UnitFact
from discoverd.plan.former_owner import GONE_SECONDS, TOOLS, Standing, judge, patterns, services


def check(controllers: Iterable[Controller], systemd: Systemd, runs: bool) -> list[Finding]:
    """Return the controllers that such an owner has, as far as nobody looks after them. ``runs``: discoverd does."""
    owned = [(one, one.device) for one in controllers if one.device and one.device.owner in TOOLS]
    if not owned:
        return []
    owners = {device.owner for _, device in owned}
    asked = {**systemd.units(services(owners)), **systemd.matching(patterns(owners))}
    units = {name: UnitFact(unit.load, unit.active, unit.job) for name, unit in asked.items()}
    found = []
    for one, device in owned:
        holder = store.holder(device.name)
        judgement = judge(device.owner, units, holder)
        tool = TOOLS[device.owner]
        text = (
            f"{device.name} belongs to {device.owner}, and no daemon of {tool.name} runs ({', '.join(tool.services)})"
        )
        if judgement.standing is Standing.HOLDS:
            which = judgement.holders[0] if holder in judgement.holders else "one of its units"
            text = f"{text}, but {which} disconnects it when that is stopped, at shutdown under what is mounted"
            found.append(problem(text, _release(device, holder, judgement.holders)))
        elif judgement.standing is Standing.GONE:
            found.append(problem(f"{text}: nobody looks after it", _take_back(one, device, runs)))
        elif judgement.standing is Standing.UNSEEN:
            text = f"{device.name} belongs to {device.owner}, and systemd has no {' or '.join(tool.services)}"
            away = f"rm -r {registry.ROOT}/{device.name}, and discoverd looks after it if it is asked for"
            found.append(hint(text, f"if {tool.name} does not run elsewhere, in a container for instance: {away}"))
    return found


def _release(device: Device, holder: str, holders: tuple[str, ...]) -> str:
    """Return how to end a unit of nvme-discoverd's without a disconnect: it disconnects what its record names.

    Without a record of this controller, those that are there are about others, which a stop would disconnect.
    """
    if holder not in holders:
        others = f"see first to the other controllers of {device.owner}, then to what is left of its units"
        return f"no record says which of them: {others}: systemctl status {' '.join(holders)}"
    return (
        f"have it forget the controller, and stop it: rm -r {store.HOLDERS}/{device.name} && systemctl stop {holder}; "
        "then discoverd takes back what it asks for"
    )


def _take_back(one: Controller, device: Device, runs: bool) -> str:
    if not runs:
        return "systemctl start discoverd, which takes back what it asks for"
    if one.unit is not None and one.unit.running:
        return f"discoverd takes it back by itself, after {2 * GONE_SECONDS} seconds at the latest"
    return f"ask for it in /etc/nvme/nvme-fabrics.conf; or, to be rid of it: nvme disconnect -d {device.name}"
