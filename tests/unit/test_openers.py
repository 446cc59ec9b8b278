# SPDX-License-Identifier: Apache-2.0
"""Who has a device open: found among all descriptors of all processes."""

import errno
import os
import posix
import stat
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from discoverd.kernel import block, files, locks, mounts, openers, processes

from .fake_kernel import until
from .fake_storage import Storage, install


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    made = Storage(tmp_path)
    install(made, monkeypatch)
    made.controller("nvme0")
    made.namespace("nvme0n1", "nvme0")
    made.partition("nvme0n1p1", "nvme0n1")
    made.generic("ng0n1")
    return made


def find(*names: str) -> list[tuple[int, str, str]]:
    return [(one.process, one.program, one.path) for one in openers.find(list(names or ("nvme0n1", "nvme0n1p1")))]


def test_nobody(storage: Storage) -> None:
    storage.process(7, "bash", "/dev/null", "/dev/tty1", "socket:[17]", "/memfd:x (deleted)", "/gone")
    assert find() == []


def test_each_way_to_open_it(storage: Storage) -> None:
    storage.process(7, "dd", "/dev/null", "/dev/nvme0n1", "/dev/nvme0n1")
    storage.process(8, "nvme", "/dev/ng0n1")
    storage.process(9, "qemu\nforged", "/dev/nvme0n1p1")
    assert sorted(find()) == [
        (7, "dd", "/dev/nvme0n1"),
        (8, "nvme", "/dev/ng0n1"),
        (9, "qemu?forged", "/dev/nvme0n1p1"),
    ]
    assert find("nvme0n1p1") == [(9, "qemu?forged", "/dev/nvme0n1p1")]
    assert find("dm-7") == []


def test_another_name_for_it(storage: Storage) -> None:
    """A container has device files of its own."""
    for path in ("/dev/disk", "/srv/jail/disk"):
        storage.nodes[path] = storage.nodes["/dev/nvme0n1"]
        storage.process(7, "qemu", path)
        assert find() == [(7, "qemu", "/dev/nvme0n1")]
        (storage.proc / "7/fd/0").unlink()


