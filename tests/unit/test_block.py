# SPDX-License-Identifier: Apache-2.0
"""Which block devices lie on which controllers, and who has claimed them."""

import errno
import os
import stat
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.kernel import block

from .fake_storage import Storage, encoded, install


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    made = Storage(tmp_path)
    install(made, monkeypatch)
    return made


# Controllers and namespaces -------------------------------------------------------------------------------


def test_two_paths_of_native_multipath(storage: Storage) -> None:
    for device in ("nvme3", "nvme12"):
        storage.controller(device)
    storage.namespace("nvme0n1", "nvme3", "nvme12")
    storage.namespace("nvme0n22", "nvme12")
    assert block.namespaces("nvme3") == ["nvme0n1"]
    assert block.namespaces("nvme12") == ["nvme0n1", "nvme0n22"]
    assert block.controllers("nvme0n1") == ["nvme12", "nvme3"]
    assert block.controllers("nvme0n22") == ["nvme12"]
    assert block.usable_paths("nvme0n1") == ["nvme12", "nvme3"]


def test_without_native_multipath(storage: Storage) -> None:
    storage.controller("nvme3")
    storage.plain_namespace("nvme3n1", "nvme3")
    assert block.namespaces("nvme3") == ["nvme3n1"]
    assert block.controllers("nvme3n1") == ["nvme3"]
    assert block.usable_paths("nvme3n1") == ["nvme3"]
    assert block.transports("nvme3n1") == {"tcp"}


@pytest.mark.parametrize("state", ["connecting", "resetting", "deleting", "deleting (no IO)", "dead", "new", ""])
def test_a_path_that_is_not_live_is_not_usable_but_counts_as_a_controller(storage: Storage, state: str) -> None:
    storage.controller("nvme0", state=state)
    storage.namespace("nvme0n1", "nvme0")
    assert block.controllers("nvme0n1") == ["nvme0"]
    assert block.usable_paths("nvme0n1") == []


@pytest.mark.parametrize(
    ("ana", "usable"),
    [
        ("", True),
        ("optimized", True),
        ("non-optimized", True),
        ("inaccessible", False),
        ("persistent-loss", False),
        ("change", False),
    ],
)
def test_ana(storage: Storage, ana: str, usable: bool) -> None:
    storage.controller("nvme0")
    storage.namespace("nvme0n1", "nvme0", ana=ana)
    assert block.usable_paths("nvme0n1") == (["nvme0"] if usable else [])


def test_transports_of_all_paths(storage: Storage) -> None:
    storage.controller("nvme0", transport="pcie")
    storage.controller("nvme1", transport="tcp", state="connecting")
    storage.namespace("nvme0n1", "nvme0", "nvme1")
    assert block.transports("nvme0n1") == {"pcie", "tcp"}
    assert block.transports("sda") == set()


def test_missing_device_has_nothing(storage: Storage) -> None:
    assert storage.sys.exists()
    assert block.namespaces("nvme9") == []
    assert block.controllers("nvme9n1") == []
    assert block.usable_paths("nvme9n1") == []
    assert block.stack("nvme9n1") == {"nvme9n1": []}
    assert block.number("nvme9n1") == ""
    assert block.below("0:44") == set()
    assert block.below("") == set()


@given(st.text(alphabet="nvmec0123456789p", max_size=12).map("nvme".__add__))
def test_names_of_namespaces(name: str) -> None:
    parts = block._namespace_parts(name)
    if parts is not None:
        subsystem, controller, namespace = parts
        assert name == f"nvme{subsystem}{'c' + controller if controller else ''}n{namespace}"


@pytest.mark.parametrize("name", ["nvme0", "nvme0n1p1", "nvmen1", "nvme0n", "nvme0cn1", "sda", "ng0n1", "nvme0c1"])
def test_other_name_is_no_namespace(name: str) -> None:
    assert block._namespace_parts(name) is None


# Stacks ---------------------------------------------------------------------------------------------------


