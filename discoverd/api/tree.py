# SPDX-License-Identifier: Apache-2.0
"""The objects, and what of them is marshalled already.

Most questions are for everything, and most answers are the same as the one before but for an object or two. So each
object's entry in the answer is kept as it goes over the bus, and the whole answer until one of them changes: all who
ask at once are sent the same bytes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from discoverd.api import wire
from discoverd.api.interfaces import (
    CONTROLLERS,
    INTROSPECTABLE,
    OBJECT_MANAGER,
    OURS,
    PEER,
    PROPERTIES,
    ROOT,
    STANDARD,
    SUBSYSTEMS,
    introspection,
)

# What an object has: by interface, by property.
Properties = Mapping[str, Mapping[str, Any]]
Emit = Callable[[str, str, str, str, bytes], None]

_SIGNATURES = {one.name: dict(one.properties) for one in OURS.values()}
# An object with all its interfaces, as InterfacesAdded has it, and as an entry of the answer to GetManagedObjects.
_OBJECT = "oa{sa{sv}}"
_PARENTS = (CONTROLLERS, SUBSYSTEMS)


class Tree:
    """The objects by path. ``emit`` sends a signal: path, interface, member, signature and body."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._objects: dict[str, Properties] = {}
        self._entries: dict[str, bytes] = {}
        self._managed: bytes | None = None
        self._introspected: dict[str, str] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._objects or path in _PARENTS or any(one.startswith(_above(path)) for one in _PARENTS)

    def get(self, path: str) -> Properties:
        """Return the properties of an object, none where there is no such object, or nothing to know about it."""
        return self._objects.get(path, {})

    def put(self, path: str, now: Properties) -> None:
        """Have an object be as it is now, and tell who listens what has changed."""
        before = self._objects.get(path)
        if before == now:
            return
        self._objects[path] = now
        self._entries[path] = wire.element(f"({_OBJECT})", (path, _typed(now)))
        self._managed = None
        if before is None:
            self._introspected.clear()
            if path != ROOT:
                self._emit(ROOT, OBJECT_MANAGER, "InterfacesAdded", _OBJECT, self._entries[path])
            return
        self._tell_interfaces(path, before, now)
        for interface in now.keys() & before.keys():
            changed = {name: value for name, value in now[interface].items() if before[interface].get(name) != value}
            if changed:
                body = wire.marshal("sa{sv}as", interface, _variants(interface, changed), [])
                self._emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def _tell_interfaces(self, path: str, before: Properties, now: Properties) -> None:
        if added := {name: now[name] for name in now.keys() - before.keys()}:
            body = wire.marshal(_OBJECT, path, _typed(added))
            self._emit(ROOT, OBJECT_MANAGER, "InterfacesAdded", _OBJECT, body)
        if removed := sorted(before.keys() - now.keys()):
            self._emit(ROOT, OBJECT_MANAGER, "InterfacesRemoved", "oas", wire.marshal("oas", path, removed))
        if before.keys() != now.keys():
            self._introspected.clear()

    def drop(self, path: str) -> None:
        """Have an object be no more."""
        before = self._objects.pop(path, None)
        if before is not None:
            del self._entries[path]
            self._managed = None
            self._introspected.clear()
            self._emit(ROOT, OBJECT_MANAGER, "InterfacesRemoved", "oas", wire.marshal("oas", path, sorted(before)))

    def managed(self) -> bytes:
        """Return the body that answers GetManagedObjects: every object but the root, which manages them."""
        if self._managed is None:
            self._managed = wire.array([entry for path, entry in self._entries.items() if path != ROOT])
        return self._managed

    def all_of(self, path: str, interface: str) -> bytes:
        """Return the body that answers GetAll."""
        return wire.marshal("a{sv}", _variants(interface, self.get(path).get(interface, {})))

    def one_of(self, path: str, interface: str, name: str) -> bytes:
        """Return the body that answers Get. Raises KeyError where there is no such property."""
        return wire.marshal("v", (_SIGNATURES[interface][name], self.get(path)[interface][name]))

    def introspect(self, path: str) -> str:
        """Return the introspection data of an object, or of a path that leads to some."""
        # One for all that have the same interfaces and nothing below them.
        key = " ".join(self._objects[path]) if path in self._objects and path != ROOT else path
        text = self._introspected.get(key)
        if text is None:
            names = [INTROSPECTABLE, PEER, PROPERTIES] if path in self._objects else [INTROSPECTABLE, PEER]
            found = [STANDARD[name] for name in names]
            if path == ROOT:
                found.append(STANDARD[OBJECT_MANAGER])
            found += [OURS[name] for name in self.get(path)]
            text = introspection(found, self._below(path))
            # What leads to nothing is no object, and there is no end of that.
            if path in self:
                self._introspected[key] = text
        return text

    def _below(self, path: str) -> list[str]:
        """Return the names of what is right below a path."""
        if path in _PARENTS:
            prefix = path + "/"
            return sorted(one.removeprefix(prefix) for one in self._objects if one.startswith(prefix))
        above = _above(path)
        return sorted({one.removeprefix(above).partition("/")[0] for one in _PARENTS if one.startswith(above)})


def _above(path: str) -> str:
    """Return what all paths below one begin with."""
    return path if path.endswith("/") else path + "/"


def _variants(interface: str, properties: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    signatures = _SIGNATURES[interface]
    return {name: (signatures[name], value) for name, value in properties.items()}


def _typed(interfaces: Properties) -> dict[str, dict[str, tuple[str, Any]]]:
    return {name: _variants(name, properties) for name, properties in interfaces.items()}
