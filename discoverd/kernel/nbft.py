# SPDX-License-Identifier: Apache-2.0
"""The NVMe Boot Firmware Table: which namespaces firmware booted from, or tried to, and through which interfaces.

Layout: NVM Express Boot Specification 1.0 §3 and its ACPI header, as libnvme's nbft.h has it. Firmware is trusted more
than a network peer, and not enough to read past the end: every reference is checked against the table's heap.
"""

import ipaddress
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# Larger than any that fits what the lists can count; /sys names the size before it is read.
SIZE_MAX = 1 << 20

_HEADER = struct.Struct("<4sIBB26xII6xB")
_HEADER_SIZE = 64
_CONTROL = struct.Struct("<BB4xB")
_CONTROL_AT = 64
_CONTROL_SIZE = 64
_LIST = struct.Struct("<IHxB")
_REFERENCE = struct.Struct("<IH")

# Kinds of descriptors, their sizes, and where they have their flags (of two bytes, the first).
_HOST, _HFI, _NAMESPACE, _DISCOVERY, _HFI_INFO = 2, 3, 4, 6, 7
_SIZES = {_HOST: 32, _HFI: 32, _NAMESPACE: 128, _DISCOVERY: 32, _HFI_INFO: 128}
_FLAGS_AT = {_HOST: 1, _HFI: 2, _NAMESPACE: 3, _DISCOVERY: 1, _HFI_INFO: 6}
# Where the control descriptor has its lists. The one of security profiles is not read: that there is one is enough.
_HFIS_AT, _NAMESPACES_AT, _DISCOVERIES_AT = 16, 24, 40

_TCP = 3
_VALID = 0x1
_USE_SECURITY = 0x4
_AVAILABILITY, _UNAVAILABLE = 0x180, 0x100
_HEADER_DIGEST, _DATA_DIGEST = 0x2, 0x4
_DHCP_OVERRIDE, _AUTOCONF = 0x4, 0x8
# Origins of an address, as in ACPI's tables of boot firmware.
_ORIGIN_DHCP, _ORIGIN_ADVERTISED = 3, 4
_VLAN_MAX = 4094


class NbftError(ValueError):
    """A table that cannot be used at all; the text says which field is wrong, and how."""


