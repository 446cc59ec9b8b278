#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The stand-in for /dev/nvme-fabrics in the native benchmark: `fabrics_device.py MILLISECONDS`.

What is measured is the installed discoverd, with nothing in it exchanged: so the stand-in is a file that the kernel
asks us about (FUSE, include/uapi/linux/fuse.h), and the worker's open, write and read are system calls that block, as
with the real device. A character device of ours (CUSE) would be one of the host's, in /dev and sysfs of everybody; and
a module in place of the one that opens the device would be work of the worker's that no real worker has.

As in the kernel (drivers/nvme/host/fabrics.c, nvmf_dev_mutex), one connects at a time, for so many milliseconds. What
it has connected has a directory where sysfs has controllers, which is a tmpfs here. Targets answer as far as a worker
asks them before it connects: with an ICResp.

Prints a line when it is there, and the time of each connect (monotonic clock) when it has ended.
"""

import contextlib
import ctypes
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

DEVICE = "/dev/nvme-fabrics"
CLASS = Path("/sys/class/nvme")
ADDRESS, PORT = "192.0.2.1", 4420

# What a kernel 6.12 prints (nvmf_dev_show).
OPTIONS = (
    "instance=-1,cntlid=-1,transport=%s,traddr=%s,trsvcid=%s,nqn=%s,queue_size=%d,nr_io_queues=%d,reconnect_delay=%d,"
    "ctrl_loss_tmo=%d,keep_alive_tmo=%d,hostnqn=%s,host_traddr=%s,host_iface=%s,hostid=%s,duplicate_connect,"
    "disable_sqflow,hdr_digest,data_digest,nr_write_queues=%d,nr_poll_queues=%d,tos=%d,keyring=%d,tls_key=%d,"
    "fast_io_fail_tmo=%d,discovery,dhchap_secret=%s,dhchap_ctrl_secret=%s,tls\n"
)
EINVAL, ENOSYS, EALREADY = 22, 38, 114

REQUEST = struct.Struct("=IIQQIIIHH")
ANSWER = struct.Struct("=IiQ")
FORGET, GETATTR, OPEN, READ, WRITE, RELEASE, INIT, BATCH_FORGET = 2, 3, 14, 15, 16, 18, 26, 42
# FOPEN_DIRECT_IO, FOPEN_NOFLUSH: each read and write is asked for, and a close is not.
OPEN_FLAGS = 1 | 1 << 5
WRITE_HEADER = 40
MAX_WRITE = 1 << 16
FOREVER = 1 << 30


def attributes(options: Mapping[str, str]) -> dict[str, str]:
    """The files that sysfs has for a controller that was connected with these options."""
    address = {key: options[key] for key in ("traddr", "trsvcid", "host_traddr", "host_iface") if key in options}
    address["src_addr"] = options.get("host_traddr", options["traddr"])
    return {
        "transport": options["transport"],
        "address": ",".join(f"{key}={value}" for key, value in address.items()),
        "subsysnqn": options["nqn"],
        "hostnqn": options.get("hostnqn", ""),
        "hostid": options.get("hostid", ""),
        "cntrltype": "discovery" if "discovery" in options else "io",
        "state": "live",
    }


class Controllers:
    """The controllers that were connected, each with a directory below ``folder``."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._connected: set[tuple[str, ...]] = set()

    def connect(self, text: str) -> str:
        """Connects, and returns what can be read from the device then. Raises OSError."""
        options = {key: value for key, _, value in (one.partition("=") for one in text.strip().split(","))}
        if not {"transport", "traddr", "nqn"} <= options.keys():
            raise OSError(EINVAL, "a mandatory option is missing")
        identity = tuple(options.get(key, "") for key in ("transport", "traddr", "trsvcid", "nqn", "hostnqn", "hostid"))
        if identity in self._connected:
            raise OSError(EALREADY, "it is connected already")
        time.sleep(self._seconds)
        number = len(self._connected)
        self._connected.add(identity)
        # Workers that look meanwhile find all of it or nothing.
        partial = self._folder / f".nvme{number}"
        partial.mkdir()
        for name, value in attributes(options).items():
            (partial / name).write_text(value + "\n")
        partial.rename(self._folder / f"nvme{number}")
        return f"instance={number},cntlid={number + 1}\n"


