# SPDX-License-Identifier: Apache-2.0
"""All sources together: which are asked, what their wishes are connected with, and what news cost."""

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from discoverd import exclusions
from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Role, Secrets
from discoverd.config.settings import Settings
from discoverd.plan import candidate
from discoverd.plan.candidate import (
    BOOT,
    CONFIGURATION,
    FIBRE_CHANNEL,
    MDNS,
    NBFT,
    UNMANAGED,
    Announcement,
    Candidate,
    Refusal,
    Wish,
)
from discoverd.plan.evidence import Asked, Pending, Wait
from discoverd.plan.facts import Answer, Known, Report
from discoverd.plan.log_page import LogPage, PageRead, parse
from discoverd.sources.log_pages import LogPages
from discoverd.sources.walk import Context
from discoverd.supervisor import inventory
from discoverd.supervisor.inventory import Inventory
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from . import virtual_time
from .log_pages import entry, page

HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
OTHER = "nqn.2024-08.com.example:firmware"
OTHER_ID = "11111111-2222-3333-4444-555555555555"
DC = f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}"
SCOPE = DiscoveredScope({}, Secrets(), "", "", "", "")


def connection(role: Role, address: str = "192.0.2.1", nqn: str = DISCOVERY_NQN) -> Connection:
    return Connection(
        role,
        "tcp",
        address,
        "",
        nqn,
        host_traddr="",
        host_iface="",
        hostnqn="",
        hostid="",
        hostsymname="",
        params={},
        persistent="",
        secrets=Secrets(),
        file="f",
        line=1,
    )


def config(*connections: Connection, **scopes: DiscoveredScope) -> FabricsConfig:
    """A configuration; ``io`` and ``discovery`` are the defaults of discovered controllers."""
    given: dict[tuple[str, Role], DiscoveredScope] = {
        ("", "io"): scopes.get("io", SCOPE),
        ("", "discovery"): scopes.get("discovery", SCOPE),
    }
    return FabricsConfig(connections, scopes=given)


def wish(origin: str, address: str = "192.0.2.7", role: str = DISCOVERY, **more: Any) -> Wish:
    nqn = DISCOVERY_NQN if role == DISCOVERY else "nqn.a"
    tid = TransportId.make(role, "tcp", address, "", nqn, hostnqn=more.pop("hostnqn", ""))
    return Wish(tid, role, f"asked for by {origin}", origin, **more)


def listing(*names: str) -> LogPage:
    return parse(page(*(entry(f"nqn.{name}") for name in names)))


