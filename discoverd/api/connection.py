# SPDX-License-Identifier: Apache-2.0
"""A connection to the bus for a service that anybody may call: read all the time, and bounded in each direction.

A bus whose messages are left unread refuses others' calls to us in the end, so reading waits for nobody: a piece is
read in each turn of the loop, and what is not for us is dropped (frames.py). What we have to say waits here while the
bus does not read; who makes much of it asks for :meth:`Connection.room` first. A body that many are sent is kept once.
"""

import asyncio
import contextlib
import itertools
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from discoverd.api import wire
from discoverd.api.frames import Frames
from discoverd.api.wire import Frame
from discoverd.bus.stream import StreamError
from discoverd.config.errors import printable

SYSTEM_BUS = "/run/dbus/system_bus_socket"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
CALL_TIMEOUT_SECONDS = 25

# So much is read in one turn, some ten milliseconds' worth of the shortest calls, and so much is written.
READ_BYTES = 1 << 16
WRITE_BYTES = 1 << 20
# There is room for more as long as less than this waits for the bus.
ROOM_BYTES = 1 << 20
# Beyond this something is wrong with the bus, or with us: what waits is thrown away, and the connection with it.
WAITING_BYTES_MAX = 1 << 26
# Errors quote what callers have said, who may say much, and have it answered often.
TEXT_BYTES_MAX = 1 << 10
_PIECES = 64
_LINE_MAX = 512


class RefusedError(Exception):
    """A call was answered with an error; ``name`` is the error's."""

    def __init__(self, member: str, name: str, text: str) -> None:
        super().__init__(text or f"{member}: {name}")
        self.name = name


class LostError(ConnectionError):
    """The bus has gone."""


@contextlib.asynccontextmanager
async def connected(
    path: str, on_call: Callable[[Frame], None], on_signal: Callable[[Frame], None], bus: bool = True
) -> AsyncIterator["Connection"]:
    """Connect to the bus whose socket is at ``path``, or with ``bus`` False to a peer that is none.

    Raises OSError (TimeoutError among them). ``on_call`` gets all calls, ``on_signal`` the signals of those who were
    added to :attr:`Connection.heard`.
    """
    end = socket.socket(socket.AF_UNIX)
    end.setblocking(False)
    connection = None
    try:
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            await asyncio.get_running_loop().sock_connect(end, path)
            await _authenticate(end)
            connection = Connection(end, on_call, on_signal)
            if bus:
                (connection.name,) = await connection.call(BUS, BUS_PATH, BUS, "Hello", answer="s")
        yield connection
    finally:
        if connection:
            connection.close()
        end.close()


async def _authenticate(end: socket.socket) -> None:
    """Say who we are; the kernel says it as well (D-Bus specification, "Authentication Protocol")."""
    loop = asyncio.get_running_loop()
    # All at once, as systemd's own clients do. On its private socket systemd leaves a message that it reads together
    # with BEGIN where it is until something else comes (src/libsystemd/sd-bus/bus-socket.c).
    user = str(os.geteuid()).encode().hex().encode()
    await loop.sock_sendall(end, b"\0AUTH EXTERNAL " + user + b"\r\nBEGIN\r\n")
    line = b""
    while not line.endswith(b"\r\n"):
        # It says nothing more before it hears from us.
        data = await loop.sock_recv(end, _LINE_MAX)
        line += data
        if not data or len(line) > _LINE_MAX:
            raise LostError("the bus does not take our word")
    if not line.startswith(b"OK "):
        raise PermissionError(f"the bus refuses us: {line[:80]!r}")


