# SPDX-License-Identifier: Apache-2.0
"""The first few of the trials that `make fuzz` runs by the hundred thousand, and that they try what they should."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.plan.candidate import Candidate
from tests.fuzz import trial
from tests.fuzz.mutations import HOSTILE, answers


@given(st.integers(0, 2**64))
def test_whatever_a_discovery_controller_answers_does_no_harm(number: int) -> None:
    trial.run(answers(number))


def test_the_trials_reach_what_they_are_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are read and refused, and hostile texts become candidates where they are allowed to."""
    seen: list[Candidate] = []
    check = trial.check

    def keep(candidate: Candidate) -> None:
        seen.append(candidate)
        check(candidate)

    monkeypatch.setattr(trial, "check", keep)
    outcomes = Counter(trial.run(answers(number)) for number in range(300))
    assert set(outcomes) == {"read", "refused", "failed"}
    nqns = {dict(candidate.options)["nqn"] for candidate in seen}
    assert any(bad.decode(errors="ignore") in nqn for bad in HOSTILE if b"/.." in bad for nqn in nqns)
    assert {candidate.role for candidate in seen} == {"io", "discovery"}


def test_the_same_number_is_the_same_trial() -> None:
    assert answers(4711) == answers(4711)
    assert answers(4711) != answers(4712)
