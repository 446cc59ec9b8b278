# SPDX-License-Identifier: Apache-2.0
"""The rules of withdrawal once more, in the simplest form: what may be disconnected, judged by looking back.

Nothing is shared with discoverd, and nothing is worked out ahead: every reading is kept, and whether a gap is proved
is found by going back over all of them. A controller is its unit's name here, its ``Place`` where it is.

Where the rules leave something open, this goes by what discoverd does:

- Anything that was missing and comes back restarts the confirmation of the rest, also if it was proved to be gone by
  then, unless that is longer ago than 900 s and nothing is left of it.
- One that is missing and has ended by itself counts as lost until 900 s after its gap opened, whatever pages can say.
- An administrator's word goes for whatever a gap waits for.
- One that others list again after it was withdrawn still counts as lost, until 900 s after its gap opened.
- A discovery controller that has gone without a word speaks for what it was the last to ask for, and for nothing else.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

CONFIGURATION = "configuration"
REFERRALS = "any discovery controller"


class Place(NamedTuple):
    """Where a controller is and its NQN; REFERRALS stands for that of discovery controllers."""

    address: str
    nqn: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A log page: ``usable`` if its gaps mean something, ``unclear`` has the NQNs that its bad entries could have.

    ``owed`` are the controllers that its discovery controller was known to have listed when it was read.
    """

    time: float
    connection: str
    generation: int
    asked: str
    listed: frozenset[str]
    usable: bool
    unclear: frozenset[str]
    owed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was concluded or said about a gap, after so many readings."""

    unit: str
    at: int
    # With which others it was withdrawn, and how many those were with all that they led to.
    batch: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class History:
    """All readings of one discovery controller, and what came of them."""

    readings: list[Reading] = field(default_factory=list)
    proved: list[Event] = field(default_factory=list)
    withdrawn: list[Event] = field(default_factory=list)
    confirmed: list[Event] = field(default_factory=list)
    # Of each reading, whether with it the discovery controller shows that it has started anew.
    anew: dict[int, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap: the readings with which it opened and from which on it is counted, and how many are counted."""

    born: int
    since: float
    direct: bool
    readings: int


@dataclass(slots=True)
class Unit:
    """A controller that there is a unit for. ``origin`` asked for it last, ``listers`` may still ask for it."""

    origin: str
    listers: set[str]
    running: bool = True
    withdrawn: bool = False