class Connection:
    """The two directions. ``heard`` are those whose signals count; ``name`` is ours on the bus."""

    def __init__(
        self, end: socket.socket, on_call: Callable[[Frame], None], on_signal: Callable[[Frame], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._on_call, self._on_signal = on_call, on_signal
        self.name = ""
        self.heard: set[bytes] = {BUS.encode()}
        self._asked: dict[int, asyncio.Future[Frame]] = {}
        self._frames = Frames(self.heard.__contains__, self._asked.__contains__)
        self._serials = itertools.count(1)
        self._buffer = bytearray(READ_BYTES)
        self._pieces: deque[memoryview] = deque()
        self._waiting = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        # Why it has ended.
        self._lost: LostError | None = None
        self._loop.add_reader(end, self._hear)

    @property
    def waiting(self) -> int:
        """How many bytes the bus has not taken yet."""
        return self._waiting

    def close(self, error: BaseException | None = None) -> None:
        """End it; whoever waits for an answer, for room, or for the end, gets LostError or returns."""
        if self._closed.done():
            return
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        self._closed.set_result(None)
        self._lost = LostError(f"the bus has gone: {error!r}")
        self._pieces.clear()
        self._waiting = 0
        self._has_room.set()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(self._lost)

    async def closed(self) -> None:
        """Wait until the bus has gone."""
        await asyncio.shield(self._closed)

    async def room(self) -> None:
        """Wait until the bus has taken most of what it was sent. Raises LostError."""
        await self._has_room.wait()
        if self._closed.done():
            raise LostError("the bus has gone")

    # Out ---------------------------------------------------------------------------------------------------

    def send(self, kind: int, fields: dict[int, Any], signature: str = "", body: bytes = b"", flags: int = 0) -> int:
        """Send a message, or have it wait; return its serial number."""
        serial = next(self._serials) % 0xFFFFFFFF or next(self._serials)
        if self._closed.done():
            return serial
        idle = not self._pieces
        for piece in wire.message(kind, serial, fields, signature, body, flags):
            self._pieces.append(memoryview(piece))
            self._waiting += len(piece)
        if self._waiting > WAITING_BYTES_MAX:
            self.close(MemoryError(f"{self._waiting} bytes wait for the bus"))
        elif idle:
            self._write()
        elif self._waiting >= ROOM_BYTES:
            self._has_room.clear()
        return serial

    def answer(self, call: Frame, signature: str = "", body: bytes = b"") -> None:
        """Answer a call, if its sender wants to hear."""
        if not call.flags & wire.NO_REPLY:
            fields = {wire.REPLY_SERIAL: call.serial, wire.DESTINATION: call.text(wire.SENDER)}
            self.send(wire.ANSWER, fields, signature, body, wire.NO_REPLY)

    def refuse(self, call: Frame, name: str, text: str) -> None:
        """Answer a call with an error. Of its text only the beginning is told."""
        if not call.flags & wire.NO_REPLY:
            fields = {
                wire.REPLY_SERIAL: call.serial,
                wire.DESTINATION: call.text(wire.SENDER),
                wire.ERROR_NAME: name,
            }
            self.send(wire.ERROR, fields, "s", wire.marshal("s", _short(text)), wire.NO_REPLY)

    def signal(self, path: str, interface: str, member: str, signature: str, body: bytes) -> None:
        """Send a signal to whoever has subscribed to it."""
        fields = {wire.PATH: path, wire.INTERFACE: interface, wire.MEMBER: member}
        self.send(wire.SIGNAL, fields, signature, body, wire.NO_REPLY)

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *values: Any,
        answer: str = "",
        seconds: float = CALL_TIMEOUT_SECONDS,
        flags: int = 0,
    ) -> tuple[Any, ...]:
        """Call a method; return the values of its answer, whose signature is ``answer``.

        Raises RefusedError, TimeoutError, LostError, and wire.WireError for an answer of another signature.
        """
        body = wire.marshal(signature, *values) if signature else b""
        frame = await self.ask(destination, path, interface, member, signature, body, seconds, flags)
        return frame.values(answer)

    async def ask(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: bytes = b"",
        seconds: float = CALL_TIMEOUT_SECONDS,
        flags: int = 0,
    ) -> Frame:
        """Call a method with a body that is marshalled already; return its answer, as it came. Raises as above."""
        fields = {wire.PATH: path, wire.INTERFACE: interface, wire.MEMBER: member}
        if destination:
            fields[wire.DESTINATION] = destination
        future: asyncio.Future[Frame] = self._loop.create_future()
        if self._closed.done():
            raise LostError("the bus has gone")
        serial = self.send(wire.CALL, fields, signature, body, flags)
        if self._lost is not None:
            # In the moment of sending.
            raise self._lost
        self._asked[serial] = future
        try:
            async with asyncio.timeout(seconds):
                frame = await future
        except TimeoutError:
            raise TimeoutError(f"{member}: no answer within {seconds} s") from None
        finally:
            del self._asked[serial]
        if frame.kind == wire.ERROR:
            text = frame.values("s")[0] if frame.text(wire.SIGNATURE) == "s" else ""
            raise RefusedError(member, frame.text(wire.ERROR_NAME), text)
        return frame

    def _write(self) -> None:
        """Write a piece of what waits; the rest has its turn when the bus has taken that."""
        budget = WRITE_BYTES
        try:
            while self._pieces and budget > 0:
                sent = self._end.sendmsg(list(itertools.islice(self._pieces, _PIECES)))
                budget -= sent
                self._waiting -= sent
                while sent:
                    first = self._pieces[0]
                    if len(first) > sent:
                        self._pieces[0] = first[sent:]
                        break
                    sent -= len(first)
                    self._pieces.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.close(error)
            return
        if self._pieces:
            self._loop.add_writer(self._end, self._write)
        else:
            self._loop.remove_writer(self._end)
        if self._waiting < ROOM_BYTES:
            self._has_room.set()
        else:
            self._has_room.clear()

    # In ----------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Read a piece, and hand on what is in it."""
        try:
            size = self._end.recv_into(self._buffer)
            if not size:
                raise EOFError
            frames = self._frames.feed(memoryview(self._buffer)[:size])
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, EOFError, StreamError) as error:
            self.close(error)
            return
        for frame in frames:
            if frame.kind == wire.CALL:
                self._on_call(frame)
            elif frame.kind == wire.SIGNAL:
                self._on_signal(frame)
            elif (future := self._asked.get(frame.fields.get(wire.REPLY_SERIAL, 0))) and not future.done():
                future.set_result(frame)


def _short(text: str) -> str:
    """Return the beginning of a text, as the bus takes it: a message that is not as specified ends a connection."""
    return printable(text[:TEXT_BYTES_MAX]).encode()[:TEXT_BYTES_MAX].decode("utf-8", "ignore")
