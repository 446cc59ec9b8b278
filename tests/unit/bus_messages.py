# SPDX-License-Identifier: Apache-2.0
"""Messages as a bus hands them on: with the sender, which no client can say (D-Bus specification, "Message Format")."""

import struct

ANSWER, ERROR, SIGNAL, CALL = 2, 3, 4, 1


def text(value: str) -> bytes:
    """Return a text as a body has it."""
    return struct.pack("<I", len(value)) + value.encode() + b"\0"


def octets(value: bytes) -> bytes:
    """Return an array of bytes as a body has it."""
    return struct.pack("<I", len(value)) + value


def field(number: int, type_: str, value: bytes) -> bytes:
    """Return a field of a header, up to where the next one begins."""
    made = bytes((number, 1)) + type_.encode() + b"\0" + value
    return made + bytes(-len(made) % 8)


def framed(kind: int, fields: list[bytes], body: bytes = b"") -> bytes:
    """Return a message with these fields."""
    joined = b"".join(fields)
    # The last one is not filled up.
    size = len(joined.rstrip(b"\0")) + 1
    return struct.pack("<BBBBIII", ord("l"), kind, 0, 1, len(body), 9, size) + joined + body


def message(kind: int, sender: str, signature: str = "", body: bytes = b"", interface: str = "a.b") -> bytes:
    """Return a message of a kind from a sender, '' for none; an answer is one to the call with the serial number 7."""
    fields = [field(1, "o", text("/a/b")), field(2, "s", text(interface)), field(3, "s", text("C"))]
    if kind == ERROR:
        fields.append(field(4, "s", text("a.b.D")))
    if kind in (ANSWER, ERROR):
        fields.append(field(5, "u", struct.pack("<I", 7)))
    fields.append(field(6, "s", text(":1.5")))
    if signature:
        fields.append(field(8, "g", bytes((len(signature),)) + signature.encode() + b"\0"))
    if sender:
        fields.append(field(7, "s", text(sender)))
    return framed(kind, fields, body)
