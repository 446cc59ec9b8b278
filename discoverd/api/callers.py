# SPDX-License-Identifier: Apache-2.0
"""The calls that wait for their turn: one of each caller after the other, so that one who asks for all in a loop keeps
nobody waiting but himself.
"""

import asyncio
from collections import OrderedDict, deque

from discoverd.api.wire import SENDER, Frame

# Of one caller so many wait, and of all together so many bytes. Beyond that, who has more than his share is refused;
# shares shrink as callers come, so in the end it may be four times as much.
CALLS_MAX = 1024
BYTES_MAX = 1 << 23
# What a waiting call costs beside its body.
_FRAME_BYTES = 1024


class Callers:
    """A queue for each caller, and whose turn it is."""

    def __init__(self) -> None:
        self._queues: OrderedDict[bytes, deque[Frame]] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._bytes = 0
        self._news = asyncio.Event()

    def put(self, call: Frame) -> bool:
        """Take a call; returns False if its caller has too many waiting already."""
        sender: bytes = call.fields[SENDER]
        size = len(call.body) + _FRAME_BYTES
        queue = self._queues.setdefault(sender, deque())
        mine = self._sizes.get(sender, 0) + size
        crowded = self._bytes + size > BYTES_MAX and mine > BYTES_MAX // len(self._queues)
        if len(queue) >= CALLS_MAX or crowded:
            if not queue:
                del self._queues[sender]
            return False
        queue.append(call)
        self._sizes[sender] = mine
        self._bytes += size
        self._news.set()
        return True

    def take(self) -> Frame | None:
        """Return the next call, of the caller who has waited longest for a turn; None if none waits."""
        if not self._queues:
            self._news.clear()
            return None
        sender, queue = self._queues.popitem(last=False)
        call = queue.popleft()
        size = len(call.body) + _FRAME_BYTES
        self._bytes -= size
        if queue:
            self._queues[sender] = queue
            self._sizes[sender] -= size
        else:
            del self._sizes[sender]
        return call

    async def wait(self) -> None:
        """Wait until there is a call."""
        await self._news.wait()
