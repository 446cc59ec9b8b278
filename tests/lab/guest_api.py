# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest, as whichever user: what discoverd's D-Bus interface tells and does for that user.

guest_api.py managed                     prints all objects, as JSON
guest_api.py call PATH INTERFACE MEMBER  calls a method without arguments; prints its answer, or the error's name
guest_api.py events SECONDS              prints signals as they come, a line of JSON for each
guest_api.py all COUNT                   asks for everything so many times at once; prints bytes and milliseconds
guest_api.py deaf SECONDS                asks for everything 100 times, and reads no answer
"""

import json
import sys
import time
from typing import Any

from jeepney import DBusAddress, MatchRule, message_bus, new_method_call
from jeepney.io.blocking import open_dbus_connection

NAME = "org.nvmexpress.discoverd1"
ROOT = "/org/nvmexpress/discoverd1"
MANAGER = "org.freedesktop.DBus.ObjectManager"
SECONDS = 60


def ask(path: str, interface: str, member: str) -> Any:
    """Return the message that calls a method."""
    return new_method_call(DBusAddress(path, bus_name=NAME, interface=interface), member)


def plain(value: Any) -> Any:
    """Return a value without the signatures of its variants."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and not isinstance(value[1], str):
        return plain(value[1])
    if isinstance(value, dict):
        return {key: plain(one[1]) if isinstance(one, tuple) else plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.hex() if isinstance(value, bytes) else value


def managed(bus: Any) -> None:
    reply = bus.send_and_get_reply(ask(ROOT, MANAGER, "GetManagedObjects"), timeout=SECONDS)
    print(json.dumps(plain(reply.body[0])))


def call(bus: Any, path: str, interface: str, member: str) -> None:
    reply = bus.send_and_get_reply(ask(path, interface, member), timeout=SECONDS)
    error = {number.name: value for number, value in reply.header.fields.items()}.get("error_name")
    print(error or json.dumps(plain(reply.body[0] if reply.body else None)))


def events(bus: Any, seconds: float) -> None:
    bus.send_and_get_reply(message_bus.AddMatch(MatchRule(type="signal", sender=NAME)), timeout=SECONDS)
    # Nothing is signalled before somebody has it started.
    bus.send_and_get_reply(ask(ROOT, "org.freedesktop.DBus.Peer", "Ping"), timeout=SECONDS)
    print("ready", flush=True)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            message = bus.receive(timeout=left)
        except TimeoutError:
            return
        fields = {number.name: value for number, value in message.header.fields.items()}
        print(json.dumps([fields.get("path"), fields.get("member"), [plain(one) for one in message.body]]), flush=True)


def everything(bus: Any, count: int) -> None:
    began = time.monotonic()
    serials = []
    for _ in range(count):
        serial = next(bus.outgoing_serial)
        bus.send(ask(ROOT, MANAGER, "GetManagedObjects"), serial=serial)
        serials.append(serial)
    size = 0
    while serials:
        message = bus.receive(timeout=SECONDS)
        fields = {number.name: value for number, value in message.header.fields.items()}
        if fields.get("reply_serial") in serials:
            serials.remove(fields["reply_serial"])
            size += message.header.body_length
    print(size, round((time.monotonic() - began) * 1000))


def deaf(bus: Any, seconds: float) -> None:
    for _ in range(100):
        bus.send(ask(ROOT, MANAGER, "GetManagedObjects"))
    print("asked", flush=True)
    time.sleep(seconds)


def main() -> None:
    bus = open_dbus_connection(bus="SYSTEM")
    verb, *arguments = sys.argv[1:]
    if verb == "managed":
        managed(bus)
    elif verb == "call":
        call(bus, *arguments)
    elif verb == "events":
        events(bus, float(arguments[0]))
    elif verb == "all":
        everything(bus, int(arguments[0]))
    else:
        deaf(bus, float(arguments[0]))


if __name__ == "__main__":
    main()
