# SPDX-License-Identifier: Apache-2.0
"""Who uses a namespace: the guard that a disconnect must pass."""

import errno
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discoverd.kernel import files, locks, mounts, usage
from discoverd.kernel.claims import Claims
from discoverd.kernel.openers import UnknownError

from .fake_storage import Storage, install


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    made = Storage(tmp_path)
    install(made, monkeypatch)
    monkeypatch.setattr(usage, "_LOOK_SECONDS", 0)
    made.controller("nvme0")
    made.namespace("nvme0n1", "nvme0")
    return made


def found() -> list[usage.User]:
    """Who uses nvme0n1."""
    claims = Claims()
    try:
        return usage.users(["nvme0n1"], claims).get("nvme0n1", [])
    finally:
        claims.keep(set())


def users() -> list[str]:
    return [user.text for user in found()]


def test_nobody(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.device("sda")
    storage.mount("sda", "/")
    # Hosts have thousands of mounts: no table is read for a namespace that nobody has claimed.
    monkeypatch.setattr(mounts, "table", lambda *_: pytest.fail("it was read"))
    assert users() == []


def test_a_mount(storage: Storage) -> None:
    storage.mount("nvme0n1", "/data")
    assert users() == ["/data"]


def test_bind_mounts_are_uses_too(storage: Storage) -> None:
    storage.mount("nvme0n1", "/data")
    storage.mount("nvme0n1", "/srv/data")
    assert users() == ["/data", "/srv/data"]


def test_a_partition(storage: Storage) -> None:
    storage.partition("nvme0n1p1", "nvme0n1")
    assert users() == []
    storage.mount("nvme0n1p1", "/data")
    assert users() == ["/data"]


def test_a_file_system_on_the_whole_device_beside_an_old_partition_table(storage: Storage) -> None:
    storage.partition("nvme0n1p1", "nvme0n1")
    storage.mount("nvme0n1", "/data")
    assert users() == ["/data"]


@pytest.mark.parametrize("holder", ["dm-0", "md0"])
def test_a_device_on_top_counts_if_it_is_used(storage: Storage, holder: str) -> None:
    storage.device(holder, "nvme0n1")
    assert users() == []
    storage.mount(holder, "/data")
    assert users() == ["/data"]


def test_an_unused_device_on_a_partition_is_no_use(storage: Storage) -> None:
    """Its claim on the partition looks like one on the whole device."""
    storage.partition("nvme0n1p1", "nvme0n1")
    storage.device("dm-0", "nvme0n1p1")
    assert users() == []
    storage.mount("dm-0", "/data")
    assert users() == ["/data"]


def test_a_loop_device_on_the_namespace(storage: Storage) -> None:
    storage.loop("loop0", "/dev/nvme0n1")
    assert users() == []
    storage.mount("loop0", "/image")
    assert users() == ["/image"]


def test_an_unused_loop_device_on_a_file_does_not_hide_the_mount_that_the_file_is_on(storage: Storage) -> None:
    storage.mount("nvme0n1", "/data")
    storage.file("/data/image", "nvme0n1")
    storage.loop("loop0", "/data/image")
    assert users() == ["/data"]
    storage.mount("loop0", "/image")
    assert users() == ["/data", "/image"]


def test_swap(storage: Storage) -> None:
    storage.swap("/dev/nvme0n1", "/dev/gone")
    storage.claimed.add("nvme0n1")
    assert users() == ["swap on /dev/nvme0n1"]


def test_a_swap_file(storage: Storage) -> None:
    storage.mount("nvme0n1", "/data")
    storage.file("/data/a swap", "nvme0n1")
    storage.swap(r"/data/a\040swap")
    assert users() == ["/data", "swap on /data/a swap"]


def test_a_claim_without_a_name(storage: Storage) -> None:
    storage.claimed.add("nvme0n1")
    assert users() == ["/dev/nvme0n1, which a detached mount or another program has claimed"]


def test_a_claim_that_lasts_a_moment_is_none(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look of another worker is such a one, where a device lies on namespaces of two subsystems."""
    storage.claimed.add("nvme0n1")
    monkeypatch.setattr(time, "sleep", lambda _: storage.claimed.clear())
    assert users() == []


def test_unreadable_use_is_an_error(storage: Storage) -> None:
    storage.open_errors["nvme0n1"] = errno.EACCES
    with pytest.raises(PermissionError):
        found()


# Claims ---------------------------------------------------------------------------------------------------


def test_unused_device_is_claimed(storage: Storage) -> None:
    storage.namespace("nvme0n2", "nvme0")
    storage.partition("nvme0n1p1", "nvme0n1")
    storage.partition("nvme0n2p1", "nvme0n2")
    storage.partition("nvme0n2p2", "nvme0n2")
    storage.device("dm-0", "nvme0n2p1")
    storage.loop("loop0", "/dev/nvme0n2p2")
    claims = Claims()
    assert usage.users(["nvme0n1", "nvme0n2"], claims) == {}
    assert set(storage.ours) == {"nvme0n1", "dm-0", "nvme0n2p2", "loop0"}
    # Looked at again, what has come since is claimed as well.
    storage.device("dm-1", "nvme0n2p1")
    assert usage.users(["nvme0n1", "nvme0n2"], claims) == {}
    assert set(storage.ours) == {"nvme0n1", "dm-0", "dm-1", "nvme0n2p2", "loop0"}
    storage.mount("dm-1", "/data", claim=False)
    claims.keep(set())
    storage.claimed.add("dm-1")
    assert list(usage.users(["nvme0n1", "nvme0n2"], claims)) == ["nvme0n2"]
    # What is in use is not kept from others who use it too.
    assert set(storage.ours) == {"nvme0n1"}
    claims.keep(set())
    assert storage.ours == {}


def test_one_device_on_two_namespaces_of_a_controller_is_claimed_once(storage: Storage) -> None:
    storage.namespace("nvme0n2", "nvme0")
    storage.device("md0", "nvme0n1", "nvme0n2")
    claims = Claims()
    assert usage.users(["nvme0n1", "nvme0n2"], claims) == {}
    assert set(storage.ours) == {"md0"}
    claims.keep(set())


def rival(storage: Storage) -> Path:
    """Another worker, which disconnects the other half of md0."""
    storage.device("nvme1n1")
    storage.device("md0", "nvme0n1", "nvme1n1")
    storage.claimed.add("md0")
    return storage.process(77, "python3", f"{locks.DIRECTORY}/nvme-subsys1", "/dev/md0")


def test_another_disconnect_is_waited_for_and_kept_waiting_by_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival(storage)
    slept: list[dict[str, int]] = []

    def sleep(_: float) -> None:
        slept.append(dict(storage.ours))
        if len(slept) == 3:
            storage.claimed.discard("md0")

    monkeypatch.setattr(time, "sleep", sleep)
    assert users() == []
    assert slept == [{}, {}, {}]


def test_another_disconnect_that_does_not_end(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    rival(storage)
    monkeypatch.setattr(usage, "_OTHER_DISCONNECT_SECONDS", 0)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(UnknownError, match="/dev/md0 lies on another controller too"):
        found()


# Processes that have it open without a claim --------------------------------------------------------------


def test_processes(storage: Storage) -> None:
    storage.process(7, "postgres", "/dev/nvme0n1")
    (one,) = usage.processes(["nvme0n1"])
    assert (one.kind, one.text) == ("process", "postgres (PID 7) on /dev/nvme0n1")
    # It has claimed nothing.
    assert users() == []


def test_short_look_is_no_use(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """But who comes while one of them leaves is one."""
    looks = [7, 8, 9]

    def sleep(_: float) -> None:
        for process in storage.proc.glob("[789]"):
            (process / "fd/0").unlink(missing_ok=True)
        if looks:
            storage.process(looks.pop(), "blkid", "/dev/nvme0n1")

    monkeypatch.setattr(time, "sleep", sleep)
    sleep(0)
    assert usage.processes(["nvme0n1"]) == []
    storage.process(6, "lsblk", "/dev/nvme0n1")

    def replaced(_: float) -> None:
        (storage.proc / "6/fd/0").unlink(missing_ok=True)
        if not (storage.proc / "66").exists():
            storage.process(66, "qemu", "/dev/nvme0n1")

    monkeypatch.setattr(time, "sleep", replaced)
    assert [user.process for user in usage.processes(["nvme0n1"])] == [66]


def test_another_disconnect_is_no_user(storage: Storage) -> None:
    storage.process(77, "python3", f"{locks.DIRECTORY}/nvme-subsys1", "/dev/nvme0n1")
    assert usage.processes(["nvme0n1"]) == []


# Mount namespaces -----------------------------------------------------------------------------------------


def test_a_mount_in_a_container(storage: Storage) -> None:
    storage.mount("nvme0n1", "/data", process=4711)
    assert users() == ["/data in the mount namespace of process 4711"]


def test_copies_of_the_hosts_mounts_do_not_count(storage: Storage) -> None:
    storage.mount("nvme0n1", "/data")
    storage.mount("nvme0n1", "/data", process=4711)
    assert users() == ["/data"]
    storage.unmount("/data")
    assert users() == ["/data in the mount namespace of process 4711"]


def test_the_table_of_a_mount_namespace_is_read_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.mount("nvme0n1", "/data")
    for process in (300, 301, 302):
        (storage.proc / str(process)).symlink_to(storage.proc / "1")
    (storage.proc / "sys").mkdir()
    read: list[object] = []
    table = mounts.table

    def counted(process: int | str = "self", deadline: float = 0) -> bytes:
        read.append(process)
        return table(process, deadline)

    monkeypatch.setattr(mounts, "table", counted)
    assert users() == ["/data"]
    assert read == [1]


def test_a_process_that_ends_meanwhile(storage: Storage) -> None:
    storage.mount("nvme0n1", "/data")
    (storage.proc / "300").mkdir()
    assert users() == ["/data"]


# Names never hold up the decision -------------------------------------------------------------------------


UNREAD = "/dev/nvme0n1, which somebody has claimed (processes have too many mounts to find out who in {} s)"


def test_claim_whose_name_takes_too_long_is_in_use(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.mount("nvme0n1", "/data", process=4711)
    monkeypatch.setattr(usage, "_NAMES_TIMEOUT_SECONDS", 0)
    (user,) = found()
    assert (user.kind, user.unread, user.text) == ("claim", True, UNREAD.format(0))


def test_claim_whose_name_is_nowhere_says_so(storage: Storage) -> None:
    storage.claimed.add("nvme0n1")
    (user,) = found()
    assert (user.kind, user.unread) == ("claim", False)


def test_hosts_mounts_are_named_without_time(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """They tell what carries the system."""
    storage.mount("nvme0n1", "/")
    storage.mount("nvme0n1", "/srv", process=4711)
    monkeypatch.setattr(usage, "_NAMES_TIMEOUT_SECONDS", 0)
    assert users() == ["/"]
    assert usage.carries_system(found())


class Clock:
    """The monotonic clock of a kernel that takes a second for each page of a user's mount table."""

    def __init__(self, storage: Storage, slow: int) -> None:
        self.now = 1000.0
        self.pages = 0
        self._slow = f"{storage.proc}/{slow}/mountinfo"
        self._system = vars(vars(files)["posix"])
        self._fds: set[int] = set()

    def open(self, path: str, flags: int) -> int:
        fd: int = self._system["open"](path, flags)
        if path == self._slow:
            self._fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._fds.discard(fd)
        self._system["close"](fd)

    def read(self, fd: int, size: int) -> bytes:
        if fd in self._fds:
            self.pages += 1
            self.now += 1
            size = 64
        data: bytes = self._system["read"](fd, size)
        return data

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(**{**vars(time), "monotonic": lambda: self.now, "sleep": lambda _: None})
        calls = {"open": self.open, "close": self.close, "read": self.read}
        monkeypatch.setattr(files, "posix", SimpleNamespace(**{**self._system, **calls}))
        for module in (files, mounts, usage):
            monkeypatch.setattr(module, "time", clock)


def test_one_endless_table_leaves_time_for_others(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.device("sda")
    for number in range(100):
        storage.mount("sda", f"/home/user/{number}", process=300)
    storage.mount("nvme0n1", "/data", process=4711)
    clock = Clock(storage, 300)
    clock.install(monkeypatch)
    monkeypatch.setattr(usage, "_NAMES_TIMEOUT_SECONDS", 10)
    assert users() == ["/data in the mount namespace of process 4711"]
    assert clock.pages < 5


def test_too_many_processes_to_look_at_are_in_use(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the beginning of a table takes long if it has mounts on top of each other."""
    for process in range(300, 400):
        storage.process(process, "x")
    storage.mount("nvme0n1", "/data", process=4711)
    clock = Clock(storage, 0)
    clock.install(monkeypatch)
    heads: list[str] = []
    head = files.head

    def slow(path: str) -> bytes:
        heads.append(path)
        clock.now += 1
        return head(path)

    monkeypatch.setattr(files, "head", slow)
    assert usage._named({"nvme0n1": {"nvme0n1": []}})[1] is False
    assert len(heads) == 2


def test_table_that_is_cut_short_is_in_use(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.device("sda")
    for number in range(100):
        storage.mount("sda", f"/home/user/{number}", process=300)
    storage.mount("nvme0n1", "/data", process=300)
    clock = Clock(storage, 300)
    clock.install(monkeypatch)
    assert users() == [UNREAD.format(2)]
    assert clock.pages < 10


def test_devices_under_many_mounts_are_asked_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        storage.mount("nvme0n1", f"/data/{number}", fstype="btrfs", number="0:44", process=300)
    asked: list[str] = []

    def stat(path: str) -> object:
        asked.append(path)
        return storage.stat(path)

    monkeypatch.setattr(mounts, "posix", SimpleNamespace(**{**vars(vars(mounts)["posix"]), "stat": stat}))
    assert len(users()) == 50
    assert asked == ["/dev/nvme0n1"]


def test_rival_that_takes_too_long_to_find_is_in_use(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    rival(storage)
    monkeypatch.setattr(usage, "_NAMES_TIMEOUT_SECONDS", 0)
    assert users() == ["/dev/md0, which somebody has claimed (processes have too many mounts to find out who in 0 s)"]


DEVICES = ("nvme0n1", "nvme0n1p1", "nvme0n2", "dm-0", "sda")


@settings(max_examples=60, deadline=None)
@given(
    mounted=st.lists(st.tuples(st.sampled_from(DEVICES), st.sampled_from([1, 300, 4711]), st.sampled_from("abc"))),
    detached=st.sets(st.sampled_from(DEVICES)),
    root=st.sampled_from(["", *DEVICES]),
    seconds=st.sampled_from([0.0, 0.0001, 0.001]),
)
def test_limits_of_time_change_names_only(
    mounted: list[tuple[str, int, str]], detached: set[str], root: str, seconds: float
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        storage = Storage(Path(folder))
        install(storage, monkeypatch)
        monkeypatch.setattr(usage, "_LOOK_SECONDS", 0)
        monkeypatch.setattr(time, "sleep", lambda _: None)
        storage.controller("nvme0")
        for name in ("nvme0n1", "nvme0n2"):
            storage.namespace(name, "nvme0")
        storage.partition("nvme0n1p1", "nvme0n1")
        storage.device("dm-0", "nvme0n2")
        storage.device("sda")
        for name, process, target in mounted:
            storage.mount(name, f"/{target}", process)
        if root:
            storage.mount(root, "/")
        storage.claimed |= detached
        verdicts = []
        for limit in (60.0, seconds):
            monkeypatch.setattr(usage, "_NAMES_TIMEOUT_SECONDS", limit)
            claims = Claims()
            used = usage.users(["nvme0n1", "nvme0n2"], claims)
            held = set(storage.ours)
            claims.keep(set())
            hosts = [user.text for user in usage.everybody(used) if user.kind == "mount" and not user.process]
            verdicts.append((set(used), held, hosts, {name: usage.carries_system(one) for name, one in used.items()}))
            assert all(used.values())
        assert verdicts[0] == verdicts[1]


# What the status line shows -------------------------------------------------------------------------------


def test_a_name_cannot_forge_a_line(storage: Storage) -> None:
    storage.mount("nvme0n1", "/da ta\n\x1b[31m")
    assert users() == ["/da ta??[31m"]


# The system itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "system"), [("/", True), ("/usr", True), ("/data", False), ("/usr/local", False)])
def test_carries_system(storage: Storage, target: str, system: bool) -> None:
    storage.mount("nvme0n1", target)
    assert usage.carries_system(found()) is system


def test_a_root_in_a_container_is_not_the_systems(storage: Storage) -> None:
    storage.mount("nvme0n1", "/", process=4711)
    assert not usage.carries_system(found())


def test_mount_of_the_initial_ram_disk_is_the_systems(storage: Storage) -> None:
    storage.fstab.write_text(
        "# a comment\n/dev/x /var/lib/big\\040one ext4 defaults,x-initrd.mount 0 2\n"
        "/dev/y /home ext4 x-initrd.mounted\n\n/dev/z\n"
    )
    assert mounts.system_targets() == {"/", "/usr", "/var/lib/big one"}
    storage.mount("nvme0n1", "/var/lib/big one")
    assert usage.carries_system(found())


def test_system_subsystems(storage: Storage) -> None:
    storage.controller("nvme1", 7)
    storage.namespace("nvme7n1", "nvme1", subsystem=7)
    storage.device("dm-0", "nvme7n1")
    storage.mount("dm-0", "/")
    storage.mount("nvme0n1", "/data")
    assert usage.system_subsystems() == {"nqn.2024-08.x:7"}
