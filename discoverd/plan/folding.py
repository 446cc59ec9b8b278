# SPDX-License-Identifier: Apache-2.0
"""What all sources ask for together: for each unit, which of their candidates it stands for.

Sources that do not know of each other ask for one controller in different words: with and without the host's side, by
a discovery controller's own NQN and by the well-known one. Two units for one controller would take it from each other,
so such candidates are folded into one unit. What a source changes costs as much as it has, however much others have.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.candidate import BOOT, SOURCES, Candidate, Target
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, TransportId

# All candidates that may mean one controller: the target, the role and the host NQN.
Group = tuple[str, ...]


def group_of(candidate: Candidate) -> Group:
    """Return the key that a candidate shares with those that may mean the same controller."""
    tid = candidate.tid
    nqn = DISCOVERY_NQN if candidate.role == DISCOVERY else canonical_nqn(tid.subsysnqn)
    return candidate.role, tid.transport, tid.traddr, tid.trsvcid, nqn, tid.hostnqn


def satisfies(request: TransportId, connection: TransportId) -> bool:
    """Tell whether a connection satisfies a request for a controller, target and role being equal.

    The well-known discovery NQN asks for whatever discovery controller is at the address (TP8013).
    """
    same_side = request.host_traddr in ("", connection.host_traddr)
    same_side = same_side and request.host_iface in ("", connection.host_iface)
    return same_side and canonical_nqn(request.subsysnqn) in (canonical_nqn(connection.subsysnqn), DISCOVERY_NQN)


class Wanted:
    """Candidates by origin, and the units that stand for them; in which order the origins came makes no difference.

    ``has_state`` tells of an instance whether there is, or was, a unit of that name.
    """

    def __init__(self, has_state: Callable[[str], bool]) -> None:
        self._has_state = has_state
        self._origins: dict[str, tuple[Candidate, ...]] = {}
        # How many candidates there are for each target that anybody asks for, and how many of them are trusted.
        self.targets: Counter[Target] = Counter()
        self.trusted_targets: Counter[Target] = Counter()
        # How many of them are for I/O with each subsystem and trusted, and the units of those that are only announced.
        self.trusted_subsystems: Counter[str] = Counter()
        self._announced: dict[str, set[str]] = {}
        self._groups: dict[Group, list[Candidate]] = {}
        self._units: dict[Group, dict[str, tuple[Candidate, ...]]] = {}
        # Units of one name that several groups have: a peer may list a discovery controller as an I/O controller.
        self._claims: dict[str, dict[Group, tuple[Candidate, ...]]] = {}
        # By instance, in the order in which they came to be wanted.
        self.asked: dict[str, tuple[Candidate, ...]] = {}
        # Those of them that are discovery controllers.
        self.discovery: set[str] = set()
        self._changed: dict[str, None] = {}

    def put(self, origin: str, candidates: tuple[Candidate, ...]) -> None:
        """Take all that a source asks for now. The same tuple as before costs nothing."""
        before = self._origins.get(origin, ())
        if candidates is before:
            return
        if candidates:
            self._origins[origin] = candidates
        else:
            self._origins.pop(origin, None)
        _replace(self.targets, (one.target for one in before), (one.target for one in candidates))
        _replace(self.trusted_targets, _trusted_targets(before), _trusted_targets(candidates))
        subsystems = _trusted_subsystems(before), _trusted_subsystems(candidates)
        trusted = {nqn: nqn in self.trusted_subsystems for some in subsystems for nqn in some}
        _replace(self.trusted_subsystems, *subsystems)
        for nqn, before_that in trusted.items():
            if (nqn in self.trusted_subsystems) is not before_that:
                self._changed |= dict.fromkeys(self.announced(nqn))
        theirs, ours = _grouped(before), _grouped(candidates)
        for key in theirs | ours:
            if theirs.get(key) != ours.get(key):
                # In the order of the source, which for an administrator's file means something.
                others = [one for one in self._groups.get(key, ()) if one.origin != origin]
                self._groups[key] = others + ours.get(key, [])
                self._fold(key)

    def origins(self) -> set[str]:
        """Return who asks for anything."""
        return set(self._origins)

    def of(self, origin: str) -> tuple[Candidate, ...]:
        """Return what an origin asks for now."""
        return self._origins.get(origin, ())

    def unit_of(self, candidate: Candidate) -> str:
        """Return the instance of the unit that stands for a candidate that was put."""
        for instance, asked in self._units[group_of(candidate)].items():
            if any((one.tid, one.origin) == (candidate.tid, candidate.origin) for one in asked):
                return instance
        raise KeyError(candidate)

    def announced(self, nqn: str) -> Collection[str]:
        """Return the units of a subsystem's controllers that only announcements lead to."""
        return self._announced.get(nqn, ())

    def changes(self) -> dict[str, None]:
        """Return the instances about which something has changed since the last call, in the order of the changes."""
        changed, self._changed = self._changed, {}
        return changed

    def _fold(self, key: Group) -> None:
        before = self._units.pop(key, {})
        after = fold(self._groups[key], self._has_state)
        if after:
            self._units[key] = after
        else:
            del self._groups[key]
        for instance in before | after:
            if before.get(instance) != after.get(instance):
                self._claim(instance, key, after.get(instance, ()))

    def _claim(self, instance: str, key: Group, members: tuple[Candidate, ...]) -> None:
        """Let a group have a unit of this name, or no longer."""
        claims = self._claims.setdefault(instance, {})
        claims[key] = members
        if not members:
            del claims[key]
        self._changed[instance] = None
        self.discovery.discard(instance)
        if instance in self.asked:
            self._announce(instance, there=False)
        if not claims:
            del self._claims[instance], self.asked[instance]
            return
        if len(claims) == 1:
            first = members or next(iter(claims.values()))
        else:
            _, first = min(claims.items(), key=lambda claim: (_standing(claim[1][0]), claim[0]))
        self.asked[instance] = first
        if first[0].role == DISCOVERY:
            self.discovery.add(instance)
        if not first[0].trusted:
            self._announce(instance, there=True)

    def _announce(self, instance: str, *, there: bool) -> None:
        """Keep in mind to which subsystem a unit is that only announcements lead to."""
        nqn = canonical_nqn(self.asked[instance][0].tid.subsysnqn)
        if there:
            self._announced.setdefault(nqn, set()).add(instance)
        elif nqn in self._announced:
            self._announced[nqn].discard(instance)
            if not self._announced[nqn]:
                del self._announced[nqn]


