# SPDX-License-Identifier: Apache-2.0
"""Making and starting units: so many first attempts at a time, no source's many before another's one."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from discoverd import state, store
from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.candidate import AUTHORITIES
from discoverd.plan.planner import Action, Decision
from discoverd.supervisor.fields import about
from discoverd.systemd.unit_properties import unit_properties, unless_exists
from discoverd.systemd.units import UnitError, Units

log = logging.getLogger("discoverd")

# A first attempt that takes longer gives its place to the next controller, and goes on.
FIRST_ATTEMPT = 10
RETRY_START = 5
# The end of a job is heard of within this many seconds.
HOLD_NEWS = 1


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
        return not candidate.led, ranks[candidate.origin], served.get(candidate.origin, 0)

    placed = [(place(decision), decision) for decision in decisions]
    return [decision for _, decision in sorted(placed, key=lambda pair: pair[0])]


class Starter:
    """Carries out what was decided about units that do not run.

    ``units`` is the connection to systemd, if there is one. ``spawn`` runs a coroutine whose exceptions are the
    supervisor's end, ``write_spec`` writes what a worker is to hold, ``touched`` has the planner look at a controller
    again, and ``failed`` tells the user why a unit is not as decided.
    """

    def __init__(
        self,
        worker: str,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        write_spec: Callable[[Decision], Awaitable[bool]],
        touched: Callable[[str], None],
        failed: Callable[[str, str], None],
    ) -> None:
        self._worker = worker
        self._spawn = spawn
        self._write_spec = write_spec
        self._touched = touched
        self._failed = failed
        self.units: Units | None = None
        # The NQNs of what the system itself runs from; known before anything else is connected.
        self.system: set[str] = set()
        # systemd lists a masked unit only while it is loaded, so what a start has shown is kept until it reloads.
        self.masked: set[str] = set()
        self._pending: dict[str, Decision] = {}
        self._starting: dict[str, asyncio.Event] = {}
        # Units that are made without running, and how many jobs for them have ended meanwhile.
        self._holding: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        # When one of an origin's controllers was started last.
        self._served: dict[str, float] = {}

    def __contains__(self, instance: str) -> bool:
        return instance in self._starting

    @property
    def idle(self) -> bool:
        """Tell whether nothing is being started, nor waits for its turn."""
        return not self._starting and not self._pending

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
        self.masked.discard(instance)

    def job_ended(self, instance: str) -> None:
        """Take the news that a job of a unit has ended."""
        if instance in self._holding:
            self._holding[instance] += 1
        if instance in self._starting:
            self._starting[instance].set()

    def go(self, most_at_once: int) -> None:
        """Begin with as many as may be under way at once."""
        if not self._pending or self.units is None:
            return
        now = asyncio.get_running_loop().time()
        for decision in fair(self._pending.values(), self._served):
            instance = decision.instance
            if instance in self._starting or self._not_before.get(instance, 0) > now:
                continue
            held = decision.action is Action.HOLD
            if held or len(self._starting) < most_at_once:
                del self._pending[instance]
                self._starting[instance] = asyncio.Event()
                self._spawn(self._start(decision, held))

    async def _start(self, decision: Decision, held: bool) -> None:
        """Make or start a unit, and wait for the end of its first attempt, within bounds."""
        instance, candidate = decision.instance, decision.candidate
        assert candidate is not None  # noqa: S101  # Only what a source asks for is started.
        ended = self._starting[instance]
        self._served[candidate.origin] = asyncio.get_running_loop().time()
        try:
            await self._write_spec(decision)
            if self.units is None:
                raise UnitError("not connected to systemd")
            system = canonical_nqn(candidate.tid.subsysnqn) in {canonical_nqn(one) for one in self.system}
            properties = unit_properties(candidate.tid, candidate.role, self._worker, system)
            if held:
                # There is no way to make a unit and not start it; with this the start does nothing.
                properties.append(unless_exists(await asyncio.to_thread(store.hold, instance)))
                self._holding[instance] = 0
            result = await self.units.start(instance, properties)
            self._failed(instance, "")
            if result == "masked":
                self.masked.add(instance)
            elif result == "started":
                # Not wait_for: before Python 3.12 it can lose a cancellation, and with it the end of the daemon.
                async with asyncio.timeout(FIRST_ATTEMPT):
                    await ended.wait()
        except TimeoutError:
            pass  # It goes on; only its place is free for the next one.
        except (UnitError, state.StateError) as error:
            self._failed(instance, f"cannot start {instance}: {error}")
            loop = asyncio.get_running_loop()
            self._not_before[instance] = loop.time() + RETRY_START
            loop.call_later(RETRY_START, self._touched, instance)
        finally:
            if held:
                await self._release(instance)
            del self._starting[instance]
            self._touched(instance)

    async def _release(self, instance: str) -> None:
        """Let a unit that was made without running be started, also by who has asked for it just now, in vain."""
        try:
            await asyncio.to_thread(store.release, instance)
        except OSError as error:
            self._failed(instance, f"{instance} cannot be started: {error.strerror}: {error.filename}")
        self._spawn(self._start_if_asked(instance))

    async def _start_if_asked(self, instance: str) -> None:
        await asyncio.sleep(HOLD_NEWS)
        # One job was ours.
        if self._holding.pop(instance, 0) > 1 and self.units is not None:
            log.info("starting %s: an administrator asked for it", instance, extra=about(instance))
            try:
                await self.units.start(instance, [])
            except UnitError as error:
                self._failed(instance, f"cannot start {instance}: {error}")
