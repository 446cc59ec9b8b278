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
_LOOK_SECONDS = 0.2
# Those who look at a device in turn, such as lsblk, are waited for so often.
_LOOKS_MAX = 5
_ETIMEDOUT = 110
# Seconds that another disconnect has, where a device lies on namespaces of two subsystems.
_OTHER_DISCONNECT_SECONDS = 30
# Seconds of a look that are spent on the names of who has a claim, beyond the host's own mounts. What users do, such as
# mount very much, can make them hard to find, and the claim says enough.
_NAMES_TIMEOUT_SECONDS = 2


class User:
    """One use of a namespace. ``kind`` is mount, swap, claim, process or target (an NVMe target that exports it).

    ``name`` is the mount's target, or the device's path. ``process`` is, of a mount, one in the mount namespace that
    has it, 0 if that is the host's; of a process, itself, and ``program`` is its name. Of a target, that is its NQN.
    A claim is of nobody who is in a table of mounts or swap; if ``unread``, not all of them could be read in time.
    """

    __slots__ = ("kind", "name", "process", "program", "unread")

    def __init__(self, kind: str, name: str, process: int = 0, program: str = "", unread: bool = False) -> None:
        self.kind = kind
        self.name = name
        self.process = process
        self.program = program
        self.unread = unread

    @property
    def text(self) -> str:
        """Return a phrase for a status line: ``/data``, ``swap on /dev/nvme0n1``, ``qemu (PID 7) on /dev/nvme0n1``."""
        name = "".join(one if one.isprintable() else "?" for one in self.name)
        if self.kind == "swap":
            return f"swap on {name}"
        if self.unread:
            why = f"processes have too many mounts to find out who in {_NAMES_TIMEOUT_SECONDS} s"
            return f"{name}, which somebody has claimed ({why})"
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

    What is in use, the kernel's claims say; who that is may remain unknown, except that the host's mounts and swap are
    always among the users.
    """
    deadline = time.monotonic() + _OTHER_DISCONNECT_SECONDS
    again = False
    while True:
        stacks = {namespace: block.stack(namespace) for namespace in namespaces}
        busy = claims.take({name: holders for stack in stacks.values() for name, holders in stack.items()})
        # Nearly always nobody else has a claim, so that the mount tables need not be read.
        in_use = {namespace: stack for namespace, stack in stacks.items() if not stack.keys().isdisjoint(busy)}
        found, complete = _named(in_use)
        unnamed = {namespace for namespace, users in found.items() if not users}
        if unnamed and again:
            rival = _rival(busy)
            if not rival:
                for namespace in unnamed:
                    devices = [f"/dev/{name}" for name in busy if name in stacks[namespace]]
                    found[namespace] = [User("claim", device, unread=not complete) for device in devices]
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
        time.sleep(_LOOK_SECONDS + posix.getrandom(1)[0] / 2048)
        again = True


def _named(stacks: dict[str, dict[str, list[str]]]) -> tuple[dict[str, list[User]], bool]:
    """Return the mounts and the swap on each of these namespaces, and whether there was time to read all tables.

    The host's are read in any case: they tell what carries the system.
    """
    if not stacks:
        return {}, True
    seen: set[bytes] = set()
    host, swaps = mounts.of_host(seen), mounts.swaps()
    others, complete = mounts.of_others(seen, time.monotonic() + _NAMES_TIMEOUT_SECONDS)
    mounted = _with_numbers([*host, *others])
    found = {}
    for namespace, stack in stacks.items():
        numbers = {block.number(name) for name in stack} - {""}
        used = [mount for mount, under in mounted if not numbers.isdisjoint(under)]
        # Other namespaces have copies of the host's mounts, which go when those go.
        of_host = {mount.number for mount in used if not mount.process}
        found[namespace] = [
            *(User("mount", one.target, one.process) for one in used if not one.process or one.number not in of_host),
            *(User("swap", path) for path, number in swaps if number in numbers),
        ]
    return found, complete


def _with_numbers(mounted: list[mounts.Mount]) -> list[tuple[mounts.Mount, list[str]]]:
    """Return each mount with the numbers of the devices under it, asked once for each file system."""
    known: dict[tuple[str, str, str], list[str]] = {}
    found = []
    for mount in mounted:
        file_system = mount.number, mount.fstype, mount.source
        if file_system not in known:
            known[file_system] = mount.numbers()
        found.append((mount, known[file_system]))
    return found


def _rival(busy: list[str]) -> str:
    """Return which of these devices is claimed for another disconnect, '' for none, or where that cannot be told.

    It is in use then, too, and nobody waits for its end.
    """
    try:
        return next((one.path for one in openers.find(busy, openers.Limit(_NAMES_TIMEOUT_SECONDS)) if one.ours), "")
    except openers.UnknownError:
        return ""


def processes(names: list[str]) -> list[User]:
    """Return the processes that have one of these block devices open, and keep it so. Raises UnknownError.

    They need not have claimed it: databases and virtual machines do not. A namespace's generic device counts as well,
    and so does the kernel's own NVMe target, which claims nothing either.
    """
    limit = openers.Limit()
    before: set[tuple[int, str]] = set()
    found: list[openers.Opener] = []
    for _ in range(_LOOKS_MAX):
        found = [one for one in openers.find(names, limit) if not one.ours]
        lasting = [one for one in found if (one.process, one.path) in before]
        if lasting or not found:
            found = lasting
            break
        # It may only have a look.
        before = {(one.process, one.path) for one in found}
        time.sleep(_LOOK_SECONDS)
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
