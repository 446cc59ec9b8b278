# SPDX-License-Identifier: Apache-2.0
"""The process that acts: it does nothing for whom polkit does not allow it, and nothing that is not listed."""

import asyncio
import contextlib
import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jeepney.low_level import Message, calc_msg_size

from discoverd.api import action, interfaces, wire
from discoverd.api import connection as connections
from discoverd.api.action import MANAGE_UNIT_FILES, MANAGE_UNITS
from discoverd.api.connection import connected
from discoverd.api.refusal import RefusalError
from discoverd.api.wire import Frame
from discoverd.cli import files
from discoverd.tid import TransportId, unit_name

from .private_bus import Bus, Client, bus, client, instance, needs_bus, nothing, own

__all__ = ["bus"]

ONE = instance(1)
JOB = "/org/freedesktop/systemd1/job/7"


class Polkit:
    """The authority: ``allowed`` and ``challenge`` are what it answers, by whether somebody may be asked."""

    def __init__(self) -> None:
        self.answers = {0: (True, False), 1: (True, False)}
        self.asked: list[tuple[Any, ...]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with connected(connections.SYSTEM_BUS, self._hear, nothing) as self._connection:
            await own(self._connection, "org.freedesktop.PolicyKit1")
            yield

    def _hear(self, call: Frame) -> None:
        subject, asked, details, flags, _ = call.values("(sa{sv})sa{ss}us")
        self.asked.append((subject, asked, details, flags))
        allowed, challenge = self.answers[flags]
        self._connection.answer(call, "(bba{ss})", wire.marshal("(bba{ss})", (allowed, challenge, {})))


class Manager:
    """systemd on its own socket: no bus, and no names."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error = ""
        self._served: list[asyncio.Task[Any]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with await asyncio.start_unix_server(self._accept, action.PRIVATE):
            yield
            await asyncio.gather(*self._served)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served = asyncio.current_task()
        assert served
        self._served.append(served)
        await self._serve(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(b"OK 1234\r\n")
        await reader.readuntil(b"BEGIN\r\n")
        with contextlib.suppress(asyncio.IncompleteReadError):
            head = await reader.readexactly(16)
            call = Message.from_buffer(head + await reader.readexactly(calc_msg_size(head) - 16))
            fields = {one.value: value for one, value in call.header.fields.items()}
            self.calls.append((fields[wire.MEMBER], *call.body))
            answer = {wire.REPLY_SERIAL: call.header.serial}
            if self.error:
                pieces = wire.message(
                    wire.ERROR, 1, {**answer, wire.ERROR_NAME: self.error}, "s", wire.marshal("s", "no")
                )
            else:
                pieces = wire.message(wire.ANSWER, 1, answer, "o", wire.marshal("o", JOB))
            writer.write(b"".join(pieces))
            await writer.drain()
            await reader.read()


class Host:
    """Who is asked, and who asks."""

    def __init__(self, polkit: Polkit, manager: Manager, caller: Client) -> None:
        self.polkit = polkit
        self.manager = manager
        self.sender = caller.connection.name

    async def ask(self, verb: str, interactive: bool = False, **what: Any) -> dict[str, Any]:
        line = json.dumps({"verb": verb, "sender": self.sender, "interactive": interactive, **what})
        answer: dict[str, Any] = json.loads(await action.serve(line.encode()))
        return answer


@contextlib.asynccontextmanager
async def host() -> AsyncIterator[Host]:
    polkit, manager = Polkit(), Manager()
    async with polkit.running(), manager.running(), client() as caller:
        yield Host(polkit, manager, caller)


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody be root."""
    monkeypatch.setattr(action, "ROOT_USER", -1)


@needs_bus
@pytest.mark.usefixtures("somebody")
@pytest.mark.parametrize(
    ("verb", "method", "unit", "details"),
    [
        ("start", "StartUnit", unit_name(ONE), {"unit": unit_name(ONE), "verb": "start"}),
        ("stop", "StopUnit", unit_name(ONE), {"unit": unit_name(ONE), "verb": "stop"}),
        ("restart", "RestartUnit", unit_name(ONE), {"unit": unit_name(ONE), "verb": "restart"}),
        (
            *("disconnect", "StartUnit", f"nvme-drop@{ONE}.service"),
            {"unit": unit_name(ONE), "verb": "stop"},
        ),
        ("reload", "ReloadUnit", "discoverd.service", {"unit": "discoverd.service", "verb": "reload"}),
    ],
)
def test_polkit_is_asked_about_the_caller_as_systemd_would(
    bus: Bus, verb: str, method: str, unit: str, details: dict[str, str]
) -> None:
    async def run() -> None:
        async with host() as one:
            assert await one.ask(verb, instance=ONE) == {"job": JOB}
            subject = ("system-bus-name", {"name": ("s", one.sender)})
            assert one.polkit.asked == [(subject, MANAGE_UNITS, details, 0)]
            assert one.manager.calls == [(method, unit, "replace")]

    asyncio.run(run())


@needs_bus
@pytest.mark.usefixtures("somebody")
@pytest.mark.parametrize("verb", ["start", "stop", "restart", "disconnect", "reload", "exclude", "unexclude"])
def test_who_may_not_gets_nothing_done(bus: Bus, verb: str) -> None:
    async def run() -> None:
        async with host() as one:
            one.polkit.answers = {0: (False, False), 1: (False, False)}
            answer = await one.ask(verb, True, instance=ONE, entries=[{"nqn": "nqn.2024-08.com.example:x"}])
            assert answer["error"] == interfaces.ACCESS_DENIED
            assert one.manager.calls == []
            assert len(one.polkit.asked) == 1, "who is refused outright is asked for no password"

    asyncio.run(run())
    assert not Path(bus.folder, "etc/exclusions.conf").exists()


@needs_bus
@pytest.mark.usefixtures("somebody")
def test_password_is_asked_for_only_where_the_caller_allows_that(bus: Bus) -> None:
    async def run() -> None:
        async with host() as one:
            one.polkit.answers = {0: (False, True), 1: (True, False)}
            assert (await one.ask("stop", instance=ONE))["error"] == interfaces.INTERACTIVE_REQUIRED
            assert one.manager.calls == []
            assert await one.ask("stop", True, instance=ONE) == {"job": JOB}
            assert [asked[3] for asked in one.polkit.asked] == [0, 0, 1]
            one.polkit.answers = {0: (False, True), 1: (False, True)}
            assert (await one.ask("stop", True, instance=ONE))["error"] == interfaces.ACCESS_DENIED
            assert len(one.manager.calls) == 1

    asyncio.run(run())


@needs_bus
@pytest.mark.usefixtures("somebody")
def test_without_polkit_only_root_may(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        manager = Manager()
        async with manager.running(), client() as caller:
            one = Host(Polkit(), manager, caller)
            answer = await one.ask("stop", instance=ONE)
            assert answer["error"] == interfaces.ACCESS_DENIED
            assert manager.calls == []

    asyncio.run(run())


@needs_bus
def test_root_is_not_asked_about(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with host() as one:
            (user,) = await connection_user(one.sender)
            monkeypatch.setattr(action, "ROOT_USER", user)
            assert await one.ask("stop", instance=ONE) == {"job": JOB}
            assert one.polkit.asked == []

    asyncio.run(run())


async def connection_user(sender: str) -> tuple[int]:
    async with client() as one:
        (user,) = await one.connection.call(
            connections.BUS, connections.BUS_PATH, connections.BUS, "GetConnectionUnixUser", "s", sender, answer="u"
        )
        return (user,)


@needs_bus
def test_who_has_left_gets_nothing_done(bus: Bus) -> None:
    async def run() -> None:
        async with host() as one:
            one.sender = ":1.9999"
            assert (await one.ask("stop", instance=ONE))["error"] == interfaces.ACCESS_DENIED
            assert one.manager.calls == []

    asyncio.run(run())


@needs_bus
def test_errors_of_systemd_are_handed_on(bus: Bus) -> None:
    async def run() -> None:
        async with host() as one:
            one.manager.error = "org.freedesktop.systemd1.UnitMasked"
            assert (await one.ask("start", instance=ONE))["error"] == "org.freedesktop.systemd1.UnitMasked"
            one.manager.error = "org.freedesktop.systemd1.NoSuchUnit"
            assert (await one.ask("start", instance=ONE))["error"] == interfaces.NO_UNIT
        async with client() as caller:
            one = Host(Polkit(), Manager(), caller)
            assert (await one.ask("start", instance=ONE))["error"] == interfaces.FAILED

    asyncio.run(run())


@needs_bus
@pytest.mark.usefixtures("somebody")
def test_exclusions_are_written_and_taken_out(bus: Bus) -> None:
    main = Path(bus.folder, "etc/exclusions.conf")

    async def run() -> None:
        async with host() as one:
            entries = [
                {"transport": "tcp", "traddr": "192.0.2.1"},
                {"nqn": "nqn.2024-08.com.example:x", "transport": "tcp"},
            ]
            answer = await one.ask("exclude", entries=entries)
            assert len(answer["places"]) == 2
            assert {asked[1] for asked in one.polkit.asked} == {MANAGE_UNIT_FILES}
            lines = (await asyncio.to_thread(main.read_text)).splitlines()
            assert lines[-2:] == [
                "exclusion = transport=tcp;traddr=192.0.2.1",
                "exclusion = nqn=nqn.2024-08.com.example:x;transport=tcp",
            ]
            for nonsense in ("nonsense", {}, {"nqn": "nqn.a;nqn=nqn.b"}, {"nqn": "nqn.a\n"}):
                answer = await one.ask("exclude", entries=[nonsense])
                assert answer["error"] == interfaces.INVALID_ARGUMENTS
            assert await asyncio.to_thread(main.read_text) == "\n".join([*lines, ""])
            answer = await one.ask("unexclude", entries=[{"traddr": "192.0.2.1", "transport": "tcp"}])
            assert len(answer["places"]) == 1
            assert "192.0.2.1" not in await asyncio.to_thread(main.read_text)

    asyncio.run(run())


def test_longest_instance_leaves_room_for_the_unit_that_disconnects() -> None:
    longest = TransportId.make("io", "tcp", "192.0.2.1", "4420", "nqn.2024-08.com.example:" + "x" * 199).instance
    assert len(unit_name(longest)) > 200
    assert len(action.DISCONNECT_UNIT.format(longest)) <= len(unit_name(longest))


@needs_bus
def test_list_that_cannot_be_written_from_here_is_for_discoverctl(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/elsewhere/list")

    monkeypatch.setattr(files, "replace", read_only)

    async def run() -> None:
        async with host() as one:
            answer = await one.ask("exclude", entries=[{"traddr": "192.0.2.1"}])
            assert answer["error"] == interfaces.FAILED
            assert "use discoverctl exclude" in answer["text"]

    asyncio.run(run())


@given(st.binary(max_size=200))
def test_request_that_is_no_json_is_refused(line: bytes) -> None:
    with pytest.raises(RefusalError):
        action.understand(line)


@settings(max_examples=50)
@given(
    st.fixed_dictionaries(
        {
            "verb": st.sampled_from(["start", "stop", "disconnect", "kill", "exclude", ""]) | st.text(max_size=5),
            "sender": st.text(max_size=8) | st.just(":1.5"),
            "interactive": st.booleans() | st.text(max_size=2),
        },
        optional={"instance": st.text(max_size=20) | st.just("../../etc"), "entries": st.lists(st.text(max_size=9))},
    )
)
def test_request_is_one_of_those_that_there_are(raw: dict[str, Any]) -> None:
    try:
        request = action.understand(json.dumps(raw).encode())
    except RefusalError:
        return
    assert request.verb in ("start", "stop", "restart", "disconnect", "reload", "exclude", "unexclude")
    assert request.sender.startswith(":")
    if request.verb in ("start", "stop", "restart", "disconnect"):
        assert "/" not in request.instance
        assert request.instance[:1] not in ("", ".")
