# SPDX-License-Identifier: Apache-2.0
"""The addresses of this host's interfaces, from one rtnetlink dump (rtnetlink(7)).

For workers, so it is thin.
"""

import _socket
from _struct import pack, unpack_from

_NETLINK_ROUTE = 0
_RTM_NEWADDR = 20
_RTM_GETADDR = 22
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_IFA_ADDRESS = 1
_IFA_LOCAL = 2


def local() -> list[tuple[str, bytes]]:
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
    attributes = {}
    offset = 8
    while offset + 4 <= len(message):
        length, kind = unpack_from("=HH", message, offset)
        if length < 4:
            break
        attributes[kind] = message[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    # On a point-to-point link IFA_ADDRESS is the other end's.
    address = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    try:
        return [(_socket.if_indextoname(index), address)] if address else []
    except OSError:
        return []  # The interface went between the dump and the look-up.