T = TypeVar("T")


def _replace(counter: Counter[T], before: Iterable[T], after: Iterable[T]) -> None:
    counter.update(after)
    for one in before:
        counter[one] -= 1
        if not counter[one]:
            del counter[one]


def _trusted_targets(candidates: tuple[Candidate, ...]) -> Iterable[Target]:
    return (one.target for one in candidates if one.trusted)


def _trusted_subsystems(candidates: tuple[Candidate, ...]) -> list[str]:
    return [canonical_nqn(one.tid.subsysnqn) for one in candidates if one.trusted and one.role != DISCOVERY]


def _grouped(candidates: tuple[Candidate, ...]) -> dict[Group, list[Candidate]]:
    groups: dict[Group, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(group_of(candidate), []).append(candidate)
    return groups


def _standing(candidate: Candidate) -> tuple[bool, bool, bool, bool]:
    """Return what sorts the word of an administrator first, then that of who is trusted, then announcements.

    Whoever is on a link can announce an I/O controller as a discovery controller, or refer to it. Of two log pages with
    equal standing the one that lists an I/O controller counts: connected as a discovery controller, it would have no
    namespaces the next time.
    """
    return not candidate.configured, not candidate.trusted, candidate.origin not in SOURCES, candidate.role == DISCOVERY


def fold(candidates: Sequence[Candidate], has_state: Callable[[str], bool]) -> dict[str, tuple[Candidate, ...]]:
    """Return the units for candidates of one group, each with those it stands for, the one to connect by first.

    What an administrator wrote has a unit of its own, and the last word on how to connect. Others join one that is
    content with their connection, or the other way round; but who is content with any connection takes in one path of
    several only, so that the others remain paths. By the word of an announcement there are no further ones to what is
    trusted, so all of them are taken in. Two that have a unit each keep them: the unit that took in a path
    is not folded into another path's when the supervisor was restarted.
    """
    if len(candidates) == 1:
        return {candidates[0].tid.instance: tuple(candidates)}
    units: dict[str, list[Candidate]] = {}

    def rank(candidate: Candidate) -> tuple[bool | str, ...]:
        if candidate.configured:
            return (False,)
        tid = candidate.tid
        existing = has_state(tid.instance)
        general = tid.any_source, tid.subsysnqn == DISCOVERY_NQN
        standing = candidate.origin != BOOT, not candidate.trusted
        return True, *standing, not existing, *general, tid.instance, candidate.origin

    took_path: dict[str, str] = {}
    for candidate in sorted(candidates, key=rank):
        instance = candidate.tid.instance
        if instance not in units and not candidate.configured:
            existing = has_state(instance)
            for leader, members in units.items():
                if existing and not members[0].configured and has_state(leader):
                    continue
                if satisfies(_required(candidate), members[0].tid):
                    instance = leader
                    break
                adds_nothing = _one_path(members[0]) or (members[0].trusted and not candidate.trusted)
                path = took_path.get(leader, instance)
                if (path == instance or adds_nothing) and satisfies(members[0].tid, candidate.tid):
                    if candidate.trusted or not members[0].trusted:
                        took_path[leader] = path
                    instance = leader
                    break
        units.setdefault(instance, []).append(candidate)
    return {instance: _merged(members) for instance, members in units.items()}


def _required(candidate: Candidate) -> TransportId:
    """Return the identity without a source address that a worker may leave out."""
    return replace(candidate.tid, host_traddr="") if candidate.source_optional else candidate.tid


def _one_path(leader: Candidate) -> bool:
    """Tell whether a leader that is content with any connection takes in all others.

    A discovery controller needs no second path, and one that only an announcement leads to, through another link
    perhaps, would stand in for what an administrator asked for.
    """
    return leader.configured and leader.role == DISCOVERY


def _merged(members: list[Candidate]) -> tuple[Candidate, ...]:
    """Put the most lasting wish of all into the first, by which the unit connects."""
    lasting = any(not one.give_up_after for one in members)
    give_up_after = 0 if lasting else max(one.give_up_after for one in members)
    asked = max(one.asked for one in members)
    limited = all(one.attempts for one in members)
    attempts = max(one.attempts for one in members) if limited else 0
    return (replace(members[0], give_up_after=give_up_after, asked=asked, attempts=attempts), *members[1:])
