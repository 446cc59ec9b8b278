# SPDX-License-Identifier: Apache-2.0
"""The addresses of this host, and those that no single host has (rtnetlink(7)). For the supervisor."""

import functools
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from discoverd.kernel import interfaces
from discoverd.kernel.controllers import packed_address

# RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR
_GROUPS = 0x10 | 0x100
_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_BROADCAST = 4
# A network with so long a prefix has two addresses or one, and all of them are hosts' (RFC 3021).
_POINT_TO_POINT = 31

_QUESTION = Struct("=IHHIIBBBBI")

# What an address can be by itself: this host whatever its interfaces have, nobody's, or somebody's.
_LOOPBACK, _NOBODY, _OTHER = range(3)
# "This network" (RFC 1122 §3.2.1.3): Linux takes some of it for the host.
_RESERVED = ipaddress.ip_network("0.0.0.0/8")


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """Addresses in network byte order: this host's ``own``, on all interfaces and in this network namespace, and the
    ``broadcast`` addresses of its networks.
    """

    own: frozenset[bytes] = frozenset()
    broadcast: frozenset[bytes] = frozenset()

    def has(self, address: str) -> bool:
        """Tell whether an address, an IP address with or without a zone, is this host's own."""
        return packed_address(address) in self.own or _kind(address.partition("%")[0]) == _LOOPBACK

    def fault(self, address: str) -> str:
        """Return why no controller on the network can be at an IP address, '' if one can be."""
        text = address.partition("%")[0]
        if _kind(text) == _NOBODY or packed_address(text) in self.broadcast:
            return f"{text} is no address to connect to"
        return f"{text} is an address of this host" if self.has(text) else ""


NO_ADDRESSES = HostAddresses()


def read() -> HostAddresses:
    """Return what there is now. Blocks for a moment; raises OSError."""
    question = _QUESTION.pack(_QUESTION.size, _RTM_GETADDR, interfaces.REQUEST_DUMP, 1, 0, 0, 0, 0, 0, 0)
    own, broadcast = set(), set()
    for message in interfaces.dump(question, _RTM_NEWADDR):
        found = interfaces.attributes(message[8:])
        # On a point-to-point link IFA_ADDRESS is the other end's.
        if address := found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS):
            own.add(address)
        if address := found.get(_IFA_BROADCAST):
            broadcast.add(address)
        if address := _of_network(message, found):
            broadcast.add(address)
    return HostAddresses(frozenset(own), frozenset(broadcast - own))


def _of_network(message: bytes, found: dict[int, bytes]) -> bytes:
    """Return the last address of an IPv4 network: a broadcast address to the kernel, whether it is set or not."""
    family, length = message[0], message[1]
    if family != socket.AF_INET or length >= _POINT_TO_POINT or _IFA_ADDRESS not in found:
        return b""
    return ipaddress.ip_network((found[_IFA_ADDRESS], length), strict=False).broadcast_address.packed


async def follow(report: Callable[[HostAddresses], None]) -> None:
    """Call ``report`` with what there is, at once and whenever it has changed. Runs for ever."""
    await interfaces.follow_all(read, _GROUPS, report)


@functools.lru_cache(maxsize=1024)
def _kind(text: str) -> int:
    try:
        one = ipaddress.ip_address(text)
    except ValueError:
        return _OTHER
    if isinstance(one, ipaddress.IPv6Address) and one.ipv4_mapped:
        one = one.ipv4_mapped
    if one.is_loopback:
        return _LOOPBACK
    nobody = one.is_unspecified or one.is_multicast or one in _RESERVED or str(one) == "255.255.255.255"
    return _NOBODY if nobody else _OTHER
