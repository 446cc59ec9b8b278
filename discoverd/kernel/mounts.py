# SPDX-License-Identifier: Apache-2.0
"""What is mounted, in this and in all other mount namespaces (proc_pid_mountinfo(5)), and what is swapped to.

Used by workers, so it imports only what they may.
"""

import posix
import time

from discoverd.kernel import files, processes, timeout

BTRFS = "/sys/fs/btrfs"
FSTAB = "/etc/fstab"
# Without these two the system does not run.
SYSTEM = ("/", "/usr")
# Types of file systems, as they begin, that never answer, or that hold no device files of root's: users have theirs
# mounted (FUSE, always without devices), and a server that is gone leaves whoever asks hanging.
NO_DEVICES = ("fuse", "nfs", "cifs", "smb", "9p", "ceph", "afs", "autofs", "proc", "sysfs", "cgroup")
# Those that lie on block devices, and whose number is not that of one. For others what they were mounted from may be
# anything that a user wrote there, and it is not asked for.
_ON_DEVICES = ("btrfs", "bcachefs")
# Seconds that a swap file has to answer. One on a server that is gone does not.
_ANSWER_TIMEOUT_SECONDS = 1
# Seconds for one table of mounts among those of all processes. A user can make it as long as he likes, and slow to read
# (mounts on top of each other).
_TABLE_TIMEOUT_SECONDS = 0.5


class Mount:
    """One mount. ``number`` is the file system's device number, ``source`` what it was mounted from.

    ``process`` is 0 in the host's mount namespace, else a process in the other namespace.
    """

    __slots__ = ("fstype", "number", "process", "source", "target")

    def __init__(self, line: str, process: int = 0) -> None:
        """Read a line of mountinfo. Raises ValueError for anything else."""
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 6:
            raise ValueError(f"no line of mountinfo: {line[:80]!r}")
        self.number = fields[2]
        self.target = unescape(fields[4])
        self.fstype, _, rest = after.partition(" ")
        self.source = unescape(rest.partition(" ")[0])
        self.process = process

    def numbers(self) -> list[str]:
        """Return the device numbers of the block devices under the file system.

        One that spans devices, as btrfs can, has an anonymous number of its own; they stand in sysfs then.
        """
        if self.number[:2] != "0:":
            return [self.number]
        if self.fstype not in _ON_DEVICES or self.source[:5] != "/dev/":
            return []
        try:
            device = posix.stat(self.source).st_rdev
        except OSError:
            return []
        first = f"{posix.major(device)}:{posix.minor(device)}"
        return _btrfs_devices(first) if self.fstype == "btrfs" else [first]


def table(process: int | str = "self", deadline: float = 0) -> bytes:
    """Return a process's mountinfo as it is, empty if the process is gone.

    Of the monotonic clock is ``deadline``, 0 for none: what is not read by then is left out, in whole lines.
    """
    data = files.whole(f"{processes.PROC}/{process}/mountinfo", deadline)
    return data[: data.rfind(b"\n") + 1] if deadline else data


def of(data: bytes, process: int = 0, seen: set[bytes] | None = None) -> list[Mount]:
    """Return the mounts of a mountinfo, without those whose numbers are in ``seen``, and enters theirs there."""
    seen = set() if seen is None else seen
    found = []
    for line in data.split(b"\n"):
        number = _number(line)
        if number not in seen:
            seen.add(number)
            if line:
                found.append(Mount(line.decode("utf-8", "surrogateescape"), process))
    return found


def of_host(seen: set[bytes] | None = None) -> list[Mount]:
    """Return the mounts of the host's mount namespace, whatever time it takes: they tell what carries the system."""
    return of(table(1), 0, seen)


def of_others(seen: set[bytes], deadline: float) -> tuple[list[Mount], bool]:
    """Return the mounts of all other mount namespaces that a process is in, without those in ``seen`` (as ``of``).

    Beside them, whether these are all. What is not read by ``deadline``, of the monotonic clock, is left out, and so is
    the end of a table that takes too long by itself: a user can have so many mounts that to read them takes minutes.
    """
    # No two mounts have the same number, in whatever namespaces, so that of its first tells whether one is known.
    found: list[Mount] = []
    complete = True
    for entry in posix.listdir(processes.PROC):
        if not entry.isdigit():
            continue
        now = time.monotonic()
        if now >= deadline:
            return found, False
        if _number(files.head(f"{processes.PROC}/{entry}/mountinfo")) not in seen:
            until = min(deadline, now + _TABLE_TIMEOUT_SECONDS)
            found += of(table(entry, until), int(entry), seen)
            complete = complete and time.monotonic() < until
    return found, complete


def system_targets() -> set[str]:
    """Return where the root file system is mounted, and what the initial RAM disk has mounted for it."""
    lines = files.whole(FSTAB).decode("utf-8", "surrogateescape").split("\n")
    rows = [line.split() for line in lines if line[:1] != "#"]
    initrd = {unescape(row[1]) for row in rows if len(row) > 3 and "x-initrd.mount" in row[3].split(",")}
    return {*SYSTEM, *initrd}


def system_numbers() -> set[str]:
    """Return the device numbers of what the system itself runs from."""
    targets = system_targets()
    return {number for mount in of(table()) if mount.target in targets for number in mount.numbers()}


def swaps() -> list[tuple[str, str]]:
    """Return what is swapped to: path, and the device number of the device, or of the one that the file is on."""
    found = []
    for line in files.whole(f"{processes.PROC}/swaps").decode("utf-8", "surrogateescape").split("\n")[1:]:
        path = unescape(line.partition(" ")[0].rstrip("\t"))
        try:
            status = timeout.call(_ANSWER_TIMEOUT_SECONDS, posix.stat, path)
        except OSError as error:
            if error.errno in files.SHORTAGES:
                raise
            continue
        device = status.st_rdev or status.st_dev
        found.append((path, f"{posix.major(device)}:{posix.minor(device)}"))
    return found


def unescape(text: str) -> str:
    r"""Return a field of mountinfo or utab as the path it is: ``\040`` and the like stand for white space."""
    first, *rest = text.split("\\")
    for part in rest:
        code = part[:3]
        if len(code) == 3 and all(digit in "01234567" for digit in code):
            first += chr(int(code, 8)) + part[3:]
        else:
            first += "\\" + part
    return first


def _number(line: bytes) -> bytes:
    return line.partition(b" ")[0]


def _btrfs_devices(number: str) -> list[str]:
    try:
        file_systems = posix.listdir(BTRFS)
    except OSError as error:
        if error.errno in files.SHORTAGES:
            raise
        file_systems = []
    for one in file_systems:
        folder = f"{BTRFS}/{one}/devices"
        try:
            names = posix.listdir(folder)
        except OSError as error:
            if error.errno in files.SHORTAGES:
                raise
            continue  # "features" is no file system.
        numbers = [files.whole(f"{folder}/{name}/dev").decode().strip() for name in names]
        if number in numbers:
            return numbers
    return [number]
