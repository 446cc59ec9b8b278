# SPDX-License-Identifier: Apache-2.0
"""Processes that have a device open, found in /proc, whether or not they have claimed it.

Databases and virtual machines use a device so; nothing else in the kernel tells of them. All descriptors of all
processes are looked at, so this is for the moment before a disconnect only. One that has mapped the device and closed
the descriptor is not found: the mappings of a whole host are too many to read.

Used by workers, so it imports only what they may.
"""

import posix

from discoverd import locks
from discoverd.kernel import block, mounts

# Of /proc/PID/stat, after the name: the state, and the flags with PF_KTHREAD among them.
_STATE, _FLAGS, _KERNEL_THREAD = 0, 6, 0x00200000
# Services, by their control group, which nobody can enter without being root. udev's workers look into each new device,
# and keep away from one that we have locked. multipathd has the paths of dm-multipath open by design, and lets go of
# one when the kernel says that it is removed.
_NO_USERS = ("/system.slice/systemd-udevd.service", "/system.slice/multipathd.service")


class UnknownError(OSError):
    """It cannot be told who uses a device; ``strerror`` says why. Never a FileNotFoundError."""


class Opener:
    """A process that has the device ``path`` open. ``ours``: it is at a disconnect itself, and ends that soon."""

    __slots__ = ("ours", "path", "process", "program")

    def __init__(self, process: int, program: str, path: str, ours: bool) -> None:
        self.process = process
        self.program = program
        self.path = path
        self.ours = ours


def find(names: list[str]) -> list[Opener]:
    """Return who has one of these block devices open, or the generic character device of a namespace among them.

    Neither this process nor those that are no users of what they open. Raises UnknownError.
    """
    wanted = {}
    for name in names:
        for kind, number, path in block.nodes(name):
            wanted[kind, number] = path
    if not wanted:
        return []
    found = []
    own = str(posix.getpid())
    for process in posix.listdir(mounts.PROC):
        if process.isdigit() and process != own:
            found += _of(process, wanted)
    return found


def _of(process: str, wanted: dict[tuple[int, str], str]) -> list[Opener]:
    folder = f"{mounts.PROC}/{process}/fd"
    paths = set()
    ours = False
    try:
        for entry in posix.listdir(folder):
            try:
                target = posix.readlink(f"{folder}/{entry}")
                if target.startswith(locks.DIRECTORY + "/"):
                    # Nobody else can reach the directory.
                    ours = True
                if target[:5] != "/dev/":
                    continue  # A stat could hang, if it is on a network file system.
                status = posix.stat(f"{folder}/{entry}")
            except FileNotFoundError:
                continue  # It was closed meanwhile.
            kind = status.st_mode & 0o170000
            number = f"{posix.major(status.st_rdev)}:{posix.minor(status.st_rdev)}"
            if path := wanted.get((kind, number)):
                paths.add(path)
    except OSError as error:
        if not _has_files(process):
            return []
        raise UnknownError(
            error.errno,
            f"cannot tell what process {process} ({_program(process)}) has open ({error.strerror}): that takes "
            "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
        ) from None
    if not paths or _is_no_user(process):
        return []
    return [Opener(int(process), _program(process), path, ours) for path in sorted(paths)]


def _has_files(process: str) -> bool:
    """Tell whether a process can have anything open: it has not ended, and is no thread of the kernel."""
    fields = mounts.whole(f"{mounts.PROC}/{process}/stat").rpartition(b")")[2].split()
    return len(fields) > _FLAGS and fields[_STATE] not in (b"Z", b"X") and not int(fields[_FLAGS]) & _KERNEL_THREAD


def _is_no_user(process: str) -> bool:
    groups = mounts.whole(f"{mounts.PROC}/{process}/cgroup").decode("utf-8", "surrogateescape")
    # Lines such as 0::/system.slice/x.service; a service may have groups of its own below.
    return any(f"{line[line.find('/') :]}/".startswith(name + "/") for line in groups.split("\n") for name in _NO_USERS)


def _program(process: str) -> str:
    name = mounts.whole(f"{mounts.PROC}/{process}/comm").decode("utf-8", "replace").strip()
    return "".join(one if one.isprintable() else "?" for one in name) or "?"
