# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest, as a user without rights: sends signals to names on the system bus for so many seconds.

    guest_flood.py SECONDS NAME...

To each name from several connections, short ones and ones of a megabyte. Prints how many it has sent.
"""

import os
import select
import socket
import struct
import sys
import time

BUS = "/run/dbus/system_bus_socket"
LENGTHS = (0, 0, 0, 1 << 20, 1 << 20)
CALL, SIGNAL = 1, 4


def _text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode() + b"\0"


def _message(kind: int, destination: str, member: str, body: bytes | None = None) -> bytes:
    """Return a message as it goes over the bus; a body is an array of bytes."""
    interface, path = ("org.freedesktop.DBus", "/org/freedesktop/DBus") if kind == CALL else ("a.b", "/a")
    fields = b""
    given = [(1, "o", path), (2, "s", interface), (3, "s", member), (6, "s", destination)]
    for number, type_, value in given:
        fields += bytes(-len(fields) % 8) + bytes((number, 1)) + type_.encode() + b"\0" + _text(value)
    content = b""
    if body is not None:
        fields += bytes(-len(fields) % 8) + b"\x08\x01g\0\x02ay\0"
        content = struct.pack("<I", len(body)) + body
    return (
        struct.pack("<BBBBIII", ord("l"), kind, 0, 1, len(content), 7, len(fields))
        + fields
        + bytes(-len(fields) % 8)
        + content
    )


def _connect() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(BUS)
    connection.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
    connection.recv(1000)
    connection.sendall(b"BEGIN\r\n" + _message(CALL, "org.freedesktop.DBus", "Hello"))
    connection.recv(1000)
    connection.setblocking(False)
    return connection


def main() -> None:
    until = time.monotonic() + float(sys.argv[1])
    # By connection: a message over and over, and how much of it has been sent.
    messages: dict[socket.socket, tuple[bytes, int]] = {}
    for name in sys.argv[2:]:
        for length in LENGTHS:
            message = _message(SIGNAL, name, "C", bytes(length) if length else None)
            messages[_connect()] = message * max(1, 65536 // len(message)), len(message)
    sent = dict.fromkeys(messages, 0)
    while time.monotonic() < until:
        readable, writable, _ = select.select(messages, messages, [], 1)
        for connection in readable:
            # The bus's refusals.
            connection.recv(1 << 16)
        for connection in writable:
            batch, _ = messages[connection]
            try:
                sent[connection] += connection.send(memoryview(batch)[sent[connection] % len(batch) :])
            except BlockingIOError:
                continue
    print(sum(total // messages[connection][1] for connection, total in sent.items()))


if __name__ == "__main__":
    main()
