# SPDX-License-Identifier: Apache-2.0
"""A walk along the log pages of discovery controllers, from one to the next as they refer to each other."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, FabricsConfig
from discoverd.kernel.addresses import NO_ADDRESSES, HostAddresses
from discoverd.plan.budgets import ANNOUNCED_LISTED, ANNOUNCED_REFERRALS
from discoverd.plan.candidate import AUTHORITIES, SOURCES, Candidate, Refusal, Target
from discoverd.plan.facts import Known
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import LogPage
from discoverd.sources.discovery_log import Listing
from discoverd.sources.ways import ALL_WAYS, Ways, version_of
from discoverd.tid import DISCOVERY, TransportId

# A log page is an order to run processes, and it comes from the network: so many for one discovery controller,
# over all the pages that it has ever sent.
LIMIT = 1024
# And so many for all of them: anybody on a link can announce discovery controllers, and each has a page.
TOTAL = 4096
# Referrals lead so far, as with nvme-cli, and to no more discovery controllers than this.
DEPTH = 8
REFERRALS = 256
# How Places are divided, to go on with in a refusal.
_DIVIDED = "half of these places are divided among the discovery controllers that were asked for"


@dataclass(frozen=True, slots=True)
class Context:
    """What log pages are understood with. ``hostids`` has the host IDs of host NQNs that firmware brought along.

    ``give_up_after``, ``ncc_attempts`` and ``addresses`` as in discovery_log.Parent. ``share`` is how much of what a
    page listed may be withdrawn at once (per cent). ``lacking`` as in discoverd.sources.transports, and ``ways`` are
    those over which anything is connected.
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
    ways: Ways = ALL_WAYS


@dataclass(frozen=True, slots=True)
class Listed:
    """What one page asks for, and what that was derived from.

    ``tid`` is its discovery controller, and ``via`` the configured one that leads there, None if there is none.
    """

    page: LogPage
    context: Context
    tid: TransportId
    via: Connection | None
    trusted: bool
    listing: Listing


# What the page of a discovery controller asks for, given who asks for that one, ``via`` and ``trusted`` as in Listed;
# None if it has no page.
Reader = Callable[[str, Candidate, Connection | None, bool], Listed | None]


class Places:
    """Places for what discovery controllers lead to. Half of them are divided among the roots of the walk.

    So that whoever asks for all of them, first, leaves the others something.
    """

    def __init__(self, total: int, roots: Sequence[str]) -> None:
        self.free = max(0, total)
        share = self.free // 2 // len(roots) if roots else 0
        self._reserved = dict.fromkeys(roots, share)
        self._reserved_in_all = share * len(roots)

    def room(self, root: str) -> int:
        """Return how many there are for what this root leads to."""
        own = self._reserved[root]
        return min(self.free, max(own, self.free - self._reserved_in_all + own))

    def take(self, root: str, count: int) -> None:
        """Take some of them."""
        own = min(count, self._reserved[root])
        self.free -= count
        self._reserved[root] -= own
        self._reserved_in_all -= own