class House:
    """An inventory whose sources say what the test does."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.calls = 0
        self.inventory = Inventory(self.known, self._changed)
        held = self.inventory
        for source in (held.mdns, held.nbft, held.fibre_channel, held.unmanaged_source):
            # They would look for themselves.
            source.configure = lambda *_: None  # type: ignore[method-assign]

    def _changed(self) -> None:
        self.calls += 1

    def configure(self, given: FabricsConfig | None = None, **settings: Any) -> None:
        self.inventory.configure(given or config(), HOST, Settings(**settings))

    def say(self, source: Any, *wishes: Wish, refusals: tuple[Refusal, ...] = ()) -> None:
        source.wishes, source.refusals = wishes, refusals
        source._changed()

    def exclude(self, *lines: str) -> None:
        text = "[exclusions]\n" + "".join(f"exclusion = {line}\n" for line in lines)
        self.inventory.exclusions.exclusions = exclusions.parse([("x.conf", text.encode())])

    @property
    def asked(self) -> dict[str, tuple[Candidate, ...]]:
        return self.inventory.wanted.asked


def in_loop(scenario: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        house = House()
        try:
            await scenario(house)
        finally:
            await house.inventory.names.close()

    virtual_time.run(main())


# Wishes ---------------------------------------------------------------------------------------------------


def test_a_wish_is_connected_with_the_defaults_of_what_is_discovered() -> None:
    async def scenario(house: House) -> None:
        house.configure(
            config(
                io=replace(SCOPE, params={"ctrl-loss-tmo": "5"}),
                discovery=replace(SCOPE, params={"keep-alive-tmo": "7"}),
            )
        )
        dc, io = wish(MDNS), wish(NBFT, role=IO, params=(("hdr-digest", "true"),))
        house.say(house.inventory.mdns, dc)
        house.say(house.inventory.nbft, io)
        assert set(await house.inventory.update()) == {dc.tid.instance, io.tid.instance}
        (one,) = house.asked[dc.tid.instance]
        assert dict(one.options)["keep_alive_tmo"] == "7"
        (one,) = house.asked[io.tid.instance]
        assert dict(one.options)["ctrl_loss_tmo"] == "5"
        assert dict(one.options)["hdr_digest"] == ""
        assert dict(one.options)["hostnqn"] == HOST.hostnqn

    in_loop(scenario)


def test_firmwares_identity_goes_with_firmwares_wishes() -> None:
    async def scenario(house: House) -> None:
        house.configure()
        house.inventory.nbft.identities = {OTHER: OTHER_ID}
        booted = wish(NBFT, hostnqn=OTHER)
        house.say(house.inventory.nbft, booted)
        await house.inventory.update()
        (one,) = house.asked[booted.tid.instance]
        assert (dict(one.options)["hostnqn"], dict(one.options)["hostid"]) == (OTHER, OTHER_ID)
        # And with what is listed by its discovery controller.
        house.inventory.put_page(booted.tid.instance, PageRead(listing("a"), 0.0, "1", Asked.ALL_PORTS))
        await house.inventory.update()
        ((listed,),) = (asked for instance, asked in house.asked.items() if instance != booted.tid.instance)
        assert (dict(listed.options)["hostnqn"], dict(listed.options)["hostid"]) == (OTHER, OTHER_ID)
        assert listed.tid.hostnqn == OTHER

    in_loop(scenario)


@pytest.mark.parametrize(
    ("scope", "why"),
    [(replace(SCOPE, secrets=Secrets(tls=True)), "TLS is not supported"), (replace(SCOPE, problem="broken"), "broken")],
)
def test_a_wish_that_cannot_be_granted_is_refused_and_named(
    scope: DiscoveredScope, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(house: House) -> None:
        house.configure(config(discovery=scope))
        house.say(house.inventory.mdns, wish(MDNS), refusals=(Refusal("x", "by mDNS", "no port"),))
        house.say(house.inventory.nbft, wish(NBFT, role=IO))
        await house.inventory.update()
        assert [asked[0].role for asked in house.asked.values()] == [IO]
        (own, refused) = house.inventory.refusals
        assert (own.reason, why in refused.reason) == ("no port", True)
        assert caplog.text.count(why) == 1
        house.say(house.inventory.nbft)
        await house.inventory.update()
        assert caplog.text.count(why) == 1
        house.configure()
        await house.inventory.update()
        assert wish(MDNS).tid.instance in house.asked

    in_loop(scenario)


def test_a_source_that_says_the_same_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    grant = candidate.granted

    def count(one: Wish, *rest: Any) -> Candidate:
        calls.append(one.origin)
        return grant(one, *rest)

    monkeypatch.setattr(inventory, "granted", count)

    async def scenario(house: House) -> None:
        house.configure()
        house.say(house.inventory.mdns, wish(MDNS), wish(MDNS, "192.0.2.8"))
        house.say(house.inventory.fibre_channel, wish(FIBRE_CHANNEL, "192.0.2.9"))
        await house.inventory.update()
        assert calls == [MDNS, MDNS, FIBRE_CHANNEL]
        house.say(house.inventory.fibre_channel, wish(FIBRE_CHANNEL, "192.0.2.10"))
        touched = await house.inventory.update()
        assert calls[3:] == [FIBRE_CHANNEL]
        assert len(touched) == 2
        # A page is none of their business.
        house.inventory.put_page(wish(MDNS).tid.instance, PageRead(listing("a", "b"), 0.0, "1", Asked.ALL_PORTS))
        assert len(await house.inventory.update()) == 2
        assert len(calls) == 4
        assert await house.inventory.update() == {}
        # But everything depends on the configuration.
        house.configure()
        assert await house.inventory.update() == {}
        assert len(calls) == 7

    in_loop(scenario)


def test_each_source_tells_when_there_is_something_to_update() -> None:
    async def scenario(house: House) -> None:
        acts: tuple[Callable[[], None], ...] = (
            house.configure,
            lambda: house.inventory.booted(()),
            lambda: house.inventory.put_page(DC, PageRead(listing(), 0.0, "1", Asked.ALL_PORTS)),
            lambda: house.say(house.inventory.mdns),
            lambda: house.say(house.inventory.nbft),
            lambda: house.say(house.inventory.fibre_channel),
        )
        for act in acts:
            before = house.calls
            act()
            assert house.calls > before

    in_loop(scenario)


def test_everything_at_once_is_one_unit_for_each_controller() -> None:
    async def scenario(house: House) -> None:
        house.configure(config(connection("discovery")))
        mine = wish(BOOT, "192.0.2.1")
        house.inventory.booted((Candidate(mine.tid, DISCOVERY, "nvme0 since the boot", BOOT, ()),))
        house.say(house.inventory.mdns, wish(MDNS, "192.0.2.1", asked=9.0, give_up_after=60))
        await house.inventory.update()
        assert list(house.asked) == [DC]
        first, *others = house.asked[DC]
        assert (first.origin, first.give_up_after) == (CONFIGURATION, 0)
        assert {one.origin for one in others} == {BOOT, MDNS}

    in_loop(scenario)


# Exclusions -----------------------------------------------------------------------------------------------


def test_only_what_an_edit_changes_is_looked_at_again() -> None:
    async def scenario(house: House) -> None:
        house.configure(config(connection("discovery"), *(connection("io", nqn=f"nqn.{name}") for name in "abc")))
        await house.inventory.update()
        name = "tcp:192.0.2.1:4420:nqn.{}".format
        house.exclude("nqn=nqn.a", "nqn=nqn.b")
        assert set(await house.inventory.update()) == {name("a"), name("b")}
        assert house.inventory.excluded == {name("a"): "x.conf:2", name("b"): "x.conf:3"}
        # What stands in another line says so.
        house.exclude("nqn=nqn.b")
        assert set(await house.inventory.update()) == {name("a"), name("b")}
        assert house.inventory.excluded == {name("b"): "x.conf:2"}
        house.exclude("nqn=nqn.b", "nqn=nqn.other")
        assert await house.inventory.update() == {}
        # What comes later is looked up as well, and what goes is forgotten.
        house.configure(config(connection("io", nqn="nqn.other")))
        await house.inventory.update()
        assert house.inventory.excluded == {name("other"): "x.conf:3"}

    in_loop(scenario)


def test_an_excluded_discovery_controller_leads_nowhere() -> None:
    async def scenario(house: House) -> None:
        house.configure(config(connection("discovery")))
        house.inventory.put_page(DC, PageRead(listing("a", "b"), 0.0, "1", Asked.ALL_PORTS))
        await house.inventory.update()
        assert len(house.asked) == 3
        assert house.inventory.authoritative.keys() == {CONFIGURATION, DC}
        house.exclude("trsvcid=8009")
        assert len(await house.inventory.update()) == 3
        assert list(house.asked) == [DC]
        assert house.inventory.authoritative.keys() == {CONFIGURATION}
        house.exclude()
        await house.inventory.update()
        assert len(house.asked) == 3

    in_loop(scenario)


# Reports --------------------------------------------------------------------------------------------------


def test_report_reaches_the_source_concerned(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        heard: list[tuple[object, ...]] = []
        held = house.inventory
        monkeypatch.setattr(held.names, "refused", lambda *what: heard.append(what))
        monkeypatch.setattr(held.mdns, "forget", lambda instance: heard.append(("mdns", instance)))
        monkeypatch.setattr(held.fibre_channel, "lost", lambda: heard.append(("fc",)))
        monkeypatch.setattr(held.names, "address", lambda *_: "192.0.2.1")
        house.configure(config(connection("io", "array.example.com", "nqn.a")))
        fc = TransportId.make(DISCOVERY, "fc", "nn-0x1:pn-0x2", "", DISCOVERY_NQN, host_traddr="nn-0x3:pn-0x4")
        house.say(held.fibre_channel, Wish(fc, DISCOVERY, "announced", FIBRE_CHANNEL))
        await held.update()
        named = "tcp:192.0.2.1:4420:nqn.a"

        held.reported(named, None, Report("waiting", attempt=1))
        held.reported(named, None, Report("live"))
        assert heard == []
        held.reported(named, None, Report("waiting", attempt=inventory.ATTEMPTS))
        ((_, name, address),) = heard
        assert (name, address) == ("array.example.com", "192.0.2.1")
        heard.clear()
        held.reported(fc.instance, None, Report("reconnecting"))
        held.reported(fc.instance, Report("live"), Report("live"))
        held.reported(fc.instance, Report("live"), Report("parked"))
        held.reported(named, Report("live"), Report("reconnecting"))
        assert heard == []
        held.reported(fc.instance, Report("live"), Report("reconnecting"))
        held.reported("tcp:x", None, Report("given up"))
        assert heard == [("fc",), ("mdns", "tcp:x")]

    in_loop(scenario)


def test_remembered_wish_goes_back_to_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        heard: dict[str, object] = {}
        held = house.inventory
        monkeypatch.setattr(held.mdns, "remember", lambda given: heard.update(mdns=given))
        monkeypatch.setattr(held.fibre_channel, "remember", lambda given: heard.update(fc=given))
        monkeypatch.setattr(held.names, "prefer", lambda given: heard.update(names=given))
        one, other = wish(MDNS), wish(FIBRE_CHANNEL)
        held.remember((other, one), frozenset({"192.0.2.1"}))
        assert heard == {"mdns": (one,), "fc": (other,), "names": frozenset({"192.0.2.1"})}

    in_loop(scenario)


def test_given_up_controller_is_forgotten_under_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        heard: list[str] = []
        held = house.inventory
        monkeypatch.setattr(held.mdns, "forget", heard.append)
        house.configure(config(discovery=replace(SCOPE, hostnqn=OTHER, hostid=OTHER_ID)))
        house.say(held.mdns, wish(MDNS))
        house.say(held.fibre_channel, wish(FIBRE_CHANNEL, "192.0.2.8"))
        await held.update()
        announced, other = sorted(house.asked)
        assert announced != wish(MDNS).tid.instance
        held.reported(announced, None, Report("given up"))
        assert heard == [announced, wish(MDNS).tid.instance]
        heard.clear()
        held.reported(other, None, Report("given up"))
        assert heard == [other]

    in_loop(scenario)


@pytest.mark.parametrize("until", ["", "14:05"])
def test_announcement_that_has_ended_is_forgotten_where_no_worker_serves_it(
    until: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what was configured once still runs, which nothing gives up."""

    async def scenario(house: House) -> None:
        forgotten: list[str] = []
        monkeypatch.setattr(house.inventory.mdns, "forget", forgotten.append)
        house.configure()
        announced = wish(MDNS, announcement=Announcement("eth0", until))
        house.say(house.inventory.mdns, announced)
        await house.inventory.update()
        (instance,) = house.asked
        house.inventory.left(instance)
        house.inventory.left("tcp:192.0.2.8:8009:nqn.unknown")
        assert forgotten == ([announced.tid.instance] if until else [])

    in_loop(scenario)


