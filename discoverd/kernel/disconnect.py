# SPDX-License-Identifier: Apache-2.0
"""The disconnect of a controller that nobody uses, or whose users its caller has judged.

That it is not in use is proved by exclusive claims, and they are held until it is gone: nobody can mount it meanwhile.
What cannot be claimed, that a process has it open or that another device was made on it, is looked at last of all.

Used by workers, so it imports only what they may.
"""

import _thread
import fcntl
import posix
import time

from discoverd.kernel import block, controllers, fabrics, files, locks, usage
from discoverd.kernel.claims import NOT_THERE, Claims, open_device
from discoverd.kernel.openers import UnknownError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from discoverd.kernel.usage import User

# Seconds that another path of the subsystem has for its disconnect.
TURN_TIMEOUT_SECONDS = 120
# Seconds that udev has to end what it is at.
UDEV_TIMEOUT_SECONDS = 2
# Seconds that a target has to take what was written, and then to make it lasting.
WRITE_BACK_TIMEOUT_SECONDS, FLUSH_TIMEOUT_SECONDS = 30, 5
# Seconds between the first error of a device that is taken away and its end.
_REMOVAL_SECONDS = 2
_POLL_INTERVAL_SECONDS = 0.005
# BLKFLSBUF of linux/fs.h: write back what is in the page cache, as the last close does.
_WRITE_BACK = 0x1261
_EAGAIN, _ETIMEDOUT = 11, 110

DISCONNECTED, WAIT, REFUSE, LEAVE = "disconnected", "wait", "refuse", "leave"


class UnwrittenError(UnknownError):
    """A device does not take what programs have written to it. ``refused``: it answers, and with an error."""

    def __init__(self, number: int | None, text: str, refused: bool = False) -> None:
        super().__init__(number, text)
        self.refused = refused


class Answer:
    """What is to be done, and ``text``, why: who uses the controller."""

    __slots__ = ("text", "verdict")

    def __init__(self, verdict: str, text: str = "") -> None:
        self.verdict = verdict
        self.text = text


def stop_at(error: OSError) -> "NoReturn":
    """Do not disconnect what may be in use."""
    raise error


def disconnect(
    device: str,
    sysfs_inode: int,
    turn: float,
    judge: "Callable[[dict[str, list[User]]], Answer | None]",
    before_delete: "Callable[[], Answer | None]",
    on_error: "Callable[[OSError], None]" = stop_at,
) -> Answer:
    """Delete a controller, unless it is in use or something else speaks against it. Blocks.

    ``judge`` gets the namespaces in use, with their users, as soon as there are any and once more at the end, for what
    it relies on may have changed; ``before_delete`` is called last. What they answer is returned, and the controller
    stays; with None it goes on. ``turn`` is for how many seconds the disconnect of another path is waited for.
    ``on_error`` gets what keeps us from telling who uses it, and raises it, or returns to go on all the same.

    Raises OSError if it cannot tell, or if the kernel fails; FileNotFoundError if the controller is gone.
    """
    claims = Claims()
    descriptors: list[int] = []
    used: dict[str, list[User]] = {}
    errors = _Errors(on_error)
    try:
        # The workers of all paths of a subsystem may be here at once, and each of two would take the other path for
        # the one that stays.
        with errors:
            descriptors += _lock_subsystem(device, turn)
        if controllers.sysfs_inode(device) != sysfs_inode:
            raise FileNotFoundError(2, "it is gone")
        namespaces = block.namespaces(device)
        with errors:
            used = usage.users(namespaces, claims)
        if used and (answer := judge(used)):
            return answer
        with errors:
            descriptors += _keep_udev_out(namespaces, claims)
            # A target may have got one meanwhile.
            if later := _later(device, namespaces):
                namespaces += later
                descriptors += _keep_udev_out(later, claims)
            used = {**used, **_late_users(namespaces, used, claims)}
        if used and (answer := judge(used)):
            return answer
        with errors:
            _write_back(device, namespaces, used)
            if later := _later(device, namespaces):
                raise UnknownError(_EAGAIN, f"it has just got {later[0]}; try again")
        if answer := before_delete():
            return answer
        fabrics.delete(device, sysfs_inode)
    finally:
        claims.keep(set())
        for descriptor in descriptors:
            posix.close(descriptor)
    users = usage.everybody(used)
    return Answer(DISCONNECTED, f", though in use by {phrase(users)}" if users else "")


class _Errors:
    """A block whose OSErrors somebody is asked about, who raises them, or returns to have the block left."""

    __slots__ = ("_on_error",)

    def __init__(self, on_error: "Callable[[OSError], None]") -> None:
        self._on_error = on_error

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, OSError):
            return False
        if isinstance(error, FileNotFoundError):
            # Whatever has disappeared on the way to who uses the controller is not the controller.
            error = UnknownError(error.errno, error.strerror)
        self._on_error(error)
        return True


def _later(device: str, namespaces: list[str]) -> list[str]:
    """Return the namespaces that the controller has got since."""
    return [namespace for namespace in block.namespaces(device) if namespace not in namespaces]


def _late_users(namespaces: list[str], used: "dict[str, list[User]]", claims: Claims) -> "dict[str, list[User]]":
    """Return who uses namespaces now whose users were not judged yet."""
    unused = [namespace for namespace in namespaces if namespace not in used]
    # A device that was made since the first look, such as one more logical volume beside others.
    late = usage.users(unused, claims)
    stacks = {namespace: list(block.stack(namespace)) for namespace in unused if namespace not in late}
    for namespace in used:
        if block.siblings(namespace):
            # Other paths of dm-multipath help what lies on top, and not who has opened this one by itself.
            stacks[namespace] = [namespace, *block.partitions(namespace)]
    processes = usage.processes([name for stack in stacks.values() for name in stack])
    for namespace, stack in stacks.items():
        paths = {path for name in stack for _, _, path in block.nodes(name)}
        if found := [user for user in processes if user.name in paths]:
            late[namespace] = [*used.get(namespace, []), *found]
    return late


