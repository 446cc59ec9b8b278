# SPDX-License-Identifier: Apache-2.0
"""What is written to the fabrics device, and whether a target can be reached at all."""

import errno
import os
import posix
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from discoverd.kernel import controllers, fabrics

OPTIONS = [("nqn", "nqn.a"), ("transport", "tcp"), ("dhchap_secret", "x"), ("tos", "3"), ("hdr_digest", "")]


def test_options_that_the_kernel_lacks_are_left_out_unless_they_matter() -> None:
    assert fabrics.connect_string(OPTIONS, None) == "nqn=nqn.a,transport=tcp,dhchap_secret=x,tos=3,hdr_digest"
    assert fabrics.lacking(OPTIONS, None) == []
    known = {"nqn", "transport", "tos"}
    assert fabrics.connect_string(OPTIONS, known) == "nqn=nqn.a,transport=tcp,dhchap_secret=x,tos=3"
    assert fabrics.lacking(OPTIONS, known) == ["hdr_digest"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_target_that_listens_is_reached(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = str(server.getsockname()[1])
        fabrics.reach({"transport": "tcp", "traddr": address, "trsvcid": port, "host_traddr": address})
    with pytest.raises(ConnectionRefusedError):
        fabrics.reach({"transport": "tcp", "traddr": address, "trsvcid": port})


def test_a_target_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabrics, "REACH_TIMEOUT_SECONDS", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = str(server.getsockname()[1])
        # A full backlog drops what comes next.
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", int(port)))
        with pytest.raises(OSError, match="timed out") as caught:
            fabrics.reach({"transport": "tcp", "traddr": "127.0.0.1", "trsvcid": port})
        assert caught.value.errno == errno.ETIMEDOUT
        for one in waiting:
            one.close()


def test_an_address_that_this_host_has_not() -> None:
    with pytest.raises(OSError, match="assign requested address") as caught:
        fabrics.reach({"transport": "tcp", "traddr": "127.0.0.1", "trsvcid": "1", "host_traddr": "192.0.2.77"})
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_other_transports_are_the_kernels_business() -> None:
    fabrics.reach({"transport": "fc", "traddr": "nn-0x1:pn-0x2"})


# Delete ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(controllers, "CLASS", str(tmp_path))
    return tmp_path


def add(sysfs: Path, device: str = "nvme3") -> Path:
    (sysfs / device).mkdir()
    attribute = sysfs / device / "delete_controller"
    attribute.write_text("")
    return attribute


def test_delete(sysfs: Path) -> None:
    attribute = add(sysfs)
    before = os.listdir("/proc/self/fd")
    fabrics.delete("nvme3", controllers.sysfs_inode("nvme3"))
    assert attribute.read_text() == "1"
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_another_of_the_same_name_is_not_deleted(sysfs: Path) -> None:
    add(sysfs)
    instance = controllers.sysfs_inode("nvme3")
    (sysfs / "nvme3").rename(sysfs / "gone")
    attribute = add(sysfs)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        fabrics.delete("nvme3", instance)
    assert attribute.read_text() == ""
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_nor_one_that_takes_the_name_at_the_last_moment(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(sysfs)
    instance = controllers.sysfs_inode("nvme3")

    def fstat(folder: int) -> os.stat_result:
        status = os.fstat(folder)
        (sysfs / "nvme3/delete_controller").unlink()
        (sysfs / "nvme3").rename(sysfs / "gone")
        add(sysfs)
        return status

    monkeypatch.setattr(fabrics, "posix", SimpleNamespace(**{**vars(posix), "fstat": fstat}))
    with pytest.raises(FileNotFoundError):
        fabrics.delete("nvme3", instance)
    assert (sysfs / "nvme3/delete_controller").read_text() == ""


@pytest.mark.parametrize("instance", [0, 1])
def test_a_controller_that_is_not_there(sysfs: Path, instance: int) -> None:
    assert sysfs.exists()
    with pytest.raises(FileNotFoundError):
        fabrics.delete("nvme3", instance)
