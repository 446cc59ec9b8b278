# SPDX-License-Identifier: Apache-2.0
"""What a hostile neighbour on the network must not achieve with announcements, log pages and referrals."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from discoverd import state
from discoverd.bus import avahi
from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.kernel import admin
from discoverd.plan.budgets import ANNOUNCED_LISTED
from discoverd.plan.candidate import CONFIGURATION, MDNS, NBFT, Announcement, Candidate, Wish
from discoverd.plan.facts import Action, Decision, Known, UnitFact
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import PageRead, parse
from discoverd.sources import mdns
from discoverd.sources.discovery_log import REFUSALS, Parent, candidates
from discoverd.sources.log_pages import LogPages
from discoverd.sources.walk import Context
from discoverd.supervisor import reconciler
from discoverd.supervisor.starter import fair
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from . import virtual_time
from .fake_host import DISCOVERY as CONFIGURED
from .fake_host import Host, leave_log, quiet, report, until
from .log_pages import entry, page

HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
CONTEXT = Context(FabricsConfig(), HOST, {}, {}, 100, 0, 25)
VOLUME = "nqn.2024-08.com.example:vol"


def candidate(
    role: str, origin: str, nqn: str, host_iface: str = "", trusted_parent: bool = False, address: str = "192.0.2.1"
) -> Candidate:
    """A controller at one address and port, whatever its role."""
    tid = TransportId.make(role, "tcp", address, "8009", nqn, host_iface=host_iface)
    return Candidate(tid, role, f"asked for by {origin}", origin, (), trusted_parent=trusted_parent)


def put(*candidates: Candidate) -> Wanted:
    wanted = Wanted(lambda _: False)
    for origin in {one.origin: None for one in candidates}:
        wanted.put(origin, tuple(one for one in candidates if one.origin == origin))
    return wanted


def first_of(wanted: Wanted) -> dict[str, str]:
    return {instance: asked[0].origin for instance, asked in wanted.asked.items()}


# Taking over what an administrator asked for ---------------------------------------------------------------


def test_announcements_from_another_link_do_not_stand_in_for_a_configured_discovery_controller() -> None:
    mine = candidate(DISCOVERY, CONFIGURATION, DISCOVERY_NQN)
    links = [
        candidate(DISCOVERY, MDNS, nqn, host_iface=link)
        for nqn in (DISCOVERY_NQN, "nqn.its-own")
        for link in ("eth1", "eth2")
    ]
    assert first_of(put(*links, mine)) == {mine.tid.instance: CONFIGURATION}


def test_two_peers_that_list_one_path_of_a_configured_controller_make_no_unit_of_their_own() -> None:
    mine = candidate(IO, CONFIGURATION, VOLUME)
    listed = [candidate(IO, origin, VOLUME, host_iface="eth1") for origin in ("one", "other")]
    assert first_of(put(mine, *listed)) == {mine.tid.instance: CONFIGURATION}


def test_an_announcement_does_not_turn_a_controller_of_a_trusted_log_page_into_something_else() -> None:
    listed = candidate(IO, "page", VOLUME, host_iface="eth0", trusted_parent=True)
    lie = candidate(DISCOVERY, MDNS, VOLUME, host_iface="eth0")
    for order in ((listed, lie), (lie, listed)):
        assert first_of(put(*order)) == {listed.tid.instance: "page"}


def test_a_referral_of_a_trusted_log_page_is_connected_as_that_says() -> None:
    """An announcement is more special, because of its interface, and would be connected with other secrets."""
    referral = candidate(DISCOVERY, "page", "nqn.dc", trusted_parent=True)
    announced = candidate(DISCOVERY, MDNS, "nqn.dc", host_iface="eth0")
    assert first_of(put(announced, referral)) == {referral.tid.instance: "page"}


def test_listed_by_configured_goes_before_announced() -> None:
    mine = candidate(DISCOVERY, CONFIGURATION, DISCOVERY_NQN, address="198.51.100.1")
    next_one = f"tcp:198.51.100.2:8009:{DISCOVERY_NQN}"
    hostile = [candidate(DISCOVERY, MDNS, DISCOVERY_NQN, "eth0", address=f"192.0.2.{number}") for number in range(1, 6)]
    # The second of the chain is announced as well, which makes it none of theirs.
    again = candidate(DISCOVERY, MDNS, DISCOVERY_NQN, "eth0", address="198.51.100.2")
    wanted = put(*hostile, again, mine)
    pages = LogPages()
    for one in hostile:
        flood = (entry(f"nqn.2024-08.com.example:{one.tid.traddr}-{number}") for number in range(1024))
        pages.put(one.tid.instance, PageRead(parse(page(*flood)), 0))
    referral = parse(page(entry(DISCOVERY_NQN, subtype=1, traddr="198.51.100.2", trsvcid="8009")))
    pages.put(mine.tid.instance, PageRead(referral, 0))
    pages.put(next_one, PageRead(parse(page(entry(VOLUME, traddr="198.51.100.3"))), 0))
    for _ in pages.follow(wanted, CONTEXT, {}, {}):
        pass
    (volume,) = wanted.asked[f"tcp:198.51.100.3:4420:{VOLUME}"]
    assert volume.trusted_parent
    assert next_one in pages.authoritative


def test_announced_starts_after_trusted() -> None:
    def start(one: Candidate) -> Decision:
        return Decision(f"{one.origin} {one.tid.instance}", Action.START, "", one)

    announced = [start(candidate(IO, f"hostile {number}", VOLUME)) for number in range(100)]
    listed = [start(candidate(IO, "page", f"{VOLUME}{number}", trusted_parent=True)) for number in range(3)]
    firmware = [start(candidate(IO, NBFT, f"{VOLUME}{number}")) for number in range(3)]
    assert fair([*announced, *listed, *firmware], {"page": 9.0}) == [*firmware, *listed, *announced]


# What piles up ---------------------------------------------------------------------------------------------


def kept(instance: str) -> bool:
    return Path(state.directory(instance)).exists()


def announcement(number: int) -> Wish:
    tid = TransportId.make(DISCOVERY, "tcp", f"192.0.2.{number}", "8009", DISCOVERY_NQN, host_iface="eth0")
    source = f"announced by mDNS on eth0 as '{number}'"
    return Wish(tid, DISCOVERY, source, MDNS, give_up_after=60, announcement=Announcement("eth0"))


PARENT = Parent(
    announcement(1).tid,
    "the discovery controller",
    CONTEXT.config.discovered(None, "io"),
    CONTEXT.config.discovered(None, "discovery"),
    0,
    0,
)


def test_peers_that_come_and_go_under_new_names_leave_nothing_behind(host: Host) -> None:
    async def scenario() -> None:
        inventory = host.inventory
        await until(lambda: "0 controllers" in host.status)
        for number in range(1, 4):
            wish = announcement(number)
            name = wish.tid.instance
            ended = replace(wish, announcement=Announcement("eth0", "2026-11-21 14:05"))
            for heard in (wish, ended):
                inventory.mdns._wishes = {wish.tid: heard}
                inventory.mdns.wishes = (heard,)
                inventory._news()
                await until(lambda: host.status == "1 controller: 1 live")
            leave_log(instance=name)
            await until(lambda name=name: name in inventory.log_pages)  # type: ignore[misc]
            report(name, "given up")
            host.systemd.units[name] = UnitFact("loaded", "inactive")
            await until(lambda: inventory.mdns._wishes == {})
            await until(lambda: host.status == "0 controllers")
            assert not kept(name)
            assert host.systemd.units == {}
            assert name not in inventory.log_pages

    assert host.play(scenario) == 0


def test_of_an_endless_log_page_so_much_is_read_and_that_is_said() -> None:
    endless = page(*(entry(f"{VOLUME}{number}") for number in range(admin.READ_ENTRIES)), records=1 << 14)
    found = parse(endless)
    assert (len(found.entries), found.beyond) == (admin.READ_ENTRIES, (1 << 14) - admin.READ_ENTRIES)
    listing = candidates(found, PARENT, HOST)
    assert ([one.what for one in listing.refusals], listing.inconclusive) == (
        ["14336 entries"],
        "not all of its log page can be used",
    )


def test_refusals_of_one_log_page_are_few() -> None:
    nonsense = page(*(entry(f"nqn.{number},x") for number in range(1000)))
    listing = candidates(parse(nonsense), PARENT, HOST)
    assert len(listing.refusals) == REFUSALS + 1
    assert listing.refusals[-1].what == f"{1000 - REFUSALS} more entries"
    assert listing.inconclusive


def test_ever_new_names_in_pages_are_bounded() -> None:
    pages = LogPages()
    known: dict[str, Known] = {}
    for number in range(1, 8):
        hostile = candidate(DISCOVERY, MDNS, DISCOVERY_NQN, "eth0", address=f"192.0.2.{number}")
        name = hostile.tid.instance
        wanted = put(hostile)
        listed = parse(page(*(entry(f"{VOLUME}{number}-{one}") for one in range(1000))))
        pages.put(name, PageRead(listed, 0))
        for _ in pages.follow(wanted, CONTEXT, {}, known):
            pass
        # All are started, and none of their workers ever ends.
        known |= {one: Known("", asked[0].origin, trusted=False) for one, asked in wanted.asked.items()}
        # A new supervisor finds the same again.
        for _ in pages.follow(wanted, CONTEXT, {}, known):
            pass
        assert known.keys() >= wanted.asked.keys()
    assert ANNOUNCED_LISTED <= len(known) <= ANNOUNCED_LISTED + 7
    mine = candidate(DISCOVERY, CONFIGURATION, DISCOVERY_NQN, address="198.51.100.1")
    wanted = put(mine)
    pages.put(mine.tid.instance, PageRead(parse(page(entry(VOLUME))), 0))
    for _ in pages.follow(wanted, CONTEXT, {}, known):
        pass
    assert len(wanted.asked) == 2


def test_more_services_than_can_be_remembered_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "_interface_name", lambda _: "eth0")

    async def scenario() -> None:
        source = mdns.Mdns(lambda: None)
        for number in range(2 * avahi.SERVICES_MAX + 1):
            service = avahi.Service(1, avahi.IPV4, str(number), avahi.TCP, avahi.DOMAIN)
            source._tell(avahi.Announced(service, "192.0.2.1", 8009, (b"p=tcp",)))
        assert len(source._heard) == 2 * avahi.SERVICES_MAX

    virtual_time.run(scenario())


# What never ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["waiting", "parked"])
@pytest.mark.parametrize(("later", "times"), [(1, 0), (reconciler.NEWS_INTERVAL_SECONDS + 1, 1)])
def test_a_log_page_that_changes_all_the_time_does_not_have_workers_try_all_the_time(
    host: Host, monkeypatch: pytest.MonkeyPatch, later: int, times: int, word: str
) -> None:
    host.configure(CONFIGURED)
    now = [1000]
    monkeypatch.setattr(time, "clock_gettime", lambda _: now[0])
    referral = entry(DISCOVERY_NQN, subtype=1, traddr="192.0.2.2", trsvcid="8009")
    name = f"tcp:192.0.2.2:8009:{DISCOVERY_NQN}"

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(referral)
        await until(lambda: "2 live" in host.status)
        report(name, word, attempt="1")
        await until(lambda: f"1 {word}" in host.status)
        now[0] += later
        leave_log(referral, entry(VOLUME), generation=2)
        await until(lambda: f"2 live, 1 {word}" in host.status)
        await quiet()
        assert host.systemd.hung_up.count(name) == times

    assert host.play(scenario) == 0
