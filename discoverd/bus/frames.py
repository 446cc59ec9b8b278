# SPDX-License-Identifier: Apache-2.0
"""What of a bus's byte stream is worth reading: the rest is dropped by its header, and its body never looked at.

Any user of the bus can send any connection signals and calls, whatever that one subscribed to, with bodies that cost a
parser seconds. An answer comes only from whoever was asked: the bus hands on no other. So whoever has answered is one
whom we talk to, and only his signals count, and the bus's own. Nobody is to call us.

Layout: D-Bus specification, "Message Format" and, before the first message, "Authentication Protocol".
"""

import struct

# All that systemd, Avahi and the bus have to say to us is far shorter; and what is longer costs the client's parser
# more time than a turn of the loop may take.
LENGTH_MAX = 8192
# So many of those who have answered count: systemd and Avahi have a new name after each restart.
_TALKERS_MAX = 8

_BUS = b"org.freedesktop.DBus"
_LITTLE, _BIG = ord("l"), ord("B")
# Byte order, type, flags, version, length of the body, serial, length of the header's fields.
_FIXED = {_LITTLE: struct.Struct("<BBBBIII"), _BIG: struct.Struct(">BBBBIII")}
_FIXED_SIZE = 16
_LENGTHS = {_LITTLE: struct.Struct("<I"), _BIG: struct.Struct(">I")}
_ANSWER, _ERROR, _SIGNAL = 2, 3, 4
_SENDER = 7
# The types of the fields that the specification knows, by their number.
_TYPES: dict[int, bytes] = {1: b"o", 2: b"s", 3: b"s", 4: b"s", 5: b"u", 6: b"s", 7: b"s", 8: b"g", 9: b"u"}


class FrameError(ValueError):
    """The stream is none of a bus."""


class Frames:
    """Takes the stream as it comes and gives back the messages that are for us, each whole.

    ``dropped`` counts the others.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        # How many bytes of the message that is being dropped are still to come.
        self._skip = 0
        self._authenticated = False
        self._talkers: dict[bytes, None] = {}
        # What the header of one who counts has in it somewhere; most of a flood is told by that.
        self._marks: tuple[bytes, ...] = (_BUS,)
        self.dropped = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Return what is complete now. Raises FrameError."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return []
        buffer = self._buffer
        buffer += data[self._skip :] if self._skip else data
        self._skip = 0
        passed: list[bytes] = []
        start = 0
        while start < len(buffer):
            if buffer[start] in _FIXED:
                self._authenticated = True
                end = self._message(start, passed)
            else:
                end = self._line(start, passed)
            if not end:
                break
            start = end
        # What is skipped reaches beyond what is there.
        self._skip = max(0, start - len(buffer))
        del buffer[:start]
        return passed

    def _line(self, start: int, passed: list[bytes]) -> int:
        """Take a line of the authentication, none of which begins like a message."""
        end = self._buffer.find(b"\r\n", start) + 2
        if self._authenticated or (end == 1 and len(self._buffer) - start > LENGTH_MAX):
            raise FrameError("what comes from the bus is no message")
        if end == 1:
            return 0
        passed.append(bytes(self._buffer[start:end]))
        return end

    def _message(self, start: int, passed: list[bytes]) -> int:
        """Take a message; return where it ends, perhaps beyond what is there, 0 if more of it has to come first."""
        buffer = self._buffer
        if len(buffer) - start < _FIXED_SIZE:
            return 0
        kind: int
        body: int
        fields: int
        _, kind, _, _, body, _, fields = _FIXED[buffer[start]].unpack_from(buffer, start)
        head = start + _FIXED_SIZE + fields
        end = start + _FIXED_SIZE + (fields + 7 & ~7) + body
        if end - start > LENGTH_MAX or kind not in (_ANSWER, _ERROR, _SIGNAL):
            self.dropped += 1
            return end
        if len(buffer) < head:
            return 0
        if not self._counts(kind, start, head):
            self.dropped += 1
            return end
        if len(buffer) < end:
            return 0
        passed.append(bytes(buffer[start:end]))
        return end

    def _counts(self, kind: int, start: int, head: int) -> bool:
        """Tell whether a message is an answer, or of one who has given us one."""
        if kind == _SIGNAL and not any(self._buffer.find(mark, start, head) >= 0 for mark in self._marks):
            return False
        sender = self._sender(start, head)
        if kind == _SIGNAL or not sender:
            return sender == _BUS or sender in self._talkers
        if sender != _BUS and sender not in self._talkers:
            self._talkers[sender] = None
            if len(self._talkers) > _TALKERS_MAX:
                del self._talkers[next(iter(self._talkers))]
            self._marks = (_BUS, *self._talkers)
        return True

    def _sender(self, start: int, head: int) -> bytes:
        """Return the field that the bus itself puts into a header, b'' where anything in that is not as specified."""
        buffer, length = self._buffer, _LENGTHS[self._buffer[start]]
        sender = b""
        position = start + _FIXED_SIZE
        while position < head:
            # Each field begins at a multiple of eight: its number, its type as a text of one character, its value.
            if position + 5 > head or buffer[position + 1] != 1 or buffer[position + 3]:
                return b""
            number, type_ = buffer[position], bytes(buffer[position + 2 : position + 3])
            if _TYPES.get(number) != type_:
                return b""
            value = position + 4
            if type_ == b"g":
                value, size = value + 1, buffer[value] + 1
            elif type_ == b"u":
                size = 4
            elif position + 8 > head:
                return b""
            else:
                value, size = value + 4, length.unpack_from(buffer, value)[0] + 1
            if value + size > head:
                return b""
            if number == _SENDER:
                sender = bytes(buffer[value : value + size - 1])
            position = start + (value + size - start + 7 & ~7)
        return sender
