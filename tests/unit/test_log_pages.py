# SPDX-License-Identifier: Apache-2.0
"""What the log pages of all discovery controllers ask for together: how much, how fresh, and how whole."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Role, Secrets
from discoverd.plan.candidate import CONFIGURATION, MDNS, SOURCES, Candidate, Refusal
from discoverd.plan.evidence import Asked, Wait
from discoverd.plan.facts import Known
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import LogPage, PageRead, parse
from discoverd.sources import discovery_log, walk
from discoverd.sources.configured import Configured, configured
from discoverd.sources.log_pages import LogPages
from discoverd.sources.walk import Context
from discoverd.sources.ways import ALL_WAYS, Ways
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from .log_pages import RDMA, entry, page

HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
DC1 = f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}"
DC2 = f"tcp:192.0.2.2:8009:{DISCOVERY_NQN}"


def scope(problem: str = "", **secrets: bool | str) -> DiscoveredScope:
    return DiscoveredScope({}, Secrets(**secrets), "", "", "", "", problem)  # type: ignore[arg-type]


def connection(number: int) -> Connection:
    return Connection(
        "discovery",
        "tcp",
        f"192.0.2.{number}",
        "",
        DISCOVERY_NQN,
        host_traddr="",
        host_iface="",
        hostnqn="",
        hostid="",
        hostsymname="",
        params={},
        persistent="",
        secrets=Secrets(),
        file=f"{number}.conf",
        line=1,
    )


# Two discovery controllers, each in a file of its own.
CONFIG = FabricsConfig((connection(1), connection(2)), scopes={("", "io"): scope()})


def listing(*names: str) -> LogPage:
    return parse(page(*(entry(f"nqn.{name}") for name in names)))


def instance(name: str) -> str:
    return f"tcp:192.0.2.1:4420:nqn.{name}"


def known(origin: str, *names: str) -> dict[str, Known]:
    return {instance(name): Known(f"listed in the log page of {origin}", origin) for name in names}


@dataclass(frozen=True)
class Found:
    """What was found: the candidates of all log pages, what is refused of them, and which are whole."""

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    authoritative: frozenset[str]


class Site:
    """Log pages, and what is wanted because of them and of the configuration."""

    def __init__(self) -> None:
        self.pages = LogPages()
        self.wanted = Wanted(lambda _: False)
        self._context = Context(FabricsConfig(), HOST, {}, {}, 0, 0, 25)
        self._configured = Configured((), {}, (), whole=False)
        self._basis: object = None

    def put(self, instance: str, page: LogPage, came: float = 17.0) -> None:
        self.pages.put(instance, PageRead(page, came, "1", Asked.ALL_PORTS))

    def ask(
        self,
        config: FabricsConfig = CONFIG,
        host: HostIdentity = HOST,
        old: Mapping[str, Known] | None = None,
        excluded: Mapping[str, str] | None = None,
        configured_for: HostIdentity | None = None,
        lacking: Mapping[str, str] | None = None,
        ways: Ways = ALL_WAYS,
    ) -> Found:
        if self._basis is None or self._basis != (id(config), id(host), lacking, ways):
            self._basis = (id(config), id(host), lacking, ways)
            self._configured = configured(config, configured_for or host, lambda *_: None)
            context = Context(config, host, self._configured.discovery, {}, 3600, 0, 25, lacking=lacking or {})
            self._context = replace(context, ways=ways)
            self.wanted.put(CONFIGURATION, self._configured.candidates)
        for _ in self.pages.follow(self.wanted, self._context, excluded or {}, old or {}):
            pass
        listed = [one for origin in sorted(self.wanted.origins() - SOURCES) for one in self.wanted._origins[origin]]
        return Found(tuple(listed), self.pages.refusals, frozenset(self.pages.authoritative))


def names(found: Found, origin: str = DC1) -> list[str]:
    return [one.tid.subsysnqn.removeprefix("nqn.") for one in found.candidates if one.origin == origin]


@pytest.fixture
def site() -> Site:
    return Site()


# All pages ------------------------------------------------------------------------------------------------


def test_nothing_was_read_yet(site: Site) -> None:
    assert site.ask() == Found((), (), frozenset())


def test_each_page_counts_for_its_discovery_controller(site: Site) -> None:
    site.put(DC2, listing("c"))
    site.put(DC1, listing("a", "b"))
    found = site.ask()
    assert [(one.tid.subsysnqn, one.origin) for one in found.candidates] == [
        ("nqn.a", DC1),
        ("nqn.b", DC1),
        ("nqn.c", DC2),
    ]
    assert found.authoritative == {DC1, DC2}
    assert found.refusals == ()


def test_complete_is_only_what_has_a_page_and_is_configured(site: Site) -> None:
    site.put(DC1, listing("a"))
    assert site.ask().authoritative == {DC1}
    site.put(DC2, listing("b"))
    assert site.ask().authoritative == {DC1, DC2}
    # An empty page is what a controller sends that has not found its own configuration yet.
    site.put(DC2, listing())
    assert site.ask().authoritative == {DC1}
    assert site.pages.inconclusive == {DC2: "its log page lists nothing"}
    only = replace(CONFIG, connections=(connection(2),))
    assert site.ask(only) == Found((), (), frozenset())


def test_fresh_is_the_page_that_its_worker_has_on_this_connection(site: Site) -> None:
    pages = site.pages
    assert not pages.fresh(DC1, "")
    # An earlier worker has left one.
    assert pages.news(DC1, "")
    pages.put(DC1, PageRead(listing("a"), 17.0))
    assert not pages.fresh(DC1, "")
    assert pages.news(DC1, "1")
    assert not pages.fresh(DC1, "1"), "what it has read makes no sense, or was not taken yet"
    pages.put(DC1, PageRead(listing("a"), 17.0))
    assert pages.fresh(DC1, "1")
    assert not pages.fresh(DC1, "")
    assert not pages.news(DC1, "")
    assert not pages.fresh(DC1, "2")
    pages.forget(DC1)
    assert not pages.fresh(DC1, "1")


def test_with_a_refused_entry_a_page_is_not_whole(site: Site) -> None:
    site.put(DC1, parse(page(entry("nqn.a,b"), entry("nqn.c"))))
    found = site.ask()
    assert (names(found), found.authoritative) == (["c"], frozenset())
    (refusal,) = found.refusals
    assert refusal.source == f"in the log page of {DC1}"


@pytest.mark.parametrize(
    ("bad", "host", "why"),
    [
        (scope(tls=True), HOST, "TLS is not supported"),
        (scope(concat=True), HOST, "TLS is not supported"),
        (scope(tls_key="NVMeTLSkey-1:01:x:"), HOST, "TLS is not supported"),
        (scope(problem="the scope is broken"), HOST, "the scope is broken"),
        (scope(), replace(HOST, hostid=""), "no host ID"),
    ],
)
def test_a_page_that_cannot_be_served_asks_for_nothing_and_says_nothing_is_gone(
    site: Site, bad: DiscoveredScope, host: HostIdentity, why: str
) -> None:
    """Not connected in the clear where TLS was asked for; nor is what runs "no longer listed"."""
    config = replace(CONFIG, scopes={("", "io"): scope(), ("1.conf", "io"): bad})
    site.put(DC1, listing("a", "b"))
    site.put(DC2, listing("c"))
    # Configured with the identity from before: the discovery controllers themselves are not in question.
    found = site.ask(config, host, configured_for=HOST)
    assert names(found) == []
    assert DC1 not in found.authoritative
    (refusal, *_) = found.refusals
    assert (refusal.what, refusal.source) == ("everything", f"in the log page of {DC1}")
    assert why in refusal.reason
    assert "NVMeTLSkey" not in repr(found)
    if host is HOST:
        assert (names(found, DC2), found.authoritative, len(found.refusals)) == (["c"], frozenset({DC2}), 1)


# How many -------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "LIMIT", 3)


def test_the_limit() -> None:
    assert walk.LIMIT == 1024


@pytest.mark.usefixtures("few")
def test_up_to_the_limit_nothing_is_refused(site: Site) -> None:
    site.put(DC1, listing("a", "b", "c"))
    assert (names(site.ask()), site.ask().refusals) == (["a", "b", "c"], ())


@pytest.mark.usefixtures("few")
def test_beyond_the_limit_the_first_are_taken(site: Site) -> None:
    site.put(DC1, listing("a", "b", "c", "d", "e"))
    site.put(DC2, listing("v", "w", "x"))
    found = site.ask()
    # The others' share is their own.
    assert (names(found), names(found, DC2)) == (["a", "b", "c"], ["v", "w", "x"])
    (refusal,) = found.refusals
    assert (refusal.what, refusal.source) == ("2 entries", f"in the log page of {DC1}")
    assert "can list 3 controllers" in refusal.reason
    # What is left out is not gone, but what is not in the page at all is.
    assert found.authoritative == {DC1, DC2}


@pytest.mark.usefixtures("few")
def test_all_pages_that_it_ever_sent_count_together(site: Site) -> None:
    """A page that changes completely each time starts no more than one that does not."""
    started = known(DC1, "a", "b")
    site.put(DC1, listing("p", "q", "r"))
    assert names(site.ask(old=started)) == ["p"]
    started |= known(DC1, "p")
    site.put(DC1, listing("x", "y", "z"))
    assert names(site.ask(old=started)) == []
    # What some other source asked for is no debt of this one.
    for other in (DC2, CONFIGURATION):
        site = Site()
        site.put(DC1, listing("x", "y", "z"))
        assert names(site.ask(old=known(other, "a", "b", "p"))) == ["x", "y", "z"]


@pytest.mark.usefixtures("few")
def test_known_entries_come_first_within_the_limit(site: Site) -> None:
    site.put(DC1, listing("new1", "new2", "old1", "old2"))
    found = site.ask(old=known(DC1, "old1", "old2"))
    assert names(found) == ["old1", "old2", "new1"]
    assert [one.what for one in found.refusals] == ["1 entries"]
    # An earlier version, or a larger limit, started more: they are listed still.
    site.put(DC1, listing("a", "b", "c", "d", "e"))
    assert names(site.ask(old=known(DC1, "a", "b", "c", "d"))) == ["a", "b", "c", "d"]


@pytest.mark.usefixtures("few")
def test_the_refusal_is_the_same_while_the_first_are_started(site: Site) -> None:
    """It is not logged again with each controller that becomes a known one."""
    site.put(DC1, listing("a", "b", "c", "d", "e"))
    said = {site.ask(old=known(DC1, *"abc"[:number])).refusals for number in range(4)}
    assert len(said) == 1


# Not gone through again -----------------------------------------------------------------------------------


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The discovery controllers whose pages were gone through, one for each time."""
    seen: list[str] = []
    derive = discovery_log.candidates

    def count(*arguments: Any) -> object:
        seen.append(arguments[1].instance)
        return derive(*arguments)

    monkeypatch.setattr(discovery_log, "candidates", count)
    return seen


