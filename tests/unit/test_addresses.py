# SPDX-License-Identifier: Apache-2.0
"""Which addresses are this host's own, and which no controller can have."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import discoverd
from discoverd.kernel import addresses, interfaces
from discoverd.kernel.addresses import HostAddresses

HERE = HostAddresses(
    frozenset((socket.inet_aton("192.0.2.2"), socket.inet_pton(socket.AF_INET6, "2001:db8::2"))),
    frozenset((socket.inet_aton("192.0.2.255"),)),
)


@pytest.mark.parametrize(
    "address", ["192.0.2.2", "::ffff:192.0.2.2", "2001:db8::2", "2001:DB8:0::2", "2001:db8::2%eth0", "127.8.9.1", "::1"]
)
def test_own_address_in_every_spelling(address: str) -> None:
    assert HERE.has(address)
    assert HERE.fault(address) == f"{address.partition('%')[0]} is an address of this host"


@pytest.mark.parametrize(
    "address",
    ["192.0.2.255", "255.255.255.255", "0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "ff02::1%eth0"],  # noqa: S104
)
def test_address_of_nobody_in_particular(address: str) -> None:
    assert not HERE.has(address)
    assert HERE.fault(address) == f"{address.partition('%')[0]} is no address to connect to"


@pytest.mark.parametrize("address", ["192.0.2.3", "198.51.100.255", "2001:db8::3", "fe80::1%eth0"])
def test_address_of_another_host(address: str) -> None:
    assert not HERE.has(address)
    assert HERE.fault(address) == ""


@pytest.mark.parametrize("address", ["nn-0x1:pn-0x2", "", "array.example"])
def test_what_is_no_ip_address_is_not_this_hosts(address: str) -> None:
    assert not HERE.has(address)


INSIDE = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from discoverd.kernel import addresses, interfaces
def ip(change):
    subprocess.run(["ip", *change.split()], check=True)
ip("link set lo up")
ip("link add d0 type veth peer e0")
ip("address add 192.0.2.2/24 broadcast + dev d0")
ip("address add 198.51.100.1 peer 198.51.100.9 dev d0")
ip("address add 203.0.113.7/32 dev lo")
ip("address add 2001:db8::2/64 dev d0 nodad")
ip("address add 192.0.2.130/26 dev e0")
found = addresses.read()
print(*(int(found.has(one)) for one in ("192.0.2.2", "198.51.100.1", "203.0.113.7", "2001:db8::2", "127.0.0.1")))
print(*(int(found.has(one)) for one in ("192.0.2.1", "198.51.100.9", "203.0.113.8", "192.0.2.255")))
print(found.fault("192.0.2.255"))
print(found.fault("192.0.2.191"))
"""


def test_the_kernels_own() -> None:
    package = str(Path(discoverd.__file__).parent.parent)
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", INSIDE, package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode and ("unshare:" in done.stderr or "Unknown device type" in done.stderr):
        pytest.skip(f"no network namespace with interfaces here: {done.stderr.strip()[-100:]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "1 1 1 1 1",
        "0 0 0 0",
        "192.0.2.255 is no address to connect to",
        "192.0.2.191 is no address to connect to",
    ]


def test_this_host_has_an_address() -> None:
    assert addresses.read().own


def test_changes_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "DEBOUNCE_SECONDS", 0)
    answers = [HostAddresses(), HERE]
    monkeypatch.setattr(addresses, "read", lambda: answers.pop(0) if answers[1:] else answers[0])
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    asked: list[int] = []

    def subscribe(groups: int) -> socket.socket:
        asked.append(groups)
        return here

    monkeypatch.setattr(interfaces, "_subscribe", subscribe)
    told: list[HostAddresses] = []

    async def scenario() -> None:
        task = asyncio.create_task(addresses.follow(told.append))
        while len(told) < 2:
            await asyncio.sleep(0.005)
            there.send(b"news")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), 10))
    there.close()
    assert (told, asked) == ([HostAddresses(), HERE], [0x110])
