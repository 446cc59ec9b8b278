# SPDX-License-Identifier: Apache-2.0
"""Who uses a namespace: mounts in any mount namespace, swap, who else has claimed a device on it, who has one open.

Used by workers, so it imports only what they may.
"""

import posix
import time

from discoverd.kernel import block, controllers, mounts, openers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.kernel.claims import Claims

# How long a look of others keeps us from claiming a device, and an unmount its claim, with a good margin.
_MOMENT = 0.2
# Those who look at a device in turn, such as lsblk, are waited for so often.
_MOMENTS = 5
_ETIMEDOUT = 110
# Seconds that another disconnect has, where a device lies on namespaces of two subsystems.
_OTHERS = 30


class User:
    """One use of a namespace. ``kind`` is mount, swap, claim, process or target (an NVMe target that exports it).

    ``name`` is the mount's target, or the device's path. ``process`` is, of a mount, one in the mount namespace that
    has it, 0 if that is the host's; of a process, itself, and ``program`` is its name. Of a target, that is its NQN.
    """

    __slots__ = ("kind", "name", "process", "program")

    def __init__(self, kind: str, name: str, process: int = 0, program: str = "") -> None:
        self.kind = kind
        self.name = name
        self.process = process
        self.program = program

    @property
    def text(self) -> str:
        """Return a phrase for a status line: ``/data``, ``swap on /dev/nvme0n1``, ``qemu (PID 7) on /dev/nvme0n1``."""
        name = "".join(one if one.isprintable() else "?" for one in self.name)
        if self.kind == "swap":
            return f"swap on {name}"
        if self.kind == "claim":
            return f"{name}, which a detached mount or another program has claimed"
        if self.kind == "process":
            return f"{self.program} (PID {self.process}) on {name}"
        if self.kind == "target":
            return f"{name}, exported by the NVMe target: {self.program}"
        return f"{name} in the mount namespace of process {self.process}" if self.process else name


def users(namespaces: list[str], claims: "Claims") -> dict[str, list[User]]:
    """Claim namespaces, and return those that somebody uses, with who does, the host's mounts first.

    A device on top (partition, LVM, LUKS, MD, loop) counts if it is used itself. ``claims`` has in the end what keeps
    the others unused. Raises OSError if it cannot tell.
    """
    deadline = time.monotonic() + _OTHERS
    again = False
    while True:
        stacks = {namespace: block.stack(namespace) for namespace in namespaces}
        busy = claims.take({name: holders for stack in stacks.values() for name, holders in stack.items()})
        # Nearly always nobody else has a claim, so that the mount tables need not be read.
        found = _named({namespace: stack for namespace, stack in stacks.items() if not stack.keys().isdisjoint(busy)})
        unnamed = {namespace for namespace, users in found.items() if not users}
        if unnamed and again:
            rival = _rival(busy)
            if not rival:
                for namespace in unnamed:
                    found[namespace] = [User("claim", f"/dev/{name}") for name in busy if name in stacks[namespace]]
                unnamed = set()
            elif time.monotonic() > deadline:
                text = f"{rival} lies on another controller too, which is being disconnected; try again later"
                raise openers.UnknownError(_ETIMEDOUT, text)
        if not unnamed:
            claims.keep({name for namespace in namespaces if namespace not in found for name in stacks[namespace]})
            return found
        # Somebody has looked at the same moment, a file system has just been unmounted, or another worker has claimed
        # what lies on its namespaces too: who waits for others must not keep them waiting.
        claims.keep(set())
        time.sleep(_MOMENT + posix.getrandom(1)[0] / 2048)
        again = True


def _named(stacks: dict[str, dict[str, list[str]]]) -> dict[str, list[User]]:
    """Return the mounts and the swap on each of these namespaces."""
    if not stacks:
        return {}
    mounted, swaps = mounts.mounted(), mounts.swaps()
    found = {}
    for namespace, stack in stacks.items():
        numbers = {block.number(name) for name in stack} - {""}
        used = [mount for mount in mounted if not numbers.isdisjoint(mount.numbers())]
        # Other namespaces have copies of the host's mounts, which go when those go.
        of_host = {mount.number for mount in used if not mount.process}
        found[namespace] = [
            *(User("mount", one.target, one.process) for one in used if not one.process or one.number not in of_host),
            *(User("swap", path) for path, number in swaps if number in numbers),
        ]
    return found


def _rival(busy: list[str]) -> str:
    """Return which of these devices is claimed for another disconnect, '' for none."""
    return next((one.path for one in openers.find(busy) if one.ours), "")


def processes(names: list[str]) -> list[User]:
    """Return the processes that have one of these block devices open, and keep it so. Raises UnknownError.

    They need not have claimed it: databases and virtual machines do not. A namespace's generic device counts as well,
    and so does the kernel's own NVMe target, which claims nothing either.
    """
    deadline = time.monotonic() + openers.LIMIT
    before: set[tuple[int, str]] = set()
    found: list[openers.Opener] = []
    for _ in range(_MOMENTS):
        found = [one for one in openers.find(names, deadline) if not one.ours]
        lasting = [one for one in found if (one.process, one.path) in before]
        if lasting or not found:
            found = lasting
            break
        # It may only have a look.
        before = {(one.process, one.path) for one in found}
        time.sleep(_MOMENT)
    return [*(User("process", one.path, one.process, one.program) for one in found), *_exported(names)]


def _exported(names: list[str]) -> list[User]:
    """Return the exports of these devices by the kernel's NVMe target."""
    paths = {number: path for name in names for kind, number, path in block.nodes(name) if kind == block.BLOCK}
    return [User("target", paths[number], program=nqn) for nqn, number in block.exports() if number in paths]


def everybody(used: dict[str, list[User]]) -> list[User]:
    """Return the users of all namespaces in use."""
    return [user for users in used.values() for user in users]


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
