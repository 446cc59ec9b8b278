# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: an array that is configured, an announcer on its links who lists what he likes, and a host that follows.

At random, and the same for the same number. After each step, nothing that a worker is told breaks the rules of
tests/unit/trust_model.py, and all that is trusted has a worker.
"""

import asyncio
import contextlib
import copy
import functools
import ipaddress
import logging
import random
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from discoverd import state, store
from discoverd.bus import avahi
from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Role, Secrets
from discoverd.config.settings import Settings
from discoverd.kernel.addresses import HostAddresses
from discoverd.plan import budgets
from discoverd.plan.candidate import BOOT, FIBRE_CHANNEL, MDNS, NBFT, Wish, granted
from discoverd.plan.evidence import Asked
from discoverd.plan.facts import Action, Decision, Facts, Report, UnitFact
from discoverd.plan.log_page import PageRead, parse
from discoverd.plan.planner import plan, trusted_subsystems
from discoverd.sources import mdns, walk
from discoverd.supervisor.inventory import Inventory
from discoverd.supervisor.specifications import Specifications
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId
from tests.unit.log_pages import FC, entry, page
from tests.unit.trust_model import Budgets, Listed, Place, Rules, Written

from . import clock
from .host import run_at_once
from .numbers import run_all

STEPS = (6, 14)

# The constants of discoverd that bound what is announced, as small as a history can exceed them.
BUDGETS = Budgets(
    controllers=4,
    listed=6,
    referrals=3,
    attempts=budgets.ANNOUNCED_ATTEMPTS,
    give_up_after=budgets.ANNOUNCED_GIVE_UP_SECONDS,
)
CONSTANTS = (
    (mdns, "SERVICES_MAX", BUDGETS.controllers),
    (mdns, "SERVICES_PER_INTERFACE", BUDGETS.controllers - 1),
    (walk, "ANNOUNCED_LISTED", BUDGETS.listed),
    (walk, "ANNOUNCED_REFERRALS", BUDGETS.referrals),
)
# Options that carry a key, or name one.
KEYS = frozenset(("dhchap_secret", "dhchap_ctrl_secret", "tls_key", "keyring", "tls", "concat"))

# This host, which the announcer has no way to be.
INTERFACES = {2: "eth0", 3: "eth1"}
OWN = {"eth0": ("192.0.2.100", "2001:db8:1::100", "fe80::100"), "eth1": ("198.51.100.100",), "lo": ("127.0.0.1", "::1")}
_OWN = frozenset(address for some in OWN.values() for address in some)
_BROADCAST = frozenset(("255.255.255.255", "192.0.2.255", "198.51.100.255"))
# Where nothing must be connected to because somebody on the network says so.
_NOBODY = ("0.0.0.0", "::", "224.0.0.251", "ff02::fb", "127.0.0.53", "::ffff:192.0.2.100")  # noqa: S104
_REFUSED = (*sorted(_OWN | _BROADCAST), *_NOBODY)
# The arrays of the administrator, and those of whoever is on the link, which may claim any of them.
_ARRAYS = ("192.0.2.1", "192.0.2.2", "198.51.100.1")
_STRANGERS = ("192.0.2.66", "192.0.2.67", "2001:db8:1::66", "198.51.100.66", "169.254.169.254")
_VOLUMES = tuple(f"nqn.2024-08.com.example:{letter}" for letter in "abcde")
_FOREIGN = tuple(f"nqn.2024-08.com.example:foreign{number}" for number in range(9))
_FC_PORTS = ("nn-0x0000000000000010:pn-0x0000000000000011", "nn-0x0000000000000020:pn-0x0000000000000021")
_FC_HOST = "nn-0x0000000000000030:pn-0x0000000000000031"

_KEY = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:"
_SCOPE = DiscoveredScope({}, Secrets(kxchap_secret=_KEY), "", "", "", "")
_HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
_SETTINGS = Settings()
# What the configuration, firmware or the boot may ask for.
_ROOTS = (
    *(Place(DISCOVERY, link, one, "8009", DISCOVERY_NQN) for one in _ARRAYS[:2] for link in ("", "eth0")),
    Place(DISCOVERY, "", _ARRAYS[2], "8009", DISCOVERY_NQN),
    *(Place(IO, link, one, "4420", _VOLUMES[0]) for one in _ARRAYS[:2] for link in ("", "eth0")),
    Place(IO, "", _ARRAYS[2], "4420", _VOLUMES[1]),
    # A target on this host, which an administrator may have.
    Place(DISCOVERY, "", "127.0.0.1", "8009", DISCOVERY_NQN),
    Place(DISCOVERY, "", OWN["eth0"][0], "8009", DISCOVERY_NQN),
)
_RUNS, _ENDED = UnitFact("loaded", "active"), UnitFact("loaded", "inactive")


def _connection(place: Place) -> Connection:
    role: Role = "discovery" if place.role == DISCOVERY else "io"
    return Connection(
        role,
        "tcp",
        place.address,
        place.port,
        place.nqn,
        host_traddr="",
        host_iface=place.interface,
        hostnqn="",
        hostid="",
        hostsymname="",
        params={},
        persistent="",
        secrets=_SCOPE.secrets,
        file="",
        line=1,
    )


def _fabric(port: str) -> Place:
    return Place(DISCOVERY, "", port, "", DISCOVERY_NQN)


def _wish(place: Place, origin: str) -> Wish:
    fc = place.address in _FC_PORTS
    tid = TransportId.make(
        place.role,
        "fc" if fc else "tcp",
        place.address,
        place.port,
        place.nqn,
        host_traddr=_FC_HOST if fc else "",
        host_iface=place.interface,
    )
    return Wish(tid, place.role, f"asked for by {origin}", origin)


@functools.cache
def _entry(listed: Listed) -> bytes:
    subtype = 1 if listed.role == DISCOVERY else 2
    if listed.address in _FC_PORTS:
        return entry(listed.nqn, listed.address, "none", trtype=FC, subtype=subtype)
    return entry(listed.nqn, listed.address, listed.port, subtype=subtype)


@contextlib.contextmanager
def surroundings() -> Iterator[None]:
    """Have discoverd see this host instead of the machine that the history is played on."""
    with contextlib.ExitStack() as stack:
        for module, name, value in CONSTANTS:
            stack.enter_context(mock.patch.object(module, name, value))
        stack.enter_context(mock.patch.object(mdns, "_interface_name", lambda index: INTERFACES.get(index, "")))
        yield


class Host:
    """What of the supervisor knows and decides, without files and units; ``rules`` judges all that it decides.

    Made anew for each supervisor but for what is in ``disk``.
    """

    def __init__(self, disk: "Disk", rules: Rules) -> None:
        self._disk = disk
        self._rules = rules
        self._specifications = Specifications(self._blocking)
        self._specifications.take_up({instance: store.known(spec) for instance, spec in disk.specs.items()})
        self.known = self._specifications.known
        self.inventory = Inventory(self.known, lambda: None)
        for source in (self.inventory.nbft, self.inventory.fibre_channel, self.inventory.unmanaged_source):
            # They would look for themselves.
            source.configure = lambda *_: None  # type: ignore[method-assign]
        self.inventory.locate(HostAddresses(_packed(_OWN), _packed(_BROADCAST)))
        self._rules.pages.clear()

    def remember(self) -> None:
        """Take what an earlier supervisor knew from announcements."""
        ended = {one for one, report in self._disk.reports.items() if report.state == state.GIVEN_UP}
        found = (store.wish(spec) for one, spec in self._disk.specs.items() if spec.origin == MDNS and one not in ended)
        self.inventory.mdns.remember(tuple(wish for wish in found if wish is not None))

    async def settle(self) -> None:
        """Follow, decide and carry out until nothing changes."""
        for _ in range(10):
            await self._take_stock()
            before = dict(self.known), dict(self._disk.units)
            self._decide()
            if (dict(self.known), self._disk.units) == before:
                return
        raise AssertionError("it does not come to rest")

    async def _take_stock(self) -> None:
        for _ in range(50):
            # Under another name, by which a controller is asked for since, its page is looked at with the next news.
            self.inventory._news()
            changed = await self.inventory.update()
            if not self._take_pages() and not changed:
                return
        raise AssertionError("log pages are followed without end")

    def _take_pages(self) -> bool:
        taken = False
        for instance in sorted(self.inventory.wanted.discovery):
            stored = self._disk.pages.get(instance)
            if self.inventory.log_pages.news(instance, str(stored.number) if stored else "") and stored:
                self.inventory.put_page(instance, stored.read)
                self._rules.pages[_place(self._disk.specs[instance])._replace(role=DISCOVERY)] = stored.listed
                taken = True
        return taken

    def _decide(self) -> None:
        inventory, disk = self.inventory, self._disk
        wanted = inventory.wanted
        facts = Facts(
            wanted.asked,
            disk.units,
            disk.reports,
            self.known,
            inventory.authoritative,
            inventory.log_pages.inconclusive,
            inventory.excluded,
            targets=wanted.targets,
            trusted_targets=wanted.trusted_targets,
            pending=inventory.log_pages.pending,
            closed=inventory.log_pages.closed,
            held_back=inventory.held_back,
            confirming=inventory.confirming,
            trusted_subsystems=trusted_subsystems(wanted.asked, self.known, wanted.trusted_subsystems),
        )
        told = [self._apply(one) for one in plan(facts, inventory.wanted.asked.keys() | self.known.keys())]
        self._rules.judge([one for one in told if one is not None], self.running())

    def running(self) -> dict[str, Place]:
        """Return what runs, by instance."""
        disk = self._disk
        return {one: _place(disk.specs[one]) for one, unit in disk.units.items() if unit.running}

    def _apply(self, decision: Decision) -> Written | None:
        instance, candidate = decision.instance, decision.candidate
        if decision.action is Action.LEAVE or candidate is None:
            self.inventory.left(instance)
        starts = decision.action is Action.START
        if candidate is not None and (starts or decision.action is Action.KEEP):
            run_at_once(self._specifications.write(decision))
            if starts:
                self._disk.start(instance)
            spec = self._disk.specs[instance]
            keyed = any(key in KEYS for key, _ in spec.options)
            patience = spec.attempts, spec.give_up_after
            return Written(_place(spec), keyed, candidate.trusted, *patience, starts, not decision.note)
        if decision.action is Action.KEEP:
            if decision.note:
                run_at_once(self._specifications.withdraw(decision))
            else:
                run_at_once(self._specifications.attribute(decision))
        elif decision.note and instance in self.known:
            self._rules.pages.pop(_place(self._disk.specs[instance])._replace(role=DISCOVERY), None)
            run_at_once(self._specifications.forget(instance))
            self.inventory.log_pages.forget(instance)
            self._disk.forget(instance)
        return None

    async def _blocking(self, function: object, instance: str, *arguments: Any) -> object:
        """Stands for the supervisor's way to what it has written."""
        if function is store.write_spec:
            (self._disk.specs[instance],) = arguments
            return True
        if function is store.read_spec:
            return copy.copy(self._disk.specs[instance])
        assert function is store.forget
        del self._disk.specs[instance]
        return None


