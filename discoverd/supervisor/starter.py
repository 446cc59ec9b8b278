# SPDX-License-Identifier: Apache-2.0
"""Making and starting units: so many first attempts at a time, no source's many before another's one."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from discoverd import state, store
from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.candidate import AUTHORITIES
from discoverd.plan.facts import Action, Decision
from discoverd.supervisor.changes import Changes
from discoverd.supervisor.connection import Connection
from discoverd.supervisor.fields import about
from discoverd.supervisor.specifications import Specifications
from discoverd.supervisor.status_line import Tally
from discoverd.supervisor.turns import Turns
from discoverd.systemd.unit_properties import unit_properties, unless_exists
from discoverd.systemd.units import UnitError

log = logging.getLogger("discoverd")

# A first attempt that takes longer gives its place to the next controller, and goes on.
FIRST_ATTEMPT_TIMEOUT_SECONDS = 10
START_RETRY_SECONDS = 5
# The end of a job is heard of within this many seconds.
JOB_NEWS_TIMEOUT_SECONDS = 1


def fair(decisions: Iterable[Decision], served: Mapping[str, float]) -> list[Decision]:
    """Return the decisions in an order in which no origin's many candidates keep those of another waiting.

    What an administrator, firmware or the boot asks for comes first, then what these lead to, then what anybody can
    announce. Of the latter two, the first of each discovery controller, then the second of each, and so on. Those that
    ``served`` says had a turn longest ago come first among them: there may be room for one only.
    """
    ranks: Counter[str] = Counter()

    def place(decision: Decision) -> tuple[bool, int, float]:
        candidate = decision.candidate
        if candidate is None or candidate.origin in AUTHORITIES or decision.action is not Action.START:
            return False, 0, 0
        ranks[candidate.origin] += 1
        return not candidate.trusted_parent, ranks[candidate.origin], served.get(candidate.origin, 0)

    placed = [(place(decision), decision) for decision in decisions]
    return [decision for _, decision in sorted(placed, key=lambda pair: pair[0])]


def _trusted(decision: Decision) -> bool:
    return decision.candidate is None or decision.candidate.trusted


class Starter:
    """Carries out what was decided about units that do not run.

    ``placeholder`` is what a unit executes, ``system`` has the NQNs of what the system itself runs from, and
    ``tasks`` runs the attempts. Why a unit is not as decided goes to ``tally``. The rest of its state is the way of a
    decision: pending, starting, and then what is remembered of it.
    """

    def __init__(
        self,
        placeholder: str,
        system: Collection[str],
        tasks: asyncio.TaskGroup,
        changes: Changes,
        connection: Connection,
        specifications: Specifications,
        tally: Tally,
    ) -> None:
        self._placeholder = placeholder
        self._system = {canonical_nqn(one) for one in system}
        self._tasks = tasks
        self._changes = changes
        self._connection = connection
        self._specifications = specifications
        self._tally = tally
        # systemd lists a masked unit only while it is loaded, so what a start has shown is kept until it reloads.
        self._masked: set[str] = set()
        self._pending: dict[str, Decision] = {}
        self._starting: dict[str, asyncio.Event] = {}
        # Units that are made without running, and how many jobs for them have ended meanwhile.
        self._kept_stopped: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        # When one of an origin's controllers was started last.
        self._served: dict[str, float] = {}
        self._announced = Turns()
        self._most_at_once = 0
        self._retry: asyncio.TimerHandle | None = None

    def __contains__(self, instance: str) -> bool:
        return instance in self._starting

    @property
    def idle(self) -> bool:
        """Tell whether nothing is being started, nor waits for its turn."""
        now = asyncio.get_running_loop().time()
        waiting = (
            one for one in self._pending.values() if _trusted(one) or self._announced.due(one.instance, now) <= now
        )
        return not self._starting and next(waiting, None) is None

    @property
    def masked(self) -> Collection[str]:
        """The units that a start has shown to be masked."""
        return self._masked

    def want(self, decision: Decision) -> None:
        """Start a unit, or make it without running, when its turn comes."""
        self._pending[decision.instance] = decision

    def drop(self, instance: str) -> None:
        """Do not start a unit whose turn has not come; there is another decision about it."""
        self._pending.pop(instance, None)

    def forget(self, instance: str) -> None:
        """Keep nothing about a controller that nobody asks for."""
        self._not_before.pop(instance, None)
        self._served.pop(instance, None)
        self._masked.discard(instance)
        self._announced.forget(instance)

    def connected(self, instance: str) -> None:
        """Take the news that a controller is live."""
        self._announced.connected(instance)

    def job_ended(self, instance: str) -> None:
        """Take the news that a job of a unit has ended."""
        if instance in self._kept_stopped:
            self._kept_stopped[instance] += 1
        if instance in self._starting:
            self._starting[instance].set()

    def systemd_reloaded(self) -> None:
        """Take the news that what is masked may be so no longer, and that the end of a job may not have been heard."""
        self._changes.add(self._masked)
        self._masked.clear()
        for ended in self._starting.values():
            ended.set()

    def pause(self) -> None:
        """Begin with nothing until :meth:`go`: while it is being decided, what is first is not known."""
        self._most_at_once = 0

    def go(self, most_at_once: int) -> None:
        """Begin with as many as may be under way at once, and with the next as places become free."""
        self._most_at_once = most_at_once
        if not self._pending or self._connection.units is None:
            return
        now = asyncio.get_running_loop().time()
        next_turn = math.inf
        for decision in fair(self._pending.values(), self._served):
            instance = decision.instance
            # A decision from before the end of a start does not know of what came after it, such as a stop.
            if instance in self._starting or instance in self._changes or self._not_before.get(instance, 0) > now:
                continue
            keep_stopped = decision.action is Action.KEEP_STOPPED
            if not keep_stopped and len(self._starting) >= most_at_once:
                continue
            if not keep_stopped and not _trusted(decision):
                if (due := self._announced.due(instance, now)) > now:
                    next_turn = min(next_turn, due)
                    continue
                self._announced.began(instance)
            del self._pending[instance]
            self._starting[instance] = asyncio.Event()
            self._tasks.create_task(self._start(decision, keep_stopped))
        self._come_back(next_turn)

    def _come_back(self, when: float) -> None:
        """Have a round begin when it is the turn of something that is only announced."""
        if self._retry is not None:
            self._retry.cancel()
        loop = asyncio.get_running_loop()
        self._retry = None if when == math.inf else loop.call_at(when, self._changes.wake)

    async def _start(self, decision: Decision, keep_stopped: bool) -> None:
        """Make or start a unit, and wait for the end of its first attempt, within bounds."""
        instance = decision.instance
        try:
            await self._attempt(decision, keep_stopped)
        except TimeoutError:
            pass  # It goes on; only its place is free for the next one.
        except (UnitError, state.StateError) as error:
            self._tally.failed(instance, f"cannot start {instance}: {error}")
            loop = asyncio.get_running_loop()
            self._not_before[instance] = loop.time() + START_RETRY_SECONDS
            loop.call_later(START_RETRY_SECONDS, self._changes.add_unit, instance)
        finally:
            if keep_stopped:
                await self._allow_start(instance)
            elif not _trusted(decision):
                self._announced.ended(instance, asyncio.get_running_loop().time())
            del self._starting[instance]
            self._changes.add_unit(instance)
        # The next round may be a while away. Not where this was cancelled: nothing is begun at the daemon's end.
        if self._most_at_once:
            self.go(self._most_at_once)
        if keep_stopped:
            await asyncio.sleep(JOB_NEWS_TIMEOUT_SECONDS)
            await self._start_if_asked(instance)

    async def _attempt(self, decision: Decision, keep_stopped: bool) -> None:
        """Raises UnitError, state.StateError, and TimeoutError if the attempt has no end."""
        instance, candidate = decision.instance, decision.candidate
        assert candidate is not None  # noqa: S101  # Only what a source asks for is started.
        self._served[candidate.origin] = asyncio.get_running_loop().time()
        await self._specifications.write(decision)
        units = self._connection.units
        if units is None:
            raise UnitError("not connected to systemd")
        properties = unit_properties(
            candidate.tid,
            candidate.role,
            self._placeholder,
            canonical_nqn(candidate.tid.subsysnqn) in self._system,
            candidate.trusted,
        )
        if keep_stopped:
            # There is no way to make a unit and not start it; with this the start does nothing.
            properties.append(unless_exists(await asyncio.to_thread(store.keep_stopped, instance)))
            self._kept_stopped[instance] = 0
        result = await (units.make_stopped if keep_stopped else units.start)(instance, properties)
        self._tally.failed(instance, "")
        if result == "masked":
            self._masked.add(instance)
        elif result == "started":
            # Not wait_for: before Python 3.12 it can lose a cancellation, and with it the end of the daemon.
            async with asyncio.timeout(FIRST_ATTEMPT_TIMEOUT_SECONDS):
                await self._starting[instance].wait()

    async def _allow_start(self, instance: str) -> None:
        """Let a unit that was made without running be started."""
        try:
            await asyncio.to_thread(store.allow_start, instance)
        except OSError as error:
            self._tally.failed(instance, f"{instance} cannot be started: {error.strerror}: {error.filename}")

    async def _start_if_asked(self, instance: str) -> None:
        """Start a unit for which somebody asked, in vain, while it was made without running."""
        units = self._connection.units
        # One job was ours.
        if self._kept_stopped.pop(instance, 0) > 1 and units is not None:
            log.info("starting %s: an administrator asked for it", instance, extra=about(instance))
            try:
                await units.start(instance, [])
            except UnitError as error:
                self._tally.failed(instance, f"cannot start {instance}: {error}")
