# SPDX-License-Identifier: Apache-2.0
"""What is known of a controller, a subsystem and the host, as properties of their objects.

Texts come from peers and files, so all of them are made printable: no secret, nothing that D-Bus or a terminal does not
take.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from discoverd.api.interfaces import (
    CONTROLLER,
    CONTROLLERS,
    DISCOVERY,
    MANAGER,
    NO_OBJECT,
    SUBSYSTEM,
    SUBSYSTEMS,
    object_path,
)
from discoverd.api.log_page import Head
from discoverd.cli import why
from discoverd.cli.overview import Controller, Overview
from discoverd.cli.plan_file import PlanFile
from discoverd.config.errors import printable
from discoverd.kernel.controllers import canonical_nqn
from discoverd.public_spec import TUNABLES
from discoverd.tid import DISCOVERY as DISCOVERY_ROLE
from discoverd.tid import DISCOVERY_NQN, IO
from discoverd.version import VERSION

_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Identify:
    """What a controller says of itself, as sysfs has it; '' where it does not."""

    model: str = ""
    serial: str = ""
    firmware_rev: str = ""
    dctype: str = ""


def role(one: Controller) -> str:
    """Return ``discovery`` or ``io``."""
    if one.planned and one.planned.role:
        return one.planned.role
    if one.spec:
        return one.spec.role
    return DISCOVERY_ROLE if one.device and one.device.kernel.cntrltype == "discovery" else IO


def target(one: Controller) -> tuple[str, str, str, str, str, str]:
    """Return transport, address, service, NQN, host interface and host address; '' for what nothing tells."""
    planned, spec, device = one.planned, one.spec, one.device
    if planned and planned.transport:
        where = (planned.transport, planned.traddr, planned.trsvcid, planned.subsysnqn)
        return (*where, planned.host_iface, planned.host_traddr)
    if spec:
        where = (spec.option("transport"), spec.option("traddr"), spec.option("trsvcid"), spec.option("nqn"))
        return (*where, spec.option("host_iface"), spec.option("host_traddr"))
    if device:
        kernel = device.kernel
        where = (kernel.transport, kernel.traddr, kernel.trsvcid, kernel.subsysnqn)
        return (*where, kernel.host_iface, kernel.host_traddr)
    return (one.transport, "", "", "", "", "")


def subsystem_of(one: Controller) -> str:
    """Return the NQN of the subsystem that a controller is a path to, in the spelling in which all compare equal.

    '' for a discovery controller, which is no path to one.
    """
    nqn = canonical_nqn(one.subsysnqn)
    return "" if role(one) != IO or nqn == DISCOVERY_NQN else nqn


def controller(one: Controller, head: Head | None, extra: Identify) -> dict[str, dict[str, Any]]:
    """Return the interfaces of a controller's object; ``head`` is of its log page, if it is a discovery controller,
    and ``extra`` what it says of itself."""
    planned, report, device, unit, spec = one.planned, one.report, one.device, one.unit, one.spec
    transport, address, service, nqn, host_interface, host_address = map(printable, target(one))
    subsystem = subsystem_of(one)
    texts = {
        "Instance": one.name,
        "Unit": one.unit_name if one.known else "",
        "LoadState": unit.load if unit else "",
        "ActiveState": unit.active if unit else "",
        "SubState": unit.sub if unit else "",
        "State": one.state,
        "Status": one.status,
        "Cause": report.cause if report else "",
        "Kept": report.kept if report else "",
        "Device": device.name if device else "",
        "KernelState": device.kernel.state if device else "",
        "Owner": device.owner if device else "",
        "Role": role(one),
        "HostNQN": (spec.option("hostnqn") if spec else "") or (device.kernel.hostnqn if device else ""),
        "HostID": (spec.option("hostid") if spec else "") or (device.kernel.hostid if device else ""),
        "Model": extra.model,
        "Serial": extra.serial,
        "FirmwareRevision": extra.firmware_rev,
        "DiscoveryControllerType": extra.dctype,
        "AnnouncedOn": spec.announced_on if spec else "",
        "AnnouncedUntil": spec.announced_until if spec else "",
        "Sources": (planned.sources if planned else "") or (spec.source if spec else ""),
        "Trust": planned.trust if planned else "",
        "Action": planned.action if planned else "",
        "Reason": planned.reason if planned else "",
        "Note": planned.note if planned else "",
        "HeldBack": planned.held_back if planned else "",
        "ExcludedBy": one.excluded,
        "WithdrawnBy": planned.withdrawn_by if planned else "",
        "WaitsFor": one.waits_for,
    }
    found: dict[str, dict[str, Any]] = {
        CONTROLLER: {
            **{name: printable(value) for name, value in texts.items()},
            "Live": one.live,
            "Options": _tunables(spec.options) if spec else {},
            "GiveUpAfter": min(spec.give_up_after, _U64) if spec else 0,
            "Attempt": min(report.attempt, _U32) if report else 0,
            "ReportTimestampBoottime": min(int(report.time * 1_000_000), _U64) if report else 0,
            "Transport": transport,
            "Address": address,
            "Service": service,
            "SubsystemNQN": printable(one.subsysnqn) or nqn,
            "HostInterface": host_interface,
            "HostAddress": host_address,
            "Subsystem": object_path(SUBSYSTEMS, subsystem) if subsystem else NO_OBJECT,
            "Why": [printable(sentence) for sentence in why.sentences(one, [], (), alone=False)],
        }
    }
    if role(one) == DISCOVERY_ROLE and one.known:
        page = head or Head(fault="its log page was not read yet")
        found[DISCOVERY] = {
            "Generation": page.generation,
            "Entries": page.entries,
            "ReadTimestampBoottime": page.time,
            "Asked": page.asked,
            "SymbolicName": printable(spec.symname) if spec else "",
            "Fault": page.fault,
        }
    return found


def _tunables(options: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return how it is connected, in the kernel's words; '' for an option without a value."""
    return {key: printable(value) for key, value in options if key in TUNABLES}


