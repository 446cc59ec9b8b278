# SPDX-License-Identifier: Apache-2.0
"""The log pages of all discovery controllers, followed from one to the next along their referrals."""

import functools
from collections.abc import Collection, Iterator, Mapping

from discoverd.config.model import Connection, DiscoveredScope, Role
from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.candidate import SOURCES, Candidate, Refusal, Target, as_host
from discoverd.plan.evidence import Asked, Evidence, Pending, Reading
from discoverd.plan.facts import Answer, Known
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import PageRead
from discoverd.plan.planner import asking, closed
from discoverd.sources import discovery_log
from discoverd.sources.discovery_log import Listing, Parent
from discoverd.sources.walk import Context, Listed, Walk


class LogPages:
    """Keeps the last good page of each discovery controller, by the instance of its unit.

    After :meth:`follow`, ``refusals`` has what is refused of all pages, ``authoritative`` the discovery controllers
    whose page means something by its gaps, with what that is, and ``inconclusive`` what speaks against the other pages.
    ``pending`` has what a page lists no longer without having proved it yet, ``waiting`` those of them that go once it
    has, ``listed`` how many it lists, with those that wait or went lately, and ``closed`` the discovery controllers
    that nobody leads to any more. ``whole`` are those of ``authoritative`` whose page says all about everything, and
    ``settled`` those whose page has said the same for some minutes. ``passed_over`` has by discovery controller what it
    lists over a transport that is not followed, or at an address of a family that is not connected to.
    """

    def __init__(self) -> None:
        self._pages: dict[str, PageRead] = {}
        # Those that were not taken as evidence yet.
        self._new: set[str] = set()
        self._evidence: dict[str, Evidence] = {}
        self._stamps: dict[str, str] = {}
        # Those of the pages that are kept.
        self._kept: dict[str, str] = {}
        # A page of thousands is not gone through at each event.
        self._listed: dict[str, Listed] = {}
        self.refusals: tuple[Refusal, ...] = ()
        self.authoritative: Mapping[str, Answer] = {}
        self.whole: frozenset[str] = frozenset()
        self.settled: frozenset[str] = frozenset()
        self.inconclusive: Mapping[str, str] = {}
        self.pending: dict[str, Mapping[str, Pending]] = {}
        self.waiting: dict[str, frozenset[str]] = {}
        self.listed: dict[str, int] = {}
        self.closed: frozenset[str] = frozenset()
        self.passed_over: dict[str, tuple[Candidate, ...]] = {}
        # Those that are reached now, with or without a page, and how many referrals away.
        self.depths: dict[str, int] = {}

    def news(self, instance: str, stamp: str) -> bool:
        """Tell whether there may be a page that was not read yet, given the stamp in its worker's report.

        A worker that has just started has read none, and has no stamp: the page that an earlier one left still counts.
        """
        if instance in self._stamps and stamp in ("", self._stamps[instance]):
            return False
        self._stamps[instance] = stamp
        return True

    def __contains__(self, instance: str) -> bool:
        return instance in self._pages

    def put(self, instance: str, read: PageRead) -> None:
        """Take a new page."""
        self._pages[instance] = read
        self._new.add(instance)
        self._kept[instance] = self._stamps.get(instance, "")

    def fresh(self, instance: str, stamp: str) -> bool:
        """Tell whether the page is the one that its worker, whose report has this stamp, has on this connection."""
        return bool(stamp) and self._kept.get(instance) == stamp

    def forget(self, instance: str) -> None:
        """Drop the page of what nobody asks for, if there is one."""
        self._pages.pop(instance, None)
        self._new.discard(instance)
        self._evidence.pop(instance, None)
        self._kept.pop(instance, None)
        self._stamps.pop(instance, None)
        self._listed.pop(instance, None)

    def follow(
        self, wanted: Wanted, context: Context, excluded: Mapping[str, str], known: Mapping[str, Known]
    ) -> Iterator[None]:
        """Put into ``wanted`` what the pages ask for (see Walk), and work out what they prove.

        It yields after each page, and each step costs as much as one has entries. Nothing else may be done with the
        pages and ``wanted`` before the last step; of ``known`` counts what it is now.
        """
        known = dict(known)
        read = functools.partial(self._list, context)
        walk = Walk(wanted, context, excluded, known, read)
        yield from walk.steps()
        self.depths, self.passed_over, self.refusals = walk.depths, walk.passed_over, tuple(walk.refusals)
        yield from self._conclude(walk.used, wanted, known, context.share)

    def confirm(self, instance: str, units: Collection[str]) -> None:
        """Take an administrator's word that the page of this discovery controller rightly lists these no longer."""
        if instance in self._evidence:
            self._evidence[instance].confirm(units)

    def _conclude(
        self, used: Mapping[str, Listing], wanted: Wanted, known: Mapping[str, Known], share: int
    ) -> Iterator[None]:
        """Work out what the pages prove that were used."""
        referred: dict[str, dict[str, Target]] = {instance: {} for instance in used}
        for unit, one in known.items():
            for origin in one.all_referrers:
                if origin in referred and origin != unit:
                    referred[origin][unit] = one.target
        descendants = _Descendants(known)
        authoritative: dict[str, Answer] = {}
        self.pending, self.waiting, self.listed = {}, {}, {}
        whole, settled = set(), set()
        for instance, listing in used.items():
            yield
            theirs = referred[instance]
            if instance in self._new:
                self._new.discard(instance)
                self._read(instance, listing, wanted, theirs)
            if listing.inconclusive:
                continue
            gap = _Gap(instance, theirs, wanted, known, descendants)
            verdict = self._evidence[instance].judge(theirs, gap.stays, gap.weigh, share)
            read = self._pages[instance]
            # The page lists it, but another unit stands for that by now.
            targets = {one.target for one in wanted.of(instance)}
            moved = {
                unit for unit, target in theirs.items() if target in targets and not asking(unit, wanted.asked, known)
            }
            authoritative[instance] = Answer(f"generation {read.page.generation}", verdict.absent | moved)
            self.pending[instance], self.listed[instance] = verdict.pending, verdict.listed
            if verdict.waiting:
                self.waiting[instance] = verdict.waiting
            # What is not for this host to connect is no gap in what the page says.
            served = len(wanted.of(instance)) + len(self.passed_over.get(instance, ()))
            all_served = served == len(listing.candidates) and not listing.possible_nqns
            if verdict.settled:
                settled.add(instance)
            if read.asked is Asked.ALL_PORTS and all_served and not verdict.pending:
                whole.add(instance)
        self.authoritative, self.whole, self.settled = authoritative, frozenset(whole), frozenset(settled)
        self.inconclusive = {
            instance: listing.inconclusive for instance, listing in used.items() if listing.inconclusive
        }
        self.closed = closed(known, wanted.asked, authoritative)

    def _read(self, instance: str, listing: Listing, wanted: Wanted, referred: Mapping[str, Target]) -> None:
        """Take a page that was read as evidence."""
        read, tid = self._pages[instance], self._listed[instance].tid
        listed = {wanted.unit_of(one): one.target for one in wanted.of(instance)}
        # What is beyond a limit of ours is listed all the same.
        beyond = {one.target for one in listing.candidates} - set(listed.values())
        listed |= {unit: target for unit, target in referred.items() if target in beyond}
        if instance not in self._evidence:
            self._evidence[instance] = Evidence((tid.transport, tid.traddr.partition("%")[0]))
        generation = read.page.generation
        reading = Reading(
            read.time, read.connection, generation, read.asked, listed, listing.inconclusive, listing.possible_nqns
        )
        self._evidence[instance].read(reading, referred)

    def _list(
        self, context: Context, instance: str, parent: Candidate, via: Connection | None, trusted: bool
    ) -> Listed | None:
        if instance not in self._pages:
            return None
        read = self._pages[instance]
        last = self._listed.get(instance)
        basis = (read.page, parent.tid, via, trusted)
        if last and (last.page, last.tid, last.via, last.trusted) == basis and last.context is context:
            return last
        io = _scope(context, via, "io", parent.tid.hostnqn)
        discovery = _scope(context, via, "discovery", parent.tid.hostnqn)
        about = Parent(
            parent.tid,
            instance,
            io,
            discovery,
            context.give_up_after,
            read.time,
            trusted,
            context.ncc_attempts,
            context.addresses,
        )
        listing = discovery_log.candidates(read.page, about, context.host)
        self._listed[instance] = Listed(read.page, context, parent.tid, via, trusted, listing)
        return self._listed[instance]


