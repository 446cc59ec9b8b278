# SPDX-License-Identifier: Apache-2.0
"""Whatever the bus hands on as a call, the service answers it, once, and goes on."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discoverd.api import budget, service, wire
from discoverd.api.facts import Facts
from discoverd.api.interfaces import (
    CONTROLLER,
    CONTROLLERS,
    FAILED,
    LIMITS_EXCEEDED,
    MANAGER,
    OBJECT_MANAGER,
    OURS,
    PEER,
    ROOT,
    STANDARD,
    SUBSYSTEM,
    SUBSYSTEMS,
    UNKNOWN_OBJECT,
    object_path,
)
from discoverd.api.objects import Objects
from discoverd.api.service import Service
from discoverd.api.tree import Tree
from discoverd.api.wire import Frame

from .fake_host import until

SUB = f"{SUBSYSTEMS}/a"
ALL = "a{oa{sa{sv}}}"
PATHS = st.sampled_from(["/", "/org", ROOT, CONTROLLERS, SUBSYSTEMS, SUB, f"{CONTROLLERS}/x"])
NAMES = st.sampled_from([*OURS, *STANDARD, "a.b", ""])
MEMBERS = st.sampled_from(
    [method.name for one in (*OURS.values(), *STANDARD.values()) for method in one.methods if not method.acts] + ["X"]
)
SIGNATURES = st.sampled_from(["", "s", "ss", "ssv", "as", "u", "a{sv}"])


class Connection:
    """Takes what is said, and has room for it; and says whose connections are whose."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []
        self.users: dict[str, int] = {}

    async def call(self, *values: object, **_: str) -> tuple[int]:
        """Be the bus, which is asked for a user."""
        assert values[3] == "GetConnectionUnixUser"
        return (self.users.get(str(values[-1]), 1000),)

    async def room(self) -> None:
        """There is room."""

    def answer(self, _: Frame, signature: str = "", body: bytes = b"") -> None:
        wire.unmarshal(signature, body)
        self.said.append((signature, body))

    def refuse(self, _: Frame, name: str, text: str) -> None:
        wire.marshal("s", text)
        self.said.append((name, text.encode()))


async def nothing() -> None:
    """Whatever is shown is as it is."""


async def page(_: str) -> bytes:
    return b""


class Served:
    """A service, what it knows, and what it says."""

    def __init__(self) -> None:
        self.connection = Connection()
        self.tree = Tree(lambda *_: None)
        objects = Objects(self.tree, self.connection.room, lambda *_: None)
        facts = Facts(lambda: None, lambda _: None, lambda _: None)
        self.service = Service(self.tree, objects, facts, nothing, page)
        connection: Any = self.connection
        self.service.connect(connection)
        self.tree.put(ROOT, {MANAGER: {}})

    async def run(self, count: int) -> None:
        """Have so many calls answered."""
        running = asyncio.create_task(self.service.run())
        await until(lambda: len(self.connection.said) >= count)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self.service.end()


def call(
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    body: bytes = b"",
    serial: int = 1,
    sender: str = ":1.5",
) -> Frame:
    fields: dict[int, Any] = {wire.PATH: path.encode(), wire.MEMBER: member.encode(), wire.SENDER: sender.encode()}
    if interface:
        fields[wire.INTERFACE] = interface.encode()
    if signature:
        fields[wire.SIGNATURE] = signature.encode()
    return Frame(wire.CALL, 0, serial, fields, body, True)


async def ask(frames: list[Frame]) -> Connection:
    served = Served()
    served.tree.put(SUB, {SUBSYSTEM: {"NQN": "a", "Controllers": [], "Live": 0}})
    for frame in frames:
        served.service.hear(frame)
    await served.run(len(frames))
    return served.connection


@settings(max_examples=100)
@given(st.lists(st.tuples(PATHS, NAMES, MEMBERS, SIGNATURES, st.binary(max_size=40), st.booleans()), max_size=8))
def test_every_call_has_one_answer(calls: list[tuple[str, str, str, str, bytes, bool]]) -> None:
    frames = [
        replace(call(path, interface, member, signature, body, number), little=little)
        for number, (path, interface, member, signature, body, little) in enumerate(calls)
    ]
    assert len(asyncio.run(ask(frames)).said) == len(frames)


def test_fault_in_one_answer_leaves_nobody_else_without_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object, places: bool) -> None:
        raise ZeroDivisionError("not thought of")

    monkeypatch.setattr(service, "matches", fault)
    find = [call(ROOT, MANAGER, "Find", "s", wire.marshal("s", "x"), number) for number in range(2)]
    said = asyncio.run(ask([find[0], call(SUB, PEER, "Ping"), find[1]])).said
    assert [name for name, _ in said] == [FAILED, "", FAILED]
    assert b"not thought of" in said[0][1]
    assert len(caplog.records) == 1, "who has found it can have it logged once"


def test_object_that_comes_between_hearing_and_answering_is_acted_on() -> None:
    async def run() -> Served:
        served = Served()
        path = object_path(CONTROLLERS, "a")
        served.service.hear(call(path, CONTROLLER, "Stop"))
        served.tree.put(path, {CONTROLLER: {}})
        await served.run(1)
        return served

    # The controller behind it is not there, which only the act itself finds out.
    assert [name for name, _ in asyncio.run(run()).connection.said] == [UNKNOWN_OBJECT]


def test_connections_of_one_user_together_are_sent_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody reads the bus has to keep."""
    monkeypatch.setattr(budget, "BYTES_MAX", 250_000)
    monkeypatch.setattr(budget, "BYTES_PER_SECOND", 0)

    async def run() -> dict[str, list[str]]:
        served = Served()
        served.tree.put(SUB, {SUBSYSTEM: {"NQN": "a" * 100_000, "Controllers": [], "Live": 0}})
        served.connection.users = {":1.1": 1000, ":1.2": 1000, ":1.3": 1001, ":1.4": 0}
        found = {}
        for sender in served.connection.users:
            for _ in range(4):
                served.service.hear(call(ROOT, OBJECT_MANAGER, "GetManagedObjects", sender=sender))
                served.service.hear(call(SUB, PEER, "Ping", sender=sender))
            await served.run(8)
            found[sender] = [name for name, _ in served.connection.said if name]
            served.connection.said.clear()
        return found

    full = ALL
    found = asyncio.run(run())
    assert found == {
        ":1.1": [full, full, full, LIMITS_EXCEEDED],
        ":1.2": [LIMITS_EXCEEDED] * 4,
        ":1.3": [full, full, full, LIMITS_EXCEEDED],
        ":1.4": [full] * 4,
    }
