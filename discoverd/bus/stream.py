# SPDX-License-Identifier: Apache-2.0
"""A bus's byte stream, taken apart into messages: what is not for us is dropped by its header, and never kept.

Layout: D-Bus specification, "Message Format".
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

# What a message begins with: the order of its bytes.
_LITTLE, _BIG = ord("l"), ord("B")
ORDERS = (_LITTLE, _BIG)
# Byte order, type, flags, version, length of the body, serial, length of the header's fields.
_FIXED = {_LITTLE: struct.Struct("<BBBBIII"), _BIG: struct.Struct(">BBBBIII")}
_FIXED_SIZE = 16
_NUMBERS = {_LITTLE: struct.Struct("<I"), _BIG: struct.Struct(">I")}
_TEXTS, _SIGNATURE, _NUMBER = b"so", ord("g"), ord("u")
# The types of the fields that the specification knows, by their number.
TYPES = dict(zip(range(1, 10), b"osssussgu", strict=True))

# The values of a header's fields by their number, texts as bytes.
Fields = dict[int, Any]
Taken = TypeVar("Taken")


class StreamError(ValueError):
    """The stream is none of a bus."""


class Whole(NamedTuple):
    """A message in the buffer: what its header says, and where there it begins, its body does, and it ends."""

    kind: int
    flags: int
    serial: int
    fields: Fields
    little: bool
    start: int
    content: int
    end: int


class Stream(ABC, Generic[Taken]):
    """Takes the stream as it comes, and gives back what is for us, each message whole.

    ``limits`` has the most bytes that a message may have, by its type; a message of another type is not for us.
    ``dropped`` counts the messages that were not for us.
    """

    def __init__(self, limits: Mapping[int, int]) -> None:
        self._limits = limits
        self._buffer = bytearray()
        # How many bytes of the message that is being dropped are still to come.
        self._skip = 0
        self.dropped = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[Taken]:
        """Return what is complete now. Raises StreamError."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return []
        buffer = self._buffer
        buffer += data[self._skip :] if self._skip else data
        self._skip = 0
        taken: list[Taken] = []
        start = 0
        while start < len(buffer) and (end := self._message(start, taken)):
            start = end
        # What is skipped reaches beyond what is there.
        self._skip = max(0, start - len(buffer))
        del buffer[:start]
        return taken

    def _message(self, start: int, taken: list[Taken]) -> int:
        """Take a message; return where it ends, perhaps beyond what is there, 0 if more of it has to come first."""
        buffer = self._buffer
        order = buffer[start]
        if order not in ORDERS:
            raise StreamError("what comes from the bus is no message")
        if len(buffer) - start < _FIXED_SIZE:
            return 0
        kind: int
        flags: int
        body: int
        serial: int
        size: int
        _, kind, flags, _, body, serial, size = _FIXED[order].unpack_from(buffer, start)
        head = start + _FIXED_SIZE + size
        content = start + _FIXED_SIZE + (size + 7 & ~7)
        end = content + body
        if end - start > self._limits.get(kind, 0):
            self.dropped += 1
            return end
        if len(buffer) < head:
            return 0
        fields = self._look(kind, start, head)
        if fields is None:
            self.dropped += 1
            return end
        if len(buffer) < end:
            return 0
        taken.append(self._take(Whole(kind, flags, serial, fields, order == _LITTLE, start, content, end)))
        return end

    @abstractmethod
    def _look(self, kind: int, start: int, head: int) -> Fields | None:
        """Return the fields of the header between these places of the buffer, None if its message is not for us.

        Of a message that comes in pieces it is asked with each of them.
        """

    @abstractmethod
    def _take(self, whole: Whole) -> Taken:
        """Return a message as it is to be given back; it is in the buffer no longer than that."""

    def _fields(self, start: int, head: int) -> Fields:
        """Return the fields of a header, none where anything in it is not as specified: the bus hands on no such."""
        buffer, number = self._buffer, _NUMBERS[self._buffer[start]]
        found: Fields = {}
        position = start + _FIXED_SIZE
        while position < head:
            # Each begins at a multiple of eight: its number, its type as a text of one character, its value.
            if position + 5 > head or buffer[position + 1] != 1 or buffer[position + 3]:
                return {}
            key, type_, value = buffer[position], buffer[position + 2], position + 4
            if TYPES.get(key, type_) != type_:
                return {}
            if type_ == _SIGNATURE:
                value, size = value + 1, buffer[value] + 1
            elif value + 4 > head:
                return {}
            elif type_ == _NUMBER:
                size = 4
            elif type_ in _TEXTS:
                value, size = value + 4, number.unpack_from(buffer, value)[0] + 1
            else:
                return {}
            if value + size > head:
                return {}
            if type_ == _NUMBER:
                found[key] = number.unpack_from(buffer, value)[0]
            else:
                found[key] = bytes(buffer[value : value + size - 1])
            position = start + (value + size - start + 7 & ~7)
        return found