def test_fibre_channel_is_asked_again_for_lost_discovery_controllers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        heard: list[str] = []
        held = house.inventory
        monkeypatch.setattr(held.fibre_channel, "lost", lambda: heard.append("lost"))
        there = ("fc", "nn-0x1:pn-0x2", "")
        dc = TransportId.make(DISCOVERY, *there, DISCOVERY_NQN, host_traddr="nn-0x3:pn-0x4")
        io = TransportId.make(IO, *there, "nqn.a", host_traddr="nn-0x3:pn-0x4")
        house.say(held.fibre_channel, Wish(dc, DISCOVERY, "announced", FIBRE_CHANNEL))
        house.say(held.nbft, Wish(io, IO, "in the NBFT", NBFT))
        house.configure()
        await held.update()
        held.reported(io.instance, Report("live"), Report("waiting"))
        held.reported(dc.instance, Report("waiting"), Report("connecting"))
        assert heard == []
        held.reported(dc.instance, Report("live"), Report("waiting"))
        assert heard == ["lost"]

    in_loop(scenario)


# The configuration ----------------------------------------------------------------------------------------


def test_configuration_goes_to_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        held, settings = house.inventory, Settings(mdns=False)
        heard: dict[str, object] = {}

        def hears(name: str) -> Callable[..., None]:
            return lambda *given: heard.update({name: given})

        monkeypatch.setattr(held.names, "want", hears("names"))
        monkeypatch.setattr(held.mdns, "configure", lambda *given: heard.update(mdns=(*given, held.mdns.unique_nqn)))
        monkeypatch.setattr(held.nbft, "configure", hears("nbft"))
        monkeypatch.setattr(held.fibre_channel, "configure", hears("fc"))
        monkeypatch.setattr(held.unmanaged_source, "configure", hears("unmanaged"))
        named = config(connection("io", "array.example.com", "nqn.a"))
        held.configure(named, HOST, settings, unique_nqn=False)
        assert heard == {
            "names": ({"array.example.com"},),
            "mdns": (settings, False),
            "nbft": (settings, HOST.hostnqn),
            "fc": (settings,),
            "unmanaged": (settings, HOST.hostnqn),
        }
        held.configure(named, HOST, settings)
        assert heard["mdns"] == (settings, True)

    in_loop(scenario)


