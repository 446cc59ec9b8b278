# SPDX-License-Identifier: Apache-2.0
"""Announcements: what is believed of one, and what becomes of it when it is not made any more."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.bus import avahi
from discoverd.bus.avahi import IPV4, IPV6, TCP, UDP, Announced, News, Running, Service, Unasked, Withdrawn
from discoverd.config.settings import Settings
from discoverd.kernel.addresses import HostAddresses
from discoverd.plan.candidate import MDNS, Announcement, Wish
from discoverd.sources import mdns
from discoverd.sources.announcement import attributes, describe, identify
from discoverd.sources.mdns import Mdns
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, TidError, TransportId

from . import virtual_time
from .fake_host import until

NQN = "nqn.2024-08.com.example:dc"
HERE = HostAddresses(
    frozenset(
        socket.inet_pton(family, text) for family, text in ((socket.AF_INET, "192.0.2.2"), (socket.AF_INET6, "fe80::2"))
    ),
    frozenset((socket.inet_aton("192.0.2.255"),)),
)
INTERFACES = {2: "eth0", 3: "eth1", 4: "eth2"}


def announced(
    *txt: bytes | str,
    name: str = "dc-one",
    address: str = "192.0.2.1",
    port: int = 8009,
    interface: int = 2,
    kind: str = TCP,
) -> Announced:
    service = Service(interface, IPV6 if ":" in address else IPV4, name, kind, "local")
    strings = tuple(one.encode() if isinstance(one, str) else one for one in txt or ("p=tcp",))
    return Announced(service, address, port, strings)


# TXT records (RFC 6763, section 6.4) ---------------------------------------------------------------------------


def test_attributes() -> None:
    txt = [b"P=tcp", b"p=rdma", b"nqn=a=b", b"flag", b"empty=", b"=none", b"", b"caf\xc3\xa9=x", b"bin=\xff\0"]
    assert attributes(txt) == {"p": b"tcp", "nqn": b"a=b", "flag": None, "empty": b"", "bin": b"\xff\0"}


@given(st.lists(st.binary(max_size=255), max_size=20))
def test_any_txt_record_has_attributes(txt: list[bytes]) -> None:
    assert all(key and key.isascii() and key == key.lower() for key in attributes(txt))


# One announcement ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("news", "instance"),
    [
        (announced("p=tcp"), f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}::eth0"),
        (announced("p= TCP ", f"nqn={NQN}"), f"tcp:192.0.2.1:8009:{NQN}::eth0"),
        (announced("p=tcp", f"nqn={NQN}=1"), f"tcp:192.0.2.1:8009:{NQN}\\x3d1::eth0"),
        (announced("p=tcp", "nqn"), f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}::eth0"),
        (announced("p=tcp", "nqn="), f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}::eth0"),
        (announced("p=RoCE", kind=UDP), f"rdma:192.0.2.1:8009:{DISCOVERY_NQN}"),
        (announced("p=rdma", kind=UDP), f"rdma:192.0.2.1:8009:{DISCOVERY_NQN}"),
        (announced("p=iwarp"), f"rdma:192.0.2.1:8009:{DISCOVERY_NQN}"),
        (announced(address="2001:db8::1"), f"tcp:2001:db8::1:8009:{DISCOVERY_NQN}::eth0"),
        (announced(address="fe80::1"), f"tcp:fe80::1\\x25eth0:8009:{DISCOVERY_NQN}::eth0"),
        (announced("p=roce", address="fe80::1"), f"rdma:fe80::1\\x25eth0:8009:{DISCOVERY_NQN}"),
        (announced(address="fe80::1%eth9"), f"tcp:fe80::1\\x25eth9:8009:{DISCOVERY_NQN}::eth0"),
        (announced(address="::ffff:192.0.2.1"), f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}::eth0"),
    ],
)
def test_an_announcement_is_a_controller(news: Announced, instance: str) -> None:
    assert identify(news, "eth0", unique_nqn=True, addresses=HERE).instance == instance


@pytest.mark.parametrize(
    ("news", "reason"),
    [
        (announced("nqn=" + NQN), "no p="),
        (announced("p"), "no p="),
        (announced("p="), "no p="),
        (announced("p=quic"), "'quic' is not one of tcp"),
        (announced("p=fc"), "'fc' is not one of tcp"),
        (announced("p=" + "x" * 200), "is not one of tcp"),
        (announced(b"p=\xff"), "p= of its TXT record is not valid UTF-8"),
        (announced("p=tcp", b"nqn=nqn.\xc3"), "nqn= of its TXT record is not valid UTF-8"),
        (announced("p=tcp", kind=UDP), "over UDP"),
        (announced("p=tcp", "nqn=vol1"), "does not begin with 'nqn.'"),
        (announced("p=tcp", f"nqn={NQN},transport=loop"), "the character ',' is not allowed"),
        (announced("p=tcp", f"nqn={NQN}\ntraddr=192.0.2.9"), "is not allowed"),
        (announced("p=tcp", f"nqn={NQN}{'x' * 224}"), "223 are allowed"),
        (announced(port=0), "port is 0"),
        (announced(address="127.0.0.1"), "an address of this host"),
        (announced(address="::1"), "an address of this host"),
        (announced(address="::ffff:127.0.0.1"), "an address of this host"),
        (announced(address="192.0.2.2"), "192.0.2.2 is an address of this host"),
        (announced(address="::ffff:192.0.2.2"), "an address of this host"),
        (announced(address="fe80::2"), "an address of this host"),
        (announced(address="192.0.2.255"), "no address to connect to"),
        (announced(address="0.0.0.1"), "no address to connect to"),
        (announced(address="0.0.0.0"), "no address to connect to"),  # noqa: S104
        (announced(address="::"), "no address to connect to"),
        (announced(address="224.0.0.251"), "no address to connect to"),
        (announced(address="ff02::fb"), "no address to connect to"),
        (announced(address="255.255.255.255"), "no address to connect to"),
        (announced(address=""), "not an IP address"),
        (announced(address="array.example"), "not an IP address"),
    ],
)
def test_nonsensical_announcement_is_refused(news: Announced, reason: str) -> None:
    with pytest.raises(TidError, match=reason):
        identify(news, "eth0", unique_nqn=True, addresses=HERE)


def test_a_kernel_without_unique_names_gets_the_well_known_one() -> None:
    news = announced("p=tcp", f"nqn={NQN}")
    assert identify(news, "eth0", unique_nqn=False, addresses=HERE).subsysnqn == DISCOVERY_NQN
    with pytest.raises(TidError, match="begin"):
        identify(announced("p=tcp", "nqn=x"), "eth0", unique_nqn=False, addresses=HERE)


@given(
    st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([b"p=tcp", b"p=roce"])), max_size=4),
    st.one_of(st.ip_addresses().map(str), st.text(max_size=10)),
    st.integers(0, 65535),
    st.sampled_from([TCP, UDP]),
)
def test_any_announcement_is_a_controller_or_refused(txt: list[bytes], address: str, port: int, kind: str) -> None:
    try:
        tid = identify(announced(*txt, address=address, port=port, kind=kind), "eth0", unique_nqn=True, addresses=HERE)
    except TidError:
        return
    assert tid.instance.isascii()
    assert "," not in tid.traddr + tid.subsysnqn


def test_a_name_from_the_network_is_harmless() -> None:
    assert describe("dc-one", "eth0") == "announced by mDNS on eth0 as 'dc-one'"
    assert describe("a\n\x1b[2Jb\u202ec", "eth0") == "announced by mDNS on eth0 as 'a??[2Jb?c'"
    assert len(describe("x" * 1000, "eth0")) < 80


# What becomes of them ------------------------------------------------------------------------------------------


class Source:
    """The source on a made-up Avahi, with what it said."""

    def __init__(self) -> None:
        self.changes = 0
        self.mdns = Mdns(self._changed)
        self.watches = 0
        self.wanted: Callable[[Service], bool] = lambda _: False
        self.tell: Callable[[News], None] = lambda _: None
        self.error: Exception | None = None
        self.ended = asyncio.Event()

    def _changed(self) -> None:
        self.changes += 1

    async def watch(self, wanted: Callable[[Service], bool], tell: Callable[[News], None]) -> None:
        self.watches += 1
        if self.error:
            raise self.error
        self.wanted, self.tell = wanted, tell
        tell(Running(True))
        self.ended.clear()
        await self.ended.wait()

    def hear(self, *news: Announced) -> None:
        """Avahi announces what of it is wanted."""
        for one in news:
            if self.wanted(one.service):
                self.tell(one)

    def shown(self) -> dict[str, str]:
        """What is wished for, without what all have in common: address and interface to the text behind them."""
        return {
            f"{wish.tid.traddr} {wish.tid.host_iface}": wish.source.removeprefix("announced by mDNS on ")
            for wish in self.mdns.wishes
        }

    async def settle(self) -> None:
        await asyncio.sleep(mdns.DEBOUNCE_SECONDS * 3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "DEBOUNCE_SECONDS", 0.01)
    monkeypatch.setattr(mdns, "LOST_TIMEOUT_SECONDS", 0.4)
    monkeypatch.setattr(mdns, "RETRY_SECONDS", 0.01)

    def name(index: int) -> str:
        try:
            return INTERFACES[index]
        except KeyError:
            raise OSError(6, "No such device or address") from None

    monkeypatch.setattr(socket, "if_indextoname", name)


@pytest.fixture
def scenario(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Source], Awaitable[None]]], None]:
    """Run a scenario with a source that listens."""

    @asynccontextmanager
    async def listening() -> AsyncIterator[Source]:
        source = Source()
        monkeypatch.setattr(avahi, "watch", source.watch)
        source.mdns.configure(Settings())
        task = asyncio.create_task(source.mdns.run())
        await until(lambda: source.watches > 0)
        yield source
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def run(story: Callable[[Source], Awaitable[None]]) -> None:
        async def main() -> None:
            async with listening() as source:
                await story(source)

        virtual_time.run(main())

    return run


Scenario = Callable[[Callable[[Source], Awaitable[None]]], None]


def until_text(shown: str) -> bool:
    """Tell whether it says that it is no longer announced, and since about when."""
    return time.strftime("until %Y-%m-%d") in shown


def test_a_wish(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        source.hear(announced("p=tcp", f"nqn={NQN}"))
        await source.settle()
        (wish,) = source.mdns.wishes
        tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "8009", NQN, host_iface="eth0")
        source_text = "announced by mDNS on eth0 as 'dc-one'"
        assert wish == Wish(tid, DISCOVERY, source_text, MDNS, asked=wish.asked, announcement=Announcement("eth0"))
        assert before <= wish.asked <= time.clock_gettime(time.CLOCK_BOOTTIME)
        assert source.changes == 1

    scenario(story)


def test_interfaces_and_families_are_paths_and_names_are_not(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.hear(
            announced(),
            announced(interface=3),
            announced(address="2001:db8::1"),
            announced(name="another"),
            announced("p=roce", name="rdma", address="192.0.2.7"),
            announced("p=roce", name="rdma", address="192.0.2.7", interface=3),
        )
        await source.settle()
        assert source.shown() == {
            "192.0.2.1 eth0": "eth0 as 'another'",
            "192.0.2.1 eth1": "eth1 as 'dc-one'",
            "2001:db8::1 eth0": "eth0 as 'dc-one'",
            "192.0.2.7 ": "eth0 as 'rdma'",
        }
        assert source.changes == 1
        # A name that comes before it in the alphabet is no news.
        source.hear(announced(name="aaa"))
        await source.settle()
        assert source.changes == 1

    scenario(story)


def test_a_goodbye_ends_nothing(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.hear(announced())
        await source.settle()
        asked = source.mdns.wishes[0].asked
        source.tell(Withdrawn(announced().service))
        await source.settle()
        assert source.changes == 1
        await until(lambda: source.changes == 2)
        (wish,) = source.mdns.wishes
        assert until_text(wish.source)
        assert wish.give_up_after == Settings().mdns_persistence
        assert wish.asked > asked
        # Announced again.
        source.hear(announced())
        await source.settle()
        (again,) = source.mdns.wishes
        assert again.source == "announced by mDNS on eth0 as 'dc-one'"
        assert again.give_up_after == 0
        assert again.asked > wish.asked
        assert source.changes == 3

    scenario(story)


def test_a_flap_is_no_change(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.hear(announced(), announced(interface=3))
        await source.settle()
        before = source.mdns.wishes
        source.tell(Withdrawn(announced().service))
        await asyncio.sleep(mdns.LOST_TIMEOUT_SECONDS / 2)
        source.hear(announced())
        source.tell(Running(False))
        await source.settle()
        source.tell(Running(True))
        source.hear(announced(), announced(interface=3))
        await asyncio.sleep(mdns.LOST_TIMEOUT_SECONDS * 2)
        assert source.mdns.wishes is before
        assert source.changes == 1

    scenario(story)


def test_a_changed_address_is_another_controller(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.hear(announced())
        await source.settle()
        source.hear(announced(address="192.0.2.9"))
        await source.settle()
        shown = source.shown()
        assert until_text(shown["192.0.2.1 eth0"])
        assert shown["192.0.2.9 eth0"] == "eth0 as 'dc-one'"

    scenario(story)


def test_avahi_stops(scenario: Scenario, caplog: pytest.LogCaptureFixture) -> None:
    async def story(source: Source) -> None:
        source.hear(announced())
        await source.settle()
        source.tell(Running(False))
        await until(lambda: until_text(source.shown()["192.0.2.1 eth0"]))
        assert source.changes == 2

    with caplog.at_level(logging.INFO):
        scenario(story)
    assert [record.message.partition(":")[0] for record in caplog.records if record.name == "discoverd.mdns"] == [
        "listening to mDNS through Avahi",
        "Avahi is not running",
    ]


def test_the_bus_goes_and_comes(scenario: Scenario, caplog: pytest.LogCaptureFixture) -> None:
    async def story(source: Source) -> None:
        source.hear(announced())
        await source.settle()
        source.error = ConnectionRefusedError(111, "Connection refused")
        source.ended.set()
        await until(lambda: source.watches > 4)
        source.error = None
        await until(lambda: not source.ended.is_set())
        source.hear(announced())
        await asyncio.sleep(mdns.LOST_TIMEOUT_SECONDS * 2)
        assert source.shown() == {"192.0.2.1 eth0": "eth0 as 'dc-one'"}

    scenario(story)
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [
        "no news from Avahi: the connection to the bus ended; trying again every 0.01 s",
        "no news from Avahi: [Errno 111] Connection refused; trying again every 0.01 s",
    ]


def test_settings_say_where_to_listen(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        everything = (announced(), announced(interface=3), announced(address="2001:db8::1", interface=4))
        for changes, places in (
            ({}, {"192.0.2.1 eth0", "192.0.2.1 eth1", "2001:db8::1 eth2"}),
            ({"mdns_interfaces": ("eth1", "eth9")}, {"192.0.2.1 eth1"}),
            ({"mdns_ignore_interfaces": ("eth1",)}, {"192.0.2.1 eth0", "2001:db8::1 eth2"}),
            ({"mdns_interfaces": ("eth1",), "mdns_ignore_interfaces": ("eth1",)}, set()),
            ({"mdns_families": ("ipv6",)}, {"2001:db8::1 eth2"}),
            ({"mdns_families": ("ipv4",)}, {"192.0.2.1 eth0", "192.0.2.1 eth1"}),
            ({"address_families": ("ipv6",)}, {"2001:db8::1 eth2"}),
            ({"address_families": ("ipv6",), "mdns_families": ("ipv4",)}, set()),
        ):
            watches = source.watches
            source.mdns.configure(replace(Settings(), **changes))
            if changes:
                # What was heard is judged anew at once, and Avahi asked anew.
                assert {place for place, text in source.shown().items() if not until_text(text)} <= places
                await until(lambda watches=watches: source.watches == watches + 1)  # type: ignore[misc]
            source.hear(*everything)
            await source.settle()
            assert {place for place, text in source.shown().items() if not until_text(text)} == places
        assert len(source.shown()) == 3

    scenario(story)


def test_interface_that_is_ignored_makes_no_other_path(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.mdns.configure(Settings(ignore_iface=True))
        source.hear(announced(), announced(interface=3))
        await source.settle()
        (wish,) = source.mdns.wishes
        assert (wish.tid.host_iface, wish.announcement) == ("", Announcement("eth0"))

    scenario(story)


def test_unit_that_is_there_keeps_its_name_when_interfaces_are_ignored(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.hear(announced())
        await source.settle()
        (before,) = source.mdns.wishes
        source.mdns._known = {before.tid.instance}
        source.mdns.configure(Settings(ignore_iface=True))
        await source.settle()
        assert [wish.tid for wish in source.mdns.wishes] == [before.tid]

    scenario(story)


def test_an_interface_that_has_gone_is_not_listened_to(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.hear(announced(interface=99))
        source.tell(announced(interface=99))
        assert not source.wanted(Service(2, IPV4, "dc-one", TCP, "example.com"))
        await source.settle()
        assert source.changes == 0

    scenario(story)


def test_switched_off_and_on(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.hear(announced(), announced("p=no", name="bad"))
        await source.settle()
        assert source.mdns.refusals
        source.mdns.configure(replace(Settings(), mdns=False, mdns_persistence=60))
        (wish,) = source.mdns.wishes
        assert until_text(wish.source)
        assert wish.give_up_after == 60
        assert source.mdns.refusals == ()
        await source.settle()
        source.mdns.configure(replace(Settings(), mdns=False, mdns_persistence=0))
        assert source.mdns.wishes == (replace(wish, give_up_after=0),)
        assert source.watches == 1
        source.mdns.configure(Settings())
        await until(lambda: source.watches == 2)
        source.hear(announced())
        await source.settle()
        assert source.shown() == {"192.0.2.1 eth0": "eth0 as 'dc-one'"}

    scenario(story)


def test_a_later_supervisor_remembers(scenario: Scenario) -> None:
    def wish(number: int, until: str = "") -> Wish:
        tid = TransportId.make(DISCOVERY, "tcp", f"192.0.2.{number}", "8009", NQN, host_iface="eth0")
        text = f"announced by mDNS on eth0 as 'dc'{f' until {until}' if until else ''}"
        return Wish(tid, DISCOVERY, text, MDNS, announcement=Announcement("eth0", until))

    async def story(source: Source) -> None:
        early = " until 2026-01-01 10:00"
        when = early.removeprefix(" until ")
        source.mdns.remember((wish(1), wish(2), wish(3, when), wish(4, when)))
        # Nothing is news until there was time to hear who is announced.
        shown = source.shown()
        assert list(shown.values()) == ["eth0 as 'dc'", "eth0 as 'dc'", f"eth0 as 'dc'{early}", f"eth0 as 'dc'{early}"]
        assert [one.give_up_after for one in source.mdns.wishes] == [0, 0, 300, 300]
        txt = ("p=tcp", f"nqn={NQN}")
        source.hear(announced(*txt, name="dc", address="192.0.2.1"))
        source.hear(announced(*txt, name="dc three", address="192.0.2.3"))
        await source.settle()
        assert not until_text(source.shown()["192.0.2.2 eth0"])
        await asyncio.sleep(mdns.LOST_TIMEOUT_SECONDS * 2)
        shown = source.shown()
        assert shown["192.0.2.1 eth0"] == "eth0 as 'dc'"
        assert shown["192.0.2.3 eth0"] == "eth0 as 'dc three'"
        assert until_text(shown["192.0.2.2 eth0"])
        assert shown["192.0.2.4 eth0"] == f"eth0 as 'dc'{early}"

    scenario(story)


def test_given_up_controller_is_forgotten_unless_announced(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.hear(announced())
        await source.settle()
        instance = source.mdns.wishes[0].tid.instance
        source.mdns.forget(instance)
        source.mdns.forget("tcp:other")
        assert source.changes == 1
        source.tell(Withdrawn(announced().service))
        await until(lambda: source.changes == 2)
        source.mdns.forget(instance)
        assert source.mdns.wishes == ()
        assert source.changes == 3

    scenario(story)


def test_refusals_say_what_and_why(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        source.hear(announced("p=no", name="bad\n"), announced("p=no", name="bad\n", address="2001:db8::1"))
        await source.settle()
        (refusal,) = source.mdns.refusals
        assert refusal.what == "discovery controller 'bad?'"
        assert refusal.source == "announced by mDNS on eth0"
        source.hear(announced("p=tcp", name="bad\n"), announced("p=tcp", name="bad\n", address="2001:db8::1"))
        await source.settle()
        assert source.mdns.refusals == ()
        assert len(source.mdns.wishes) == 2

    scenario(story)


def test_a_flood_is_one_refusal(scenario: Scenario) -> None:
    def controllers(interface: int, count: int, first: int = 0) -> list[Announced]:
        return [
            announced("p=tcp", f"nqn={NQN}{number}", name=f"dc{number}", interface=interface)
            for number in range(first, first + count)
        ]

    async def story(source: Source) -> None:
        source.hear(*controllers(2, 38), *controllers(3, 3))
        source.tell(Unasked(10))
        await source.settle()
        assert len(source.mdns.wishes) == 32 + 3
        assert [refusal.what for refusal in source.mdns.refusals] == ["16 more discovery controllers"]
        # Those that are kept without being announced have their places too, so nobody gets more by saying goodbye.
        kept = list(source.mdns.wishes)
        for one in controllers(2, 38):
            source.tell(Withdrawn(one.service))
        source.tell(Unasked(0))
        await asyncio.sleep(mdns.LOST_TIMEOUT_SECONDS * 2)
        assert not source.mdns.refusals
        source.hear(*controllers(2, 20, first=100))
        await source.settle()
        assert [wish.tid for wish in source.mdns.wishes] == [wish.tid for wish in kept]
        assert [refusal.what for refusal in source.mdns.refusals] == ["20 more discovery controllers"]
        # Those that are not connected give up soon.
        give_up_after = {"eth0": mdns.CROWDED_GIVE_UP_SECONDS, "eth1": 0}
        assert all(wish.give_up_after == give_up_after[wish.tid.host_iface] for wish in source.mdns.wishes)
        # A place that falls free is given to one of the others.
        source.mdns.forget(kept[0].tid.instance)
        assert [refusal.what for refusal in source.mdns.refusals] == ["19 more discovery controllers"]

    scenario(story)


def test_names_that_come_and_go_fast_are_not_all_kept(scenario: Scenario) -> None:
    async def story(source: Source) -> None:
        for number in range(2000):
            one = announced(name=f"dc{number}")
            source.hear(one)
            source.tell(Withdrawn(one.service))
        assert len(source.mdns._heard) == mdns._HEARD_MAX
        await source.settle()
        assert list(source.shown()) == ["192.0.2.1 eth0"]

    scenario(story)
