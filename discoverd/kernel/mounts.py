# SPDX-License-Identifier: Apache-2.0
"""What is mounted, in this and in all other mount namespaces (proc_pid_mountinfo(5)), and what is swapped to.

Used by workers, so it imports only what they may.
"""

import posix

PROC = "/proc"
BTRFS = "/sys/fs/btrfs"
FSTAB = "/etc/fstab"
# Without these two the system does not run.
SYSTEM = ("/", "/usr")
# ENOMEM, ENFILE, EMFILE: they say nothing about what was to be read, and must not pass for its absence.
SHORTAGES = (12, 23, 24)


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
        if self.source[:5] != "/dev/":
            return []
        try:
            device = posix.stat(self.source).st_rdev
        except OSError:
            return []
        first = f"{posix.major(device)}:{posix.minor(device)}"
        return _btrfs_devices(first) if self.fstype == "btrfs" else [first]


def table(process: int | str = "self") -> bytes:
    """Return a process's mountinfo as it is, empty if the process is gone."""
    return whole(f"{PROC}/{process}/mountinfo")


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


def mounted() -> list[Mount]:
    """Return the mounts of all mount namespaces that a process is in, the host's first."""
    # No two mounts have the same number, in whatever namespaces, so that of its first tells whether one is known.
    seen: set[bytes] = set()
    found = of(table(1), 0, seen)
    for entry in posix.listdir(PROC):
        if entry.isdigit() and _number(_head(f"{PROC}/{entry}/mountinfo")) not in seen:
            found += of(table(entry), int(entry), seen)
    return found


def system_targets() -> set[str]:
    """Return where the root file system is mounted, and what the initial RAM disk has mounted for it."""
    lines = whole(FSTAB).decode("utf-8", "surrogateescape").split("\n")
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
    for line in whole(f"{PROC}/swaps").decode("utf-8", "surrogateescape").split("\n")[1:]:
        path = unescape(line.partition(" ")[0].rstrip("\t"))
        try:
            status = posix.stat(path)
        except OSError:
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
        if error.errno in SHORTAGES:
            raise
        file_systems = []
    for one in file_systems:
        folder = f"{BTRFS}/{one}/devices"
        try:
            names = posix.listdir(folder)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            continue  # "features" is no file system.
        numbers = [whole(f"{folder}/{name}/dev").decode().strip() for name in names]
        if number in numbers:
            return numbers
    return [number]


def _head(path: str) -> bytes:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""
    try:
        return posix.read(fd, 64)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""  # The process has just ended.
    finally:
        posix.close(fd)


def whole(path: str) -> bytes:
    """Return a file's content, empty if it cannot be read. Raises OSError for SHORTAGES only."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""
    chunks = []
    try:
        while chunk := posix.read(fd, 1 << 16):
            chunks.append(chunk)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return b""  # The process has just ended.
    finally:
        posix.close(fd)
    return b"".join(chunks)