def test_log_pages_are_followed_with_the_present_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        contexts: list[Context] = []

        def follow(_: object, context: Context, *__: object) -> Iterator[None]:
            contexts.append(context)
            return iter(())

        monkeypatch.setattr(house.inventory.log_pages, "follow", follow)
        given = config(connection("discovery"))
        house.inventory.nbft.identities = {OTHER: OTHER_ID}
        house.configure(given, give_up=7, connect_attempts_on_ncc=8, disconnect_share=9)
        await house.inventory.update()
        discovery = {DC: given.connections[0]}
        assert contexts == [Context(given, HOST, discovery, {OTHER: OTHER_ID}, 7, 8, 9, lacking={"rdma": ""})]

    in_loop(scenario)


def test_refusal_is_told_again_after_a_reload(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(house: House) -> None:
        house.configure()
        house.say(house.inventory.mdns, refusals=(Refusal("x", "by mDNS", "no port"),))
        await house.inventory.update()
        house.say(house.inventory.mdns, refusals=(Refusal("x", "by mDNS", "no port"),))
        await house.inventory.update()
        assert caplog.text.count("no port") == 1
        house.configure()
        await house.inventory.update()
        assert caplog.text.count("no port") == 2

    in_loop(scenario)


def test_refusals_of_every_source_are_told() -> None:
    async def scenario(house: House) -> None:
        held = house.inventory
        house.configure(
            config(replace(connection("io", nqn="nqn.a"), problem="broken"), io=replace(SCOPE, problem="x"))
        )
        house.say(held.mdns, refusals=(Refusal("1", "mDNS", "a"),))
        house.say(held.nbft, wish(NBFT, role=IO), refusals=(Refusal("2", "NBFT", "b"),))
        house.say(held.fibre_channel, refusals=(Refusal("3", "FC", "c"),))
        pages = Pages()
        pages.refusals = (Refusal("4", "a page", "d"),)
        held.log_pages = pages
        await held.update()
        assert [one.reason for one in held.refusals] == ["broken", "a", "b", "c", "x", "d"]

    in_loop(scenario)


# Log pages ------------------------------------------------------------------------------------------------


class Pages(LogPages):
    """Log pages that say what a test has them say."""

    def __init__(self, **said: Any) -> None:
        super().__init__()
        self.stamps: dict[str, str] = {}
        self.confirmed: list[object] = []
        for name, value in said.items():
            setattr(self, name, value)

    def follow(self, *_: object) -> Iterator[None]:
        """What they list is no matter."""
        return iter(())

    def fresh(self, instance: str, stamp: str) -> bool:
        return bool(stamp) and self.stamps.get(instance) == stamp

    def confirm(self, instance: str, units: object) -> None:
        self.confirmed.append((instance, units))


def test_confirmation_goes_to_the_log_pages_and_is_a_reason_to_update() -> None:
    async def scenario(house: House) -> None:
        house.inventory.log_pages = pages = Pages()
        house.inventory.confirm(DC, ["a"])
        assert (pages.confirmed, house.calls) == ([(DC, ["a"])], 1)

    in_loop(scenario)


def test_excluded_referral_that_has_left_a_page_leads_nowhere() -> None:
    """Also where it is excluded before anybody refers to it."""

    async def scenario(house: House) -> None:
        house.configure(config(connection("discovery")))
        referral = parse(page(entry(DISCOVERY_NQN, subtype=1, traddr="192.0.2.7", trsvcid="8009")))
        there = f"tcp:192.0.2.7:8009:{DISCOVERY_NQN}"
        house.inventory.put_page(DC, PageRead(referral, 0.0, "1", Asked.ALL_PORTS))
        house.inventory.put_page(there, PageRead(listing("a"), 0.0, "1", Asked.ALL_PORTS))
        house.exclude("traddr=192.0.2.7")
        touched = await house.inventory.update()
        assert list(house.asked) == [DC, there]
        assert {DC, there} <= touched.keys()
        assert house.inventory.excluded == {there: "x.conf:2"}

    in_loop(scenario)


def test_configuration_that_is_not_whole_proves_nothing() -> None:
    async def scenario(house: House) -> None:
        house.inventory.log_pages = Pages(authoritative={DC: Answer("generation 1")})
        house.configure()
        await house.inventory.update()
        assert house.inventory.authoritative == {CONFIGURATION: Answer(), DC: Answer("generation 1")}
        house.configure(config(replace(connection("discovery"), problem="broken")))
        await house.inventory.update()
        assert house.inventory.authoritative == {DC: Answer("generation 1")}

    in_loop(scenario)


@pytest.mark.parametrize("watched", [True, False])
def test_pages_of_which_more_is_to_come_are_read_every_minute(watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        house.inventory.log_pages = Pages(
            authoritative={"held": Answer("1"), "starting": Answer("2"), "settled": Answer("3")},
            settled=frozenset({"held", "settled"}),
            pending={"held": {"unit": Pending(Wait.DAMPING, "why", 9.0)}},
            waiting={"held": frozenset({"unit"})},
            listed={"held": 2},
        )
        house.configure()
        house.inventory.unmanaged_source.found = (unmanaged_one("a"),) if watched else None
        await house.inventory.update()
        assert list(house.inventory.held_back) == ["held"]
        assert house.inventory.confirming == {"held"} | ({"starting"} if watched else set())
        # The words stay while the time does, also when the clock on the wall is set.
        before = dict(house.inventory.held_back)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 7200)
        house.configure()
        await house.inventory.update()
        assert house.inventory.held_back["held"] is not before["held"]
        assert house.inventory.held_back == before

    in_loop(scenario)


# What others connected ------------------------------------------------------------------------------------


def unmanaged_one(name: str) -> Candidate:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "4420", "nqn." + name)
    options = (("transport", "tcp"), ("traddr", "192.0.2.1"), ("trsvcid", "4420"), ("nqn", "nqn." + name))
    return Candidate(tid, IO, "connected by others", UNMANAGED, options)


