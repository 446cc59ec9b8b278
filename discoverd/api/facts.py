# SPDX-License-Identifier: Apache-2.0
"""What supervisor and workers say in /run/discoverd, as the feed has told it last."""

import asyncio
from collections.abc import Callable

from discoverd import state, store
from discoverd.api import log_page
from discoverd.api.feed import GONE, LOG, PLAN, REPORT, SPEC, WHOLE
from discoverd.api.log_page import Head
from discoverd.cli import plan_file
from discoverd.cli.plan_file import PlanFile
from discoverd.config.identity import load_host_identity
from discoverd.plan.facts import Report


class Facts:
    """The plan, the host's identity (NQN and ID), and by instance reports, specifications and heads of log pages.

    ``whole`` tells whether all that there was has been told. ``news`` is called after each fact; ``device`` with each
    controller, such as nvme3, that a new report or the one before is about; ``reported`` with the instance of each
    report that comes after all has been told.
    """

    def __init__(
        self, news: Callable[[], None], device: Callable[[str], None], reported: Callable[[str], None]
    ) -> None:
        self._news = news
        self._device = device
        self._reported = reported
        # What the plan is to be made of; None if that was done.
        self._plan_data: bytes | None = None
        self.plan = PlanFile(fault=plan_file.MISSING)
        self.identity = ("", "")
        self.reports: dict[str, Report] = {}
        self.specs: dict[str, state.Spec] = {}
        self.heads: dict[str, Head] = {}
        self.whole = False

    def take(self, kind: str, instance: str, data: bytes) -> None:
        """Take a fact: one of the feed's kinds, whose it is, and the content of its file."""
        if kind == PLAN:
            self._plan_data = data
        elif kind == REPORT:
            self._take_report(instance, store.parse_report(data) if data else None)
        elif kind == SPEC:
            try:
                self.specs[instance] = state.Spec.decode(data)
            except state.StateError:
                self.specs.pop(instance, None)
        elif kind == LOG:
            if data:
                self.heads[instance] = log_page.split(data)[0]
            else:
                self.heads.pop(instance, None)
        elif kind == GONE:
            self._forget(instance)
        elif kind == WHOLE:
            self.whole = True
        self._news()

    def _take_report(self, instance: str, report: Report | None) -> None:
        before = self.reports.get(instance)
        if report is None:
            self.reports.pop(instance, None)
        else:
            self.reports[instance] = report
        for one in (before, report):
            if one and one.device:
                self._device(one.device)
        if self.whole:
            self._reported(instance)

    def _forget(self, instance: str) -> None:
        self.reports.pop(instance, None)
        self.specs.pop(instance, None)
        self.heads.pop(instance, None)

    async def understand(self) -> None:
        """Have ``plan`` and ``identity`` be those that were told last."""
        if (data := self._plan_data) is not None:
            self._plan_data = None
            self.plan, self.identity = await asyncio.to_thread(_understand, data)


def _understand(data: bytes) -> tuple[PlanFile, tuple[str, str]]:
    """Return the plan, and the host's identity, which may have changed with the configuration."""
    plan = plan_file.parse(data) if data else PlanFile(fault=plan_file.MISSING)
    identity = load_host_identity()
    return plan, (identity.hostnqn, identity.hostid)
