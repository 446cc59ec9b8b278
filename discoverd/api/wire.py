# SPDX-License-Identifier: Apache-2.0
"""Values and messages as they go over the bus. The one place that names jeepney, which does the marshalling.

Layout: D-Bus specification, "Message Format".
"""

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jeepney.low_level import Endianness, Header, HeaderFields, MessageFlag, MessageType, parse_signature

CALL, ANSWER, ERROR, SIGNAL = 1, 2, 3, 4
NO_REPLY, INTERACTIVE = 0x1, 0x4
# The fields of a header, by their number.
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)

_VERSION = 1
# What a body that is not as its signature says, or not as the specification does, ends in.
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, AssertionError, struct.error)
_NOTHING = b""


class WireError(ValueError):
    """Bytes that are not what they should be."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A message that came in. ``fields`` has the header's, texts as bytes; ``little`` is the order of its bytes."""

    kind: int
    flags: int
    serial: int
    fields: dict[int, Any]
    body: bytes
    little: bool

    def text(self, field: int) -> str:
        """Return a field that is a text, '' where there is none."""
        value: bytes = self.fields.get(field, _NOTHING)
        return value.decode("utf-8", "replace")

    def values(self, signature: str) -> tuple[Any, ...]:
        """Return the body's values. Raises WireError unless it has that signature."""
        if self.text(SIGNATURE) != signature:
            raise WireError(f"the signature is {self.text(SIGNATURE)!r}, and not {signature!r}")
        return unmarshal(signature, self.body, self.little)


@functools.cache
def _type(signature: str) -> Any:
    return parse_signature(list(signature))


@functools.cache
def _body_type(signature: str) -> Any:
    return parse_signature(list(f"({signature})"))


def marshal(signature: str, *values: Any) -> bytes:
    """Return a body with these values; arrays are lists, dictionaries dicts, structures tuples, variants pairs of
    signature and value."""
    data: bytes = _body_type(signature).serialise(values, 0, Endianness.little)
    return data


def element(signature: str, value: Any) -> bytes:
    """Return one value as it stands at a multiple of eight bytes."""
    data: bytes = _type(signature).serialise(value, 0, Endianness.little)
    return data


def array(elements: Sequence[bytes], before: bytes = b"") -> bytes:
    """Return a body that ends in an array of structures or dictionary entries, each marshalled by :func:`element`,
    after what comes ``before`` it."""
    filled = [one + bytes(-len(one) % 8) for one in elements[:-1]]
    joined = b"".join([*filled, *elements[-1:]])
    start = before + bytes(-len(before) % 4) + struct.pack("<I", len(joined))
    return start + bytes(-len(start) % 8) + joined


def unmarshal(signature: str, body: bytes, little: bool = True) -> tuple[Any, ...]:
    """Return the values in a body. Raises WireError."""
    order = Endianness.little if little else Endianness.big
    try:
        values: tuple[Any, ...] = _body_type(signature).parse_data(body, 0, order)[0]
    except _MALFORMED as error:
        raise WireError(f"it is not {signature!r}: {error!r}") from error
    return values


def message(
    kind: int, serial: int, fields: dict[int, Any], signature: str = "", body: bytes = b"", flags: int = 0
) -> list[bytes]:
    """Return a message in pieces: its header, and its body as it was given, so that many can share one."""
    named = {HeaderFields(number): value for number, value in fields.items()}
    if signature:
        named[HeaderFields.signature] = signature
    header: bytes = Header(
        Endianness.little, MessageType(kind), MessageFlag(flags), _VERSION, len(body), serial, named
    ).serialise()
    header += bytes(-len(header) % 8)
    return [header, body] if body else [header]
