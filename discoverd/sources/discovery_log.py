# SPDX-License-Identifier: Apache-2.0
"""The controllers that a discovery log page lists, checked as the hostile input it may be."""

import functools
import ipaddress
from dataclasses import dataclass

from discoverd.config.errors import ConfigError
from discoverd.config.identity import HostIdentity
from discoverd.config.model import DiscoveredScope
from discoverd.config.named import said_of
from discoverd.kernel.addresses import NO_ADDRESSES, HostAddresses
from discoverd.kernel.admin import READ_ENTRIES, READ_UNTRUSTED_ENTRIES, TRTYPES
from discoverd.plan.budgets import ANNOUNCED_ATTEMPTS, ANNOUNCED_GIVE_UP_SECONDS
from discoverd.plan.candidate import Candidate, Refusal, Target, Terms, for_announced, listed_by, terms_for
from discoverd.plan.log_page import (
    DUPLICATE_RETURNED_INFORMATION,
    NOT_CONNECTED_TO_CDC,
    NVM,
    REFERRAL,
    SELF,
    Entry,
    LogPage,
)
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TidError, TransportId, canonical_address, check_peer_nqn

# So many entries of one page are refused each by itself: all refusals go into the plan and, once, into the journal.
REFUSALS = 64


@dataclass(frozen=True, slots=True)
class Parent:
    """The discovery controller whose page it is, and what those that it lists are connected with.

    ``io`` and ``discovery`` are what the configuration has for discovered controllers of these roles. A referral is
    given up after ``give_up_after`` seconds without a connection, and ``asked`` is when the page came (seconds,
    CLOCK_BOOTTIME). What the page says is not connected to the central discovery controller is tried ``ncc_attempts``
    times, 0 for as often as it takes. ``trusted`` as in Candidate: what it lists is as trusted as
    it is, and gets keys only if it is. ``addresses`` are this host's.
    """

    tid: TransportId
    instance: str
    io: DiscoveredScope
    discovery: DiscoveredScope
    give_up_after: int
    asked: float
    trusted: bool = False
    ncc_attempts: int = 0
    addresses: HostAddresses = NO_ADDRESSES


@dataclass(frozen=True, slots=True)
class Listing:
    """What a page asks for, what of it is refused, and what it proves about the rest.

    ``inconclusive`` says why nothing follows from what the page does not list, '' if something does.
    ``possible_nqns`` are the NQNs of entries that cannot be used: a controller with such a name may be listed all the
    same.
    """

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    inconclusive: str
    possible_nqns: frozenset[str] = frozenset()


def candidates(page: LogPage, parent: Parent, host: HostIdentity) -> Listing:
    """Understand a page.

    One without an entry for storage is not evidence: controllers send it while they start. A controller takes the
    host's side of the connection from the discovery controller only where the transport is the same.
    """
    where = f"in the log page of {parent.instance}"
    wanted = []

    def refusal(what: str, reason: str, target: Target = ("", "", "", "")) -> Refusal:
        return Refusal(what, where, reason, trusted=parent.trusted, target=target)

    refused = [refusal(f"entry {number}", reason) for number, reason in page.refused]
    faults: set[str] = set()
    possible_nqns: set[str] = set()
    unreadable = len(refused)
    roles = {NVM: _Role(IO, parent, host), REFERRAL: _Role(DISCOVERY, parent, host)}
    for entry in page.entries:
        # The flag is about the log page that a discovery controller returns, and says nothing about storage.
        twin = entry.subtype == REFERRAL and entry.eflags & DUPLICATE_RETURNED_INFORMATION
        if entry.subtype == SELF or twin:
            continue
        try:
            if entry.subtype not in roles:
                raise TidError(f"its subsystem type {entry.subtype} is unknown")
            role = roles[entry.subtype]
            terms = role.terms_for(entry.subnqn)
            tid = _identify(entry, role.role, parent, terms.persona if terms else "")
        except (TidError, ConfigError) as error:
            target = (TRTYPES.get(entry.trtype, ""), entry.traddr, entry.trsvcid, entry.subnqn)
            refused.append(refusal(f"entry {entry.number}, {entry.subnqn[:80]!r}", str(error), target))
            could_be = _could_be(entry)
            unreadable += could_be is None
            possible_nqns |= could_be or frozenset()
            continue
        if terms:
            wanted.append(role.candidate(tid, terms, bool(entry.eflags & NOT_CONNECTED_TO_CDC)))
        else:
            faults.add(role.fault)
    if len(refused) > REFUSALS:
        more = len(refused) - REFUSALS
        refused[REFUSALS:] = [refusal(f"{more} more entries", "they cannot be connected either")]
    if page.beyond:
        most = READ_ENTRIES if parent.trusted else READ_UNTRUSTED_ENTRIES
        why = f"no more than {most} entries of a log page are looked at"
        why += "" if parent.trusted else " where only an announcement leads to it"
        refused.append(refusal(f"{page.beyond} entries", why))
    refused += [refusal("everything", fault) for fault in sorted(faults)]
    inconclusive = ""
    if unreadable:
        inconclusive = f"{unreadable} {'entry' if unreadable == 1 else 'entries'} of its log page cannot be read"
    elif not page.consistent:
        size = f"{page.length} bytes"
        inconclusive = f"the length of its log page, {size}, does not fit its number of entries, {page.records}"
    elif page.beyond or faults:
        inconclusive = "not all of its log page can be used"
    elif not any(one.role == IO for one in wanted):
        inconclusive = "its log page lists nothing"
    return Listing(tuple(wanted), tuple(refused), inconclusive, frozenset(possible_nqns))


