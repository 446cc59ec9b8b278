# SPDX-License-Identifier: Apache-2.0
"""The filter on a worker's uevent socket: its own controller's change and remove, and nothing else."""

import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import discoverd
from discoverd.kernel import uevents

Step = tuple[int, int, int, int]


def run(program: list[Step], packet: bytes) -> int:
    """Interpret a classic BPF program as the kernel does; returns how many bytes of the packet pass."""
    accumulator = position = 0
    while True:
        code, if_true, if_false, value = program[position]
        position += 1
        if code in (0x20, 0x30):
            size = 4 if code == 0x20 else 1
            if value + size > len(packet):
                return 0  # A load beyond the packet ends the program.
            accumulator = int.from_bytes(packet[value : value + size], "big")
        elif code == 0x15:
            position += if_true if accumulator == value else if_false
        elif code == 0x06:
            return value
        else:
            raise AssertionError(f"no such instruction: {code:#x}")


def uevent(action: str, device: str, subsystem: str = "nvme-fabrics/ctl", **properties: str) -> bytes:
    path = f"/devices/virtual/{subsystem}/{device}"
    texts = [f"{action}@{path}", f"ACTION={action}", f"DEVPATH={path}", "SUBSYSTEM=nvme"]
    texts += [f"{key}={value}" for key, value in properties.items()]
    return "".join(text + "\0" for text in texts).encode()


PASSES = [
    ("nvme3", uevent("change", "nvme3", NVME_AEN="0x70f002")),
    ("nvme3", uevent("change", "nvme3")),
    ("nvme3", uevent("remove", "nvme3")),
    ("nvme0", uevent("remove", "nvme0")),
    ("nvme12", uevent("remove", "nvme12")),
    ("nvme123", uevent("remove", "nvme123")),
    ("nvme1234", uevent("change", "nvme1234")),
    # Another word of six letters; it costs one look, and the kernel has no reason to send it.
    ("nvme3", uevent("unbind", "nvme3")),
]
STOPS = [
    ("nvme3", uevent("add", "nvme3")),
    ("nvme3", uevent("bind", "nvme3")),
    ("nvme3", uevent("change", "nvme4")),
    ("nvme3", uevent("change", "nvme33")),
    ("nvme33", uevent("change", "nvme3")),
    ("nvme3", uevent("change", "nvme3/nvme3n1")),
    ("nvme3", uevent("change", "nvme3/hwmon1")),
    ("nvme3", uevent("change", "nvme3", "block")),
    ("nvme3", uevent("change", "nvme3", "nvme-subsystem")),
    ("nvme3", b"change@/devices/pci0000:00/0000:00:04.0/nvme/nvme3\0ACTION=change\0"),
    ("nvme3", b"change@/devices/virtual/nvme-fabrics/ctl/nvme3"),
    ("nvme3", b"libudev\0\xfe\xed\xca\xfe" + bytes(60)),
    ("nvme3", b"change@"),
    ("nvme3", b"c"),
    ("", uevent("change", "nvme3")),
    ("", uevent("change", "")),
]
CASES = [(device, packet, True) for device, packet in PASSES] + [(device, packet, False) for device, packet in STOPS]


@pytest.mark.parametrize(("device", "packet", "passes"), CASES)
def test_by_the_rules(device: str, packet: bytes, passes: bool) -> None:
    assert run(uevents.program(device), packet) == (0xFFFFFFFF if passes else 0)


@pytest.mark.parametrize("device", ["nvme0", "nvme12", "nvme123", "nvme1234", "nvme12345"])
def test_each_byte_counts(device: str) -> None:
    packet = uevent("change", device)
    head = packet.index(b"\0") + 1
    for position in range(6, head):
        wrong = bytearray(packet)
        wrong[position] ^= 1
        assert run(uevents.program(device), bytes(wrong)) == 0
        assert run(uevents.program(device), packet[:position]) == 0


@pytest.mark.parametrize(("device", "packet", "passes"), CASES)
def test_in_the_kernel(device: str, packet: bytes, passes: bool) -> None:
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        code = b"".join(struct.pack("HBBI", *step) for step in uevents.program(device))
        receiver.setsockopt(socket.SOL_SOCKET, uevents._SO_ATTACH_FILTER, uevents._sock_fprog(code))
        receiver.setblocking(False)
        try:
            sender.send(packet)
        except BlockingIOError:
            pytest.fail("the filter let nothing through, the sender included")
        if passes:
            assert receiver.recv(8192) == packet
        else:
            with pytest.raises(BlockingIOError):
                receiver.recv(8192)


def test_address_of() -> None:
    import ctypes

    for data in (b"", b"x", bytes(range(256)) * 20):
        assert ctypes.string_at(uevents.address_of(data), len(data) + 1) == data + b"\0"


