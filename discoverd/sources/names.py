# SPDX-License-Identifier: Apache-2.0
"""Host names in the configuration, looked up beside the event loop."""

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger("discoverd.names")

# Seconds until a name that has no address is looked up again.
RETRY = 15


class Names:
    """Addresses of host names. A look-up that fails takes away nothing that an earlier one found."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.addresses: dict[str, str] = {}

    def want(self, names: set[str]) -> None:
        """Look up these names, and no others, until each has an address.

        ``changed`` is called for each that gets one.
        """
        for name in self._tasks.keys() - names:
            self._tasks.pop(name).cancel()
        for name in names - self._tasks.keys():
            self._tasks[name] = asyncio.create_task(self._look_up(name))

    async def close(self) -> None:
        """Give up all look-ups."""
        tasks = list(self._tasks.values())
        self.want(set())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_up(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                log.warning("host name %r: %s; looking it up again every %d s", name, error, RETRY)
                await asyncio.sleep(RETRY)
                continue
            self.addresses[name] = str(found[0][4][0])
            self._changed()
            return
