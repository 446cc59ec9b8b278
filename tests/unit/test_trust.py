# SPDX-License-Identifier: Apache-2.0
"""The first histories of trust of those that `make fuzz` plays by the hundred thousand, and what they find."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from discoverd.plan.candidate import Candidate
from discoverd.sources import walk
from tests.fuzz import trust

from .trust_model import DISCOVERY_NQN, Budgets, Listed, Place, Rules, Written

BUDGETS = Budgets(controllers=1, listed=1, referrals=0, attempts=2, give_up_after=60)
HERE, ARRAY, STRANGER = "192.0.2.100", "192.0.2.1", "192.0.2.66"
VOLUME, OTHER = "nqn.2024-08.com.example:a", "nqn.2024-08.com.example:b"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Each history refuses hundreds of entries, and says so."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def play(count: int) -> Counter[str]:
    reached: Counter[str] = Counter()
    for number in range(count):
        reached += trust.run(number)
    return reached


def test_no_history_breaks_the_rules() -> None:
    """And the histories reach what they are about."""
    reached = play(150)
    kinds = {"announced", "many announced", "trusted by a page", "given up", "restart"}
    assert {kind for kind in kinds if reached[kind] >= 50} == kinds


def test_the_same_number_is_the_same_history() -> None:
    assert trust.run(4711) == trust.run(4711)


Mutation = Callable[[pytest.MonkeyPatch], None]


def everybody_is_trusted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Candidate, "trusted", property(lambda _: True))


def what_pages_of_the_trusted_list_is_not(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Candidate, "trusted", property(lambda one: not one.trusted_parent))


def no_limit_for_what_is_announced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trust, "CONSTANTS", [one for one in trust.CONSTANTS if one[0] is not walk])


@pytest.mark.parametrize(
    ("mutation", "found"),
    [
        (everybody_is_trusted, "trusted, and only announcements lead to it"),
        (what_pages_of_the_trusted_list_is_not, "an announcement has taken over what is trusted"),
        (no_limit_for_what_is_announced, "workers for announcements"),
    ],
)
def test_a_fault_is_found(mutation: Mutation, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError, match=found):
        play(500)


# The rules themselves ----------------------------------------------------------------------------------------


def place(role: str = "io", address: str = STRANGER, nqn: str = OTHER, interface: str = "eth0") -> Place:
    return Place(role, interface, address, "4420", DISCOVERY_NQN if role == "discovery" else nqn)


CONTROLLER = place("discovery", ARRAY, interface="")
VOLUMES = (Listed("io", ARRAY, "4420", VOLUME), Listed("io", HERE, "4420", OTHER))
LISTED = place(address=ARRAY, nqn=VOLUME, interface="")
TRUSTED = Written(LISTED, keyed=True, trusted=True, attempts=0, give_up_after=0, started=True, again=True)
ANNOUNCED = Written(place(), keyed=False, trusted=False, attempts=0, give_up_after=60, started=True, again=True)
PATH = place(nqn=VOLUME)


def rules() -> Rules:
    """Of a discovery controller that is configured and lists a volume, and an address of this host."""
    made = Rules(frozenset((HERE,)), frozenset(("192.0.2.255",)), BUDGETS)
    made.roots = {CONTROLLER}
    made.pages = {CONTROLLER: VOLUMES}
    return made


def judge(made: Rules, *written: Written) -> None:
    """Judge what is written, with the configured discovery controller, where all of it runs."""
    root = replace(TRUSTED, place=CONTROLLER)
    made.judge([root, *written], {str(one.place): one.place for one in (root, *written)})


def test_what_is_trusted_and_what_is_announced_stay_apart() -> None:
    judge(rules(), TRUSTED, ANNOUNCED)
    judge(rules(), TRUSTED, replace(ANNOUNCED, give_up_after=0, attempts=2))


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (replace(ANNOUNCED, keyed=True), "a key"),
        (replace(ANNOUNCED, trusted=True), "trusted, and only announcements"),
        (replace(TRUSTED, trusted=False, keyed=False), "taken over"),
        (replace(ANNOUNCED, give_up_after=0), "in time"),
        (replace(ANNOUNCED, give_up_after=61), "in time"),
        (replace(ANNOUNCED, give_up_after=0, attempts=3), "in time"),
        (replace(ANNOUNCED, place=PATH), "trusted subsystem"),
        (replace(ANNOUNCED, place=PATH._replace(role="discovery")), "trusted subsystem"),
        # It ran before somebody trusted asked for the subsystem, and is connected again.
        (replace(ANNOUNCED, place=PATH, started=False), "trusted subsystem"),
        (replace(ANNOUNCED, place=place(address=HERE)), "an address"),
        (replace(ANNOUNCED, place=place("discovery", HERE)), "an address"),
        (replace(ANNOUNCED, place=place(address="127.0.0.53")), "an address"),
        (replace(ANNOUNCED, place=place(address="192.0.2.255")), "an address"),
        (replace(ANNOUNCED, place=place(address="::")), "an address"),
        (replace(ANNOUNCED, place=place(address="ff02::fb%eth0")), "an address"),
        # The administrator's discovery controller is not on this host, so nor is what it lists.
        (replace(TRUSTED, place=place(address=HERE, interface="")), "trusted, and only announcements"),
    ],
)
def test_a_rule_that_is_broken(written: Written, found: str) -> None:
    with pytest.raises(AssertionError, match=found):
        judge(rules(), TRUSTED, written)


def test_what_ran_before_and_is_let_go_breaks_no_rule() -> None:
    judge(rules(), replace(ANNOUNCED, place=PATH, started=False, again=False))


def test_a_subsystem_stays_trusted_as_long_as_its_worker_runs() -> None:
    made = rules()
    judge(made, TRUSTED)
    made.pages.clear()
    with pytest.raises(AssertionError, match="trusted subsystem"):
        made.judge([replace(ANNOUNCED, place=PATH)], {"a": LISTED, "b": PATH})
    made.judge([replace(ANNOUNCED, place=PATH)], {"b": PATH})


def test_a_target_on_this_host_may_list_others_there() -> None:
    made = rules()
    here = CONTROLLER._replace(address=HERE)
    made.roots.add(here)
    made.pages[here] = VOLUMES
    judge(made, replace(TRUSTED, place=place(address=HERE, interface="")))


def test_workers_are_counted_together() -> None:
    some = [replace(ANNOUNCED, place=place(address=f"192.0.2.{number}")) for number in (60, 61, 62)]
    made = rules()
    judge(made, *some[:2])
    with pytest.raises(AssertionError, match="3 workers"):
        made.judge(some[2:], {str(one.place): one.place for one in some})


def test_what_is_trusted_and_has_no_worker_is_missing() -> None:
    made = rules()
    judge(made)
    assert made.missing({"a": CONTROLLER}) == {LISTED}
    assert not made.missing({"a": CONTROLLER, "b": LISTED})
