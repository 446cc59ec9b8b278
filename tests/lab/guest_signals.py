# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest, as a user without rights: sends signals over the system bus to the connections of some processes.

`guest_signals.py SECONDS PID...`: as fast as the bus takes them, signals that look like systemd's, the bus's own and
Avahi's, with bodies small and large. Prints JSON: how many were sent, to how many connections. What D-Bus writes is in
the D-Bus Specification, "Message Protocol"; no module that a user's program would not have.
"""

import contextlib
import json
import os
import socket
import struct
import sys
import time

BUS = "/run/dbus/system_bus_socket"
DBUS, DBUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
MANAGER = "org.freedesktop.systemd1.Manager"
METHOD, SIGNAL = 1, 4
PATH, INTERFACE, MEMBER, DESTINATION, SIGNATURE = 1, 2, 3, 6, 8
LARGE = 100_000


def align(data: bytes, size: int) -> bytes:
    return data + bytes(-len(data) % size)


def string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw + b"\0"


def strings(*texts: str) -> bytes:
    body = b""
    for text in texts:
        body = align(body, 4) + string(text)
    return body


def message(kind: int, serial: int, fields: dict[int, str], body: bytes = b"") -> bytes:
    array = b""
    for code, text in fields.items():
        array = align(array, 8)
        if code == SIGNATURE:
            array += bytes([code]) + b"\x01g\0" + bytes([len(text)]) + text.encode() + b"\0"
        else:
            array += bytes([code]) + (b"\x01o\0" if code == PATH else b"\x01s\0")
            array = align(array, 4) + string(text)
    head = b"l" + bytes([kind, 0, 1]) + struct.pack("<III", len(body), serial, len(array))
    return align(head + array, 8) + body


class Bus:
    """One connection to the bus."""

    def __init__(self) -> None:
        self._serial = 0
        self._buffer = b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(BUS)
        self.socket.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        answer = self.socket.recv(4096)
        if not answer.startswith(b"OK"):
            sys.exit(f"the bus says {answer!r}")
        self.socket.sendall(b"BEGIN\r\n")
        self.call("Hello")

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            part = self.socket.recv(65536)
            if not part:
                sys.exit("the bus has closed the connection")
            self._buffer += part
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def call(self, member: str, *arguments: str) -> bytes:
        """Return the body of the bus's answer, whatever that is."""
        self._serial += 1
        fields = {PATH: DBUS_PATH, INTERFACE: DBUS, MEMBER: member, DESTINATION: DBUS}
        if arguments:
            fields[SIGNATURE] = "s" * len(arguments)
        self.socket.sendall(message(METHOD, self._serial, fields, strings(*arguments)))
        while True:
            head = self._read(16)
            size, _, array = struct.unpack_from("<III", head, 4)
            self._read(array + -array % 8)
            body = self._read(size)
            # An answer, or an error; signals come in between.
            if head[1] in (2, 3):
                return body if head[1] == 2 else b""

    def connections_of(self, processes: set[int]) -> list[str]:
        body = self.call("ListNames")
        found, offset = [], 4
        while offset < len(body):
            offset += -offset % 4
            (length,) = struct.unpack_from("<I", body, offset)
            name = body[offset + 4 : offset + 4 + length].decode()
            offset += 5 + length
            if name.startswith(":"):
                answer = self.call("GetConnectionUnixProcessID", name)
                if len(answer) == 4 and struct.unpack("<I", answer)[0] in processes:
                    found.append(name)
        return found


def signals(name: str) -> list[bytes]:
    """Return what is sent to a connection, again and again."""
    job = struct.pack("<I", 7) + strings("/org/freedesktop/systemd1/job/7")
    job = align(job, 4) + string("nvme-ctrl@tcp:192.0.2.1:4420:nqn.2024-08.com.example:vol1.service")
    kinds = (
        ("/org/freedesktop/systemd1", MANAGER, "JobRemoved", "uoss", align(job, 4) + string("done")),
        ("/org/freedesktop/systemd1", MANAGER, "Reloading", "b", struct.pack("<I", 0)),
        (DBUS_PATH, DBUS, "NameOwnerChanged", "sss", strings("org.freedesktop.systemd1", ":1.1", "")),
        (DBUS_PATH, DBUS, "NameOwnerChanged", "sss", strings("org.freedesktop.Avahi", ":1.1", "")),
        ("/a", "a.b", "Large", "s", string("x" * LARGE)),
    )
    made = []
    for path, interface, member, signature, body in kinds:
        fields = {PATH: path, INTERFACE: interface, MEMBER: member, DESTINATION: name, SIGNATURE: signature}
        made.append(message(SIGNAL, 9, fields, body))
    # Few that are large: as many as fit are small.
    return made[:-1] * 20 + made[-1:]


def main() -> None:
    seconds, processes = float(sys.argv[1]), {int(one) for one in sys.argv[2:]}
    bus = Bus()
    names = bus.connections_of(processes)
    print(json.dumps({"connections": len(names)}), flush=True)
    sent = 0
    rounds = [b"".join(signals(name)) for name in names]
    end = time.monotonic() + seconds
    bus.socket.setblocking(False)
    while rounds and time.monotonic() < end:
        for data in rounds:
            rest = memoryview(data)
            while rest and time.monotonic() < end:
                with contextlib.suppress(BlockingIOError):
                    # What the bus says about it nobody reads but to have room for more.
                    while bus.socket.recv(65536):
                        pass
                try:
                    rest = rest[bus.socket.send(rest) :]
                except BlockingIOError:
                    time.sleep(0.001)
            sent += 81
    print(json.dumps({"sent": sent}), flush=True)


if __name__ == "__main__":
    main()
