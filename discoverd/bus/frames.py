# SPDX-License-Identifier: Apache-2.0
"""What of a bus's byte stream is worth reading: the rest is dropped by its header, and its body never looked at.

Any user of the bus can send any connection signals and calls, whatever that one subscribed to, with bodies that cost a
parser seconds. An answer comes only from whoever was asked: the bus hands on no other. So whoever has answered is one
whom we talk to, and only his signals count, and the bus's own. Nobody is to call us.

Layout: D-Bus specification, "Authentication Protocol", of what comes before the first message.
"""

from discoverd.bus.stream import ORDERS, TYPES, Fields, Stream, StreamError, Whole

# All that systemd, Avahi and the bus have to say to us is far shorter; and what is longer costs the client's parser
# more time than a turn of the loop may take.
LENGTH_MAX = 8192
# So many of those who have answered count: systemd and Avahi have a new name after each restart.
_TALKERS_MAX = 8

_BUS = b"org.freedesktop.DBus"
_ANSWER, _ERROR, _SIGNAL = 2, 3, 4
_SENDER = 7


class Frames(Stream[bytes]):
    """Gives back the messages that are for us as they came, and the lines of the authentication before them."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys((_ANSWER, _ERROR, _SIGNAL), LENGTH_MAX))
        # What has come of a line of the authentication; None after the last one.
        self._line: bytearray | None = bytearray()
        self._talkers: dict[bytes, None] = {}
        # What the header of one who counts has in it somewhere; most of a flood is told by that.
        self._marks: tuple[bytes, ...] = (_BUS,)

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Return what is complete now. Raises StreamError."""
        if self._line is None:
            return super().feed(data)
        line = self._line
        line += data
        lines: list[bytes] = []
        # None of them begins like a message.
        while line and line[0] not in ORDERS:
            end = line.find(b"\r\n") + 2
            if end == 1:
                if len(line) > LENGTH_MAX:
                    raise StreamError("what comes from the bus is no line of the authentication")
                return lines
            lines.append(bytes(line[:end]))
            del line[:end]
        if not line:
            return lines
        self._line = None
        return lines + super().feed(line)

    def _look(self, kind: int, start: int, head: int) -> Fields | None:
        """Return the fields if it is an answer, or of one who has given us one."""
        if kind == _SIGNAL and not any(self._buffer.find(mark, start, head) >= 0 for mark in self._marks):
            return None
        fields = self._fields(start, head)
        # The bus puts it in itself. A header that has other fields than the specification's is not believed.
        sender: bytes = fields.get(_SENDER, b"") if fields.keys() <= TYPES.keys() else b""
        if sender == _BUS or sender in self._talkers:
            return fields
        if kind == _SIGNAL or not sender:
            return None
        self._talkers[sender] = None
        if len(self._talkers) > _TALKERS_MAX:
            del self._talkers[next(iter(self._talkers))]
        self._marks = (_BUS, *self._talkers)
        return fields

    def _take(self, whole: Whole) -> bytes:
        return bytes(self._buffer[whole.start : whole.end])
