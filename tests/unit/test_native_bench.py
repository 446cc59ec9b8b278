# SPDX-License-Identifier: Apache-2.0
"""The native benchmark's own parts: what it reads from the host, its table, and its stand-in for the fabrics device."""

import dataclasses
import socket
import struct
import threading
from pathlib import Path

import pytest

from discoverd.kernel import controllers, fabrics
from tests.bench import fabrics_device, native
from tests.bench.fabrics_device import ANSWER, OPEN, READ, RELEASE, REQUEST, WRITE, Controllers, Device
from tests.bench.namespaces import NativeError, Usage, hierarchy, mask, properties, usage
from tests.bench.native import BARE, DISCOVERD, Idle, Run

OPTIONS = {
    "nqn": "nqn.2024-08.com.example:vol1",
    "transport": "tcp",
    "traddr": "192.0.2.1",
    "trsvcid": "4420",
    "hostnqn": "nqn.2024-08.com.example:host",
    "hostid": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
}
TEXT = ",".join(f"{key}={value}" for key, value in OPTIONS.items())
V1 = "36 25 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu"
V2 = "42 25 0:31 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw"
RUN = Run(
    DISCOVERD,
    64,
    1.5,
    1.75,
    Usage(total=2.0, pid1=0.32, units=0.64, fork_server=0.064, supervisor=0.25, agent=0.125),
    {"worker": 1.5, "fork server": 2.5, "supervisor": 28.0, "agent": 16.0},
)
EMPTY = Run(BARE, 64, None, 0.5, Usage(1.0, 0.5, 0.5, 0.0, 0.0, 0.0), {})


# What the host shows ---------------------------------------------------------------------------------------


def test_cpu_stat_is_read_in_seconds() -> None:
    assert usage("usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n") == 2.5


def test_cpu_stat_without_usage_is_an_error() -> None:
    with pytest.raises(NativeError, match="no usage_usec"):
        usage("user_usec 2000000\n")


def test_version_2_of_the_control_groups_is_found_beside_version_1() -> None:
    assert hierarchy(f"{V1}\n{V2}\n") == Path("/sys/fs/cgroup/unified")


def test_host_without_version_2_of_the_control_groups_is_an_error() -> None:
    with pytest.raises(NativeError, match="version 2"):
        hierarchy(V1)


def test_units_that_systemctl_shows_are_told_apart() -> None:
    shown = "ActiveState=active\nEnvironment=A=1\n\nActiveState=failed\nEnvironment=\n"
    assert properties(shown) == [
        {"ActiveState": "active", "Environment": "A=1"},
        {"ActiveState": "failed", "Environment": ""},
    ]


def test_no_unit_is_shown() -> None:
    assert properties("\n") == []


def test_all_that_boots_and_is_not_needed_is_masked(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "etc/systemd/system", tmp_path / "usr/lib/systemd/system"
    for folder, unit in ((ours, "lab-agent.service"), (theirs, "systemd-sysctl.service"), (theirs, "dbus.socket")):
        (folder / "sysinit.target.wants").mkdir(parents=True, exist_ok=True)
        (folder / unit).touch()
        (folder / "sysinit.target.wants" / unit).symlink_to(folder / unit)
    mask(tmp_path)
    assert (ours / "lab-agent.service").readlink() == Path("/dev/null")
    assert (ours / "systemd-sysctl.service").readlink() == Path("/dev/null")
    assert not (ours / "dbus.socket").exists()


# The table -------------------------------------------------------------------------------------------------


def test_usage_between_two_moments_is_their_difference() -> None:
    later = dataclasses.replace(RUN.cpu, total=3.5, agent=0.25)
    assert later.since(RUN.cpu) == Usage(1.5, 0.0, 0.0, 0.0, 0.0, 0.125)


def test_cost_of_a_unit_has_no_supervisor_in_it() -> None:
    assert native.unit_cost(RUN) == pytest.approx(16.0)


def test_rounds_are_shown_by_their_medians() -> None:
    slow = dataclasses.replace(RUN, live=9.0, active=9.5, memory={**RUN.memory, "worker": 1.75})
    quick = dataclasses.replace(RUN, live=1.0, active=1.25, memory={**RUN.memory, "worker": 1.25})
    assert native.medians([slow, RUN, quick]) == [RUN]


def test_table_has_a_line_for_each_number_and_contender() -> None:
    more = dataclasses.replace(RUN, count=256)
    minute = Idle(64, 60.0, {"worker": 384, "supervisor": 0}, 0.1)
    assert native.table([more, EMPTY, RUN], [minute], 5).splitlines()[1:] == [
        "                           live s active s  ms/unit   CPU s   PID 1   units fork s. superv.   agent    rest",
        "64 units",
        "  empty program                       0.50     15.6    1.00    0.50    0.50    0.00    0.00    0.00    0.00",
        "  discoverd                  1.50     1.75     16.0    2.00    0.32    0.64    0.06    0.25    0.12    0.60",
        "256 units",
        "  discoverd                  1.50     1.75      4.0    2.00    0.32    0.64    0.06    0.25    0.12    0.60",
        "",
        "PSS in MiB                           worker  fork server   supervisor        agent",
        "  discoverd, 64                        1.50         2.50        28.00        16.00",
        "  discoverd, 256                       1.50         2.50        28.00        16.00",
        "",
        "wake-ups while nothing happens",
        "  64 controllers, 60 s: worker 384, supervisor 0; 100 ms CPU of all",
    ]


def test_what_did_not_run_has_no_memory_in_the_table() -> None:
    plain = dataclasses.replace(RUN, memory={"worker": 3.0, "supervisor": 28.0, "agent": 16.0})
    assert "            -" in list(native.memory_lines([plain]))[1]


# The stand-in ----------------------------------------------------------------------------------------------


def test_what_the_stand_in_has_connected_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "CLASS", str(tmp_path))
    assert Controllers(tmp_path, 0).connect(TEXT) == "instance=0,cntlid=1\n"
    (found,) = controllers.at_target(OPTIONS)
    assert (found.device, found.state, found.cntrltype) == ("nvme0", "live", "io")
    assert controllers.matches(OPTIONS, found)