class Device:
    """Answers the kernel's requests about one file; the methods for operations return the answer or raise OSError."""

    def __init__(self, controllers: Controllers, connected: Callable[[], None]) -> None:
        self._controllers = controllers
        self._connected = connected
        self._opened = 0
        # What each open file reads next.
        self._replies: dict[int, str] = {}
        self._operations = {
            INIT: self._init,
            GETATTR: self._attributes,
            OPEN: self._open,
            READ: self._read,
            WRITE: self._write,
            RELEASE: self._release,
        }

    def answer(self, request: bytes) -> bytes:
        """Returns the answer to a request, b'' where there is none."""
        _, operation, unique, *_ = REQUEST.unpack_from(request)
        if operation in (FORGET, BATCH_FORGET):
            return b""
        error, body = 0, b""
        try:
            if operation not in self._operations:
                raise OSError(ENOSYS, "not needed")
            body = self._operations[operation](request[REQUEST.size :])
        except OSError as failure:
            error = failure.errno or EINVAL
        return ANSWER.pack(ANSWER.size + len(body), -error, unique) + body

    def _init(self, _: bytes) -> bytes:
        return struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, MAX_WRITE, 1, 0, 0, 0)

    def _attributes(self, _: bytes) -> bytes:
        inode, mode, links = 1, 0o100600, 1
        return struct.pack("=QII6Q10I", FOREVER, 0, 0, inode, *[0] * 8, mode, links, 0, 0, 0, 4096, 0)

    def _open(self, _: bytes) -> bytes:
        self._opened += 1
        self._replies[self._opened] = OPTIONS
        return struct.pack("=QII", self._opened, OPEN_FLAGS, 0)

    def _read(self, body: bytes) -> bytes:
        file, _, size = struct.unpack_from("=QQI", body)
        return self._replies[file].encode()[:size]

    def _write(self, body: bytes) -> bytes:
        file, _, size = struct.unpack_from("=QQI", body)
        self._replies[file] = self._controllers.connect(body[WRITE_HEADER:][:size].decode())
        self._connected()
        return struct.pack("=II", size, 0)

    def _release(self, body: bytes) -> bytes:
        (file,) = struct.unpack_from("=Q", body)
        del self._replies[file]
        return b""


def mount() -> int:
    """Puts the file where the device would be, and returns the descriptor of its requests. Raises OSError."""
    requests = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={requests},rootmode=100000,user_id=0,group_id=0"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"nvme-fabrics", DEVICE.encode(), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "cannot mount the stand-in", DEVICE)
    return requests


def initialize(connection: socket.socket) -> None:
    """Answers the ICReq with which a worker finds out whether a target speaks NVMe/TCP."""
    with connection, contextlib.suppress(OSError):
        request = connection.recv(128, socket.MSG_WAITALL)
        # The same length and digests.
        connection.sendall(b"\1\0\x80\0" + request[4:8] + b"\0\0\0" + request[11:12] + bytes(116))


def listen() -> None:
    listener = socket.create_server((ADDRESS, PORT), backlog=4096)

    def serve() -> None:
        while True:
            initialize(listener.accept()[0])

    threading.Thread(target=serve, daemon=True).start()


def main() -> int:
    device = Device(Controllers(CLASS, float(sys.argv[1]) / 1000), lambda: print(time.monotonic(), flush=True))
    requests = mount()
    listen()
    print("ready", flush=True)
    while True:
        try:
            request = os.read(requests, MAX_WRITE + 4096)
        except InterruptedError:
            continue
        except OSError:
            return 0  # It was unmounted.
        if answer := device.answer(request):
            # Who asked may have been killed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                os.write(requests, answer)


if __name__ == "__main__":
    sys.exit(main())
