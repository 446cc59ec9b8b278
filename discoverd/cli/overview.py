# SPDX-License-Identifier: Apache-2.0
"""All controllers of this host at one moment: what systemd, the plan, the reports, the kernel and the registry say."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from discoverd import registry, state, store
from discoverd.cli import plan_file
from discoverd.cli.plan_file import PlanFile, Planned
from discoverd.cli.unit import Unit
from discoverd.kernel import controllers
from discoverd.kernel.controllers import Controller as KernelController
from discoverd.plan.facts import Report
from discoverd.systemd import fragments
from discoverd.systemd.fragments import Fragment, Fragments
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TRANSPORTS, TidError, TransportId, unit_instance, unit_name

if TYPE_CHECKING:
    # Not for the D-Bus API, which asks systemd over the bus.
    from discoverd.cli.systemd import Systemd

# What a controller is beside the states of its worker (discoverd.state).
LEFT_ALONE, BLOCKED = "left alone", "blocked"
_WANTED = ("start", "keep")
_PLANNED = {"start": "starting", "keep stopped": state.STOPPED, "leave": LEFT_ALONE, "keep": state.STOPPED}
# States of a worker under another name.
_SHOWN = {state.FOREIGN: LEFT_ALONE}


@dataclass(frozen=True, slots=True)
class Device:
    """A fabrics controller in the kernel. ``sysfs_inode`` tells it from another that gets its name later.

    ``owner``, ``unit`` and ``stamp`` are what the registry says about it, '' for nothing.
    """

    kernel: KernelController
    sysfs_inode: int
    owner: str
    unit: str
    stamp: str

    @property
    def name(self) -> str:
        """The name, such as nvme3."""
        return self.kernel.device

    @property
    def foreign(self) -> bool:
        """Tell whether it belongs to another tool."""
        return self.owner not in ("", registry.OWNER, registry.FIRMWARE_OWNER)


@dataclass(frozen=True, slots=True)
class Controller:
    """One controller. ``name`` is its instance, or what its instance would be if it had a unit.

    ``spec`` can hold secrets, so its options are not shown. ``waits_for`` is the discovery controller that does not
    list it any longer, if it stays until that is confirmed. ``fragment`` is a unit file beside which systemd does not
    make its unit: one that runs was made before.
    """

    name: str
    unit: Unit | None = None
    planned: Planned | None = None
    report: Report | None = None
    spec: state.Spec | None = None
    device: Device | None = None
    waits_for: str = ""
    fragment: Fragment | None = None

    @property
    def unit_name(self) -> str:
        """The name of its unit, also if there is none."""
        return unit_name(self.name)

    @property
    def known(self) -> bool:
        """Tell whether discoverd has, or had, anything to do with it."""
        return self.unit is not None or self.planned is not None or self.spec is not None

    @property
    def live(self) -> bool:
        """Tell whether it is connected and does its work."""
        return self.device is not None and self.device.kernel.state == "live"

    @property
    def in_order(self) -> bool:
        """Tell whether it is as it should be: live, or parked because its discovery controller has no persistent
        connection."""
        return self.live or self.state == state.PARKED

    @property
    def wanted(self) -> bool:
        """Tell whether discoverd wants it connected, and a source asks for it still."""
        planned = self.planned
        return bool(planned and planned.action in _WANTED and not planned.excluded_by and not planned.withdrawn_by)

    @property
    def excluded(self) -> str:
        """Where the exclusion stands that applies to it (``file:line``), '' if discoverd has found none."""
        return self.planned.excluded_by if self.planned else ""

    @property
    def blocked(self) -> bool:
        """Tell whether it has no unit because of a unit file, though discoverd knows of it."""
        running = self.unit is not None and self.unit.running
        return self.fragment is not None and self.known and not running

    @property
    def subsysnqn(self) -> str:
        """The subsystem's NQN, '' where nothing tells it."""
        if self.device:
            return self.device.kernel.subsysnqn
        if self.spec:
            return self.spec.option("nqn")
        return self.planned.subsysnqn if self.planned else ""

    @property
    def transport(self) -> str:
        """The transport: tcp, rdma, fc or loop."""
        return self.name.partition(":")[0]

    @property
    def traddr(self) -> str:
        """The target's address, '' where nothing tells it, or there is none."""
        return self._option("traddr")

    @property
    def trsvcid(self) -> str:
        """The target's port, '' where nothing tells it, or there is none."""
        return self._option("trsvcid")

    @property
    def host_iface(self) -> str:
        """The interface of this host that it is to be reached through, '' for any."""
        return self._option("host_iface")

    @property
    def host_traddr(self) -> str:
        """The address of this host that it is to be reached from, '' for any."""
        return self._option("host_traddr")

    def _option(self, name: str) -> str:
        """Return a part of the address as it is asked for, or as the kernel has it where nobody asks."""
        if self.spec:
            return self.spec.option(name)
        if self.planned and self.planned.subsysnqn:
            return str(getattr(self.planned, name))
        return str(getattr(self.device.kernel, name)) if self.device else ""

    @property
    def role(self) -> str:
        """DISCOVERY or IO (discoverd.tid), as it is asked for, or as the kernel has it where nobody asks."""
        if self.spec:
            return self.spec.role
        if self.planned and self.planned.role:
            return self.planned.role
        return DISCOVERY if self._discovery_in_kernel or self.subsysnqn == DISCOVERY_NQN else IO

    @property
    def is_discovery(self) -> bool:
        """Tell whether it is a discovery controller: it is asked for as one, or the kernel has found that it is one.

        Kernels before 5.18 do not tell that of any.
        """
        return self.role == DISCOVERY or self._discovery_in_kernel

    @property
    def _discovery_in_kernel(self) -> bool:
        return self.device is not None and self.device.kernel.cntrltype == "discovery"

    @property
    def state(self) -> str:
        """One word or two for where it is."""
        return self._situation[0]

    @property
    def detail(self) -> str:
        """What there is to say beside the state and the device, '' for nothing."""
        return self._situation[1]

    @property
    def _situation(self) -> tuple[str, str]:
        """State and detail, both by the word of the same witness."""
        unit, report = self.unit, self.report
        if unit and unit.load == "masked":
            return "masked", ""
        if unit and unit.running:
            return self._by_worker(report) if report else (unit.active, unit.status)
        if self.excluded:
            return state.EXCLUDED, f"by {self.excluded}"
        if self.blocked and self.fragment:
            return BLOCKED, f"by {self.fragment.path}"
        if unit and unit.active == "failed":
            said = report.detail or report.status if report else unit.status
            return state.REFUSED if report and report.state == state.REFUSED else "failed", said
        if report and report.state == state.GIVEN_UP:
            return state.GIVEN_UP, report.detail
        if unit:
            return state.STOPPED, report.detail if report and report.state == state.STOPPED else ""
        if self.planned:
            action = self.planned.action
            return _PLANNED.get(action, action), self.planned.reason if action == "leave" else ""
        if self.device is None:
            return state.GONE, ""
        whose = f"belongs to {self.device.owner}" if self.device.owner else "nobody's"
        return self.device.kernel.state, f"{whose}, and has no unit"

    def _by_worker(self, report: Report) -> tuple[str, str]:
        detail = report.detail if report.since else _beside(report)
        if report.state == state.FOREIGN:
            return LEFT_ALONE, detail
        if report.state == state.LIVE and not self.live:
            # The worker looks at its controller every ten seconds.
            now = state.RECONNECTING if self.device else state.CONNECTING
            return now, "its worker has not seen yet that the connection is lost"
        return report.state, detail

    @property
    def since(self) -> float:
        """When the state began (seconds since 1970), 0 where that is not known."""
        report = self.report
        if report is None or not report.since or self.state not in (report.state, _SHOWN.get(report.state)):
            return 0.0
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - report.since)

    @property
    def status(self) -> str:
        """What its worker says, or said last; without a word of it, what else there is to say."""
        if self.unit and self.unit.status:
            return self.unit.status
        if self.unit and self.unit.load == "masked":
            return "its unit is masked"
        if self.state == state.EXCLUDED:
            return f"excluded by {self.excluded}"
        if self.report and self.report.status:
            return self.report.status
        if self.planned:
            return self.planned.reason
        if self.device and self.device.owner:
            return f"belongs to {self.device.owner}, and has no unit"
        return "nobody's: it has no unit, and no owner in the registry" if self.device else ""


