# SPDX-License-Identifier: Apache-2.0
"""What the discovery controllers of a fabric know: themselves, each other, subsystems, zones, who has seen what."""

import dataclasses
import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from .misbehaviour import Behaviour, Distortion
from .record import Record

WELL_KNOWN = "nqn.2014-08.org.nvmexpress.discovery"
REFERRAL, NVM, CURRENT = 1, 2, 3
EPCSD = 2


@dataclass
class Instance:
    """One discovery controller, and what it says of itself. All of it may change while it serves."""

    name: str
    address: str = "127.0.0.1"
    port: int = 8009
    # None: it has the well-known discovery NQN only. A unique one is answered to beside that.
    nqn: str | None = None
    dctype: str = "cdc"
    # Its entry for itself says that it takes explicit persistent connections.
    epcsd: bool = True
    # Further bits of EFLAGS in that entry: 1 duplicate information, 4 not connected to the CDC.
    eflags: int = 0
    self_entry: bool = True
    # Keep-alive granularity in 100 ms; 0: it knows no keep-alive.
    kas: int = 10
    events: bool = True
    dim: bool = True
    # Bits of the discovery log page in Supported Log Pages: 1 extended entries, 2 port local, 4 all subsystems.
    log_options: int = 7
    # Host NQNs that may connect; None: all.
    hosts: list[str] | None = None
    header_digest: bool = True
    data_digest: bool = True
    # Successful data goes without a completion of its own. Otherwise so only where SQ flow control is off.
    success_flag: bool = False
    max_h2c_data: int = 65536
    # Seconds after which it drops a connection, whatever it promised; None: never.
    drop_after: float | None = None
    counters: Counter[str] = field(default_factory=Counter)
    distortion: Distortion = field(default_factory=Distortion)

    @property
    def identity(self) -> str:
        return self.nqn or WELL_KNOWN


@dataclass(frozen=True)
class Entry:
    """One record of a discovery log page, and which instances list it (None: all)."""

    nqn: str
    traddr: str
    trsvcid: str = "4420"
    trtype: int = 3
    adrfam: int | None = None
    subtype: int = NVM
    treq: int = 0
    portid: int = 1
    cntlid: int = 0xFFFF
    asqsz: int = 32
    eflags: int = 0
    sectype: int = 0
    instances: tuple[str, ...] | None = None

    @property
    def family(self) -> int:
        if self.adrfam is not None:
            return self.adrfam
        try:
            return 2 if ipaddress.ip_address(self.traddr.partition("%")[0]).version == 6 else 1
        except ValueError:
            return 1


@dataclass(frozen=True)
class Zone:
    """These hosts see these subsystems. Where a fabric has zones, a host sees what a zone of its own names."""

    hosts: frozenset[str]
    subsystems: frozenset[str]


class Listener(Protocol):
    """A connected host's session, as the fabric sees it."""

    @property
    def instance(self) -> Instance: ...

    @property
    def host(self) -> str: ...

    def notify(self, *, force: bool = False) -> None: ...


@dataclass
class View:
    """What one host sees at one instance, and how often that changed."""

    entries: tuple[Entry, ...]
    generation: int = 1


class Fabric:
    """The model that every session reads. `changed` is to be called after any change of it."""

    def __init__(self, instances: Iterable[Instance] = ()) -> None:
        self.instances = {instance.name: instance for instance in instances}
        self.entries: list[Entry] = []
        self.zones: dict[str, Zone] = {}
        # From an instance to those that it refers to.
        self.referrals: dict[str, list[str]] = {}
        self.behaviour = Behaviour()
        self.record = Record()
        self.sessions: set[Listener] = set()
        self._views: dict[tuple[str, str], View] = {}
        self._shared: dict[tuple[str, frozenset[str] | None], tuple[Entry, ...]] = {}
        self._cntlid = 0

    def next_cntlid(self) -> int:
        self._cntlid = self._cntlid % 0xFFEF + 1
        return self._cntlid

    def view(self, instance: Instance, host: str) -> View:
        """What this host sees; the generation counts from the host's first look."""
        key = instance.name, host
        if key not in self._views:
            self._views[key] = View(self._entries(instance, host))
        return self._views[key]

    def all_subsystems(self, instance: Instance) -> tuple[Entry, ...]:
        """What is there whatever the zones say."""
        return self._listed(instance, None)

    def changed(self, *, quiet: bool = False, always: bool = False) -> int:
        """Compares what each host sees with what it saw; returns how many views have a new generation.

        Hosts that asked for events get one, unless `quiet`. With `always` every view counts as changed.
        """
        self._shared.clear()
        moved = set()
        for (name, host), view in self._views.items():
            entries = self._entries(self.instances[name], host)
            if always or entries != view.entries:
                view.entries = entries
                view.generation += 1
                moved.add((name, host))
        if not quiet:
            for session in tuple(self.sessions):
                if (session.instance.name, session.host) in moved:
                    session.notify()
        return len(moved)

    def advance(self, instance: Instance, host: str) -> None:
        """A new generation of a log page in which nothing changed."""
        self.view(instance, host).generation += 1

    def _entries(self, instance: Instance, host: str) -> tuple[Entry, ...]:
        member = frozenset(name for name, zone in self.zones.items() if host in zone.hosts) if self.zones else None
        return self._listed(instance, member)

    def _listed(self, instance: Instance, zones: frozenset[str] | None) -> tuple[Entry, ...]:
        key = instance.name, zones
        if key not in self._shared:
            self._shared[key] = tuple(self._list(instance, zones))
        return self._shared[key]

    def _list(self, instance: Instance, zones: frozenset[str] | None) -> Iterable[Entry]:
        if instance.self_entry:
            yield dataclasses.replace(_own(instance, CURRENT), eflags=instance.eflags | EPCSD * instance.epcsd)
        for name in self.referrals.get(instance.name, ()):
            yield _own(self.instances[name], REFERRAL)
        visible = None if zones is None else frozenset().union(*(self.zones[name].subsystems for name in zones))
        for entry in self.entries:
            if entry.instances is not None and instance.name not in entry.instances:
                continue
            if visible is None or entry.subtype != NVM or entry.nqn in visible:
                yield entry


def _own(instance: Instance, subtype: int) -> Entry:
    return Entry(instance.identity, instance.address, str(instance.port), subtype=subtype, portid=0)
