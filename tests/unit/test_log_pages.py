# SPDX-License-Identifier: Apache-2.0
"""What the log pages of all discovery controllers ask for together: how much, how fresh, and how whole."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from discoverd.candidate import CONFIGURATION, SOURCES, Candidate, Refusal
from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Secrets
from discoverd.planner import Known
from discoverd.sources import discovery_log, log_pages
from discoverd.sources.configured import Configured, configured
from discoverd.sources.discovery_log import LogPage, parse
from discoverd.sources.log_pages import Context, LogPages
from discoverd.tid import DISCOVERY_NQN
from discoverd.wanted import Wanted

from .log_pages import entry, page

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
    complete: frozenset[str]


class Site:
    """Log pages, and what is wanted because of them and of the configuration."""

    def __init__(self) -> None:
        self.pages = LogPages()
        self.wanted = Wanted(lambda _: False)
        self._context = Context(FabricsConfig(), HOST, {}, {}, 0)
        self._configured = Configured((), {}, (), whole=False)
        self._basis: object = None

    def put(self, instance: str, page: LogPage, came: float = 17.0) -> None:
        self.pages.put(instance, page, came)

    def ask(
        self,
        config: FabricsConfig = CONFIG,
        host: HostIdentity = HOST,
        old: Mapping[str, Known] | None = None,
        excluded: Mapping[str, str] | None = None,
        configured_for: HostIdentity | None = None,
    ) -> Found:
        if self._basis is None or self._basis != (id(config), id(host)):
            self._basis = (id(config), id(host))
            self._configured = configured(config, configured_for or host, lambda *_: None)
            self._context = Context(config, host, self._configured.discovery, {}, 3600)
            self.wanted.put(CONFIGURATION, self._configured.candidates)
        self.pages.follow(self.wanted, self._context, excluded or {}, old or {})
        listed = [one for origin in sorted(self.wanted.origins() - SOURCES) for one in self.wanted._origins[origin]]
        return Found(tuple(listed), self.pages.refusals, self.pages.complete)


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
    assert found.complete == {DC1, DC2}
    assert found.refusals == ()


def test_complete_is_only_what_has_a_page_and_is_configured(site: Site) -> None:
    site.put(DC1, listing("a"))
    assert site.ask().complete == {DC1}
    # An empty page says something, too.
    site.put(DC2, listing())
    assert site.ask().complete == {DC1, DC2}
    only = replace(CONFIG, connections=(connection(2),))
    assert site.ask(only) == Found((), (), frozenset({DC2}))


def test_a_refused_entry_leaves_the_page_whole(site: Site) -> None:
    site.put(DC1, parse(page(entry("nqn.a,b"), entry("nqn.c"))))
    found = site.ask()
    assert (names(found), found.complete) == (["c"], frozenset({DC1}))
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
    assert DC1 not in found.complete
    (refusal, *_) = found.refusals
    assert (refusal.what, refusal.source) == ("everything", f"in the log page of {DC1}")
    assert why in refusal.reason
    assert "NVMeTLSkey" not in repr(found)
    if host is HOST:
        assert (names(found, DC2), found.complete, len(found.refusals)) == (["c"], frozenset({DC2}), 1)


# How many -------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_pages, "LIMIT", 3)


def test_the_limit() -> None:
    assert log_pages.LIMIT == 1024


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
    assert found.complete == {DC1, DC2}


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
def test_what_is_known_comes_first_and_stays(site: Site) -> None:
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