@dataclass(frozen=True, slots=True)
class Overview:
    """All controllers, the plan with its complaints, and the unit files beside which systemd makes no units."""

    controllers: tuple[Controller, ...]
    plan: PlanFile
    fragments: Fragments = field(default_factory=Fragments)


def _beside(report: Report) -> str:
    """Return what the status says beside state and device, which a worker of an earlier version does not tell apart."""
    text = report.status.removeprefix(report.state).lstrip()
    return text.removeprefix(report.device).lstrip(" ,:;")


def look(systemd: "Systemd | None") -> Overview:
    """Gather everything, with None all but the units, for who looks again and again.

    Raises CliError where systemd cannot be asked, PermissionError without the privilege.
    """
    plan = plan_file.read()
    units = {}
    for unit in systemd.controllers() if systemd else ():
        if instance := unit_instance(unit.name):
            units[instance] = unit
    specs = {instance: store.read_spec(instance) for instance in state_directories()}
    reports = {name: store.read_report(name) for name in plan.controllers.keys() | units.keys() | specs.keys()}
    return assemble(plan, units, specs, reports, devices(), fragments.find())


def assemble(
    plan: PlanFile,
    units: Mapping[str, Unit],
    specs: Mapping[str, state.Spec | None],
    reports: Mapping[str, Report | None],
    found_devices: Sequence[Device],
    files: Fragments,
) -> Overview:
    """Return the overview that these facts make, by instance; it asks nobody for anything."""
    waiting = {name: origin for origin, pending in plan.pending.items() for name in pending}
    names = [*plan.controllers, *sorted((units.keys() | specs.keys()) - plan.controllers.keys())]
    reports = {name: reports.get(name) for name in names}
    assigned = _assigned(reports, specs, found_devices)
    found = []
    for name in names:
        planned, waits_for = plan.controllers.get(name), waiting.get(name, "")
        told = (units.get(name), planned, reports[name], specs.get(name), assigned.get(name))
        found.append(Controller(name, *told, waits_for, files.blocking(name)))
    claimed = {device.name for device in assigned.values()}
    # A directory without a specification that can be read, and without a unit, is nothing.
    found = [one for one in found if one.known]
    found += [Controller(_name(one.kernel), device=one) for one in found_devices if one.name not in claimed]
    return Overview(tuple(found), plan, files)


