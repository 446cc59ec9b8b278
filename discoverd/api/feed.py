# SPDX-License-Identifier: Apache-2.0
"""What the reader tells (reader.py), as it comes, and log pages that are asked for."""

import asyncio
import logging
from collections.abc import Callable

from discoverd import state
from discoverd.api.reader import FILES, GONE, PAGE, PAGE_BYTES_MAX, PLAN, PLAN_BYTES_MAX, WHOLE

log = logging.getLogger("discoverd.api")

SOCKET = "/run/discoverd-api-reader"
RETRY_SECONDS = 1.0
PAGE_TIMEOUT_SECONDS = 10

_LINE_MAX = 1024
_SIZES = {**dict.fromkeys(FILES, 1 << 20), PLAN: PLAN_BYTES_MAX, PAGE: PAGE_BYTES_MAX, GONE: 0, WHOLE: 0}


class FeedError(Exception):
    """A log page that cannot be had; the text says why."""


class Feed:
    """The facts, each handed to ``take`` with kind, instance and content; connected anew as often as it takes.

    Before the first fact of each connection ``take`` gets ``begin``, because what was told before may be no more.
    """

    BEGIN = "begin"

    def __init__(self, take: Callable[[str, str, bytes], None]) -> None:
        self._take = take
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[str, asyncio.Future[bytes]] = {}

    async def run(self) -> None:
        """Take what comes, for ever."""
        said = False
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(SOCKET, limit=1 << 16)
            except OSError as error:
                if not said:
                    log.error("cannot reach the reader of %s: %s; trying again", state.ROOT, error)
                said = True
            else:
                said = False
                self._writer = writer
                try:
                    await self._read(reader)
                except (OSError, EOFError, ValueError) as error:
                    log.warning("the reader of %s has gone: %r; connecting again", state.ROOT, error)
                finally:
                    self._writer = None
                    writer.close()
                    for future in self._asked.values():
                        if not future.done():
                            future.set_exception(FeedError("its reader has gone; try again"))
            await asyncio.sleep(RETRY_SECONDS)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Read until the end. Raises OSError, EOFError (IncompleteReadError is one), and ValueError for nonsense."""
        self._take(self.BEGIN, "", b"")
        while True:
            kind, size, instance = (await reader.readuntil(b"\n"))[:-1].decode().split(" ", 2)
            length = state.number(size) if len(size) < _LINE_MAX else -1
            if not 0 <= length <= _SIZES.get(kind, -1) or (instance and not state.valid_instance(instance)):
                raise ValueError(f"{kind[:20]} of {size[:20]} bytes")
            data = await reader.readexactly(length)
            if kind == PAGE:
                if (future := self._asked.get(instance)) and not future.done():
                    future.set_result(data)
            else:
                self._take(kind, instance, data)
            # What is there already is read without a turn for anybody else.
            await asyncio.sleep(0)

    async def page(self, instance: str) -> bytes:
        """Return the file of a discovery controller's log page. Raises FeedError. Who asks at once gets the same."""
        future = self._asked.get(instance)
        if future is None:
            if self._writer is None:
                raise FeedError("its reader cannot be reached; try again")
            future = self._asked[instance] = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda _: self._asked.pop(instance, None))
            self._writer.write(f"{PAGE} {instance}\n".encode())
        try:
            async with asyncio.timeout(PAGE_TIMEOUT_SECONDS):
                return await asyncio.shield(future)
        except TimeoutError:
            error = FeedError(f"its reader does not answer within {PAGE_TIMEOUT_SECONDS} s")
            if not future.done():
                # Whoever else waits for it is told the same.
                future.set_exception(error)
                future.exception()
            raise error from None