def test_connection_of_others_is_unmanaged_unless_somebody_asks_for_it_or_it_is_ours() -> None:
    async def scenario(house: House) -> None:
        alone, asked, ours, dealt_with = (unmanaged_one(name) for name in "abcd")
        house.configure(config(connection("io", nqn="nqn.b")))
        house.known["ours"] = Known("configured", CONFIGURATION, target=ours.target)
        house.known["theirs"] = Known("connected by others", UNMANAGED, target=dealt_with.target)
        house.inventory.unmanaged_source.found = (alone, asked, ours, dealt_with)
        touched = await house.inventory.update()
        unmanaged = {one.tid.instance: one for one in (alone, dealt_with)}
        assert house.inventory.unmanaged == unmanaged
        assert touched.keys() == {*unmanaged, asked.tid.instance}
        # Nothing is new, then one has gone.
        house.say(house.inventory.mdns)
        assert await house.inventory.update() == {}
        house.inventory.unmanaged_source.found = (asked, ours, dealt_with)
        house.say(house.inventory.mdns)
        assert await house.inventory.update() == {alone.tid.instance: None}

    in_loop(scenario)


def test_unmanaged_connection_is_excluded_by_its_first_look_and_by_an_edit() -> None:
    async def scenario(house: House) -> None:
        one, other = unmanaged_one("a"), unmanaged_one("b")
        house.configure()
        house.exclude("nqn=nqn.a")
        house.inventory.unmanaged_source.found = (one, other)
        await house.inventory.update()
        assert house.inventory.excluded == {one.tid.instance: "x.conf:2"}
        house.exclude("nqn=nqn.b")
        assert set(await house.inventory.update()) == {one.tid.instance, other.tid.instance}
        assert house.inventory.excluded == {other.tid.instance: "x.conf:2"}

    in_loop(scenario)