def test_the_same_is_derived_once(site: Site, derived: list[str]) -> None:
    site.put(DC1, listing("a"))
    site.put(DC2, listing("b"))
    first = site.ask()
    assert [site.ask(old=known(DC1, "a")) for _ in range(3)] == [first] * 3
    assert derived == [DC1, DC2]


def test_another_page_config_or_host_is_derived_anew(site: Site, derived: list[str]) -> None:
    old = listing("a")
    site.put(DC1, old)
    site.put(DC2, old)
    site.ask()
    derived.clear()
    # Read again, and the same.
    site.put(DC1, replace(old), came=18.0)
    site.ask()
    assert derived == []
    site.put(DC1, replace(old, generation=2))
    site.ask()
    assert derived == [DC1]
    config, host = replace(CONFIG), replace(HOST)
    site.ask(config)
    site.ask(config, host)
    assert derived == [DC1, *[DC1, DC2] * 2]
    site.ask(config, host)
    assert len(derived) == 5


def test_a_new_identity_reaches_the_candidates(site: Site) -> None:
    site.put(DC1, listing("a"))
    site.ask()
    other = replace(HOST, hostid="11111111-2222-3333-4444-555555555555")
    (one,) = site.ask(host=other).candidates
    assert ("hostid", other.hostid) in one.options


