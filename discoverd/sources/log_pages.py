# SPDX-License-Identifier: Apache-2.0
"""The log pages of all discovery controllers, followed from one to the next along their referrals."""

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Role
from discoverd.kernel.addresses import NO_ADDRESSES, HostAddresses
from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.budgets import ANNOUNCED_LISTED, ANNOUNCED_REFERRALS
from discoverd.plan.candidate import AUTHORITIES, SOURCES, Candidate, Refusal, Target, as_host
from discoverd.plan.evidence import Asked, Evidence, Pending, Reading
from discoverd.plan.facts import Answer, Known
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import LogPage, PageRead
from discoverd.plan.planner import asking, closed
from discoverd.sources import discovery_log
from discoverd.sources.discovery_log import Listing, Parent
from discoverd.tid import DISCOVERY, TransportId

# A log page is an order to run processes, and it comes from the network: so many for one discovery controller,
# over all the pages that it has ever sent.
LIMIT = 1024
# And so many for all of them: anybody on a link can announce discovery controllers, and each has a page.
TOTAL = 4096
# Referrals lead so far, as with nvme-cli, and to no more discovery controllers than this.
DEPTH = 8
REFERRALS = 256


@dataclass(frozen=True, slots=True)
class Context:
    """What log pages are understood with. ``hostids`` has the host IDs of host NQNs that firmware brought along.

    ``give_up_after``, ``ncc_attempts`` and ``addresses`` as in Parent. ``share`` is how much of what a page listed may
    be withdrawn at once (per cent). ``lacking`` as in discoverd.sources.transports.
    """

    config: FabricsConfig
    host: HostIdentity
    discovery: Mapping[str, Connection]
    hostids: Mapping[str, str]
    give_up_after: int
    ncc_attempts: int
    share: int
    addresses: HostAddresses = NO_ADDRESSES
    lacking: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Listed:
    """What one page asks for, and what that was derived from."""

    page: LogPage
    context: Context
    tid: TransportId
    via: Connection | None
    trusted: bool
    listing: Listing


