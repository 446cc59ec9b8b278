# SPDX-License-Identifier: Apache-2.0
"""The disconnect of a controller that nobody uses, or whose users its caller has judged.

That it is not in use is proved by exclusive claims, and they are held until it is gone: nobody can mount it meanwhile.
What cannot be claimed, that a process has it open or that another device was made on it, is looked at last of all.

Used by workers, so it imports only what they may.
"""

import fcntl
import posix
import time

from discoverd import locks
from discoverd.kernel import block, controllers, fabrics, usage
from discoverd.kernel.claims import Claims

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from discoverd.kernel.usage import User

# Seconds that another path of the subsystem has for its disconnect.
TURN = 120
# Seconds that udev has to end what it is at.
QUIET = 2

DISCONNECTED, WAIT, REFUSE, LEAVE = "disconnected", "wait", "refuse", "leave"


class Answer:
    """What is to be done, and ``text``, why: who uses the controller."""

    __slots__ = ("text", "verdict")

    def __init__(self, verdict: str, text: str = "") -> None:
        self.verdict = verdict
        self.text = text


def disconnect(
    device: str,
    kernel_instance: int,
    turn: float,
    judge: "Callable[[dict[str, list[User]]], Answer | None]",
    part: "Callable[[], Answer | None]",
) -> Answer:
    """Delete a controller, unless it is in use or something else speaks against it. Blocks.

    ``judge`` gets the namespaces in use, with their users, and ``part`` is called last; what they answer is returned,
    and the controller stays. With None it goes on, and what ``judge`` lets pass is not looked at again. ``turn`` is for
    how many seconds the disconnect of another path is waited for.

    Raises OSError if it cannot tell, or if the kernel fails; FileNotFoundError if the controller is gone.
    """
    # The workers of all paths of a subsystem may be here at once, and each of two would take the other path for the
    # one that stays.
    descriptors = _lock_subsystem(device, turn)
    claims = Claims()
    try:
        if controllers.kernel_instance(device) != kernel_instance:
            raise FileNotFoundError(2, "it is gone")
        namespaces = block.namespaces(device)
        used = usage.users(namespaces, claims)
        if used and (answer := judge(used)):
            return answer
        descriptors += _keep_udev_out(namespaces)
        late = _late_users(namespaces, used, claims)
        if late:
            used = {**used, **late}
            if answer := judge(used):
                return answer
        if answer := part():
            return answer
        fabrics.delete(device, kernel_instance)
    finally:
        claims.keep(set())
        for descriptor in descriptors:
            posix.close(descriptor)
    users = usage.everybody(used)
    return Answer(DISCONNECTED, f", though in use by {phrase(users)}" if users else "")


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


def _keep_udev_out(namespaces: list[str]) -> list[int]:
    """Lock the disks, and return their descriptors; what is not locked within QUIET seconds is left unlocked.

    udev reads a disk that was just released, under a shared lock, and what it reads of one that goes away meanwhile is
    an I/O error in the kernel's log. Of a disk that somebody else has locked it keeps away (systemd's rules for locking
    block devices).
    """
    deadline = time.monotonic() + QUIET
    disks = []
    for namespace in namespaces:
        try:
            disk = posix.open(f"{block.DEV}/{namespace}", posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            continue  # Nobody else can read it either.
        disks.append(disk)
        while True:
            try:
                fcntl.flock(disk, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
    return disks