def test_up_and_down_a_tall_stack(storage: Storage) -> None:
    for subsystem, device in enumerate(("nvme0", "nvme1")):
        storage.controller(device, subsystem)
        storage.namespace(f"nvme{subsystem}n1", device, subsystem=subsystem)
    storage.partition("nvme0n1p1", "nvme0n1")
    storage.device("md0", "nvme0n1p1", "nvme1n1")
    storage.device("dm-0", "md0")
    storage.device("dm-1", "dm-0")
    storage.loop("loop0", "/data/image")
    storage.file("/data/image", "dm-1")
    top = storage.partition("loop0p1", "loop0")
    assert block.stack("nvme0n1") == {
        "nvme0n1": [],
        "nvme0n1p1": ["md0"],
        "md0": ["dm-0"],
        "dm-0": ["dm-1"],
        "dm-1": [],
        "loop0": [],
        "loop0p1": [],
    }
    assert block.below(top) == {"nvme0n1", "nvme1n1"}
    assert block.below(storage.numbers["nvme0n1"]) == {"nvme0n1"}


def test_a_loop_on_the_device_itself(storage: Storage) -> None:
    storage.controller("nvme0")
    storage.namespace("nvme0n1", "nvme0")
    number = storage.loop("loop7", "/dev/nvme0n1")
    assert set(block.stack("nvme0n1")) == {"nvme0n1", "loop7"}
    assert block.below(number) == {"nvme0n1"}


def test_a_loop_whose_file_is_deleted_or_elsewhere(storage: Storage) -> None:
    """The kernel knows what it lies on, as huge_encode_dev() writes it."""
    storage.controller("nvme0")
    storage.namespace("nvme0n1", "nvme0")
    number = storage.loop("loop7", "/data/image (deleted)")
    # Without a number it could be on any.
    with pytest.raises(OSError, match="cannot tell on what /dev/loop7 lies"):
        block.stack("nvme0n1")
    assert block.below(number) == set()
    major, _, minor = storage.numbers["nvme0n1"].partition(":")
    encoded = int(major) << 8 | int(minor)
    for numbers in ((encoded, 0), (5, encoded)):
        storage.loops["loop7"] = numbers
        assert set(block.stack("nvme0n1")) == {"nvme0n1", "loop7"}
        assert block.below(number) == {"nvme0n1"}


def test_loop_path_that_leads_elsewhere_does_not_count(storage: Storage) -> None:
    """Another mount namespace's, or of a file that was replaced: the kernel's word counts."""
    storage.controller("nvme0")
    storage.namespace("nvme0n1", "nvme0")
    storage.device("sda")
    storage.file("/data/image", "sda")
    number = storage.loop("loop7", "/data/image")
    storage.loops["loop7"] = (encoded(storage.device_number("nvme0n1")), 0)
    assert set(block.stack("nvme0n1")) == {"nvme0n1", "loop7"}
    assert block.below(number) == {"nvme0n1"}


