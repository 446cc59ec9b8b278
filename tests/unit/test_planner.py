# SPDX-License-Identifier: Apache-2.0
"""Facts in, decisions and reasons out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.candidate import CONFIGURATION, Candidate
from discoverd.planner import Action, Facts, Known, Report, UnitFact, plan
from discoverd.tid import IO, TransportId

DC = "tcp:192.0.2.1:8009:nqn.2014-08.org.nvmexpress.discovery"
RUNNING = UnitFact("loaded", "active")
STOPPED = UnitFact("loaded", "inactive")


def candidate(name: str = "a", origin: str = CONFIGURATION, source: str = "") -> Candidate:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn." + name)
    source = source or ("configured at f:1" if origin == CONFIGURATION else f"listed in the log page of {origin}")
    return Candidate(tid, IO, source, origin, (("nqn", "nqn." + name), ("transport", "tcp")))


A = candidate()
NAME = A.tid.instance


@pytest.mark.parametrize(
    ("facts", "action", "reason"),
    [
        (Facts((A,)), Action.START, "configured at f:1"),
        (Facts((A,), units={NAME: RUNNING}), Action.KEEP, "configured at f:1"),
        (Facts((A,), units={NAME: UnitFact("loaded", "activating")}), Action.KEEP, "configured at f:1"),
        (Facts((A,), units={NAME: UnitFact("loaded", "inactive", job=True)}), Action.KEEP, "configured at f:1"),
        (Facts((A,), units={NAME: UnitFact("not-found", "active")}), Action.KEEP, "configured at f:1"),
        (
            # Stopped before its worker could say so.
            Facts((A,), units={NAME: STOPPED}, reports={NAME: Report("live")}),
            Action.HOLD,
            "configured at f:1, but an administrator stopped its unit",
        ),
        (Facts((A,), units={NAME: UnitFact("loaded", "failed")}), Action.START, "configured at f:1"),
        (Facts((A,), reports={NAME: Report("waiting")}), Action.START, "configured at f:1"),
        (Facts((A,), reports={NAME: Report("live")}), Action.START, "configured at f:1"),
        (
            Facts((A,), units={NAME: STOPPED}, reports={NAME: Report("stopped")}),
            Action.HOLD,
            "configured at f:1, but an administrator stopped its unit",
        ),
        # Its unit is unloaded after a restart of systemd, and the wish stands.
        (
            Facts((A,), reports={NAME: Report("stopped")}),
            Action.HOLD,
            "configured at f:1, but an administrator stopped its unit",
        ),
        # Killed because its stop took too long.
        (
            Facts((A,), units={NAME: UnitFact("loaded", "failed")}, reports={NAME: Report("stopping")}),
            Action.HOLD,
            "configured at f:1, but an administrator stopped its unit",
        ),
        (
            Facts((A,), units={NAME: UnitFact("loaded", "failed")}, reports={NAME: Report("refused")}),
            Action.HOLD,
            "configured at f:1, but an administrator stopped its unit while in use",
        ),
        (
            Facts((A,), reports={NAME: Report("refused")}),
            Action.HOLD,
            "configured at f:1, but an administrator stopped its unit while in use",
        ),
        (Facts((A,), units={NAME: RUNNING}, reports={NAME: Report("refused")}), Action.KEEP, "configured at f:1"),
        (
            Facts((A,), units={NAME: UnitFact("loaded", "deactivating")}, reports={NAME: Report("stopping")}),
            Action.KEEP,
            "configured at f:1",
        ),
        # The report is older than the start.
        (Facts((A,), units={NAME: RUNNING}, reports={NAME: Report("stopped")}), Action.KEEP, "configured at f:1"),
        (
            Facts((A,), units={NAME: UnitFact("masked", "inactive")}),
            Action.LEAVE,
            "configured at f:1, but its unit is masked",
        ),
        (
            Facts((A,), units={NAME: UnitFact("masked", "active")}),
            Action.LEAVE,
            "configured at f:1, but its unit is masked",
        ),
        (
            Facts((candidate(origin=DC), A)),
            Action.START,
            f"configured at f:1 and listed in the log page of {DC}",
        ),
        (Facts((A, A)), Action.START, "configured at f:1"),
    ],
)
def test_wanted(facts: Facts, action: Action, reason: str) -> None:
    (decision,) = plan(facts)
    assert (decision.instance, decision.action, decision.reason) == (NAME, action, reason)
    assert decision.candidate is A
    assert decision.note == ""


KNOWN = Known(f"listed in the log page of {DC}", DC)


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
            Facts(units={NAME: RUNNING}, known={NAME: KNOWN}, complete=frozenset({CONFIGURATION})),
            Action.KEEP,
            f"it was listed in the log page of {DC}, and nothing newer is known",
            "",
        ),
        (
            Facts(units={NAME: RUNNING}, known={NAME: KNOWN}, complete=frozenset({DC})),
            Action.KEEP,
            f"no longer listed in the log page of {DC}; what runs is left as it is",
            f"no longer listed in the log page of {DC}",
        ),
        (
            Facts(units={NAME: STOPPED}, known={NAME: KNOWN}, complete=frozenset({DC})),
            Action.LEAVE,
            f"no longer listed in the log page of {DC}",
            f"no longer listed in the log page of {DC}",
        ),
    ],
)
def test_unwanted(facts: Facts, action: Action, reason: str, note: str) -> None:
    (decision,) = plan(facts)
    assert (decision.instance, decision.action, decision.reason, decision.note) == (NAME, action, reason, note)
    assert decision.candidate is None


def test_the_configured_come_first_in_their_order() -> None:
    found = [candidate(name, DC) for name in "dc"]
    written = [candidate(name) for name in "ba"]
    order = [decision.instance for decision in plan(Facts((*found, *written), known={"z": KNOWN, "y": KNOWN}))]
    assert order == [one.tid.instance for one in (*written, *found)] + ["y", "z"]


# One target, written and found --------------------------------------------------------------------------


def reach(origin: str = CONFIGURATION, iface: str = "", hostnqn: str = "", port: str = "") -> Candidate:
    """Return a candidate for one and the same subsystem, reached in one way or another."""
    tid = TransportId.make(IO, "tcp", "192.0.2.1", port, "nqn.a", host_iface=iface, hostnqn=hostnqn)
    return Candidate(tid, IO, "configured at f:1" if origin == CONFIGURATION else f"listed by {origin}", origin, ())


def test_what_is_found_without_a_host_side_is_the_configured_one_with_the_same_target() -> None:
    written, found = reach(iface="eth0"), reach(DC)
    assert written.tid.instance != found.tid.instance
    (decision,) = plan(Facts((found, written)))
    assert (decision.instance, decision.action) == (written.tid.instance, Action.START)
    assert decision.candidate is written
    assert decision.reason == f"configured at f:1 and listed by {DC}"


@pytest.mark.parametrize(
    ("written", "found"),
    [
        # Each asks for a connection of its own.
        (reach(iface="eth0"), reach(DC, iface="eth1")),
        (reach(), reach(DC, iface="eth1")),
        (reach(iface="eth0"), reach(DC, port="4421")),
        # To the target, these are two hosts.
        (reach(), reach(DC, hostnqn="nqn.2024-08.com.example:other")),
        (reach(hostnqn="nqn.2024-08.com.example:other"), reach(DC)),
    ],
)
def test_what_is_found_otherwise_stays_another(written: Candidate, found: Candidate) -> None:
    assert [decision.candidate for decision in plan(Facts((found, written)))] == [written, found]


def test_two_that_are_written_or_two_that_are_found_stay_two() -> None:
    for origin in (CONFIGURATION, DC):
        both = (reach(origin, "eth0"), reach(origin))
        assert [decision.candidate for decision in plan(Facts(both))] == list(both)


def test_what_runs_under_the_found_name_is_no_longer_asked_for_by_that_name() -> None:
    """The unit from before the administrator wrote the target down runs on, and is not started beside the other."""
    written, found = reach(iface="eth0"), reach(DC)
    name = found.tid.instance
    facts = Facts((written, found), {name: RUNNING}, known={name: Known(found.source, DC)}, complete=frozenset({DC}))
    first, second = plan(facts)
    assert (first.instance, first.action) == (written.tid.instance, Action.START)
    assert (second.instance, second.action) == (name, Action.KEEP)


# Properties -----------------------------------------------------------------------------------------------

names = st.sampled_from("abc")
origins = st.sampled_from([CONFIGURATION, DC, "gone"])
instances = names.map(lambda name: candidate(name).tid.instance)
facts_of_all_kinds = st.builds(
    Facts,
    st.lists(st.builds(candidate, names, origins), max_size=5).map(tuple),
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
        instances, st.builds(Report, st.sampled_from(["live", "stopped", "withdrawn", "waiting", "foreign", ""]))
    ),
    st.dictionaries(instances, st.builds(Known, st.just("listed somewhere"), origins)),
    st.frozensets(origins),
)


def test_no_action_stops_anything() -> None:
    assert set(Action) == {Action.START, Action.KEEP, Action.HOLD, Action.LEAVE}


@given(facts_of_all_kinds)
def test_every_controller_gets_one_decision_and_a_reason(facts: Facts) -> None:
    decisions = plan(facts)
    instances = [decision.instance for decision in decisions]
    assert len(set(instances)) == len(instances)
    assert set(instances) == {one.tid.instance for one in facts.candidates} | facts.units.keys() | facts.known.keys()
    assert all(decision.reason for decision in decisions)
    assert plan(facts) == decisions


@given(facts_of_all_kinds)
def test_only_what_is_asked_for_and_does_not_run_is_started(facts: Facts) -> None:
    for decision in plan(facts):
        if decision.action in (Action.START, Action.HOLD):
            unit = facts.units.get(decision.instance)
            assert decision.candidate in facts.candidates
            assert unit is None or not (unit.running or unit.load == "masked")
        if decision.action is Action.START:
            report = facts.reports.get(decision.instance)
            assert report is None or report.state != "stopped"


@given(facts_of_all_kinds)
def test_missing_information_never_makes_a_note(facts: Facts) -> None:
    for decision in plan(facts):
        if decision.note:
            assert facts.known[decision.instance].origin in facts.complete
            assert decision.candidate is None
