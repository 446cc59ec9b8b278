# SPDX-License-Identifier: Apache-2.0
"""Which mounts get _netdev, how often, and how much work a change is."""

import errno
from pathlib import Path

import pytest

from discoverd import notify
from discoverd.kernel import block, files, mounts, spawn
from discoverd.mounts import units
from discoverd.mounts import watcher as service

from .fake_storage import Storage, install


class Program:
    """Stands for mount(8): what it was asked for, and whether it works. And for systemctl, which knows ``units``."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.commands: list[tuple[str, ...]] = []
        self.fails = ""
        # What it shows, by mount point.
        self.units: dict[str, str] = {}
        self.reloads = 0

    def run(self, *command: str) -> tuple[int, str]:
        if command == ("systemctl", "daemon-reload"):
            self.reloads += 1
            return 0, ""
        if command[0] == "systemctl":
            return 0, self.units.get(command[-1], "Id=x.mount\nBefore=remote-fs.target\nFragmentPath=")
        self.commands.append(command)
        self.targets.append(command[-1])
        return (32, self.fails) if self.fails else (0, "")


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    made = Storage(tmp_path)
    install(made, monkeypatch)
    monkeypatch.setattr(service, "UTAB", str(made.utab))
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(units, "OURS", str(tmp_path / "units"))
    monkeypatch.setattr(units, "GENERATED", str(tmp_path / "generator"))
    made.controller("nvme0")
    made.namespace("nvme0n1", "nvme0")
    return made


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    made = Program()
    monkeypatch.setattr(spawn, "run", made.run)
    return made


def test_mounts_at_start_and_later_ones_are_entered(
    storage: Storage, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.mount("nvme0n1", "/data")
    table = service.Table()
    table.look()
    storage.mount("nvme0n1", "/srv/a b")
    table.look()
    table.look()
    assert (program.targets, table.count) == (["/data", "/srv/a b"], 2)
    assert capsys.readouterr().err.count("entered _netdev") == 2
    storage.unmount("/data")
    table.look()
    assert table.count == 1
    # Another mount at the same place is another one.
    storage.mount("nvme0n1", "/data")
    table.look()
    assert program.targets[2:] == ["/data"]


def test_the_mount_itself_is_not_touched(storage: Storage, program: Program) -> None:
    storage.mount("nvme0n1", "--bind")
    service.Table().look()
    (command,) = program.commands
    assert command[0] == "mount"
    assert {"--fake", "--internal-only", "--no-canonicalize"} <= set(command)
    assert command[command.index("-o") + 1 :] == ("remount,_netdev", "--", "--bind")


@pytest.mark.parametrize("transport", ["tcp", "rdma"])
def test_through_a_stack(storage: Storage, program: Program, transport: str) -> None:
    storage.controller("nvme1", 1, transport)
    storage.namespace("nvme1n1", "nvme1", subsystem=1)
    storage.partition("nvme1n1p1", "nvme1n1")
    storage.device("dm-0", "nvme1n1p1")
    storage.mount("dm-0", "/data")
    service.Table().look()
    assert program.targets == ["/data"]


@pytest.mark.parametrize("transport", ["pcie", "fc", "loop", ""])
def test_local_mount_is_not_entered(storage: Storage, program: Program, transport: str) -> None:
    storage.controller("nvme1", 1, transport)
    storage.namespace("nvme1n1", "nvme1", subsystem=1)
    storage.mount("nvme1n1", "/data")
    storage.device("sda")
    storage.mount("sda", "/home")
    storage.mount("tmpfs", "/run", number="0:7", fstype="tmpfs")
    table = service.Table()
    table.look()
    assert (program.targets, table.count) == ([], 0)


def test_the_system_itself_and_all_that_is_on_its_device(storage: Storage, program: Program) -> None:
    storage.mount("nvme0n1", "/")
    storage.mount("nvme0n1", "/home")
    service.Table().look()
    assert program.targets == []


def test_mount_of_the_initial_ram_disk_is_not_entered(storage: Storage, program: Program) -> None:
    storage.fstab.write_text("/dev/x /var ext4 x-initrd.mount 0 0\n")
    storage.mount("nvme0n1", "/var")
    service.Table().look()
    assert program.targets == []


def test_mount_that_is_marked_already_is_left(storage: Storage, program: Program) -> None:
    storage.utab.write_text(
        "SRC=/dev/nvme0n1 TARGET=/a\\040b ROOT=/ OPTS=x-a,_netdev,x-b\n"
        "SRC=/dev/nvme0n1 TARGET=/c ROOT=/ OPTS=not_netdev\n"
        "\nrubbish\nTARGET\nOPTS=_netdev\n"
    )
    for target in ("/a b", "/c", "/d"):
        storage.mount("nvme0n1", target)
    table = service.Table()
    table.look()
    assert (program.targets, table.count) == (["/c", "/d"], 3)


def test_a_failure_is_said_once_and_tried_again(
    storage: Storage, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    program.fails = "mount: /data: it is not so."
    storage.mount("nvme0n1", "/data")
    storage.device("sda")
    table = service.Table()
    for number in range(3):
        storage.mount("sda", f"/other{number}")
        table.look()
    assert program.targets == ["/data"] * 3
    assert capsys.readouterr().err.count("cannot enter _netdev for /data: mount: /data: it is not so.") == 1
    program.fails = ""
    table.look()
    table.look()
    assert program.targets == ["/data"] * 4


def test_a_mount_under_another_has_its_turn_when_that_goes(storage: Storage, program: Program) -> None:
    storage.device("sda")
    storage.mount("nvme0n1", "/data")
    line = storage.mount("sda", "/data")
    table = service.Table()
    table.look()
    assert program.targets == []
    storage._mounts[1].remove(line)
    storage.write()
    table.look()
    assert program.targets == ["/data"]


def test_a_name_cannot_forge_a_line(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    storage.mount("nvme0n1", "/a\n<3>b")
    service.Table().look()
    (line,) = capsys.readouterr().err.splitlines()
    assert "/a?<3>b" in line


def test_at_a_thousand_mounts_a_change_costs_what_one_mount_costs(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.device("sda")
    storage._mounts[1] = [
        f"{number + 100} 1 {storage.numbers['sda']} / /m{number} rw - ext4 /dev/sda rw" for number in range(1000)
    ]
    storage.mount("nvme0n1", "/data")
    table = service.Table()
    table.look()
    work: list[str] = []
    mount, text, whole = mounts.Mount, block._text, files.whole

    def read(path: str) -> str:
        work.append(path)
        return text(path)

    def parsed(line: str) -> mounts.Mount:
        work.append(line)
        return mount(line)

    def file(path: str, deadline: float = 0) -> bytes:
        work.append(path)
        return whole(path, deadline)

    monkeypatch.setattr(block, "_text", read)
    monkeypatch.setattr(mounts, "Mount", parsed)
    monkeypatch.setattr(files, "whole", file)
    table.look()
    # The table of mounts itself, and nothing else.
    assert len(work) == 1
    storage.mount("nvme0n1", "/one")
    table.look()
    assert len(work) < 12, work
    assert sum(" - " in one for one in work) == 1


# Running --------------------------------------------------------------------------------------------------


def test_ready_comes_after_what_is_there(storage: Storage, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd has ordered what was mounted before the unit counts as started."""
    storage.mount("nvme0n1", "/data")
    told: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(notify, "send", lambda text: told.append((text, list(program.targets))))

    def status(text: str) -> None:
        told.append((text, []))
        raise KeyboardInterrupt

    monkeypatch.setattr(notify, "status", status)
    monkeypatch.setattr(notify, "subject", "")
    with pytest.raises(KeyboardInterrupt):
        service.main()
    assert told == [("READY=1", ["/data"]), ("1 mounts on NVMe over TCP or RDMA", [])]