def refreshed(chosen: Sequence[Controller], systemd: "Systemd") -> list[Controller]:
    """Return controllers as they are now, as far as units, reports and kernel go; the kernel is looked through once."""
    known = {one.unit_name for one in chosen if one.known}
    units = systemd.units(known) if known else {}
    reports = {one.name: store.read_report(one.name) for one in chosen}
    same = [_still(one.device) for one in chosen]
    gone = {one.name: one.spec for one, device in zip(chosen, same, strict=True) if device is None}
    taken = {device.name for device in same if device}
    left = [device for device in devices() if device.name not in taken] if gone else []
    anew = _assigned({name: reports[name] for name in gone}, gone, left)
    found = []
    for one, device in zip(chosen, same, strict=True):
        unit = units.get(one.unit_name) if one.known else None
        shown = replace(unit, status=systemd.status(unit)) if unit and unit.load != "not-found" else None
        found.append(replace(one, unit=shown, report=reports[one.name], device=device or anew.get(one.name)))
    return found


def _still(device: Device | None) -> Device | None:
    """Return a device as it is now, None if it is gone."""
    if device is None or controllers.sysfs_inode(device.name) != device.sysfs_inode:
        return None
    return read_device(device.name)


def state_directories() -> Iterable[str]:
    """Return the instances that discoverd keeps state for. Raises PermissionError without the privilege."""
    try:
        return sorted(os.listdir(state.CONTROLLERS))
    except FileNotFoundError:
        return ()