OTHER_DC = f"tcp:192.0.2.2:8009:{DISCOVERY_NQN}"
SAID = {DC: Report("live", log_read="5"), OTHER_DC: Report("parked", log_read="6")}


def all_say(**but: Any) -> Pages:
    """Both discovery controllers have said everything, but for this."""
    said: dict[str, Any] = {
        "authoritative": {DC: Answer("generation 7"), OTHER_DC: Answer("generation 8")},
        "settled": frozenset({DC, OTHER_DC}),
        "whole": frozenset({DC, OTHER_DC}),
        "stamps": {DC: "5", OTHER_DC: "6"},
        "inconclusive": {OTHER_DC: "its log page lists nothing"},
    }
    return Pages(**said | but)


@pytest.mark.parametrize(
    ("pages", "reports", "why"),
    [
        (all_say(), SAID, ""),
        (all_say(authoritative={OTHER_DC: Answer("8")}), SAID, f"nothing is known from {DC}"),
        (all_say(authoritative={DC: Answer("7")}), SAID, "its log page lists nothing"),
        (all_say(), {DC: SAID[DC]}, f"the log page of {OTHER_DC} may be another one by now"),
        (all_say(stamps={DC: "4", OTHER_DC: "6"}), SAID, f"the log page of {DC} may be another one by now"),
        (
            all_say(),
            SAID | {DC: Report("reconnecting", log_read="5")},
            f"the log page of {DC} may be another one by now",
        ),
        (
            all_say(settled=frozenset({DC})),
            SAID,
            f"{OTHER_DC} has started anew, and what it lists has to stay the same for some minutes",
        ),
        (all_say(whole=frozenset({DC})), SAID, f"the log page of {OTHER_DC} does not say all about everything"),
    ],
)
def test_evidence_is_what_all_discovery_controllers_say(pages: Pages, reports: dict[str, Report], why: str) -> None:
    async def scenario(house: House) -> None:
        house.inventory.unmanaged_source.found = ()
        house.inventory.log_pages = pages
        house.configure(config(connection("discovery"), connection("discovery", "192.0.2.2")))
        await house.inventory.update()
        answer = "" if why else f"generation 7 of {DC} and 1 more"
        assert house.inventory.evidence(reports) == (answer, why)

    in_loop(scenario)


