# SPDX-License-Identifier: Apache-2.0
"""The loop that joins sources, planner and units.

It makes no blocking call: files are read and written in a thread, systemd is asked through the unit agent's
process. It keeps nothing that it cannot find again in configuration, systemd and /run/discoverd, so it may
be killed at any moment.
"""

import asyncio
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from discoverd import journal, state, store
from discoverd.bus import unit_signals
from discoverd.candidate import CONFIGURATION, Candidate, Refusal
from discoverd.config.errors import Diagnostic
from discoverd.config.fabrics import load_fabrics
from discoverd.config.identity import HostIdentity, load_host_identity
from discoverd.config.model import FabricsConfig
from discoverd.config.settings import SETTINGS_CONF, Settings, load_settings
from discoverd.kernel import usage
from discoverd.notifier import Notifier
from discoverd.planner import Action, Decision, Facts, Known, Report, UnitFact, plan
from discoverd.sources.configured import Configured, configured, host_names
from discoverd.sources.discovery_log import LogPageError
from discoverd.sources.log_pages import LogPages
from discoverd.sources.names import Names
from discoverd.unit_properties import journal_fields, unit_properties, unless_exists
from discoverd.units import UnitError, Units

log = logging.getLogger("discoverd")
T = TypeVar("T")

# News come in bursts; a round waits this long (seconds) for the rest of one, or four times as long as the last took,
# so that a storm costs a fifth of a processor at most.
SETTLE = 0.05
SETTLE_MAX = 1.0
# A first attempt that takes longer gives its place to the next controller, and goes on.
FIRST_ATTEMPT = 10
RECONNECT_BUS = 1
# Mounts that need a network wait for the first attempts, but no longer than this.
READY_AFTER = 30
RETRY_START = 5
# The end of a job is heard of within this many seconds.
HOLD_NEWS = 1
EXIT_SOFTWARE = 70
# Refusals that are logged at once; a hostile log page has thousands.
REFUSALS_SAID = 20


def fair(decisions: tuple[Decision, ...], served: Mapping[str, float]) -> list[Decision]:
    """Return the decisions in an order in which no origin's many candidates keep those of another waiting.

    Configured ones come first, then the first of each discovery controller, then the second of each, and so on. Those
    that ``served`` says had a turn longest ago come first among them: there may be room for one only.
    """
    ranks: Counter[str] = Counter()

    def place(decision: Decision) -> tuple[int, float]:
        candidate = decision.candidate
        if candidate is None or candidate.configured or decision.action is not Action.START:
            return 0, 0
        ranks[candidate.origin] += 1
        return ranks[candidate.origin], served.get(candidate.origin, 0)

    placed = [(place(decision), decision) for decision in decisions]
    return [decision for _, decision in sorted(placed, key=lambda pair: pair[0])]


