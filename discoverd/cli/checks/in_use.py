# SPDX-License-Identifier: Apache-2.0
"""What is mounted or swapped to over a network now, and whether systemd ends it before the network."""

from discoverd.cli.checks.finding import Finding, hint, problem
from discoverd.cli.systemd import Systemd
from discoverd.cli.text import quoted
from discoverd.kernel import block, mounts
from discoverd.mounts.watcher import is_remote

_NETWORK = {"tcp", "rdma"}


def mount_order(systemd: Systemd) -> list[Finding]:
    """Return the mounts that systemd takes for local ones, and unmounts after it has stopped the network."""
    system = mounts.system_numbers()
    remote = [mount for mount in mounts.of(mounts.table(1)) if system.isdisjoint(mount.numbers()) and is_remote(mount)]
    targets = {mount_unit(mount.target): mount.target for mount in remote}
    found = []
    for unit in systemd.units(targets).values() if targets else ():
        ordered = "remote-fs-pre.target" in systemd.names(unit, "After")
        if unit.active == "active" and (not ordered or "local-fs.target" in systemd.names(unit, "Before")):
            target = targets[unit.name]
            text = f"{target} is on NVMe over a network, and systemd stops the network before it unmounts it"
            remedy = "systemctl restart discoverd-mounts.service; or, before each shutdown: umount "
            found.append(problem(text, remedy + quoted(target)))
    return found


def swap() -> list[Finding]:
    """Return the swap that is reached over a network."""
    found = []
    for path, number in mounts.swaps():
        transports = {one for namespace in block.below(number) for one in block.transports(namespace)}
        if transports & _NETWORK:
            text = f"swap on {path} is NVMe over a network, which systemd cannot order: a shutdown waits for it"
            found.append(hint(text, f"swap to a local disk; to be rid of this one now: swapoff {path}"))
    return found


def mount_unit(target: str) -> str:
    """Return the name of the unit of a mount point (systemd.unit(5), string escaping of paths)."""
    parts = [part for part in target.split("/") if part]
    if not parts:
        return "-.mount"
    text = "/".join(parts).encode("utf-8", "surrogateescape")
    escaped = "".join(_escaped(byte, first=not place) for place, byte in enumerate(text))
    return escaped + ".mount"


def _escaped(byte: int, first: bool) -> str:
    char = chr(byte)
    if char == "/":
        return "-"
    plain = char.isascii() and (char.isalnum() or char in ":_" or (char == "." and not first))
    return char if plain else f"\\x{byte:02x}"
