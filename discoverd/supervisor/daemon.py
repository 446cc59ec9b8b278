# SPDX-License-Identifier: Apache-2.0
"""The loop that joins sources, planner and units.

It makes no blocking call: files are read and written in a thread, systemd is asked through the unit agent's
process. It keeps nothing that it cannot find again in configuration, systemd and /run/discoverd, so it may
be killed at any moment. News of one controller has only that one looked at, however many there are.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from discoverd import state, store
from discoverd.kernel import usage
from discoverd.plan.candidate import OTHERS
from discoverd.plan.evidence import Pending
from discoverd.plan.planner import (
    ENDED,
    Action,
    Answer,
    Decision,
    Facts,
    HeldBack,
    UnitFact,
    confirmable,
    plan,
)
from discoverd.sources import boot
from discoverd.supervisor.changes import Changes
from discoverd.supervisor.configuration import Configuration
from discoverd.supervisor.fields import about
from discoverd.supervisor.inventory import Inventory
from discoverd.supervisor.observed import Observed
from discoverd.supervisor.specifications import Specifications
from discoverd.supervisor.starter import Starter
from discoverd.supervisor.status_line import Tally
from discoverd.systemd import journal, unit_signals
from discoverd.systemd.notifier import Notifier
from discoverd.systemd.units import UnitError, Units

log = logging.getLogger("discoverd")
T = TypeVar("T")

# News come in bursts; a round waits this long (seconds) for the rest of one, and begins after the last one not before
# four times as long as that took, so that a storm costs a fifth of a processor at most.
SETTLE = 0.05
SETTLE_MAX = 1.0
RECONNECT_BUS = 1
# Mounts that need a network wait for the first attempts, but no longer than this.
READY_AFTER = 30
RETRY_SYSTEMD = 5
# A restart waits so long for the first look-ups of host names.
NAMES_FIRST = 5
EXIT_SOFTWARE = 70
# News of what was asked for less than so many seconds ago are not worth an attempt out of turn: workers wait no longer.
HURRY = 8
# A worker's last report comes so long before its unit is inactive, or longer.
LAST_WORD = 1


@dataclass(frozen=True, slots=True)
class _Answers:
    """What origins said when it was looked at last; fields as in Facts."""

    complete: Mapping[str, Answer] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)
    pending: Mapping[str, Mapping[str, Pending]] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    held_back: Mapping[str, HeldBack] = field(default_factory=dict)
    confirming: frozenset[str] = frozenset()


class Supervisor:
    """The daemon. ``libexec`` is the directory of the launchers of workers and unit agent."""

    def __init__(self, libexec: str) -> None:
        self._libexec = libexec
        self._files = ThreadPoolExecutor(1, "files")
        self._changes = Changes()
        self._configuration = Configuration(self._blocking)
        self._observed = Observed(self._blocking)
        self._stop = asyncio.Event()
        self._ready = False
        self._exit_status = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._specifications = Specifications(self._blocking)
        self._tally = Tally()
        self._starter = Starter(
            libexec + "/nvme-ctrl-worker",
            self._spawn,
            self._specifications.write,
            self._changes.add_unit,
            self._tally.failed,
        )
        self._decisions: dict[str, Decision] = {}
        self._answers = _Answers()
        self._evidence = ("", "")
        # The plan as it is written: a row for each decision, and the rest.
        self._rows: dict[str, str] = {}
        self._written: tuple[Any, ...] = ()

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; the controllers' units live on. Returns the exit status."""
        journal.set_up("info")
        loop = asyncio.get_running_loop()
        self._notifier = Notifier()
        self._inventory = Inventory(self._specifications.known, self._changes.wake)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload()))
        try:
            wake = await self._blocking(store.prepare)
            await self._blocking(store.sweep)
            self._starter.system = await self._blocking(usage.system_subsystems)
            await self._load()
            await self._find()
        except OSError as error:
            log.error("cannot use %s: %s; free space there, or mount it writable", state.ROOT, error.strerror)
            return 1
        loop.add_reader(wake, self._woken, wake)
        inventory = self._inventory
        sources = inventory.exclusions, inventory.mdns, inventory.nbft, inventory.fibre_channel, inventory.strangers
        for source in sources:
            self._spawn(source.run())
        self._spawn(self._hold_bus())
        self._spawn(self._rounds())
        await self._stop.wait()
        self._notifier.stopping()
        await self._close()
        loop.remove_reader(wake)
        wake.close()
        return self._exit_status

    async def _find(self) -> None:
        """Take up what an earlier supervisor has left, and what was connected before the boot. Raises OSError."""
        found = await self._blocking(store.find)
        self._specifications.take_up(found.known)
        self._observed.take_up(found.reports)
        self._changes.add(found.known)
        self._inventory.remember(found.wishes, found.addresses)
        if found.known:
            # What a name stands for has a unit already; what others ask for must not get one beside it meanwhile.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NAMES_FIRST):
                    await self._inventory.names.answered()
        self._inventory.booted(await self._blocking(boot.claims, self._configuration.current.host.hostnqn))

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._inventory.names.close()
        self._files.shutdown(wait=False)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            # Ours, and not to be lived with: systemd starts the daemon anew, and it finds everything again.
            log.critical("internal error, restarting: %r", error, exc_info=error)
            self._exit_status = EXIT_SOFTWARE
            self._stop.set()

    async def _blocking(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, function, *arguments)

    # Configuration -----------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Read the configuration, and have everybody go by it."""
        policy = self._configuration.current.policy
        await self._configuration.load()
        current = self._configuration.current
        self._specifications.configure(current.settings, current.abilities)
        await self._inventory.exclusions.load()
        self._inventory.configure(current.fabrics, current.host, current.settings, unique_nqn=current.unique_nqn)
        if current.policy != policy:
            self._changes.add(self._specifications.known)
        self._changes.add(self._inventory.wanted.discovery)

    async def _reload(self) -> None:
        self._notifier.reloading()
        await self._load()
        # Who reloads wants to know what is listed now.
        for instance in self._tally.which("parked"):
            await self._hang_up(instance)
        self._notifier.ready()

    # News --------------------------------------------------------------------------------------------------

    def _woken(self, wake: Any) -> None:
        while True:
            try:
                instance = wake.recv(4096).decode("utf-8", "replace")
            except BlockingIOError:
                return
            if state.valid_instance(instance):
                self._changes.add_report(instance)

    def _signalled(self, news: unit_signals.Signal) -> None:
        if isinstance(news, unit_signals.JobRemoved):
            self._starter.job_ended(news.instance)
            self._changes.add_unit(news.instance)
            return
        if isinstance(news, unit_signals.ManagerChanged):
            self._changes.add(self._starter.masked)
            self._starter.masked.clear()
        elif isinstance(news, unit_signals.Shutdown):
            self._spawn(self._tell_shutdown(news.begun))
        self._changes.add_all_units()

    async def _tell_shutdown(self, begun: bool) -> None:
        """Tell all workers: one whose target is dead must end what waits for it, before its own turn to stop comes."""
        for instance, unit in list(self._observed.units.items()):
            units = self._starter.units
            if unit.running and units is not None:
                with contextlib.suppress(UnitError):
                    await (units.going_down(instance) if begun else units.hang_up(instance))

    async def _hold_bus(self) -> None:
        """Stay connected to systemd: signals to the loop, calls through the agent. Both go when the bus goes."""
        complained = False
        while True:
            flowing = asyncio.Event()
            agent = asyncio.create_task(self._hold_agent(flowing))
            try:
                await unit_signals.watch(self._signalled, flowing.set)
                complained = False
                log.warning("the connection to the bus ended; connecting again")
            except Exception as error:
                # The client raises all kinds; whatever it is, the answer is to try again, and to have said so once.
                if not complained:
                    why = str(error) or repr(error)
                    log.warning("cannot talk to the bus: %s; trying again every %d s", why, RECONNECT_BUS)
                complained = True
            finally:
                agent.cancel()
                await asyncio.wait([agent])
            await asyncio.sleep(RECONNECT_BUS)

    async def _hold_agent(self, flowing: asyncio.Event) -> None:
        """Keep the agent running once signals flow, and have it keep loaded what systemd has."""
        await flowing.wait()
        while True:
            try:
                units = await Units.connect(self._libexec + "/unit-agent")
                try:
                    if await self._blocking(store.new_boot, await units.soft_reboots()):
                        self._changes.add_all_reports()
                    for instance, unit in (await units.list()).items():
                        await self._keep_loaded(units, instance, unit)
                    self._starter.units = units
                    self._changes.add_all_units()
                    await units.wait_lost()
                finally:
                    self._starter.units = None
                    self._changes.wake()
                    await units.close()
                log.warning("the process that talks to systemd ended; starting another")
            except (UnitError, OSError, state.StateError) as error:
                log.warning("cannot list the controllers' units: %s", error)
            await asyncio.sleep(RECONNECT_BUS)

    async def _keep_loaded(self, units: Units, instance: str, unit: UnitFact) -> None:
        if unit.load == "loaded":
            try:
                await units.reference(instance)
            except UnitError as error:
                log.warning("%s will be unloaded when it stops: %s", instance, error, extra=about(instance))

    # Rounds ------------------------------------------------------------------------------------------------

    async def _rounds(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(READY_AFTER, self._become_ready)
        not_before = 0.0
        while True:
            await self._changes.wait()
            await asyncio.sleep(max(SETTLE, not_before - loop.time()))
            began = loop.time()
            await self._round()
            self._show()
            if self._settled():
                self._become_ready()
            ended = loop.time()
            not_before = ended + min(SETTLE_MAX, 4 * (ended - began))

    async def _round(self) -> None:
        """Observe what has changed, decide about it, and do what is to be done."""
        # Those that were there before the news were taken: what a new connection brings with it is in the next ones.
        units, news = self._starter.units, self._changes.take()
        touched = dict.fromkeys(news.instances)
        for instance in list(self._observed.reports) if news.reports is None else news.reports:
            touched[instance] = None
            await self._take_report(instance)
        touched |= await self._take_stock()
        if units is None or units is not self._starter.units:
            self._changes.put_back(touched, news.units)
        else:
            try:
                touched |= await self._take_units(units, news.units)
                await self._decide(touched)
            except UnitError as error:
                log.warning("systemd: %s", error)
                self._changes.put_back(touched, None)
                asyncio.get_running_loop().call_later(RETRY_SYSTEMD, self._changes.wake)
        self._starter.go(self._configuration.current.settings.max_connecting)

    def _settled(self) -> bool:
        """Tell whether each first attempt has ended, also of what the discovery controllers that answered list."""
        if self._changes.undecided or not self._starter.idle or self._starter.units is None:
            return False
        pages = self._inventory.log_pages
        return all(one in pages or self._tally.state(one) != "live" for one in self._inventory.wanted.discovery)

    def _become_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._notifier.ready()

    async def _take_report(self, instance: str) -> None:
        """Take all that a worker may have written."""
        await self._read_report(instance)
        await self._read_page(instance)
        if instance in self._inventory.wanted.discovery and (units := await self._observed.take_confirmation(instance)):
            self._inventory.confirm(instance, units)

    async def _take_stock(self) -> dict[str, None]:
        """Bring the inventory up to date, with the log pages of the discovery controllers that this brings in."""
        touched: dict[str, None] = {}
        while more := self._inventory.update():
            touched |= more
            for instance in more:
                await self._read_page(instance)
        return touched

    async def _take_units(self, units: Units, stale: frozenset[str] | None) -> dict[str, None]:
        """Ask systemd for what may have changed; return what has. Raises UnitError."""
        changed = await self._observed.read_units(units, stale)
        for instance in changed:
            unit = self._observed.units.get(instance)
            if unit is not None and not unit.running:
                # A worker reports before its unit is inactive, so its last word is there, even if its wake-up was lost.
                await self._read_report(instance)
        return dict.fromkeys(changed)

    async def _read_report(self, instance: str) -> None:
        before = self._observed.reports.get(instance)
        report = await self._observed.read_report(instance)
        if report is None:
            return
        self._inventory.reported(instance, before, report)
        if decision := self._decisions.get(instance):
            # At once: the next decision may have to wait for systemd.
            self._tally.count(instance, self._state_of(decision))

    async def _read_page(self, instance: str) -> None:
        """Read a discovery controller's log page if its worker has a new one."""
        if instance not in self._inventory.wanted.discovery:
            return
        report = self._observed.reports.get(instance)
        if self._inventory.log_pages.news(instance, report.log_read if report else ""):
            page = await self._observed.read_page(instance)
            if page is not None:
                self._inventory.put_page(instance, page)

    # Decisions ---------------------------------------------------------------------------------------------

    def _facts(self, touched: dict[str, None]) -> Facts:
        """Return what is known, and add to ``touched`` what an answer has changed for."""
        inventory = self._inventory
        touched |= dict.fromkeys(self._answered_otherwise())
        answer, doubt = evidence = inventory.evidence(self._observed.reports)
        if evidence != self._evidence:
            self._evidence = evidence
            strangers = [one for one, known in self._specifications.known.items() if known.origin == OTHERS]
            touched |= dict.fromkeys([*inventory.unasked, *strangers])
        return Facts(
            inventory.wanted.asked,
            self._observed.units_and(self._starter.masked),
            self._observed.reports,
            self._specifications.known,
            {**inventory.complete, OTHERS: Answer(answer)} if answer else inventory.complete,
            {**inventory.log_pages.doubts, OTHERS: doubt},
            inventory.excluded,
            self._configuration.current.policy,
            inventory.unasked,
            inventory.wanted.targets,
            inventory.log_pages.pending,
            inventory.log_pages.closed,
            inventory.held_back,
            inventory.confirming,
        )

    def _answered_otherwise(self) -> set[str]:
        """Return the instances about which an origin says something else than at the last call."""
        inventory = self._inventory
        pages = inventory.log_pages
        now = _Answers(
            inventory.complete, pages.doubts, pages.pending, pages.closed, inventory.held_back, inventory.confirming
        )
        before, self._answers = self._answers, now
        origins = before.complete.keys() ^ now.complete.keys()
        origins |= {one for one in now.doubts if now.doubts[one] != before.doubts.get(one)}
        changed = set(before.closed ^ now.closed)
        origins |= changed
        changed |= before.confirming ^ now.confirming
        changed |= {
            one
            for one, known in self._specifications.known.items()
            if origins and not origins.isdisjoint(known.referrers)
        }
        for origin in now.complete.keys() & before.complete.keys():
            changed |= (now.complete[origin].absent or frozenset()) ^ (before.complete[origin].absent or frozenset())
            changed |= _differing(before.pending.get(origin, {}), now.pending.get(origin, {}))
        held = _differing(before.held_back, now.held_back)
        for instance in sorted(held):
            then_held, held_now = before.held_back.get(instance), now.held_back.get(instance)
            # How many they are may change with each reading.
            if held_now and (then_held is None or then_held.wait is not held_now.wait):
                log.warning("%s: %s", instance, confirmable(instance, held_now.text), extra=about(instance))
        return changed | held

    async def _decide(self, touched: dict[str, None]) -> None:
        """Look at each controller about which there is news, and do what is to be done about it."""
        facts = self._facts(touched)
        for decision in plan(facts, touched):
            del touched[decision.instance]
            await self._apply(decision)
        for instance in touched:
            self._drop(instance)
        await self._write_plan()

    async def _apply(self, decision: Decision) -> None:
        instance = decision.instance
        before = self._decisions.get(instance)
        if before != decision:
            self._say(decision, before)
            self._decisions[instance] = decision
            self._rows[instance] = store.plan_row(decision)
        if decision.action is Action.START or (decision.action is Action.HOLD and instance not in self._observed.units):
            self._starter.want(decision)
        else:
            self._starter.drop(instance)
            if decision.action is Action.KEEP:
                await self._update(decision)
                report = self._observed.reports.get(instance)
                if report is not None and report.state in ENDED:
                    # It ends without a job, so systemd has no signal for it.
                    asyncio.get_running_loop().call_later(LAST_WORD, self._changes.add_unit, instance)
            elif decision.note and instance not in self._starter:
                await self._forget(instance)
        self._tally.count(instance, self._state_of(decision))

    def _drop(self, instance: str) -> None:
        """Forget a controller that is not wanted, has no unit, and left no state."""
        if self._decisions.pop(instance, None):
            del self._rows[instance]
            self._starter.drop(instance)
        self._observed.forget_report(instance)
        self._tally.count(instance, "")

    def _say(self, decision: Decision, before: Decision | None) -> None:
        if before is not None and (before.action, before.reason) == (decision.action, decision.reason):
            return
        text = {
            Action.START: "starting %s: it is %s",
            Action.KEEP: "keeping %s: it is %s",
            Action.HOLD: "not starting %s: it is %s",
            Action.LEAVE: "leaving %s alone: it is %s",
        }[decision.action]
        quiet = decision.action is Action.KEEP and not decision.note
        level = logging.DEBUG if quiet else logging.INFO
        log.log(
            level,
            text,
            decision.instance,
            decision.reason,
            extra=about(decision.instance, decision.candidate),
        )

    async def _write_plan(self) -> None:
        inventory = self._inventory
        waiting = {one: sorted(units) for one, units in inventory.log_pages.waiting.items()}
        plan = (inventory.refusals, self._configuration.current.complaints, list(self._rows.values()), waiting)
        if plan != self._written:
            try:
                await self._blocking(store.write_plan, plan[2], plan[0], plan[1], waiting)
            except state.StateError as error:
                self._tally.failed("", f"discoverctl will show old decisions: {error}")
            else:
                self._tally.failed("", "")
                self._written = plan

    async def _update(self, decision: Decision) -> None:
        """Bring the specification of a running worker up to date; it uses it when it connects the next time."""
        instance = decision.instance
        try:
            if decision.candidate is not None:
                before = self._specifications.asked(instance)
                written = await self._specifications.write(decision)
                if before is not None and before + HURRY <= decision.candidate.asked:
                    # It was announced again, and who waits for the next attempt need not. A log page that changes all
                    # the time must not have hundreds of workers try all the time.
                    written = written or self._tally.state(instance) in ("waiting", "parked")
            elif decision.note:
                written = await self._specifications.withdraw(decision)
            elif instance in self._specifications.known:
                await self._specifications.attribute(decision)
                if self._specifications.known[instance].origin in self._inventory.wanted.asked:
                    return
                written = await self._specifications.limit(instance, self._configuration.current.settings.give_up)
            else:
                return
            if written:
                await self._hang_up(instance)
        except state.StateError as error:
            self._tally.failed(instance, f"cannot tell the worker of {instance}: {error}")
        else:
            self._tally.failed(instance, "")

    async def _hang_up(self, instance: str) -> None:
        try:
            if self._starter.units is not None:
                await self._starter.units.hang_up(instance)
        except UnitError as error:
            # Between two processes there is none to tell, and the next one reads its specification anyway.
            log.debug("%s was not told: %s", instance, error, extra=about(instance))

    async def _forget(self, instance: str) -> None:
        """Sweep the state of what nobody asks for and nobody runs, unless it tells that an administrator stopped it."""
        report = self._observed.reports.get(instance)
        if instance not in self._specifications.known or (report is not None and report.state == "stopped"):
            return
        if report is not None and report.state in ENDED:
            self._inventory.strangers.forget(instance)
        await self._specifications.forget(instance)
        self._observed.forget_report(instance)
        self._tally.failed(instance, "")
        self._starter.forget(instance)
        self._inventory.log_pages.forget(instance)
        self._changes.add(one for one, known in self._specifications.known.items() if known.origin == instance)
        if instance in self._observed.units and self._starter.units is not None:
            # Nothing keeps it loaded: asked for again, it does not look as if an administrator had stopped it.
            with contextlib.suppress(UnitError):
                await self._starter.units.release(instance)
        self._changes.add_unit(instance)

    # Status ------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        self._notifier.status(self._tally.line(self._starter.units is not None, self._problems()))

    def _problems(self) -> list[str]:
        """Return what is wrong with what we were given, the configuration first."""
        lists = self._inventory.exclusions.exclusions
        problems = [str(one) for one in self._configuration.current.complaints if one.severity == "error"]
        problems += [f"{file}:{line}: {what}" if line else f"{file}: {what}" for file, line, what in lists.problems]
        problems += [f"{one}: {confirmable(one, held.text)}" for one, held in self._inventory.held_back.items()]
        return problems + [f"{one.what} ({one.source}): {one.reason}" for one in self._inventory.refusals]

    def _state_of(self, decision: Decision) -> str:
        if decision.action is Action.LEAVE:
            return "excluded" if decision.instance in self._inventory.excluded else "left alone"
        if decision.action is Action.HOLD:
            return "stopped"
        report = self._observed.reports.get(decision.instance)
        unit = self._observed.units.get(decision.instance)
        if report is None or unit is None or not unit.running:
            return "starting"
        return "left alone" if report.state == "foreign" else report.state


def _differing(one: Mapping[str, object], other: Mapping[str, object]) -> set[str]:
    """Return the keys that do not have the same in both."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
