# SPDX-License-Identifier: Apache-2.0
"""The end of a disconnect: what was written is written back, and what has come meanwhile is judged."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from discoverd.kernel import block, claims, controllers, disconnect, fabrics, locks, usage
from discoverd.kernel.disconnect import Answer
from discoverd.kernel.openers import UnknownError
from discoverd.kernel.usage import User

from .fake_kernel import until
from .fake_storage import Storage, install


class Host(Storage):
    """Storage whose page cache can be written back; what happens, in turn."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.events: list[str] = []
        # Of the flush of these devices.
        self.errors: dict[str, OSError] = {}
        # Set when the target answers again.
        self.answers = threading.Event()
        self.answers.set()
        self.dirty = True

    def write_back(self, fd: int, request: int) -> int:
        assert request == 0x1261
        if self.dirty:
            self.answers.wait(20)
        self.events.append(f"written {self.opened[fd]}")
        return 0

    def fsync(self, fd: int) -> None:
        self.answers.wait(20)
        if error := self.errors.get(self.opened[fd]):
            raise error
        self.events.append(f"lasting {self.opened[fd]}")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path)
    install(made, monkeypatch)
    posix = SimpleNamespace(**{**vars(vars(claims)["posix"]), "fsync": made.fsync})
    for module, name, value in (
        (disconnect, "posix", posix),
        (disconnect, "fcntl", SimpleNamespace(ioctl=made.write_back, flock=lambda *_: None, LOCK_EX=2, LOCK_NB=4)),
        (locks, "take", lambda *_: os.open(os.devnull, os.O_RDONLY)),
        (controllers, "sysfs_inode", lambda _: 7),
        (fabrics, "delete", lambda *_: made.events.append("deleted")),
    ):
        monkeypatch.setattr(module, name, value)
    made.controller("nvme0")
    made.namespace("nvme0n1", "nvme0")
    yield made
    # A thread that was left behind must not go on in the next test.
    made.answers.set()
    until(lambda: not made.opened)


def run(judged: list[dict[str, list[User]]] | None = None) -> Answer:
    def judge(used: dict[str, list[User]]) -> Answer | None:
        if judged is not None:
            judged.append(used)
        return Answer(disconnect.REFUSE, disconnect.phrase(usage.everybody(used)))

    return disconnect.disconnect("nvme0", 7, 1, judge, lambda: None)


def test_write_back_begins_at_the_top(host: Host) -> None:
    host.partition("nvme0n1p1", "nvme0n1")
    host.device("dm-0", "nvme0n1p1")
    assert run().verdict == disconnect.DISCONNECTED
    names = ["dm-0", "nvme0n1p1", "nvme0n1"]
    assert host.events == [*(f"written {name}" for name in names), *(f"lasting {name}" for name in names), "deleted"]
    assert (host.ours, host.opened) == ({}, {})


def test_an_error_is_no_disconnect(host: Host) -> None:
    host.errors["nvme0n1"] = OSError(errno.EIO, "Input/output error")
    with pytest.raises(disconnect.UnwrittenError, match=r"/dev/nvme0n1 cannot be written back \(Input/output error\)"):
        run()
    assert "deleted" not in host.events