def _packed(addresses: Collection[str]) -> frozenset[bytes]:
    return frozenset(ipaddress.ip_address(one).packed for one in addresses)


@dataclass(frozen=True, slots=True)
class Page:
    """A log page as a worker has left it, and what it lists."""

    read: PageRead
    listed: tuple[Listed, ...]
    number: int


class Disk:
    """What outlives a supervisor: specifications, reports, log pages, units, and since when they run."""

    def __init__(self) -> None:
        self.specs: dict[str, state.Spec] = {}
        self.reports: dict[str, Report] = {}
        self.pages: dict[str, Page] = {}
        self.units: dict[str, UnitFact] = {}
        self.began: dict[str, float] = {}

    def start(self, instance: str) -> None:
        self.units[instance] = _RUNS
        self.reports.pop(instance, None)
        self.began[instance] = asyncio.get_running_loop().time()

    def end(self, instance: str, report: Report) -> None:
        """A worker ends by itself."""
        self.units[instance] = _ENDED
        self.reports[instance] = report

    def forget(self, instance: str) -> None:
        for some in (self.reports, self.pages, self.units, self.began):
            some.pop(instance, None)


def _place(spec: state.Spec) -> Place:
    interface, address, port, nqn = (spec.option(key) for key in ("host_iface", "traddr", "trsvcid", "nqn"))
    return Place(spec.role, interface, address, port, nqn)