def test_excluded_discovery_controller_need_not_say_anything() -> None:
    async def scenario(house: House) -> None:
        house.inventory.unmanaged_source.found = ()
        house.inventory.log_pages = all_say(authoritative={DC: Answer("generation 7")})
        house.configure(config(connection("discovery"), connection("discovery", "192.0.2.2")))
        house.exclude("traddr=192.0.2.2")
        await house.inventory.update()
        assert house.inventory.evidence(SAID) == (f"generation 7 of {DC}", "")
        house.exclude("traddr=192.0.2.1", "traddr=192.0.2.2")
        await house.inventory.update()
        assert house.inventory.evidence(SAID) == ("", "there is no discovery controller that could list it")

    in_loop(scenario)


def test_what_firmware_asks_for_in_vain_speaks_for_what_others_connected() -> None:
    """It may be the very controller, at an address of a family that is left out."""

    async def scenario(house: House) -> None:
        held = house.inventory
        held.unmanaged_source.found = ()
        held.log_pages = all_say()
        house.configure(config(connection("discovery"), connection("discovery", "192.0.2.2")))
        await held.update()
        assert not held.evidence(SAID)[1]
        held.nbft.refusals = (Refusal("'nqn.a' at 192.0.2.7", "in the NBFT table NBFT", "address-families"),)
        assert held.evidence(SAID) == ("", "not all that firmware asks for can be connected")

    in_loop(scenario)


@pytest.mark.parametrize("lacks", ["look", "entry", "wish", "exclusion"])
def test_without_all_of_the_configuration_there_is_no_evidence(lacks: str) -> None:
    async def scenario(house: House) -> None:
        held = house.inventory
        held.unmanaged_source.found = None if lacks == "look" else ()
        held.log_pages = all_say()
        entries = [connection("discovery"), connection("discovery", "192.0.2.2")]
        if lacks == "entry":
            entries.append(replace(connection("io", nqn="nqn.a"), problem="broken"))
        house.configure(config(*entries, io=replace(SCOPE, problem="broken")))
        if lacks == "wish":
            house.say(held.nbft, wish(NBFT, role=IO))
        if lacks == "exclusion":
            house.exclude("nonsense")
        await held.update()
        why = "not all of the configuration can be used"
        if lacks == "look":
            why = "nobody has looked yet, or disconnect-scope is not all"
        assert held.evidence(SAID) == ("", why)

    in_loop(scenario)
