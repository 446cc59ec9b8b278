# SPDX-License-Identifier: Apache-2.0
"""The process that talks to systemd through pystemd, on behalf of the supervisor.

pystemd is synchronous and never releases the interpreter's lock, so whoever calls it stands still for as
long as PID 1 is busy. This process may; the supervisor's loop may not. Requests and answers are lines of
JSON on standard input and output. Its connection to the bus also holds the references that keep stopped
units loaded: when it ends, they unload.
"""

import errno
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pystemd.dbusexc import DBusBaseError
from pystemd.dbuslib import DBus
from pystemd.systemd1 import Manager
from pystemd.systemd1.unit_signatures import KNOWN_UNIT_SIGNATURES

PATTERN = b"nvme-ctrl@*.service"
# ENOBUFS: the queue is full of messages that nobody asked for, which any user of the bus can send.
_LOST = (
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ESHUTDOWN,
    errno.EPIPE,
    errno.EBADF,
    errno.ENOBUFS,
    errno.ENOMEM,
)


class Agent:
    """The operations, one method each. They raise DBusBaseError."""

    def __init__(self) -> None:
        self._bus = DBus()
        self._bus.open()
        self._manager = Manager(bus=self._bus, _autoload=True).Manager

    def drain(self) -> None:
        """Drop the messages that came beside the answers: any user can send signals, and nothing else reads them."""
        while not self._bus.process().is_empty():
            pass

    def start(self, unit: str, properties: list[tuple[str, str, Any]]) -> str:
        """Start the unit, making it if need be. Returns what happened: started, running or masked."""
        values = {}
        for name, signature, value in properties:
            # Also where the package has one: for some it is that of reading the property, not of setting it.
            KNOWN_UNIT_SIGNATURES[name.encode()] = signature.encode()
            # A property that is set twice adds to the first; the package's table has room for one of each name.
            if name.encode() in values:
                values[b"_custom"] = (name.encode(), signature.encode(), _native(signature, value))
            else:
                values[name.encode()] = _native(signature, value)
        try:
            try:
                self._manager.StartTransientUnit(unit.encode(), b"fail", values)
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
        self._manager.StartUnit(unit.encode(), b"replace")
        return "started"

    def stop(self, unit: str) -> None:
        """Stop a unit."""
        self._manager.StopUnit(unit.encode(), b"replace")

    def signal(self, unit: str, number: int) -> None:
        """Send a signal to a unit's worker."""
        self._manager.KillUnit(unit.encode(), b"main", number)

    def soft_reboots(self) -> int:
        """Return how often user space was booted anew while the kernel went on; 0 where systemd cannot (before 254)."""
        return int(getattr(self._manager, "SoftRebootsCount", 0))

    def reference(self, unit: str) -> None:
        """Keep a unit that somebody else's connection made loaded while this one lives."""
        self._manager.RefUnit(unit.encode())

    def release(self, unit: str) -> None:
        """Let a unit be unloaded when it does not run."""
        self._manager.UnrefUnit(unit.encode())

    def list(self, units: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Return what systemd knows of the controllers' units, or of these only."""
        if units:
            rows = self._manager.ListUnitsByNames([unit.encode() for unit in units])
        else:
            rows = self._manager.ListUnitsByPatterns([], [PATTERN])
        return {
            row[0].decode(): {"load": row[2].decode(), "active": row[3].decode(), "job": bool(row[7])} for row in rows
        }


def _native(signature: str, value: Any) -> Any:
    """Return a JSON value in the types that pystemd packs by ``signature``: bytes for text, tuples for structures."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        inner = signature[1:]
        items = [_native(inner, item) for item in value]
        return tuple(items) if signature.startswith("(") else items
    return value


def _sentence(error: DBusBaseError) -> str:
    return (error.err_message or error.err_name or str(error).encode()).decode("utf-8", "replace")


def main() -> int:
    """Serve until standard input ends, or the bus does."""
    agent = Agent()
    for line in sys.stdin:
        request = json.loads(line)
        operation: Callable[..., Any] = getattr(agent, request["operation"])
        try:
            answer: dict[str, Any] = {"result": operation(*request["arguments"])}
        except DBusBaseError as error:
            answer = {"error": _sentence(error)}
            if abs(error.errno) in _LOST:
                return 1
        print(json.dumps({"id": request["id"], **answer}), flush=True)  # noqa: T201
        try:
            agent.drain()
        except DBusBaseError:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
