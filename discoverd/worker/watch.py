# SPDX-License-Identifier: Apache-2.0
"""Looks at live controllers, which the fork server makes for all workers, so that they can sleep.

The kernel sends no event when it loses a connection, and other tools write into the registry without a word. So
somebody has to look now and then: one process at all of them, instead of each worker at its own. A worker connects to
the fork server's socket and writes the name of its controller, such as ``nvme3``, and a line feed. Each byte that comes
back says: look yourself. The first one comes at once, for what happened before. When the connection ends, nobody looks.
"""

import _socket

from discoverd import registry, state
from discoverd.kernel import controllers

# Between two looks.
INTERVAL_SECONDS = 10
# Longer than the name of any controller.
LINE_LENGTH = 32
_LOOK = b"\n"


class Watch:
    """The worker's end. Raises OSError where nobody looks. ``heard``: somebody has begun to."""

    __slots__ = ("_socket", "heard")

    def __init__(self, device: str) -> None:
        self.heard = False
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(state.FORK_SERVER)
            self._socket.send(f"{device}\n".encode())
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to poll for input."""
        return self._socket.fileno()

    def goes_on(self) -> bool:
        """Take what has come. It is time for a look in any case; return False if there will be no further word."""
        try:
            if not self._socket.recv(256):
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.heard = True
        return True

    def close(self) -> None:
        """End it."""
        self._socket.close()


class Looks:
    """The fork server's end: who is to be told, and what there was to be seen last of each controller."""

    def __init__(self) -> None:
        self._connections: dict[int, tuple[_socket.socket, str]] = {}
        self._seen: dict[int, tuple[object, ...]] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def descriptors(self) -> list[int]:
        """Return those of all connections."""
        return list(self._connections)

    def add(self, connection: "_socket.socket", line: bytes) -> bool:
        """Look at the controller that a line names from now on; return False if it names none."""
        device = line.decode("ascii", "replace").removesuffix("\n")
        if not registry.valid_device(device):
            return False
        self._connections[connection.fileno()] = connection, device
        self._seen[connection.fileno()] = _seen(device)
        self._tell(connection)
        return True

    def remove(self, descriptor: int) -> None:
        """End it for one, who has gone."""
        connection, _ = self._connections.pop(descriptor)
        del self._seen[descriptor]
        connection.close()

    def look(self) -> None:
        """Look at all controllers, and tell those about whom something has changed."""
        for descriptor, (connection, device) in self._connections.items():
            seen = _seen(device)
            if seen != self._seen[descriptor]:
                self._seen[descriptor] = seen
                self._tell(connection)

    @staticmethod
    def _tell(connection: "_socket.socket") -> None:
        try:
            connection.send(_LOOK, _socket.MSG_DONTWAIT)
        except OSError:
            pass  # It has gone, or has been told so often that it will look anyway.


def _seen(device: str) -> tuple[object, ...]:
    """Return what a worker would look at."""
    entry = []
    for attribute in ("owner", "unit", "adopted"):
        try:
            entry.append(registry.retrieve(device, attribute))
        except OSError as error:
            entry.append(str(error.errno))
    return controllers.sysfs_inode(device), controllers.attribute(device, "state"), *entry