def test_a_program_is_within_the_kernels_limits() -> None:
    program = uevents.program("nvme12345")
    assert len(program) < 4096
    assert all(0 <= if_true < 256 and 0 <= if_false < 256 for _, if_true, if_false, _ in program)


def test_parse() -> None:
    event = uevents.parse(uevent("change", "nvme3", NVME_AEN="0x70f002", NVME_EVENT="rediscover"))
    assert event["ACTION"] == "change"
    assert event["NVME_AEN"] == "0x70f002"
    assert event["NVME_EVENT"] == "rediscover"


@pytest.mark.parametrize("data", [b"", b"\0", b"change@x", b"change@x\0\xff\xfe=\xff\0novalue\0=\0"])
def test_parse_takes_anything(data: bytes) -> None:
    assert all(isinstance(value, str) for value in uevents.parse(data).values())


class Netlink:
    """A uevent socket that gives what it is told to."""

    def __init__(self, *arrivals: tuple[bytes, tuple[int, int]] | OSError) -> None:
        self._arrivals = list(arrivals)

    def recvfrom(self, _: int) -> tuple[bytes, tuple[int, int]]:
        if not self._arrivals:
            raise BlockingIOError
        arrival = self._arrivals.pop(0)
        if isinstance(arrival, OSError):
            raise arrival
        return arrival


def drain(*arrivals: tuple[bytes, tuple[int, int]] | OSError) -> list[dict[str, str]]:
    listener = uevents.Uevents.__new__(uevents.Uevents)
    listener._socket = Netlink(*arrivals)  # type: ignore[assignment]
    return listener.drain()


def test_forged_uevent_is_not_heard() -> None:
    forged = (uevent("remove", "nvme3"), (4242, 1))
    real = (uevent("change", "nvme3"), (0, 1))
    assert [event["ACTION"] for event in drain(forged, real)] == ["change"]


def test_lost_events_are_an_event() -> None:
    events = drain(OSError(105, "No buffer space available"), (uevent("change", "nvme3"), (0, 1)))
    assert [event["ACTION"] for event in events] == ["overflow", "change"]


def test_another_error_is_one() -> None:
    with pytest.raises(OSError, match="broken"):
        drain(OSError(5, "broken"))


# In a network namespace of its own, where the kernel sends on the uevents that it is given (since Linux 4.18).
INSIDE = """
import select, socket, struct, sys
sys.path.insert(0, {package!r})
from discoverd.kernel import uevents

sender = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
plain = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 15)
plain.bind((0, 1))
listener = uevents.Uevents()

def tell(*events):
    '''Let the kernel send events, and print what arrives at a plain socket and at the listener.'''
    for action, device in events:
        path = f"/devices/virtual/nvme-fabrics/ctl/{{device}}"
        data = f"{{action}}@{{path}}\\0ACTION={{action}}\\0DEVPATH={{path}}\\0SUBSYSTEM=nvme\\0".encode()
        sender.send(struct.pack("=IHHII", 16 + len(data), 16, 1, 0, 0) + data)
    count = 0
    while select.select([plain], [], [], 0)[0]:
        plain.recv(8192)
        count += 1
    woken = bool(select.select([listener], [], [], 0)[0])
    print(count, int(woken), *(f"{{one['ACTION']}} {{one['DEVPATH'].rpartition('/')[2]}}" for one in listener.drain()))

EVENTS = [(action, device) for device in ("nvme3", "nvme4", "nvme33") for action in ("add", "change", "remove")]
{body}
"""


def inside(body: str) -> list[str]:
    """Run a body in a network namespace of its own and return the lines that it prints."""
    code = INSIDE.format(package=str(Path(discoverd.__file__).parent.parent), body=body)
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode and "unshare:" in done.stderr:
        pytest.skip(f"no network namespace here: {done.stderr.strip()[-100:]}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if all(line.startswith("0 ") for line in lines):
        pytest.skip("this kernel sends no uevents on")
    return lines


def test_real_socket_is_deaf_until_it_follows() -> None:
    assert inside("tell(*EVENTS)") == ["9 0"]


def test_real_socket_hears_the_controller_that_it_follows_only() -> None:
    lines = inside("""
listener.follow("nvme3")
tell(*EVENTS)
tell(("change", "nvme4"), ("change", "nvme33"), ("add", "nvme3"))
listener.follow("nvme33")
tell(*EVENTS)
listener.follow("")
tell(*EVENTS)
""")
    assert lines == ["9 1 change nvme3 remove nvme3", "3 0", "9 1 change nvme33 remove nvme33", "9 0"]
