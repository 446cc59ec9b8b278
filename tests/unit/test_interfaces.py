# SPDX-License-Identifier: Apache-2.0
"""Which interface has a MAC address and a VLAN, and what the kernel says of its interfaces."""

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from discoverd.kernel import interfaces
from discoverd.kernel.interfaces import Link, find

MAC, OTHER = bytes(5) + b"\1", bytes(5) + b"\2"


def link(index: int, name: str, mac: bytes = MAC, **more: Any) -> Link:
    return Link(index, name, mac, **{"permanent": b"", "vlan": 0, "parent": 0, "master": 0, "kind": "", **more})


ETH = link(2, "eth0")
VLAN = link(3, "eth0.12", vlan=12, parent=2, kind="vlan")


@pytest.mark.parametrize(
    ("links", "vlan", "name"),
    [
        ((), 0, ""),
        ((ETH, VLAN), 0, "eth0"),
        ((VLAN, ETH), 12, "eth0.12"),
        ((ETH, VLAN), 13, ""),
        ((VLAN,), 0, ""),
        ((link(2, "eth0", OTHER),), 0, ""),
        # The address that an administrator gave it, or the one of the hardware.
        ((link(2, "eth0", OTHER, permanent=MAC),), 0, "eth0"),
        # A bond has the address of its first interface; the others have the bond's.
        ((link(2, "eth0", master=4), link(4, "bond0", kind="bond")), 0, "bond0"),
        ((link(2, "eth1", OTHER, permanent=MAC, master=4), link(4, "bond0", OTHER, kind="bond")), 0, "bond0"),
        (
            (
                link(2, "eth1", OTHER, permanent=MAC, master=4),
                link(4, "bond0", OTHER, kind="bond"),
                link(5, "bond0.12", OTHER, vlan=12, parent=4, kind="vlan"),
            ),
            12,
            "bond0.12",
        ),
        # A bridge on a VLAN on a bond.
        (
            (
                link(2, "eth0", master=4),
                link(4, "bond0", kind="bond"),
                link(5, "bond0.12", vlan=12, parent=4, master=6, kind="vlan"),
                link(6, "br0", kind="bridge"),
            ),
            12,
            "br0",
        ),
        ((link(2, "eth0", master=4), link(4, "red", OTHER, kind="vrf")), 0, "eth0"),
        # Those that are on an interface, with its address, came after it.
        ((link(7, "ipvl0", parent=2, kind="ipvlan"), ETH), 0, "eth0"),
        # A circle that the kernel does not allow.
        ((link(2, "a", master=3, kind="bond"), link(3, "b", master=2, kind="bond")), 0, "a"),
    ],
)
def test_find(links: tuple[Link, ...], vlan: int, name: str) -> None:
    assert find(links, MAC, vlan) == name


def test_the_kernels_own() -> None:
    found = {one.name: one for one in interfaces.links()}
    assert found["lo"].index == 1
    for path in Path("/sys/class/net").iterdir():
        if (path / "address").exists():
            assert found[path.name].mac.hex(":") == (path / "address").read_text().strip()


def attribute(kind: int, value: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(value), kind) + value).ljust((len(value) + 7) & ~3, b"\0")


def test_a_vlan_in_a_message() -> None:
    info = attribute(1, b"vlan\0") + attribute(2 | 0x8000, attribute(1, struct.pack("=H", 12)))
    message = struct.pack("=BBHiII", 0, 0, 1, 3, 0, 0)
    message += attribute(1, MAC) + attribute(3, b"eth0.12\0") + attribute(5, struct.pack("=I", 2))
    message += attribute(18, info) + attribute(54, OTHER) + attribute(10, struct.pack("=I", 9))
    assert interfaces._link(message) == Link(3, "eth0.12", MAC, OTHER, 12, 2, 9, "vlan")


@pytest.mark.parametrize("cut", range(0, 80, 3))
def test_a_message_that_ends_early_is_read_so_far(cut: int) -> None:
    message = struct.pack("=BBHiII", 0, 0, 1, 3, 0, 0) + attribute(3, b"eth0\0") + attribute(18, b"\1\0\1\0\xff")
    interfaces._link(message[:cut])
    list(interfaces._messages(message[:cut]))


def test_all_are_told_at_once_and_when_one_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "DEBOUNCE_SECONDS", 0)
    answers = [(ETH,), (ETH,), (ETH, VLAN)]
    monkeypatch.setattr(interfaces, "links", lambda: answers.pop(0) if answers[1:] else answers[0])
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    monkeypatch.setattr(interfaces, "_subscribe", lambda _: here)
    told: list[tuple[Link, ...]] = []

    async def scenario() -> None:
        task = asyncio.create_task(interfaces.follow(told.append))
        while len(told) < 2:
            await asyncio.sleep(0.005)
            there.send(b"news")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), 10))
    there.close()
    assert told == [(ETH,), (ETH, VLAN)]


def test_a_failure_is_said_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(interfaces, "RETRY_SECONDS", 0)
    tries: list[int] = []

    def fail() -> tuple[Link, ...]:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(105, "No buffer space available")
        return (ETH,)

    monkeypatch.setattr(interfaces, "links", fail)

    async def scenario() -> None:
        told = asyncio.Event()
        task = asyncio.create_task(interfaces.follow(lambda _: told.set()))
        await told.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert caplog.text.count("cannot hear of network interfaces") == 1
