# SPDX-License-Identifier: Apache-2.0
"""The addresses of this host, and which interfaces lead to a target: questions to the kernel (rtnetlink(7)).

For workers, so it is thin.
"""

import _socket
from _struct import pack, unpack_from

# Every network namespace gives it to its loopback interface, first of all.
LOOPBACK = 1

_NETLINK_ROUTE = 0
_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_RTA_DST = 1
_RTA_SRC = 2
_RTA_OIF = 4
_RTA_MULTIPATH = 9
# Without the flags for nesting and byte order.
_ATTRIBUTE_KIND = 0x3FFF
# Answer with the whole route, not with the next hop that the kernel's hash of the addresses picks (Linux 4.13).
_RTM_F_FIB_MATCH = 0x2000
_RTN_UNICAST = 1
_RTN_LOCAL = 2


def interfaces(target: str, source: str = "") -> set[int]:
    """Return the indexes of the interfaces through which the kernel would send to ``target`` from ``source``.

    A multipath route has one for each next hop, also where that is down. Numeric addresses; '' for any source. LOOPBACK
    alone for an address of this host, nothing where no route leads to the target, or the host does not have the source.
    Raises OSError where the kernel cannot be asked.
    """
    try:
        question = _question(target, source, _RTM_F_FIB_MATCH)
    except OSError:
        return set()  # Of no family, or of two.
    netlink = _socket.socket(16, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    try:
        netlink.settimeout(5)
        netlink.send(question)
        found = _answer(netlink.recv(16384))
        if found == {0}:
            netlink.send(_question(target, source, 0))
            found = _answer(netlink.recv(16384)) - {0}
        return found
    finally:
        netlink.close()


def outputs(message: bytes) -> set[int]:
    """Return the indexes of the interfaces that an RTM_NEWROUTE message names, one for each next hop.

    There are none for a route that leads nowhere, such as a blackhole, and for one whose next hops are an object that
    has only its number there (sysctl net.ipv4.nexthop_compat_mode=0).
    """
    found = set()
    for kind, data in _attributes(message, 28):
        if kind == _RTA_OIF and len(data) >= 4:
            found.add(unpack_from("=I", data)[0])
        elif kind == _RTA_MULTIPATH:
            found |= _next_hops(data)
    return found


def _next_hops(data: bytes) -> set[int]:
    """Return the interfaces of the rtnexthop structures: length, flags, hops, index, attributes."""
    found = set()
    offset = 0
    while offset + 8 <= len(data):
        length, index = unpack_from("=HxxI", data, offset)
        if length < 8:
            break
        found.add(index)
        offset += (length + 3) & ~3
    return found


def _question(target: str, source: str, flags: int) -> bytes:
    family = _socket.AF_INET6 if ":" in target else _socket.AF_INET
    attributes = b""
    for kind, address in ((_RTA_DST, target), (_RTA_SRC, source)):
        if address:
            packed = _socket.inet_pton(family, address.partition("%")[0])
            attributes += pack("=HH", 4 + len(packed), kind) + packed
    bits = 128 if family == _socket.AF_INET6 else 32
    header = pack("=IHHIIBBBBBBBBI", 28 + len(attributes), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0,
                  family, bits, bits if source else 0, 0, 0, 0, 0, 0, flags)  # fmt: skip
    return header + attributes


def _answer(message: bytes) -> set[int]:
    """Return the interfaces, {0} for a route that does not name them."""
    if len(message) < 28 or unpack_from("=H", message, 4)[0] != _RTM_NEWROUTE:
        return set()  # An error: unreachable, prohibited, or a source that is not ours.
    kind = message[16 + 7]
    if kind == _RTN_LOCAL:
        return {LOOPBACK}
    return outputs(message) or {0} if kind == _RTN_UNICAST else set()


def _attributes(message: bytes, offset: int) -> list[tuple[int, bytes]]:
    """Return the attributes from an offset on, without one that is cut short."""
    found = []
    while offset + 4 <= len(message):
        length, kind = unpack_from("=HH", message, offset)
        if length < 4 or offset + length > len(message):
            break
        found.append((kind & _ATTRIBUTE_KIND, message[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found


def local_addresses() -> list[tuple[str, bytes]]:
    """Return (interface, address in network byte order) for each address of this host. Raises OSError."""
    netlink = _socket.socket(16, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    try:
        netlink.settimeout(5)
        netlink.send(pack("=IHHIIBBBBI", 24, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0, 0, 0, 0, 0, 0))
        found: list[tuple[str, bytes]] = []
        while True:
            data = netlink.recv(65536)
            offset = 0
            while offset + 16 <= len(data):
                length, kind = unpack_from("=IH", data, offset)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < 16:
                    return found
                if kind == _RTM_NEWADDR:
                    found += _address(data[offset + 16 : offset + length])
                offset += (length + 3) & ~3
    finally:
        netlink.close()


def _address(message: bytes) -> list[tuple[str, bytes]]:
    index = unpack_from("=I", message, 4)[0]
    attributes = dict(_attributes(message, 8))
    # On a point-to-point link IFA_ADDRESS is the other end's.
    address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    try:
        return [(_socket.if_indextoname(index), address)] if address else []
    except OSError:
        return []  # The interface went between the dump and the look-up.
