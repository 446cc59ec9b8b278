# SPDX-License-Identifier: Apache-2.0
"""News of links, addresses and routes that come up (rtnetlink(7)), for a worker that waits to connect again."""

import _socket
from _struct import unpack_from

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # link, IPv4 address and route, IPv6 address and route
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 20, 24
_IFF_LOWER_UP = 0x10000


class Links:
    """A socket that is open only while the worker waits, so that a live controller costs nothing per event."""

    def __init__(self) -> None:
        flags = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        self._socket = _socket.socket(16, flags, 0)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def came_up(self) -> bool:
        """Read what has arrived and tell whether anything in it may have made a target reachable."""
        news = False
        while True:
            try:
                data = self._socket.recv(16384)
            except BlockingIOError:
                return news
            except OSError:
                return True  # ENOBUFS: there was more than fits, so better try.
            kind = unpack_from("=H", data, 4)[0] if len(data) >= 16 else 0
            if kind == _RTM_NEWLINK and len(data) >= 32:
                news = news or bool(unpack_from("=I", data, 24)[0] & _IFF_LOWER_UP)
            elif kind in (_RTM_NEWADDR, _RTM_NEWROUTE):
                news = True
