# SPDX-License-Identifier: Apache-2.0
"""systemd as discoverctl asks it: units, their properties and jobs, synchronously through pystemd.

Each call blocks until PID 1 has answered, for up to the 25 seconds of sd-bus.
"""

import errno
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from discoverd import packages
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.unit import Unit
from discoverd.systemd import failure
from discoverd.tid import UNIT_PREFIX, UNIT_SUFFIX

try:
    from pystemd.dbusexc import DBusBaseError
    from pystemd.dbuslib import DBus, apply_signature
except ImportError as missing:
    sys.exit(f"discoverctl: {packages.missing(missing)}")

_NAME = b"org.freedesktop.systemd1"
_PATH = b"/org/freedesktop/systemd1"
_MANAGER = b"org.freedesktop.systemd1.Manager"
_UNIT = b"org.freedesktop.systemd1.Unit"
_SERVICE = b"org.freedesktop.systemd1.Service"

_NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
_MASKED = "org.freedesktop.systemd1.UnitMasked"


class UnitNotLoaded(Exception):  # noqa: N818  # It is a state of things as much as an error.
    """systemd has no unit of this name, and no file to make one from."""


class UnitMasked(Exception):  # noqa: N818
    """The unit is masked, so it cannot be started."""


class Systemd:
    """A connection to systemd. The methods raise CliError where systemd cannot be asked or refuses."""

    def __init__(self) -> None:
        self._bus = DBus()
        try:
            self._bus.open()
        except DBusBaseError as error:
            raise CliError(f"cannot talk to systemd: {failure.sentence(error)}; see: systemctl status dbus") from None

    def controllers(self) -> list[Unit]:
        """Return the units of all controllers that systemd has loaded, with their status."""
        pattern = f"{UNIT_PREFIX}*{UNIT_SUFFIX}".encode()
        found = [
            unit for unit in self._list(b"ListUnitsByPatterns", b"asas", [], [pattern]) if unit.load != "not-found"
        ]
        return [replace(unit, status=self.status(unit)) for unit in found]

    def units(self, names: Iterable[str]) -> dict[str, Unit]:
        """Return these units by name, loading them if need be; one that does not exist has the load state not-found."""
        rows = self._list(b"ListUnitsByNames", b"as", [name.encode() for name in names])
        return {unit.name: unit for unit in rows}

    def matching(self, patterns: Iterable[str]) -> dict[str, Unit]:
        """Return the loaded units that fit one of some patterns, by name."""
        asked = [pattern.encode() for pattern in patterns]
        # None at all would stand for all units.
        rows = self._list(b"ListUnitsByPatterns", b"asas", [], asked) if asked else []
        return {unit.name: unit for unit in rows}

    def status(self, unit: Unit) -> str:
        """Return the status line of a service, '' where it has said nothing."""
        try:
            text: bytes = self._property(unit.path, _SERVICE, b"StatusText", b"s")
        except DBusBaseError:
            return ""  # It was unloaded meanwhile.
        return text.decode("utf-8", "replace")

    def main_pid(self, unit: Unit) -> int:
        """Return the number of a service's main process, 0 where there is none."""
        try:
            return int(self._property(unit.path, _SERVICE, b"MainPID", b"u"))
        except DBusBaseError:
            return 0  # There is no such unit, or not any more.

    def names(self, unit: Unit, relation: str) -> set[str]:
        """Return the names or paths in a property that lists some, such as ``After`` or ``DropInPaths``."""
        try:
            found = self._property(unit.path, _UNIT, relation.encode(), b"as")
        except DBusBaseError as error:
            raise CliError(f"cannot ask systemd about {unit.name}: {failure.sentence(error)}; try again") from None
        return {name.decode("utf-8", "replace") for name in found}

    def file_state(self, unit: str) -> str:
        """Return what is said about a unit's file, such as ``enabled`` or ``masked``; '' where there is none."""
        try:
            body = self._call(b"GetUnitFileState", b"s", unit.encode())
        except DBusBaseError:
            return ""
        return str(body.decode())

    def start(self, unit: str) -> int:
        """Queue the start of a unit; return the number of the job. Raises UnitNotLoaded and UnitMasked too."""
        return self._job(b"StartUnit", unit)

    def stop(self, unit: str) -> int:
        """Queue the stop of a unit; return the number of the job. Raises UnitNotLoaded too."""
        return self._job(b"StopUnit", unit)

    def restart(self, unit: str) -> int:
        """Queue the restart of a unit, which starts one that is stopped; return the number of the job.

        Raises UnitNotLoaded and UnitMasked too.
        """
        return self._job(b"RestartUnit", unit)

    def reload(self, unit: str) -> int:
        """Queue the reload of a unit's configuration; return the number of the job. Raises UnitNotLoaded too."""
        return self._job(b"ReloadUnit", unit)

    def reset_failed(self, unit: str) -> None:
        """Make a failed unit inactive. One that is not loaded has nothing to reset."""
        try:
            self._call(b"ResetFailedUnit", b"s", unit.encode())
        except DBusBaseError as error:
            if failure.name(error) != _NO_SUCH_UNIT:
                raise CliError(f"cannot reset {unit}: {failure.sentence(error)}; try: systemctl reset-failed") from None

    def jobs(self) -> set[int]:
        """Return the numbers of all jobs that are queued or under way."""
        try:
            return {row[0] for row in self._call(b"ListJobs", b"")}
        except DBusBaseError as error:
            raise CliError(
                f"cannot list the jobs of systemd: {failure.sentence(error)}; see: systemctl list-jobs"
            ) from None

    def _job(self, method: bytes, unit: str) -> int:
        try:
            path = self._call(method, b"ss", unit.encode(), b"replace")
        except DBusBaseError as error:
            name = failure.name(error)
            if name == _NO_SUCH_UNIT:
                raise UnitNotLoaded(unit) from None
            if name == _MASKED:
                raise UnitMasked(unit) from None
            denied = abs(error.errno) in (errno.EACCES, errno.EPERM)
            exit_status = Exit.NOT_PERMITTED if denied else Exit.FAILED
            raise CliError(
                f"systemd refuses: {failure.sentence(error)}; see: systemctl status '{unit}'", exit_status
            ) from None
        return int(path.rpartition(b"/")[2])

    def _list(self, method: bytes, signature: bytes, *arguments: object) -> list[Unit]:
        try:
            rows = self._call(method, signature, *arguments)
        except DBusBaseError as error:
            raise CliError(f"cannot list the units: {failure.sentence(error)}; try again") from None
        texts = [[part.decode("utf-8", "replace") for part in (row[0], *row[2:5], row[6])] for row in rows]
        return [
            Unit(name, load, active, sub, bool(row[7]), path)
            for row, (name, load, active, sub, path) in zip(rows, texts, strict=True)
        ]

    def _call(self, method: bytes, signature: bytes, *arguments: object) -> Any:
        packed = apply_signature(signature, list(arguments)) if signature else []
        return self._bus.call_method(_NAME, _PATH, _MANAGER, method, packed).body

    def _property(self, path: str, interface: bytes, name: bytes, signature: bytes) -> Any:
        return self._bus.get_property(_NAME, path.encode(), interface, name, signature)
