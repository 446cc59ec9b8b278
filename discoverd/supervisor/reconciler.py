# SPDX-License-Identifier: Apache-2.0
"""A round: observe what has changed, have the planner decide about it, and do what was decided.

News of one controller has only that one looked at, however many there are.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from discoverd import state
from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.candidate import UNMANAGED
from discoverd.plan.facts import Action, Answer, Decision, Facts
from discoverd.plan.planner import confirmable, plan, trusted_subsystems
from discoverd.sources.walk import DEPTH
from discoverd.supervisor.answers import Answers
from discoverd.supervisor.changes import Changes
from discoverd.supervisor.configuration import Configuration
from discoverd.supervisor.connection import Connection
from discoverd.supervisor.fields import about
from discoverd.supervisor.inventory import Inventory
from discoverd.supervisor.loop_turn import LoopTurn
from discoverd.supervisor.observed import Observed
from discoverd.supervisor.plan_file import PlanFile
from discoverd.supervisor.specifications import Specifications
from discoverd.supervisor.starter import Starter
from discoverd.supervisor.status_line import BLOCKED, LEFT_ALONE, STARTING, Tally
from discoverd.systemd.units import UnitError, Units

log = logging.getLogger("discoverd")

SYSTEMD_RETRY_SECONDS = 5
# News of what was asked for less than so many seconds ago are not worth an attempt out of turn: workers wait no longer.
NEWS_INTERVAL_SECONDS = 8
# A worker's last report comes so long before its unit is inactive, or longer.
LAST_REPORT_DELAY_SECONDS = 1


class Reconciler:
    """``decisions`` is a view of what was decided last, by instance.

    Besides these, and what origins said when it was looked at last, it keeps nothing: what it has are the owners of the
    rest, and there are many because here everything comes together.
    """

    def __init__(
        self,
        changes: Changes,
        connection: Connection,
        observed: Observed,
        configuration: Configuration,
        specifications: Specifications,
        inventory: Inventory,
        starter: Starter,
        tally: Tally,
        plan_file: PlanFile,
    ) -> None:
        self._changes = changes
        self._connection = connection
        self._observed = observed
        self._configuration = configuration
        self._specifications = specifications
        self._inventory = inventory
        self._starter = starter
        self._tally = tally
        self._plan_file = plan_file
        self._decisions: dict[str, Decision] = {}
        self.decisions: Mapping[str, Decision] = MappingProxyType(self._decisions)
        self._answers = Answers()

    async def round(self) -> None:
        """Observe what has changed, decide about it, and do what is to be done."""
        # Those that were there before the news were taken: what a new connection brings with it is in the next ones.
        units, news = self._connection.units, self._changes.take()
        self._starter.pause()
        touched = dict.fromkeys(news.instances)
        for instance in self._everyone() if news.reports is None else news.reports:
            touched[instance] = None
            await self._take_report(instance)
        touched |= await self._take_stock()
        if units is None or units is not self._connection.units:
            self._changes.put_back(touched, news.units)
        else:
            try:
                touched |= await self._take_units(units, news.units)
            except UnitError as error:
                log.warning("systemd: %s", error)
                self._changes.put_back(touched, None)
                asyncio.get_running_loop().call_later(SYSTEMD_RETRY_SECONDS, self._changes.wake)
            else:
                await self._decide(touched)
            self._starter.go(self._configuration.current.settings.max_connecting)

    def _everyone(self) -> Iterable[str]:
        """Return all that may have reported: also those that nothing was read of yet."""
        return dict.fromkeys(self._observed.reports) | dict.fromkeys(self._specifications.known)

    @property
    def settled(self) -> bool:
        """Tell whether each first attempt has ended, also of what the discovery controllers that answered list."""
        if self._changes.undecided or not self._starter.idle or self._connection.units is None:
            return False
        pages = self._inventory.log_pages
        return all(one in pages or self._tally.state(one) != state.LIVE for one in self._inventory.wanted.discovery)

    async def _take_report(self, instance: str) -> None:
        """Take all that a worker may have written."""
        await self._read_report(instance)
        await self._read_page(instance)
        if instance in self._inventory.wanted.discovery and (units := await self._observed.take_confirmation(instance)):
            self._inventory.confirm(instance, units)

    async def _take_stock(self) -> dict[str, None]:
        """Bring the inventory up to date, with the log pages of the discovery controllers that this brings in.

        Those are along a chain of referrals. What comes new all the time is for the next round.
        """
        touched: dict[str, None] = {}
        for _ in range(DEPTH + 2):
            more = await self._inventory.update()
            touched |= more
            if not [instance for instance in more if await self._read_page(instance)]:
                break
        return touched

    async def _take_units(self, units: Units, stale: frozenset[str] | None) -> dict[str, None]:
        """Ask systemd for what may have changed; return what has. Raises UnitError."""
        changed = await self._observed.read_units(units, stale)
        if stale != frozenset() and await self._observed.read_fragments():
            changed = list(dict.fromkeys([*changed, *self._decisions]))
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
        if report.state == state.LIVE:
            self._starter.connected(instance)
        if decision := self._decisions.get(instance):
            # At once: the next decision may have to wait for systemd.
            self._tally.count(instance, self._state_of(decision))

    async def _read_page(self, instance: str) -> bool:
        """Read a discovery controller's log page if its worker has a new one; tell whether there was one."""
        if instance not in self._inventory.wanted.discovery:
            return False
        report = self._observed.reports.get(instance)
        if self._inventory.log_pages.news(instance, report.log_read if report else ""):
            page = await self._observed.read_page(instance)
            if page is not None:
                self._inventory.put_page(instance, page)
                return True
        return False

    def _facts(self, touched: dict[str, None]) -> Facts:
        """Return what is known, and add to ``touched`` what an answer has changed for."""
        inventory = self._inventory
        known, reports = self._specifications.known, self._observed.reports
        touched |= dict.fromkeys(self._answers.take(inventory, reports, known))
        answer, inconclusive = self._answers.evidence
        asked = inventory.wanted.asked
        return Facts(
            asked,
            self._observed.units_and(self._starter.masked),
            reports,
            known,
            {**inventory.authoritative, UNMANAGED: Answer(answer)} if answer else inventory.authoritative,
            {**inventory.log_pages.inconclusive, UNMANAGED: inconclusive},
            inventory.excluded,
            self._configuration.current.policy,
            inventory.unmanaged,
            inventory.wanted.targets,
            inventory.wanted.trusted_targets,
            inventory.log_pages.pending,
            inventory.log_pages.closed,
            inventory.held_back,
            inventory.confirming,
            trusted_subsystems(asked, known, inventory.wanted.trusted_subsystems),
            self._observed.fragments.paths,
            self._observed.fragments.made,
        )

    async def _decide(self, touched: dict[str, None]) -> None:
        """Look at each controller about which there is news, and do what is to be done about it."""
        turn = LoopTurn()
        facts = self._facts(touched)
        decisions: list[Decision] = []
        for instance in touched:
            decisions += plan(facts, [instance])
            await turn.end_if_long()
        for decision in decisions:
            del touched[decision.instance]
            await self._apply(decision)
            await turn.end_if_long()
        for instance in touched:
            self._drop(instance)
        await self._write_plan()

    async def _apply(self, decision: Decision) -> None:
        instance = decision.instance
        before = self._decisions.get(instance)
        if before != decision:
            self._say(decision, before)
            self._decisions[instance] = decision
            self._plan_file.put(decision)
        if decision.action is Action.START or (
            decision.action is Action.KEEP_STOPPED and instance not in self._observed.units
        ):
            self._starter.want(decision)
        else:
            self._starter.drop(instance)
            if decision.action is Action.LEAVE or decision.candidate is None:
                self._inventory.left(instance)
            if decision.action is Action.KEEP:
                await self._update(decision)
                report = self._observed.reports.get(instance)
                if report is not None and report.state in state.ENDED:
                    # It ends without a job, so systemd has no signal for it.
                    asyncio.get_running_loop().call_later(LAST_REPORT_DELAY_SECONDS, self._changes.add_unit, instance)
            elif decision.note and instance not in self._starter:
                await self._forget(instance)
        self._tally.count(instance, self._state_of(decision))

    def _drop(self, instance: str) -> None:
        """Forget a controller that is not wanted, has no unit, and left no state."""
        if self._decisions.pop(instance, None):
            self._plan_file.drop(instance)
            self._starter.drop(instance)
        self._observed.forget_report(instance)
        self._tally.count(instance, "")

    def _say(self, decision: Decision, before: Decision | None) -> None:
        if before is not None and (before.action, before.reason) == (decision.action, decision.reason):
            return
        text = {
            Action.START: "starting %s: it is %s",
            Action.KEEP: "keeping %s: it is %s",
            Action.KEEP_STOPPED: "not starting %s: it is %s",
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
        current = self._configuration.current
        try:
            await self._plan_file.write(
                inventory.refusals, current.complaints, inventory.log_pages.waiting, current.kept
            )
        except state.StateError as error:
            self._tally.failed("", f"discoverctl will show old decisions: {error}")
        else:
            self._tally.failed("", "")

    async def _update(self, decision: Decision) -> None:
        """Bring the specification of a running worker up to date; it uses it when it connects the next time."""
        instance = decision.instance
        try:
            if decision.candidate is not None:
                before = self._specifications.asked(instance)
                written = await self._specifications.write(decision)
                if before is not None and before + NEWS_INTERVAL_SECONDS <= decision.candidate.asked:
                    # It was announced again, and who waits for the next attempt need not. A log page that changes all
                    # the time must not have hundreds of workers try all the time.
                    written = written or self._tally.state(instance) in (state.WAITING, state.PARKED)
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

    async def read_parked(self) -> None:
        """Have the parked discovery controllers read anew: who reloads wants to know what is listed now."""
        for instance in self._tally.which(state.PARKED):
            await self._hang_up(instance)

    async def _hang_up(self, instance: str) -> None:
        try:
            if self._connection.units is not None:
                await self._connection.units.hang_up(instance)
        except UnitError as error:
            # Between two processes there is none to tell, and the next one reads its specification anyway.
            log.debug("%s was not told: %s", instance, error, extra=about(instance))

    async def _forget(self, instance: str) -> None:
        """Sweep the state of what nobody asks for and nobody runs, unless it tells that an administrator stopped it."""
        report = self._observed.reports.get(instance)
        if instance not in self._specifications.known or (report is not None and report.state == state.STOPPED):
            return
        if report is not None and report.state in state.ENDED:
            self._inventory.unmanaged_source.forget(instance)
        target = self._specifications.known[instance].target
        await self._specifications.forget(instance)
        self._changes.add(self._inventory.wanted.announced(canonical_nqn(target[3])))
        self._observed.forget_report(instance)
        self._tally.failed(instance, "")
        self._starter.forget(instance)
        self._inventory.log_pages.forget(instance)
        self._changes.add(one for one, known in self._specifications.known.items() if known.origin == instance)
        if instance in self._observed.units and self._connection.units is not None:
            # Nothing keeps it loaded: asked for again, it does not look as if an administrator had stopped it.
            self._connection.units.release(instance)
        self._changes.add_unit(instance)

    @property
    def status(self) -> str:
        """The line that says how everything is."""
        return self._tally.line(self._connection.units is not None, self._problems())

    def _problems(self) -> list[str]:
        """Return what is wrong with what we were given, the configuration first."""
        lists = self._inventory.exclusions.exclusions
        problems = [fragment.problem for fragment in self._observed.fragments.found.values()]
        problems += [str(one) for one in self._configuration.current.complaints if one.severity == "error"]
        problems += [f"{file}:{line}: {what}" if line else f"{file}: {what}" for file, line, what in lists.problems]
        problems += [f"{one}: {confirmable(one, held.text)}" for one, held in self._inventory.held_back.items()]
        refusals = [one for one in self._inventory.refusals if not one.expected]
        return problems + [f"{one.what} ({one.source}): {one.reason}" for one in refusals]

    def _state_of(self, decision: Decision) -> str:
        if decision.blocked_by:
            return BLOCKED
        if decision.action is Action.LEAVE:
            return state.EXCLUDED if decision.instance in self._inventory.excluded else LEFT_ALONE
        if decision.action is Action.KEEP_STOPPED:
            return state.STOPPED
        report = self._observed.reports.get(decision.instance)
        unit = self._observed.units.get(decision.instance)
        if report is None or unit is None or not unit.running:
            return state.GIVEN_UP if report and report.state == state.GIVEN_UP else STARTING
        return LEFT_ALONE if report.state == state.FOREIGN else report.state
