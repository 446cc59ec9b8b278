# SPDX-License-Identifier: Apache-2.0
"""The process that talks to systemd through pystemd, on behalf of the supervisor.

pystemd is synchronous and never releases the interpreter's lock, so whoever calls it stands still for as
long as PID 1 is busy. This process may; the supervisor's loop may not. Requests and answers are lines of
JSON on standard input and output.

It does not use the bus, where any user can fill the queue in which an answer waits, but the socket on which systemd
listens for root (src/core/dbus.c, bus_init_private). systemd sends each such connection the signals about all units of
the host, so there is one only while there are requests.
"""

import errno
import json
import os
import select
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pystemd.dbusexc import DBusBaseError, DBusUnknownPropertyError
from pystemd.dbuslib import DBusAddress

from discoverd.systemd import failure
from discoverd.systemd.manager import Manager

PATTERN = b"nvme-ctrl@*.service"
PRIVATE = b"unix:path=/run/systemd/private"
_LOST = (
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ESHUTDOWN,
    errno.EPIPE,
    errno.EBADF,
    errno.ENOBUFS,
    errno.ENOMEM,
)
_READ_BYTES = 1 << 16
# A connection waits so long for a next request, and no more signals gather on it than come in this time.
LINGER_SECONDS = 0.05
KEPT_SECONDS = 1.0
# A systemd that is executed anew closes its connections, and listens again.
REOPEN_SECONDS = 10.0
REOPEN_PAUSE_SECONDS = 0.1


class Agent:
    """The operations, one method each, for use while it is entered. They raise DBusBaseError."""

    def __init__(self) -> None:
        self._connection = DBusAddress(PRIVATE, True)
        self._is_open = False
        self._manager = Manager(self._connection)

    def __enter__(self) -> "Agent":
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        # The library does not survive a second time.
        if self._is_open:
            self._is_open = False
            self._connection.close()

    def _open(self) -> None:
        """Connect, within the time in which a systemd that is executed anew listens again."""
        until = time.monotonic() + REOPEN_SECONDS
        while True:
            try:
                self._connection.open()
            except DBusBaseError:
                if time.monotonic() >= until:
                    raise
                time.sleep(REOPEN_PAUSE_SECONDS)
            else:
                self._is_open = True
                return

    def carry_out(self, operation: str, arguments: Sequence[Any]) -> Any:
        """Return the result of an operation; one during which systemd has gone is repeated, which does no harm."""
        until = time.monotonic() + REOPEN_SECONDS
        while True:
            try:
                return getattr(self, operation)(*arguments)
            except DBusBaseError as error:
                if abs(error.errno) not in _LOST or time.monotonic() >= until:
                    raise
                self.__exit__()
                time.sleep(REOPEN_PAUSE_SECONDS)
                self._open()

    def start(self, unit: str, properties: list[tuple[str, str, Any]]) -> str:
        """Start the unit, making it if need be. Returns what happened: started, running or masked."""
        native = [(name, signature, _native(signature, value)) for name, signature, value in properties]
        try:
            try:
                self._manager.start_transient_unit(unit.encode(), b"fail", native)
            except DBusBaseError as error:
                if abs(error.errno) != errno.EEXIST:
                    raise
                return self._start_loaded(unit)
        except DBusBaseError as error:
            if abs(error.errno) == errno.ERFKILL:
                return "masked"
            raise
        return "started"

    def _start_loaded(self, unit: str) -> str:
        listed = self.list([unit]).get(unit)
        if listed and listed["active"] in ("active", "activating", "reloading"):
            return "running"
        # Stopped, and loaded still because it is referenced; or failed.
        self._manager.call("StartUnit", unit.encode(), b"replace")
        return "started"

    def stop(self, unit: str) -> None:
        """Stop a unit."""
        self._manager.call("StopUnit", unit.encode(), b"replace")

    def signal(self, unit: str, number: int) -> None:
        """Send a signal to a unit's worker."""
        self._manager.call("KillUnit", unit.encode(), b"main", number)

    def soft_reboots(self) -> int:
        """Return how often user space was booted anew while the kernel went on; 0 where systemd cannot (before 254)."""
        try:
            return int(self._manager.get_property("SoftRebootsCount", "u"))
        except DBusUnknownPropertyError:
            return 0

    def list(self, units: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Return what systemd knows of the controllers' units, or of these only."""
        if units:
            rows = self._manager.call("ListUnitsByNames", [unit.encode() for unit in units])
        else:
            rows = self._manager.call("ListUnitsByPatterns", [], [PATTERN])
        return _described(rows)

    def others(self, units: Sequence[str], patterns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what systemd knows of these units of other tools, and of those that are loaded and fit a pattern."""
        rows = list(self._manager.call("ListUnitsByNames", [unit.encode() for unit in units]))
        if patterns:
            rows += self._manager.call("ListUnitsByPatterns", [], [pattern.encode() for pattern in patterns])
        return _described(rows)


def _described(rows: Iterable[Any]) -> dict[str, dict[str, Any]]:
    return {row[0].decode(): {"load": row[2].decode(), "active": row[3].decode(), "job": bool(row[7])} for row in rows}


def _native(signature: str, value: Any) -> Any:
    """Return a JSON value in the types that pystemd packs by ``signature``: bytes for text, tuples for structures."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        inner = signature[1:]
        items = [_native(inner, item) for item in value]
        return tuple(items) if signature.startswith("(") else items
    return value


class _Requests:
    """The requests on a descriptor, as they come."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def read(self, seconds: float | None) -> list[Any]:
        """Return those that are there, none if none comes in time. Raises EOFError when there are no more."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return []
        data = os.read(self._fd, _READ_BYTES)
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


def main() -> int:
    """Serve until standard input ends, or systemd cannot be asked any more."""
    requests = _Requests(sys.stdin.fileno())
    agent = Agent()
    try:
        while True:
            batch = requests.read(None)
            until = time.monotonic() + KEPT_SECONDS
            with agent:
                while batch:
                    for request in batch:
                        _serve(agent, request)
                    batch = requests.read(LINGER_SECONDS) if time.monotonic() < until else []
    except EOFError:
        return 0
    except DBusBaseError:
        return 1


def _serve(agent: Agent, request: Any) -> None:
    """Answer a request. Raises DBusBaseError if the connection is no use any more."""
    try:
        answer: dict[str, Any] = {"result": agent.carry_out(request["operation"], request["arguments"])}
    except DBusBaseError as error:
        if abs(error.errno) in _LOST:
            raise
        answer = {"error": failure.sentence(error)}
    print(json.dumps({"id": request["id"], **answer}), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
