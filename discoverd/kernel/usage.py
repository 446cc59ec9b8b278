# SPDX-License-Identifier: Apache-2.0
"""Who uses a namespace: mounts in any mount namespace, swap, and whoever else has claimed a device on it.

Used by workers, so it imports only what they may.
"""

import time

from discoverd.kernel import block, controllers, mounts

# How long a look like ours keeps others from claiming a device, and an unmount its claim, with a good margin.
_MOMENT = 0.2


class User:
    """One use of a namespace. ``kind`` is mount, swap or claim; ``name`` the mount's target, or the device's path.

    ``process`` is one in the mount namespace that has the mount, 0 if it is the host's.
    """

    __slots__ = ("kind", "name", "process")

    def __init__(self, kind: str, name: str, process: int = 0) -> None:
        self.kind = kind
        self.name = name
        self.process = process

    @property
    def text(self) -> str:
        """Return a phrase for a status line: ``/data``, ``swap on /dev/nvme0n1``."""
        name = "".join(one if one.isprintable() else "?" for one in self.name)
        if self.kind == "swap":
            return f"swap on {name}"
        if self.kind == "claim":
            return f"{name}, which a detached mount or another program has claimed"
        return f"{name} in the mount namespace of process {self.process}" if self.process else name


def users(namespace: str) -> list[User]:
    """Return who uses a namespace, the host's mounts first; empty if nobody does. Raises OSError if it cannot tell.

    A device on top of it (partition, LVM, LUKS, MD, loop) counts if it is used itself.
    """
    stack = block.stack(namespace)
    # Claims first: they are complete, and nearly always nobody has one, so that the mount tables need not be read.
    busy = _busy(stack)
    if not busy:
        return []
    numbers = {block.number(name) for name in stack} - {""}
    used = [mount for mount in mounts.mounted() if not numbers.isdisjoint(mount.numbers())]
    # Other namespaces have copies of the host's mounts, which go when those go.
    of_host = {mount.number for mount in used if not mount.process}
    found = [
        User("mount", mount.target, mount.process) for mount in used if not mount.process or mount.number not in of_host
    ]
    found += [User("swap", path) for path, number in mounts.swaps() if number in numbers]
    if not found:
        # The worker of another subsystem may have looked at the same moment, or a file system has just been unmounted.
        time.sleep(_MOMENT)
        busy = _busy(stack)
    return found or [User("claim", f"/dev/{name}") for name in busy]


def _busy(stack: dict[str, list[str]]) -> list[str]:
    """Return the devices that somebody has claimed, other than one of the devices on top of them."""
    claimed = {name for name, holders in stack.items() if holders or block.claimed(name)}
    # Who claims a partition claims the whole device, against all but those who claim other partitions of it.
    return [
        name for name in stack if name in claimed and not stack[name] and claimed.isdisjoint(block.partitions(name))
    ]


def carries_system(used: list[User]) -> bool:
    """Tell whether the root file system is among the users, or what the initial RAM disk has mounted for it."""
    targets = mounts.system_targets()
    return any(user.kind == "mount" and not user.process and user.name in targets for user in used)


def system_subsystems() -> set[str]:
    """Return the NQNs of the subsystems that the system itself runs from."""
    return {
        controllers.attribute(device, "subsysnqn")
        for number in mounts.system_numbers()
        for namespace in block.below(number)
        for device in block.controllers(namespace)
    }
