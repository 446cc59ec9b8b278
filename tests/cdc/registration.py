# SPDX-License-Identifier: Apache-2.0
"""The data of a Discovery Information Management command (Base Specification 2.0 §5.9, TP8010).

Nothing that a host sends is overlooked: what is out of line raises :class:`RegistrationError`.
"""

import struct
import uuid
from dataclasses import dataclass

HEADER_SIZE = 1024
EXTENDED_SIZE = 1032
TASKS = ("register", "deregister", "update")
ENTITIES = {1: "host", 2: "ddc", 3: "cdc"}
HOST_ID, SYMBOLIC_NAME = 1, 2


class RegistrationError(Exception):
    """Data that no correct host sends; the text says what is wrong with it."""


@dataclass(frozen=True)
class Information:
    """One discovery information entry."""

    trtype: int
    adrfam: int
    nqn: str
    traddr: str
    trsvcid: str
    host_id: str | None = None
    symbolic_name: str | None = None


@dataclass(frozen=True)
class Registration:
    """What one command said. `raw` are all bytes of it."""

    task: str
    entity: str
    nqn: str
    name: str
    version: str
    port_local: bool
    key_type: int
    entry_format: int
    entries: tuple[Information, ...]
    raw: bytes

    @property
    def host_id(self) -> str | None:
        return next((entry.host_id for entry in self.entries if entry.host_id), None)

    @property
    def symbolic_name(self) -> str | None:
        return next((entry.symbolic_name for entry in self.entries if entry.symbolic_name is not None), None)


def parse(task: int, data: bytes) -> Registration:
    """Raises RegistrationError for data that is not exactly what the specification allows."""
    if task >= len(TASKS):
        raise RegistrationError(f"task {task}")
    if len(data) < HEADER_SIZE:
        raise RegistrationError(f"{len(data)} bytes are no header")
    total, count, form, entity, port_local, key = struct.unpack_from("<I4xQHHBxH", data)
    nqn, name, version = (_text(data, 24, 256), _text(data, 280, 256), _text(data, 536, 64))
    if total != len(data):
        raise RegistrationError(f"total length {total}, but {len(data)} bytes came")
    if form not in (1, 2):
        raise RegistrationError(f"entry format {form}")
    if entity not in ENTITIES:
        raise RegistrationError(f"entity type {entity}")
    if any(data[600:HEADER_SIZE]) or any(data[4:8]):
        raise RegistrationError("reserved bytes of the header are not zero")
    entries, offset = [], HEADER_SIZE
    for _ in range(count):
        entry, offset = _entry(data, offset, form)
        entries.append(entry)
    if offset != len(data):
        raise RegistrationError(f"{len(data) - offset} bytes after the last of {count} entries")
    return Registration(
        TASKS[task], ENTITIES[entity], nqn, name, version, bool(port_local), key, form, tuple(entries), data
    )


def _entry(data: bytes, offset: int, form: int) -> tuple[Information, int]:
    size = 1024 if form == 1 else EXTENDED_SIZE
    if len(data) - offset < size:
        raise RegistrationError(f"an entry at {offset} of {len(data)} bytes")
    trtype, adrfam = data[offset], data[offset + 1]
    texts = (_text(data, offset + 256, 256), _text(data, offset + 512, 256), _text(data, offset + 32, 32))
    if form == 1:
        return Information(trtype, adrfam, *texts), offset + size
    length, attributes = struct.unpack_from("<IH", data, offset + 1024)
    end = offset + length
    if length < size or length % 4 or end > len(data):
        raise RegistrationError(f"an entry of {length} bytes at {offset} of {len(data)}")
    position, host_id, symbolic_name = offset + size, None, None
    for _ in range(attributes):
        if end - position < 4:
            raise RegistrationError("an attribute outside its entry")
        kind, size = struct.unpack_from("<HH", data, position)
        value = data[position + 4 : position + 4 + size]
        position += 4 + size
        if size % 4 or position > end:
            raise RegistrationError(f"an attribute of type {kind} and {size} bytes")
        if kind == HOST_ID:
            if size != 16:
                raise RegistrationError(f"a host ID of {size} bytes")
            host_id = str(uuid.UUID(bytes=value))
        elif kind == SYMBOLIC_NAME:
            symbolic_name = _decode(value.rstrip(b"\0 "))
        else:
            raise RegistrationError(f"an attribute of type {kind}")
    if position != end:
        raise RegistrationError(f"{end - position} bytes after the last of {attributes} attributes")
    return Information(trtype, adrfam, *texts, host_id, symbolic_name), end


def _text(data: bytes, offset: int, size: int) -> str:
    text, _, rest = data[offset : offset + size].partition(b"\0")
    if any(rest):
        raise RegistrationError(f"bytes after the end of the text at {offset}")
    return _decode(text.rstrip(b" "))


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise RegistrationError(f"not UTF-8: {text!r}") from None