def test_loop_on_file_system_that_never_answers_cannot_be_told(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.controller("nvme0")
    storage.namespace("nvme0n1", "nvme0")
    number = storage.loop("loop7", "/data/image")
    gate = threading.Event()
    monkeypatch.setattr(block, "fcntl", SimpleNamespace(ioctl=lambda *_: gate.wait(20)))
    monkeypatch.setattr(block, "_ANSWER_TIMEOUT_SECONDS", 0.05)
    began = time.monotonic()
    with pytest.raises(OSError, match=r"on what /dev/loop7 lies \(no answer in 0.05 s\); detach it"):
        block.stack("nvme0n1")
    assert block.below(number) == set()
    assert time.monotonic() - began < 10
    gate.set()


@pytest.mark.parametrize(
    ("table", "asked"),
    [
        ("1 0 0:44 / /nfs rw - nfs4 server:/x rw", False),
        ("1 0 0:44 / /nfs rw - fuse.sshfs x rw", False),
        ("1 0 0:44 / / rw - nfs4 server:/x rw\n2 1 8:1 / /nfs rw - ext4 /dev/sda1 rw", True),
        ("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:44 / /nfs/b rw - nfs4 server:/x rw", True),
        ("1 0 0:44 / /nfs rw - nfs4 server:/x rw\n2 1 8:1 / /nfs rw - ext4 /dev/sda1 rw", True),
        # This one lies on a block device.
        ("1 0 8:1 / /nfs rw - fuseblk /dev/sda1 rw", True),
        ("", True),
    ],
)
def test_loop_on_network_file_system_is_not_asked(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, table: str, asked: bool
) -> None:
    storage.controller("nvme0")
    storage.namespace("nvme0n1", "nvme0")
    storage.file("/nfs/big/image", "nvme0n1")
    storage.loop("loop7", "/nfs/big/image")
    (storage.proc / "1/mountinfo").write_text(f"{table}\n" if table else "")
    calls: list[str] = []
    ask = vars(block)["_ask_loop"]

    def counted(name: str) -> object:
        calls.append(name)
        return ask(name)

    monkeypatch.setattr(block, "_ask_loop", counted)
    assert ("loop7" in block.stack("nvme0n1")) == asked
    assert bool(calls) == asked


def test_loop_of_a_device_on_a_host_whose_root_is_nfs(storage: Storage) -> None:
    storage.controller("nvme0")
    storage.namespace("nvme0n1", "nvme0")
    storage.loop("loop7", "/dev/nvme0n1")
    root = "1 0 0:44 / / rw - nfs4 server:/x rw\n2 1 0:5 / /dev rw - devtmpfs udev rw\n"
    (storage.proc / "1/mountinfo").write_text(root)
    assert "loop7" in block.stack("nvme0n1")


def test_loop_that_must_not_be_opened_has_its_path(storage: Storage) -> None:
    """The supervisor and the watcher of mounts have no right to block devices."""
    storage.controller("nvme0")
    storage.namespace("nvme0n1", "nvme0")
    storage.file("/data/image", "nvme0n1")
    number = storage.loop("loop7", "/data/image")
    storage.open_errors["loop7"] = errno.EPERM
    assert block.below(number) == {"nvme0n1"}


def test_large_numbers_of_what_a_loop_lies_on(storage: Storage) -> None:
    storage.loop("loop7", "/gone")
    # 259:70000
    storage.loops["loop7"] = ((70000 & 0xFF) | 259 << 8 | (70000 & ~0xFF) << 12, 0)
    assert block.loops() == {"259:70000": ["loop7"]}


def test_a_shortage_is_not_the_absence_of_what_is_there(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.device("nvme0n1")

    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    system = SimpleNamespace(**{**vars(os), "open": fail, "listdir": fail})
    monkeypatch.setattr(block, "posix", system)
    for look in (lambda: block.number("nvme0n1"), lambda: block.stack("nvme0n1")):
        with pytest.raises(OSError, match="too many"):
            look()


def test_exports(storage: Storage) -> None:
    storage.device("nvme0n1")
    for number, path, enabled in (
        (1, "/dev/nvme0n1", 1),
        (2, "/dev/nvme0n1", 0),
        (3, "/srv/image", 1),
        (4, "/dev/x", 1),
    ):
        folder = storage.sys / "kernel/config/nvmet/subsystems/nqn.x" / "namespaces" / str(number)
        folder.mkdir(parents=True)
        (folder / "device_path").write_text(path + "\n")
        (folder / "enable").write_text(f"{enabled}\n")
    assert block.exports() == [("nqn.x", storage.numbers["nvme0n1"])]


def test_a_disk_that_is_not_ours(storage: Storage) -> None:
    number = storage.device("sda")
    assert block.below(number) == set()
    assert block.below(storage.partition("sda1", "sda")) == set()


# Device files -----------------------------------------------------------------------------------------------


def test_a_namespace_can_be_opened_in_two_ways(storage: Storage) -> None:
    storage.controller("nvme0")
    storage.namespace("nvme0n1", "nvme0")
    assert block.nodes("nvme0n1") == [(stat.S_IFBLK, storage.numbers["nvme0n1"], "/dev/nvme0n1")]
    storage.generic("ng0n1")
    assert block.nodes("nvme0n1")[1:] == [(stat.S_IFCHR, storage.numbers["ng0n1"], "/dev/ng0n1")]
    storage.partition("nvme0n1p1", "nvme0n1")
    assert [path for _, _, path in block.nodes("nvme0n1p1")] == ["/dev/nvme0n1p1"]
    assert block.nodes("nvme9n1") == []


# Multipath above block devices ------------------------------------------------------------------------------


def test_siblings(storage: Storage) -> None:
    for device in ("nvme0", "nvme1", "nvme2"):
        storage.controller(device)
        storage.plain_namespace(device + "n1", device)
    storage.device("dm-0", "nvme0n1", "nvme1n1")
    assert block.siblings("nvme0n1") == set()
    storage.mapped("dm-0", "mpath-nvme.1234")
    assert block.siblings("nvme0n1") == {"nvme1n1"}
    assert block.siblings("nvme2n1") == set()
