# SPDX-License-Identifier: Apache-2.0
"""Connections to the system bus that are read all the time, and to which only those have access whom we talk to.

The client reads until nothing is left, in one turn of the loop, and understands all of it before it looks who has sent
it: one user of the bus could have the loop stand still. So it is connected to a relay in the same loop, which reads the
bus's socket, a bounded piece in each turn, and hands on what discoverd.bus.frames lets pass, a bounded piece in each
turn. A bus whose messages are left unread keeps them for us, up to a limit beyond which it refuses those of systemd too
(dbus-daemon: max_outgoing_bytes, for all senders together; dbus-broker: for each user by itself), so the relay never
waits for the client.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable

from discoverd import state
from discoverd.bus.client import MessageBus
from discoverd.bus.frames import Frames
from discoverd.bus.stream import StreamError

log = logging.getLogger("discoverd.bus")

_numbers = itertools.count(1)

SYSTEM_BUS = "/run/dbus/system_bus_socket"
CONNECT_TIMEOUT_SECONDS = 25

# So much is read in one turn of the loop: some two milliseconds' worth of the shortest messages.
READ_BYTES = 1 << 17
# And so much is handed on in one turn, or one message: what the client makes of it takes it some milliseconds.
PASS_BYTES = 8192
# What waits for the client beyond this has no end: it connects anew, and asks for what it has missed.
WAITING_BYTES_MAX = 1 << 22
# That somebody sends us messages is said after so many (those of a systemd that has just taken its name are a few), and
# so often.
SAY_MESSAGES = 100
SAY_SECONDS = 600


@contextlib.asynccontextmanager
async def system_bus(dropped: Callable[[], None] = lambda: None) -> AsyncIterator[MessageBus]:
    """Connect to the system bus; ``dropped`` is called after messages have come that are not for us.

    While such come in masses, the bus may have refused to take others for us. Raises OSError (TimeoutError among them),
    or what the D-Bus client raises.
    """
    with contextlib.ExitStack() as opened:
        upstream = opened.enter_context(socket.socket(socket.AF_UNIX))
        upstream.setblocking(False)
        bus, downstream = await _client(opened)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await asyncio.get_running_loop().sock_connect(upstream, SYSTEM_BUS)
                opened.callback(_Relay(upstream, downstream, dropped).close)
                await bus.connect()
        except TimeoutError:
            raise TimeoutError(f"the bus did not answer within {CONNECT_TIMEOUT_SECONDS} s") from None
        yield bus


async def _client(opened: contextlib.ExitStack) -> tuple[MessageBus, socket.socket]:
    """Return a client and the other end of its connection: it takes addresses only, and has connected when it is made.

    The socket is where no other user can connect to it first.
    """
    path = f"{state.ROOT}/bus-{next(_numbers)}"
    listener = await asyncio.to_thread(_listener, path)
    try:
        with listener:
            bus = MessageBus(bus_address=f"unix:path={path}")
            opened.callback(bus.disconnect)
            downstream = opened.enter_context(listener.accept()[0])
    finally:
        await asyncio.to_thread(os.unlink, path)
    downstream.setblocking(False)
    return bus, downstream


def _listener(path: str) -> socket.socket:
    # A supervisor that was killed may have left one.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(path)
    listener.listen(1)
    return listener


class _Relay:
    """What goes from the client to the bus goes as it is; the client's own end is not closed by it."""

    def __init__(self, upstream: socket.socket, downstream: socket.socket, dropped: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._upstream, self._downstream = upstream, downstream
        self._dropped = dropped
        self._frames = Frames()
        self._buffer = bytearray(READ_BYTES)
        self._said = float("-inf")
        # What waits for the client, and for the bus.
        self._passed: deque[bytes] = deque()
        self._waiting = 0
        self._spoken = b""
        self._loop.add_reader(upstream, self._hear)
        self._loop.add_reader(downstream, self._listen)

    def close(self) -> None:
        """End both connections; the client notices."""
        for end in (self._upstream, self._downstream):
            if end.fileno() >= 0:
                self._loop.remove_reader(end)
                self._loop.remove_writer(end)
                end.close()

    def _hear(self) -> None:
        """Read a piece of what the bus has for us."""
        try:
            size = self._upstream.recv_into(self._buffer)
            if not size:
                raise EOFError
            before = self._frames.dropped
            passed = self._frames.feed(memoryview(self._buffer)[:size])
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, EOFError, StreamError) as error:
            log.debug("the bus is gone: %r", error)
            self.close()
            return
        if self._frames.dropped > before:
            self._say_dropped()
            self._dropped()
        if passed:
            self._passed += passed
            self._waiting += sum(map(len, passed))
            if self._waiting > WAITING_BYTES_MAX:
                log.warning("so much comes from the bus that it cannot be worked off; connecting to it again")
                self.close()
            else:
                self._pass_on()

    def _pass_on(self) -> None:
        """Hand a piece of what has passed to the client; the rest has its turn when the client had one."""
        room = PASS_BYTES
        while self._passed and (room == PASS_BYTES or len(self._passed[0]) <= room):
            try:
                sent = self._downstream.send(self._passed[0])
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.close()
                return
            room -= sent
            self._waiting -= sent
            if sent == len(self._passed[0]):
                self._passed.popleft()
            else:
                self._passed[0] = self._passed[0][sent:]
        if self._passed:
            self._loop.add_writer(self._downstream, self._pass_on)
        else:
            self._loop.remove_writer(self._downstream)

    def _listen(self) -> None:
        """Take what the client has to say, and nothing more before the bus has it."""
        try:
            self._spoken = self._downstream.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._spoken = b""
        if not self._spoken:
            self.close()
            return
        self._loop.remove_reader(self._downstream)
        self._speak()

    def _speak(self) -> None:
        try:
            self._spoken = self._spoken[self._upstream.send(self._spoken) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
            return
        if self._spoken:
            self._loop.add_writer(self._upstream, self._speak)
        else:
            self._loop.remove_writer(self._upstream)
            self._loop.add_reader(self._downstream, self._listen)

    def _say_dropped(self) -> None:
        now = self._loop.time()
        if self._frames.dropped >= SAY_MESSAGES and now >= self._said + SAY_SECONDS:
            self._said = now
            log.warning("somebody on the system bus sends us messages that nobody asked for; they are dropped unread")