def test_without_mount_it_ends_and_is_started_anew(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: str) -> tuple[int, str]:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(spawn, "run", missing)
    storage.mount("nvme0n1", "/data")
    with pytest.raises(FileNotFoundError):
        service.Table().look()


# fstab's units --------------------------------------------------------------------------------------------

FSTABS = """\
[Unit]
SourcePath=/etc/fstab
Before=local-fs.target

[Mount]
Where=/data
What=/dev/nvme0n1
Type=ext4
"""


@pytest.fixture
def generated(storage: Storage, program: Program, tmp_path: Path) -> Path:
    """Fstab's unit for /data, which is mounted; returns where a unit in its place would be."""
    (tmp_path / "generator").mkdir()
    fragment = tmp_path / "generator" / "data.mount"
    fragment.write_text(FSTABS)
    program.units["/data"] = f"Id=data.mount\nBefore=umount.target local-fs.target\nFragmentPath={fragment}"
    storage.mount("nvme0n1", "/data")
    return tmp_path / "units" / "data.mount"


def test_a_unit_of_fstabs_is_written_over_while_it_is_mounted(
    storage: Storage, program: Program, generated: Path
) -> None:
    table = service.Table()
    table.look()
    lines = generated.read_text().split("\n")
    assert "Options=_netdev" in lines
    assert {"Where=/data", "What=/dev/nvme0n1", "SourcePath=/etc/fstab"} <= set(lines)
    assert not [line for line in lines if line.startswith("Before=")]
    assert generated.stat().st_mode & 0o777 == 0o644
    table.look()
    assert program.reloads == 1
    storage.unmount("/data")
    table.look()
    assert not generated.exists()
    assert program.reloads == 2


def test_a_restarted_service_gives_back_what_the_one_before_wrote(
    storage: Storage, program: Program, generated: Path
) -> None:
    service.Table().look()
    storage.unmount("/data")
    other = generated.with_name("other.mount")
    other.write_text("[Mount]\nWhere=/other\n")
    service.Table().look()
    assert not generated.exists()
    assert other.exists(), "an administrator's"


def test_an_administrators_unit_is_left_as_it_is(storage: Storage, program: Program, generated: Path) -> None:
    program.units["/data"] = "Id=data.mount\nBefore=local-fs.target\nFragmentPath=/etc/systemd/system/data.mount"
    service.Table().look()
    assert not generated.exists()
    assert program.reloads == 0


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        ("[Mount]\nOptions=noauto,x=1", "[Mount]\nOptions=noauto,x=1,_netdev"),
        ("Before=local-fs.target other.target\n[Mount]", "Before=other.target\n[Mount]\nOptions=_netdev"),
    ],
)
def test_how_a_unit_is_put_right(unit: str, wanted: str) -> None:
    assert units.remote(unit) == wanted
