# SPDX-License-Identifier: Apache-2.0
"""Who has which places on a walk along the log pages."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.plan.candidate import CONFIGURATION, Candidate
from discoverd.plan.evidence import Asked
from discoverd.plan.facts import Known
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import PageRead, parse
from discoverd.sources import walk
from discoverd.sources.log_pages import LogPages
from discoverd.sources.walk import Context, Places
from discoverd.sources.ways import Ways
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, TransportId

from .log_pages import entry, page

HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
CONTEXT = Context(FabricsConfig(), HOST, {}, {}, 0, 0, 25)


def test_who_is_alone_has_all_places() -> None:
    places = Places(256, ["a"])
    assert places.room("a") == 256
    places.take("a", 256)
    assert (places.room("a"), places.free) == (0, 0)


def test_half_of_the_places_are_divided() -> None:
    places = Places(256, ["a", "b", "c", "d"])
    assert places.room("a") == 256 - 3 * 32
    places.take("a", 160)
    assert [places.room(one) for one in "abcd"] == [0, 32, 32, 32]


@given(
    st.integers(-5, 40),
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 50)), max_size=20),
    st.sets(st.sampled_from("abcde"), min_size=1),
)
def test_each_has_its_share_whatever_others_ask_for(total: int, wishes: list[tuple[str, int]], roots: set[str]) -> None:
    places = Places(total, sorted(roots))
    share = max(0, total) // 2 // len(roots)
    taken = dict.fromkeys(roots, 0)
    for root, count in wishes:
        if root in roots:
            room = places.room(root)
            assert room >= share - taken[root]
            places.take(root, min(count, room))
            taken[root] += min(count, room)
    assert places.free == max(0, total) - sum(taken.values())
    assert places.free >= 0


def configured(number: int) -> Candidate:
    tid = TransportId.make(DISCOVERY, "tcp", f"192.0.2.{number}", "8009", DISCOVERY_NQN)
    return Candidate(tid, DISCOVERY, f"configured at f:{number}", CONFIGURATION, ())


def test_one_that_takes_all_it_can_leaves_each_other_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred referrals, each with a page of its own: beside them all that others list is followed."""
    monkeypatch.setattr(walk, "REFERRALS", 16)
    monkeypatch.setattr(walk, "TOTAL", 120)
    pages, wanted = LogPages(), Wanted(lambda _: False)
    hostile, honest = configured(1), configured(2)
    wanted.put(CONFIGURATION, (hostile, honest))

    def put(instance: str, *entries: bytes) -> None:
        pages.put(instance, PageRead(parse(page(*entries)), 17.0, "1", Asked.ALL_PORTS))

    lie = [entry(DISCOVERY_NQN, f"198.51.100.{number}", "8009", subtype=1) for number in range(1, 101)]
    put(hostile.tid.instance, *lie)
    for number in range(1, 101):
        listed = [entry(f"nqn.lie{number}-{one}") for one in range(20)]
        put(f"tcp:198.51.100.{number}:8009:{DISCOVERY_NQN}", *listed)
    put(honest.tid.instance, *(entry(DISCOVERY_NQN, f"192.0.2.{number}", "8009", subtype=1) for number in (3, 4, 5, 6)))
    for number in (3, 4, 5, 6):
        put(f"tcp:192.0.2.{number}:8009:{DISCOVERY_NQN}", *(entry(f"nqn.true{number}-{one}") for one in range(5)))
    for _ in pages.follow(wanted, CONTEXT, {}, {}):
        pass
    names = [one[0].tid.subsysnqn for one in wanted.asked.values()]
    assert sum(name.startswith("nqn.true") for name in names) == 20
    assert sum("198.51.100." in instance and DISCOVERY_NQN in instance for instance in wanted.asked) == 12
    assert sum(name.startswith("nqn.lie") for name in names) == 120 - 30 - 12, "but for the other's share"


def test_interface_that_is_ignored_stays_with_what_has_a_unit() -> None:
    pages, wanted = LogPages(), Wanted(lambda _: False)
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "8009", DISCOVERY_NQN, host_iface="eth0")
    wanted.put(CONFIGURATION, (Candidate(tid, DISCOVERY, "configured at f:1", CONFIGURATION, ()),))
    pages.put(tid.instance, PageRead(parse(page(entry("nqn.old"), entry("nqn.new"))), 17.0, "1", Asked.ALL_PORTS))
    old = "tcp:192.0.2.1:4420:nqn.old::eth0"
    for _ in pages.follow(wanted, replace(CONTEXT, ways=Ways(ignore_iface=True)), {}, {old: Known("", tid.instance)}):
        pass
    listed = [one for one in wanted.asked if one != tid.instance]
    assert listed == [old, "tcp:192.0.2.1:4420:nqn.new"]
    assert ["host_iface" in dict(wanted.asked[one][0].options) for one in listed] == [True, False]