class Story:
    """One history."""

    def __init__(self, number: int) -> None:
        self._chance = random.Random(number)
        self._rules = Rules(_OWN, _BROADCAST, BUDGETS)
        self._disk = Disk()
        self._host = Host(self._disk, self._rules)
        self._configured: set[Place] = set()
        self._other_roots: dict[str, set[Place]] = {}
        self._announced: dict[avahi.Service, avahi.Announced] = {}
        # What is listed at each address and port, by whether the administrator's array is there.
        self._lists: dict[tuple[bool, str, str], list[Listed]] = {}
        self._silent: set[Place] = set()
        self._pages = 0
        self.reached: Counter[str] = Counter()

    async def play(self) -> None:
        """Raise AssertionError where discoverd breaks the rules."""
        self._configure()
        await self._settle()
        for _ in range(self._chance.randint(*STEPS)):
            await self._step()
        await self._end()
        await self._host.inventory.names.close()

    # Steps ----------------------------------------------------------------------------------------------------

    async def _step(self) -> None:
        chance = self._chance
        action = chance.random()
        if action < 0.35:
            self._announce()
        elif action < 0.45:
            self._withdraw()
        elif action < 0.65:
            self._change_page()
        elif action < 0.8:
            self._configure()
        elif action < 0.87:
            await self._restart()
        elif action < 0.92:
            self._withdrawn_end()
        elif running := sorted(self._host.running().values()):
            self._silent ^= {chance.choice(running)}
        await self._pass(chance.choice((1, 1, 10, 60, 300, 1000)))

    async def _pass(self, seconds: float) -> None:
        """Time goes by: announcements are gathered, workers read their pages, others have tried for long enough."""
        await asyncio.sleep(seconds)
        await self._settle()
        for _ in range(4):
            if not self._read_all():
                break
            await self._settle()
        self._give_up()
        await self._settle()
        missing = self._rules.missing(self._host.running())
        assert not missing, f"trusted, and without a worker: {sorted(missing)}"
        self.reached["announced"] += self._rules.announced > 0
        self.reached["many announced"] += self._rules.announced >= BUDGETS.listed
        self.reached["trusted by a page"] += self._rules.trusted > len(self._rules.roots)

    async def _end(self) -> None:
        """Strangers go, and nothing is left of them."""
        for service in list(self._announced):
            self._withdraw(service)
        for _ in range(4):
            self._silent |= {one for one in self._host.running().values() if self._rules.is_announced(one)}
            await self._pass(BUDGETS.give_up_after)
        left = {place for spec in self._disk.specs.values() if self._rules.is_announced(place := _place(spec))}
        assert not left, f"of what was announced is left: {sorted(left)}"

    async def _settle(self) -> None:
        await self._host.settle()

    def _announce(self) -> None:
        chance = self._chance
        interface = chance.choice(sorted(INTERFACES))
        address = chance.choice(_STRANGERS + _STRANGERS + _ARRAYS + (chance.choice(_REFUSED), "fe80::66"))
        # A storage subsystem that is announced as a discovery controller would take its place.
        nqn, port = chance.choice(((DISCOVERY_NQN, 8009), (DISCOVERY_NQN, 22), (chance.choice(_VOLUMES), 4420)))
        service = avahi.Service(
            interface, avahi.IPV6 if ":" in address else avahi.IPV4, f"dc{chance.randrange(12)}", avahi.TCP, "local"
        )
        news = avahi.Announced(service, address, port, (b"p=tcp", f"nqn={nqn}".encode()))
        self._announced[service] = news
        self._host.inventory.mdns._tell(news)

    def _withdraw(self, which: avahi.Service | None = None) -> None:
        if which is None and self._announced:
            which = self._chance.choice(sorted(self._announced))
        if which is not None:
            del self._announced[which]
            self._host.inventory.mdns._tell(avahi.Withdrawn(which))

    def _configure(self) -> None:
        """An administrator edits the configuration; firmware, the boot and Fibre Channel say what they have."""
        chance = self._chance
        self._configured = {place for place in _ROOTS if chance.random() < 0.12}
        if chance.random() < 0.5:
            self._other_roots = {
                NBFT: set(chance.sample(_ROOTS, chance.choice((0, 0, 1)))),
                BOOT: set(chance.sample(_ROOTS, chance.choice((0, 0, 1)))),
                FIBRE_CHANNEL: {_fabric(port) for port in _FC_PORTS[:1] if chance.random() < 0.5},
            }
        self._tell_roots()

    def _tell_roots(self) -> None:
        inventory = self._host.inventory
        config = FabricsConfig(
            tuple(_connection(place) for place in sorted(self._configured)),
            scopes={("", "io"): _SCOPE, ("", "discovery"): _SCOPE},
        )
        inventory.configure(config, _HOST, _SETTINGS)
        wishes = {
            origin: tuple(_wish(place, origin) for place in sorted(places))
            for origin, places in self._other_roots.items()
        }
        inventory.nbft.wishes = wishes.get(NBFT, ())
        inventory.fibre_channel.wishes = wishes.get(FIBRE_CHANNEL, ())
        inventory.booted(tuple(granted(wish, _SCOPE, _HOST, {}) for wish in wishes.get(BOOT, ())))
        self._rules.roots = self._configured.union(*self._other_roots.values())

    async def _restart(self) -> None:
        await self._host.inventory.names.close()
        self._host = Host(self._disk, self._rules)
        self._tell_roots()
        self._host.remember()
        for news in self._announced.values():
            self._host.inventory.mdns._tell(news)
        self.reached["restart"] += 1

    def _withdrawn_end(self) -> None:
        for instance in sorted(self._host.running()):
            if self._disk.specs[instance].note and self._chance.random() < 0.7:
                self._disk.end(instance, Report("withdrawn"))

    def _give_up(self) -> None:
        now = asyncio.get_running_loop().time()
        for instance, place in sorted(self._host.running().items()):
            spec = self._disk.specs[instance]
            over = spec.give_up_after and self._disk.began[instance] + spec.give_up_after <= now
            if place in self._silent and (spec.attempts or over):
                before = self._disk.reports.get(instance)
                report = Report(state.GIVEN_UP, "given up", attempt=spec.attempts, time=now)
                self._disk.end(instance, report)
                self._host.inventory.reported(instance, before, report)
                self.reached["given up"] += 1

    # Log pages ------------------------------------------------------------------------------------------------

    def _is_array(self, place: Place) -> bool:
        """Tell whether the administrator's array is there: on another link its address is somebody else's."""
        if place.address in _FC_PORTS:
            return True
        link = "eth1" if place.address.startswith("198.") else "eth0"
        return place.address in _ARRAYS and place.interface in ("", link)

    def _list(self, place: Place) -> list[Listed]:
        where = self._is_array(place), place.address, place.port
        if where not in self._lists:
            self._lists[where] = []
            self._fill(where)
        return self._lists[where]

    def _change_page(self) -> None:
        if self._lists:
            self._fill(self._chance.choice(sorted(self._lists)))

    def _fill(self, where: tuple[bool, str, str]) -> None:
        array, address, _ = where
        choose = self._of_array if array else self._of_stranger
        many = self._chance.choice((1, 2, 3)) if array else self._chance.choice((1, 3, 6, 12))
        self._lists[where] = list(dict.fromkeys(choose(address) for _ in range(many)))

    def _of_array(self, address: str) -> Listed:
        chance = self._chance
        if address in _FC_PORTS:
            return Listed(IO, _FC_PORTS[0], "", chance.choice(_VOLUMES))
        if chance.random() < 0.02:
            return self._of_stranger(address)
        if chance.random() < 0.08:
            return Listed(chance.choice((IO, DISCOVERY)), chance.choice(_REFUSED), "4420", DISCOVERY_NQN)
        if chance.random() < 0.3:
            return Listed(DISCOVERY, chance.choice(_ARRAYS), "8009", DISCOVERY_NQN)
        return Listed(IO, chance.choice(_ARRAYS), "4420", chance.choice(_VOLUMES))

    def _of_stranger(self, _: str) -> Listed:
        chance = self._chance
        address = chance.choice(_STRANGERS + _ARRAYS + (chance.choice(_REFUSED),))
        if chance.random() < 0.3:
            return Listed(DISCOVERY, address, "8009", DISCOVERY_NQN)
        nqn = chance.choice(_FOREIGN + _FOREIGN + _VOLUMES + (DISCOVERY_NQN,))
        return Listed(IO, address, chance.choice(("4420", "4420", "22")), nqn)

    def _read_all(self) -> bool:
        """Have the workers of discovery controllers read what has changed."""
        read = False
        for instance, place in sorted(self._host.running().items()):
            if place.role != DISCOVERY or place in self._silent:
                continue
            listed = tuple(self._list(place))
            before = self._disk.pages.get(instance)
            if before is None or before.listed != listed:
                self._pages += 1
                found = parse(page(*(_entry(one) for one in listed), generation=self._pages))
                now = asyncio.get_running_loop().time()
                self._disk.pages[instance] = Page(PageRead(found, now, "1", Asked.ALL_PORTS), listed, self._pages)
                read = True
        return read


def run(number: int) -> Counter[str]:
    """Return what the history with this number has reached. Raises AssertionError for what the rules do not allow."""

    async def main() -> Counter[str]:
        loop = asyncio.get_running_loop()
        with mock.patch.object(time, "clock_gettime", side_effect=lambda _: loop.time()):
            story = Story(number)
            await story.play()
        return story.reached

    with surroundings():
        return clock.run(main())


if __name__ == "__main__":
    # It would log thousands of entries that it refuses.
    logging.disable()
    run_all("tests.fuzz.trust", __doc__ or "", run)
