# SPDX-License-Identifier: Apache-2.0
"""Discovery Information Management: this host registers with a discovery controller, and takes its leave.

NVMe Base Specification 2.0 (from TP8010): the data is a header of 1024 bytes and one extended discovery information
entry, with the host ID and the symbolic name as extended attributes. As libnvme, it gives no address: the controller
takes the one that the connection comes from, which is the only one that is right behind whatever is in between.
"""

import posix
from _struct import pack_into

from discoverd.kernel import admin

REGISTER, DEREGISTER = 0, 1

_DIM = 0x21
_HEADER_SIZE = 1024
_ENTRY_SIZE = 1032
_ONE_ENTRY, _EXTENDED, _HOST, _HOST_KEY = 1, 2, 1, 0x5F
_TCP = 3
_IPV4, _IPV6 = 1, 2
_HOST_ID, _SYMBOLIC_NAME = 1, 2
_NQN_SIZE, _NAME_SIZE, _VERSION_SIZE = 256, 256, 64
# What the specification allows for a symbolic name.
SYMNAME_SIZE = 256
_OS_RELEASE = "/etc/os-release"


class Host:
    """Who registers: its NQN, its ID (a UUID as text), its symbolic name or '', and the controller's address."""

    __slots__ = ("hostid", "hostnqn", "symname", "traddr")

    def __init__(self, hostnqn: str, hostid: str, symname: str, traddr: str) -> None:
        self.hostnqn = hostnqn
        self.hostid = hostid
        self.symname = symname
        self.traddr = traddr

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Host) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]


def payload(host: Host, name: str, version: str) -> bytearray:
    """Return the command's data; ``name`` and ``version`` are the host's own and its operating system's.

    Texts are ASCII: a character that is not becomes a question mark, and what is too long is cut. Raises AdminError for
    a host that cannot be registered: without an NQN, or with an ID that is no UUID.
    """
    nqn = host.hostnqn.encode("utf-8", "surrogateescape")
    if not nqn or len(nqn) >= _NQN_SIZE:
        raise admin.AdminError("the host NQN is missing or too long")
    try:
        hostid = bytes.fromhex(host.hostid.replace("-", ""))
    except ValueError:
        hostid = b""
    if len(hostid) != 16:
        raise admin.AdminError("the host ID is no UUID")
    attributes = [(_HOST_ID, hostid)]
    symname = _ascii(host.symname, SYMNAME_SIZE)
    if symname:
        attributes.append((_SYMBOLIC_NAME, symname + b" " * (-len(symname) % 4)))
    length = _ENTRY_SIZE + sum(4 + len(value) for _, value in attributes)
    data = bytearray(_HEADER_SIZE + length)
    pack_into("<I4xQHHxxH", data, 0, len(data), _ONE_ENTRY, _EXTENDED, _HOST, _HOST_KEY)
    _put(data, 24, nqn)
    _put(data, 280, _ascii(name, _NAME_SIZE - 1))
    _put(data, 536, _ascii(version, _VERSION_SIZE - 1))
    entry = _HEADER_SIZE
    pack_into("<BB", data, entry, _TCP, _IPV6 if ":" in host.traddr else _IPV4)
    _put(data, entry + 256, nqn)
    pack_into("<IH", data, entry + 1024, length, len(attributes))
    at = entry + _ENTRY_SIZE
    for kind, value in attributes:
        pack_into("<HH", data, at, kind, len(value))
        _put(data, at + 4, value)
        at += 4 + len(value)
    return data


def send(session: admin.Session, task: int, host: Host, timeout: float) -> None:
    """Register a host, or take it out. Raises AdminError for a refusal, OSError as admin.command. Blocks."""
    data = payload(host, posix.uname().nodename, _version())
    session.send(_DIM, data, task, timeout=timeout)


def _put(data: bytearray, at: int, value: bytes) -> None:
    data[at : at + len(value)] = value


def _ascii(text: str, size: int) -> bytes:
    return "".join(one if " " <= one <= "~" else "?" for one in text[:size]).encode()


def _version() -> str:
    """Return the kernel and the distribution, such as ``Linux 6.12.43 Debian GNU/Linux 13``."""
    system = posix.uname()
    parts = {"NAME": "", "VERSION_ID": ""}
    try:
        fd = posix.open(_OS_RELEASE, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            text = posix.read(fd, 8192).decode("utf-8", "replace")
        finally:
            posix.close(fd)
    except OSError:
        text = ""  # A system need not say which distribution it is.
    for line in text.split("\n"):
        key, _, value = line.partition("=")
        if key in parts:
            parts[key] = value.strip("\"' ")
    return " ".join(part for part in (system.sysname, system.release, *parts.values()) if part)
