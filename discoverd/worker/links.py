# SPDX-License-Identifier: Apache-2.0
"""News of links, addresses and routes that come up (rtnetlink(7)), for a worker that waits to connect again."""

import _socket
from _struct import unpack_from

from discoverd.kernel import routes

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # link, IPv4 address and route, IPv6 address and route
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 20, 24
_IFF_LOWER_UP = 0x10000
# In place of an interface: that of a route which does not name any.
_ANY = 0


class Links:
    """A socket that is open only while the worker waits, so that a live controller costs nothing per event.

    ``options`` are those of the connect. They decide which interface matters: the one that they name, else each that
    the route to the target leads through when there is news; a multipath route has several. A target on this host may
    depend on any.
    """

    def __init__(self, options: dict[str, str]) -> None:
        self._target = options.get("traddr", "")
        self._source = options.get("host_traddr", "")
        # The zone of a link-local address is an interface.
        self._interface = options.get("host_iface", "") or self._target.partition("%")[2]
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
        """Read what has arrived and tell whether anything in it may have made the target reachable."""
        touched: set[int] = set()
        while True:
            try:
                data = self._socket.recv(16384)
            except BlockingIOError:
                return bool(touched) and self._concerned(touched)
            except OSError:
                return True  # ENOBUFS: there was more than fits, so better try.
            kind = unpack_from("=H", data, 4)[0] if len(data) >= 28 else 0
            if kind == _RTM_NEWLINK and len(data) >= 32:
                if unpack_from("=I", data, 24)[0] & _IFF_LOWER_UP:
                    touched.add(unpack_from("=I", data, 20)[0])
            elif kind == _RTM_NEWADDR and len(data) >= 24:
                touched.add(unpack_from("=I", data, 20)[0])
            elif kind == _RTM_NEWROUTE:
                touched |= routes.outputs(data) or {_ANY}

    def _concerned(self, touched: set[int]) -> bool:
        """Tell whether these interfaces matter."""
        try:
            if self._interface:
                ways = {_socket.if_nametoindex(self._interface)}
            else:
                ways = routes.interfaces(self._target, self._source)
        except OSError:
            return not self._interface  # The interface is not there; or the kernel did not answer, and we better try.
        return routes.LOOPBACK in ways or bool(ways and touched & {*ways, _ANY})