class Rules:
    """``reached`` counts what the histories are about, to tell that they are about something."""

    def __init__(self, places: Mapping[str, Place], share: int) -> None:
        self._places = places
        self._share = share
        self.roots: set[str] = set()
        self.units: dict[str, Unit] = {}
        self._pages: dict[str, Reading] = {}
        self._unread: set[str] = set()
        self._histories: dict[str, History] = {}
        # What discovery controllers that are followed prove now.
        self._absent: dict[str, set[str]] = {}
        self._followed: set[str] = set()
        self._asked: dict[str, set[str]] = {}
        # What was waited for while a gap was not proved.
        self._waits: dict[tuple[str, str], set[str]] = {}
        self.reached: Counter[str] = Counter()

    # What happens ---------------------------------------------------------------------------------------------

    def put(self, origin: str, page: Reading) -> None:
        self._pages[origin] = page
        self._unread.add(origin)

    def restart(self) -> None:
        """The supervisor starts anew: the pages that there were are put again."""
        self._pages.clear()
        self._unread.clear()
        self._histories.clear()
        self._waits.clear()

    def end(self, unit: str) -> None:
        """Its worker has ended by itself."""
        self.units[unit].running = False

    def confirm(self, origin: str) -> None:
        """An administrator says that the page is right."""
        if history := self._histories.get(origin):
            last = len(history.readings) - 1
            for unit in self._places:
                if self._gap(origin, unit, last):
                    history.confirmed.append(Event(unit, last))

    def look(self) -> None:
        """Go along the referrals from what is configured, take the pages, and see what they prove."""
        self._followed, self._asked = set(), {root: {CONFIGURATION} for root in self.roots}
        waiting = set(self.roots)
        while waiting:
            origin = waiting.pop()
            self._followed.add(origin)
            for unit in self._pages[origin].listed if origin in self._pages else ():
                self._asked.setdefault(unit, set()).add(origin)
                if self._refers(unit) and unit not in self._followed:
                    waiting.add(unit)
        for origin in self._followed & self._unread:
            self._unread.discard(origin)
            taken = replace(self._pages[origin], owed=frozenset(self._owed(origin)))
            self._histories.setdefault(origin, History()).readings.append(taken)
        self._absent = {
            origin: self._judge(origin)
            for origin in self._followed
            if origin in self._pages and self._pages[origin].usable
        }

    def decide(self) -> None:
        """See what goes for who asks, and for who has asked and has not taken it back."""
        closed = self._closed()
        gone: set[str] = set()
        present = self.units.keys() | self._asked.keys()

        def owes(origin: str, unit: str) -> bool:
            if origin in (unit, CONFIGURATION) or origin in closed:
                return False
            if origin in self._absent:
                return unit not in self._absent[origin]
            return origin in present

        for unit in list(self.units):
            one = self.units[unit]
            if unit in self._asked:
                continue
            if not one.running:
                gone.add(unit)
                continue
            if one.origin == CONFIGURATION:
                continue
            silent = {origin for origin in one.listers if owes(origin, unit)}
            # Who has gone without a word has not taken back what he was the last to ask for.
            if one.origin not in present and one.origin not in closed:
                silent.add(one.origin)
            if silent:
                one.listers = silent
                if one.origin not in silent:
                    one.origin = min(silent)
            elif not one.withdrawn:
                one.withdrawn = True
                self._count(unit, one, closed)
        for unit, origins in self._asked.items():
            first = CONFIGURATION if CONFIGURATION in origins else min(origins)
            before = self.units[unit].listers if unit in self.units else set()
            self.units[unit] = Unit(first, origins | {origin for origin in before if owes(origin, unit)})
        for unit in gone:
            del self.units[unit]
            self._pages.pop(unit, None)
            self._histories.pop(unit, None)
            self._unread.discard(unit)

    def undecided(self) -> set[tuple[str, str]]:
        """Return what a page could prove and does not yet; after a quiet time there is nothing."""
        return {
            (origin, unit)
            for origin, absent in self._absent.items()
            for unit in self._owed(origin) - absent - self._pages[origin].listed
            if self._reaches(origin, unit, len(self._histories[origin].readings) - 1)
        }

    def _count(self, unit: str, one: Unit, closed: set[str]) -> None:
        self.reached["withdrawn"] += 1
        if unit in closed and any(lister in closed or lister == unit for lister in one.listers):
            self.reached["ring"] += 1
        if one.listers & closed:
            self.reached["closed"] += 1
        for origin in one.listers & self._absent.keys():
            waits = self._waits.get((origin, unit), set())
            self.reached.update(waits or {"at once"})

    # What speaks for a controller -----------------------------------------------------------------------------

    def _refers(self, unit: str) -> bool:
        return self._places[unit].nqn == REFERRALS

    def _owed(self, origin: str) -> set[str]:
        """Return all that a discovery controller has listed, itself apart, and somebody may still count on."""
        return {
            unit
            for unit, one in self.units.items()
            if unit != origin and (origin in one.listers or origin == one.origin)
        }

    def _closed(self) -> set[str]:
        """Return the discovery controllers that no way leads to from what is asked for."""
        open_ = {
            unit
            for unit, one in self.units.items()
            if self._refers(unit) and unit not in self._asked and one.origin != CONFIGURATION
        }

        def leads(origin: str, unit: str, way: frozenset[str]) -> bool:
            if origin == unit or origin in way:
                return False
            if origin in self._absent:
                return unit not in self._absent[origin]
            if origin in open_:
                return is_led(origin, way | {unit})
            return origin in self.units or origin in self._asked or origin == self.units[unit].origin

        def is_led(unit: str, way: frozenset[str]) -> bool:
            one = self.units[unit]
            return any(leads(origin, unit, way) for origin in one.listers | {one.origin})

        return {unit for unit in open_ if not is_led(unit, frozenset())}

    def _weigh(self, origin: str, units: set[str]) -> int:
        """Return how many controllers these are with all that nobody leads to without their referrals."""
        # With a referral to what others ask for as well nothing goes.
        led = {unit for unit in units if self._refers(unit) and self._asked.get(unit, set()) <= {origin}}
        count = len(units) - len(led)
        others = {
            unit: (one.listers | {one.origin}) - {unit}
            for unit, one in self.units.items()
            if one.origin != CONFIGURATION and unit not in units
        }
        while more := {unit for unit, by in others.items() if unit not in led and by and by <= led}:
            led |= more
        return count + len(led)

    # What pages prove -----------------------------------------------------------------------------------------

    def _judge(self, origin: str) -> set[str]:
        history = self._histories[origin]
        last = len(history.readings) - 1
        now = history.readings[last]
        gaps = {unit: gap for unit in self._places if (gap := self._gap(origin, unit, last))}
        lost = {
            unit
            for unit, gap in gaps.items()
            if gap.since > now.time - 900 and (_last(history, history.withdrawn, unit, last) or unit not in self._asked)
        }
        gone = {event.batch for unit in lost if (event := _last(history, history.withdrawn, unit, last))}
        staying = {unit for unit in lost if not _last(history, history.withdrawn, unit, last)}
        losing = max(sum(size for _, size in gone) + self._weigh(origin, staying), self._weigh(origin, lost))
        before = history.readings[last - 1].listed if last else frozenset()
        listed = self._weigh(origin, {unit for unit in now.listed if unit in before or unit in now.owed})
        over = losing > 1 and 100 * losing > self._share * (losing + listed)
        absent = set()
        going = set()
        for unit in self._owed(origin):
            gap = gaps.get(unit)
            if gap is None or not self._reaches(origin, unit, last):
                continue
            if not _last(history, history.proved, unit, last):
                waits = self._waiting(origin, unit, gap, over and unit in lost)
                if waits:
                    self._waits.setdefault((origin, unit), set()).update(waits)
                if waits - {"confirm command"}:
                    continue
                history.proved.append(Event(unit, last))
            absent.add(unit)
            if unit not in self._asked and not _last(history, history.withdrawn, unit, last):
                going.add(unit)
        batch = len(history.withdrawn) + 1, self._weigh(origin, going)
        history.withdrawn += [Event(unit, last, batch) for unit in sorted(going)]
        return absent

    def _waiting(self, origin: str, unit: str, gap: Gap, over: bool) -> set[str]:
        """Return what has to come before a gap is proved."""
        history = self._histories[origin]
        now = history.readings[-1]
        said = _last(history, history.confirmed, unit, len(history.readings) - 1)
        if said and said.at >= gap.born:
            return {"confirm command"}
        age = now.time - gap.since
        waits = set()
        if over:
            waits.add("share")
        if not gap.direct and (gap.readings < 3 or age < 150):
            waits.add("confirmation")
        returns = sum(time > gap.since - 600 for time in self._returns(origin, unit, gap.born))
        if returns >= 2 and age < min(600, 60 * 2 ** (returns - 2)):
            waits.add("damping")
        return waits

    def _returns(self, origin: str, unit: str, before: int) -> list[float]:
        """Return when it was listed again after it had been withdrawn."""
        history = self._histories[origin]
        return [
            reading.time
            for at, reading in enumerate(history.readings[:before])
            if unit in reading.listed
            and _last(history, history.withdrawn, unit, at - 1)
            and self._is_remembered(origin, unit, at - 1)
        ]

    def _is_remembered(self, origin: str, unit: str, at: int) -> bool:
        """A gap counts as long as there is something to withdraw, and for 900 s."""
        gap, reading = self._gap(origin, unit, at), self._histories[origin].readings[at]
        return gap is not None and (unit in reading.owed or gap.since > reading.time - 900)

    def _reaches(self, origin: str, unit: str, at: int) -> bool:
        """Tell whether a page that does not list it says that it is not there."""
        readings = self._histories[origin].readings
        place, asked = self._places[unit], readings[at].asked
        if place.nqn in readings[at].unclear:
            return False
        if asked == "all-ports" or place.address == self._places[origin].address:
            return True
        listings = [one.asked for one in readings[:at] if unit in one.listed]
        return asked == "one-port" and listings[-1:] == ["one-port"]

    def _gap(self, origin: str, unit: str, at: int) -> Gap | None:
        """Look back from a reading for the one with which a controller went missing."""
        history = self._histories[origin]
        readings = history.readings
        born = None
        for k in range(at, -1, -1):
            if unit in readings[k].listed:
                break
            if not readings[k].usable:
                continue
            if not self._reaches(origin, unit, k):
                # What it was is not known any more, unless it was by then, or nothing is left of it.
                if _last(history, history.proved, unit, k - 1) or unit not in readings[k].owed:
                    continue
                break
            born = k
        if born is None:
            return None
        first = readings[born]
        was_listed = born > 0 and unit in readings[born - 1].listed
        if unit not in first.owed and not was_listed:
            return None
        before = readings[born - 1]
        direct = (
            was_listed
            and before.usable
            and first.connection == before.connection != ""
            and first.generation >= before.generation
        )
        start: int | None = born
        for k in range(born + 1, at + 1):
            if start is not None and not _last(history, history.proved, unit, k - 1):
                if self._breaks(origin, k) if direct else self._is_anew(origin, k):
                    direct = False
                    start = k if readings[k].usable else None
                    born = born if readings[k].usable else None
            elif start is None and readings[k].usable and unit in readings[k].owed:
                start = born = k
        if start is None or born is None:
            return None
        counted = sum(one.usable for one in readings[start : at + 1])
        return Gap(born, readings[start].time, direct, counted)

    def _breaks(self, origin: str, at: int) -> bool:
        """Tell whether a reading is of another connection or an earlier generation, or long after the one before."""
        before, now = self._histories[origin].readings[at - 1 : at + 1]
        other = now.connection != before.connection or not now.connection
        return other or now.generation < before.generation or now.time > before.time + 300

    def _is_anew(self, origin: str, at: int) -> bool:
        """Tell whether a discovery controller had not listed everything before this reading."""
        history = self._histories[origin]
        if at not in history.anew:
            history.anew[at] = at > 0 and (
                history.readings[at].generation < history.readings[at - 1].generation
                or history.readings[at].time > history.readings[at - 1].time + 300
                or any(
                    (gap := self._gap(origin, unit, at - 1)) is not None
                    and not gap.direct
                    and self._is_remembered(origin, unit, at - 1)
                    for unit in history.readings[at].listed
                )
            )
        return history.anew[at]


def _last(history: History, events: list[Event], unit: str, at: int) -> Event | None:
    """Return the last event about a controller by then, if it was not listed since."""
    for event in reversed(events):
        if event.unit == unit and event.at <= at:
            listed = any(unit in one.listed for one in history.readings[event.at + 1 : at + 1])
            return None if listed else event
    return None
