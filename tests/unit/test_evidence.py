# SPDX-License-Identifier: Apache-2.0
"""What the readings of one discovery controller prove about what it no longer lists."""

from collections.abc import Iterable

import pytest

from discoverd.plan.candidate import Target
from discoverd.plan.evidence import (
    CONFIRM_SECONDS,
    DAMPING_SECONDS,
    HELD_SECONDS,
    Asked,
    Evidence,
    Reading,
    Verdict,
    Wait,
)

VOLUMES = [f"vol{number}" for number in range(20)]
FIRST, SECOND = "192.0.2.1", "192.0.2.2"
MINUTE = 60


class Page:
    """A discovery controller at FIRST, the readings of its page, and what is known to have been listed."""

    def __init__(self, *volumes: str, addresses: Iterable[str] = (FIRST,)) -> None:
        self.now = 1000.0
        self.generation = 1
        self.connection = "1"
        self.addresses = tuple(addresses)
        self.evidence = Evidence(("tcp", FIRST))
        self.known: dict[str, Target] = {}
        self.verdict = Verdict()
        self.weights: dict[str, int] = {}
        self.wanted: set[str] = set()
        self.share = 25
        if volumes:
            self.read(*volumes)

    def read(
        self,
        *volumes: str,
        after: float = 1,
        asked: Asked = Asked.ALL_PORTS,
        inconclusive: str = "",
        possible_nqns: Iterable[str] = (),
        addresses: Iterable[str] | None = None,
    ) -> Verdict:
        """Read the page with these volumes on it, at each address, under the next generation."""
        self.now += after
        self.generation += 1
        at = self.addresses if addresses is None else addresses
        listed = {f"{one}@{address}": ("tcp", address, "4420", f"nqn.{one}") for one in volumes for address in at}
        reading = Reading(
            self.now,
            self.connection,
            self.generation,
            asked,
            listed,
            inconclusive,
            frozenset(f"nqn.{one}" for one in possible_nqns),
        )
        self.evidence.read(reading, self.known)
        self.known |= listed
        return self.judge()

    def judge(self) -> Verdict:
        self.verdict = self.evidence.judge(
            self.known,
            self.wanted.__contains__,
            lambda units: sum(self.weights.get(unit, 1) for unit in units),
            self.share,
        )
        return self.verdict

    def forget(self) -> None:
        """What was withdrawn has ended, and nothing is left of it."""
        for unit in self.verdict.absent:
            del self.known[unit]

    @property
    def absent(self) -> set[str]:
        return {unit.partition("@")[0] for unit in self.verdict.absent}

    @property
    def waits(self) -> dict[str, Wait]:
        return {unit.partition("@")[0]: one.wait for unit, one in self.verdict.pending.items()}


def test_gap_between_two_readings_on_one_connection_is_proved_at_once() -> None:
    page = Page(*VOLUMES)
    page.read(*VOLUMES[1:])
    assert (page.absent, page.waits) == ({"vol0"}, {})
    page.read(*VOLUMES)
    assert (page.absent, page.waits) == (set(), {})


def test_gap_on_a_new_connection_is_confirmed_by_readings_over_minutes() -> None:
    page = Page(*VOLUMES)
    page.connection = "2"
    page.read(*VOLUMES[1:])
    assert page.waits == {"vol0": Wait.CONFIRMATION}
    page.read(*VOLUMES[1:], after=MINUTE)
    page.read(*VOLUMES[1:], after=MINUTE)
    assert page.absent == set()
    page.read(*VOLUMES[1:], after=MINUTE)
    assert (page.absent, page.waits) == ({"vol0"}, {})


def test_two_readings_confirm_nothing() -> None:
    page = Page(*VOLUMES)
    page.connection = "2"
    page.read(*VOLUMES[1:])
    page.read(*VOLUMES[1:], after=4 * MINUTE)
    assert page.absent == set()
    page.read(*VOLUMES[1:])
    assert page.absent == {"vol0"}


def test_time_in_which_it_is_not_read_confirms_nothing() -> None:
    page = Page(*VOLUMES)
    page.connection = "2"
    page.read(*VOLUMES[1:])
    page.connection = "3"
    for _ in range(2):
        page.read(*VOLUMES[1:], after=60 * MINUTE)
        page.read(*VOLUMES[1:])
        assert page.waits == {"vol0": Wait.CONFIRMATION}


def test_one_reading_that_is_taken_twice_is_one() -> None:
    page = Page(*VOLUMES)
    page.connection = "2"
    page.read(*VOLUMES[1:])
    page.read(*VOLUMES[1:], after=4 * MINUTE)
    page.generation -= 1
    page.read(*VOLUMES[1:], after=0)
    assert page.absent == set()