class LogPages:
    """Keeps the last good page of each discovery controller, by the instance of its unit.

    After :meth:`follow`, ``refusals`` has what is refused of all pages, ``authoritative`` the discovery controllers
    whose page means something by its gaps, with what that is, and ``inconclusive`` what speaks against the other pages.
    ``pending`` has what a page lists no longer without having proved it yet, ``waiting`` those of them that go once it
    has, ``listed`` how many it lists, with those that wait or went lately, and ``closed`` the discovery controllers
    that nobody leads to any more. ``whole`` are those of ``authoritative`` whose page says all about everything, and
    ``settled`` those whose page has said the same for some minutes. ``passed_over`` has by discovery controller what it
    lists over a transport that is not followed.
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
        self._listed: dict[str, _Listed] = {}
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
        """Put into ``wanted`` what the pages ask for, beginning with the discovery controllers that others ask for.

        Breadth first, and each controller once, whatever refers to it: rings end. What only discovery controllers that
        nobody leads to any more list is not asked for, nor is what an excluded one lists.

        It yields after each page, and each step costs as much as one has entries. Nothing else may be done with the
        pages and ``wanted`` before the last step; of ``known`` counts what it is now.
        """
        known = dict(known)
        asked = {instance: wanted.asked[instance] for instance in wanted.discovery}
        origins = {instance: {one.origin for one in asked[instance]} for instance in asked}
        # What an administrator asks for has its place before what others do, and all that it leads to before what
        # anybody on a link can announce.
        roots = sorted(one for one in asked if origins[one] & AUTHORITIES)
        roots.sort(key=lambda instance: not asked[instance][0].configured)
        announced = sorted(one for one in asked if origins[one] & SOURCES and not origins[one] & AUTHORITIES)
        self.depths = dict.fromkeys(roots, 0)
        # By the names that they have in pages: in which unit one is folded depends on what others list.
        named = set(roots)
        vias = {instance: context.discovery.get(instance) for instance in roots}
        queue = deque(roots)
        referrals_max = REFERRALS + len(roots)
        trusted = True
        refusals: list[Refusal] = []
        used: dict[str, Listing] = {}
        self.passed_over = {}
        room = TOTAL
        while queue or trusted:
            if not queue:
                trusted = False
                queue += [instance for instance in announced if instance not in self.depths]
                self.depths |= dict.fromkeys(queue, 0)
                named.update(queue)
                referrals_max = min(referrals_max + len(queue), len(named) + ANNOUNCED_REFERRALS)
                vias |= dict.fromkeys(queue)
                # Workers of what was listed by who has gone since go on: with every new name there would be more.
                room = min(room, ANNOUNCED_LISTED) - sum(
                    one.origin not in SOURCES and not any(by.trusted_parent for by in wanted.asked.get(instance, ()))
                    for instance, one in known.items()
                )
                continue
            instance = queue.popleft()
            if instance not in self._pages or instance in excluded or instance not in wanted.asked:
                continue
            listed = self._list(instance, wanted.asked[instance][0], vias[instance], trusted, context)
            yield
            limited: list[Refusal] = []
            candidates = self._followed(instance, listed, context.lacking, known, limited)
            candidates = _within_limit(instance, candidates, known, limited)
            refusals += (*listed.listing.refusals, *limited)
            referrals = [one for one in candidates if one.role == DISCOVERY]
            near = self._within_reach(instance, referrals, named, referrals_max, refusals)
            named |= near
            followed = [one for one in referrals if one.tid.instance in near]
            if len(followed) < len(referrals):
                candidates = tuple(one for one in candidates if one.role != DISCOVERY or one.tid.instance in near)
                referrals = followed
            new = [one for one in candidates if trusted or one.tid.instance not in known]
            if len(new) > max(0, room):
                beyond = new[max(0, room) :]
                why = f"all discovery controllers together can list {TOTAL} controllers, {ANNOUNCED_LISTED} of them"
                why += " where mDNS leads to; the rest is not connected"
                refusals.append(Refusal(f"{len(beyond)} entries", f"in the log page of {instance}", why))
                without = set(beyond)
                candidates = tuple(one for one in candidates if one not in without)
                referrals = [one for one in candidates if one.role == DISCOVERY]
            room -= len(new)
            # The same tuple as before costs nothing.
            before = wanted.of(instance)
            wanted.put(instance, before if candidates == before else candidates)
            used[instance] = listed.listing
            for one in referrals:
                unit = wanted.unit_of(one)
                if unit not in self.depths:
                    self.depths[unit] = self.depths[instance] + 1
                    vias[unit] = context.discovery.get(unit, vias[instance])
                    queue.append(unit)
            yield
        for origin in wanted.origins() - used.keys() - SOURCES:
            wanted.put(origin, ())
            yield
        self.refusals = tuple(refusals)
        yield from self._conclude(used, wanted, known, context.share)

    def _followed(
        self,
        instance: str,
        listed: _Listed,
        lacking: Mapping[str, str],
        known: Mapping[str, Known],
        refusals: list[Refusal],
    ) -> tuple[Candidate, ...]:
        """Return what a page lists over its discovery controller's own transport, and over others that are followed.

        What has a unit is followed on: that a device is gone is no reason to let go of what was connected through it.
        """
        found = listed.listing.candidates
        own = listed.tid.transport
        if not any(one != own for one in lacking):
            return found
        followed: list[Candidate] = []
        left: list[Candidate] = []
        for one in found:
            transport = one.tid.transport
            lacks = transport != own and transport in lacking and one.tid.instance not in known
            (left if lacks else followed).append(one)
        if not left:
            return found
        self.passed_over[instance] = tuple(left)
        for transport, count in Counter(one.tid.transport for one in left).items():
            if why := lacking[transport]:
                what = f"{count} {'entry' if count == 1 else 'entries'} over {transport}"
                refusals.append(Refusal(what, f"in the log page of {instance}", why, expected=True))
        return tuple(followed)

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

            def stays(unit: str, theirs: Mapping[str, Target] = theirs) -> bool:
                if unit in known and known[unit].trusted:
                    return bool(asking(unit, wanted.asked, known)) or theirs.get(unit) in wanted.trusted_targets
                return unit in wanted.asked or theirs.get(unit) in wanted.targets

            def weigh(units: Collection[str], instance: str = instance) -> int:
                # With a referral to what others ask for as well nothing goes.
                through = {
                    unit
                    for unit in units
                    if unit in descendants.below
                    and all(one.origin == instance for one in asking(unit, wanted.asked, known))
                }
                return len(units) + descendants.count(set(units), through)

            verdict = self._evidence[instance].judge(theirs, stays, weigh, share)
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

    def _within_reach(
        self,
        instance: str,
        referrals: list[Candidate],
        named: Collection[str],
        most: int,
        refusals: list[Refusal],
    ) -> set[str]:
        """Return the names of a page's referrals that are near enough, and few enough with all that went before."""
        near: set[str] = set()
        new = 0
        for one in referrals:
            name = one.tid.instance
            known = name in named or name in near
            if self.depths[instance] >= DEPTH:
                why = f"it is more than {DEPTH} referrals away from what was asked for"
            elif not known and len(named) + new >= most:
                why = f"no more than {REFERRALS} discovery controllers are connected for referrals, "
                why += f"{ANNOUNCED_REFERRALS} of them where mDNS leads to"
            else:
                new += not known
                near.add(name)
                continue
            refusals.append(Refusal(f"referral to {one.tid}", one.source, why))
        return near

    def _list(
        self, instance: str, parent: Candidate, via: Connection | None, trusted: bool, context: Context
    ) -> _Listed:
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
        self._listed[instance] = _Listed(read.page, context, parent.tid, via, trusted, listing)
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


def _scope(context: Context, via: Connection | None, role: Role, hostnqn: str) -> DiscoveredScope:
    scope = context.config.discovered(via, role)
    if via is None and any(canonical_nqn(one) == hostnqn for one in context.hostids):
        scope = as_host(scope, hostnqn, context.hostids)
    return scope


def _within_limit(
    origin: str, found: tuple[Candidate, ...], known: Mapping[str, Known], refusals: list[Refusal]
) -> tuple[Candidate, ...]:
    if len(found) + len(known) <= LIMIT:
        return found
    ours = {instance for instance, one in known.items() if one.origin == origin}
    room = max(0, LIMIT - len(ours))
    old = [one for one in found if one.tid.instance in ours]
    new = [one for one in found if one.tid.instance not in ours]
    if len(new) > room:
        why = f"one discovery controller can list {LIMIT} controllers, and the rest is not connected"
        refusals.append(Refusal(f"{len(new) - room} entries", f"in the log page of {origin}", why))
    return (*old, *new[:room])