def test_second_connect_of_the_same_controller_is_refused(tmp_path: Path) -> None:
    made = Controllers(tmp_path, 0)
    made.connect(TEXT)
    with pytest.raises(OSError, match="already") as refused:
        made.connect(TEXT)
    assert refused.value.errno == fabrics_device.EALREADY


def test_connect_without_a_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mandatory") as refused:
        Controllers(tmp_path, 0).connect("nqn=nqn.2024-08.com.example:vol1")
    assert refused.value.errno == fabrics_device.EINVAL


class Kernel:
    """The kernel's side of the stand-in's descriptor."""

    def __init__(self, folder: Path) -> None:
        self.connects = 0
        self._device = Device(Controllers(folder, 0), self._connected)
        self._unique = 0

    def _connected(self) -> None:
        self.connects += 1

    def ask(self, operation: int, body: bytes = b"") -> tuple[int, bytes]:
        """Return the errno and the answer."""
        self._unique += 1
        request = REQUEST.pack(REQUEST.size + len(body), operation, self._unique, 1, 0, 0, 0, 0, 0) + body
        answer = self._device.answer(request)
        size, error, unique = ANSWER.unpack_from(answer)
        assert (size, unique) == (len(answer), self._unique)
        return -error, answer[ANSWER.size :]

    def open(self) -> int:
        return int(struct.unpack_from("=Q", self.ask(OPEN)[1])[0])

    def read(self, file: int) -> str:
        return self.ask(READ, struct.pack("=QQI20x", file, 0, 4096))[1].decode()

    def write(self, file: int, text: str) -> tuple[int, bytes]:
        data = text.encode()
        return self.ask(WRITE, struct.pack("=QQI20x", file, 0, len(data)) + data)


def test_open_device_reads_what_its_own_write_has_connected(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    one, other = kernel.open(), kernel.open()
    assert kernel.write(one, TEXT) == (0, struct.pack("=II", len(TEXT), 0))
    assert kernel.write(other, TEXT.replace("vol1", "vol2"))[0] == 0
    assert kernel.read(one) == "instance=0,cntlid=1\n"
    assert kernel.read(other) == "instance=1,cntlid=2\n"
    assert kernel.connects == 2


def test_device_that_nothing_was_written_to_tells_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(tmp_path)
    device = tmp_path / "nvme-fabrics"
    device.write_text(kernel.read(kernel.open()))
    monkeypatch.setattr(fabrics, "DEVICE", str(device))
    assert OPTIONS.keys() <= (fabrics.supported() or set())


def test_refused_write_has_the_errno_and_counts_for_no_connect(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    assert kernel.write(kernel.open(), "nqn=x")[0] == fabrics_device.EINVAL
    assert kernel.connects == 0


def test_closed_device_is_forgotten_and_what_is_unknown_is_refused(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    file = kernel.open()
    assert kernel.ask(RELEASE, struct.pack("=Q16x", file)) == (0, b"")
    with pytest.raises(KeyError):
        kernel.read(file)
    assert kernel.ask(22) == (fabrics_device.ENOSYS, b"")


def test_target_of_the_stand_in_passes_the_probe() -> None:
    probe, target = socket.socketpair()
    serving = threading.Thread(target=fabrics_device.initialize, args=(target,))
    serving.start()
    with probe:
        fabrics._initialize(probe, 3)
    serving.join()
