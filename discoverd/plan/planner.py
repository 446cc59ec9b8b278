# SPDX-License-Identifier: Apache-2.0
"""What to do about each controller, and why: a pure function from facts to decisions.

That a source is silent, stale or gone is no reason to disconnect anything. What a fresh and whole log page no longer
lists is withdrawn: its worker disconnects it if policy says so and nobody uses it. The note in the unit's status says
what is excluded or no longer asked for, and is not connected again once it is lost.

A decision about one controller depends on the facts about that one only, so that news of it cost the same however many
others there are.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

from discoverd import state
from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.candidate import AUTHORITIES, SOURCES, UNMANAGED, Candidate
from discoverd.plan.facts import Action, Answer, Decision, Facts, Known, Report
from discoverd.tid import DISCOVERY_NQN, IO

# What is said of a unit that another one stands for by now.
ELSEWHERE = "asked for in another way by now, as another unit"


def plan(facts: Facts, instances: Iterable[str]) -> list[Decision]:
    """Return a decision for each of the instances that is wanted, running or known."""
    decisions = []
    for instance in instances:
        if asked := asking(instance, facts.wanted, facts.known):
            referrers = _referrers(instance, asked, facts)
            held_back = facts.held_back[instance].text if instance in facts.held_back else ""
            confirm = instance in facts.confirming
            decision = _wanted(instance, asked, facts)
            decisions.append(replace(decision, referrers=referrers, held_back=held_back, confirm=confirm))
        elif known := facts.known.get(instance):
            decisions.append((_unmanaged if known.origin == UNMANAGED else _unwanted)(instance, facts))
        elif instance in facts.unmanaged:
            decisions.append(_unmanaged(instance, facts))
        elif instance in facts.units:
            decisions.append(_unwanted(instance, facts))
    return decisions


def asking(
    instance: str, wanted: Mapping[str, tuple[Candidate, ...]], known: Mapping[str, Known]
) -> tuple[Candidate, ...]:
    """Return who asks for a controller and counts, the one to connect by first.

    What somebody trusted asked for is his until he takes it back: an announcement neither keeps it nor takes it over.
    """
    asked = wanted.get(instance, ())
    if instance in known and known[instance].trusted and not any(one.trusted for one in asked):
        return ()
    return asked


def trusted_subsystems(
    wanted: Mapping[str, tuple[Candidate, ...]], known: Mapping[str, Known], now: Iterable[str]
) -> frozenset[str]:
    """Return the NQNs of subsystems that somebody trusted asks for ``now``, or did and has not taken back.

    What was trusted before a restart is so until its source has spoken, and what is there for as long as it is.
    """
    before = (
        canonical_nqn(one.target[3])
        for instance, one in known.items()
        if one.trusted and one.role == IO and not asking(instance, wanted, known)
    )
    return frozenset(before).union(now)


def _wanted(instance: str, asked: tuple[Candidate, ...], facts: Facts) -> Decision:
    candidate = asked[0]
    sources = " and ".join(dict.fromkeys(one.source for one in asked))
    unit = facts.units.get(instance)
    report = facts.reports.get(instance)
    running = bool(unit and unit.running)
    if unit and unit.load == "masked":
        return Decision(instance, Action.LEAVE, f"{sources}, but its unit is masked", candidate)
    if where := facts.excluded.get(instance):
        reason = f"{sources}, but excluded by {where}"
        if running:
            return Decision(instance, Action.KEEP, reason, candidate, f"excluded by {where}", excluded_by=where)
        return Decision(instance, Action.LEAVE, reason, candidate, excluded_by=where)
    if adds_untrusted_path(candidate, facts.trusted_subsystems):
        note = "only announcements lead to it, and its subsystem is asked for by somebody trusted"
        reason = f"{sources}, but {note}"
        if running:
            reason += "; it is disconnected unless it is in use"
            return Decision(instance, Action.KEEP, reason, candidate, note, "ours")
        return Decision(instance, Action.LEAVE, reason, candidate)
    if running:
        return Decision(instance, Action.KEEP, sources, candidate)
    if fragment := facts.fragment(instance):
        # What such a unit does, and whether it does anything, nobody of ours has decided.
        return Decision(instance, Action.LEAVE, f"{sources}, but {_blocked(fragment)}", candidate, blocked_by=fragment)
    said = report.state if report else ""
    if said == state.REFUSED:
        # It failed, and stays so until somebody starts it: the administrator did not want it looked after.
        return Decision(
            instance, Action.KEEP_STOPPED, f"{sources}, but an administrator stopped its unit while in use", candidate
        )
    # Given up when only announcements led to it, it has not been tried for somebody trusted yet.
    promoted = candidate.trusted and instance in facts.known and not facts.known[instance].trusted
    if report and said == state.GIVEN_UP and not promoted and _is_still_given_up(candidate, report):
        return Decision(instance, Action.LEAVE, f"{sources}, but {report.status}", candidate)
    # We make a unit and start it in one call: one that is loaded and does not run was stopped by somebody, even if its
    # worker had no chance to say so. One that was killed because its stop took too long has said that it was stopping.
    ended = unit and unit.load == "loaded" and unit.active == "inactive" and said not in state.ENDED
    if ended or said in (state.STOPPED, state.STOPPING):
        return Decision(instance, Action.KEEP_STOPPED, f"{sources}, but an administrator stopped its unit", candidate)
    if all(one.announcement and one.announcement.ended for one in asked):
        # Whoever announces many must not be tried, one after the other, for long after he has gone.
        return Decision(instance, Action.LEAVE, f"{sources}, and there is no connection to keep", candidate)
    return Decision(instance, Action.START, sources, candidate)


def _blocked(fragment: str) -> str:
    return f"beside the unit file {fragment} systemd does not make its unit"


def adds_untrusted_path(candidate: Candidate, trusted_subsystems: Container[str]) -> bool:
    """Tell whether a candidate would add a path, by the word of an announcement, to a subsystem that somebody trusted
    asks for: whoever is on a link could have the host read and write there.

    Nor may a discovery controller have the subsystem's NQN for its own: the kernel takes it for one of its controllers.
    """
    nqn = canonical_nqn(candidate.tid.subsysnqn)
    return not candidate.trusted and nqn != DISCOVERY_NQN and nqn in trusted_subsystems


def _referrers(instance: str, asked: tuple[Candidate, ...], facts: Facts) -> frozenset[str]:
    """Return the origins that ask for it, and those that have and whose present answer does not yet omit it."""
    known = facts.known.get(instance)
    before = known.referrers if known else frozenset()
    return frozenset(one.origin for one in asked).union(one for one in before if _owes_answer(one, instance, facts))


def _owes_answer(origin: str, instance: str, facts: Facts) -> bool:
    """Tell whether an origin may still ask for what it once asked for.

    Not a discovery controller that has gone, nor one that nobody leads to any more, nor the controller itself; nor an
    announced one where somebody trusted asked.
    """
    if origin == instance or origin in facts.closed:
        return False
    if not _counts(origin, instance, facts.wanted, facts.known):
        return False
    if origin in facts.authoritative:
        return not facts.authoritative[origin].lacks(instance)
    return origin in SOURCES or origin in facts.known or origin in facts.wanted


def _counts(
    origin: str, instance: str, wanted: Mapping[str, tuple[Candidate, ...]], known: Mapping[str, Known]
) -> bool:
    """Tell whether what an origin says of a controller counts: of one that is trusted, what is announced does not.

    An origin of which nothing is left to tell is taken for trusted.
    """
    if instance not in known or not known[instance].trusted:
        return True
    if origin in SOURCES:
        return origin in AUTHORITIES
    if origin in known:
        return known[origin].trusted
    return origin not in wanted or wanted[origin][0].trusted


def closed(
    known: Mapping[str, Known], wanted: Mapping[str, tuple[Candidate, ...]], authoritative: Mapping[str, Answer]
) -> frozenset[str]:
    """Return the discovery controllers that nobody leads to any more, as log pages prove.

    Those of log pages only, and not asked for now. One is kept as long as somebody who is kept himself, for another
    reason than this one, may still refer to it: so what refers to itself, or in a ring, does not keep itself. What a
    source asked for is never among them: what an administrator took out stays, with all that it listed.
    """
    open_ = {
        instance: one.all_referrers - {instance}
        for instance, one in known.items()
        if one.target[3] == DISCOVERY_NQN and one.origin not in SOURCES and not asking(instance, wanted, known)
    }
    kept: set[str] = set()

    def may_lead(origin: str, instance: str) -> bool:
        if not _counts(origin, instance, wanted, known):
            return False
        if origin in authoritative:
            return not authoritative[origin].lacks(instance)
        if origin in open_:
            return origin in kept
        # One that has gone without a word has not taken it back.
        return origin in SOURCES or origin in known or origin in wanted or origin == known[instance].origin

    while more := [
        instance
        for instance, referrers in open_.items()
        if instance not in kept and any(may_lead(one, instance) for one in referrers)
    ]:
        kept.update(more)
    return frozenset(open_.keys() - kept)


def _is_still_given_up(candidate: Candidate, report: Report) -> bool:
    """Tell whether nothing has come since that would be a reason to try again.

    What is only announced is tried again by and by (discoverd.supervisor.starter).
    """
    if not candidate.trusted:
        return False
    out_of_time = bool(candidate.give_up_after) and candidate.asked <= report.time
    return out_of_time or 0 < candidate.attempts <= report.attempt


def _unmanaged(instance: str, facts: Facts) -> Decision:
    """Decide about an unmanaged controller: a unit for it is made only to disconnect it, and ends with that."""
    unit, known, report = facts.units.get(instance), facts.known.get(instance), facts.reports.get(instance)
    candidate = facts.unmanaged.get(instance)
    source = candidate.source if candidate else known.source if known else ""
    answer = facts.authoritative.get(UNMANAGED, Answer())
    note = known.withdrawn if known and known.withdrawn else f"{source}, and in no log page ({answer.text})"
    protected = _protected(instance, facts)
    excluded = facts.excluded.get(instance, "")
    if unit and unit.running:
        if protected:
            reason = f"{source}, {protected}; what runs is left as it is"
            return Decision(instance, Action.KEEP, reason, note=note, excluded_by=excluded)
        return Decision(
            instance, Action.KEEP, f"{note}; it is disconnected unless it is in use", note=note, disconnect="all"
        )
    said = report.state if report else ""
    if unit and unit.load == "masked":
        return Decision(instance, Action.LEAVE, f"{source}, but its unit is masked", candidate)
    if known and said in state.ENDED:
        return Decision(instance, Action.LEAVE, note, note=note)
    if fragment := facts.fragment(instance):
        return Decision(instance, Action.LEAVE, f"{source}, but {_blocked(fragment)}", candidate, blocked_by=fragment)
    inactive = unit and (unit.load, unit.active) == ("loaded", "inactive")
    if inactive or said in (state.STOPPED, state.STOPPING, state.REFUSED):
        return Decision(instance, Action.LEAVE, f"{source}, but an administrator stopped its unit", candidate)
    if candidate is None or protected:
        # What is left of a unit that is no more goes when nothing comes of it.
        note = note if known else ""
        return Decision(instance, Action.LEAVE, f"{source}, {protected}", candidate, note, excluded_by=excluded)
    return Decision(instance, Action.START, note, candidate, note, "all")


def _protected(instance: str, facts: Facts) -> str:
    """Return why an unmanaged controller stays, '' if nothing speaks for it."""
    if where := facts.excluded.get(instance):
        return f"but excluded by {where}"
    if UNMANAGED not in facts.authoritative:
        return f"and {facts.inconclusive.get(UNMANAGED, 'nothing newer is known')}"
    return "" if instance in facts.unmanaged else "and it is gone, or asked for by now"


def _unwanted(instance: str, facts: Facts) -> Decision:
    unit = facts.units.get(instance)
    known = facts.known.get(instance)
    if known is None:
        return Decision(instance, Action.LEAVE, "not asked for by any source, and unknown to discoverd")
    running = bool(unit and unit.running)
    report = facts.reports.get(instance)
    # A worker that ended by itself has left no connection, and nothing that would be missed when it is asked for again:
    # those of peers that come and go under new names must not pile up.
    ended = not running and report is not None and report.state in state.ENDED
    silent = _silent(instance, known, facts)
    if silent and not ended:
        action = Action.KEEP if running else Action.LEAVE
        reason = f"it was {known.source}, and {_inconclusive(silent[0], instance, facts)}"
        # Who has taken it back is not asked again, also when nothing is left of him.
        owing = known.all_referrers if known.origin in SOURCES else frozenset(silent)
        return Decision(instance, action, reason, referrers=owing)
    answer = facts.authoritative.get(known.origin, Answer()).text
    if known.origin in facts.closed:
        answer = "which nothing leads to any more"
    # Which answer it was that it went missing in, though later ones do not list it either.
    note = f"no longer {known.source}" + (f" ({answer})" if answer else "")
    if known.withdrawn not in ("", ELSEWHERE):
        note = known.withdrawn
    # What a log page lists may be folded into the unit of who asks for it in other words (folding.py).
    targets = facts.trusted_targets if known.trusted else facts.targets
    elsewhere = known.origin not in SOURCES and known.target in targets
    if elsewhere:
        note = ELSEWHERE
    # Who is silent has not said so.
    by = "" if elsewhere or silent else known.origin
    if not running:
        return Decision(instance, Action.LEAVE, note, note=note, withdrawn_by=by)
    disconnect = "" if known.origin in SOURCES or elsewhere else facts.policy.disconnects(instance)
    then = "it is disconnected unless it is in use" if disconnect else "what runs is left as it is"
    return Decision(instance, Action.KEEP, f"{note}; {then}", note=note, disconnect=disconnect, withdrawn_by=by)


def _silent(instance: str, known: Known, facts: Facts) -> list[str]:
    """Return the origins that may still ask for it, the one that asked last first."""
    origin = known.origin
    if origin in SOURCES:
        # What an administrator took out is not kept by a ring of referrals back to it.
        return [] if origin in facts.authoritative else [origin]
    owing = sorted(one for one in known.referrers - {origin} if _owes_answer(one, instance, facts))
    # One that has gone without a word has not taken it back.
    gone = origin not in facts.authoritative and origin not in facts.closed and origin != instance
    return [origin, *owing] if gone or _owes_answer(origin, instance, facts) else owing


def confirmable(instance: str, held_back: str) -> str:
    """Return what of a discovery controller's log page is held back, and the command that confirms it."""
    return f"{held_back}; to disconnect them now: discoverctl confirm '{instance}'"


def _inconclusive(origin: str, instance: str, facts: Facts) -> str:
    """Return why an origin that may still ask for a controller has not taken that back."""
    if origin in facts.authoritative and not asking(origin, facts.wanted, facts.known) and origin in facts.wanted:
        return f"only announcements lead to {origin} by now, which has not taken it back"
    pending = facts.pending.get(origin, {}).get(instance)
    reason = pending.reason if pending else facts.inconclusive.get(origin, "nothing newer is known")
    return reason if origin == facts.known[instance].origin else f"{reason} from {origin}, which asked for it as well"
