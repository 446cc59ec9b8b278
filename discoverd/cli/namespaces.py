# SPDX-License-Identifier: Apache-2.0
"""The namespaces of controllers, how large they are, and what the host has mounted or swaps to on them.

Only looks: unlike discoverd.cli.holdings it claims nothing, so it can be asked again and again, and does not know of
processes and other mount namespaces.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from discoverd.kernel import block, mounts


@dataclass(frozen=True, slots=True)
class Namespace:
    """A block device of a controller. ``size`` in bytes; ``users`` are phrases, such as ``/data``.

    ``devices`` are the block devices that lie on it, such as partitions and logical volumes.
    """

    name: str
    size: int
    users: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def of(devices: Iterable[str]) -> dict[str, tuple[Namespace, ...]]:
    """Return the namespaces of each of these controllers. Raises OSError if it cannot tell."""
    names = {device: sorted(block.namespaces(device), key=lambda name: (len(name), name)) for device in devices}
    known = named({name for found in names.values() for name in found})
    return {device: tuple(known[name] for name in found) for device, found in names.items()}


def named(names: Iterable[str]) -> dict[str, Namespace]:
    """Return the namespaces of these names. Raises OSError as above."""
    wanted = list(names)
    # Hosts have thousands of mounts.
    used, loops = (_used(), block.loops()) if wanted else ({}, {})
    return {name: _look(name, used, loops) for name in wanted}


def _look(name: str, used: dict[str, list[str]], loops: dict[str, list[str]]) -> Namespace:
    stack = block.stack(name, loops)
    users = [user for one in stack for user in used.get(block.number(one), ())]
    devices = tuple(block.title(one) for one in stack if one != name)
    return Namespace(name, block.size(name), tuple(dict.fromkeys(users)), devices)


def _used() -> dict[str, list[str]]:
    """Return what the host has mounted on each block device, and the swap there, by the device's number."""
    found: dict[str, list[str]] = {}
    for mount in mounts.of_host():
        for number in mount.numbers():
            found.setdefault(number, []).append(mount.target)
    for path, number in mounts.swaps():
        found.setdefault(number, []).append(f"swap on {path}")
    return found
