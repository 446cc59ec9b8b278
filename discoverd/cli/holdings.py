# SPDX-License-Identifier: Apache-2.0
"""What hangs on a controller: its namespaces, who uses them, and by which other paths they can be reached."""

from dataclasses import dataclass

from discoverd.kernel import block, usage


@dataclass(frozen=True, slots=True)
class Namespace:
    """A block device of a controller; ``users`` are phrases, ``others`` the other live controllers that reach it."""

    name: str
    users: tuple[str, ...]
    others: tuple[str, ...]
    carries_system: bool


def namespaces(device: str) -> list[Namespace]:
    """Return the namespaces of a controller. Raises OSError if it cannot tell who uses one."""
    found = []
    for name in block.namespaces(device):
        used = usage.users(name)
        others = tuple(one for one in block.usable_paths(name) if one != device)
        found.append(Namespace(name, tuple(user.text for user in used), others, usage.carries_system(used)))
    return found


def in_use(found: list[Namespace]) -> str:
    """Return who would lose a namespace if this controller went, as a phrase; '' for nobody."""
    losing = [user for one in found if not one.others for user in one.users]
    more = f" and {len(losing) - 1} more" if losing[1:] else ""
    return losing[0] + more if losing else ""


def carries_system(found: list[Namespace]) -> bool:
    """Tell whether the system itself runs from one of them."""
    return any(one.carries_system for one in found)
