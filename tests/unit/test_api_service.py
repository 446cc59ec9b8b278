# SPDX-License-Identifier: Apache-2.0
"""Whatever the bus hands on as a call, the service answers it, once, and goes on."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from discoverd.api import wire
from discoverd.api.host import Host
from discoverd.api.interfaces import (
    CONTROLLERS,
    OURS,
    ROOT,
    STANDARD,
    SUBSYSTEM,
    SUBSYSTEMS,
)
from discoverd.api.service import Service
from discoverd.api.tree import Tree
from discoverd.api.wire import Frame

SUB = f"{SUBSYSTEMS}/a"
PATHS = st.sampled_from(["/", "/org", ROOT, CONTROLLERS, SUBSYSTEMS, SUB, f"{CONTROLLERS}/x"])
NAMES = st.sampled_from([*OURS, *STANDARD, "a.b", ""])
MEMBERS = st.sampled_from(
    [method.name for one in (*OURS.values(), *STANDARD.values()) for method in one.methods if not method.acts] + ["X"]
)
SIGNATURES = st.sampled_from(["", "s", "ss", "ssv", "as", "u", "a{sv}"])


class Connection:
    """Takes what is said, and has room for it."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []

    async def room(self) -> None:
        """There is room."""

    def answer(self, _: Frame, signature: str = "", body: bytes = b"") -> None:
        wire.unmarshal(signature, body)
        self.said.append((signature, body))

    def refuse(self, _: Frame, name: str, text: str) -> None:
        wire.marshal("s", text)
        self.said.append((name, text.encode()))


async def page(_: str) -> bytes:
    return b""


async def ask(frames: list[Frame]) -> Connection:
    async def room() -> None:
        """There is room."""

    connection: Any = Connection()
    tree = Tree(lambda *_: None)
    service = Service(tree, Host(tree, room, lambda *_: None, lambda _: None), page)
    service.connect(connection)
    tree.put(SUB, {SUBSYSTEM: {"NQN": "a", "Controllers": [], "Live": 0}})
    for frame in frames:
        service.hear(frame)
    running = asyncio.create_task(service.run())
    for _ in range(len(frames) + 5):
        await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await service.end()
    found: Connection = connection
    return found


@settings(max_examples=100)
@given(st.lists(st.tuples(PATHS, NAMES, MEMBERS, SIGNATURES, st.binary(max_size=40), st.booleans()), max_size=8))
def test_every_call_has_one_answer(calls: list[tuple[str, str, str, str, bytes, bool]]) -> None:
    frames = []
    for number, (path, interface, member, signature, body, little) in enumerate(calls):
        fields: dict[int, Any] = {wire.PATH: path.encode(), wire.MEMBER: member.encode(), wire.SENDER: b":1.5"}
        if interface:
            fields[wire.INTERFACE] = interface.encode()
        if signature:
            fields[wire.SIGNATURE] = signature.encode()
        frames.append(Frame(wire.CALL, 0, number, fields, body, little))
    assert len(asyncio.run(ask(frames)).said) == len(frames)
