# SPDX-License-Identifier: Apache-2.0
"""Lines of mountinfo, and file systems without a device number of their own."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.kernel import files, mounts
from discoverd.kernel.mounts import Mount

from .fake_storage import Storage, install


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    made = Storage(tmp_path)
    install(made, monkeypatch)
    return made


def test_a_line() -> None:
    mount = Mount(
        r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:4 - ext3 /dev/my\040root rw,errors=continue", 7
    )
    assert (mount.number, mount.target, mount.fstype, mount.source, mount.process) == (
        "98:0",
        "/mnt 2",
        "ext3",
        "/dev/my root",
        7,
    )


def test_a_target_that_looks_like_the_separator() -> None:
    mount = Mount(r"36 35 98:0 / /a\040-\040b rw - ext4 /dev/x rw")
    assert (mount.target, mount.fstype) == ("/a - b", "ext4")


@pytest.mark.parametrize("source", ["", " rw", "none rw"])
def test_a_mount_without_a_source(source: str) -> None:
    mount = Mount(f"36 35 0:5 / /a rw - tmpfs {source}")
    assert mount.fstype == "tmpfs"
    assert mount.numbers() == []


@pytest.mark.parametrize("line", ["", "x", "1 2 3:4 / /a rw", "1 2 - ext4 /dev/x rw", " - "])
def test_no_line(line: str) -> None:
    with pytest.raises(ValueError, match="no line of mountinfo"):
        Mount(line)


@given(st.text(max_size=200))
def test_noise(line: str) -> None:
    try:
        mount = Mount(line)
    except ValueError:
        return
    assert " - " in line
    assert isinstance(mount.target, str)


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_each_path_survives_the_kernels_escapes(path: str) -> None:
    escaped = "".join(f"\\{ord(one):03o}" if one in " \t\n\\" else one for one in path)
    assert mounts.unescape(escaped) == path


@pytest.mark.parametrize("text", ["\\", "a\\", "\\04", "\\999", "\\x20", "\\0 4"])
def test_backslash_without_escape_stays(text: str) -> None:
    assert mounts.unescape(text) == text


def test_the_same_mount_is_taken_once() -> None:
    data = b"1 0 8:1 / /a rw - ext4 /dev/a rw\n2 0 8:1 / /b rw - ext4 /dev/a rw\n"
    seen: set[bytes] = set()
    assert [one.target for one in mounts.of(data, 0, seen)] == ["/a", "/b"]
    assert mounts.of(data, 9, seen) == []
    assert mounts.of(b"", 9, seen) == []


def test_a_path_that_is_no_text() -> None:
    (mount,) = mounts.of(b"1 0 8:1 / /\xff rw - ext4 /dev/a rw\n")
    assert mount.target == "/\udcff"


def test_table_is_cut_at_a_line(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        storage.device(f"sd{number}")
        storage.mount(f"sd{number}", f"/a{number}", process=7)
    whole = mounts.table(7)
    system = vars(vars(files)["posix"])
    clock = iter(range(100))
    short = SimpleNamespace(**{**system, "read": lambda fd, _: system["read"](fd, 100)})
    monkeypatch.setattr(files, "posix", short)
    for module in (files, mounts):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    data = mounts.table(7, 10)
    assert whole.startswith(data)
    assert data.endswith(b"\n")
    assert 900 < len(data) <= 1000
    assert len(mounts.of(data)) == data.count(b"\n")
    assert mounts.table(7, 10) == b""


def test_swap_file_that_never_answers_is_left_out(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.device("sda")
    storage.swap("/nfs/swap", "/dev/sda")
    gate = threading.Event()

    def stat(path: str) -> object:
        if path == "/nfs/swap":
            gate.wait(20)
        return storage.stat(path)

    monkeypatch.setattr(mounts, "posix", SimpleNamespace(**{**vars(vars(mounts)["posix"]), "stat": stat}))
    monkeypatch.setattr(mounts, "_ANSWER_TIMEOUT_SECONDS", 1)
    assert mounts.swaps() == [("/dev/sda", storage.numbers["sda"])]
    gate.set()


# Device numbers -------------------------------------------------------------------------------------------


def test_the_number_of_a_file_system_on_one_device(storage: Storage) -> None:
    storage.device("sda")
    assert Mount(storage.mount("sda", "/a")).numbers() == [storage.numbers["sda"]]


def test_btrfs_over_several_devices(storage: Storage) -> None:
    for name in ("sda", "sdb", "sdc"):
        storage.device(name)
    (storage.btrfs / "features").mkdir(parents=True)
    for uuid, names in (("1", ("sdc",)), ("2", ("sda", "sdb"))):
        (storage.btrfs / uuid / "devices").mkdir(parents=True)
        for name in names:
            (storage.btrfs / uuid / "devices" / name).symlink_to(storage.sys / "class/block" / name)
    mount = Mount(storage.mount("sdb", "/a", fstype="btrfs", number="0:44"))
    assert sorted(mount.numbers()) == sorted([storage.numbers["sda"], storage.numbers["sdb"]])


def test_btrfs_that_sysfs_does_not_tell_about(storage: Storage) -> None:
    storage.device("sdb")
    mount = Mount(storage.mount("sdb", "/a", fstype="btrfs", number="0:44"))
    assert mount.numbers() == [storage.numbers["sdb"]]


@pytest.mark.parametrize("fstype", ["fuse", "fuse.x", "tmpfs", "overlay"])
def test_source_that_a_user_wrote_is_not_looked_at(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, fstype: str
) -> None:
    storage.device("sda")

    def stat(path: str) -> object:
        pytest.fail(f"{path} may never answer")

    monkeypatch.setattr(mounts, "posix", SimpleNamespace(**{**vars(vars(mounts)["posix"]), "stat": stat}))
    for source in ("/dev/../home/user/fuse/x", "/dev/shm/link", "/dev/sda"):
        assert Mount(f"1 0 0:44 / /a rw - {fstype} {source} rw").numbers() == []


def test_file_system_without_block_device_has_none(storage: Storage) -> None:
    for fstype, source in (("tmpfs", "tmpfs"), ("nfs4", "server:/dev/sda"), ("ext4", "/dev/gone")):
        assert Mount(f"1 0 0:44 / /a rw - {fstype} {source} rw").numbers() == []
    assert storage.sys.exists()