def test_only_what_is_configured_is_looked_at(site: Site, derived: list[str]) -> None:
    site.put(DC1, listing("a"))
    assert site.ask(FabricsConfig()) == Found((), (), frozenset())
    assert derived == []


# Referrals ------------------------------------------------------------------------------------------------


def dc(number: int) -> str:
    """The instance of a discovery controller that a referral leads to."""
    return f"tcp:192.0.2.{number}:8009:{DISCOVERY_NQN}"


def leading(*numbers: int, lists: tuple[str, ...] = (), nqn: str = DISCOVERY_NQN) -> LogPage:
    """A page that refers to these discovery controllers, and lists these subsystems."""
    referrals = [entry(nqn, f"192.0.2.{number}", "8009", subtype=1) for number in numbers]
    return parse(page(*referrals, *(entry(f"nqn.{name}") for name in lists)))


def referral_of(origin: str) -> Known:
    target = ("tcp", "192.0.2.22", "8009", DISCOVERY_NQN)
    return Known(f"a referral in the log page of {origin}", origin, target=target)


ROOT = replace(CONFIG, connections=(connection(1),))


def controllers(site: Site) -> set[str]:
    """The instances of all discovery controllers that are asked for."""
    return set(site.wanted.discovery)


def test_a_referral_is_followed_once_it_has_a_page(site: Site) -> None:
    site.put(DC1, leading(7, lists=("a",)))
    found = site.ask(ROOT)
    assert controllers(site) == {DC1, dc(7)}
    # Its worker has not read it yet: what it lists is not known, and nothing is missing because of that.
    assert found.authoritative == {DC1}
    site.put(dc(7), leading(lists=("b",)))
    found = site.ask(ROOT)
    assert (names(found), names(found, dc(7))) == ([DISCOVERY_NQN.removeprefix("nqn."), "a"], ["b"])
    assert found.authoritative == {DC1, dc(7)}
    assert site.pages.depths == {DC1: 0, dc(7): 1}