def test_gap_after_the_generation_went_back_is_confirmed_first() -> None:
    page = Page(*VOLUMES)
    page.generation = 0
    page.read(*VOLUMES[1:])
    assert page.waits == {"vol0": Wait.CONFIRMATION}
    page.read(*VOLUMES[2:])
    assert (page.absent, page.waits) == ({"vol1"}, {"vol0": Wait.CONFIRMATION})


def test_returning_entry_restarts_the_confirmation_of_the_rest() -> None:
    page = Page(*VOLUMES)
    page.connection = "2"
    for count in range(1, 19):
        page.read(*VOLUMES[:count], after=2 * MINUTE)
        assert page.absent == set()
    # The last one stays away.
    page.read(*VOLUMES[:19], after=MINUTE)
    page.read(*VOLUMES[:19], after=MINUTE)
    assert page.absent == set()
    page.read(*VOLUMES[:19], after=CONFIRM_SECONDS)
    assert page.absent == {"vol19"}


def test_another_generation_back_restarts_the_confirmation() -> None:
    page = Page(*VOLUMES)
    page.connection = "2"
    for _ in range(3):
        page.generation = 0
        page.read(*VOLUMES[1:], after=MINUTE)
    assert page.waits == {"vol0": Wait.CONFIRMATION}


def test_a_new_volume_does_not_restart_the_confirmation() -> None:
    page = Page(*VOLUMES)
    page.connection = "2"
    for number in range(4):
        page.read(*VOLUMES[1:], *(f"new{one}" for one in range(number)), after=MINUTE)
    assert page.absent == {"vol0"}


def test_first_reading_after_a_restart_is_compared_with_none() -> None:
    page = Page(*VOLUMES)
    page.evidence = Evidence(("tcp", FIRST))
    page.read(*VOLUMES[1:])
    assert page.waits == {"vol0": Wait.CONFIRMATION}


def test_page_in_doubt_proves_nothing_and_the_next_is_compared_with_none() -> None:
    page = Page(*VOLUMES)
    page.read(inconclusive="its log page lists nothing")
    assert page.verdict == Verdict()
    page.read(*VOLUMES[1:])
    assert page.waits == {"vol0": Wait.CONFIRMATION}


def test_page_in_doubt_takes_no_proof_back() -> None:
    page = Page(*VOLUMES)
    page.read(*VOLUMES[1:])
    page.read(inconclusive="1 entry of its log page cannot be read")
    assert page.absent == set()
    page.connection = "2"
    page.read(*VOLUMES[1:])
    assert page.absent == {"vol0"}


def test_entry_of_a_doubtful_page_is_listed_again() -> None:
    page = Page(*VOLUMES)
    page.read(*VOLUMES[1:])
    assert page.absent == {"vol0"}
    page.read(*VOLUMES, inconclusive="1 entry of its log page cannot be read")
    page.read(*VOLUMES[1:])
    assert (page.absent, page.waits) == (set(), {"vol0": Wait.CONFIRMATION})


@pytest.mark.parametrize("volumes", [VOLUMES[2:], VOLUMES[1:]])
def test_page_in_doubt_shows_that_it_has_started_anew(volumes: list[str]) -> None:
    """Its generation goes back, or what was missing comes back."""
    page = Page(*VOLUMES)
    page.connection = "2"
    for _ in range(2):
        page.read(*VOLUMES[2:], after=MINUTE)
    page.generation = 0 if volumes == VOLUMES[2:] else page.generation
    page.read(*volumes, after=MINUTE, inconclusive="1 entry of its log page cannot be read")
    for _ in range(3):
        page.read(*VOLUMES[2:], after=MINUTE)
        assert page.absent == set()
    page.read(*VOLUMES[2:], after=MINUTE)
    assert page.absent == {"vol0", "vol1"}


def test_page_in_doubt_counts_for_what_was_asked_for() -> None:
    page = Page(addresses=(SECOND,))
    page.read(*VOLUMES, asked=Asked.ONE_PORT)
    page.read(*VOLUMES, inconclusive="1 entry of its log page cannot be read")
    for _ in range(5):
        page.read(*VOLUMES[1:], asked=Asked.ONE_PORT, after=MINUTE)
    assert page.waits == {"vol0": Wait.UNKNOWN}


