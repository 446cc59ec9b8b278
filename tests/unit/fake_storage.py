# SPDX-License-Identifier: Apache-2.0
"""Storage on NVMe: a sysfs, a /proc and the claims on block devices, as the kernel shows them."""

import errno
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from discoverd.kernel import block, claims, controllers, files, locks, mounts, openers, processes


class Storage:
    """What block, mounts and usage take for the kernel. Device numbers are given out as devices are made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sys = root / "sys"
        self.proc = root / "proc"
        self.utab = root / "utab"
        self.fstab = root / "fstab"
        self.btrfs = self.sys / "fs" / "btrfs"
        for folder in ("class/block", "class/nvme", "class/nvme-subsystem", "dev/block", "devices"):
            (self.sys / folder).mkdir(parents=True, exist_ok=True)
        self.proc.mkdir()
        self.numbers: dict[str, str] = {}
        # Paths that stat tells the device of: block devices, and files on them.
        self.nodes: dict[str, int] = {}
        self.files: dict[str, int] = {}
        # Devices that a mount, swap or a device on top has for itself, and errors of an attempt to open one.
        self.claimed: set[str] = set()
        self.open_errors: dict[str, int] = {}
        # The claims of ours, as descriptors of /dev/null, and other opens.
        self.ours: dict[str, int] = {}
        self.opened: dict[int, str] = {}
        # What the kernel says of loop devices: the numbers of the file system's device and of a backing device.
        self.loops: dict[str, tuple[int, int]] = {}
        self._mounts: dict[int, list[str]] = {1: []}
        self._mount_ids = 20
        self.write()

    # Controllers and namespaces.

    def controller(self, device: str, subsystem: int = 0, transport: str = "tcp", state: str = "live") -> Path:
        """Make a controller."""
        folder = self.sys / "devices" / device
        folder.mkdir()
        for name, text in (("transport", transport), ("state", state), ("subsysnqn", f"nqn.2024-08.x:{subsystem}")):
            (folder / name).write_text(text + "\n")
        (self.sys / "class/nvme" / device).symlink_to(folder)
        one = self.sys / "class/nvme-subsystem" / f"nvme-subsys{subsystem}"
        one.mkdir(exist_ok=True)
        (one / device).symlink_to(folder)
        return folder

    def namespace(self, name: str, *paths: str, ana: str = "", subsystem: int = 0) -> None:
        """Make a namespace of native multipath, with a path through each of the controllers."""
        self.device(name)
        one = self.sys / "class/nvme-subsystem" / f"nvme-subsys{subsystem}"
        (self.sys / "class/block" / name / "device").symlink_to(one)
        number = name.rpartition("n")[2]
        for device in paths:
            path = self.sys / "devices" / device / f"nvme{subsystem}c{device[4:]}n{number}"
            path.mkdir()
            if ana:
                (path / "ana_state").write_text(ana + "\n")

    def plain_namespace(self, name: str, device: str) -> None:
        """Make a namespace without native multipath: the block device is the controller's own."""
        self.device(name)
        (self.sys / "class/block" / name / "device").symlink_to(self.sys / "devices" / device)
        (self.sys / "devices" / device / name).symlink_to(self.sys / "class/block" / name)

    # Block devices.

    def device(self, name: str, *below: str) -> str:
        """Make a block device that has claimed those below it; return its number."""
        number = f"{8 if name[:2] == 'sd' else 259}:{len(self.numbers)}"
        folder = self.sys / "devices" / "block" / name
        (folder / "holders").mkdir(parents=True)
        (folder / "slaves").mkdir()
        self._number(name, number, folder)
        for one in below:
            (folder / "slaves" / one).symlink_to(self.sys / "class/block" / one)
            (self.sys / "class/block" / one / "holders" / name).symlink_to(folder)
            self.claimed.add(one)
        return number

    def partition(self, name: str, whole: str) -> str:
        """Make a partition."""
        number = f"259:{len(self.numbers)}"
        folder = self.sys / "devices" / "block" / whole / name
        (folder / "holders").mkdir(parents=True)
        (folder / "slaves").mkdir()
        (folder / "partition").write_text("1\n")
        self._number(name, number, folder)
        return number

    def loop(self, name: str, backing: str) -> str:
        """Make a loop device, which claims nothing."""
        number = self.device(name)
        (self.sys / "class/block" / name / "loop").mkdir()
        (self.sys / "class/block" / name / "loop/backing_file").write_text(backing + "\n")
        return number

    def generic(self, name: str) -> None:
        """Make the character device of a namespace."""
        folder = self.sys / "class/nvme-generic" / name
        folder.mkdir(parents=True)
        self.numbers[name] = f"240:{len(self.numbers)}"
        (folder / "dev").write_text(self.numbers[name] + "\n")
        self.nodes[f"/dev/{name}"] = self.device_number(name)

    def mapped(self, name: str, uuid: str) -> None:
        """Give a device mapper's device its UUID."""
        (self.sys / "class/block" / name / "dm").mkdir()
        (self.sys / "class/block" / name / "dm/uuid").write_text(uuid + "\n")

    def _number(self, name: str, number: str, folder: Path) -> None:
        (folder / "dev").write_text(number + "\n")
        (self.sys / "class/block" / name).symlink_to(folder)
        (self.sys / "dev/block" / number).symlink_to(folder)
        self.numbers[name] = number
        self.nodes[f"/dev/{name}"] = self.device_number(name)

    def device_number(self, name: str) -> int:
        major, _, minor = self.numbers[name].partition(":")
        return os.makedev(int(major), int(minor))

    def file(self, path: str, name: str) -> None:
        """Make a file on the file system of a block device."""
        self.files[path] = self.device_number(name)

    # Mounts and swap.

    def mount(
        self, name: str, target: str, process: int = 1, fstype: str = "ext4", number: str = "", claim: bool = True
    ) -> str:
        """Mount a block device in a process's mount namespace; return the line of mountinfo."""
        self._mount_ids += 1
        number = number or self.numbers[name]
        escaped = "".join(f"\\{ord(one):03o}" if one in " \t\n\\" else one for one in target)
        line = f"{self._mount_ids} 1 {number} / {escaped} rw,relatime shared:1 - {fstype} /dev/{name} rw"
        self._mounts.setdefault(process, []).append(line)
        if claim:
            self.claimed.add(name)
        self.write()
        return line

    def unmount(self, target: str, process: int = 1) -> None:
        """Unmount; the claim goes too if it was the last."""
        going = next(line for line in self._mounts[process] if line.split()[4] == target)
        self._mounts[process].remove(going)
        name = going.split(" - ")[1].split()[1].removeprefix("/dev/")
        if not any(f" /dev/{name} " in line for lines in self._mounts.values() for line in lines):
            self.claimed.discard(name)
        self.write()

    def write(self) -> None:
        """Bring /proc up to date."""
        for process, lines in self._mounts.items():
            (self.proc / str(process)).mkdir(exist_ok=True)
            (self.proc / str(process) / "mountinfo").write_text("".join(line + "\n" for line in lines))
        link = self.proc / "self"
        if not link.is_symlink():
            link.symlink_to(self.proc / "1")

    def swap(self, *rows: str) -> None:
        """Swap to these, written as the kernel does."""
        text = "".join(f"{row:<40}partition\t1048572\t\t0\t\t-2\n" for row in rows)
        (self.proc / "swaps").write_text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" + text)

    # Processes.

    def process(self, process: int, name: str, *paths: str, group: str = "/system.slice/x.service") -> Path:
        """Let a process have files open, all on one mount, a devtmpfs; return its folder."""
        folder = self.proc / str(process)
        for path in paths:
            self.descriptor(folder, path)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        if not (folder / "mountinfo").exists():
            (folder / "mountinfo").write_text("5 1 0:5 / /dev rw - devtmpfs udev rw\n")
        (folder / "comm").write_text(name + "\n")
        (folder / "cgroup").write_text(f"0::{group}\n")
        (folder / "stat").write_text(f"{process} (a) b) S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 1\n")
        return folder

    def descriptor(self, folder: Path, path: str, mount: int = 5) -> Path:
        """Open a file in a process or thread; return the link in its folder."""
        for name in ("fd", "fdinfo"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        number = str(len(os.listdir(folder / "fd")))
        (folder / "fd" / number).symlink_to(path)
        (folder / "fdinfo" / number).write_text(f"pos:\t0\nflags:\t02\nmnt_id:\t{mount}\nino:\t1\n")
        if path.startswith(locks.DIRECTORY + "/"):
            os.makedirs(locks.DIRECTORY, exist_ok=True)
            Path(path).touch()
        return folder / "fd" / number

    # The system calls.

    def stat(self, path: str) -> object:
        if path.startswith(f"{self.proc}/") and os.path.islink(path):
            path = os.readlink(path)
        if path in self.nodes:
            mode = 0o020660 if path.startswith("/dev/ng") else 0o060660
            return SimpleNamespace(st_mode=mode, st_rdev=self.nodes[path], st_dev=5, st_ino=1)
        if path in self.files:
            return SimpleNamespace(st_mode=0o100644, st_rdev=0, st_dev=self.files[path], st_ino=1)
        if path.startswith("/dev/"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return os.stat(path)

    def open(self, path: str, flags: int, *rest: int, **others: int | None) -> int:
        name = path.removeprefix("/dev/").replace("/", "!")
        if not flags & os.O_EXCL:
            if not path.startswith("/dev/"):
                return os.open(path, flags, *rest, dir_fd=others.get("dir_fd"))
            if number := self.open_errors.get(name, 0 if path in self.nodes else errno.ENOENT):
                raise OSError(number, os.strerror(number))
            fd = os.open(os.devnull, os.O_RDONLY)
            self.opened[fd] = name
            return fd
        if number := self.open_errors.get(name, errno.EBUSY if self._is_claimed(name) else 0):
            raise OSError(number, os.strerror(number))
        self.ours[name] = os.open(os.devnull, os.O_RDONLY)
        return self.ours[name]

    def close(self, fd: int) -> None:
        self.ours = {name: one for name, one in self.ours.items() if one != fd}
        self.opened.pop(fd, None)
        os.close(fd)

    def ioctl(self, fd: int, request: int, data: bytearray) -> int:
        assert (request, len(data)) == (0x4C05, 232)
        name = self.opened[fd]
        backing = (self.sys / "class/block" / name / "loop/backing_file").read_text().removesuffix("\n")
        if name in self.loops:
            device, own = self.loops[name]
        elif backing in self.nodes:
            device, own = 5, encoded(self.nodes[backing])
        elif backing in self.files:
            device, own = encoded(self.files[backing]), 0
        else:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        struct.pack_into("=QQQ", data, 0, device, 4711, own)
        return 0

    def _is_claimed(self, name: str) -> bool:
        folder = self.sys / "class/block" / name
        claimed = {*self.claimed, *self.ours}
        # A partition claims the whole device, against all but other partitions, and the other way round.
        whole = self.sys / "devices/block"
        above = {one for one in claimed if (whole / one / name / "partition").exists()}
        return name in claimed or bool(above) or any((folder / one / "partition").exists() for one in claimed)


def encoded(number: int) -> int:
    """Return a device number as the kernel shows it in 64 bits (huge_encode_dev)."""
    major, minor = os.major(number), os.minor(number)
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def install(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the modules on the made-up storage."""
    system = SimpleNamespace(**{**vars(os), "stat": storage.stat, "open": storage.open, "close": storage.close})
    for module, name, value in (
        (block, "SYS", str(storage.sys)),
        (block, "posix", system),
        (block, "fcntl", SimpleNamespace(ioctl=storage.ioctl)),
        (claims, "posix", system),
        (openers, "posix", system),
        (locks, "DIRECTORY", str(storage.root / "locks")),
        (files, "posix", system),
        (mounts, "posix", system),
        (processes, "PROC", str(storage.proc)),
        (mounts, "BTRFS", str(storage.btrfs)),
        (mounts, "FSTAB", str(storage.fstab)),
        (controllers, "CLASS", str(storage.sys / "class/nvme")),
    ):
        monkeypatch.setattr(module, name, value)