def chain(site: Site, length: int) -> None:
    """Each refers to the next, and lists one subsystem."""
    for number in range(1, length + 1):
        site.put(dc(number), leading(number + 1, lists=(f"v{number}",)))


@pytest.mark.parametrize("length", [3, 8, 9, 10, 30])
def test_a_chain_is_followed_to_the_eighth_referral(site: Site, length: int) -> None:
    chain(site, length)
    found = site.ask(ROOT)
    # The one after the last is asked for, if it is near enough.
    reached = min(length + 1, 9)
    assert controllers(site) == {dc(number) for number in range(1, reached + 1)}
    assert site.pages.depths == {dc(number): number - 1 for number in range(1, reached + 1)}
    assert {one.tid.subsysnqn for one in found.candidates if one.role == IO} == {
        f"nqn.v{number}" for number in range(1, min(length, 9) + 1)
    }
    refused = [one for one in found.refusals if "more than 8 referrals away" in one.reason]
    assert [one.source for one in refused] == ([f"in the log page of {dc(9)}"] if length >= 9 else [])


def test_the_shortest_way_counts(site: Site) -> None:
    chain(site, 12)
    site.put(DC1, leading(2, 6))
    site.ask(ROOT)
    assert site.pages.depths[dc(6)] == 1
    assert dc(13) in controllers(site)


def test_a_ring_is_gone_round_once(site: Site, derived: list[str]) -> None:
    for one, other in ((1, 7), (7, 8), (8, 1)):
        site.put(dc(one), leading(other, one, lists=(f"v{one}",)))
    found = site.ask(ROOT)
    assert controllers(site) == {DC1, dc(7), dc(8)}
    assert found.authoritative == {DC1, dc(7), dc(8)}
    assert derived == [DC1, dc(7), dc(8)]


def test_two_that_refer_to_each_other_do_not_keep_each_other(site: Site) -> None:
    site.put(DC1, leading(7))
    site.put(dc(7), leading(8, lists=("a",)))
    site.put(dc(8), leading(7, lists=("b",)))
    site.ask(ROOT)
    assert controllers(site) == {DC1, dc(7), dc(8)}
    # The root refers to nobody any more.
    site.put(DC1, leading(lists=("c",)))
    found = site.ask(ROOT)
    assert (set(site.wanted.discovery), found.authoritative) == ({DC1}, frozenset({DC1}))