def devices() -> list[Device]:
    """Return the fabrics controllers in the kernel, by number."""
    found = [read_device(name) for name in sorted(controllers.names(), key=lambda name: (len(name), name))]
    return [device for device in found if device is not None]


def read_device(name: str) -> Device | None:
    """Return a fabrics controller; None for one on PCIe, for one that is gone, and for one that is still being made."""
    sysfs_inode = controllers.sysfs_inode(name)
    kernel = KernelController(name)
    # One without an NQN is an attempt to connect, of a unit that says so, and nobody can tell whose it is.
    if kernel.transport not in TRANSPORTS or not sysfs_inode or not kernel.subsysnqn:
        return None
    try:
        entry = [registry.retrieve(name, attribute) or "" for attribute in ("owner", "unit", "seqnum")]
    except OSError as error:
        entry = [f"somebody (the registry is unreadable: {error.strerror})", "", ""]
    return Device(kernel, sysfs_inode, *entry)


def _assigned(
    reports: Mapping[str, Report | None], specs: Mapping[str, state.Spec | None], devices: Sequence[Device]
) -> dict[str, Device]:
    """Return the kernel's controller of each unit that has one, as its worker finds it (discoverd.worker.ownership).

    First by the reports of the workers, unless an entry in the registry names another unit, then by the entries, then
    by the options of what no entry gives to a unit.
    """
    entered = {device.unit: device for device in devices if device.unit}
    present = {(device.name, device.sysfs_inode): device for device in devices}
    left = {device.name: device for device in devices}
    found: dict[str, Device] = {}

    def by_entry(name: str) -> Device | None:
        return entered.get(unit_name(name))

    def by_report(name: str) -> Device | None:
        report = reports[name]
        device = present.get((report.device, report.sysfs_inode)) if report else None
        return device if device and device.unit in ("", unit_name(name)) else None

    def by_options(name: str) -> Device | None:
        spec = specs.get(name)
        wanted = dict(spec.options) if spec else {}
        fitting = (one for one in left.values() if not one.unit and controllers.matches(wanted, one.kernel))
        return next(fitting, None)

    # Who has reported that it leaves a controller alone comes after whose it is.
    names = sorted(reports, key=lambda name: (one := reports[name]) is not None and one.state == "foreign")
    for looked_up in (by_report, by_entry, by_options):
        for name in [one for one in names if one not in found]:
            device = looked_up(name)
            if device and device.name in left and _at_target(specs.get(name), device):
                found[name] = left.pop(device.name)
    return found


def _at_target(spec: state.Spec | None, device: Device) -> bool:
    """Tell whether a controller is what a specification asks for, however it is connected."""
    return spec is None or controllers.same_target(dict(spec.options), device.kernel)


def _name(kernel: KernelController) -> str:
    """Return the instance that a unit for this controller would have."""
    role = DISCOVERY if kernel.cntrltype == "discovery" else IO
    try:
        return TransportId.make(
            role,
            kernel.transport,
            kernel.traddr,
            kernel.trsvcid,
            kernel.subsysnqn,
            host_traddr=kernel.host_traddr,
            host_iface=kernel.host_iface,
        ).instance
    except TidError:
        parts = (kernel.transport, kernel.traddr, kernel.trsvcid, kernel.subsysnqn)
        return ":".join(part for part in parts if part)
