# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: discovery controllers that change, start anew and refer to each other, and a host that follows them.

At random, and the same for the same number. After each step, those whose workers were told to disconnect them are
exactly those that the rules (rules.py) give up: none more, and none less.
"""

import functools
import random
from collections import Counter
from dataclasses import dataclass, field

from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Secrets
from discoverd.plan.evidence import Asked
from discoverd.plan.log_page import parse
from discoverd.sources.configured import configured
from discoverd.sources.walk import Context
from discoverd.tid import DISCOVERY_NQN
from tests.unit.log_pages import FC, entry, page

from .host import Host
from .numbers import run_all
from .rules import REFERRALS, Place, Reading, Rules

STEPS = (8, 16)
# In which every rule has all the time that it takes.
QUIET = (60.0,) * 3 + (290.0,) * 6
_ADDRESSES = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")
_VOLUMES = tuple(f"nqn.2024-08.com.example:{letter}" for letter in "abcdefgh")
_SCOPE = DiscoveredScope({}, Secrets(), "", "", "", "")
_HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
# Entries that cannot be used, and that mean nothing by it.
_HARMLESS = (entry("nvme-ram0"), entry("nqn.fc", "nn-0x10:pn-0x20", "none", trtype=FC), entry("x", subtype=3))
# What each could have been nobody can tell.
_UNREADABLE = (entry("nqn.a,b"), entry(b"\xff\xfe"), entry("nqn.2024-08.com.example:a b"), entry("nqn.c", subtype=9))


def _dc(address: str) -> str:
    return f"tcp:{address}:8009:{DISCOVERY_NQN}"


def _connection(address: str) -> Connection:
    return Connection(
        "discovery",
        "tcp",
        address,
        "",
        DISCOVERY_NQN,
        host_traddr="",
        host_iface="",
        hostnqn="",
        hostid="",
        hostsymname="",
        params={},
        persistent="",
        secrets=Secrets(),
        file="",
        line=1,
    )


_CONFIG = FabricsConfig(
    tuple(_connection(address) for address in _ADDRESSES), scopes={("", "io"): _SCOPE, ("", "discovery"): _SCOPE}
)
_CONFIGURED = {one.tid.instance: one for one in configured(_CONFIG, _HOST, lambda *_: None).candidates}


@functools.cache
def _entry(unit: str, fault: int = 0) -> bytes:
    """Return the entry of a controller, or one that cannot be used and may be that of a controller."""
    _, address, port, nqn = unit.split(":", 3)
    subtype = 1 if nqn == DISCOVERY_NQN else 2
    if not fault:
        return entry(nqn, address, port, subtype=subtype)
    trtype = 77 if fault == 3 else 3
    wrong = (address, "224.0.0.1", "127.0.0.1", address, address)[fault]
    return entry(nqn, wrong, "70000" if fault == 4 else port, subtype=subtype, trtype=trtype)


@dataclass
class Array:
    """A discovery controller as the network has it. ``faulty`` are those of ``listed`` whose entry cannot be used."""

    listed: set[str]
    generation: int = 5
    connection: int = 1
    asked: Asked = Asked.ALL_PORTS
    faulty: set[str] = field(default_factory=set)
    unreadable: bool = False
    harmless: bool = False


class Story:
    """One history. ``where`` are the volumes' and ``arrays`` the discovery controllers' instances."""

    def __init__(self, number: int) -> None:
        self._chance = chance = random.Random(number)
        addresses = _ADDRESSES[: chance.randint(2, 4)]
        self._dcs = [_dc(address) for address in addresses]
        volumes = []
        for nqn in _VOLUMES[: chance.choice((3, 5, 8))]:
            volumes += [f"tcp:{at}:4420:{nqn}" for at in chance.sample(addresses[:2], chance.choice((1, 1, 1, 2)))]
        self._volumes = volumes
        places = {unit: Place(unit.split(":")[1], unit.split(":", 3)[3]) for unit in volumes}
        places |= {unit: Place(unit.split(":")[1], REFERRALS) for unit in self._dcs}
        share = chance.choice((0, 25, 25, 50, 100, 100))
        self.rules = Rules(places, share)
        self._host = Host(_CONFIGURED, Context(_CONFIG, _HOST, {}, {}, 0, 0, share))
        self._time = 1000.0
        # Some histories are of arrays that only change, others of such that start anew all the time.
        self._trouble = chance.choice((0.0, 0.2, 0.7))
        self._arrays = {one: self._array(one) for one in self._dcs}
        # Nobody else lists it, and in some histories it comes and goes all the time.
        self._restless = chance.choice(volumes + self._dcs[1:])
        self._hurry = chance.random() < 0.3
        if self._hurry:
            for one in self._dcs[1:]:
                self._arrays[one].listed.discard(self._restless)
        self._latest: dict[str, Reading] = {}
        self._configure({self._dcs[0], *(one for one in self._dcs[1:] if chance.random() < 0.3)})

    def _array(self, instance: str) -> Array:
        chance = self._chance
        listed = {one for one in self._volumes if chance.random() < 0.6}
        listed |= {one for one in self._dcs if chance.random() < (0.2 if one == instance else 0.5)}
        asked = chance.choice((Asked.ALL_PORTS,) * 4 + (Asked.ONE_PORT,) * 2 + (Asked.UNKNOWN,))
        return Array(listed, asked=asked)

    # Steps ----------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Raise AssertionError where discoverd and the rules differ."""
        for _ in range(3):
            self._read_all(1.0)
        for _ in range(self._chance.randint(*STEPS)):
            self._step()
        for seconds in QUIET:
            self._time += seconds
            self._read_all(1.0)
            self._end_all(1.0)
        assert not self.rules.undecided(), "something is waited for still"

    def _step(self) -> None:
        chance = self._chance
        self._time += chance.choice((1, 10, 60, 60, 200) if self._hurry else (1, 60, 60, 60, 60, 200, 901))
        action = chance.random()
        if self._hurry and action < 0.6:
            self._arrays[self._dcs[0]].listed ^= {self._restless}
        elif action < 0.45:
            self._change(chance.choice(self._dcs))
        elif action < 0.6:
            pass
        elif action < 0.7:
            root = chance.choice(self._dcs[:2])
            self._configure(self._host.roots ^ {root})
        elif action < 0.75:
            self._restart()
        elif action < 0.85:
            self._confirm()
        elif lost := sorted(self._host.released()):
            self._end(chance.choice(lost))
        if chance.random() < self._trouble:
            self._disturb(chance.choice(self._dcs))
        self._read_all(chance.choice((1.0, 1.0, 0.5)))
        self._end_all(0.7)

    def _change(self, instance: str) -> None:
        """List others."""
        chance, array = self._chance, self._arrays[instance]
        for unit in chance.sample(self._volumes + self._dcs, chance.choice((1, 1, 1, 2, 4))):
            array.listed ^= {unit}
        array.generation += 1

    def _disturb(self, instance: str) -> None:
        """Have something happen that makes evidence weaker, or end that."""
        chance, array = self._chance, self._arrays[instance]
        match chance.randrange(9):
            case 0:
                array.connection += 1
            case 1:
                # It starts anew, and does not list everything at once.
                array.connection += chance.choice((0, 1))
                array.generation = max(0, array.generation - chance.choice((1, 5)))
                array.listed -= set(chance.sample(sorted(array.listed), len(array.listed) // 2))
            case 2:
                array.faulty = {one for one in self._volumes + self._dcs if chance.random() < 0.2}
            case 3:
                array.unreadable = not array.unreadable
            case 4:
                array.harmless = not array.harmless
            case 5:
                array.asked = chance.choice(tuple(Asked))
            case 6:
                array.listed = {one for one in array.listed if one in self._dcs and chance.random() < 0.5}
            case _:
                array.faulty.clear()
                array.unreadable = False

    def _configure(self, roots: set[str]) -> None:
        self._host.configure(roots)
        self.rules.roots = set(roots)
        self._settle()

    def _restart(self) -> None:
        self._host.restart()
        self.rules.restart()
        self._settle()

    def _confirm(self) -> None:
        for origin in sorted(self._host.pages.pending):
            if self._chance.random() < 0.5:
                self._host.pages.confirm(origin, list(self._host.pages.pending[origin]))
                self.rules.confirm(origin)
        self._settle()

    def _end_all(self, likely: float) -> None:
        ending = [one for one in sorted(self._host.withdrawn()) if self._chance.random() < likely]
        for one in ending:
            self._host.end(one)
            self.rules.end(one)
        if ending:
            self._settle()

    def _end(self, instance: str) -> None:
        self._host.end(instance)
        self.rules.end(instance)
        self._settle()

    def _read_all(self, likely: float) -> None:
        """Have the workers of discovery controllers read their pages."""
        running = self._host.running()
        for instance in self._dcs:
            if instance in running and self._chance.random() < likely:
                self._read(instance)
        self._settle()

    def _read(self, instance: str) -> None:
        chance, array = self._chance, self._arrays[instance]
        entries = [
            _entry(unit, chance.choice((1, 2, 3, 4)) if unit in array.faulty else 0)
            for unit in sorted(array.listed | array.faulty)
        ]
        entries += [chance.choice(_UNREADABLE)] * array.unreadable + [chance.choice(_HARMLESS)] * array.harmless
        chance.shuffle(entries)
        connection = "" if array.asked is Asked.UNKNOWN else str(array.connection)
        read = parse(page(*entries, generation=array.generation))
        self._host.read(instance, read, self._time, connection, array.asked)
        listed = frozenset(array.listed - array.faulty)
        self._latest[instance] = Reading(
            self._time,
            connection,
            array.generation,
            array.asked.value,
            listed,
            not array.unreadable and not listed.isdisjoint(self._volumes),
            frozenset(REFERRALS if one in self._dcs else one.split(":", 3)[3] for one in array.faulty),
        )

    # What is compared -----------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let the supervisor follow and decide until nothing changes."""
        for _ in range(6):
            self._take()
            while True:
                self._host.follow()
                self.rules.look()
                if not self._take():
                    break
            before = dict(self._host.known)
            self._host.decide()
            self.rules.decide()
            self._compare()
            if before == self._host.known:
                return

    def _take(self) -> bool:
        """Take the pages that were not taken yet; tell whether there were any."""
        new = self._host.news()
        for instance in new:
            self.rules.put(instance, self._latest[instance])
        return bool(new)

    def _compare(self) -> None:
        ours = self._host.withdrawn()
        theirs = {name for name, unit in self.rules.units.items() if unit.withdrawn and unit.running}
        assert not ours - theirs, f"withdrawn, and no rule says so: {sorted(ours - theirs)}"
        assert not theirs - ours, f"not withdrawn, as the rules say: {sorted(theirs - ours)}"
        running = set(self._host.running())
        assert running == {name for name, unit in self.rules.units.items() if unit.running}


def run(number: int) -> Counter[str]:
    """Return what the history with this number has reached. Raises AssertionError for what the rules do not allow."""
    story = Story(number)
    story.play()
    return story.rules.reached


if __name__ == "__main__":
    run_all("tests.fuzz.histories", __doc__ or "", run)