def test_without_the_root_nothing_is_asked_for(site: Site) -> None:
    site.put(DC1, leading(7))
    site.put(dc(7), leading(8))
    site.put(dc(8), leading(7, 1))
    site.ask(ROOT)
    found = site.ask(FabricsConfig())
    assert (site.wanted.asked, found.authoritative, site.pages.depths) == ({}, frozenset(), {})
    # It comes back, and the pages that are there still count.
    site.ask(replace(ROOT))
    assert controllers(site) == {DC1, dc(7), dc(8)}


def test_a_page_stays_with_its_discovery_controller_while_another_leads_there(site: Site) -> None:
    site.put(DC1, leading(7))
    site.put(DC2, leading(7))
    site.put(dc(7), leading(lists=("a",)))
    site.ask()
    site.put(DC1, leading())
    found = site.ask()
    assert names(found, dc(7)) == ["a"]


def test_an_excluded_discovery_controller_lists_nothing_new(site: Site) -> None:
    site.put(DC1, leading(7, lists=("a",)))
    site.put(dc(7), leading(lists=("b",)))
    where = {dc(7): "/etc/nvme/exclusions.conf:2"}
    found = site.ask(ROOT, excluded=where)
    assert (controllers(site), names(found, dc(7))) == ({DC1, dc(7)}, [])
    # It is not its word that what it listed is gone.
    assert found.authoritative == {DC1}
    assert site.ask(ROOT, excluded={DC1: "/etc/nvme/exclusions.conf:1"}) == Found((), (), frozenset())
    assert controllers(site) == {DC1}
    assert names(site.ask(ROOT), dc(7)) == ["b"]


def test_a_referral_over_another_transport(site: Site) -> None:
    site.put(DC1, parse(page(entry(DISCOVERY_NQN, "192.0.2.7", "4420", subtype=1, trtype=RDMA))))
    other = f"rdma:192.0.2.7:4420:{DISCOVERY_NQN}"
    site.put(other, parse(page(entry("nqn.a", trtype=RDMA), entry("nqn.b"), entry("nqn.c", "", "", trtype=254))))
    found = site.ask(ROOT)
    assert controllers(site) == {DC1, other}
    assert [(one.tid.transport, one.tid.subsysnqn) for one in found.candidates if one.origin == other] == [
        ("rdma", "nqn.a"),
        ("tcp", "nqn.b"),
    ]
    assert any("rdma cannot refer to loop" in one.reason for one in found.refusals)


@pytest.mark.parametrize("first", ["nqn.2024-08.com.example:dc7", DISCOVERY_NQN])
def test_one_discovery_controller_by_two_names_is_one(site: Site, first: str, derived: list[str]) -> None:
    second = DISCOVERY_NQN if first != DISCOVERY_NQN else "nqn.2024-08.com.example:dc7"
    site.put(DC1, leading(7, nqn=first))
    site.put(DC2, leading(7, nqn=second))
    site.ask()
    (unit,) = controllers(site) - {DC1, DC2}
    site.put(unit, leading(lists=("a",)))
    found = site.ask()
    assert names(found, unit) == ["a"]
    assert derived.count(unit) == 1
    assert {one.origin for one in site.wanted.asked[unit]} == {DC1, DC2}


def test_configured_controller_is_not_given_up_for_a_referral(site: Site) -> None:
    site.put(DC1, leading(2, 7))
    site.ask()
    (written, *_), (referred,) = site.wanted.asked[DC2], site.wanted.asked[dc(7)]
    assert (written.configured, written.give_up_after) == (True, 0)
    assert (referred.give_up_after, referred.asked) == (3600, 17.0)


def test_entry_listed_anew_is_asked_for_anew(site: Site) -> None:
    site.put(DC1, leading(7))
    site.ask(ROOT)
    site.put(DC1, replace(leading(7), generation=2), came=99.0)
    site.ask(ROOT)
    assert site.wanted.asked[dc(7)][0].asked == 99.0


