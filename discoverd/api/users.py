# SPDX-License-Identifier: Apache-2.0
"""Whose connections are whose. What one user can have is bounded for all of his connections together."""

from collections import OrderedDict

from discoverd.api.connection import BUS, BUS_PATH, Connection, LostError, RefusedError
from discoverd.api.interfaces import ACCESS_DENIED, FAILED
from discoverd.api.refusal import RefusalError
from discoverd.api.wire import WireError

_KNOWN_MAX = 1024


class Users:
    """What the bus has said about its connections. A name on it is never given to another connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: OrderedDict[str, int] = OrderedDict()

    def known(self, sender: str) -> int | None:
        """Return the user of a connection if the bus has said it already."""
        return self._known.get(sender)

    async def ask(self, sender: str) -> int:
        """Ask the bus for the user of a connection. Raises RefusalError."""
        try:
            (user,) = await self._connection.call(BUS, BUS_PATH, BUS, "GetConnectionUnixUser", "s", sender, answer="u")
        except RefusedError:
            raise RefusalError(ACCESS_DENIED, "whoever asked has left the bus") from None
        except (TimeoutError, LostError, WireError) as error:
            raise RefusalError(FAILED, f"the bus does not say who asks: {error}; try again") from None
        self._known[sender] = user
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)
        return int(user)
