# SPDX-License-Identifier: Apache-2.0
"""Trust once more, in the simplest form: what a controller may have, and whether it may be started at all.

Nothing is shared with discoverd. Trusted is what the configuration, firmware, the boot or Fibre Channel asks for, and
what the log pages of these lead to; announced is everything else. Where discoverd may well do less, such as not to
follow a referral, nothing is said here: the model says what must never be, and what must be all the same.
"""

import functools
import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"


class Place(NamedTuple):
    """A controller: ``role`` is io or discovery, ``interface`` that to which its connection is bound, '' for none."""

    role: str
    interface: str
    address: str
    port: str
    nqn: str


class Listed(NamedTuple):
    """An entry of a log page; one with the role discovery is a referral."""

    role: str
    address: str
    port: str
    nqn: str


@dataclass(frozen=True, slots=True)
class Budgets:
    """What all controllers together may have that only announcements lead to.

    ``controllers`` are discovery controllers that are announced, ``listed`` what their log pages list, ``referrals``
    among them; one that was announced may go on as a referral. One without a connection is given up after so many
    ``attempts``, or after so many seconds (``give_up_after``), at the latest.
    """

    controllers: int
    listed: int
    referrals: int
    attempts: int
    give_up_after: int


@dataclass(frozen=True, slots=True)
class Written:
    """What a worker is told to connect. ``keyed``: with a key of the host. ``trusted`` is what discoverd takes it for.

    Without a connection it ends after so many ``attempts`` or seconds (``give_up_after``), 0 for never. ``started``: it
    is to be started now, and did not run. ``again``: it is connected again when it is lost.
    """

    place: Place
    keyed: bool
    trusted: bool
    attempts: int
    give_up_after: int
    started: bool
    again: bool


class Rules:
    """``own`` are the addresses of this host, and ``broadcast`` those of its networks."""

    def __init__(self, own: frozenset[str], broadcast: frozenset[str], budgets: Budgets) -> None:
        self._own = own
        self._broadcast = broadcast
        self._budgets = budgets
        # What the configuration, firmware, the boot and Fibre Channel ask for.
        self.roots: set[Place] = set()
        # What discovery controllers list, by the place at which they were read.
        self.pages: dict[Place, tuple[Listed, ...]] = {}
        # What workers were told of last because it is trusted, and what because it is announced; and what of the
        # latter an announcement has had started.
        self._as_trusted: set[Place] = set()
        self._as_announced: set[Place] = set()
        self._started: set[Place] = set()
        # What was told of as trusted last: it may stand for what is asked for with another interface, or with none.
        self._stand_ins: set[Place] = set()
        # What runs and is asked for: what else runs speaks for nobody any more.
        self._wanted: set[Place] = set()

    def _trusted(self, through: Collection[Place] | None = None) -> set[Place]:
        """Follow the log pages from what is trusted to all that these lead to, or at most may.

        With ``through``, only what must be trusted: along the pages of these, and to none of this host's addresses.
        """
        found: set[Place] = set()
        waiting = list(self.roots)
        while waiting:
            parent = waiting.pop()
            if parent in found:
                continue
            found.add(parent)
            waiting += [one for one in self._stand_ins if _stands_for(one, parent)]
            if through is not None and parent not in through:
                continue
            for entry in self.pages.get(parent, ()):
                address = _address(entry.address, parent.address.partition("%")[2] or parent.interface)
                child = Place(entry.role, parent.interface, address, entry.port, entry.nqn)
                if address and not self._refused(child, parent if through is None else None):
                    waiting.append(child)
        return found

    def _is_here(self, address: str) -> bool:
        """Tell whether an address is one of this host."""
        address = address.partition("%")[0]
        return address in self._own or (_is_numeric(address) and _ip(address).is_loopback)

    def _refused(self, place: Place, parent: Place | None) -> bool:
        """Tell whether a place must not be connected to: nobody's, or this host's, unless its parent is there too."""
        address = place.address.partition("%")[0]
        if _is_numeric(address):
            ip = _ip(address)
            if ip.is_unspecified or ip.is_multicast or address in self._broadcast:
                return True
        if self._is_here(address) and (parent is None or not self._is_here(parent.address)):
            return True
        return place.role == "io" and place.nqn == DISCOVERY_NQN

    def judge(self, written: Collection[Written], running: Mapping[str, Place]) -> None:
        """Take what workers are told at one moment, and all that runs after that.

        Raises AssertionError for what must never be.
        """
        there = set(running.values())
        self._stand_ins = {one.place for one in written if one.trusted}
        self._wanted = {one.place for one in written}
        may, must = self._trusted(), self._trusted(self._wanted)
        # What is trusted no more goes on where it is, if it is announced.
        still = (self._as_trusted & there) - {one.place for one in written if not one.trusted}
        theirs = {one for one in must | still if one.role == "io"}
        for one in written:
            place = one.place
            if one.trusted:
                assert place in may, f"trusted, and only announcements lead to it: {place}"
                self._as_trusted.add(place)
                self._as_announced.discard(place)
                self._started.discard(place)
                continue
            assert place not in must, f"an announcement has taken over what is trusted: {place}"
            assert not one.keyed, f"a key for what is announced: {place}"
            soon = 0 < one.attempts <= self._budgets.attempts
            soon = soon or 0 < one.give_up_after <= self._budgets.give_up_after
            assert soon, f"not given up in time: {place}"
            # A discovery controller by such a name would be one of its controllers to the kernel, too.
            if one.started or one.again:
                taken = any(one.nqn == place.nqn for one in theirs)
                assert not taken, f"a path of an announcement in a trusted subsystem: {place}"
            self._as_trusted.discard(place)
            self._as_announced.add(place)
            if one.started:
                assert not self._refused(place, None), f"an address that is not to be connected to: {place}"
                self._started.add(place)
        self._started &= there
        most = self._budgets.controllers + self._budgets.listed + self._budgets.referrals
        assert len(self._started) <= most, f"{len(self._started)} workers for announcements, and {most} are the limit"

    def missing(self, running: Mapping[str, Place]) -> set[Place]:
        """Return what is trusted and has no worker: no announcement may be the reason for that."""
        there = {(place.role, *place[2:]) for place in running.values()}
        return {one for one in self._trusted(self._wanted) if (one.role, *one[2:]) not in there}

    @property
    def announced(self) -> int:
        """How many run because of announcements."""
        return len(self._started)

    @property
    def trusted(self) -> int:
        """How many workers were told of what is trusted."""
        return len(self._as_trusted)

    def is_announced(self, place: Place) -> bool:
        """Tell whether its worker was last told of it because of an announcement."""
        return place in self._as_announced


def _stands_for(one: Place, other: Place) -> bool:
    """Tell whether one may be connected in place of another: where either is content with any interface."""
    return "" in (one.interface, other.interface) and (one[0], one[2:]) == (other[0], other[2:])


def _is_numeric(address: str) -> bool:
    """Tell an IP address from one of Fibre Channel."""
    return not address.startswith("nn-")


@functools.cache
def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address)


@functools.cache
def _address(address: str, zone: str) -> str:
    """Return an address of a log page as discoverd writes it, '' for one of a link that is not known."""
    if not _is_numeric(address):
        return address
    ip = _ip(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    if ip.version == 6 and ip.is_link_local:
        return f"{ip}%{zone}" if zone else ""
    return str(ip)