def test_the_files_defaults_go_along_with_referrals(site: Site) -> None:
    """What a discovery controller leads to is connected as its file says, however far away, until a file names it."""
    scopes: dict[tuple[str, Role], DiscoveredScope] = {
        ("", "io"): scope(),
        ("1.conf", "io"): replace(scope(), params={"tos": "1"}),
        ("1.conf", "discovery"): replace(scope(), params={"tos": "2"}),
        ("2.conf", "io"): replace(scope(), params={"tos": "3"}),
    }
    config = replace(CONFIG, connections=(connection(1),), scopes=scopes)
    site.put(DC1, leading(7))
    site.put(dc(7), leading(2))
    site.put(DC2, leading(lists=("a",)))
    found = site.ask(config)
    given = {one.tid.instance: dict(one.options)["tos"] for one in found.candidates}
    assert given == {dc(7): "2", DC2: "2", instance("a"): "1"}
    found = site.ask(replace(config, connections=(connection(1), connection(2))))
    assert [dict(one.options).get("tos") for one in found.candidates if one.role == IO] == ["3"]


def test_no_more_referrals_than_so_many(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (walk.REFERRALS, walk.DEPTH) == (256, 8)
    monkeypatch.setattr(walk, "REFERRALS", 5)
    # Twice the same is one, and what is asked for already takes no room.
    site.put(DC1, leading(10, 10, 1, 11, 12))
    site.put(dc(10), leading(20, 11, 1, 21, 22, 23, lists=("a",)))
    site.put(dc(11), leading(30, 20))
    found = site.ask(ROOT)
    assert controllers(site) == {DC1, *(dc(number) for number in (10, 11, 12, 20, 21))}
    assert names(found, dc(10))[-1] == "a"
    refused = [one.what for one in found.refusals if "no more than 5 discovery controllers" in one.reason]
    assert [what.split()[3] for what in refused] == ["192.0.2.22", "192.0.2.23", "192.0.2.30"]
    # What was left out is listed all the same.
    assert found.authoritative == {dc(10)}
    left_out = known(dc(10), "x") | {dc(22): referral_of(dc(10))}
    site.put(dc(10), leading(20, 11, 1, 21, 22, 23, lists=("a",)), came=18.0)
    site.ask(ROOT, old=left_out)
    assert site.pages.pending[dc(10)].keys() == {instance("x")}


def test_a_page_of_a_thousand_referrals_is_256(site: Site) -> None:
    site.put(DC1, parse(page(*(entry(f"nqn.dc{number}", subtype=1) for number in range(1000)))))
    found = site.ask(ROOT)
    assert len(site.wanted.asked) == 257
    assert len(found.refusals) == 744


def test_all_pages_together_have_a_limit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "TOTAL", 4)
    site.put(DC1, leading(7, lists=("a", "b")))
    site.put(DC2, leading(lists=("c", "d")))
    site.put(dc(7), leading(lists=("e",)))
    found = site.ask()
    assert [names(found, one) for one in (DC2, dc(7))] == [["c"], []]
    assert found.authoritative == {DC1, DC2, dc(7)}
    assert site.pages.whole == {DC1}
    assert [one.what for one in found.refusals] == ["1 entries", "1 entries"]


# The share of what a page lists ----------------------------------------------------------------------------


def test_a_referral_to_who_is_asked_for_anyway_makes_no_room(site: Site) -> None:
    """To itself, or back to who leads there: none of what they lead to would go with it."""
    volumes = tuple("abcdefgh")
    old = {DC1: Known("in 1.conf", CONFIGURATION, target=("tcp", "192.0.2.1", "8009", DISCOVERY_NQN))}
    old |= {dc(7): referral_of(DC1)}
    old |= known(DC1, *(f"root{number}" for number in range(8))) | known(dc(7), *volumes)
    site.put(DC1, leading(7, lists=tuple(f"root{number}" for number in range(8))))
    site.ask(ROOT, old=old)
    for came, lists in ((17.0, volumes), (18.0, volumes[3:])):
        site.put(dc(7), leading(1, 7, lists=lists), came)
        site.ask(ROOT, old=old)
    pending = site.pages.pending[dc(7)]
    assert {unit: one.wait for unit, one in pending.items()} == {instance(one): Wait.SHARE for one in "abc"}


