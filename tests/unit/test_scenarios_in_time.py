# SPDX-License-Identifier: Apache-2.0
"""What happens one after the other: restarts between any two steps, sources in another order, news that come late."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from dataclasses import replace

import pytest

from discoverd import notify, registry, state, store
from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.plan.candidate import BOOT, CONFIGURATION, MDNS, NBFT, Announcement, Candidate, Wish
from discoverd.plan.facts import UnitFact
from discoverd.plan.folding import fold
from discoverd.plan.log_page import parse
from discoverd.sources import boot, names
from discoverd.sources.discovery_log import Parent, candidates
from discoverd.systemd import unit_signals
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId
from discoverd.worker.ownership import Ownership

from .fake_host import DISCOVERY as CONFIGURED_DC
from .fake_host import NQN, ONE, Host, leave_log, leave_spec, quiet, report, until
from .fake_kernel import Kernel
from .log_pages import entry, page

DC = "tcp:192.0.2.1:8009:nqn.2014-08.org.nvmexpress.discovery"


def path(origin: str, iface: str = "", source: str = "") -> Candidate:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn.a", host_traddr=source, host_iface=iface)
    return Candidate(tid, IO, f"asked for by {origin}", origin, (("nqn", "nqn.a"),), trusted_parent=True)


# A restart of the supervisor ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [BOOT, DC])
def test_a_unit_that_took_in_a_path_keeps_it_after_a_restart(first: str) -> None:
    """It connected before the paths were known; none of the three units may change what it stands for."""
    any_path, east, west = path(first), path(NBFT, "eth0"), path(NBFT, "eth1")
    existing = {any_path.tid.instance}
    folded = fold([any_path, east, west], existing.__contains__)
    assert any_path.tid.instance in folded
    assert len(folded) == 2
    existing |= folded.keys()
    assert fold([west, east, any_path], existing.__contains__) == folded


def test_a_slow_name_server_does_not_bring_a_second_unit_after_a_restart(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log page lists what is configured by name, and until the name is looked up they seem to be two."""
    seconds = [0.0]

    def look_up(_: str) -> tuple[str, ...]:
        time.sleep(seconds[0])
        return ("192.0.2.1",)

    monkeypatch.setattr(names, "_addresses", look_up)
    named = f"[Subsystem]\nnqn = {NQN.format(1)}\ncontroller = transport=tcp;traddr=a.example.com;host-iface=eth0\n"
    host.configure(CONFIGURED_DC + named)

    async def first() -> None:
        await until(lambda: "2 live" in host.status)
        leave_log(entry(NQN.format(1)))
        await quiet()

    async def second() -> None:
        await until(lambda: "2 live" in host.status)
        await quiet()

    assert host.play(first) == 0
    assert len(host.systemd.started) == 2
    host.messages.clear()
    seconds[0] = 0.3
    assert host.play(second, asyncio.run) == 0
    assert len(host.systemd.started) == 2


# Boot controllers -----------------------------------------------------------------------------------------


def test_two_units_do_not_take_firmwares_controller_from_each_other(kernel: Kernel) -> None:
    """nvme-cli has connected it from an address, the table asks for it on an interface: two units, one controller."""
    kernel.add("nvme0")
    registry.claim("nvme0", registry.FIRMWARE_OWNER, "")
    first, second = Ownership("first"), Ownership("second")
    for one in ("first", "second"):
        os.makedirs(state.directory(one))
    first.take("nvme0", BOOT, found=True)
    second.take("nvme0", NBFT, found=True)
    for _ in range(2):
        assert not first.check(BOOT)
        assert not second.check(NBFT)
    assert (first.foreign, second.foreign) == ("", "nvme-ctrl@first.service")


@pytest.mark.parametrize(("origin", "protected"), [(BOOT, True), (CONFIGURATION, False)])
def test_firmwares_controller_stays_firmwares_when_it_is_lost(kernel: Kernel, origin: str, protected: bool) -> None:
    kernel.add("nvme0")
    registry.claim("nvme0", registry.FIRMWARE_OWNER, "")
    one = Ownership("one")
    one.take("nvme0", origin, found=True)
    one.take("nvme0", origin, found=False)
    owner = registry.FIRMWARE_OWNER if protected else registry.OWNER
    assert (one.protected, registry.retrieve("nvme0", "owner")) == (protected, owner)


