# SPDX-License-Identifier: Apache-2.0
"""Processes that have a device open, found in /proc, whether or not they have claimed it.

Databases and virtual machines use a device so; nothing else in the kernel tells of them. All descriptors of all
processes are looked at, so this is for the moment before a disconnect only. One that has mapped the device and closed
the descriptor is not found: the mappings of a whole host are too many to read.

Used by workers, so it imports only what they may.
"""

import posix
import time

from discoverd.kernel import block, files, locks, mounts, processes, timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Of /proc/PID/stat, after the name: the state, the flags with PF_KTHREAD among them, and how many threads there are.
_STATE, _FLAGS, _THREADS, _KERNEL_THREAD = 0, 6, 17, 0x00200000
# Services, by their control group, which nobody can enter without being root. udev's workers look into each new device,
# and keep away from one that we have locked. multipathd has the paths of dm-multipath open by design, and lets go of
# one when the kernel says that it is removed.
_NO_USERS = ("/system.slice/systemd-udevd.service", "/system.slice/multipathd.service")
# Seconds for a look at all processes: who has rights to little can have millions of descriptors.
LOOK_TIMEOUT_SECONDS = 20
# So many times as long it may take by the clock: where hundreds of workers look at once, each of them waits for a
# processor most of the time.
_BUSY_FACTOR = 6
# The part of a look that may go to tables of mounts, which users can make as long as they like.
_TABLES_SHARE = 0.25
# File systems that answer from memory. Others, such as one that lies over file systems of others, may not answer.
_LOCAL = ("devtmpfs", "tmpfs", "ramfs", "rootfs", "devpts", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs")
# Seconds that those have to answer.
_ANSWER_TIMEOUT_SECONDS = 1
_ETIMEDOUT = 110


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


class Limit:
    """How much time looks may take all together, in one thread: ``seconds`` of work and of waiting for answers.

    What passes while others have the processors does not count, up to _BUSY_FACTOR times as much.
    """

    __slots__ = ("_from", "_until", "_work_until", "seconds")

    def __init__(self, seconds: float = LOOK_TIMEOUT_SECONDS) -> None:
        self.seconds = seconds
        now = time.monotonic()
        # Nobody works longer than the clock runs, and to ask for the thread's time is a system call, which would be one
        # more for each descriptor.
        self._from, self._until = now + seconds, now + _BUSY_FACTOR * seconds
        self._work_until = time.thread_time() + seconds

    def waited(self, seconds: float) -> None:
        """Count what was waited for an answer."""
        self._work_until -= seconds
        self._from -= seconds

    def passed(self, now: float) -> bool:
        """Tell whether there is no time left, at this moment of the monotonic clock."""
        return now > self._from and (now > self._until or time.thread_time() > self._work_until)


def find(names: list[str], limit: Limit | None = None) -> list[Opener]:
    """Return who has one of these block devices open, or the generic character device of a namespace among them.

    Neither this process nor those that are no users of what they open. Raises UnknownError, also when it is not done
    within ``limit``, which is a new one if not given.
    """
    wanted = {}
    for name in names:
        for kind, number, path in block.nodes(name):
            wanted[kind, number] = path
    if not wanted:
        return []
    look = _Look(wanted, limit or Limit())
    found = []
    own = str(posix.getpid())
    for process in posix.listdir(processes.PROC):
        if process.isdigit() and process != own:
            found += look.into(process)
    return found


class _Look:
    """One look at all processes."""

    __slots__ = ("_limit", "_locks", "_namespaces", "_silent", "_slowest", "_tables_until", "_types", "_wanted")

    def __init__(self, wanted: dict[tuple[int, str], str], limit: Limit) -> None:
        self._wanted = wanted
        self._limit = limit
        self._tables_until = time.monotonic() + _TABLES_SHARE * limit.seconds
        # The type of each mount by its number, which is its own in the whole system, and whose tables were read.
        self._types: dict[str, str] = {}
        self._namespaces: set[str] = set()
        self._silent: set[str] = set()
        self._locks = _lock_files()
        # Which process took the most seconds, of those seen so far, and how many descriptors it has.
        self._slowest = (0.0, "", 0)

    def into(self, process: str) -> list[Opener]:
        """Return what of the wanted devices a process has open."""
        paths: set[str] = set()
        ours = False
        began = time.monotonic()
        try:
            for folder, entries in _tables(process):
                for entry in entries:
                    now = time.monotonic()
                    self._slowest = max(self._slowest, (now - began, process, len(entries)))
                    if self._limit.passed(now):
                        raise self._too_slow()
                    status = self._status(process, folder, entry)
                    if status is None:
                        continue
                    if (status.st_dev, status.st_ino) in self._locks:
                        ours = True
                    number = f"{posix.major(status.st_rdev)}:{posix.minor(status.st_rdev)}"
                    if path := self._wanted.get((status.st_mode & 0o170000, number)):
                        paths.add(path)
        except UnknownError:
            raise
        except OSError as error:
            if error.errno in files.SHORTAGES:
                raise
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

    def _status(self, process: str, folder: str, entry: str) -> "Any":
        """Return what stat says of a descriptor, None if it is no device's, or was closed meanwhile."""
        link = f"{folder}/fd/{entry}"
        try:
            # A path says nothing more: a device file may lie anywhere, as in a container, and be called anything.
            target = posix.readlink(link)
            if target[:1] != "/" or target.startswith("/memfd:"):
                return None  # A socket, a pipe and the like.
            mount = _mount(f"{folder}/fdinfo/{entry}")
            kind = self._type(process, mount)
            if kind.startswith(mounts.NO_DEVICES) or mount in self._silent:
                return None
            if kind in _LOCAL:
                return posix.stat(link)
        except FileNotFoundError:
            return None
        # It may be of somebody's making who wants us to hang, or to fail.
        began = time.monotonic()
        try:
            return timeout.call(_ANSWER_TIMEOUT_SECONDS, posix.stat, link)
        except TimeoutError:
            if mount:
                self._silent.add(mount)
            return None
        except OSError as error:
            if error.errno in files.SHORTAGES:
                raise
            return None
        finally:
            self._limit.waited(time.monotonic() - began)

    def _type(self, process: str, mount: str) -> str:
        """Return the type of a mount, '' if it cannot be told.

        It is in no table where it was detached, or the process has just come, or the table was too long to be read.
        """
        if mount in self._types:
            return self._types[mount]
        try:
            namespace = posix.readlink(f"{processes.PROC}/{process}/ns/mnt")
        except FileNotFoundError:
            namespace = process
        if namespace not in self._namespaces:
            self._namespaces.add(namespace)
            for line in mounts.table(process, self._tables_until).split(b"\n"):
                before, _, after = line.partition(b" - ")
                self._types[before.partition(b" ")[0].decode()] = after.partition(b" ")[0].decode("utf-8", "replace")
        return self._types.get(mount, "")

    def _too_slow(self) -> UnknownError:
        seconds, process, count = self._slowest
        return UnknownError(
            _ETIMEDOUT,
            "processes have too many files open, or on file systems that do not answer, to look at all of them in "
            f"time; process {process} ({_program(process)}) took {seconds:.0f} s for {count} files: end it, or try "
            "again later",
        )


def _lock_files() -> set[tuple[int, int]]:
    """Return our own locks. Nobody else can reach the directory; what only has its name may be anything."""
    found = set()
    try:
        for entry in posix.listdir(locks.DIRECTORY):
            status = posix.stat(f"{locks.DIRECTORY}/{entry}")
            found.add((status.st_dev, status.st_ino))
    except FileNotFoundError:
        pass
    return found


def _mount(path: str) -> str:
    """Return the number of the mount that a descriptor was opened on."""
    for line in files.whole(path).split(b"\n"):
        if line[:7] == b"mnt_id:":
            return line[7:].strip().decode()
    return ""


def _tables(process: str) -> list[tuple[str, list[str]]]:
    """Return the folders of /proc that show what a process has open, with the descriptors in each.

    All its threads share that, but once its first thread has ended, the process itself shows nothing any more.
    """
    folder = f"{processes.PROC}/{process}"
    entries = posix.listdir(folder + "/fd")
    if entries or not _goes_on(processes.fields(process)):
        return [(folder, entries)]
    found = []
    for thread in posix.listdir(folder + "/task"):
        try:
            found.append((f"{folder}/task/{thread}", posix.listdir(f"{folder}/task/{thread}/fd")))
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has ended; the others have the same open.
    return found


def _goes_on(fields: list[bytes]) -> bool:
    """Tell whether other threads of a process go on after its first has ended."""
    return len(fields) > _THREADS and fields[_STATE] == b"Z" and int(fields[_THREADS]) > 1


def _has_files(process: str) -> bool:
    """Tell whether a process can have anything open: it has not ended, and is no thread of the kernel."""
    fields = processes.fields(process)
    if len(fields) <= _FLAGS or fields[_STATE] == b"X" or int(fields[_FLAGS]) & _KERNEL_THREAD:
        return False
    return fields[_STATE] != b"Z" or _goes_on(fields)


def _is_no_user(process: str) -> bool:
    groups = processes.control_groups(process)
    # A service may have groups of its own below.
    return any(f"{line[line.find('/') :]}/".startswith(name + "/") for line in groups for name in _NO_USERS)


def _program(process: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in processes.name(process)) or "?"
