# SPDX-License-Identifier: Apache-2.0
"""A turn of the loop: long work is done a piece in each, and others have theirs in between."""

import asyncio
import time

# Half of what a turn may take at most; no piece of work takes as long as the other half.
TURN_SECONDS = 0.02


class LoopTurn:
    """How long the one who made it has worked since others had a turn.

    That is to be ``seconds`` at most, TURN_SECONDS by default.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = TURN_SECONDS if seconds is None else seconds
        self._began = time.monotonic()

    async def end_if_long(self) -> None:
        """Let others have their turns, if this one has been long; what they do is news for the next look."""
        if time.monotonic() >= self._began + self._seconds:
            await asyncio.sleep(0)
            self._began = time.monotonic()