@pytest.mark.parametrize(("origin", "claimed"), [(BOOT, True), (NBFT, False), ("", True)])
def test_connection_for_firmware_is_not_the_boots_after_a_restart(host: Host, origin: str, claimed: bool) -> None:
    """The host did not have the address of firmware's table, so as the kernel shows it, it would be another unit."""
    folder = host.sysfs / "nvme0"
    folder.mkdir(parents=True)
    connected = {"transport": "tcp", "subsysnqn": "nqn.a", "address": "traddr=192.0.2.1,trsvcid=4420,host_iface=eth0"}
    for name, value in connected.items():
        (folder / name).write_text(value + "\n")
    asked = path(origin or NBFT, "eth0", "192.0.2.9")
    registry.claim("nvme0", registry.FIRMWARE_OWNER, asked.tid.unit)
    if origin:
        leave_spec(replace(asked, options=(("nqn", "nqn.a"), ("transport", "tcp"))))
    assert bool(boot.claims("nqn.2024-08.com.example:host")) is claimed


# Addresses of one link ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parent", "iface", "listed", "traddr"),
    [
        ("fe80::1%eth1", "", "fe80::2", "fe80::2%eth1"),
        ("fe80::1%eth1", "", "fe80::2%eth7", "fe80::2%eth1"),
        ("2001:db8::1", "eth1", "fe80::2", "fe80::2%eth1"),
        ("2001:db8::1", "", "fe80::2", None),
        ("2001:db8::1", "", "2001:db8::2", "2001:db8::2"),
        ("192.0.2.1", "eth1", "192.0.2.2", "192.0.2.2"),
    ],
)
def test_a_link_local_address_in_a_log_page_is_of_the_link_of_its_discovery_controller(
    parent: str, iface: str, listed: str, traddr: str | None
) -> None:
    tid = TransportId.make(DISCOVERY, "tcp", parent, "", DISCOVERY_NQN, host_iface=iface)
    scope = FabricsConfig().discovered(None, "io")
    host = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
    about = Parent(tid, tid.instance, scope, scope, 0, 0.0)
    listing = candidates(parse(page(entry("nqn.2024-08.com.example:vol1", traddr=listed))), about, host)
    assert [one.tid.traddr for one in listing.candidates] == ([traddr] if traddr else [])
    assert len(listing.refusals) == (0 if traddr else 1)


# What was announced, over restarts ------------------------------------------------------------------------

PERSONA = "nqn.2024-08.com.example:other-host"
AS_PERSONA = f"[Host]\nhostnqn = {PERSONA}\nhostid = 1f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n"


def announced(give_up_after: int = 0, until: str = "", asked: float = 0.0) -> Wish:
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "8009", DISCOVERY_NQN, host_iface="eth0")
    source = "announced by mDNS on eth0 as 'array'" + (f" until {until}" if until else "")
    announcement = Announcement("eth0", until)
    return Wish(tid, DISCOVERY, source, MDNS, give_up_after=give_up_after, asked=asked, announcement=announcement)


async def announce(host: Host, *wishes: Wish) -> None:
    await until(lambda: host.status)
    host.inventory.mdns.remember(wishes)


def test_announced_wish_is_the_same_after_a_restart_as_another_host(host: Host) -> None:
    host.configure(AS_PERSONA)

    async def first() -> None:
        await announce(host, announced())
        await until(lambda: "1 live" in host.status)

    async def second() -> None:
        await until(lambda: "1 live" in host.status)
        assert not host.inventory.refusals
        assert len(host.inventory.mdns.wishes) == 1
        (asked,) = host.inventory.wanted.asked.values()
        assert [one.origin for one in asked] == [MDNS]

    assert host.play(first) == 0
    host.messages.clear()
    assert host.play(second) == 0
    assert len(host.systemd.started) == 1


