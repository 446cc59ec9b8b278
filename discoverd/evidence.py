# SPDX-License-Identifier: Apache-2.0
"""What the log pages of one discovery controller prove about what they no longer list.

Pure: readings go in, the controllers whose absence is proved come out, and why that of others is not. Rules, each for
a controller that the discovery controller has listed and that is not in the page now (a gap):

- A page that was not understood whole, or that lists no storage, proves nothing, and the page after it is compared
  with none. What it does list is listed.
- A page proves nothing about what it was not asked for, nor about what an entry that cannot be used could have been.
- A gap that opens between two readings on one connection, whose generations do not go back, is proved at once. Any
  other may be that of a controller that has started anew and does not list everything yet: it is proved by
  ``CONFIRM_READINGS`` readings over ``CONFIRM_SECONDS`` in which nothing that was missing comes back and no generation
  goes back.
- More gaps within ``HELD_SECONDS`` than a share of what was listed, and more than one, are held back for so long, or
  until an administrator confirms them.
- A controller that was withdrawn and listed again several times within ``DAMPING_WINDOW`` is kept longer each time.

What is proved stays so until the controller is listed again. Nothing is kept over a restart: the first reading after it
is compared with none.
"""

import enum
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from discoverd.candidate import Target

# While gaps wait for further readings, the worker reads every minute (discoverd.worker.discovery), and a little less
# often than that is taken for it.
CONFIRM_SECONDS = 150
CONFIRM_READINGS = 3
HELD_SECONDS = 900
# So many returns within the window count as oscillation.
DAMPING_WINDOW = 600
DAMPING_RETURNS = 2
DAMPING_SECONDS = 60
DAMPING_MAX_SECONDS = 600


class Asked(enum.Enum):
    """What a log page was asked for: all ports of the subsystem, or only the port that was asked (PLEO)."""

    ALL_PORTS = "all-ports"
    ONE_PORT = "one-port"
    # Read by a worker of an earlier version, which does not say.
    UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a log page, as far as it is evidence.

    ``time`` in seconds, CLOCK_BOOTTIME. ``connection`` differs from one connection to the next, '' if it is not known.
    ``listed`` has the units that stand for what the page lists, and where they are. ``doubt`` says why the page proves
    nothing by its gaps, '' if it does. ``doubtful`` are the NQNs that entries which cannot be used could have been.
    """

    time: float
    connection: str
    generation: int
    asked: Asked
    listed: Mapping[str, Target]
    doubt: str = ""
    doubtful: frozenset[str] = frozenset()


class Wait(enum.Enum):
    """What has to come before a gap is proved. Nothing that is read will prove an UNKNOWN one."""

    UNKNOWN = "unknown"
    CONFIRMATION = "confirmation"
    SHARE = "share"
    DAMPING = "damping"


@dataclass(frozen=True, slots=True)
class Pending:
    """A gap that is not proved. ``reason`` completes "it was listed, and …"; ``until`` is the earliest time at which
    a reading can prove it (seconds, CLOCK_BOOTTIME), 0 where there is none.
    """

    wait: Wait
    reason: str
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the readings so far prove. ``absent`` and the keys of ``pending`` are units; ``listed`` is how many the page
    lists, with those that it has listed within ``HELD_SECONDS``.
    """

    absent: frozenset[str] = frozenset()
    pending: Mapping[str, Pending] = field(default_factory=dict)
    listed: int = 0


@dataclass(slots=True)
class _Gap:
    since: float
    # Opened between two readings on one connection.
    direct: bool
    readings: int = 1
    confirmed: bool = False
    proved: bool = False
    withdrawn: bool = False
    # How many controllers went with it.
    weight: int = 0