def test_entry_that_cannot_be_used_may_be_any_path_of_its_subsystem() -> None:
    page = Page("vol0", "vol1", addresses=(FIRST, SECOND))
    page.read("vol0", "vol1", addresses=(FIRST,), possible_nqns=("vol0",))
    assert page.verdict.pending.keys() == {f"vol0@{SECOND}"}
    assert page.verdict.absent == {f"vol1@{SECOND}"}


def test_page_of_one_port_says_nothing_about_others() -> None:
    page = Page(*VOLUMES, addresses=(FIRST, SECOND))
    page.connection = "2"
    for _ in range(5):
        page.read(*VOLUMES, addresses=(FIRST,), asked=Asked.ONE_PORT, after=5 * MINUTE)
    assert page.absent == set()
    assert set(page.waits.values()) == {Wait.UNKNOWN}
    page.read(*VOLUMES[1:], addresses=(FIRST,), asked=Asked.ONE_PORT)
    assert page.verdict.absent == {f"vol0@{FIRST}"}


def test_page_of_one_port_speaks_for_what_such_a_page_has_listed() -> None:
    page = Page(addresses=(SECOND,))
    page.read(*VOLUMES, asked=Asked.ONE_PORT)
    page.read(*VOLUMES[1:], asked=Asked.ONE_PORT)
    assert page.absent == {"vol0"}


def test_page_of_an_earlier_worker_proves_nothing_at_once() -> None:
    page = Page()
    page.connection = ""
    page.read(*VOLUMES, asked=Asked.UNKNOWN)
    page.read(*VOLUMES[1:], asked=Asked.UNKNOWN)
    assert page.waits == {"vol0": Wait.CONFIRMATION}


