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
- What waits for any of this begins to wait anew, as a gap of the second kind, when the controller starts anew
  meanwhile, or is not read for ``SILENCE_SECONDS``.
- A controller that was withdrawn and listed again several times within ``DAMPING_WINDOW_SECONDS`` is kept longer each
time.

What is proved stays so until the controller is listed again. Nothing is kept over a restart: the first reading after it
is compared with none.
"""

import enum
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from discoverd.plan.candidate import Target

# While gaps wait for further readings, the worker reads every minute (discoverd.worker.discovery), and a little less
# often than that is taken for it.
CONFIRM_SECONDS = 150
CONFIRM_READINGS = 3
HELD_SECONDS = 900
SILENCE_SECONDS = 300
# So many returns within the window count as oscillation.
DAMPING_WINDOW_SECONDS = 600
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
    ``listed`` has the units that stand for what the page lists, and where they are. ``inconclusive`` says why the page
    proves nothing by its gaps, '' if it does. ``possible_nqns`` are the NQNs that entries which cannot be used could
    have been.
    """

    time: float
    connection: str
    generation: int
    asked: Asked
    listed: Mapping[str, Target]
    inconclusive: str = ""
    possible_nqns: frozenset[str] = frozenset()


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
    """What the readings so far prove. ``absent`` and the keys of ``pending`` are units.

    ``waiting`` are those of them that go when more readings, or an administrator, have proved it. ``listed`` is how
    many the page lists, with those that wait or went within ``HELD_SECONDS``. ``settled``: the page has said the same
    for long enough to be believed about what it never listed, too.
    """

    absent: frozenset[str] = frozenset()
    pending: Mapping[str, Pending] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    listed: int = 0
    settled: bool = False