def _write_back(device: str, namespaces: list[str], used: "dict[str, list[User]]") -> None:
    """Have written what programs have written to the devices and closed them. Raises UnknownError.

    The kernel does it at the last close of a device, and that will be ours: we and udev's lock have it open, so that of
    a program which came between our looks was not the last.
    """
    names: list[str] = []
    usable: list[str] = []
    for namespace in namespaces:
        paths = set(block.usable_paths(namespace))
        # What has another path keeps it all. A silent one in use has been given up with what is on it.
        if paths - {device} or (namespace in used and not paths):
            continue
        siblings = block.siblings(namespace)
        stack = [namespace, *block.partitions(namespace)] if siblings else list(block.stack(namespace))
        # From the top, for what lies there is written to what lies below.
        names += reversed(stack)
        if paths:
            usable += reversed(stack)
    if not names:
        return
    writing = _Writing(names, usable)
    _thread.start_new_thread(writing.run, ())
    if not _wait(lambda: writing.written or writing.error is not None, WRITE_BACK_TIMEOUT_SECONDS):
        text = f"what was written to /dev/{writing.name} cannot be written back; its target is silent"
        raise UnwrittenError(_ETIMEDOUT, text)
    # Nothing of the host's is lost if only this takes too long: the target has it.
    _wait(lambda: writing.ended, FLUSH_TIMEOUT_SECONDS)
    if error := writing.error:
        if isinstance(error, UnknownError) or error.errno in files.SHORTAGES:
            raise error
        text = f"what was written to /dev/{writing.name} cannot be written back ({error.strerror})"
        raise UnwrittenError(error.errno, text, refused=True)


def _wait(done: "Callable[[], bool]", seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_INTERVAL_SECONDS)
    return True


class _Writing:
    """The writing back of devices, in a thread that may be left behind: nothing ends what waits for a target.

    ``written`` when nothing is left in the page cache, ``ended`` when that is lasting.
    """

    __slots__ = ("_names", "_usable", "ended", "error", "name", "written")

    def __init__(self, names: list[str], usable: list[str]) -> None:
        self._names = names
        self._usable = usable
        self.name = ""
        self.error: OSError | None = None
        self.written = False
        self.ended = False

    def run(self) -> None:
        opened: dict[str, int] = {}
        try:
            for name in self._names:
                self.name = name
                try:
                    # Opened before it is written: only so does fsync tell of errors.
                    opened[name] = open_device(name)
                    # This waits for a silent target only if there is something to write.
                    fcntl.ioctl(opened[name], _WRITE_BACK)
                except OSError as error:
                    if error.errno not in NOT_THERE:
                        raise
            self.written = True
            for name in self._usable:
                self.name = name
                if name in opened:
                    _make_lasting(name, opened[name])
        except OSError as error:
            self.error = error
        finally:
            for descriptor in opened.values():
                posix.close(descriptor)
            self.ended = True


def _make_lasting(name: str, descriptor: int) -> None:
    """Flush a device. Raises OSError, but not where a part of it is gone for good.

    Such as the controller of the other half of a logical volume: no flush of the whole succeeds any more, and what lies
    on the part that is left is flushed by itself.
    """
    try:
        posix.fsync(descriptor)
    except OSError:
        if not block.parts(name) or not _wait(lambda: not block.is_whole(name), _REMOVAL_SECONDS):
            raise


def phrase(users: "list[User]") -> str:
    """Return the users as a phrase: the first, and how many more."""
    texts = list(dict.fromkeys(user.text for user in users))
    return texts[0] + (f" and {len(texts) - 1} more" if texts[1:] else "")


def _lock_subsystem(device: str, seconds: float) -> list[int]:
    """Wait for the lock of the controller's subsystem, and return its descriptor; none where there is no such thing."""
    root = f"{block.SYS}/class/nvme-subsystem"
    try:
        subsystems = posix.listdir(root)
    except FileNotFoundError:
        return []
    for subsystem in subsystems:
        try:
            if device not in posix.listdir(f"{root}/{subsystem}"):
                continue
        except FileNotFoundError:
            continue  # It has just gone. If it was ours, so has the controller, and the caller sees that.
        return [locks.take(subsystem, seconds, f"another path of {subsystem} is being disconnected; try again later")]
    return []


def _keep_udev_out(namespaces: list[str], claims: Claims) -> list[int]:
    """Lock the disks, and return what was opened for it; what is not locked within UDEV_TIMEOUT_SECONDS is left
    unlocked.

    udev reads a disk that was just released, under a shared lock, and what it reads of one that goes away meanwhile is
    an I/O error in the kernel's log. Of a disk that somebody else has locked it keeps away (systemd's rules for locking
    block devices).
    """
    deadline = time.monotonic() + UDEV_TIMEOUT_SECONDS
    opened: list[int] = []
    for namespace in namespaces:
        disk = claims.descriptor(namespace)
        if disk is None:
            try:
                disk = open_device(namespace)
            except OSError as error:
                if error.errno not in files.SHORTAGES:
                    continue  # Nobody else can read it either.
                for one in opened:
                    posix.close(one)
                raise
            opened.append(disk)
        while True:
            try:
                fcntl.flock(disk, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
    return opened