def test_more_than_the_share_is_held_back_and_then_goes() -> None:
    page = Page(*VOLUMES)
    page.read(*VOLUMES[10:])
    assert set(page.waits.values()) == {Wait.SHARE}
    assert page.verdict.listed == 20
    until = {one.until for one in page.verdict.pending.values()}
    assert until == {page.now + HELD_SECONDS}
    for _ in range(HELD_SECONDS // MINUTE - 1):
        page.read(*VOLUMES[10:], after=MINUTE)
        assert page.absent == set()
    page.read(*VOLUMES[10:], after=MINUTE)
    assert len(page.absent) == 10


@pytest.mark.parametrize(("connection", "generation", "after"), [("2", 99, 1), ("1", 0, 1), ("1", 99, 6 * MINUTE)])
@pytest.mark.parametrize("in_doubt", [False, True])
def test_held_back_begins_anew_with_the_controller(
    connection: str, generation: int, after: float, in_doubt: bool
) -> None:
    """Half of it was taken away, and before that was believed the controller restarts and lists one so far."""
    page = Page(*VOLUMES)
    for _ in range(HELD_SECONDS // MINUTE):
        page.read(*VOLUMES[10:], after=MINUTE)
    assert page.absent == set()
    page.connection, page.generation = connection, generation
    if in_doubt:
        page.read(after=after, inconclusive="its log page lists nothing")
        after = 1
    page.read(VOLUMES[10], after=after)
    assert page.absent == set()
    assert set(page.waits.values()) == {Wait.SHARE}
    page.read(*VOLUMES[10:], after=MINUTE)
    page.read(*VOLUMES)
    assert (page.absent, page.waits) == (set(), {})


def test_new_entries_make_no_room_for_losses() -> None:
    page = Page(*VOLUMES[:8])
    page.read(*(f"new{number}" for number in range(24)))
    assert set(page.waits.values()) == {Wait.SHARE}
    assert len(page.waits) == 8


def test_only_what_nobody_else_asks_for_waits() -> None:
    page = Page(*VOLUMES)
    page.wanted = {f"vol{number}@{FIRST}" for number in range(10)}
    page.connection = "2"
    page.read(*VOLUMES[12:])
    assert {unit.partition("@")[0] for unit in page.verdict.waiting} == {"vol10", "vol11"}
    assert page.verdict.listed == 10


def test_page_is_settled_when_it_has_said_the_same_for_minutes() -> None:
    page = Page(*VOLUMES[:1])
    for count in range(2, 5):
        page.read(*VOLUMES[:count], after=MINUTE)
        assert not page.verdict.settled
    for settled in (False, False, True, True):
        page.read(*VOLUMES[:4], after=MINUTE)
        assert page.verdict.settled is settled
    # A change while it runs is none of a controller that starts; on another connection it may be.
    page.read(*VOLUMES[:5])
    assert page.verdict.settled
    page.connection = "2"
    page.read(*VOLUMES[:5])
    assert page.verdict.settled
    page.connection = "3"
    page.read(*VOLUMES[:4])
    assert not page.verdict.settled


def test_the_share_counts_what_goes_one_after_another() -> None:
    page = Page(*VOLUMES)
    for number in range(1, 6):
        page.read(*VOLUMES[number:])
        assert page.absent == {f"vol{number - 1}"}
        page.forget()
    page.read(*VOLUMES[6:])
    assert page.waits == {"vol5": Wait.SHARE}
    # What went a while ago does not count.
    for _ in range(HELD_SECONDS // MINUTE):
        page.read(*VOLUMES[6:], after=MINUTE)
    page.read(*VOLUMES[7:])
    assert page.absent == {"vol5", "vol6"}


def test_proved_absence_lasts_when_the_generation_goes_back() -> None:
    page = Page(*VOLUMES)
    page.connection = "2"
    for _ in range(4):
        page.read(*VOLUMES[5:], after=MINUTE)
    assert len(page.absent) == 5
    page.generation = 0
    page.read(*VOLUMES[5:], after=HELD_SECONDS)
    page.read(*VOLUMES[6:])
    assert (len(page.absent), page.waits) == (6, {})


def test_one_controller_may_always_go() -> None:
    page = Page("vol0", "vol1")
    page.read("vol0")
    assert page.absent == {"vol1"}


@pytest.mark.parametrize(("share", "held"), [(0, 2), (9, 2), (10, 0), (100, 0)])
def test_the_share_is_a_setting(share: int, held: int) -> None:
    page = Page(*VOLUMES)
    page.share = share
    page.read(*VOLUMES[2:])
    assert len(page.waits) == held


def test_a_referral_counts_with_what_only_it_leads_to() -> None:
    page = Page(*VOLUMES)
    page.weights[f"vol0@{FIRST}"] = 10
    page.read(*VOLUMES[1:])
    assert page.waits == {"vol0": Wait.SHARE}


def test_a_referral_that_has_gone_counts_with_what_went_with_it() -> None:
    page = Page(*VOLUMES)
    page.weights[f"vol0@{FIRST}"] = 3
    page.read(*VOLUMES[1:])
    assert page.absent == {"vol0"}
    page.forget()
    page.weights.clear()
    page.read(*VOLUMES[4:])
    assert page.waits == dict.fromkeys(("vol1", "vol2", "vol3"), Wait.SHARE)


def test_controller_that_others_ask_for_takes_nothing_of_the_share() -> None:
    page = Page(*VOLUMES)
    page.wanted = {f"vol{number}@{FIRST}" for number in range(10)}
    page.read(*VOLUMES[11:])
    assert page.waits == {}
    assert len(page.absent) == 11


def test_a_confirmed_gap_is_proved() -> None:
    page = Page(*VOLUMES)
    page.connection = "2"
    page.read(*VOLUMES[10:])
    page.evidence.confirm([f"vol0@{FIRST}", f"vol1@{FIRST}", "unknown"])
    page.judge()
    assert page.absent == {"vol0", "vol1"}
    assert len(page.waits) == 8


def test_oscillating_entry_is_kept_longer_each_time() -> None:
    page = Page(*VOLUMES)
    held = []
    for _ in range(5):
        page.read(*VOLUMES[1:])
        began = page.now
        while page.absent != {"vol0"}:
            assert page.waits == {"vol0": Wait.DAMPING}
            page.read(*VOLUMES[1:], after=10)
        held.append(page.now - began)
        page.read(*VOLUMES)
    assert held == [0, 0, DAMPING_SECONDS, 2 * DAMPING_SECONDS, 4 * DAMPING_SECONDS]


def test_oscillation_is_remembered_while_it_keeps_an_entry() -> None:
    page = Page(*VOLUMES)
    for pauses in (0, 2):
        for _ in range(pauses):
            page.read(*VOLUMES, after=5 * MINUTE - 15)
        page.read(*VOLUMES[1:])
        assert page.absent == {"vol0"}
        page.read(*VOLUMES)
    page.read(*VOLUMES[1:])
    # The first return is more than ten minutes ago, and was not when it went.
    page.read(*VOLUMES[1:], after=DAMPING_SECONDS - 10)
    assert page.waits == {"vol0": Wait.DAMPING}
    page.read(*VOLUMES[1:], after=10)
    assert page.absent == {"vol0"}


def test_oscillation_of_long_ago_keeps_nothing() -> None:
    page = Page(*VOLUMES)
    for _ in range(5):
        page.read(*VOLUMES[1:], after=10 * MINUTE)
        assert page.absent == {"vol0"}
        page.read(*VOLUMES)