@pytest.mark.parametrize("trusted", [True, False])
def test_announced_discovery_controller_that_lists_it_as_well_proves_nothing(site: Site, trusted: bool) -> None:
    """What goes with who was trusted counts as gone; what was announced from the beginning stays."""
    volumes = tuple("abcdefgh")
    old = {unit: replace(one, trusted=trusted) for unit, one in known(DC1, *volumes).items()}
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.9", "8009", DISCOVERY_NQN)
    site.ask(ROOT, old=old)
    site.wanted.put(MDNS, (Candidate(tid, DISCOVERY, "announced", MDNS, ()),))
    site.put(dc(9), leading(lists=volumes[:3]))
    for came, lists in ((17.0, volumes), (18.0, volumes[3:])):
        site.put(DC1, leading(lists=lists), came)
        site.ask(ROOT, old=old)
    assert instance("a") in site.wanted.asked, "by announcement"
    assert set(site.pages.pending[DC1]) == ({instance(one) for one in "abc"} if trusted else set())


def test_two_referrals_to_the_same_count_together(site: Site) -> None:
    volumes = tuple(f"v{number}" for number in range(20))
    roots = tuple(f"root{number}" for number in range(9))
    old = {DC1: Known("in 1.conf", CONFIGURATION, target=("tcp", "192.0.2.1", "8009", DISCOVERY_NQN))}
    old |= {dc(7): referral_of(DC1), dc(8): referral_of(DC1)} | known(DC1, *roots)
    old |= {unit: replace(one, referrers=frozenset((dc(7), dc(8)))) for unit, one in known(dc(7), *volumes).items()}
    site.put(DC1, leading(7, 8, lists=roots))
    for number in (7, 8):
        site.put(dc(number), leading(lists=volumes))
    site.ask(ROOT, old=old)
    # One of them takes nothing with it that the other has not got.
    site.put(DC1, leading(7, lists=roots), came=18.0)
    site.ask(ROOT, old=old)
    assert set(site.pages.authoritative[DC1].absent or ()) == {dc(8)}
    site.put(DC1, leading(lists=roots), came=19.0)
    site.ask(ROOT, old=old)
    assert site.pages.pending[DC1].keys() == {dc(7)}
    assert site.pages.waiting[DC1] == {dc(7)}


# Other transports -----------------------------------------------------------------------------------------

# One volume over each of two transports, and a referral over the second.
MIXED = page(
    entry("nqn.a"),
    entry("nqn.a", "192.0.2.7", trtype=RDMA),
    entry("nqn.b", "192.0.2.7", trtype=RDMA),
    entry(DISCOVERY_NQN, "192.0.2.8", trtype=RDMA, subtype=1),
)
OVER_RDMA = tuple(f"rdma:192.0.2.{rest}" for rest in ("7:4420:nqn.a", "7:4420:nqn.b", f"8:4420:{DISCOVERY_NQN}"))
NO_RDMA = {"rdma": "this host has no RDMA device"}


def units(site: Site) -> set[str]:
    return set(site.wanted.asked) - {DC1, DC2}


def test_entry_over_a_transport_that_this_host_lacks_is_passed_over(site: Site) -> None:
    site.put(DC1, parse(MIXED))
    found = site.ask(lacking=NO_RDMA)
    assert units(site) == {instance("a")}
    assert found.refusals == (
        Refusal("3 entries over rdma", f"in the log page of {DC1}", "this host has no RDMA device", expected=True),
    )
    # The same once more costs nothing.
    before = site.wanted.of(DC1)
    site.ask(lacking=NO_RDMA)
    assert site.wanted.of(DC1) is before
    # It is nothing for this host, and no gap in what the page says.
    assert found.authoritative == {DC1}
    assert site.pages.whole == {DC1}
    site.ask(lacking={"tcp": "left out"})
    assert units(site) == {instance("a"), *OVER_RDMA}
    assert not site.pages.passed_over


