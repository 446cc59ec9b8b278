# SPDX-License-Identifier: Apache-2.0
"""The lab's end of the serial port on which the guest's `lab-agent` listens; the agent describes the frames."""

import contextlib
import itertools
import json
import queue
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

MAGIC = b"LAB1"

_Read = Callable[[int], bytes]


class ChannelError(Exception):
    """The guest did not answer in time, or QEMU has ended."""


class Channel:
    """Requests to the agent. Any thread may ask; answers come back in any order."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.Queue[tuple[dict[str, object], bytes] | None]] = {}
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def ask(
        self, request: Mapping[str, object], body: bytes = b"", *, timeout: float
    ) -> tuple[dict[str, object], bytes]:
        """Header and body of the answer. Raises ChannelError after `timeout` seconds or when QEMU ends."""
        number = next(self._numbers)
        answer: queue.Queue[tuple[dict[str, object], bytes] | None] = queue.Queue()
        self._waiting[number] = answer
        text = json.dumps({"id": number, **request}).encode()
        try:
            if self._ended:
                raise ChannelError("the machine's serial port is closed; it was powered off or QEMU ended")
            with self._sending:
                self._socket.sendall(MAGIC + struct.pack(">II", len(text), len(body)) + text + body)
            got = answer.get(timeout=timeout)
        except queue.Empty:
            raise ChannelError(f"no answer to {request['op']!r} within {timeout:.0f} s") from None
        except OSError as error:
            raise ChannelError(f"the machine's serial port failed: {error}") from error
        finally:
            del self._waiting[number]
        if got is None:
            raise ChannelError(f"the machine ended during {request['op']!r}")
        return got

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as stream:
            while self._read_frame(stream.read):
                pass
        self._ended = True
        for answer in list(self._waiting.values()):
            answer.put(None)

    def _read_frame(self, read: _Read) -> bool:
        start = read(len(MAGIC))
        while start != MAGIC:
            more = read(1)
            if not more:
                return False
            start = start[1:] + more
        sizes = read(8)
        if len(sizes) < 8:
            return False
        header_size, body_size = struct.unpack(">II", sizes)
        header = json.loads(read(header_size))
        body = read(body_size)
        answer = self._waiting.get(header["id"])
        # Nobody waits any more for an answer that came after its time-out.
        if answer is not None:
            answer.put((header, body))
        return True