class Walk:
    """Puts into ``wanted`` what the log pages ask for, beginning with the discovery controllers that others ask for.

    Breadth first, and each controller once, whatever refers to it: rings end. What an excluded one lists is not asked
    for. What an administrator asks for has its place before what others do, and all that it leads to before what
    anybody on a link can announce.

    After it, ``used`` has the listings that were followed, ``refusals`` what is refused of all pages, ``passed_over``
    by discovery controller what it lists over ways that are not followed, and ``depths`` the discovery
    controllers that are reached, with or without a page, and how many referrals away.
    """

    def __init__(
        self,
        wanted: Wanted,
        context: Context,
        excluded: Mapping[str, str],
        known: Mapping[str, Known],
        read: Reader,
    ) -> None:
        self._wanted = wanted
        self._context = context
        self._excluded = excluded
        self._known = known
        self._read = read
        self._trusted = True
        self._queue: deque[str] = deque()
        # Through which root each was reached first, and which configured controller leads there.
        self._roots: dict[str, str] = {}
        self._vias: dict[str, Connection | None] = {}
        # By the names that they have in pages: in which unit one is folded depends on what others list.
        self._named: set[str] = set()
        self._referrals = Places(REFERRALS, ())
        self._entries = Places(TOTAL, ())
        self.used: dict[str, Listing] = {}
        self.refusals: list[Refusal] = []
        self.passed_over: dict[str, tuple[Candidate, ...]] = {}
        self.depths: dict[str, int] = {}

    def steps(self) -> Iterator[None]:
        """Walk. Each step costs as much as one page has entries, and before the last ``wanted`` is half changed."""
        origins = {
            instance: {one.origin for one in self._wanted.asked[instance]} for instance in self._wanted.discovery
        }
        trusted = sorted(one for one in origins if origins[one] & AUTHORITIES)
        trusted.sort(key=lambda instance: not self._wanted.asked[instance][0].configured)
        announced = sorted(one for one in origins if origins[one] & SOURCES and not origins[one] & AUTHORITIES)
        self._vias = {instance: self._context.discovery.get(instance) for instance in trusted}
        self._begin(trusted, REFERRALS, TOTAL)
        yield from self._follow()
        self._trusted = False
        announced = [instance for instance in announced if instance not in self.depths]
        self._vias |= dict.fromkeys(announced)
        # Workers of what was listed by who has gone since go on: with every new name there would be more.
        going_on = sum(
            one.origin not in SOURCES and not any(by.trusted_parent for by in self._wanted.asked.get(instance, ()))
            for instance, one in self._known.items()
        )
        self._begin(
            announced,
            min(self._referrals.free, ANNOUNCED_REFERRALS),
            min(self._entries.free, ANNOUNCED_LISTED) - going_on,
        )
        yield from self._follow()
        for origin in self._wanted.origins() - self.used.keys() - SOURCES:
            self._wanted.put(origin, ())
            yield

    def _begin(self, roots: Sequence[str], referrals: int, entries: int) -> None:
        self._referrals = Places(referrals, roots)
        self._entries = Places(entries, roots)
        self._queue += roots
        self._named.update(roots)
        self._roots |= {instance: instance for instance in roots}
        self.depths |= dict.fromkeys(roots, 0)

    def _follow(self) -> Iterator[None]:
        while self._queue:
            instance = self._queue.popleft()
            asked = self._wanted.asked.get(instance)
            if instance in self._excluded or not asked:
                continue
            listed = self._read(instance, asked[0], self._vias[instance], self._trusted)
            if listed is not None:
                yield
                self._put(instance, listed)
                yield

    def _put(self, instance: str, listed: Listed) -> None:
        """Ask for what one page lists, as far as the limits allow, and follow its referrals."""
        self.refusals += listed.listing.refusals
        candidates = self._over_followed_ways(instance, listed)
        candidates = self._within_limit(instance, candidates)
        candidates = self._within_reach(instance, candidates)
        candidates = self._within_total(instance, candidates)
        # The same tuple as before costs nothing.
        before = self._wanted.of(instance)
        self._wanted.put(instance, before if candidates == before else candidates)
        self.used[instance] = listed.listing
        for one in candidates:
            if one.role == DISCOVERY and (unit := self._wanted.unit_of(one)) not in self.depths:
                self.depths[unit] = self.depths[instance] + 1
                self._roots[unit] = self._roots[instance]
                self._vias[unit] = self._context.discovery.get(unit, self._vias[instance])
                self._queue.append(unit)

    def _refuse(
        self, what: str, instance: str, reason: str, *, expected: bool = False, target: Target = ("", "", "", "")
    ) -> None:
        where = f"in the log page of {instance}"
        refusal = Refusal(what, where, reason, expected=expected, trusted=self._trusted, target=target)
        self.refusals.append(refusal)

    def _over_followed_ways(self, instance: str, listed: Listed) -> tuple[Candidate, ...]:
        """Return what a page lists over transports that are followed, its discovery controller's own among them, and at
        addresses of families that are connected to.

        What has a unit is followed on: that a device is gone is no reason to let go of what was connected through it.
        """
        own, ways = listed.tid.transport, self._context.ways
        found = listed.listing.candidates
        if ways.ignore_iface:
            found = tuple(ways.candidate(one, self._known) for one in found)
        lacking = {one: why for one, why in self._context.lacking.items() if one != own}
        if not lacking and not ways.version:
            return found
        followed: list[Candidate] = []
        left: list[Candidate] = []
        reasons: Counter[tuple[str, str]] = Counter()
        for one in found:
            transport, family = one.tid.transport, ways.refusal(one.tid.transport, one.tid.traddr)
            if (transport not in lacking and not family) or one.tid.instance in self._known:
                followed.append(one)
                continue
            left.append(one)
            over = transport if transport in lacking else f"IPv{version_of(one.tid.traddr)}"
            reasons[over, lacking.get(transport, family)] += 1
        if not left:
            return found
        self.passed_over[instance] = tuple(left)
        for (over, why), count in reasons.items():
            if why:
                what = f"{count} {'entry' if count == 1 else 'entries'} over {over}"
                self._refuse(what, instance, why, expected=True)
        return tuple(followed)

    def _within_limit(self, instance: str, found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """Return what one discovery controller may list, what is known already before what is new."""
        if len(found) + len(self._known) <= LIMIT:
            return found
        ours = {unit for unit, one in self._known.items() if one.origin == instance}
        room = max(0, LIMIT - len(ours))
        old = [one for one in found if one.tid.instance in ours]
        new = [one for one in found if one.tid.instance not in ours]
        if len(new) > room:
            why = f"one discovery controller can list {LIMIT} controllers, and the rest is not connected"
            self._refuse(f"{len(new) - room} entries", instance, why)
        return (*old, *new[:room])

    def _within_reach(self, instance: str, found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """Return what a page lists without referrals that lead too far, or to too many."""
        root, far = self._roots[instance], self.depths[instance] >= DEPTH
        beyond: set[TransportId] = set()
        for one in found:
            if one.role != DISCOVERY:
                continue
            name = one.tid.instance
            if far:
                why = f"it is more than {DEPTH} referrals away from what was asked for"
            elif name not in self._named and not self._referrals.room(root):
                why = f"no more than {REFERRALS} discovery controllers are connected for referrals, "
                why += f"{ANNOUNCED_REFERRALS} of them where mDNS leads to, and {_DIVIDED}"
            else:
                if name not in self._named:
                    self._named.add(name)
                    self._referrals.take(root, 1)
                continue
            beyond.add(one.tid)
            self._refuse(f"referral to {one.tid}", instance, why, target=one.tid.target)
        return tuple(one for one in found if one.tid not in beyond or one.role != DISCOVERY) if beyond else found

    def _within_total(self, instance: str, found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """Return what a page lists, as far as there are places for it among all pages."""
        root = self._roots[instance]
        new = [one for one in found if self._trusted or one.tid.instance not in self._known]
        room = self._entries.room(root)
        self._entries.take(root, min(len(new), room))
        if len(new) <= room:
            return found
        why = f"all discovery controllers together can list {TOTAL} controllers, {ANNOUNCED_LISTED} of them where mDNS "
        why += f"leads to, and {_DIVIDED}; the rest is not connected"
        self._refuse(f"{len(new) - room} entries", instance, why)
        beyond = set(new[room:])
        return tuple(one for one in found if one not in beyond)