def test_entry_of_a_family_that_is_left_out_is_passed_over(site: Site) -> None:
    only_v6, only_v4 = Ways(("ipv6",)), Ways(("ipv4",))
    site.put(DC1, listing("a", "b"))
    assert site.ask(ways=only_v4).refusals == ()
    assert units(site) == {instance("a"), instance("b")}
    # What has a unit is followed on.
    found = site.ask(ways=only_v6, old=known(DC1, "a"))
    assert units(site) == {instance("a")}
    why = "address-families in discoverd.conf leaves out IPv4"
    assert found.refusals == (Refusal("1 entry over IPv4", f"in the log page of {DC1}", why, expected=True),)
    # It is nothing for this host, and no gap in what the page says.
    assert found.authoritative == {DC1}
    assert site.pages.whole == {DC1}


def test_nothing_is_said_before_it_is_known(site: Site) -> None:
    site.put(DC1, parse(MIXED))
    assert site.ask(lacking={"rdma": ""}).refusals == ()
    assert units(site) == {instance("a")}


def test_discovery_controllers_own_transport_is_followed_always(site: Site) -> None:
    over_rdma = FabricsConfig((replace(connection(1), transport="rdma"),), scopes={("", "io"): scope()})
    site.put(DC1.replace("tcp", "rdma").replace("8009", "4420"), parse(MIXED))
    site.ask(over_rdma, lacking={**NO_RDMA, "tcp": "left out"})
    assert set(OVER_RDMA) <= site.wanted.asked.keys()
    assert instance("a") not in site.wanted.asked


def test_device_that_goes_takes_nothing_with_it(site: Site) -> None:
    """What was connected through it is asked for as before."""
    old = {OVER_RDMA[0]: Known("listed", DC1, target=("rdma", "192.0.2.7", "4420", "nqn.a"))}
    for came, lacking in ((17.0, {}), (18.0, NO_RDMA)):
        site.put(DC1, parse(MIXED), came)
        site.ask(old=old, lacking=lacking)
        assert units(site) == {instance("a"), *(OVER_RDMA[:1] if lacking else OVER_RDMA)}
        assert not site.pages.authoritative[DC1].absent


@pytest.mark.parametrize(("later", "gaps"), [(MIXED, set()), (page(entry("nqn.a")), {"rdma:other-name"})])
def test_what_is_passed_over_is_listed(site: Site, later: bytes, gaps: set[str]) -> None:
    """Also where its unit has another name, as when it was folded into another one."""
    old = {"rdma:other-name": Known("listed", DC1, target=("rdma", "192.0.2.7", "4420", "nqn.b"))}
    site.put(DC1, parse(MIXED))
    site.ask(old=old, lacking=NO_RDMA)
    site.put(DC1, parse(later), 18.0)
    site.ask(old=old, lacking=NO_RDMA)
    assert set(site.pages.authoritative[DC1].absent or ()) | site.pages.pending[DC1].keys() == gaps


# News -----------------------------------------------------------------------------------------------------


def test_the_first_look_is_news_whatever_the_stamp(site: Site) -> None:
    """A page that an earlier supervisor's workers left counts."""
    assert site.pages.news(DC1, "")
    assert site.pages.news(DC2, "17")


@pytest.mark.parametrize(
    ("stamps", "news"),
    [
        (["7", "7", "7"], [True, False, False]),
        (["7", "8", "9"], [True, True, True]),
        # Smaller is another one, too: the clock it comes from starts anew with the machine.
        (["7", "3"], [True, True]),
        # A worker that has just started has read none: the page from before counts.
        (["7", "", "", "8"], [True, False, False, True]),
        (["7", "", "7"], [True, False, False]),
        (["", "", "7", "7"], [True, False, True, False]),
    ],
)
def test_news(site: Site, stamps: list[str], news: list[bool]) -> None:
    assert [site.pages.news(DC1, stamp) for stamp in stamps] == news


def test_stamps_are_of_one_discovery_controller(site: Site) -> None:
    assert site.pages.news(DC1, "7")
    assert site.pages.news(DC2, "7")
    assert not site.pages.news(DC1, "7")
