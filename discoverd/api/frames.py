# SPDX-License-Identifier: Apache-2.0
"""The stream of a bus, taken apart into the messages that somebody here waits for; the rest is dropped by its header.

Any user can send us calls, and signals that nobody subscribed to, of any length. What is too long for a call of ours,
and signals and answers of others than those we listen to, are never kept.

Layout: D-Bus specification, "Message Format".
"""

import struct
from collections.abc import Callable

from discoverd.api.wire import ANSWER, CALL, ERROR, REPLY_SERIAL, SENDER, SIGNAL, Frame

# A list of exclusions is the longest that anybody has to tell us, and a list of 4,096 units the longest answer.
CALL_BYTES_MAX = 1 << 15
ANSWER_BYTES_MAX = 1 << 24
SIGNAL_BYTES_MAX = 1 << 18

_LITTLE, _BIG = ord("l"), ord("B")
# Byte order, type, flags, version, length of the body, serial, length of the header's fields.
_FIXED = {_LITTLE: struct.Struct("<BBBBIII"), _BIG: struct.Struct(">BBBBIII")}
_FIXED_SIZE = 16
_NUMBERS = {_LITTLE: struct.Struct("<I"), _BIG: struct.Struct(">I")}
_LIMITS = {CALL: CALL_BYTES_MAX, ANSWER: ANSWER_BYTES_MAX, ERROR: ANSWER_BYTES_MAX, SIGNAL: SIGNAL_BYTES_MAX}
_TEXT, _SIGNATURE, _NUMBER = b"so", b"g", b"u"


class FrameError(ValueError):
    """The stream is none of a bus."""


class Frames:
    """Takes the stream as it comes, and gives back what is for us, each message whole.

    ``hears`` tells of a signal's sender whether he is listened to, ``asked`` of a serial number whether an answer to it
    is waited for. ``dropped`` counts the messages that were not for us.
    """

    def __init__(self, hears: Callable[[bytes], bool], asked: Callable[[int], bool]) -> None:
        self._hears = hears
        self._asked = asked
        self._buffer = bytearray()
        # How many bytes of the message that is being dropped are still to come.
        self._skip = 0
        self.dropped = 0

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Return what is complete now. Raises FrameError."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return []
        buffer = self._buffer
        buffer += data[self._skip :] if self._skip else data
        self._skip = 0
        taken: list[Frame] = []
        start = 0
        while len(buffer) - start >= _FIXED_SIZE:
            end = self._message(start, taken)
            if not end:
                break
            start = end
        self._skip = max(0, start - len(buffer))
        del buffer[:start]
        return taken

    def _message(self, start: int, taken: list[Frame]) -> int:
        """Take a message; return where it ends, perhaps beyond what is there, 0 if more of it has to come first."""
        buffer = self._buffer
        order = buffer[start]
        if order not in _FIXED:
            raise FrameError("what comes from the bus is no message")
        kind: int
        flags: int
        body: int
        serial: int
        size: int
        _, kind, flags, _, body, serial, size = _FIXED[order].unpack_from(buffer, start)
        head = start + _FIXED_SIZE + size
        content = start + _FIXED_SIZE + (size + 7 & ~7)
        end = content + body
        if end - start > _LIMITS.get(kind, 0):
            self.dropped += 1
            return end
        if len(buffer) < head:
            return 0
        fields = self._fields(order, start + _FIXED_SIZE, head, start)
        if not self._counts(kind, fields):
            self.dropped += 1
            return end
        if len(buffer) < end:
            return 0
        taken.append(Frame(kind, flags, serial, fields, bytes(buffer[content:end]), order == _LITTLE))
        return end

    def _counts(self, kind: int, fields: dict[int, bytes | int]) -> bool:
        sender, answered = fields.get(SENDER, b""), fields.get(REPLY_SERIAL, 0)
        if kind == SIGNAL:
            return isinstance(sender, bytes) and self._hears(sender)
        if kind in (ANSWER, ERROR):
            return isinstance(answered, int) and self._asked(answered)
        return bool(sender)

    def _fields(self, order: int, position: int, head: int, start: int) -> dict[int, bytes | int]:
        """Return the header's fields, none where anything in it is not as specified: the bus hands on no such."""
        buffer, number = self._buffer, _NUMBERS[order]
        found: dict[int, bytes | int] = {}
        while position < head:
            # Each begins at a multiple of eight: its number, its type as a text of one character, its value.
            if position + 5 > head or buffer[position + 1] != 1 or buffer[position + 3]:
                return {}
            key, type_, value = buffer[position], buffer[position + 2], position + 4
            if type_ in _SIGNATURE:
                value, size = value + 1, buffer[value] + 1
            elif value + 4 > head:
                return {}
            elif type_ in _NUMBER:
                size = 4
            elif type_ in _TEXT:
                value, size = value + 4, number.unpack_from(buffer, value)[0] + 1
            else:
                return {}
            if value + size > head:
                return {}
            if type_ in _NUMBER:
                found[key] = number.unpack_from(buffer, value)[0]
            else:
                found[key] = bytes(buffer[value : value + size - 1])
            position = start + (value + size - start + 7 & ~7)
        return found
