# SPDX-License-Identifier: Apache-2.0
"""A connection to the bus that any user floods: what comes through, and how much of it in one turn of the loop."""

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import socket
import struct
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from discoverd import state
from discoverd.bus import relay
from discoverd.bus.client import Message, MessageBus
from discoverd.bus.frames import Frames
from discoverd.bus.relay import system_bus

from . import virtual_time
from .bus_messages import ANSWER, SIGNAL, field, framed, message, octets, text
from .fake_host import until

BUS = "org.freedesktop.DBus"
USER = ":1.66"


class Bus:
    """The bus's end of a connection, behind a listening socket. A call to it is answered with a text."""

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter
        self.served: asyncio.Task[None] | None = None
        self.authenticates = True
        self.answers = True

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.served = asyncio.current_task()
        if not self.authenticates:
            await asyncio.Event().wait()
        await reader.readuntil(b"\r\n")
        writer.write(b"OK 1234\r\n")
        await reader.readuntil(b"BEGIN\r\n")
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(16)
                _, _, _, _, body, serial, fields = struct.unpack("<BBBBIII", head)
                await reader.readexactly((fields + 7 & ~7) + body)
                if self.answers:
                    self.answer(serial)

    def answer(self, serial: int) -> None:
        fields = [field(5, "u", struct.pack("<I", serial)), field(8, "g", b"\1s\0"), field(7, "s", text(BUS))]
        self.writer.write(framed(ANSWER, fields, text(":1.5")))


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bus]:
    monkeypatch.setattr(relay, "SYSTEM_BUS", str(tmp_path / "system_bus"))
    monkeypatch.setattr(state, "ROOT", str(tmp_path))
    yield Bus()
    # The client leaves its socket for this to close.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


@contextlib.asynccontextmanager
async def connected(
    bus: Bus, dropped: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[MessageBus, list[Message]]]:
    seen: list[Message] = []
    async with await asyncio.start_unix_server(bus.accept, relay.SYSTEM_BUS):
        try:
            async with system_bus(dropped) as client:
                client.add_message_handler(seen.append)
                yield client, seen
        finally:
            if bus.served:
                bus.served.cancel()
                await asyncio.gather(bus.served, return_exceptions=True)
                bus.writer.close()


def call() -> Message:
    return Message(destination=BUS, path="/a", interface="a.b", member="C")


def signal(number: int = 0) -> bytes:
    """Return a signal that the client is to see."""
    return message(SIGNAL, BUS, "u", struct.pack("<I", number))


def test_calls_and_signals_pass_both_ways(bus: Bus) -> None:
    async def main() -> None:
        async with connected(bus) as (client, seen):
            reply = await client.call(call())
            assert reply is not None
            assert reply.body == [":1.5"]
            bus.writer.write(b"".join(signal(number) for number in range(3000)))
            await until(lambda: len(seen) == 3001)
            assert [one.body[0] for one in seen[1:]] == list(range(3000))

    asyncio.run(main())


def test_call_longer_than_a_socket_holds_reaches_bus_whole(bus: Bus) -> None:
    async def main() -> None:
        async with connected(bus) as (client, _):
            long = Message(
                destination=BUS, path="/a", interface="a.b", member="C", signature="ay", body=[bytes(1 << 20)]
            )
            assert await client.call(long)
            assert await client.call(call())

    asyncio.run(main())


def test_flood_is_dropped_and_answers_come_through(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    told = []

    async def main() -> None:
        async with connected(bus, lambda: told.append(1)) as (client, seen):
            bus.writer.write(message(SIGNAL, USER, "ay", octets(bytes(1 << 20))) * 8)
            bus.writer.write(message(SIGNAL, USER) * 20000)
            assert await client.call(call())
            assert len(seen) == 1

    caplog.set_level(logging.WARNING)
    asyncio.run(main())
    assert told
    assert len(caplog.records) == 1


def test_few_messages_are_dropped_without_a_word(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    """Such as those of a systemd that has not answered yet."""
    told = []

    async def main() -> None:
        async with connected(bus, lambda: told.append(1)) as (client, _):
            bus.writer.write(message(SIGNAL, USER) * 20)
            assert await client.call(call())

    caplog.set_level(logging.WARNING)
    asyncio.run(main())
    assert told
    assert not caplog.records


def test_flood_is_read_a_piece_in_each_turn(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of it is there: others have their turns."""
    monkeypatch.setattr(relay, "READ_BYTES", 5000)
    turns = 0
    read: Counter[int] = Counter()

    class Counted(Frames):
        def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
            read[turns] += len(data)
            return super().feed(data)

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def main() -> None:
        async with connected(bus) as (client, _):
            read.clear()
            counting = asyncio.create_task(count())
            bus.writer.write(message(SIGNAL, USER) * 4000)
            assert await client.call(call())
            counting.cancel()
            assert max(read.values()) <= relay.READ_BYTES
            assert read.total() > 4000 * len(message(SIGNAL, USER))

    monkeypatch.setattr(relay, "Frames", Counted)
    asyncio.run(main())


def test_client_gets_a_piece_in_each_turn(bus: Bus) -> None:
    """It works off all that is there in one turn."""

    async def main() -> None:
        async with connected(bus) as (_, seen):
            most = 0
            bus.writer.write(signal() * 3000)
            while len(seen) < 3000:
                before = len(seen)
                await asyncio.sleep(0)
                most = max(most, len(seen) - before)
            assert 0 < most <= 2 * relay.PASS_BYTES // len(signal()) + 2

    asyncio.run(main())


def test_client_that_is_too_far_behind_is_cut_off(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "WAITING_BYTES_MAX", 20000)

    async def main() -> None:
        async with connected(bus) as (client, _):
            bus.writer.write(signal() * 10000)
            with contextlib.suppress(EOFError):
                await asyncio.wait_for(client.wait_for_disconnect(), 5)

    asyncio.run(main())


@pytest.mark.parametrize("garbage", [b"", b"no message\r\n"])
def test_client_hears_that_bus_is_gone(bus: Bus, garbage: bytes) -> None:
    async def main() -> None:
        async with connected(bus) as (client, _):
            await client.call(call())
            bus.writer.write(garbage)
            if not garbage:
                bus.writer.close()
            with contextlib.suppress(EOFError):
                await asyncio.wait_for(client.wait_for_disconnect(), 5)

    asyncio.run(main())


@pytest.mark.parametrize("step", ["authentication", "Hello"])
def test_bus_that_does_not_answer_is_told(bus: Bus, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(relay, "CONNECT_TIMEOUT_SECONDS", 0.05)
    bus.authenticates, bus.answers = step != "authentication", False

    async def main() -> None:
        async with connected(bus):
            pytest.fail("nobody has answered")

    with pytest.raises(TimeoutError, match="the bus did not answer"):
        virtual_time.run(main())


def test_no_bus_is_an_error_and_nothing_is_left(bus: Bus, tmp_path: Path) -> None:
    async def main() -> None:
        async with system_bus():
            pass

    with pytest.raises(FileNotFoundError):
        asyncio.run(main())
    assert os.listdir(tmp_path) == []


def test_relays_socket_is_there_for_its_client_only(bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a killed supervisor has left its socket."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "bus-1"))
    monkeypatch.setattr(relay, "_numbers", itertools.count(1))

    async def main() -> None:
        async with connected(bus) as (client, _):
            assert await client.call(call())
            assert await asyncio.to_thread(os.listdir, tmp_path) == ["system_bus"]

    asyncio.run(main())
