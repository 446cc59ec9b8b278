# SPDX-License-Identifier: Apache-2.0
"""Kernel uevents of one controller, filtered in the kernel.

A host with n controllers sends n times the events, and a process that listens to all wakes up for each: n
workers would make it quadratic. A uevent begins with ``ACTION@DEVPATH`` and a NUL, constant text per
controller, so a classic BPF filter on the socket (socket(7), SO_ATTACH_FILTER) passes a worker its own
controller's only.
"""

import _socket
from _struct import pack

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_SO_ATTACH_FILTER = 26

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_LOAD_BYTE = 0x30  # BPF_LD | BPF_B | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K


def program(device: str) -> list[tuple[int, int, int, int]]:
    """Return the filter that passes ``change`` and ``remove`` of the fabrics controller ``device``, or
    nothing for ''.

    Both words have six letters, so the path stands at the same offset; ``add`` is not wanted and falls
    through.
    """
    if not device:
        return [(_RETURN, 0, 0, 0)]
    path = f"@/devices/virtual/nvme-fabrics/ctl/{device}\0".encode()
    checks = []
    offset = 6
    while len(path) >= 4:
        checks.append((_LOAD_WORD, offset, int.from_bytes(path[:4], "big")))
        path = path[4:]
        offset += 4
    for byte in path:
        checks.append((_LOAD_BYTE, offset, byte))
        offset += 1
    code = []
    for index, (load, position, value) in enumerate(checks):
        code.append((load, 0, 0, position))
        # On a mismatch jump over the remaining checks and the accepting return.
        code.append((_JUMP_EQUAL, 0, 2 * (len(checks) - index - 1) + 1, value))
    return [*code, (_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)]


class Uevents:
    """A socket that delivers one controller's uevents.

    It is deaf until :meth:`follow` names the controller.
    """

    def __init__(self) -> None:
        flags = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        self._socket = _socket.socket(16, flags, _NETLINK_KOBJECT_UEVENT)
        self.follow("")
        self._socket.bind((0, _KERNEL_GROUP))

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def follow(self, device: str) -> None:
        """Deliver the events of ``device`` from now on, and nothing for ''."""
        code = b"".join(pack("HBBI", *step) for step in program(device))
        self._socket.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, _sock_fprog(code))

    def drain(self) -> list[dict[str, str]]:
        """Return the events that have arrived, oldest first; an overflow is the event ``{"ACTION": "overflow"}``."""
        events: list[dict[str, str]] = []
        while True:
            try:
                data, sender = self._socket.recvfrom(8192)
            except BlockingIOError:
                return events
            except OSError as error:
                if error.errno != 105:  # ENOBUFS: events were lost, and sysfs has to tell
                    raise
                events.append({"ACTION": "overflow"})
                continue
            # Only the kernel has port 0; a local user could send us a forged one from another.
            if sender[0] == 0:
                events.append(parse(data))


def parse(data: bytes) -> dict[str, str]:
    """Return the properties of a kernel uevent."""
    properties = {}
    for part in data.split(b"\0")[1:]:
        key, equals, value = part.decode("utf-8", "replace").partition("=")
        if equals:
            properties[key] = value
    return properties


def _sock_fprog(code: bytes) -> bytes:
    return pack("HxxxxxxP", len(code) // 8, address_of(code))


def address_of(data: bytes) -> int:
    """Return where the content of a bytes object is in memory: inside the object, before a closing NUL (CPython)."""
    address: int = id(data) + data.__sizeof__() - len(data) - 1
    return address