class Supervisor:
    """The daemon. ``libexec`` is the directory of the launchers of workers and unit agent."""

    def __init__(self, libexec: str) -> None:
        self._libexec = libexec
        self._files = ThreadPoolExecutor(1, "files")
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._ready = False
        self._exit_status = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._units: Units | None = None
        self._units_stale = True
        self._config = FabricsConfig()
        self._host = HostIdentity("", "")
        self._settings = Settings()
        self._complaints: tuple[Diagnostic, ...] = ()
        self._configured = Configured((), {}, (), whole=False)
        self._refusals: tuple[Refusal, ...] = ()
        self._unit_facts: dict[str, UnitFact] = {}
        self._reports: dict[str, Report] = {}
        self._unread_reports: set[str] = set()
        self._known: dict[str, Known] = {}
        self._log_pages = LogPages()
        self._decisions: dict[str, Decision] = {}
        # What the specifications on disk were made from.
        self._specs: dict[str, Candidate] = {}
        self._starting: dict[str, asyncio.Event] = {}
        # Units that are made without running, and how many jobs for them have ended meanwhile.
        self._holding: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        # When one of an origin's controllers was started last.
        self._served: dict[str, float] = {}
        self._refusals_said: set[Refusal] = set()
        # Why a unit could not be started, or its worker not be told, when it was tried last.
        self._failures: dict[str, str] = {}
        # systemd lists a masked unit only while it is loaded, so what a start has shown is kept until it reloads.
        self._masked: set[str] = set()
        # The NQNs of what the system itself runs from; known before anything else is connected.
        self._system: set[str] = set()
        self._written: tuple[Any, ...] = ()

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; the controllers' units live on. Returns the exit status."""
        journal.set_up("info")
        loop = asyncio.get_running_loop()
        self._notifier = Notifier()
        self._names = Names(self._configuration_changed)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload()))
        try:
            wake = await self._blocking(store.prepare)
            await self._blocking(store.sweep)
            found = await self._blocking(store.find)
            self._system = await self._blocking(usage.system_subsystems)
        except OSError as error:
            log.error("cannot use %s: %s; free space there, or mount it writable", state.ROOT, error.strerror)
            return 1
        self._known, self._reports = found.known, found.reports
        loop.add_reader(wake, self._woken, wake)
        await self._load()
        self._spawn(self._hold_bus())
        self._spawn(self._rounds())
        await self._stop.wait()
        self._notifier.stopping()
        await self._close()
        loop.remove_reader(wake)
        wake.close()
        return self._exit_status

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._names.close()
        self._files.shutdown(wait=False)

    def _spawn(self, coroutine: Any) -> None:
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
        config = await self._blocking(load_fabrics)
        self._settings, complaints = await self._blocking(load_settings, SETTINGS_CONF, self._settings)
        host = await self._blocking(load_host_identity)
        self._complaints = (*config.diagnostics, *complaints, *host.diagnostics)
        if config.valid or not self._config.valid or not self._config.connections:
            self._config = config
        else:
            log.error("the fabrics configuration has errors: keeping the one from before")
        if host.hostnqn or not self._host.hostnqn:
            self._host = host
        journal.set_up(self._settings.log_level)
        for complaint in self._complaints:
            log.log(logging.ERROR if complaint.severity == "error" else logging.WARNING, "%s", complaint)
        self._refusals_said.clear()
        self._names.want(host_names(self._config))
        self._configuration_changed()

    async def _reload(self) -> None:
        self._notifier.reloading()
        await self._load()
        self._notifier.ready()

    def _configuration_changed(self) -> None:
        self._configured = configured(self._config, self._host, self._names.address)
        self._changed.set()

    # News --------------------------------------------------------------------------------------------------

    def _woken(self, wake: Any) -> None:
        while True:
            try:
                instance = wake.recv(4096).decode("utf-8", "replace")
            except BlockingIOError:
                return
            if instance.isprintable() and instance and "/" not in instance and not instance.startswith("."):
                self._unread_reports.add(instance)
                self._changed.set()

    def _signalled(self, news: unit_signals.Signal) -> None:
        if isinstance(news, unit_signals.JobRemoved):
            if news.instance in self._holding:
                self._holding[news.instance] += 1
            if news.instance in self._starting:
                self._starting[news.instance].set()
        elif isinstance(news, unit_signals.ManagerChanged):
            self._masked.clear()
        elif isinstance(news, unit_signals.Shutdown):
            self._spawn(self._tell_shutdown(news.begun))
        self._units_stale = True
        self._changed.set()

    async def _tell_shutdown(self, begun: bool) -> None:
        """Tell all workers: one whose target is dead must end what waits for it, before its own turn to stop comes."""
        for instance, unit in self._unit_facts.items():
            if unit.running and self._units is not None:
                with contextlib.suppress(UnitError):
                    await (self._units.going_down(instance) if begun else self._units.hang_up(instance))

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
                        self._reports.clear()
                    self._unit_facts = await units.list()
                    for instance, unit in self._unit_facts.items():
                        await self._keep_loaded(units, instance, unit)
                    self._units = units
                    self._units_stale = True
                    self._changed.set()
                    await units.wait_lost()
                finally:
                    self._units = None
                    self._changed.set()
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
                log.warning("%s will be unloaded when it stops: %s", instance, error, extra=_about(instance))

    # Rounds ------------------------------------------------------------------------------------------------

    async def _rounds(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(READY_AFTER, self._become_ready)
        took = 0.0
        while True:
            await self._changed.wait()
            await asyncio.sleep(min(SETTLE_MAX, max(SETTLE, 4 * took)))
            self._changed.clear()
            began = loop.time()
            await self._read_reports()
            if self._units is None:
                self._show()
                continue
            try:
                if self._units_stale:
                    self._units_stale = False
                    self._unit_facts = await self._units.list()
                    await self._read_ended()
                await self._apply(plan(self._facts()))
            except UnitError as error:
                log.warning("systemd: %s", error)
                self._units_stale = True
                loop.call_later(RETRY_START, self._changed.set)
            self._show()
            if self._settled():
                self._become_ready()
            took = loop.time() - began

    def _settled(self) -> bool:
        """Tell whether each first attempt has ended, also of what the discovery controllers that answered list."""
        for instance in self._configured.discovery:
            decision = self._decisions.get(instance)
            if decision is None or (instance not in self._log_pages and self._state_of(decision) == "live"):
                return False
        return not self._starting

    def _become_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._notifier.ready()

    async def _read_reports(self) -> None:
        instances, self._unread_reports = self._unread_reports, set()
        for instance in instances:
            report = await self._blocking(store.read_report, instance)
            if report is None:
                self._reports.pop(instance, None)
                continue
            self._reports[instance] = report
        for instance in self._configured.discovery:
            report = self._reports.get(instance)
            if self._log_pages.news(instance, report.log_read if report else ""):
                await self._read_log(instance)

    async def _read_ended(self) -> None:
        """Read what the workers of units that do not run have said last.

        A worker reports before its unit is inactive, so after the list its word is there, even if its wake-up was lost.
        """
        for instance, unit in self._unit_facts.items():
            if not unit.running:
                report = await self._blocking(store.read_report, instance)
                if report is not None:
                    self._reports[instance] = report

    async def _read_log(self, instance: str) -> None:
        try:
            page = await self._blocking(store.read_log, instance)
        except LogPageError as error:
            log.warning("%s: its log page is not used: %s", instance, error, extra=_about(instance))
            return
        if page is not None:
            self._log_pages.put(instance, page)

    def _facts(self) -> Facts:
        found = self._log_pages.candidates(self._configured, self._config, self._host, self._known)
        self._refusals = (*self._configured.refusals, *found.refusals)
        self._say_refusals()
        complete = found.complete | ({CONFIGURATION} if self._configured.whole else set())
        units = self._unit_facts | {instance: UnitFact("masked", "inactive") for instance in self._masked}
        candidates = (*self._configured.candidates, *found.candidates)
        return Facts(candidates, units, self._reports, self._known, complete)

    def _say_refusals(self) -> None:
        news = [refusal for refusal in self._refusals if refusal not in self._refusals_said]
        self._refusals_said = set(self._refusals)
        for refusal in news[:REFUSALS_SAID]:
            log.warning("%s (%s): %s", refusal.what, refusal.source, refusal.reason)
        if news[REFUSALS_SAID:]:
            log.warning("and %d more that cannot be connected", len(news) - REFUSALS_SAID)

    async def _apply(self, decisions: tuple[Decision, ...]) -> None:
        now = asyncio.get_running_loop().time()
        for decision in fair(decisions, self._served):
            instance = decision.instance
            self._say(decision)
            if instance in self._starting:
                continue
            due = self._not_before.get(instance, 0) <= now
            if decision.action is Action.START:
                if due and len(self._starting) < self._settings.max_connecting:
                    self._begin(decision)
            elif decision.action is Action.HOLD:
                if due and instance not in self._unit_facts:
                    self._begin(decision, held=True)
            elif decision.action is Action.KEEP:
                await self._update(decision)
            elif decision.note:
                await self._forget(instance)
        self._decisions = {decision.instance: decision for decision in decisions}
        await self._write_plan(decisions)

    async def _write_plan(self, decisions: tuple[Decision, ...]) -> None:
        plan = (decisions, self._refusals, self._complaints)
        if plan != self._written:
            try:
                await self._blocking(store.write_plan, *plan)
            except state.StateError as error:
                self._failed("", f"discoverctl will show old decisions: {error}")
            else:
                self._failures.pop("", None)
                self._written = plan

    def _say(self, decision: Decision) -> None:
        before = self._decisions.get(decision.instance)
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
            extra=_about(decision.instance, decision.candidate),
        )

    def _begin(self, decision: Decision, held: bool = False) -> None:
        self._starting[decision.instance] = asyncio.Event()
        self._spawn(self._start(decision, held))

    async def _start(self, decision: Decision, held: bool) -> None:
        """Make or start a unit, and wait for the end of its first attempt, within bounds."""
        instance, candidate = decision.instance, decision.candidate
        assert candidate is not None  # noqa: S101  # Only what a source asks for is started.
        ended = self._starting[instance]
        self._served[candidate.origin] = asyncio.get_running_loop().time()
        try:
            await self._write_spec(candidate)
            if self._units is None:
                raise UnitError("not connected to systemd")
            worker = self._libexec + "/nvme-ctrl-worker"
            system = candidate.tid.subsysnqn in self._system
            properties = unit_properties(candidate.tid, candidate.role, worker, system)
            if held:
                # There is no way to make a unit and not start it; with this the start does nothing.
                properties.append(unless_exists(await self._blocking(store.hold, instance)))
                self._holding[instance] = 0
            result = await self._units.start(instance, properties)
            self._failures.pop(instance, None)
            if result == "masked":
                self._masked.add(instance)
            elif result == "started":
                await asyncio.wait_for(ended.wait(), FIRST_ATTEMPT)
        except TimeoutError:
            pass  # It goes on; only its place is free for the next one.
        except (UnitError, state.StateError) as error:
            self._failed(instance, f"cannot start {instance}: {error}")
            self._postpone(instance)
        finally:
            if held:
                await self._release(instance)
            del self._starting[instance]
            self._units_stale = True
            self._changed.set()

    async def _release(self, instance: str) -> None:
        """Let a unit that was made without running be started, also by who has asked for it just now, in vain."""
        try:
            await self._blocking(store.release, instance)
        except OSError as error:
            self._failed(instance, f"{instance} cannot be started: {error.strerror}: {error.filename}")
        self._spawn(self._start_if_asked(instance))

    async def _start_if_asked(self, instance: str) -> None:
        await asyncio.sleep(HOLD_NEWS)
        # One job was ours.
        if self._holding.pop(instance, 0) > 1 and self._units is not None:
            log.info("starting %s: an administrator asked for it", instance, extra=_about(instance))
            try:
                await self._units.start(instance, [])
            except UnitError as error:
                self._failed(instance, f"cannot start {instance}: {error}")

    def _postpone(self, instance: str) -> None:
        loop = asyncio.get_running_loop()
        self._not_before[instance] = loop.time() + RETRY_START
        loop.call_later(RETRY_START, self._changed.set)

    async def _update(self, decision: Decision) -> None:
        """Bring the specification of a running worker up to date; it uses it when it connects the next time."""
        instance, candidate = decision.instance, decision.candidate
        try:
            if candidate is not None:
                if await self._write_spec(candidate):
                    await self._hang_up(instance)
            elif decision.note:
                spec = await self._blocking(store.read_spec, instance)
                if spec is not None and spec.note != decision.note:
                    spec.note = decision.note
                    # Asked for again, it is written again: the note must go.
                    self._specs.pop(instance, None)
                    await self._blocking(store.write_spec, instance, spec)
                    await self._hang_up(instance)
        except state.StateError as error:
            self._failed(instance, f"cannot tell the worker of {instance}: {error}")
        else:
            self._failures.pop(instance, None)

    async def _hang_up(self, instance: str) -> None:
        try:
            if self._units is not None:
                await self._units.hang_up(instance)
        except UnitError as error:
            # Between two processes there is none to tell, and the next one reads its specification anyway.
            log.debug("%s was not told: %s", instance, error, extra=_about(instance))

    async def _forget(self, instance: str) -> None:
        """Sweep the state of what nobody asks for and nobody runs, unless it tells that an administrator stopped it."""
        report = self._reports.get(instance)
        if report is None or report.state != "stopped":
            await self._blocking(store.forget, instance)
            self._known.pop(instance, None)
            self._reports.pop(instance, None)
            self._specs.pop(instance, None)
            self._failures.pop(instance, None)
            self._changed.set()

    def _failed(self, instance: str, why: str) -> None:
        if self._failures.get(instance) != why:
            self._failures[instance] = why
            log.error("%s", why, extra=_about(instance))

    async def _write_spec(self, candidate: Candidate) -> bool:
        instance = candidate.tid.instance
        if self._specs.get(instance) is candidate:
            return False
        spec = state.Spec(candidate.role, list(candidate.options))
        spec.source, spec.origin = candidate.source, candidate.origin
        written: bool = await self._blocking(store.write_spec, instance, spec)
        self._specs[instance] = candidate
        self._known[instance] = Known(candidate.source, candidate.origin)
        return written

    # Status ------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        self._notifier.status(self._status())

    def _status(self) -> str:
        """Return one line: how many controllers in which state, and what is wrong with what we were given."""
        states = Counter(self._state_of(decision) for decision in self._decisions.values())
        total = sum(states.values())
        order = ("live", "reconnecting", "connecting", "waiting", "starting", "stopped", "left alone")
        counts = ", ".join(f"{states[name]} {name}" for name in order if states[name])
        text = f"{total} controller{'' if total == 1 else 's'}" + (f": {counts}" if counts else "")
        if self._units is None:
            text += "; not connected to systemd, trying again"
        errors = [str(one) for one in self._complaints if one.severity == "error"]
        problems = errors + [f"{one.what} ({one.source}): {one.reason}" for one in self._refusals]
        problems += [why for instance, why in self._failures.items() if not instance or instance in self._decisions]
        if problems:
            text += f"; {problems[0]}" + (f" (and {len(problems) - 1} more, see the journal)" if problems[1:] else "")
        return text

    def _state_of(self, decision: Decision) -> str:
        if decision.action is Action.LEAVE:
            return "left alone"
        if decision.action is Action.HOLD:
            return "stopped"
        report = self._reports.get(decision.instance)
        unit = self._unit_facts.get(decision.instance)
        if report is None or unit is None or not unit.running:
            return "starting"
        return "left alone" if report.state == "foreign" else report.state


def _about(instance: str, candidate: Candidate | None = None) -> dict[str, dict[str, str]]:
    """Return the journal fields that name a controller."""
    if candidate is None:
        return {"fields": {"NVME_CTRL": instance}}
    return {"fields": dict(field.split("=", 1) for field in journal_fields(candidate.tid))}
