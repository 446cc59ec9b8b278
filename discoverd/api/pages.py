# SPDX-License-Identifier: Apache-2.0
"""Log pages as the API answers with them: some at a time, and the last ones kept, for who asks again."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from discoverd.api import TURN_SECONDS, interfaces, log_page, properties, wire
from discoverd.api.interfaces import NO_OBJECT
from discoverd.api.objects import Objects
from discoverd.api.refusal import RefusalError
from discoverd.cli.overview import Controller
from discoverd.kernel.controllers import canonical_nqn, same_address
from discoverd.supervisor.loop_turn import LoopTurn

AT_ONCE = 2
KEPT = 4


class Pages:
    """``read`` reads the file of a log page; the controllers that pages list are the ``objects``'."""

    def __init__(self, objects: Objects, read: Callable[[str], Awaitable[bytes]]) -> None:
        self._objects = objects
        self._read = read
        self._turns = asyncio.Semaphore(AT_ONCE)
        # By instance, what answers were made from, and their bodies.
        self._kept: OrderedDict[str, tuple[bytes, object, bytes]] = OrderedDict()

    async def body(self, one: Controller) -> bytes:
        """Return the body that answers LogPage for a discovery controller. Raises RefusalError without a page."""
        async with self._turns:
            data = await self._read(one.name)
            head, page = log_page.split(data)
            if head.fault:
                raise RefusalError(interfaces.NO_PAGE, head.fault)
            found = self._objects.controllers
            known = self._kept.get(one.name)
            if known and known[0] == data and known[1] is found:
                return known[2]
            body = await _body(head, page, found)
            self._kept[one.name] = (data, found, body)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return body


async def _body(head: log_page.Head, page: bytes, found: Mapping[str, Controller]) -> bytes:
    at: dict[tuple[str, str, str], list[tuple[str, Controller]]] = {}
    for path, one in found.items():
        transport, _, service, nqn, _, _ = properties.target(one)
        at.setdefault((transport, service, canonical_nqn(nqn)), []).append((path, one))

    def find(transport: str, address: str, service: str, nqn: str) -> str:
        for path, one in at.get((transport, service, canonical_nqn(nqn)), ()):
            if same_address(transport, properties.target(one)[1], address):
                return path
        return NO_OBJECT

    turn = LoopTurn(TURN_SECONDS)
    entries = []
    for number in range(log_page.count(page)):
        entries.append(wire.element(interfaces.LOG_ENTRIES[1:], log_page.entry(page, number, find)))
        await turn.end_if_long()
    return wire.array(entries, wire.marshal("tts", head.generation, head.time, head.asked))
