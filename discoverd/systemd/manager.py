# SPDX-License-Identifier: Apache-2.0
"""systemd's manager object, through the lower half of pystemd: what its methods take is written here.

The upper half asks systemd for that with each connection, and takes the answer apart with lxml, which is larger than
all the rest of the unit agent.
"""

from collections.abc import Iterable
from typing import Any

from pystemd.dbuslib import DBus, apply_signature

Argument = tuple[int, Any]

_NAME, _PATH, _INTERFACE = (
    b"org.freedesktop.systemd1",
    b"/org/freedesktop/systemd1",
    b"org.freedesktop.systemd1.Manager",
)
# Signatures of what they take, as in org.freedesktop.systemd1(5).
_METHODS = {
    "KillUnit": b"ssi",
    "ListUnitsByNames": b"as",
    "ListUnitsByPatterns": b"asas",
    "StartUnit": b"ss",
    "StopUnit": b"ss",
}
# What pystemd has sd-bus append: containers by a letter and their contents, and their end.
_ARRAY, _STRUCT, _STRING, _VARIANT = (ord(letter) for letter in "arsv")
_END: Argument = (-1, None)


class Manager:
    """The methods that are used. ``bus`` is an open connection; they raise pystemd's DBusBaseError."""

    def __init__(self, bus: DBus) -> None:
        self._bus = bus

    def call(self, method: str, *arguments: Any) -> Any:
        """Call one of the methods that take simple arguments, texts as bytes; return what it returns."""
        return self._call(method, apply_signature(_METHODS[method], list(arguments)))

    def start_transient_unit(self, unit: bytes, mode: bytes, properties: Iterable[tuple[str, str, Any]]) -> Any:
        """Make and start a unit. Properties are name, signature and value; one that is given twice adds to itself."""
        arguments = apply_signature(b"ss", [unit, mode])
        arguments.append((_ARRAY, b"(sv)"))
        for name, signature, value in properties:
            arguments += [(_STRUCT, b"sv"), (_STRING, name.encode()), (_VARIANT, signature.encode())]
            arguments += [*apply_signature(signature.encode(), [value]), _END, _END]
        # No further units.
        arguments += [_END, (_ARRAY, b"(sa(sv))"), _END]
        return self._call("StartTransientUnit", arguments)

    def get_property(self, name: str, signature: str) -> Any:
        """Return a property of the manager's."""
        return self._bus.get_property(_NAME, _PATH, _INTERFACE, name.encode(), signature.encode())

    def _call(self, method: str, arguments: list[Argument]) -> Any:
        return self._bus.call_method(_NAME, _PATH, _INTERFACE, method.encode(), arguments).body