@dataclass(slots=True)
class _Gap:
    since: float
    # Opened between two readings on one connection, and the controller has not started anew since.
    direct: bool
    readings: int = 1
    confirmed: bool = False
    proved: bool = False
    withdrawn: bool = False
    # With which others it went, and how many controllers those were with all that they led to.
    batch: tuple[int, int] = (0, 0)


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
        # What the last page lists that was listed before.
        self._old: frozenset[str] = frozenset()
        # Since when, and for how many readings, the page has not changed after a start.
        self._unchanged = (0.0, 0)
        self._settled = False
        self._batches = 0

    def read(self, reading: Reading, referred: Mapping[str, Target]) -> None:
        """Take a new reading. ``referred`` has the units that this discovery controller is known to have listed."""
        last = self._last
        if last is not None and (last.time, last.connection, last.generation) == (
            reading.time,
            reading.connection,
            reading.generation,
        ):
            return  # The same one once more: its file was read twice.
        self._last = reading
        went_back = last is not None and reading.generation < last.generation
        connected = last is not None and bool(reading.connection) and reading.connection == last.connection
        silent = last is not None and reading.time - last.time > SILENCE_SECONDS
        came_back = [unit for unit in self._gaps if unit in reading.listed]
        starting = went_back or silent or any(not self._gaps[unit].direct for unit in came_back)
        for unit in came_back:
            if self._gaps.pop(unit).withdrawn:
                self._returns.setdefault(unit, []).append(reading.time)
        self._asked |= dict.fromkeys(reading.listed, reading.asked)
        # It may not list all that it has yet.
        anew = set()
        for unit, gap in self._gaps.items():
            if not gap.proved and (starting if not gap.direct else went_back or silent or not connected):
                gap.since, gap.direct, gap.readings = reading.time, False, 0
                anew.add(unit)
        self._settle(reading, last, went_back, connected)
        # The same controller may be asked for in other words, as another unit.
        targets = frozenset(reading.listed.values())
        if reading.inconclusive:
            # What it lists is there all the same. Counting begins with the next page.
            self._gaps = {
                unit: gap for unit, gap in self._gaps.items() if referred.get(unit) not in targets and unit not in anew
            }
            self._forget(reading, referred)
            return
        continues = connected and last is not None and not last.inconclusive and not went_back
        before = last.listed if last is not None else {}
        self._unknown = {}
        for unit, target in {**before, **referred}.items():
            if unit in reading.listed or target in targets:
                self._gaps.pop(unit, None)
            elif why := self._out_of_reach(reading, unit, target):
                self._unknown[unit] = why
                if unit in self._gaps and not self._gaps[unit].proved:
                    del self._gaps[unit]
            elif unit in self._gaps:
                self._gaps[unit].readings += 1
            else:
                self._gaps[unit] = _Gap(reading.time, continues and unit in before)
        self._old = frozenset(unit for unit in reading.listed if unit in before or unit in referred)
        self._forget(reading, referred)

    def _settle(self, reading: Reading, last: Reading | None, went_back: bool, connected: bool) -> None:
        """See whether the page has said the same for long enough since the controller started, or we did."""
        changed = last is None or reading.listed.keys() != last.listed.keys()
        anew = last is None or last.inconclusive or went_back or (changed and not connected)
        if anew or reading.inconclusive:
            self._settled = False
        since, count = self._unchanged
        if anew or changed or reading.inconclusive:
            since, count = reading.time, 0
        self._unchanged = since, 0 if reading.inconclusive else count + 1
        enough = self._unchanged[1] >= CONFIRM_READINGS and reading.time - since >= CONFIRM_SECONDS
        self._settled = self._settled or enough

    def _out_of_reach(self, reading: Reading, unit: str, target: Target) -> str:
        """Return why the page says nothing about a unit that it does not list, '' if it does."""
        transport, traddr, _, nqn = target
        if nqn in reading.possible_nqns:
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
            unit: [one for one in times if one > self._opened(unit, reading) - DAMPING_WINDOW_SECONDS]
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
        weigh: Callable[[Collection[str]], int],
        share: int,
    ) -> Verdict:
        """Say what is proved now. Of a page that proves nothing, nothing is.

        ``wanted`` tells that a unit stays, whatever this page says. ``weigh`` is how many controllers would go with
        some units. ``share`` is in per cent.
        """
        reading = self._last
        if reading is None or reading.inconclusive:
            return Verdict()
        lost = {
            unit: gap
            for unit, gap in self._gaps.items()
            if gap.since > reading.time - HELD_SECONDS and (gap.withdrawn or not wanted(unit))
        }
        losing = _loss(lost, weigh)
        total = losing + weigh(self._old)
        over = losing > max(1, total * share // 100)
        absent = set()
        pending = {unit: Pending(Wait.UNKNOWN, why) for unit, why in self._unknown.items() if unit in referred}
        waiting = set()
        going: list[str] = []
        for unit in referred:
            gap = self._gaps.get(unit)
            if gap is None or unit in pending:
                continue
            stays = wanted(unit)
            if not gap.proved:
                held = self._pending(unit, gap, reading, over and unit in lost, losing, total, share)
                if held is not None:
                    pending[unit] = held
                    if not stays:
                        waiting.add(unit)
                    continue
                gap.proved = True
            absent.add(unit)
            if not gap.withdrawn and not stays:
                gap.withdrawn = True
                going.append(unit)
        if going:
            self._batches += 1
            for unit in going:
                self._gaps[unit].batch = self._batches, weigh(going)
        listed = len(reading.listed.keys() | lost.keys() | waiting)
        return Verdict(frozenset(absent), pending, frozenset(waiting), listed, self._settled)

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
        returns = sum(one > gap.since - DAMPING_WINDOW_SECONDS for one in self._returns.get(unit, ()))
        if returns >= DAMPING_RETURNS:
            span = min(DAMPING_MAX_SECONDS, DAMPING_SECONDS << (returns - DAMPING_RETURNS))
            if age < span:
                why = (
                    f"{page} lists it no more, as {returns} times before within {DAMPING_WINDOW_SECONDS // 60} minutes"
                )
                return Pending(Wait.DAMPING, f"{why}: kept for {span} s", gap.since + span)
        return None


def _loss(lost: Mapping[str, _Gap], weigh: Callable[[Collection[str]], int]) -> int:
    """Return how many controllers go, or have gone, with these gaps."""
    gone = sum(size for _, size in {gap.batch for gap in lost.values() if gap.withdrawn})
    staying = weigh([unit for unit, gap in lost.items() if not gap.withdrawn])
    # The second of two referrals to the same takes with it what the first one has left.
    return max(gone + staying, weigh(list(lost)))