@pytest.fixture
def volume(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A partitioned MD on a logical volume, which lies on the namespaces of two subsystems; its flush fails."""
    monkeypatch.setattr(disconnect, "_REMOVAL_SECONDS", 0.2)
    host.device("sdx")
    host.device("dm-0", "nvme0n1", "sdx")
    host.device("md0", "dm-0")
    host.partition("md0p1", "md0")
    host.errors = {name: OSError(errno.EIO, "Input/output error") for name in ("dm-0", "md0", "md0p1")}
    return host


def test_half_of_a_volume_is_disconnected_after_the_other(volume: Host) -> None:
    """The kernel has no good flush of the whole any more, and what is left of it has been flushed."""
    os.unlink(volume.sys / "class/block/sdx")
    assert run().verdict == disconnect.DISCONNECTED
    names = ["md0p1", "md0", "dm-0", "nvme0n1"]
    assert volume.events == [*(f"written {name}" for name in names), "lasting nvme0n1", "deleted"]


def test_half_of_a_volume_that_is_just_going(volume: Host) -> None:
    """The kernel has it fail before it is gone from sysfs."""
    timer = threading.Timer(0.1, os.unlink, (volume.sys / "class/block/sdx",))
    timer.start()
    assert run().verdict == disconnect.DISCONNECTED
    timer.join()


def test_volume_whose_flush_fails_though_all_of_it_is_there(volume: Host) -> None:
    with pytest.raises(disconnect.UnwrittenError, match="/dev/md0p1 cannot be written back"):
        run()
    assert "deleted" not in volume.events


def test_half_of_a_volume_that_cannot_be_flushed_itself(volume: Host) -> None:
    os.unlink(volume.sys / "class/block/sdx")
    volume.errors["nvme0n1"] = OSError(errno.EIO, "Input/output error")
    with pytest.raises(disconnect.UnwrittenError, match="/dev/nvme0n1 cannot be written back"):
        run()
    assert "deleted" not in volume.events


@pytest.mark.parametrize("dirty", [True, False])
def test_a_silent_target(host: Host, monkeypatch: pytest.MonkeyPatch, dirty: bool) -> None:
    """It can be disconnected all the same if there is nothing to write."""
    monkeypatch.setattr(disconnect, "WRITE_BACK_TIMEOUT_SECONDS", 0.2 if dirty else 20)
    monkeypatch.setattr(disconnect, "FLUSH_TIMEOUT_SECONDS", 0.1)
    host.dirty = dirty
    host.answers.clear()
    try:
        if dirty:
            with pytest.raises(disconnect.UnwrittenError, match="cannot be written back; its target is silent"):
                run()
        else:
            assert run().verdict == disconnect.DISCONNECTED
        assert ("deleted" in host.events) != dirty
    finally:
        host.answers.set()


def test_controller_being_connected_is_not_flushed(host: Host) -> None:
    (host.sys / "devices/nvme0/state").write_text("connecting\n")
    run()
    assert host.events == ["written nvme0n1", "deleted"]


def test_with_another_path_nothing_goes(host: Host) -> None:
    host.controller("nvme1")
    (host.sys / "devices/nvme1/nvme0c1n1").mkdir()
    run()
    assert host.events == ["deleted"]


def test_a_namespace_that_appears_meanwhile_is_judged(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """And claimed, and written back."""
    keep_udev_out = vars(disconnect)["_keep_udev_out"]

    def appears(namespaces: list[str], held: claims.Claims) -> list[int]:
        if not (host.sys / "class/block/nvme0n2").exists():
            host.namespace("nvme0n2", "nvme0")
            host.mount("nvme0n2", "/data")
        return list(keep_udev_out(namespaces, held))

    monkeypatch.setattr(disconnect, "_keep_udev_out", appears)
    judged: list[dict[str, list[User]]] = []
    assert (run(judged).verdict, [list(used) for used in judged]) == (disconnect.REFUSE, [["nvme0n2"]])
    host.unmount("/data")
    run()
    assert host.events == ["written nvme0n1", "written nvme0n2", "lasting nvme0n1", "lasting nvme0n2", "deleted"]


def test_a_namespace_that_appears_at_the_very_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "_write_back", lambda *_: host.namespace("nvme0n2", "nvme0"))
    with pytest.raises(UnknownError, match="it has just got nvme0n2"):
        run()
    assert host.events == []


def test_an_export_by_the_kernels_own_target_is_a_use(host: Host) -> None:
    folder = host.sys / "kernel/config/nvmet/subsystems/nqn.x/namespaces/1"
    folder.mkdir(parents=True)
    (folder / "device_path").write_text("/dev/nvme0n1\n")
    (folder / "enable").write_text("1\n")
    assert run().text == "/dev/nvme0n1, exported by the NVMe target: nqn.x"


def test_the_claim_is_locked_itself(host: Host) -> None:
    held = claims.Claims()
    assert held.take(block.stack("nvme0n1")) == []
    assert vars(disconnect)["_keep_udev_out"](["nvme0n1"], held) == []
    held.keep(set())
    (opened,) = vars(disconnect)["_keep_udev_out"](["nvme0n1"], held)
    host.close(opened)
    host.open_errors["nvme0n1"] = errno.EMFILE
    with pytest.raises(OSError, match="Too many open files"):
        vars(disconnect)["_keep_udev_out"](["nvme0n1"], held)
