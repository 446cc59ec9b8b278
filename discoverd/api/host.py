# SPDX-License-Identifier: Apache-2.0
"""The host as the API shows it: facts as they come in, and the objects that they make.

A round takes all that is new, and puts objects one after the other, with turns for callers in between; what comes
meanwhile is for the next one. So a storm of changes costs a round after the other, and no memory.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from discoverd import registry, state, store
from discoverd.api import log_page, properties
from discoverd.api.feed import GONE, LOG, PLAN, REPORT, SPEC, WHOLE
from discoverd.api.interfaces import ROOT, SUBSYSTEMS, object_path
from discoverd.api.log_page import Head
from discoverd.api.properties import Identify
from discoverd.api.tree import Tree
from discoverd.cli import overview, plan_file
from discoverd.cli.overview import Controller, Device, Overview
from discoverd.cli.plan_file import PlanFile
from discoverd.cli.unit import Unit
from discoverd.config.identity import load_host_identity
from discoverd.kernel import controllers
from discoverd.plan.facts import Report
from discoverd.supervisor.loop_turn import LoopTurn
from discoverd.systemd import fragments

# News come in bursts; and all rounds together cost a fifth of a processor at most.
DEBOUNCE_SECONDS = 0.1
PAUSE_FACTOR = 4
# So long a piece of a round is; callers have their turns in between.
TURN_SECONDS = 0.005
# The kernel tells of a controller that comes and goes, and not of a connection that is lost. What has no worker that
# tells is looked at when somebody asks, so often at most.
LOOK_SECONDS = 2.0
NOBODY = Identify()

# Path, instance, state before, controller.
Transition = Callable[[str, str, str, Controller | None], None]


class Host:
    """What is known, and the ``tree`` that shows it.

    ``room`` waits until what was said has gone out; ``changed_state`` is called when a controller's state has changed
    since the first round, with its path, its name, the state, and the controller, None for one that is no more.
    ``reported`` is called when a worker has.
    """

    def __init__(
        self,
        tree: Tree,
        room: Callable[[], Awaitable[None]],
        changed_state: Transition,
        reported: Callable[[str], None],
    ) -> None:
        self._tree = tree
        self._room = room
        self._changed_state = changed_state
        self._reported = reported
        self._news = asyncio.Event()
        self._plan_data: bytes | None = None
        self._plan = PlanFile(fault=plan_file.MISSING)
        self._identity = ("", "")
        self._reports: dict[str, Report] = {}
        self._specs: dict[str, state.Spec] = {}
        self._heads: dict[str, Head] = {}
        self._units: dict[str, Unit] = {}
        self._daemon = ("", "")
        self._devices: dict[str, Device] = {}
        self._identified: dict[str, Identify] = {}
        # None for all.
        self._stale_devices: set[str] | None = None
        self._untold: dict[str, str] = {}
        self._looked = 0.0
        self._paths: Mapping[str, Controller] = {}
        self._named: Mapping[str, Sequence[Controller]] = {}
        self._shown_heads: dict[str, Head | None] = {}
        self._subsystems: set[str] = set()
        # Whether all that there was has been told, by the feed and by systemd.
        self._told = False
        self._listed = False
        self.ready = asyncio.Event()
        self._showing = asyncio.Lock()

    @property
    def plan(self) -> PlanFile:
        """The plan as it was read last."""
        return self._plan

    @property
    def controllers(self) -> Mapping[str, Controller]:
        """The controllers by the paths of their objects."""
        return self._paths

    @property
    def named(self) -> Mapping[str, Sequence[Controller]]:
        """The controllers by their names; those of several are the same where only the host's side tells them apart."""
        return self._named

    # Facts -------------------------------------------------------------------------------------------------

    def take(self, kind: str, instance: str, data: bytes) -> None:
        """Take a fact from /run/discoverd."""
        if kind == PLAN:
            self._plan_data = data
        elif kind == REPORT:
            self._take_report(instance, store.parse_report(data) if data else None)
        elif kind == SPEC:
            try:
                self._specs[instance] = state.Spec.decode(data)
            except state.StateError:
                self._specs.pop(instance, None)
        elif kind == LOG:
            if data:
                self._heads[instance] = log_page.split(data)[0]
            else:
                self._heads.pop(instance, None)
        elif kind == GONE:
            self._forget(instance)
        elif kind == WHOLE:
            self._told = True
        self._news.set()

    def _take_report(self, instance: str, report: Report | None) -> None:
        before = self._reports.get(instance)
        if report is None:
            self._reports.pop(instance, None)
        else:
            self._reports[instance] = report
        for one in (before, report):
            if one and one.device and self._stale_devices is not None:
                self._stale_devices.add(one.device)
        if self._told:
            self._reported(instance)

    def _forget(self, instance: str) -> None:
        self._reports.pop(instance, None)
        self._specs.pop(instance, None)
        self._heads.pop(instance, None)

    def take_units(self, changed: Mapping[str, Unit | None]) -> None:
        """Take what systemd has of controllers' units, None for one that is no more."""
        for instance, unit in changed.items():
            if unit is None:
                self._units.pop(instance, None)
            else:
                self._units[instance] = unit
        self._listed = True
        self._news.set()

    def take_daemon(self, active: str, status: str) -> None:
        """Take the state and the status line of discoverd.service."""
        self._daemon = (active, status)
        self._news.set()

    def device_changed(self, name: str = "") -> None:
        """Hear that a controller in the kernel has come, gone, or changed its owner; '' for any of them."""
        if not name:
            self._stale_devices = None
        elif self._stale_devices is not None:
            self._stale_devices.add(name)
        self._news.set()

    # Rounds ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Show what is known, for ever."""
        while True:
            await self._news.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
            self._news.clear()
            if not (self._told and self._listed):
                continue  # Nothing is shown by halves.
            began = time.thread_time()
            await self.round()
            self.ready.set()
            await asyncio.sleep(PAUSE_FACTOR * (time.thread_time() - began))

    async def round(self) -> None:
        """Show what is known now."""
        async with self._showing:
            await self._round()

    async def look_again(self) -> None:
        """Show controllers of which nobody tells as they are now, unless they were looked at a moment ago."""
        now = asyncio.get_running_loop().time()
        if not self._untold or now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        if changed := await asyncio.to_thread(_changed, self._untold):
            if self._stale_devices is not None:
                self._stale_devices |= changed
            await self.round()

    async def _round(self) -> None:
        if (data := self._plan_data) is not None:
            self._plan_data = None
            self._plan, self._identity = await asyncio.to_thread(_understand, data)
        stale, self._stale_devices = self._stale_devices, set()
        if stale is None or stale:
            self._devices, self._identified = await asyncio.to_thread(_look, self._devices, self._identified, stale)
        facts = (dict(self._units), dict(self._specs), dict(self._reports), list(self._devices.values()))
        files = await asyncio.to_thread(fragments.find)
        # Beside the loop: it is one piece of work, and grows with the host.
        now = await asyncio.to_thread(overview.assemble, self._plan, *facts, files)
        found = await asyncio.to_thread(properties.paths, now)
        self._named, self._untold = await asyncio.to_thread(_index, now.controllers)
        await self._show(now, found)

    async def _show(self, now: Overview, found: Mapping[str, Controller]) -> None:
        turn = LoopTurn(TURN_SECONDS)
        before, heads = self._paths, self._shown_heads
        self._paths = found
        self._shown_heads = {}
        groups: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)
        for path, one in found.items():
            head = self._shown_heads[path] = self._heads.get(one.name)
            if nqn := properties.subsystem_of(one):
                groups[nqn].append((path, one.live))
            was = before.get(path)
            if was != one or heads.get(path) != head:
                await self._room()
                self._tree.put(path, properties.controller(one, head, self._identified_as(one)))
                if self.ready.is_set() and (was is None or was.state != one.state):
                    self._changed_state(path, one.name, one.state, one)
            await turn.end_if_long()
        for path in before.keys() - found.keys():
            await self._room()
            self._tree.drop(path)
            if self.ready.is_set():
                self._changed_state(path, before[path].name, state.GONE, None)
            await turn.end_if_long()
        await self._show_subsystems(groups, turn)
        await self._room()
        self._tree.put(ROOT, properties.manager(now, self._daemon, self._identity))

    def _identified_as(self, one: Controller) -> Identify:
        return self._identified.get(one.device.name, NOBODY) if one.device else NOBODY

    async def _show_subsystems(self, groups: Mapping[str, list[tuple[str, bool]]], turn: LoopTurn) -> None:
        shown = {object_path(SUBSYSTEMS, nqn): nqn for nqn in groups}
        for path, nqn in shown.items():
            await self._room()
            self._tree.put(path, properties.subsystem(nqn, groups[nqn]))
            await turn.end_if_long()
        for path in self._subsystems - shown.keys():
            self._tree.drop(path)
        self._subsystems = set(shown)