class _Descendants:
    """What log pages list, and what that lists in turn. ``below`` has the units that a discovery controller has
    listed."""

    def __init__(self, known: Mapping[str, Known]) -> None:
        self._referrers: dict[str, frozenset[str]] = {}
        self.below: dict[str, list[str]] = {}
        for unit, one in known.items():
            if one.origin in SOURCES:
                continue
            self._referrers[unit] = one.all_referrers - {unit}
            for origin in self._referrers[unit]:
                self.below.setdefault(origin, []).append(unit)

    def count(self, units: set[str], through: set[str]) -> int:
        """Return how many more controllers nobody leads to without these units, along the referrals ``through``."""
        gone = set(through)
        waiting = list(through)
        while waiting:
            for unit in self.below.get(waiting.pop(), ()):
                if unit not in gone and unit not in units and self._referrers[unit] <= gone:
                    gone.add(unit)
                    waiting.append(unit)
        return len(gone - through)


class _Gap:
    """What it means that a page lists controllers no longer that it did, with where they are (``theirs``)."""

    def __init__(
        self,
        instance: str,
        theirs: Mapping[str, Target],
        wanted: Wanted,
        known: Mapping[str, Known],
        descendants: _Descendants,
    ) -> None:
        self._instance = instance
        self._theirs = theirs
        self._wanted = wanted
        self._known = known
        self._descendants = descendants

    def stays(self, unit: str) -> bool:
        """Tell whether somebody else asks for it, there or in other words."""
        trusted = unit in self._known and self._known[unit].trusted
        targets = self._wanted.trusted_targets if trusted else self._wanted.targets
        return bool(self._asking(unit)) or self._theirs.get(unit) in targets

    def weigh(self, units: Collection[str]) -> int:
        """Return how many go with these, themselves among them."""
        # With a referral to what others ask for as well nothing goes.
        through = {
            unit
            for unit in units
            if unit in self._descendants.below and all(one.origin == self._instance for one in self._asking(unit))
        }
        return len(units) + self._descendants.count(set(units), through)

    def _asking(self, unit: str) -> tuple[Candidate, ...]:
        return asking(unit, self._wanted.asked, self._known)


def _scope(context: Context, via: Connection | None, role: Role, hostnqn: str) -> DiscoveredScope:
    scope = context.config.discovered(via, role)
    if via is None and any(canonical_nqn(one) == hostnqn for one in context.hostids):
        scope = as_host(scope, hostnqn, context.hostids)
    return scope
