# SPDX-License-Identifier: Apache-2.0
"""What all sources ask for, folded into units: nobody's connection is taken by another unit of ours."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.candidate import BOOT, CONFIGURATION, FIBRE_CHANNEL, MDNS, NBFT, Candidate
from discoverd.plan.folding import Wanted, fold, group_of, satisfies
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

DC = "tcp:192.0.2.1:8009:nqn.2014-08.org.nvmexpress.discovery"
OTHER = "nqn.2024-08.com.example:other"


def nobody(_: str) -> bool:
    return False


def reach(
    origin: str = CONFIGURATION,
    iface: str = "",
    source: str = "",
    *,
    role: str = IO,
    nqn: str = "nqn.a",
    hostnqn: str = "",
    port: str = "",
    give_up_after: int = 0,
    asked: float = 0.0,
) -> Candidate:
    """Return a candidate for one and the same target, reached in one way or another."""
    tid = TransportId.make(role, "tcp", "192.0.2.1", port, nqn, host_traddr=source, host_iface=iface, hostnqn=hostnqn)
    return Candidate(tid, role, f"asked for by {origin}", origin, (("nqn", nqn),), give_up_after, asked)


def dc(origin: str, nqn: str = DISCOVERY_NQN, iface: str = "") -> Candidate:
    return reach(origin, iface, role=DISCOVERY, nqn=nqn)


def put(*candidates: Candidate, has_state: Callable[[str], bool] = nobody) -> Wanted:
    wanted = Wanted(has_state)
    for origin in dict.fromkeys(one.origin for one in candidates):
        wanted.put(origin, tuple(one for one in candidates if one.origin == origin))
    return wanted


def units(wanted: Wanted) -> list[set[Candidate]]:
    return [set(asked) for asked in wanted.asked.values()]


# One controller, asked for in several ways ----------------------------------------------------------------


def test_found_without_host_side_joins_the_configured_target() -> None:
    written, found = reach(iface="eth0"), reach(DC)
    assert written.tid.instance != found.tid.instance
    for order in ((written, found), (found, written)):
        assert put(*order).asked == {written.tid.instance: (written, found)}


def test_found_by_a_path_joins_the_configured_one_that_takes_any() -> None:
    written, found = reach(), reach(NBFT, "eth0")
    for order in ((written, found), (found, written)):
        assert put(*order).asked == {written.tid.instance: (written, found)}


@pytest.mark.parametrize(
    ("written", "found"),
    [
        # Each asks for a connection of its own.
        (reach(iface="eth0"), reach(DC, iface="eth1")),
        (reach(iface="eth0"), reach(DC, source="192.0.2.9")),
        (reach(iface="eth0"), reach(DC, port="4421")),
        (reach(), reach(DC, nqn="nqn.b")),
        # To the target, these are two hosts.
        (reach(), reach(DC, hostnqn=OTHER)),
        (reach(hostnqn=OTHER), reach(DC)),
        # Two discovery controllers at one address, if each has a name.
        (dc(CONFIGURATION, "nqn.dc1"), dc(DC, "nqn.dc2")),
    ],
)
def test_found_otherwise_stays_another_unit(written: Candidate, found: Candidate) -> None:
    for order in ((written, found), (found, written)):
        assert put(*order).asked == {written.tid.instance: (written,), found.tid.instance: (found,)}


def test_a_path_asked_for_in_part_is_the_one_of_the_boot_that_has_it() -> None:
    live = reach(BOOT, "eth0", "192.0.2.2")
    for found in (reach(NBFT, "eth0"), reach(NBFT, source="192.0.2.2"), reach(NBFT, "eth0", "192.0.2.2")):
        assert units(put(live, found)) == [{live, found}]
    for found in (reach(NBFT, "eth1"), reach(NBFT, "eth0", "192.0.2.3")):
        assert len(units(put(live, found))) == 2
    # Firmware had another lease.
    found = replace(reach(NBFT, "eth0", "192.0.2.3"), source_optional=True)
    assert units(put(live, found)) == [{live, found}]


def test_configured_twice_is_two_units() -> None:
    both = (reach(iface="eth0"), reach())
    assert put(*both).asked == {one.tid.instance: (one,) for one in both}


def test_any_path_is_one_of_those_that_others_ask_for() -> None:
    any_path, east, west = reach(MDNS), reach(NBFT, "eth0"), reach(NBFT, "eth1")
    for order in ((any_path, east, west), (east, west, any_path)):
        assert set(put(*order).asked) == {east.tid.instance, west.tid.instance}


def test_paths_stay_paths_where_any_was_first() -> None:
    """The unit that exists takes one of them in: else there would be one path where two are asked for."""
    any_path, east, west = reach(MDNS), reach(NBFT, "eth0"), reach(NBFT, "eth1")
    wanted = put(any_path, east, west, has_state=any_path.tid.instance.__eq__)
    assert units(wanted) == [{any_path, east}, {west}]


def test_the_well_known_name_is_whatever_discovery_controller_is_there() -> None:
    by_name, well_known = dc(MDNS, "nqn.dc1"), dc(DC)
    for order in ((by_name, well_known), (well_known, by_name)):
        assert put(*order).asked == {by_name.tid.instance: (by_name, well_known)}
    written = dc(CONFIGURATION)
    assert put(by_name, written).asked == {written.tid.instance: (written, by_name)}


def test_the_unit_that_exists_keeps_its_name() -> None:
    by_name, well_known = dc(MDNS, "nqn.dc1"), dc(DC)
    wanted = put(by_name, well_known, has_state=well_known.tid.instance.__eq__)
    assert wanted.asked == {well_known.tid.instance: (well_known, by_name)}
    # But what the kernel has since the boot is as it is.
    since = dc(BOOT, "nqn.dc1")
    wanted = put(well_known, since, has_state=well_known.tid.instance.__eq__)
    assert wanted.asked == {since.tid.instance: (since, well_known)}


def test_the_most_lasting_wish_counts() -> None:
    by_referral = replace(reach(DC, give_up_after=60, asked=5.0))
    by_event = reach(FIBRE_CHANNEL, give_up_after=3600, asked=3.0)
    (first, *_) = put(by_referral, by_event).asked[by_referral.tid.instance]
    assert (first.give_up_after, first.asked) == (3600, 5.0)
    (first, *_) = put(by_referral, by_event, reach()).asked[by_referral.tid.instance]
    assert (first.origin, first.give_up_after) == (CONFIGURATION, 0)
    (first, *_) = put(by_referral, reach(MDNS)).asked[by_referral.tid.instance]
    assert first.give_up_after == 0


def test_of_several_limits_the_widest_counts() -> None:
    """Two central discovery controllers list one subsystem, and may not agree whether it is connected to them."""
    limited, free, wider = (replace(reach(DC + str(n)), attempts=attempts) for n, attempts in enumerate((3, 0, 5)))
    for several, attempts in (((limited, free), 0), ((limited, wider), 5), ((limited,), 3)):
        for order in (several, several[::-1]):
            (asked,) = put(*order).asked.values()
            assert asked[0].attempts == attempts


def test_first_configured_decides_also_after_an_edit() -> None:
    first, second = reach(), replace(reach(), options=(("nqn", "nqn.a"), ("tos", "3")))
    wanted = put(first, second)
    edited = replace(first, options=(("nqn", "nqn.a"), ("tos", "1")))
    wanted.put(CONFIGURATION, (edited, second))
    assert wanted.asked[first.tid.instance] == (edited, second)


# One name, two roles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [CONFIGURATION, MDNS])
def test_a_peer_cannot_turn_a_discovery_controller_into_something_else(origin: str) -> None:
    """A log page that lists it as an I/O controller means the same unit."""
    mine = dc(origin, "nqn.dc1")
    lie = reach("tcp:192.0.2.66:8009:nqn.x", nqn="nqn.dc1", port="8009")
    name = mine.tid.instance
    assert lie.tid.instance == name
    for order in ((mine, lie), (lie, mine)):
        wanted = put(*order)
        assert (wanted.asked, set(wanted.discovery)) == ({name: (mine,)}, {name})
        # Neither takes the other away when it goes.
        wanted.put(lie.origin, ())
        assert (wanted.asked, set(wanted.discovery)) == ({name: (mine,)}, {name})
        wanted = put(*order)
        wanted.put(origin, ())
        assert (wanted.asked, set(wanted.discovery)) == ({name: (lie,)}, set())
        wanted.put(lie.origin, ())
        assert (wanted.asked, set(wanted.discovery)) == ({}, set())


@pytest.mark.parametrize("liar", ["tcp:192.0.2.0:8009:nqn.x", "tcp:192.0.2.66:8009:nqn.x"])
def test_a_peer_cannot_turn_the_storage_of_another_page_into_a_discovery_controller(liar: str) -> None:
    listed = reach(DC, nqn="nqn.a", port="4420")
    lie = reach(liar, role=DISCOVERY, nqn="nqn.a", port="4420")
    name = listed.tid.instance
    assert lie.tid.instance == name
    for order in ((listed, lie), (lie, listed)):
        wanted = put(*order)
        assert (wanted.asked, wanted.discovery) == ({name: (listed,)}, set())


# News -----------------------------------------------------------------------------------------------------


def test_a_page_that_was_narrowed_to_its_port_asks_for_less_unless_another_page_has_it() -> None:
    """What ``pleo`` does when it is switched on."""
    wanted = Wanted(nobody)
    here, there, both = (reach(DC, nqn=f"nqn.{name}") for name in ("here", "there", "both"))
    other = reach("another", nqn="nqn.both")
    wanted.put(DC, (here, there, both))
    wanted.put("another", (other,))
    wanted.changes()
    wanted.put(DC, (here,))
    assert wanted.asked == {here.tid.instance: (here,), other.tid.instance: (other,)}
    assert set(wanted.changes()) == {there.tid.instance, both.tid.instance}


def test_changes_are_told_once_and_in_order() -> None:
    wanted = Wanted(nobody)
    names = ["nqn.c", "nqn.a", "nqn.b"]
    wanted.put(DC, tuple(reach(DC, nqn=name) for name in names))
    assert [one.rpartition(":")[2] for one in wanted.changes()] == names
    assert list(wanted.changes()) == []


def test_only_what_has_changed_is_told() -> None:
    wanted = Wanted(nobody)
    page = tuple(reach(DC, nqn=f"nqn.{number}") for number in range(100))
    wanted.put(DC, page)
    wanted.changes()
    wanted.put(DC, page)
    assert list(wanted.changes()) == []
    # Derived anew, and the same.
    wanted.put(DC, tuple(replace(one) for one in page))
    assert list(wanted.changes()) == []
    new = reach(DC, nqn="nqn.new")
    wanted.put(DC, (*page[1:], new))
    assert set(wanted.changes()) == {page[0].tid.instance, new.tid.instance}
    # Asked for by one more is news, too: it is among the reasons.
    wanted.put(CONFIGURATION, (reach(nqn="nqn.7"),))
    assert list(wanted.changes()) == [page[7].tid.instance]


# Properties -----------------------------------------------------------------------------------------------

ORIGINS = (CONFIGURATION, BOOT, NBFT, MDNS, FIBRE_CHANNEL, DC, "another")


@st.composite
def candidates(draw: st.DrawFn, origins: tuple[str, ...] = ORIGINS) -> Candidate:
    """Close to one another, so that they meet."""
    role = draw(st.sampled_from([IO, DISCOVERY, DISCOVERY]))
    return reach(
        draw(st.sampled_from(origins)),
        draw(st.sampled_from(["", "", "eth0", "eth1"])),
        draw(st.sampled_from(["", "", "192.0.2.9"])),
        role=role,
        nqn=draw(st.sampled_from([DISCOVERY_NQN, "nqn.dc1", "nqn.dc2"] if role == DISCOVERY else ["nqn.a", "nqn.dc1"])),
        hostnqn=draw(st.sampled_from(["", "", OTHER])),
        port=draw(st.sampled_from(["8009", "8009", "4420"])),
        give_up_after=draw(st.sampled_from([0, 60, 3600])),
        asked=draw(st.sampled_from([0.0, 5.0])),
    )


many = st.lists(candidates(), max_size=12)
with_state = st.frozensets(candidates().map(lambda one: one.tid.instance), max_size=4)


def by_group(all_of_them: Iterable[Candidate]) -> list[list[Candidate]]:
    groups: dict[object, list[Candidate]] = {}
    for one in all_of_them:
        groups.setdefault(group_of(one), []).append(one)
    return list(groups.values())


@given(many, with_state)
def test_no_two_units_for_controllers_that_would_take_each_others_connection(
    asked: list[Candidate], existing: frozenset[str]
) -> None:
    for group in by_group(asked):
        folded = fold(group, existing.__contains__)
        leaders = [(members[0], members) for members in folded.values()]
        for number, (first, members) in enumerate(leaders):
            for second, _ in leaders[number + 1 :]:
                if second.configured or {first.tid.instance, second.tid.instance} <= existing:
                    continue
                assert not satisfies(second.tid, first.tid)
                if satisfies(first.tid, second.tid):
                    # It has a path already, and the second is another one.
                    assert any(satisfies(first.tid, one.tid) and not satisfies(one.tid, first.tid) for one in members)


@given(many, with_state)
def test_each_candidate_is_in_one_unit_and_an_administrators_in_its_own(
    asked: list[Candidate], existing: frozenset[str]
) -> None:
    for group in by_group(asked):
        folded = fold(group, existing.__contains__)
        members = [one for unit in folded.values() for one in unit]
        assert Counter((one.tid, one.origin) for one in members) == Counter((one.tid, one.origin) for one in group)
        for instance, unit in folded.items():
            assert unit[0].tid.instance == instance
            limits = [one.give_up_after for one in unit]
            assert unit[0].give_up_after == (max(limits) if all(limits) else 0)
            for one in unit:
                assert one.tid.instance == instance or not one.configured
                assert satisfies(one.tid, unit[0].tid) or satisfies(unit[0].tid, one.tid)


def plain(wanted: Wanted) -> tuple[object, ...]:
    """All that can be told of it, whatever the order."""
    asked = {name: (members[0], Counter(members)) for name, members in wanted.asked.items()}
    return asked, set(wanted.discovery), wanted.origins()


@given(many, with_state, st.permutations(ORIGINS))
def test_the_order_of_the_sources_makes_no_difference(
    asked: list[Candidate], existing: frozenset[str], order: list[str]
) -> None:
    first = put(*asked, has_state=existing.__contains__)
    mixed = sorted(asked, key=lambda one: order.index(one.origin))
    assert plain(put(*mixed, has_state=existing.__contains__)) == plain(first)


@given(many, st.sampled_from(ORIGINS), st.lists(candidates(), max_size=6), with_state)
def test_withdrawn_wish_leaves_no_trace(
    asked: list[Candidate], origin: str, more: list[Candidate], existing: frozenset[str]
) -> None:
    wanted = put(*asked, has_state=existing.__contains__)
    before = plain(wanted)
    groups = {key: list(some) for key, some in wanted._groups.items()}
    units_before = dict(wanted._units)
    mine = tuple(one for one in asked if one.origin == origin)
    wanted.changes()
    added = tuple(replace(one, origin=origin) for one in more)
    wanted.put(origin, mine + added)
    # Nothing outside the groups of what was added has changed, nor other paths to subsystems that it makes trusted.
    touched = {group_of(one) for one in added}
    subsystems = {canonical_nqn(one.tid.subsysnqn) for one in added if one.trusted and one.role == IO}
    for instance in wanted.changes():
        if instance in wanted.asked and canonical_nqn(wanted.asked[instance][0].tid.subsysnqn) in subsystems:
            continue
        assert any(instance in wanted._units[key] or instance in units_before.get(key, ()) for key in touched)
    wanted.put(origin, mine)
    assert plain(wanted) == before
    assert {key: Counter(some) for key, some in wanted._groups.items()} == {
        key: Counter(some) for key, some in groups.items()
    }
    for every in ORIGINS:
        wanted.put(every, ())
    assert (wanted.asked, wanted._groups, wanted._units, wanted._claims) == ({}, {}, {}, {})
    assert not wanted.discovery


@given(st.lists(st.tuples(st.sampled_from(ORIGINS), st.lists(candidates(), max_size=4)), max_size=8), with_state)
def test_step_by_step_is_the_same_as_at_once(
    steps: list[tuple[str, list[Candidate]]], existing: frozenset[str]
) -> None:
    wanted = Wanted(existing.__contains__)
    last: dict[str, tuple[Candidate, ...]] = {}
    heard: dict[str, tuple[Candidate, ...] | None] = {}
    for origin, given_now in steps:
        last[origin] = tuple(replace(one, origin=origin) for one in given_now)
        wanted.put(origin, last[origin])
        # Who follows the changes knows everything.
        heard |= {instance: wanted.asked.get(instance) for instance in wanted.changes()}
    assert {instance: asked for instance, asked in heard.items() if asked} == wanted.asked
    fresh = put(*(one for some in last.values() for one in some), has_state=existing.__contains__)
    assert plain(fresh) == plain(wanted)
    for some in last.values():
        for one in some:
            unit = wanted.unit_of(one)
            assert any((one.tid, one.origin) == (other.tid, other.origin) for other in wanted.asked[unit]) or (
                len(wanted._claims[unit]) > 1
            )
