# SPDX-License-Identifier: Apache-2.0
"""Facts in, decisions and reasons out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd import state
from discoverd.config.settings import DISCONNECT_SCOPES, DisconnectScope
from discoverd.plan.candidate import CONFIGURATION, MDNS, NBFT, SOURCES, UNMANAGED, Candidate
from discoverd.plan.evidence import Pending, Wait
from discoverd.plan.facts import Action, Answer, Decision, Facts, HeldBack, Known, Policy, Report, UnitFact
from discoverd.plan.planner import ELSEWHERE, closed, confirmable, plan
from discoverd.tid import DISCOVERY_NQN, IO, TransportId

DC = "tcp:192.0.2.1:8009:nqn.2014-08.org.nvmexpress.discovery"
RUNNING = UnitFact("loaded", "active")
STOPPED = UnitFact("loaded", "inactive")


def candidate(name: str = "a", origin: str = CONFIGURATION, source: str = "") -> Candidate:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn." + name)
    source = source or ("configured at f:1" if origin == CONFIGURATION else f"listed in the log page of {origin}")
    options = (("nqn", "nqn." + name), ("transport", "tcp"))
    return Candidate(tid, IO, source, origin, options, trusted_parent=origin not in SOURCES)


A = candidate()
NAME = A.tid.instance
ASKED = {NAME: (A,)}


def decide(facts: Facts) -> list[Decision]:
    """Decide about everything that there is a fact about."""
    facts_about = facts.wanted.keys() | facts.units.keys() | facts.known.keys() | facts.unmanaged.keys()
    return plan(facts, sorted(facts_about))


@pytest.mark.parametrize(
    ("facts", "action", "reason"),
    [
        (Facts(ASKED), Action.START, "configured at f:1"),
        (Facts(ASKED, units={NAME: RUNNING}), Action.KEEP, "configured at f:1"),
        (Facts(ASKED, units={NAME: UnitFact("loaded", "activating")}), Action.KEEP, "configured at f:1"),
        (Facts(ASKED, units={NAME: UnitFact("loaded", "inactive", job=True)}), Action.KEEP, "configured at f:1"),
        (Facts(ASKED, units={NAME: UnitFact("not-found", "active")}), Action.KEEP, "configured at f:1"),
        (
            # Stopped before its worker could say so.
            Facts(ASKED, units={NAME: STOPPED}, reports={NAME: Report("live")}),
            Action.KEEP_STOPPED,
            "configured at f:1, but an administrator stopped its unit",
        ),
        (Facts(ASKED, units={NAME: UnitFact("loaded", "failed")}), Action.START, "configured at f:1"),
        (Facts(ASKED, reports={NAME: Report("waiting")}), Action.START, "configured at f:1"),
        (Facts(ASKED, reports={NAME: Report("live")}), Action.START, "configured at f:1"),
        (
            Facts(ASKED, units={NAME: STOPPED}, reports={NAME: Report("stopped")}),
            Action.KEEP_STOPPED,
            "configured at f:1, but an administrator stopped its unit",
        ),
        # Its unit is unloaded after a restart of systemd, and the wish stands.
        (
            Facts(ASKED, reports={NAME: Report("stopped")}),
            Action.KEEP_STOPPED,
            "configured at f:1, but an administrator stopped its unit",
        ),
        # Killed because its stop took too long.
        (
            Facts(ASKED, units={NAME: UnitFact("loaded", "failed")}, reports={NAME: Report("stopping")}),
            Action.KEEP_STOPPED,
            "configured at f:1, but an administrator stopped its unit",
        ),
        (
            Facts(ASKED, units={NAME: UnitFact("loaded", "failed")}, reports={NAME: Report("refused")}),
            Action.KEEP_STOPPED,
            "configured at f:1, but an administrator stopped its unit while in use",
        ),
        (
            Facts(ASKED, reports={NAME: Report("refused")}),
            Action.KEEP_STOPPED,
            "configured at f:1, but an administrator stopped its unit while in use",
        ),
        (Facts(ASKED, units={NAME: RUNNING}, reports={NAME: Report("refused")}), Action.KEEP, "configured at f:1"),
        (
            Facts(ASKED, units={NAME: UnitFact("loaded", "deactivating")}, reports={NAME: Report("stopping")}),
            Action.KEEP,
            "configured at f:1",
        ),
        # The report is older than the start.
        (Facts(ASKED, units={NAME: RUNNING}, reports={NAME: Report("stopped")}), Action.KEEP, "configured at f:1"),
        (
            Facts(ASKED, units={NAME: UnitFact("masked", "inactive")}),
            Action.LEAVE,
            "configured at f:1, but its unit is masked",
        ),
        (
            Facts(ASKED, units={NAME: UnitFact("masked", "active")}),
            Action.LEAVE,
            "configured at f:1, but its unit is masked",
        ),
        (
            Facts({NAME: (A, candidate(origin=DC))}),
            Action.START,
            f"configured at f:1 and listed in the log page of {DC}",
        ),
        (Facts({NAME: (A, A)}), Action.START, "configured at f:1"),
    ],
)
def test_wanted(facts: Facts, action: Action, reason: str) -> None:
    (decision,) = decide(facts)
    assert (decision.instance, decision.action, decision.reason) == (NAME, action, reason)
    assert decision.candidate is A
    assert decision.note == ""


KNOWN = Known(f"listed in the log page of {DC}", DC)
DC2 = DC.replace("192.0.2.1", "192.0.2.2")
BOTH = replace(KNOWN, referrers=frozenset((DC, DC2)))


@pytest.mark.parametrize(
    ("authoritative", "known", "disconnect", "reason"),
    [
        (
            {DC: Answer("generation 7"), DC2: Answer("generation 9")},
            True,
            "ours",
            "no longer listed in the log page of",
        ),
        # One that still owes its answer may list it.
        ({DC: Answer("generation 7")}, True, "", f"its log page lists nothing from {DC2}, which asked for it as well"),
        ({DC2: Answer("generation 9")}, True, "", "nothing newer is known"),
        # One that is gone for good has nothing to say any more.
        ({DC: Answer("generation 7")}, False, "ours", "no longer listed in the log page of"),
    ],
)
def test_controller_of_several_referrers_goes_when_each_omits_it(
    authoritative: dict[str, Answer], known: bool, disconnect: str, reason: str
) -> None:
    there = {NAME: BOTH} | ({DC2: Known("", CONFIGURATION)} if known else {})
    inconclusive = {DC2: "its log page lists nothing"}
    (decision,) = plan(
        Facts(units={NAME: RUNNING}, known=there, authoritative=authoritative, inconclusive=inconclusive), [NAME]
    )
    assert (decision.action, decision.disconnect) == (Action.KEEP, disconnect)
    assert reason in decision.reason


def test_removed_section_needs_no_other_referrer() -> None:
    """Referrals may lead from it in a ring back to it, and of those nobody asks for any more."""
    known = {NAME: Known("configured at f:1", CONFIGURATION, referrers=frozenset((CONFIGURATION, DC))), DC: KNOWN}
    (decision,) = plan(Facts(units={NAME: RUNNING}, known=known, authoritative={CONFIGURATION: Answer()}), [NAME])
    assert (decision.note, decision.disconnect) == ("no longer configured at f:1", "")


@pytest.mark.parametrize(
    ("before", "authoritative", "after"),
    [
        ((), {}, {CONFIGURATION}),
        ((DC, DC2), {DC: Answer("generation 7")}, {CONFIGURATION, DC2}),
        ((DC, DC2), {DC: Answer("generation 7"), DC2: Answer("generation 9")}, {CONFIGURATION}),
    ],
)
def test_referrer_without_a_present_answer_is_remembered(
    before: tuple[str, ...], authoritative: dict[str, Answer], after: set[str]
) -> None:
    known = {NAME: replace(KNOWN, referrers=frozenset(before)), DC: Known("", CONFIGURATION)}
    known[DC2] = Known("", CONFIGURATION)
    (decision,) = plan(Facts(ASKED, units={NAME: RUNNING}, known=known, authoritative=authoritative), [NAME])
    assert decision.referrers == after


@pytest.mark.parametrize("withdrawn", ["", ELSEWHERE, "no longer listed in the log page of another (generation 3)"])
def test_controller_of_another_unit_is_not_disconnected(withdrawn: str) -> None:
    """Who writes down one path of what a log page lists has not taken the other one away."""
    known = replace(KNOWN, withdrawn=withdrawn, target=A.target)
    facts = Facts(
        units={NAME: RUNNING},
        known={NAME: known},
        authoritative={DC: Answer("generation 7")},
        targets={A.target},
        trusted_targets={A.target},
    )
    (decision,) = plan(facts, [NAME])
    assert (decision.action, decision.disconnect, decision.note) == (Action.KEEP, "", ELSEWHERE)
    (decision,) = plan(replace(facts, trusted_targets=()), [NAME])
    assert decision.disconnect == "ours", "asked for where it is by announcements only"
    assert decision.note.startswith("no longer listed in the log page of")


@pytest.mark.parametrize(
    ("facts", "action", "reason", "note"),
    [
        (Facts(units={NAME: RUNNING}), Action.LEAVE, "not asked for by any source, and unknown to discoverd", ""),
        (
            Facts(units={NAME: RUNNING}, known={NAME: KNOWN}),
            Action.KEEP,
            f"it was listed in the log page of {DC}, and nothing newer is known",
            "",
        ),
        (
            Facts(known={NAME: KNOWN}),
            Action.LEAVE,
            f"it was listed in the log page of {DC}, and nothing newer is known",
            "",
        ),
        # The configuration is whole, but it was not the configuration that asked.
        (
            Facts(units={NAME: RUNNING}, known={NAME: KNOWN}, authoritative={CONFIGURATION: Answer()}),
            Action.KEEP,
            f"it was listed in the log page of {DC}, and nothing newer is known",
            "",
        ),
        (
            Facts(units={NAME: RUNNING}, known={NAME: KNOWN}, authoritative={DC: Answer("generation 7")}),
            Action.KEEP,
            f"no longer listed in the log page of {DC} (generation 7); it is disconnected unless it is in use",
            f"no longer listed in the log page of {DC} (generation 7)",
        ),
        (
            Facts(units={NAME: STOPPED}, known={NAME: KNOWN}, authoritative={DC: Answer("generation 7")}),
            Action.LEAVE,
            f"no longer listed in the log page of {DC} (generation 7)",
            f"no longer listed in the log page of {DC} (generation 7)",
        ),
    ],
)
def test_unwanted(facts: Facts, action: Action, reason: str, note: str) -> None:
    (decision,) = decide(facts)
    assert (decision.instance, decision.action, decision.reason, decision.note) == (NAME, action, reason, note)
    assert decision.candidate is None


# What is disconnected ---------------------------------------------------------------------------------------

OVER_TCP, OVER_RDMA, OVER_FC = NAME, NAME.replace("tcp:", "rdma:"), "fc:nn-0x1:pn-0x2::nqn.tcp"


@pytest.mark.parametrize(
    ("policy", "instance", "disconnect"),
    [
        # By default, what discoverd has connected itself.
        (Policy(), OVER_TCP, "ours"),
        (Policy("ours", ("tcp", "rdma")), OVER_RDMA, "ours"),
        (Policy("none"), OVER_TCP, ""),
        (Policy("none", ("tcp", "rdma")), OVER_RDMA, ""),
        # What others connected as well, over these transports only.
        (Policy("all"), OVER_TCP, "all"),
        (Policy("all"), OVER_RDMA, "ours"),
        (Policy("all"), OVER_FC, "ours"),
        (Policy("all", ("rdma", "fc")), OVER_TCP, "ours"),
        (Policy("all", ("rdma", "fc")), OVER_RDMA, "all"),
        (Policy("all", ("rdma", "fc")), OVER_FC, "all"),
        (Policy("all", ()), OVER_TCP, "ours"),
    ],
)
def test_withdrawn_controller_is_disconnected_as_policy_says(policy: Policy, instance: str, disconnect: str) -> None:
    facts = Facts(
        units={instance: RUNNING},
        known={instance: KNOWN},
        authoritative={DC: Answer("generation 7")},
        policy=policy,
    )
    (decision,) = plan(facts, [instance])
    assert decision.disconnect == disconnect
    then = "it is disconnected unless it is in use" if disconnect else "what runs is left as it is"
    assert decision.reason == f"{decision.note}; {then}"


@pytest.mark.parametrize("scope", DISCONNECT_SCOPES)
def test_removed_section_keeps_connection_whatever_the_policy(scope: DisconnectScope) -> None:
    facts = Facts(
        units={NAME: RUNNING},
        known={NAME: Known("configured at f:1", CONFIGURATION)},
        authoritative={CONFIGURATION: Answer()},
        policy=Policy(scope),
    )
    (decision,) = plan(facts, [NAME])
    assert (decision.action, decision.disconnect, decision.withdrawn_by) == (Action.KEEP, "", CONFIGURATION)


@pytest.mark.parametrize("unit", [RUNNING, STOPPED])
def test_withdrawn_controller_names_the_origin_that_omits_it(unit: UnitFact) -> None:
    known = replace(KNOWN, target=A.target)
    facts = Facts(units={NAME: unit}, known={NAME: known}, authoritative={DC: Answer("generation 7")})
    (decision,) = plan(facts, [NAME])
    assert decision.withdrawn_by == DC
    # Nobody has taken back what another unit stands for.
    (decision,) = plan(replace(facts, targets={A.target}, trusted_targets={A.target}), [NAME])
    assert (decision.note, decision.withdrawn_by) == (ELSEWHERE, "")


def test_wanted_controller_has_what_its_page_holds_back() -> None:
    other = candidate("b").tid.instance
    wanted = {NAME: (A,), other: (candidate("b"),)}
    held_back = {NAME: HeldBack(Wait.CONFIRMATION, "2 of 4 are gone", 100.0, "12:00")}
    facts = Facts(wanted, held_back=held_back, confirming={other})
    first, second = plan(facts, [NAME, other])
    assert (first.held_back, first.confirm) == ("2 of 4 are gone", False)
    assert (second.held_back, second.confirm) == ("", True)


def test_gap_that_is_not_proved_says_why() -> None:
    facts = Facts(
        units={NAME: RUNNING},
        known={NAME: KNOWN},
        authoritative={DC: without()},
        pending={DC: {NAME: Pending(Wait.CONFIRMATION, "one reading has to confirm it")}},
        inconclusive={DC: "its log page lists nothing"},
    )
    (decision,) = plan(facts, [NAME])
    assert (decision.action, decision.disconnect, decision.note) == (Action.KEEP, "", "")
    assert decision.reason == f"it was {KNOWN.source}, and one reading has to confirm it"
    assert decision.referrers == {DC}


def test_command_that_confirms_is_quoted_for_a_shell() -> None:
    assert confirmable(DC, "2 of 4").endswith(f"2 of 4; to disconnect them now: discoverctl confirm '{DC}'")


UNMANAGED_ONE = candidate(origin=UNMANAGED, source="connected by others")
WHOLE = {UNMANAGED: Answer("generation 7 of x")}
SAID = "connected by others, and in no log page (generation 7 of x)"
BEFORE = "connected by others, and in no log page (generation 5 of x)"
THEIRS = Known("connected by others", UNMANAGED, BEFORE)
THERE = Facts(unmanaged={NAME: UNMANAGED_ONE}, authoritative=WHOLE)


@pytest.mark.parametrize(
    ("facts", "decision"),
    [
        (THERE, Decision(NAME, Action.START, SAID, UNMANAGED_ONE, SAID, "all")),
        (
            replace(THERE, units={NAME: RUNNING}, known={NAME: THEIRS}),
            Decision(
                NAME, Action.KEEP, f"{BEFORE}; it is disconnected unless it is in use", note=BEFORE, disconnect="all"
            ),
        ),
        # Its worker was killed, and systemd does not start it again.
        (
            replace(THERE, units={NAME: UnitFact("loaded", "failed")}, known={NAME: THEIRS}),
            Decision(NAME, Action.START, BEFORE, UNMANAGED_ONE, BEFORE, "all"),
        ),
        # A discovery controller has not answered, and says so or not.
        (
            replace(THERE, authoritative={}, inconclusive={UNMANAGED: "nothing is known from y"}),
            Decision(NAME, Action.LEAVE, "connected by others, and nothing is known from y", UNMANAGED_ONE),
        ),
        (
            replace(THERE, authoritative={DC: Answer("generation 7")}),
            Decision(NAME, Action.LEAVE, "connected by others, and nothing newer is known", UNMANAGED_ONE),
        ),
        (
            replace(THERE, authoritative={}, units={NAME: RUNNING}, known={NAME: THEIRS}),
            Decision(
                NAME,
                Action.KEEP,
                "connected by others, and nothing newer is known; what runs is left as it is",
                note=BEFORE,
            ),
        ),
        (
            replace(THERE, excluded={NAME: "f:3"}),
            Decision(NAME, Action.LEAVE, "connected by others, but excluded by f:3", UNMANAGED_ONE, excluded_by="f:3"),
        ),
        (
            replace(THERE, excluded={NAME: "f:3"}, units={NAME: RUNNING}, known={NAME: THEIRS}),
            Decision(
                NAME,
                Action.KEEP,
                "connected by others, but excluded by f:3; what runs is left as it is",
                note=BEFORE,
                excluded_by="f:3",
            ),
        ),
        (
            replace(THERE, units={NAME: UnitFact("masked", "inactive")}),
            Decision(NAME, Action.LEAVE, "connected by others, but its unit is masked", UNMANAGED_ONE),
        ),
        # It is asked for under another name meanwhile.
        (
            Facts(units={NAME: RUNNING}, known={NAME: THEIRS}, authoritative=WHOLE),
            Decision(
                NAME,
                Action.KEEP,
                "connected by others, and it is gone, or asked for by now; what runs is left as it is",
                note=BEFORE,
            ),
        ),
        # Nothing is left of it but what is to be forgotten.
        (
            replace(THERE, units={NAME: STOPPED}, known={NAME: THEIRS}, reports={NAME: Report("withdrawn")}),
            Decision(NAME, Action.LEAVE, BEFORE, note=BEFORE),
        ),
        (
            Facts(known={NAME: THEIRS}),
            Decision(NAME, Action.LEAVE, "connected by others, and nothing newer is known", note=BEFORE),
        ),
    ],
)
def test_unmanaged_controller_has_this_decision(facts: Facts, decision: Decision) -> None:
    assert plan(facts, [NAME]) == [decision]


@pytest.mark.parametrize("said", ["stopped", "stopping", "refused", "live"])
def test_a_unit_of_what_others_connected_that_was_stopped_stays_stopped(said: str) -> None:
    unit = UnitFact("loaded", "failed" if said == "refused" else "inactive")
    facts = replace(THERE, units={NAME: unit}, known={NAME: THEIRS}, reports={NAME: Report(said)})
    reason = "connected by others, but an administrator stopped its unit"
    assert plan(facts, [NAME]) == [Decision(NAME, Action.LEAVE, reason, UNMANAGED_ONE)]


def test_wanted_controller_is_not_unmanaged() -> None:
    (decision,) = plan(replace(THERE, wanted=ASKED), [NAME])
    assert (decision.action, decision.reason, decision.disconnect) == (Action.START, "configured at f:1", "")


def test_only_what_is_asked_about_is_looked_at() -> None:
    """News of one controller cost the same, however many others there are."""
    others = {f"x{number}": (candidate(f"x{number}"),) for number in range(10)}
    facts = Facts({**others, **ASKED}, known={"y": KNOWN})
    assert [decision.instance for decision in plan(facts, [NAME])] == [NAME]
    assert plan(facts, []) == []
    # What there is no fact about is nothing to decide about.
    assert plan(facts, ["nobody", NAME, "y", "nothing"]) == plan(facts, [NAME, "y"])


@pytest.mark.parametrize("said", state.ENDED)
@pytest.mark.parametrize("unit", [None, STOPPED])
def test_ended_worker_is_not_kept_for_a_silent_source(said: str, unit: UnitFact | None) -> None:
    """A peer that comes under another name each time must not leave more and more behind."""
    facts = Facts(units={NAME: unit} if unit else {}, known={NAME: KNOWN}, reports={NAME: Report(said)})
    (decision,) = decide(facts)
    assert (decision.action, decision.note) == (Action.LEAVE, f"no longer {KNOWN.source}")
    (decision,) = decide(replace(facts, units={NAME: RUNNING}))
    assert (decision.action, decision.note) == (Action.KEEP, "")


# Who leads to a discovery controller -----------------------------------------------------------------------

ROOT, B, C = DC, "tcp:192.0.2.7:8009:b", "tcp:192.0.2.8:8009:c"
OF_DISCOVERY = ("tcp", "192.0.2.7", "8009", DISCOVERY_NQN)


def referred(*referrers: str) -> Known:
    """A discovery controller that these have referred to, the first of them last."""
    return Known("a referral", referrers[0], referrers=frozenset(referrers), target=OF_DISCOVERY)


def announced(*referrers: str) -> Known:
    return replace(referred(*referrers), trusted=False)


def without(*instances: str) -> Answer:
    return Answer("generation 7", frozenset(instances))


CONFIGURED_ROOT = Known("configured at f:1", CONFIGURATION, target=OF_DISCOVERY)


@pytest.mark.parametrize(
    ("known", "authoritative", "gone"),
    [
        # The root has taken it back; it refers to itself.
        ({B: referred(ROOT, B)}, {ROOT: without(B)}, {B}),
        ({B: referred(B)}, {ROOT: without(B)}, {B}),
        # A ring of two, and of three.
        ({B: referred(ROOT, C), C: referred(B)}, {ROOT: without(B)}, {B, C}),
        ({B: referred(ROOT, "d"), C: referred(B), "d": referred(C)}, {ROOT: without(B)}, {B, C, "d"}),
        # The root has not said so, or not proved it.
        ({B: referred(ROOT, B)}, {}, set()),
        ({B: referred(ROOT, B)}, {ROOT: without()}, set()),
        ({B: referred(ROOT, C), C: referred(B)}, {ROOT: without(C)}, set()),
        # Somebody else still leads to one of the ring.
        ({B: referred(ROOT, C), C: referred(B, NBFT)}, {ROOT: without(B)}, set()),
        # An announcement is nobody who could lead to what was trusted, nor is who is announced.
        ({B: referred(ROOT, C), C: referred(B, MDNS)}, {ROOT: without(B)}, {B, C}),
        ({B: referred(ROOT, C), C: announced(MDNS)}, {ROOT: without(B)}, {B}),
        # To what was announced from the beginning it is.
        ({B: announced(C), C: announced(MDNS)}, {}, set()),
        # What listed it has gone without a word.
        ({B: referred(C)}, {ROOT: without(B)}, set()),
        # What an administrator took out stays, and what it leads to.
        (
            {B: Known("configured", CONFIGURATION, target=OF_DISCOVERY), C: referred(B)},
            {CONFIGURATION: Answer()},
            set(),
        ),
        # Storage leads nowhere.
        ({B: replace(referred(ROOT), target=A.target)}, {ROOT: without(B)}, set()),
    ],
)
def test_discovery_controller_that_nobody_leads_to(
    known: dict[str, Known], authoritative: dict[str, Answer], gone: set[str]
) -> None:
    assert closed({ROOT: CONFIGURED_ROOT, **known}, {ROOT: ()}, authoritative) == gone


def test_entry_of_a_self_referral_only_is_withdrawn() -> None:
    known = {ROOT: CONFIGURED_ROOT, B: referred(ROOT, B), NAME: Known(f"listed in the log page of {B}", B)}
    authoritative = {ROOT: without(B)}
    facts = Facts(
        {ROOT: (candidate("root"),)},
        units={B: RUNNING, NAME: RUNNING},
        known=known,
        authoritative=authoritative,
        closed=closed(known, {ROOT: ()}, authoritative),
    )
    second, volume = plan(facts, [B, NAME])
    assert (second.disconnect, second.note) == ("ours", "no longer a referral (generation 7)")
    assert volume.disconnect == "ours"
    assert volume.note == f"no longer listed in the log page of {B} (which nothing leads to any more)"


def test_referrer_that_omitted_it_is_not_asked_again() -> None:
    """Also when nothing is left of him: he must not look like one who has gone without a word."""
    known = {NAME: Known("listed", B, referrers=frozenset((B, C))), C: referred(ROOT), ROOT: CONFIGURED_ROOT}
    facts = Facts(units={NAME: RUNNING}, known=known, closed={B}, inconclusive={C: "its log page lists nothing"})
    (decision,) = plan(facts, [NAME])
    assert not decision.disconnect
    assert set(decision.referrers) == {C}


# Excluded -------------------------------------------------------------------------------------------------

WHERE = "/etc/nvme/exclusions.conf:3"


@pytest.mark.parametrize("unit", [None, STOPPED, UnitFact("loaded", "failed")])
@pytest.mark.parametrize("said", [None, "live", "excluded", "stopped", "refused", "given up"])
def test_excluded_controller_is_not_started(unit: UnitFact | None, said: str | None) -> None:
    facts = Facts(
        ASKED,
        units={NAME: unit} if unit else {},
        reports={NAME: Report(said)} if said else {},
        excluded={NAME: WHERE},
    )
    (decision,) = decide(facts)
    assert (decision.action, decision.reason) == (Action.LEAVE, f"configured at f:1, but excluded by {WHERE}")
    assert decision.excluded_by == WHERE
    assert (decision.candidate, decision.note) == (A, "")


@pytest.mark.parametrize("active", ["active", "activating", "reloading", "deactivating"])
def test_running_excluded_controller_is_kept_and_told(active: str) -> None:
    (decision,) = decide(Facts(ASKED, units={NAME: UnitFact("loaded", active)}, excluded={NAME: WHERE}))
    assert (decision.action, decision.reason) == (Action.KEEP, f"configured at f:1, but excluded by {WHERE}")
    assert (decision.candidate, decision.note) == (A, f"excluded by {WHERE}")


def test_a_masked_unit_is_left_alone_whether_excluded_or_not() -> None:
    (decision,) = decide(Facts(ASKED, units={NAME: UnitFact("masked", "active")}, excluded={NAME: WHERE}))
    assert (decision.action, decision.reason) == (Action.LEAVE, "configured at f:1, but its unit is masked")


@pytest.mark.parametrize("said", ["excluded", "withdrawn", "given up"])
@pytest.mark.parametrize("unit", [None, STOPPED])
def test_a_worker_that_ended_by_itself_was_stopped_by_nobody(said: str, unit: UnitFact | None) -> None:
    """The exclusion is gone, or it is asked for again: it is started, though its unit is loaded and does not run."""
    facts = Facts(ASKED, units={NAME: unit} if unit else {}, reports={NAME: Report(said)})
    (decision,) = decide(facts)
    assert (decision.action, decision.reason) == (Action.START, "configured at f:1")


# Given up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("give_up_after", "asked", "reported", "action"),
    [
        (3600, 100.0, 4000.0, Action.LEAVE),
        # The very second in which it was asked for again is within the time that was given up.
        (3600, 4000.0, 4000.0, Action.LEAVE),
        # Announced, or listed, anew since.
        (3600, 4001.0, 4000.0, Action.START),
        # Somebody who is never content with a failure asks for it now.
        (0, 100.0, 4000.0, Action.START),
    ],
)
def test_given_up_until_it_is_asked_for_anew(give_up_after: int, asked: float, reported: float, action: Action) -> None:
    referred = replace(candidate(origin=DC), give_up_after=give_up_after, asked=asked)
    text = "given up after 60 min without a connection: no route to the target"
    facts = Facts(
        {NAME: (referred,)}, units={NAME: STOPPED}, reports={NAME: Report("given up", status=text, time=reported)}
    )
    (decision,) = decide(facts)
    assert decision.action is action
    source = f"listed in the log page of {DC}"
    assert decision.reason == (f"{source}, but {text}" if action is Action.LEAVE else source)


@pytest.mark.parametrize(
    ("attempts", "made", "action"),
    [
        (3, 3, Action.LEAVE),
        # It was limited to more attempts since.
        (5, 3, Action.START),
        # The page says that it is connected to the central discovery controller, or there is no limit any more.
        (0, 3, Action.START),
    ],
)
def test_out_of_attempts_until_it_has_more(attempts: int, made: int, action: Action) -> None:
    limited = replace(candidate(origin=DC), attempts=attempts)
    report = Report("given up", status="given up after 3 attempts: no route to the target", attempt=made, time=4000.0)
    (decision,) = decide(Facts({NAME: (limited,)}, units={NAME: STOPPED}, reports={NAME: report}))
    assert decision.action is action


def test_give_up_after_alone_does_not_stop_a_start() -> None:
    referred = replace(candidate(origin=DC), give_up_after=3600, asked=100.0)
    for said in ("waiting", "live", "connecting", ""):
        (decision,) = decide(Facts({NAME: (referred,)}, reports={NAME: Report(said, time=9999.0)}))
        assert decision.action is Action.START


# Properties -----------------------------------------------------------------------------------------------

names = st.sampled_from("abc")
origins = st.sampled_from([CONFIGURATION, DC, UNMANAGED, "gone"])
instances = names.map(lambda name: candidate(name).tid.instance)
wishes = st.builds(
    lambda name, origins, trusted, give_up_after, asked: tuple(
        replace(candidate(name, origin), trusted_parent=trusted, give_up_after=give_up_after, asked=asked)
        for origin in origins
    ),
    names,
    st.lists(origins, min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([0, 60]),
    st.sampled_from([0.0, 100.0, 300.0]),
)
facts_of_all_kinds = st.builds(
    Facts,
    st.lists(wishes, max_size=3).map(lambda asked: {one[0].tid.instance: one for one in asked}),
    st.dictionaries(
        instances,
        st.builds(
            UnitFact,
            st.sampled_from(["loaded", "masked", "not-found", "bad-setting", ""]),
            st.sampled_from(["active", "inactive", "failed", "activating", "deactivating", "reloading", "new"]),
            st.booleans(),
        ),
    ),
    st.dictionaries(
        instances,
        st.builds(
            Report,
            st.sampled_from(["live", "stopped", "withdrawn", "waiting", "foreign", "given up", "excluded", ""]),
            time=st.sampled_from([0.0, 200.0]),
        ),
    ),
    st.dictionaries(
        instances,
        st.builds(
            lambda origin, trusted: Known("listed somewhere", origin, trusted=trusted and origin != UNMANAGED),
            origins,
            st.booleans(),
        ),
    ),
    st.dictionaries(origins, st.builds(Answer, st.sampled_from(["", "generation 7"]))),
    st.dictionaries(origins, st.just("its log page lists nothing")),
    st.dictionaries(instances, st.just(WHERE)),
    st.builds(Policy, st.sampled_from(DISCONNECT_SCOPES), st.just(("tcp",))),
    st.dictionaries(instances, st.just(UNMANAGED_ONE)),
)


def is_asked_for(instance: str, facts: Facts) -> bool:
    """Tell whether anybody asks for it who counts."""
    known = facts.known.get(instance)
    asked = facts.wanted.get(instance, ())
    return any(one.trusted for one in asked) or (bool(asked) and not (known and known.trusted))


@given(facts_of_all_kinds)
def test_an_announcement_decides_nothing_about_what_somebody_trusted_asked_for(facts: Facts) -> None:
    for instance, asked in facts.wanted.items():
        known = facts.known.get(instance)
        if known and known.trusted and not any(one.trusted for one in asked):
            without_it = {one: theirs for one, theirs in facts.wanted.items() if one != instance}
            assert plan(facts, [instance]) == plan(replace(facts, wanted=without_it), [instance])


def test_no_action_stops_anything() -> None:
    assert set(Action) == {Action.START, Action.KEEP, Action.KEEP_STOPPED, Action.LEAVE}


@given(facts_of_all_kinds)
def test_every_controller_gets_one_decision_and_a_reason(facts: Facts) -> None:
    decisions = decide(facts)
    instances = [decision.instance for decision in decisions]
    assert len(set(instances)) == len(instances)
    assert set(instances) == facts.wanted.keys() | facts.units.keys() | facts.known.keys() | facts.unmanaged.keys()
    assert all(decision.reason for decision in decisions)
    assert decide(facts) == decisions


@given(facts_of_all_kinds)
def test_a_decision_depends_on_one_controller_only(facts: Facts) -> None:
    for decision in decide(facts):
        name = decision.instance

        def only(given: Mapping[str, Any], name: str = name) -> dict[str, Any]:
            return {instance: fact for instance, fact in given.items() if instance == name}

        alone = Facts(
            only(facts.wanted),
            only(facts.units),
            only(facts.reports),
            only(facts.known),
            facts.authoritative,
            facts.inconclusive,
            only(facts.excluded),
            facts.policy,
            only(facts.unmanaged),
        )
        assert plan(alone, [name]) == [decision]


@given(facts_of_all_kinds)
def test_only_what_is_asked_for_and_does_not_run_is_started(facts: Facts) -> None:
    for decision in decide(facts):
        if decision.action in (Action.START, Action.KEEP_STOPPED):
            unit = facts.units.get(decision.instance)
            if is_asked_for(decision.instance, facts):
                assert decision.candidate == facts.wanted[decision.instance][0]
            else:
                # Only to be disconnected.
                assert (decision.candidate, decision.disconnect) == (UNMANAGED_ONE, "all")
                assert UNMANAGED in facts.authoritative
                assert decision.note
            assert unit is None or not (unit.running or unit.load == "masked")
            assert decision.instance not in facts.excluded
        if decision.action is Action.START:
            report = facts.reports.get(decision.instance)
            assert report is None or report.state != "stopped"


@given(facts_of_all_kinds)
def test_unmanaged_controller_goes_only_with_every_answer(facts: Facts) -> None:
    for decision in decide(facts):
        known = facts.known.get(decision.instance)
        if decision.disconnect and (known is None or known.origin == UNMANAGED):
            assert UNMANAGED in facts.authoritative
            assert decision.instance in facts.unmanaged
            assert decision.instance not in facts.excluded
            assert not is_asked_for(decision.instance, facts)


@given(facts_of_all_kinds)
def test_running_wanted_unit_is_kept_unless_masked(facts: Facts) -> None:
    for decision in decide(facts):
        unit = facts.units.get(decision.instance)
        if decision.candidate and unit and unit.running and unit.load != "masked":
            assert decision.action is Action.KEEP


@given(facts_of_all_kinds)
def test_missing_information_never_makes_a_note(facts: Facts) -> None:
    for decision in decide(facts):
        known = facts.known.get(decision.instance)
        if not is_asked_for(decision.instance, facts) and (known is None or known.origin == UNMANAGED):
            continue  # What others connected has one from the beginning; see above for what may come of it.
        if decision.note and decision.instance not in facts.excluded:
            unit, report = facts.units.get(decision.instance), facts.reports.get(decision.instance)
            ended = not (unit and unit.running) and report is not None and report.state in state.ENDED
            assert ended or facts.known[decision.instance].origin in facts.authoritative
            assert decision.candidate is None
            assert not decision.disconnect or decision.action is Action.KEEP
        elif decision.note and decision.candidate is not None:
            assert decision.note == f"excluded by {WHERE}"


def test_origin_that_has_not_answered_has_withdrawn_nothing() -> None:
    """Also where its worker has given up, and the unit goes."""
    known = Known(f"listed in the log page of {DC}", DC, "", frozenset({DC}))
    facts = Facts(
        known={NAME: known, DC: Known("configured", CONFIGURATION)},
        reports={NAME: Report(state.GIVEN_UP)},
        inconclusive={DC: "it has not answered"},
    )
    (decision,) = plan(facts, [NAME])
    assert decision.withdrawn_by == ""


# A unit file in the way ------------------------------------------------------------------------------------

FILE = "/etc/systemd/system/nvme-ctrl@.service"


@pytest.mark.parametrize("where", ["", NAME])
@pytest.mark.parametrize("unit", [None, STOPPED, UnitFact("bad-setting", "inactive"), UnitFact("loaded", "failed")])
@pytest.mark.parametrize("said", [None, "live", "stopped", "refused"])
def test_unit_beside_a_unit_file_was_not_stopped_by_an_administrator(
    where: str, unit: UnitFact | None, said: str | None
) -> None:
    units = {NAME: unit} if unit else {}
    reports = {NAME: Report(said)} if said else {}
    (decision,) = decide(Facts(ASKED, units, reports, fragments={where: FILE}))
    assert (decision.action, decision.blocked_by) == (Action.LEAVE, FILE)
    assert decision.reason == f"configured at f:1, but beside the unit file {FILE} systemd does not make its unit"


def test_unit_that_was_made_before_the_unit_file_is_kept() -> None:
    (decision,) = decide(Facts(ASKED, {NAME: RUNNING}, fragments={"": FILE}))
    assert (decision.action, decision.reason, decision.blocked_by) == (Action.KEEP, "configured at f:1", "")
    # And stopped, it can be started as long as it is loaded.
    (decision,) = decide(Facts(ASKED, {NAME: STOPPED}, fragments={"": FILE}, made={NAME}))
    assert (decision.action, decision.blocked_by) == (Action.KEEP_STOPPED, "")


def test_unit_file_of_another_unit_is_in_nobodys_way() -> None:
    (decision,) = decide(Facts(ASKED, fragments={NAME + "0": FILE}))
    assert decision.action is Action.START