# What was opened may be of somebody's making --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fuse", "fuse.sshfs", "nfs4", "cifs", "autofs"])
def test_remote_file_system_is_not_asked(storage: Storage, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = storage.process(7, "x", "/dev/nvme0n1")
    (folder / "mountinfo").write_text(f"5 1 0:5 / /dev rw - {kind} x rw\n")
    deny(monkeypatch, "stat", f"{folder}/fd/0", errno.EACCES)
    assert find() == []


@pytest.mark.parametrize("table", ["", "5 1 0:5 / / rw - overlay x rw\n"])
def test_slow_file_system_is_not_waited_for(storage: Storage, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """A mount that is in no table, for it was detached, and one over a file system of anybody's."""
    folder = storage.process(7, "x", "/dev/nvme0n1", "/dev/nvme0n1")
    (folder / "mountinfo").write_text(table)
    assert len(find()) == 1
    deny(monkeypatch, "stat", f"{folder}/fd/0", errno.EACCES)
    assert len(find()) == 1
    gate = threading.Event()
    asked: list[str] = []

    def hang(path: str) -> object:
        asked.append(path)
        gate.wait(20)
        raise OSError

    monkeypatch.setattr(openers, "posix", SimpleNamespace(**{**vars(vars(openers)["posix"]), "stat": hang}))
    monkeypatch.setattr(openers, "_ANSWER_TIMEOUT_SECONDS", 0.05)
    assert find() == []
    # One that does not answer is not asked again.
    assert len(asked) == 1
    gate.set()


def test_table_that_takes_too_long_hides_nobody(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What type of file system it is on remains unknown, and so it is asked as what may not answer."""
    folder = storage.process(7, "x", "/dev/null", "/dev/nvme0n1")
    text = "".join(f"{number} 1 0:6 / /home/{number} rw - tmpfs x rw\n" for number in range(100, 2000))
    (folder / "mountinfo").write_text(text + "5 1 0:5 / /dev rw - devtmpfs udev rw\n")
    system = vars(vars(files)["posix"])
    clock = [1000.0]

    def read(fd: int, size: int) -> bytes:
        clock[0] += 1
        data: bytes = system["read"](fd, min(size, 1000))
        return data

    monkeypatch.setattr(files, "posix", SimpleNamespace(**{**system, "read": read}))
    for module in (files, mounts, openers):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0], thread_time=lambda: 0.0))
    assert find() == [(7, "x", "/dev/nvme0n1")]


def test_a_process_whose_first_thread_has_ended(storage: Storage) -> None:
    folder = storage.process(7, "java")
    storage.descriptor(folder / "task/9", "/dev/nvme0n1")
    (folder / "task/7/fd").mkdir(parents=True)
    (folder / "task/8").mkdir()
    assert find() == []
    stat = (folder / "stat").read_text()
    (folder / "stat").write_text(stat.replace(" S ", " Z ").replace(" 20 0 1 ", " 20 0 2 "))
    assert find() == [(7, "java", "/dev/nvme0n1")]
    (folder / "stat").write_text(stat.replace(" S ", " Z "))
    assert find() == []


def test_a_look_ends(storage: Storage) -> None:
    storage.process(7, "many", *["/dev/null"] * 3)
    storage.process(8, "few", "/dev/null")
    found = r"too many files open.* process \d \((many|few)\) took 0 s for [13] files: end it"
    with pytest.raises(openers.UnknownError, match=found):
        openers.find(["nvme0n1"], openers.Limit(-1))


def test_a_look_that_takes_too_long_names_who_held_it_up(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not who has most files open: a few on file systems that do not answer take longer."""
    storage.process(7, "many", *["/dev/null"] * 30)
    storage.process(8, "hanging", *["/dev/null"] * 5)
    clock = [0.0]
    system = vars(posix).copy()

    def readlink(path: str) -> str:
        clock[0] += 1 if "/8/" in path else 0.01
        target: str = system["readlink"](path)
        return target

    monkeypatch.setattr(openers, "posix", SimpleNamespace(**{**system, "readlink": readlink}))
    monkeypatch.setattr(openers, "time", SimpleNamespace(monotonic=lambda: clock[0], thread_time=lambda: clock[0]))
    with pytest.raises(openers.UnknownError, match=r"process 8 \(hanging\) took \d s for 5 files"):
        openers.find(["nvme0n1"], openers.Limit(4))


@pytest.mark.parametrize(("seconds_each", "ends"), [(0.9, True), (1.5, False)])
def test_look_waits_for_a_processor_as_long_as_others_have_them(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, seconds_each: float, ends: bool
) -> None:
    """As where hundreds of workers look at once: each does little, and is seldom given a processor."""
    storage.process(7, "many", *["/dev/null"] * 99, "/dev/nvme0n1")
    system = vars(vars(openers)["posix"])
    clock, work = [0.0], [0.0]

    def readlink(path: str) -> str:
        if "/fd/" in path:
            clock[0] += seconds_each
            work[0] += 0.01
        target: str = system["readlink"](path)
        return target

    monkeypatch.setattr(openers, "posix", SimpleNamespace(**{**system, "readlink": readlink}))
    monkeypatch.setattr(openers, "time", SimpleNamespace(monotonic=lambda: clock[0], thread_time=lambda: work[0]))
    if ends:
        assert find() == [(7, "many", "/dev/nvme0n1")]
    else:
        with pytest.raises(openers.UnknownError, match="in time; process 7"):
            find()


def test_waiting_for_answers_counts_as_work(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has files on many file systems that do not answer holds up a disconnect no longer for that."""
    limit = openers.Limit(10)
    assert not limit.passed(time.monotonic())
    limit.waited(11)
    assert limit.passed(time.monotonic())


def test_a_shortage_of_ours_is_not_the_processs(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = storage.process(7, "x", "/dev/nvme0n1")
    deny(monkeypatch, "listdir", f"{folder}/fd", errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        find()


# Who counts -----------------------------------------------------------------------------------------------


def test_not_this_process(storage: Storage) -> None:
    storage.process(os.getpid(), "python3", "/dev/nvme0n1")
    assert find() == []


@pytest.mark.parametrize(
    ("group", "counts"),
    [
        ("/system.slice/systemd-udevd.service/udev", False),
        ("/system.slice/systemd-udevd.service", False),
        ("/system.slice/multipathd.service", False),
        ("/system.slice/not-multipathd.service", True),
        ("/system.slice/multipathd.service.d", True),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/multipathd.service", True),
        ("/user.slice/user-1000.slice/user@1000.service/system.slice/multipathd.service", True),
    ],
)
def test_services_that_are_no_users(storage: Storage, group: str, counts: bool) -> None:
    storage.process(7, "x", "/dev/nvme0n1", group=group)
    assert bool(find()) == counts


def test_a_name_is_no_excuse(storage: Storage) -> None:
    storage.process(7, "multipathd", "/dev/nvme0n1", group="/user.slice/user-1000.slice")
    assert len(find()) == 1


def test_opener_at_a_disconnect_is_marked(storage: Storage) -> None:
    storage.process(7, "python3", f"{locks.DIRECTORY}/nvme-subsys3", "/dev/nvme0n1")
    storage.process(8, "python3", "/dev/nvme0n1", "/run/discoverd/wake")
    # A mount namespace can give anything this path, but not make it the file that we have.
    forged = storage.process(9, "evil", f"{locks.DIRECTORY}/nvme-subsys4", "/dev/nvme0n1")
    Path(locks.DIRECTORY, "nvme-subsys4").unlink()
    storage.nodes[f"{locks.DIRECTORY}/nvme-subsys4"] = 77
    assert forged.exists()
    assert {one.process: one.ours for one in openers.find(["nvme0n1"])} == {7: True, 8: False, 9: False}


def deny(monkeypatch: pytest.MonkeyPatch, call: str, path: str, number: int) -> None:
    """Let one call fail for one path."""
    system = vars(vars(openers)["posix"])

    def act(given: str) -> object:
        if given == path:
            raise OSError(number, os.strerror(number))
        return system[call](given)

    monkeypatch.setattr(openers, "posix", SimpleNamespace(**{**system, call: act}))


@pytest.mark.parametrize("call", ["listdir", "readlink", "stat"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_process_that_cannot_be_looked_into(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    folder = storage.process(7, "postgres", "/dev/nvme0n1")
    deny(monkeypatch, call, f"{folder}/fd" if call == "listdir" else f"{folder}/fd/0", number)
    with pytest.raises(openers.UnknownError, match=r"what process 7 \(postgres\) has open"):
        find()
    # One that has ended, and a thread of the kernel, have nothing open.
    stat = (folder / "stat").read_text()
    for ended in (stat.replace(" S ", " Z "), stat.replace(" 4194560 ", f" {4194560 | 0x200000} ")):
        (folder / "stat").write_text(ended)
        assert find() == []
    (folder / "stat").unlink()
    assert find() == []


@pytest.mark.parametrize("call", ["readlink", "stat"])
def test_a_descriptor_that_is_closed_meanwhile(storage: Storage, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    folder = storage.process(7, "x", "/dev/nvme0n1")
    deny(monkeypatch, call, f"{folder}/fd/0", errno.ENOENT)
    assert find() == []


def test_a_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor that the kernel shows, of a device that is there everywhere."""
    monkeypatch.setattr(block, "nodes", lambda _: [(stat.S_IFCHR, "1:5", "/dev/zero")])
    monkeypatch.setattr(processes, "PROC", str(tmp_path))
    with Path("/dev/zero").open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as process:
        (tmp_path / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        try:
            until(lambda: find() == [(process.pid, "sleep", "/dev/zero")])
        finally:
            process.kill()