def _understand(data: bytes) -> tuple[PlanFile, tuple[str, str]]:
    """Return the plan, and the host's identity, which may have changed with the configuration."""
    plan = plan_file.parse(data) if data else PlanFile(fault=plan_file.MISSING)
    identity = load_host_identity()
    return plan, (identity.hostnqn, identity.hostid)


def _look(
    known: Mapping[str, Device], identified: Mapping[str, Identify], stale: Iterable[str] | None
) -> tuple[dict[str, Device], dict[str, Identify]]:
    """Return the controllers in the kernel, and what they say of themselves: all read anew for None, else these."""
    if stale is None:
        found = {one.name: one for one in overview.devices()}
        return found, {name: _identify(name) for name in found}
    found, said = dict(known), dict(identified)
    for name in filter(registry.valid_device, stale):
        device = overview.read_device(name)
        if device is None:
            found.pop(name, None)
            said.pop(name, None)
        else:
            found[name], said[name] = device, _identify(name)
    return found, said


def _index(found: Iterable[Controller]) -> tuple[dict[str, list[Controller]], dict[str, str]]:
    """Return the controllers by their names, and the kernel's state of each that has no worker that tells of it."""
    named: defaultdict[str, list[Controller]] = defaultdict(list)
    untold = {}
    for one in found:
        named[one.name].append(one)
        tells = one.unit is not None and one.unit.running and one.report and one.report.state != state.FOREIGN
        if one.device and not tells:
            untold[one.device.name] = one.device.kernel.state
    return dict(named), untold


def _changed(known: Mapping[str, str]) -> set[str]:
    """Return the controllers whose state in the kernel is another one now."""
    return {name for name, before in known.items() if controllers.attribute(name, "state") != before}


def _identify(name: str) -> Identify:
    return Identify(*(controllers.attribute(name, one) for one in ("model", "serial", "firmware_rev", "dctype")))
