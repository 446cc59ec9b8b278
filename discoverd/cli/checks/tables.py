# SPDX-License-Identifier: Apache-2.0
"""fstab(5) and crypttab(5): entries on NVMe over Fabrics that lack an option they need.

An entry whose device is not there cannot be judged, and is passed over.
"""

import os
import stat
import string
from collections.abc import Iterator
from dataclasses import dataclass

from discoverd.cli.checks.finding import Finding, hint, problem
from discoverd.kernel import block, mounts

FSTAB = "/etc/fstab"
CRYPTTAB = "/etc/crypttab"
DISKS = "/dev/disk"

_NETWORK = {"tcp", "rdma"}
_FABRICS = {*_NETWORK, "fc", "loop"}
# Tags of fstab(5), and the directory that has a link for each value.
_TAGS = {
    "UUID": "by-uuid",
    "LABEL": "by-label",
    "PARTUUID": "by-partuuid",
    "PARTLABEL": "by-partlabel",
    "ID": "by-id",
}
# udev writes other characters of a label as \xNN.
_PLAIN = frozenset(string.ascii_letters + string.digits + "#+-.:=@_")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of one of the tables: ``what`` is its device, ``where`` its mount point or name."""

    place: str
    what: str
    where: str
    options: frozenset[str]


def check() -> list[Finding]:
    """Return what is wrong with the entries of both tables."""
    system = mounts.system_targets()
    found = []
    for entry in entries():
        transports = transports_of(entry.what)
        if transports & _FABRICS and entry.where not in system:
            found += _judge(entry, network=bool(transports & _NETWORK))
    return found


def entries() -> Iterator[Entry]:
    """Yield the entries of fstab, then those of crypttab. Swap has a check of its own."""
    for place, words in _lines(FSTAB, 3):
        if words[2] != "swap":
            yield Entry(place, words[0], words[1], _options(words))
    for place, words in _lines(CRYPTTAB, 2):
        yield Entry(place, words[1], words[0], _options(words))


def transports_of(what: str) -> set[str]:
    """Return the transports of the namespaces on which a device lies, none where there is no such device now."""
    tag, equals, value = what.partition("=")
    if equals and tag in _TAGS:
        what = f"{DISKS}/{_TAGS[tag]}/{_encoded(value.strip(chr(34)))}"
    try:
        status = os.stat(what)
    except OSError:
        return set()
    if not stat.S_ISBLK(status.st_mode):
        return set()
    namespaces = block.below(f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    return {transport for namespace in namespaces for transport in block.transports(namespace)}


def _judge(entry: Entry, network: bool) -> list[Finding]:
    about = f"{entry.place}: {entry.where}"
    found = []
    if network and "_netdev" not in entry.options:
        text = f"{about} is on NVMe over a network, and its options lack _netdev, so it is ordered as a local disk"
        found.append(problem(text, "add _netdev to its options, then: systemctl daemon-reload"))
    if not entry.options & {"nofail", "noauto"}:
        text = f"{about} is on NVMe over Fabrics, and its options lack nofail, so a boot without the array fails"
        found.append(hint(text, "add nofail to its options if the host should boot without it"))
    return found


def _options(words: list[str]) -> frozenset[str]:
    return frozenset(words[3].split(",") if len(words) > 3 else ())


def _lines(path: str, least: int) -> Iterator[tuple[str, list[str]]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        words = [mounts.unescape(word) for word in line.split()]
        if len(words) >= least and not words[0].startswith("#"):
            yield f"{path}:{number}", words


def _encoded(value: str) -> str:
    """Return a label as udev names the link for it: bytes that it does not like as ``\\xNN``, UTF-8 as it is."""
    return "".join(one if not one.isascii() or one in _PLAIN else f"\\x{ord(one):02x}" for one in value)
