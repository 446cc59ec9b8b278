# SPDX-License-Identifier: Apache-2.0
"""The calls that wait for their turn: one of each user after the other, and of his one of each connection, so that one
who asks for all in a loop keeps no other user waiting.
"""

import asyncio
from collections import Counter, OrderedDict, deque

from discoverd.api.wire import SENDER, Frame

# Of one connection so many wait, and of all together so many bytes. Beyond that, whose connections have more than his
# share is refused; shares shrink as callers come, so in the end it may be four times as much.
CALLS_MAX = 1024
BYTES_MAX = 1 << 23
# What a waiting call costs beside its body.
_FRAME_BYTES = 1024

# A user, or a connection whose user is not known yet.
Owner = int | bytes


class Callers:
    """A queue for each caller, and whose turn it is."""

    def __init__(self) -> None:
        self._turns: OrderedDict[int, OrderedDict[bytes, deque[Frame]]] = OrderedDict()
        self._unknown: dict[bytes, deque[Frame]] = {}
        self._sizes: Counter[Owner] = Counter()
        self._bytes = 0
        self._news = asyncio.Event()

    def put(self, call: Frame, user: int | None) -> bool:
        """Take a call; returns False if its caller has too many waiting already.

        Without a user it waits until :meth:`leave`, and has no turn.
        """
        sender: bytes = call.fields[SENDER]
        owner: Owner = sender if user is None else user
        size = len(call.body) + _FRAME_BYTES
        mine = self._sizes[owner] + size
        parties = len(self._sizes) + (owner not in self._sizes)
        crowded = self._bytes + size > BYTES_MAX and mine > BYTES_MAX // parties
        queues = self._unknown if user is None else self._turns.get(user, {})
        if crowded or len(queues.get(sender, ())) >= CALLS_MAX:
            return False
        if user is not None:
            queues = self._turns.setdefault(user, OrderedDict())
            self._news.set()
        queues.setdefault(sender, deque()).append(call)
        self._sizes[owner] = mine
        self._bytes += size
        return True

    def leave(self, sender: bytes) -> list[Frame]:
        """Return what waits of a connection whose user was not known; it waits here no longer."""
        calls = list(self._unknown.pop(sender, ()))
        for call in calls:
            self._forget(sender, call)
        return calls

    def take(self) -> tuple[int, Frame] | None:
        """Return the next call and its user: of the user who has waited longest for a turn, and of his connections the
        one that has; None if none waits."""
        if not self._turns:
            self._news.clear()
            return None
        user, queues = self._turns.popitem(last=False)
        sender, queue = queues.popitem(last=False)
        call = queue.popleft()
        self._forget(user, call)
        if queue:
            queues[sender] = queue
        if queues:
            self._turns[user] = queues
        return user, call

    def _forget(self, owner: Owner, call: Frame) -> None:
        size = len(call.body) + _FRAME_BYTES
        self._bytes -= size
        self._sizes[owner] -= size
        if not self._sizes[owner]:
            del self._sizes[owner]

    async def wait(self) -> None:
        """Wait until there is a call."""
        await self._news.wait()