class _BadDescriptorError(ValueError):
    """A descriptor that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Hfi:
    """A host fabric interface: a network interface as firmware had set it up.

    ``mac`` is six bytes, all zero where firmware says nothing. ``vlan`` is 0, and ``address`` '', without one.
    ``dynamic``: the address came from a DHCP server or a router, and may be another one by now.
    """

    index: int
    mac: bytes
    vlan: int
    address: str
    dynamic: bool


@dataclass(frozen=True, slots=True)
class Namespace:
    """A subsystem namespace, and the interfaces that lead to it: the primary one first, each once.

    ``discovery`` is the index of the discovery descriptor that it was found with, or 0. ``security`` tells that a
    security profile belongs to it, ``unavailable`` that firmware could not reach it.
    """

    index: int
    traddr: str
    trsvcid: str
    subsysnqn: str
    hfis: tuple[int, ...]
    discovery: int
    security: bool
    unavailable: bool
    header_digest: bool
    data_digest: bool


@dataclass(frozen=True, slots=True)
class Discovery:
    """A discovery controller. ``subsysnqn`` is '' for the well-known name."""

    index: int
    uri: str
    subsysnqn: str
    hfi: int
    security: bool


@dataclass(frozen=True, slots=True)
class Table:
    """What a table says. Texts are as they stand there, and nobody has looked yet whether they are valid names.

    ``hostid`` is 16 bytes as they stand there. ``faults`` has each descriptor that was dropped: which one, and why.
    """

    hostnqn: str
    hostid: bytes
    hfis: dict[int, Hfi]
    namespaces: tuple[Namespace, ...]
    discoveries: tuple[Discovery, ...]
    faults: tuple[tuple[str, str], ...]


def parse(data: bytes) -> Table:
    """Take a table apart. A descriptor that is wrong is dropped by itself. Raises NbftError, and nothing else."""
    return _Reader(data).table()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._faults: list[tuple[str, str]] = []
        if len(data) < _CONTROL_AT + _CONTROL_SIZE:
            raise NbftError(f"its size: {len(data)} bytes are too few for a header and a control descriptor")
        signature, length, major, _, self._heap, heap_length, minor = _HEADER.unpack_from(data)
        if signature != b"NBFT":
            raise NbftError(f"its signature: {signature!r} is not that of an NBFT")
        if not _CONTROL_AT + _CONTROL_SIZE <= length <= len(data):
            raise NbftError(f"its length: {length} is given, and it has {len(data)} bytes")
        if sum(data) % 256:
            raise NbftError(f"its checksum: the bytes add up to {sum(data) % 256}, not to 0")
        if major != 1 or minor > 1:
            raise NbftError(f"its revision: {major}.{minor} is unknown")
        self._end = length
        self._heap_end = self._heap + heap_length
        if self._heap < _HEADER_SIZE or self._heap_end > length:
            raise NbftError(f"its heap: bytes {self._heap} to {self._heap_end} are not all in its {length} bytes")
        control, version, flags = _CONTROL.unpack_from(data, _CONTROL_AT)
        if control != 1 or version != 1 or not flags & _VALID:
            raise NbftError(
                f"its control descriptor: id {control}, version {version} and flags {flags:#x} are not valid"
            )

    def table(self) -> Table:
        try:
            hostnqn, hostid = self._host()
        except _BadDescriptorError as error:
            self._faults.append(("the host descriptor", str(error)))
            hostnqn, hostid = "", bytes(16)
        hfis = {one.index: one for one in self._list("interface", _HFI, _HFIS_AT, self._hfi)}
        discoveries = self._list("discovery descriptor", _DISCOVERY, _DISCOVERIES_AT, self._discovery)
        namespaces = self._list("namespace", _NAMESPACE, _NAMESPACES_AT, self._namespace)
        return Table(hostnqn, hostid, hfis, tuple(namespaces), tuple(discoveries), tuple(self._faults))

    # Descriptors -------------------------------------------------------------------------------------------

    def _list(self, what: str, kind: int, at: int, read: Callable[[bytes], T]) -> list[T]:
        """Return what a list of the control descriptor holds. Raises NbftError where the list itself is wrong."""
        start, stride, count = _LIST.unpack_from(self._data, _CONTROL_AT + at)
        if not count:
            return []
        if stride < _SIZES[kind]:
            raise NbftError(f"its list of {what}s: entries of {stride} bytes are too small")
        if start < _CONTROL_AT + _CONTROL_SIZE or start + stride * count > self._end:
            raise NbftError(f"its list of {what}s: {count} entries of {stride} bytes at {start} are not all in it")
        found = []
        for number in range(count):
            raw = self._data[start + number * stride :][: _SIZES[kind]]
            if not raw[_FLAGS_AT[kind]] & _VALID:
                continue  # A place in the list that firmware left empty.
            try:
                _check(raw, kind)
                found.append(read(raw))
            except _BadDescriptorError as error:
                self._faults.append((f"{what} {number + 1} of {count}", str(error)))
        return found

    def _host(self) -> tuple[str, bytes]:
        start, size = _REFERENCE.unpack_from(self._data, _CONTROL_AT + 8)
        if size < _SIZES[_HOST] or start < _CONTROL_AT + _CONTROL_SIZE or start + size > self._end:
            raise _BadDescriptorError(f"{size} bytes at {start} are too few, or not all in the table")
        raw = self._data[start : start + _SIZES[_HOST]]
        _check(raw, _HOST)
        return self._text(raw, 18, "host NQN"), raw[2:18]

    def _hfi(self, raw: bytes) -> Hfi:
        _known_transport(raw[3])
        info = self._object(raw, 16, "transport information")
        if len(info) < _SIZES[_HFI_INFO] or info[1] != 1:
            raise _BadDescriptorError("its transport information is too short, or of an unknown version")
        _check(info, _HFI_INFO)
        _known_transport(info[2])
        vlan = int.from_bytes(info[17:19], "little")
        if vlan > _VLAN_MAX:
            raise _BadDescriptorError(f"its VLAN {vlan} does not exist")
        dynamic = (
            any(info[88:104])
            or bool(info[6] & (_DHCP_OVERRIDE | _AUTOCONF))
            or info[19] in (_ORIGIN_DHCP, _ORIGIN_ADVERTISED)
        )
        return Hfi(raw[1], info[11:17], vlan, _address(info[20:36]), dynamic)

    def _namespace(self, raw: bytes) -> Namespace:
        _known_transport(raw[5])
        flags = int.from_bytes(raw[3:5], "little")
        transport_flags = int.from_bytes(raw[6:8], "little")
        if not transport_flags & _VALID:
            # What they say besides is then not said.
            transport_flags = 0
        packed = self._object(raw, 10, "address")
        if len(packed) != 16:
            raise _BadDescriptorError(f"its address has {len(packed)} bytes, and 16 are expected")
        hfis = [raw[46]]
        if any(raw[52:54]):
            hfis += self._object(raw, 48, "list of further interfaces")
        return Namespace(
            index=int.from_bytes(raw[1:3], "little"),
            traddr=_address(packed),
            trsvcid=self._text(raw, 16, "port"),
            subsysnqn=self._text(raw, 54, "NQN"),
            hfis=tuple(dict.fromkeys(hfis)),
            discovery=raw[8],
            security=bool(flags & _USE_SECURITY or raw[45]),
            unavailable=flags & _AVAILABILITY == _UNAVAILABLE,
            header_digest=bool(transport_flags & _HEADER_DIGEST),
            data_digest=bool(transport_flags & _DATA_DIGEST),
        )

    def _discovery(self, raw: bytes) -> Discovery:
        return Discovery(raw[2], self._text(raw, 6, "address"), self._text(raw, 12, "NQN"), raw[3], bool(raw[4]))

    # The heap ----------------------------------------------------------------------------------------------

    def _object(self, raw: bytes, at: int, what: str) -> bytes:
        """Return what a reference points to, b'' for none."""
        start, size = _REFERENCE.unpack_from(raw, at)
        if not size:
            return b""
        if start < self._heap or start + size > self._heap_end:
            raise _BadDescriptorError(f"its {what} ({size} bytes at {start}) is not in the table's heap")
        return self._data[start : start + size]

    def _text(self, raw: bytes, at: int, what: str) -> str:
        """Return a text of the heap, up to a NUL in it: firmware counts the NUL at the end or does not."""
        try:
            return self._object(raw, at, what).partition(b"\0")[0].decode()
        except UnicodeDecodeError:
            raise _BadDescriptorError(f"its {what} is not valid UTF-8") from None


def _check(raw: bytes, kind: int) -> None:
    if raw[0] != kind:
        raise _BadDescriptorError(f"its id is {raw[0]}, and {kind} is expected")
    if not raw[_FLAGS_AT[kind]] & _VALID:
        raise _BadDescriptorError("it is not marked as valid")


def _known_transport(number: int) -> None:
    if number != _TCP:
        raise _BadDescriptorError(f"its transport type {number} is unknown; a table can have {_TCP} (TCP) only")


def _address(packed: bytes) -> str:
    """Return an address in its short form, an IPv4-mapped one as IPv4, and '' for one that is all zero."""
    parsed = ipaddress.IPv6Address(packed)
    found = parsed.ipv4_mapped or parsed
    return "" if found.is_unspecified else str(found)