def subsystem(nqn: str, paths: Iterable[tuple[str, bool]]) -> dict[str, dict[str, Any]]:
    """Return the interfaces of a subsystem's object; ``paths`` are its controllers' objects, and which are live."""
    listed = sorted(paths)
    return {
        SUBSYSTEM: {
            "NQN": printable(nqn),
            "Controllers": [path for path, _ in listed],
            "Live": sum(live for _, live in listed),
        }
    }


def manager(overview: Overview, daemon: tuple[str, str], host: tuple[str, str]) -> dict[str, dict[str, Any]]:
    """Return the interfaces of the root object; ``daemon`` is state and status of discoverd.service, ``host`` its NQN
    and ID."""
    plan = overview.plan
    counts = Counter(one.state for one in overview.controllers)
    problems = [*plan.complaints]
    problems += [f"{one.instance}: {one.held_back}" for one in plan.controllers.values() if one.held_back]
    return {
        MANAGER: {
            "Version": VERSION,
            "State": printable(daemon[0]),
            "Status": printable(daemon[1]),
            "HostNQN": printable(host[0]),
            "HostID": printable(host[1]),
            "Counts": {printable(name): number for name, number in sorted(counts.items())},
            "Live": sum(one.live for one in overview.controllers),
            "Problems": [printable(one) for one in problems],
            "Refusals": [tuple(map(printable, (one.what, one.source, one.reason))) for one in plan.refusals],
            "Fault": printable(plan.fault),
        }
    }


def decisions(plan: PlanFile) -> list[tuple[str, str, str, str, str]]:
    """Return the plan: instance, action, reason, note and sources of each decision."""
    return [(one.instance, one.action, one.reason, one.note, one.sources) for one in plan.controllers.values()]


def paths(overview: Overview) -> Mapping[str, Controller]:
    """Return the controllers by the paths of their objects.

    A controller that has no unit can be called as another is; then the kernel's name for it tells them apart.
    """
    found: dict[str, Controller] = {}
    for one in overview.controllers:
        path = object_path(CONTROLLERS, one.name)
        if path in found and one.device:
            path = object_path(CONTROLLERS, f"{one.name} {one.device.name}")
        found[path] = one
    return found
