# SPDX-License-Identifier: Apache-2.0
"""NBFT tables to test with, byte for byte (NVM Express Boot Specification 1.0 §3; layout of libnvme's nbft.h).

Everything can be built wrong on purpose: ``raw`` replaces bytes of a descriptor at offsets of the descriptor.
"""

import ipaddress
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:12345678-1234-5678-9abc-def012345678"
HOSTID = bytes.fromhex("78563412341278569abcdef012345678")

Raw = Mapping[int, bytes]


def address(text: str) -> bytes:
    """Return 16 bytes, IPv4 mapped into IPv6; '' is all zero."""
    if not text:
        return bytes(16)
    parsed = ipaddress.ip_address(text)
    return parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed


@dataclass(frozen=True)
class Hfi:
    """A host fabric interface."""

    index: int = 1
    mac: str = "52:54:00:00:00:01"
    vlan: int = 0
    ip: str = "192.0.2.2"
    prefix: int = 24
    origin: int = 1
    dhcp: str = ""
    flags: int = 1
    info_flags: int = 1
    raw: Raw = field(default_factory=dict)
    info_raw: Raw = field(default_factory=dict)


@dataclass(frozen=True)
class Namespace:
    """A subsystem namespace descriptor. ``secondary`` None leaves the list of further interfaces out."""

    index: int = 1
    traddr: str = "192.0.2.1"
    trsvcid: str = "4420"
    nqn: str | bytes = "nqn.2024-08.com.example:vol1"
    hfi: int = 1
    secondary: Sequence[int] | None = ()
    discovery: int = 0
    security: int = 0
    flags: int = 1
    transport_flags: int = 1
    nsid: int = 1
    raw: Raw = field(default_factory=dict)


@dataclass(frozen=True)
class Discovery:
    """A discovery descriptor; without an NQN it stands for the well-known one."""

    index: int = 1
    uri: str = "nvme+tcp://192.0.2.1:8009/"
    nqn: str = ""
    hfi: int = 1
    security: int = 0
    flags: int = 1
    raw: Raw = field(default_factory=dict)


@dataclass(frozen=True)
class Security:
    """A security profile, with nothing in it."""

    index: int = 1


class _Heap:
    def __init__(self, start: int) -> None:
        self.start = start
        self.data = b""

    def put(self, content: bytes | str, *, text: bool = True) -> bytes:
        """Store it and return the reference; nothing for nothing."""
        content = content.encode() if isinstance(content, str) else content
        if not content:
            return bytes(6)
        reference = struct.pack("<IH", self.start + len(self.data), len(content))
        self.data += content + (b"\0" if text else b"")
        return reference


def table(
    hfis: Sequence[Hfi] = (Hfi(),),
    namespaces: Sequence[Namespace] = (Namespace(),),
    discoveries: Sequence[Discovery] = (),
    securities: Sequence[Security] = (),
    *,
    hostnqn: str | bytes = HOSTNQN,
    hostid: bytes = HOSTID,
    host_flags: int = 7,
    revision: tuple[int, int] = (1, 0),
    raw: Raw | None = None,
    fixed: bool = True,
) -> bytes:
    """Return a table. ``raw`` replaces bytes of the whole, and with ``fixed`` the checksum is right afterwards."""
    host_at = 128
    hfi_at = host_at + 32
    namespace_at = hfi_at + 32 * len(hfis)
    security_at = namespace_at + 128 * len(namespaces)
    discovery_at = security_at + 64 * len(securities)
    heap = _Heap(discovery_at + 32 * len(discoveries))

    host = bytes([2, host_flags]) + hostid + heap.put(hostnqn)
    body = host.ljust(32, b"\0")
    for hfi in hfis:
        body += _hfi(hfi, heap)
    for namespace in namespaces:
        body += _namespace(namespace, heap)
    for security in securities:
        body += bytes([5, security.index, 1, 0]).ljust(64, b"\0")
    for discovery in discoveries:
        body += _discovery(discovery, heap)

    lists = b"".join(
        struct.pack("<IHBB", start, size, 1, count)
        for start, size, count in (
            (hfi_at, 32, len(hfis)),
            (namespace_at, 128, len(namespaces)),
            (security_at, 64, len(securities)),
            (discovery_at, 32, len(discoveries)),
        )
    )
    control = struct.pack("<BBBxHBxIHxx", 1, 1, 0, 64, 1, host_at, 32) + lists
    total = heap.start + len(heap.data)
    header = struct.pack(
        "<4sIBB6s8sI4sIIIIHB",
        *(b"NBFT", total, revision[0], 0, b"LAB   ", b"DISCOVER", 1, b"LAB ", 1),
        *(heap.start, len(heap.data), 0, 0, revision[1]),
    )
    whole = _replaced(header.ljust(64, b"\0") + control.ljust(64, b"\0") + body + heap.data, raw or {})
    return checked(whole) if fixed else whole


def checked(data: bytes) -> bytes:
    """Return the table with the checksum that its bytes need."""
    if len(data) < 10:
        return data
    rest = sum(data) - data[9]
    return data[:9] + bytes([-rest % 256]) + data[10:]


def _hfi(hfi: Hfi, heap: _Heap) -> bytes:
    info = struct.pack("<BBBBHBI6sHB", 7, 1, 3, 1, hfi.index, hfi.info_flags, 0, _mac(hfi.mac), hfi.vlan, hfi.origin)
    info += address(hfi.ip) + bytes([hfi.prefix]) + bytes(16) + bytes(1 + 2 + 32) + address(hfi.dhcp)
    reference = heap.put(_replaced(info.ljust(128, b"\0"), hfi.info_raw), text=False)
    return _replaced((bytes([3, hfi.index, hfi.flags, 3]).ljust(16, b"\0") + reference).ljust(32, b"\0"), hfi.raw)


def _namespace(one: Namespace, heap: _Heap) -> bytes:
    data = struct.pack("<BHHBHBx", 4, one.index, one.flags, 3, one.transport_flags, one.discovery)
    data += heap.put(address(one.traddr), text=False) + heap.put(one.trsvcid)
    data += struct.pack("<HIB16sBB", 1, one.nsid, 0, bytes(16), one.security, one.hfi)
    data = data.ljust(48, b"\0")
    # An empty list is an object all the same: libnvme drops a descriptor without one.
    if one.secondary is None:
        data += bytes(6)
    else:
        data += struct.pack("<IH", heap.start + len(heap.data), len(one.secondary))
        heap.data += bytes(one.secondary)
    return _replaced((data + heap.put(one.nqn)).ljust(128, b"\0"), one.raw)


def _discovery(one: Discovery, heap: _Heap) -> bytes:
    data = bytes([6, one.flags, one.index, one.hfi, one.security, 0]) + heap.put(one.uri) + heap.put(one.nqn)
    return _replaced(data.ljust(32, b"\0"), one.raw)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _replaced(data: bytes, raw: Raw) -> bytes:
    for offset, new in raw.items():
        data = data[:offset] + new + data[offset + len(new) :]
    return data