@pytest.mark.parametrize("killed", [False, True])
def test_given_up_controller_leaves_no_trace_when_killed_meanwhile(host: Host, killed: bool) -> None:
    instance = announced().tid.instance

    def give_up() -> None:
        report(instance, "given up", time=str(int(time.clock_gettime(time.CLOCK_BOOTTIME))))
        host.systemd.units[instance] = UnitFact("loaded", "inactive")

    async def first() -> None:
        await announce(host, announced(3600))
        await until(lambda: "1 live" in host.status)
        await announce(host, announced(3600, "2026-01-01 00:00"))
        await until(lambda: not host.inventory._stale)
        if not killed:
            give_up()
            host.systemd.signal(unit_signals.JobRemoved(instance, "done"))
            await gone()

    async def gone() -> None:
        await until(lambda: host.status.startswith("0 controllers"))
        await until(lambda: not state.exists(state.directory(instance)))
        assert not host.inventory.mdns.wishes

    assert host.play(first) == 0
    if killed:
        give_up()
        host.systemd.units.clear()
        assert host.play(gone) == 0
    assert host.systemd.started == [instance]


# Holding --------------------------------------------------------------------------------------------------


def test_unit_kept_stopped_by_a_killed_supervisor_is_not_blocked(host: Host) -> None:
    """The file that keeps a unit from starting would have every later `systemctl start` do nothing, without a word."""
    host.leave_stopped()
    path = store.keep_stopped(ONE)
    # It is loaded still when the next supervisor lists it.
    host.systemd.units[ONE] = UnitFact("loaded", "inactive")

    async def scenario() -> None:
        await until(lambda: "1 stopped" in host.status)
        assert not state.exists(path)

    assert host.play(scenario) == 0


# An excluded discovery controller --------------------------------------------------------------------------


def test_entry_of_an_excluded_referral_is_not_connected(host: Host) -> None:
    """Excluded while no page referred to it, and referred to again: its page of before is there, and does not count."""
    host.configure(CONFIGURED_DC)
    further = "192.0.2.2"
    there = f"tcp:{further}:8009:{DISCOVERY_NQN}"
    referral = entry(DISCOVERY_NQN, further, "8009", subtype=1)
    child = f"tcp:{further}:4420:{NQN.format(1)}"

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(referral)
        await until(lambda: "2 live" in host.status)
        leave_log(entry(NQN.format(1), further), instance=there)
        await until(lambda: "3 live" in host.status)
        leave_log(generation=2)
        await until(lambda: there not in host.inventory.wanted.asked)
        host.exclude(f"traddr={further};trsvcid=8009")
        await until(lambda: host.inventory.exclusions.exclusions.entries)
        host.systemd.units[child] = UnitFact("loaded", "failed")
        host.systemd.signal(unit_signals.JobRemoved(child, "done"))
        await quiet()
        host.systemd.started.clear()
        leave_log(referral, generation=3)
        await until(lambda: there in host.inventory.excluded)
        await quiet()
        assert child not in host.inventory.wanted.asked
        assert not host.systemd.started

    assert host.play(scenario) == 0


# Many at once ---------------------------------------------------------------------------------------------


def test_the_last_word_of_a_worker_is_heard_when_many_end_at_once(kernel: Kernel) -> None:
    """Unheard, a waiting one that was excluded would count as running, and not be started when it is so no more."""
    os.makedirs(state.directory(ONE))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as supervisor:
        supervisor.bind(state.WAKE_SOCKET)
        while notify.wake(state.WAKE_SOCKET, "another"):
            pass
        last = notify.Report(ONE).end, (notify.View("connecting"), "excluded", "excluded", "")
        ending = threading.Thread(target=last[0], args=last[1])
        ending.start()
        heard: set[bytes] = set()
        end = time.monotonic() + 5
        while ONE.encode() not in heard and time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                heard.add(supervisor.recv(4096))
        ending.join()
        assert ONE.encode() in heard
        assert store.read_report(ONE) is not None