def _could_be(entry: Entry) -> frozenset[str] | None:
    """Return the NQNs that an entry which cannot be used could have been; None if it could have been any.

    A Fibre Channel port is understood, and no path of another transport. Whatever else is wrong with an entry, its name
    can be told from others where it is an NQN. What is no NQN at all, as with older Linux targets, is the name of
    something else.
    """
    if entry.subtype not in (NVM, REFERRAL) or (entry.subtype == NVM and entry.subnqn == DISCOVERY_NQN):
        return None
    if TRTYPES.get(entry.trtype) == "fc" and _is_fc_port(entry.traddr):
        return frozenset()
    if entry.subtype == REFERRAL:
        return frozenset((DISCOVERY_NQN,))
    try:
        return frozenset((check_peer_nqn(entry.subnqn),))
    except TidError:
        text = entry.subnqn
        plain = text.isascii() and text.isprintable() and " " not in text
        return frozenset() if plain and text and not text.lower().startswith("nqn.") else None


def _is_fc_port(traddr: str) -> bool:
    try:
        return bool(canonical_address("fc", traddr))
    except TidError:
        return False


class _Role:
    """What all that a page lists with one role have in common: worked out once, for there may be thousands.

    ``fault`` says why the configuration has no terms for them, '' if it has.
    """

    def __init__(self, role: str, parent: Parent, host: HostIdentity) -> None:
        self.role = role
        self.fault = ""
        self._parent = parent
        self._host = host
        self._source = listed_by(role, parent.instance)
        self._scope = parent.discovery if role == DISCOVERY else parent.io
        self._terms: Terms | None = None
        self._by_nqn: dict[str, Terms] = {}
        try:
            self._terms = Terms.make(role, self._scope if parent.trusted else for_announced(self._scope), host)
        except ConfigError as error:
            self.fault = str(error)

    def terms_for(self, nqn: str) -> Terms | None:
        """Return the terms for controllers of this NQN, None if there are none for all that the page lists.

        Raises ConfigError where there are none because of what the configuration says about this NQN.
        """
        if said_of(self._scope, nqn, self._host.hostnqn) is None:
            return self._terms
        if nqn not in self._by_nqn:
            self._by_nqn[nqn] = terms_for(nqn, self.role, self._scope, self._host, trusted=self._parent.trusted)
        return self._by_nqn[nqn]

    def candidate(self, tid: TransportId, terms: Terms, ncc: bool) -> Candidate:
        parent = self._parent
        give_up_after, asked = (parent.give_up_after, parent.asked) if self.role == DISCOVERY else (0, 0.0)
        attempts = parent.ncc_attempts if ncc else 0
        if not parent.trusted:
            give_up_after, asked, attempts = ANNOUNCED_GIVE_UP_SECONDS, parent.asked, ANNOUNCED_ATTEMPTS
        options = terms.options(tid, self.role)
        return Candidate(
            tid,
            self.role,
            self._source,
            parent.instance,
            options,
            give_up_after,
            asked,
            trusted_parent=parent.trusted,
            attempts=attempts,
            persistent=terms.persistent,
            symname=terms.symname,
        )


def _identify(entry: Entry, role: str, about: Parent, persona: str) -> TransportId:
    parent = about.tid
    if entry.subtype == NVM and entry.subnqn == DISCOVERY_NQN:
        raise TidError("it is an I/O controller with the NQN of discovery controllers")
    transport = TRTYPES.get(entry.trtype, "")
    if not transport:
        raise TidError(f"its transport type {entry.trtype} is unknown")
    same = transport == parent.transport
    if not same and transport in ("fc", "loop"):
        # An FC controller needs a port of this host, and loop would attach the host's own disks a second time.
        raise TidError(f"a discovery controller on {parent.transport} cannot refer to {transport}")
    tid = TransportId.make(
        role,
        transport,
        _zoned(entry.traddr, parent) if transport in ("tcp", "rdma") else entry.traddr,
        entry.trsvcid if transport in ("tcp", "rdma") else "",
        entry.subnqn,
        host_traddr=parent.host_traddr if same else "",
        host_iface=parent.host_iface if same else "",
        hostnqn=persona,
    )
    if transport in ("tcp", "rdma"):
        fault = about.addresses.fault(tid.traddr)
        # A host that is a target itself, and whose discovery controller somebody trusted asks for, may list itself.
        own = about.addresses.has(tid.traddr)
        if fault and not (own and about.trusted and about.addresses.has(parent.traddr)):
            raise TidError(fault + (", and the discovery controller is not" if own else ""))
    return tid


@functools.lru_cache(maxsize=1024)
def _zoned(traddr: str, parent: TransportId) -> str:
    """Return a link-local address with the interface that leads to the discovery controller; others as they are.

    A zone that the page gives is an interface of the discovery controller's host, and means nothing here.
    """
    address = traddr.partition("%")[0]
    try:
        link_local = ":" in address and ipaddress.ip_address(address).is_link_local
    except ValueError:
        return traddr
    if not link_local:
        return traddr
    zone = parent.traddr.partition("%")[2] or parent.host_iface
    if not zone:
        raise TidError(f"{address} is an address of one link, and the discovery controller's does not tell of which")
    return f"{address}%{zone}"