class Evidence:
    """The readings of one discovery controller, at ``address`` (transport and traddr)."""

    def __init__(self, address: tuple[str, str]) -> None:
        self._address = address
        self._last: Reading | None = None
        self._gaps: dict[str, _Gap] = {}
        self._unknown: dict[str, str] = {}
        # How the page was asked for that listed a unit last.
        self._asked: dict[str, Asked] = {}
        # When a unit that had been withdrawn was listed again.
        self._returns: dict[str, list[float]] = {}

    def read(self, reading: Reading, referred: Mapping[str, Target]) -> None:
        """Take a new reading. ``referred`` has the units that this discovery controller is known to have listed."""
        last, self._last = self._last, reading
        went_back = last is not None and reading.generation < last.generation
        continues = (
            last is not None
            and not last.doubt
            and not went_back
            and bool(reading.connection)
            and reading.connection == last.connection
        )
        came_back = [unit for unit in self._gaps if unit in reading.listed]
        starting = went_back or any(not self._gaps[unit].direct for unit in came_back)
        for unit in came_back:
            if self._gaps.pop(unit).withdrawn:
                self._returns.setdefault(unit, []).append(reading.time)
        self._asked |= dict.fromkeys(reading.listed, reading.asked)
        if starting:
            # It has not listed all that it has yet.
            for gap in self._gaps.values():
                if not gap.direct and not gap.proved:
                    gap.since, gap.readings = reading.time, 0
        # The same controller may be asked for in other words, as another unit.
        targets = frozenset(reading.listed.values())
        if reading.doubt:
            # What it lists is there all the same. If it has started anew, counting begins with the next page.
            self._gaps = {
                unit: gap
                for unit, gap in self._gaps.items()
                if referred.get(unit) not in targets and (gap.direct or gap.proved or not starting)
            }
            self._forget(reading, referred)
            return
        before = last.listed if last is not None else {}
        self._unknown = {}
        for unit, target in {**before, **referred}.items():
            if target in targets:
                self._gaps.pop(unit, None)
            elif why := self._out_of_reach(reading, unit, target):
                self._unknown[unit] = why
                if unit in self._gaps and not self._gaps[unit].proved:
                    del self._gaps[unit]
            elif unit in self._gaps:
                self._gaps[unit].readings += 1
            else:
                self._gaps[unit] = _Gap(reading.time, continues and unit in before)
        self._forget(reading, referred)

    def _out_of_reach(self, reading: Reading, unit: str, target: Target) -> str:
        """Return why the page says nothing about a unit that it does not list, '' if it does."""
        transport, traddr, _, nqn = target
        if nqn in reading.doubtful:
            return "an entry of its log page that cannot be used may be it"
        if reading.asked is Asked.ALL_PORTS or (transport, traddr) == self._address:
            return ""
        if reading.asked is Asked.ONE_PORT and self._asked.get(unit) is Asked.ONE_PORT:
            return ""
        return "its log page was asked for the entries of one port only, which this one may not be at"

    def _forget(self, reading: Reading, referred: Mapping[str, Target]) -> None:
        """Drop what no rule needs any more."""
        old = reading.time - HELD_SECONDS
        self._gaps = {unit: gap for unit, gap in self._gaps.items() if unit in referred or gap.since > old}
        returns = {
            unit: [one for one in times if one > self._opened(unit, reading) - DAMPING_WINDOW]
            for unit, times in self._returns.items()
        }
        self._returns = {unit: times for unit, times in returns.items() if times}
        keep = reading.listed.keys() | referred.keys() | self._gaps.keys()
        self._asked = {unit: asked for unit, asked in self._asked.items() if unit in keep}

    def _opened(self, unit: str, reading: Reading) -> float:
        """Return since when a unit is missing, the time of the reading if it is not."""
        return self._gaps[unit].since if unit in self._gaps else reading.time

    def confirm(self, units: Collection[str]) -> None:
        """Take an administrator's word for the gaps of these units."""
        for unit in units:
            if unit in self._gaps:
                self._gaps[unit].confirmed = True

    def judge(
        self,
        referred: Mapping[str, Target],
        wanted: Callable[[str], bool],
        weight: Callable[[str], int],
        share: int,
    ) -> Verdict:
        """Say what is proved now. Of a page that proves nothing, nothing is.

        ``wanted`` tells that a unit stays, whatever this page says. ``weight`` is how many controllers would go with a
        unit. ``share`` is in per cent.
        """
        reading = self._last
        if reading is None or reading.doubt:
            return Verdict()
        lost = {
            unit: gap
            for unit, gap in self._gaps.items()
            if gap.since > reading.time - HELD_SECONDS and (gap.withdrawn or not wanted(unit))
        }
        losing = sum(gap.weight if gap.withdrawn else weight(unit) for unit, gap in lost.items())
        total = losing + sum(weight(unit) for unit in reading.listed)
        over = losing > max(1, total * share // 100)
        absent = set()
        pending = {unit: Pending(Wait.UNKNOWN, why) for unit, why in self._unknown.items() if unit in referred}
        for unit in referred:
            gap = self._gaps.get(unit)
            if gap is None or unit in pending:
                continue
            if not gap.proved:
                held = self._pending(unit, gap, reading, over and unit in lost, losing, total, share)
                if held is not None:
                    pending[unit] = held
                    continue
                gap.proved = True
            absent.add(unit)
            if not gap.withdrawn and not wanted(unit):
                gap.withdrawn, gap.weight = True, weight(unit)
        return Verdict(frozenset(absent), pending, total)

    def _pending(
        self, unit: str, gap: _Gap, reading: Reading, over: bool, losing: int, total: int, share: int
    ) -> Pending | None:
        if gap.confirmed:
            return None
        page = f"its log page (generation {reading.generation})"
        age = reading.time - gap.since
        if over and age < HELD_SECONDS:
            why = f"{page} would withdraw {losing} of {total} controllers, more than disconnect-share = {share}%"
            return Pending(Wait.SHARE, f"{why}, and is held back", gap.since + HELD_SECONDS)
        if not gap.direct and (age < CONFIRM_SECONDS or gap.readings < CONFIRM_READINGS):
            why = f"{page} without it is of a new connection or an earlier generation, and not confirmed yet"
            return Pending(Wait.CONFIRMATION, why, gap.since + CONFIRM_SECONDS)
        returns = sum(one > gap.since - DAMPING_WINDOW for one in self._returns.get(unit, ()))
        if returns >= DAMPING_RETURNS:
            span = min(DAMPING_MAX_SECONDS, DAMPING_SECONDS << (returns - DAMPING_RETURNS))
            if age < span:
                why = f"{page} lists it no more, as {returns} times before within {DAMPING_WINDOW // 60} minutes"
                return Pending(Wait.DAMPING, f"{why}: kept for {span} s", gap.since + span)
        return None
