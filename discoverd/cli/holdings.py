# SPDX-License-Identifier: Apache-2.0
"""What hangs on a controller: its namespaces, who uses them, and by which other paths they can be reached."""

from dataclasses import dataclass

from discoverd.kernel import block, paths, usage
from discoverd.kernel.claims import Claims
from discoverd.kernel.usage import User


@dataclass(frozen=True, slots=True)
class Namespace:
    """A block device of a controller; ``users`` are phrases, ``others`` the other live controllers that reach it."""

    name: str
    users: tuple[str, ...]
    others: tuple[str, ...]


def namespaces(device: str) -> list[Namespace]:
    """Return the namespaces of a controller. Raises OSError if it cannot tell who uses one."""
    stacks = {name: block.stack(name) for name in block.namespaces(device)}
    claimants = claimed(list(stacks))
    processes = usage.processes([name for stack in stacks.values() for name in stack])
    found = []
    for name, stack in stacks.items():
        files = {path for one in stack for _, _, path in block.nodes(one)}
        users = [*claimants.get(name, []), *(one for one in processes if one.name in files)]
        (others,) = paths.others(device, {name: users})
        found.append(Namespace(name, tuple(user.text for user in users), tuple(sorted(others))))
    return found


def claimed(names: list[str]) -> dict[str, list[User]]:
    """Return the namespaces that somebody has claimed, and who. Raises OSError if it cannot tell."""
    return usage.users(names, Claims(look=True))
