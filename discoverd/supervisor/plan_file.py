# SPDX-License-Identifier: Apache-2.0
"""The written plan: what was decided about each controller, for discoverctl."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from discoverd import store
from discoverd.config.errors import Diagnostic
from discoverd.config.last_good import Kept
from discoverd.plan.candidate import Refusal
from discoverd.plan.facts import Decision


class PlanFile:
    """The plan as it is written for discoverctl: a row for each decision, and the rest.

    ``blocking`` runs a function beside the loop, one at a time.
    """

    def __init__(self, blocking: Callable[..., Awaitable[Any]]) -> None:
        self._blocking = blocking
        self._rows: dict[str, str] = {}
        self._written: tuple[Any, ...] = ()

    def put(self, decision: Decision) -> None:
        """Have another decision about a controller written."""
        self._rows[decision.instance] = store.plan_row(decision)

    def drop(self, instance: str) -> None:
        """Have none written about a controller about which there was one."""
        del self._rows[instance]

    async def write(
        self,
        refusals: tuple[Refusal, ...],
        complaints: tuple[Diagnostic, ...],
        waiting: Mapping[str, Iterable[str]],
        kept: tuple[tuple[Kept, str], ...] = (),
    ) -> None:
        """Write it, if anything in it has changed; arguments as in discoverd.store. Raises state.StateError."""
        pending = {one: sorted(units) for one, units in waiting.items()}
        plan = (refusals, complaints, list(self._rows.values()), pending, kept)
        if plan != self._written:
            await self._blocking(store.write_plan, plan[2], refusals, complaints, pending, kept)
            self._written = plan
