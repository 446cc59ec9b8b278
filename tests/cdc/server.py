# SPDX-License-Identifier: Apache-2.0
"""The sockets on which the instances of a fabric listen."""

import asyncio

from .fabric import Fabric
from .session import Session


class Server:
    """Every instance's listening socket. Use it as an asynchronous context."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._listening: dict[str, asyncio.Server] = {}
        self._open: dict[asyncio.Task[None], Session] = {}

    async def __aenter__(self) -> "Server":
        for name in self.fabric.instances:
            await self.up(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in tuple(self._listening):
            await self.down(name)

    async def up(self, name: str) -> None:
        """Listens; port 0 becomes the one that the system chose. Raises OSError."""
        if name in self._listening:
            return
        instance = self.fabric.instances[name]

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            session = Session(self.fabric, instance, reader, writer)
            task = asyncio.current_task()
            assert task is not None
            self._open[task] = session
            try:
                await session.serve()
            finally:
                del self._open[task]

        server = await asyncio.start_server(accepted, instance.address, instance.port, backlog=1024)
        if not instance.port:
            instance.port = server.sockets[0].getsockname()[1]
        self._listening[name] = server

    async def down(self, name: str) -> None:
        """Refuses new connections and resets those that there are."""
        server = self._listening.pop(name, None)
        if server is None:
            return
        server.close()
        self.disconnect("the instance went down", name)
        serving = [task for task, session in self._open.items() if session.instance.name == name]
        await asyncio.gather(*serving, return_exceptions=True)

    def disconnect(self, why: str, name: str | None = None, host: str | None = None) -> int:
        """Resets connections, of one instance, of one host, or all; returns how many."""
        chosen = [
            session
            for session in self._open.values()
            if name in (None, session.instance.name) and host in (None, session.host)
        ]
        for session in chosen:
            session.drop(why)
        return len(chosen)

    def connections(self, name: str) -> list[dict[str, object]]:
        return [s.describe() for s in self._open.values() if s.instance.name == name and s.controller.connected]

    def listens(self, name: str) -> bool:
        return name in self._listening
