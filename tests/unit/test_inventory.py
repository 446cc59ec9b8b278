# SPDX-License-Identifier: Apache-2.0
"""All sources together: which are asked, what their wishes are connected with, and what news cost."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from discoverd import exclusions
from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Role, Secrets
from discoverd.config.settings import Settings
from discoverd.plan import candidate
from discoverd.plan.candidate import BOOT, CONFIGURATION, FIBRE_CHANNEL, MDNS, NBFT, Candidate, Refusal, Wish
from discoverd.plan.evidence import Asked
from discoverd.plan.planner import Known, Report
from discoverd.sources.discovery_log import LogPage, PageRead, parse
from discoverd.supervisor import inventory
from discoverd.supervisor.inventory import Inventory
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

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
        for source in (self.inventory.mdns, self.inventory.nbft, self.inventory.fibre_channel):
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

    asyncio.run(main())


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
        assert set(house.inventory.update()) == {dc.tid.instance, io.tid.instance}
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
        house.inventory.update()
        (one,) = house.asked[booted.tid.instance]
        assert (dict(one.options)["hostnqn"], dict(one.options)["hostid"]) == (OTHER, OTHER_ID)
        # And with what is listed by its discovery controller.
        house.inventory.put_page(booted.tid.instance, PageRead(listing("a"), 0.0, "1", Asked.ALL_PORTS))
        house.inventory.update()
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
        house.inventory.update()
        assert [asked[0].role for asked in house.asked.values()] == [IO]
        (own, refused) = house.inventory.refusals
        assert (own.reason, why in refused.reason) == ("no port", True)
        assert caplog.text.count(why) == 1
        house.say(house.inventory.nbft)
        house.inventory.update()
        assert caplog.text.count(why) == 1
        house.configure()
        house.inventory.update()
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
        house.inventory.update()
        assert calls == [MDNS, MDNS, FIBRE_CHANNEL]
        house.say(house.inventory.fibre_channel, wish(FIBRE_CHANNEL, "192.0.2.10"))
        touched = house.inventory.update()
        assert calls[3:] == [FIBRE_CHANNEL]
        assert len(touched) == 2
        # A page is none of their business.
        house.inventory.put_page(wish(MDNS).tid.instance, PageRead(listing("a", "b"), 0.0, "1", Asked.ALL_PORTS))
        assert len(house.inventory.update()) == 2
        assert len(calls) == 4
        assert house.inventory.update() == {}
        # But everything depends on the configuration.
        house.configure()
        assert house.inventory.update() == {}
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
        house.say(house.inventory.mdns, wish(MDNS, "192.0.2.1", asked=9.0, horizon=60))
        house.inventory.update()
        assert list(house.asked) == [DC]
        first, *others = house.asked[DC]
        assert (first.origin, first.horizon) == (CONFIGURATION, 0)
        assert {one.origin for one in others} == {BOOT, MDNS}

    in_loop(scenario)


# Exclusions -----------------------------------------------------------------------------------------------


def test_only_what_an_edit_changes_is_looked_at_again() -> None:
    async def scenario(house: House) -> None:
        house.configure(config(connection("discovery"), *(connection("io", nqn=f"nqn.{name}") for name in "abc")))
        house.inventory.update()
        name = "tcp:192.0.2.1:4420:nqn.{}".format
        house.exclude("nqn=nqn.a", "nqn=nqn.b")
        assert set(house.inventory.update()) == {name("a"), name("b")}
        assert house.inventory.excluded == {name("a"): "x.conf:2", name("b"): "x.conf:3"}
        # What stands in another line says so.
        house.exclude("nqn=nqn.b")
        assert set(house.inventory.update()) == {name("a"), name("b")}
        assert house.inventory.excluded == {name("b"): "x.conf:2"}
        house.exclude("nqn=nqn.b", "nqn=nqn.other")
        assert house.inventory.update() == {}
        # What comes later is looked up as well, and what goes is forgotten.
        house.configure(config(connection("io", nqn="nqn.other")))
        house.inventory.update()
        assert house.inventory.excluded == {name("other"): "x.conf:3"}

    in_loop(scenario)


def test_an_excluded_discovery_controller_leads_nowhere() -> None:
    async def scenario(house: House) -> None:
        house.configure(config(connection("discovery")))
        house.inventory.put_page(DC, PageRead(listing("a", "b"), 0.0, "1", Asked.ALL_PORTS))
        house.inventory.update()
        assert len(house.asked) == 3
        assert house.inventory.complete.keys() == {CONFIGURATION, DC}
        house.exclude("trsvcid=8009")
        assert len(house.inventory.update()) == 3
        assert list(house.asked) == [DC]
        assert house.inventory.complete.keys() == {CONFIGURATION}
        house.exclude()
        house.inventory.update()
        assert len(house.asked) == 3

    in_loop(scenario)


# Reports --------------------------------------------------------------------------------------------------


def test_who_learns_from_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
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
        held.update()
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


def test_what_was_heard_before_goes_back_to_who_had_heard_it(monkeypatch: pytest.MonkeyPatch) -> None:
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
