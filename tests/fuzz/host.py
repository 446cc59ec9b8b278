# SPDX-License-Identifier: Apache-2.0
"""A host in memory: what of the supervisor follows log pages, decides, and tells workers, without files and units."""

import copy
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from discoverd import state, store
from discoverd.plan.candidate import CONFIGURATION, Candidate
from discoverd.plan.evidence import Asked
from discoverd.plan.facts import Action, Answer, Decision, Facts, Known, Report, UnitFact
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import LogPage, PageRead
from discoverd.plan.planner import plan
from discoverd.sources.log_pages import LogPages
from discoverd.sources.walk import Context
from discoverd.supervisor.specifications import Specifications

_RUNS, _ENDED = UnitFact("loaded", "active"), UnitFact("loaded", "inactive")


class Host:
    """``configured`` has the candidates of all that may be configured, by instance."""

    def __init__(self, configured: dict[str, Candidate], context: Context) -> None:
        self._configured = configured
        self._context = context
        self._specs: dict[str, state.Spec] = {}
        # What the workers of discovery controllers have read last, and how many pages that were.
        self._stored: dict[str, tuple[PageRead, int]] = {}
        self._units: dict[str, UnitFact] = {}
        self._reports: dict[str, Report] = {}
        self.roots: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """Nothing is left of the supervisor but what it and the workers have written."""
        self._specifications = Specifications(self._blocking)
        self._specifications.take_up({instance: store.known(spec) for instance, spec in self._specs.items()})
        self.known: Mapping[str, Known] = self._specifications.known
        self.pages = LogPages()
        self._wanted = Wanted(self.known.__contains__)
        self.configure(self.roots)

    def configure(self, roots: Iterable[str]) -> None:
        self.roots = set(roots)
        self._wanted.put(CONFIGURATION, tuple(one for name, one in self._configured.items() if name in self.roots))

    # Workers --------------------------------------------------------------------------------------------------

    def running(self) -> list[str]:
        return [instance for instance, unit in self._units.items() if unit.running]

    def withdrawn(self) -> set[str]:
        """Return those whose workers were told to disconnect them."""
        return {instance for instance in self.running() if self._specs[instance].disconnect}

    def released(self) -> set[str]:
        """Return those that are not connected again once they are lost."""
        return {instance for instance in self.running() if self._specs[instance].note}

    def read(self, instance: str, page: LogPage, time: float, connection: str, asked: Asked) -> None:
        """A worker reads a log page."""
        count = self._stored[instance][1] + 1 if instance in self._stored else 1
        self._stored[instance] = PageRead(page, time, connection, asked), count

    def end(self, instance: str) -> None:
        """A worker ends by itself, because of what it was told."""
        self._units[instance] = _ENDED
        self._reports[instance] = Report("withdrawn")

    # The supervisor -------------------------------------------------------------------------------------------

    def follow(self) -> None:
        for _ in self.pages.follow(self._wanted, self._context, {}, self.known):
            pass

    def news(self) -> list[str]:
        """Take the pages that were not read yet; return whose they are."""
        new = []
        for instance in self._wanted.discovery:
            read, count = self._stored.get(instance, (None, ""))
            if self.pages.news(instance, str(count)) and read is not None:
                self.pages.put(instance, read)
                new.append(instance)
        return new

    def decide(self) -> None:
        pages = self.pages
        facts = Facts(
            self._wanted.asked,
            self._units,
            self._reports,
            self.known,
            {**pages.authoritative, CONFIGURATION: Answer()},
            pages.inconclusive,
            targets=self._wanted.targets,
            trusted_targets=self._wanted.trusted_targets,
            pending=pages.pending,
            closed=pages.closed,
        )
        for decision in plan(facts, self._wanted.asked.keys() | self.known.keys()):
            self._apply(decision)

    def _apply(self, decision: Decision) -> None:
        instance = decision.instance
        if decision.action is Action.START:
            run_at_once(self._specifications.write(decision))
            self._units[instance] = _RUNS
            self._reports.pop(instance, None)
        elif decision.candidate is not None:
            run_at_once(self._specifications.write(decision))
        elif decision.action is Action.KEEP:
            tell = self._specifications.withdraw if decision.note else self._specifications.attribute
            run_at_once(tell(decision))
        elif decision.note:
            run_at_once(self._specifications.forget(instance))
            self.pages.forget(instance)
            del self._units[instance]
            self._reports.pop(instance, None)
            self._stored.pop(instance, None)

    async def _blocking(self, function: object, instance: str, *arguments: Any) -> object:
        """Stands for the supervisor's way to what it has written."""
        if function is store.write_spec:
            (self._specs[instance],) = arguments
            return True
        if function is store.read_spec:
            return copy.copy(self._specs[instance])
        assert function is store.forget
        del self._specs[instance]
        return None


def run_at_once(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")
