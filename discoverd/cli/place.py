# SPDX-License-Identifier: Apache-2.0
"""Which of the kernel's controllers a block device, a device file or a mount point lies on."""

import os
import re
import stat

from discoverd.kernel import block, mounts

# One path of a namespace of native multipath, which has no device file: subsystem, controller, namespace.
_PATH = re.compile(r"nvme[0-9]+c([0-9]+)n[0-9]+")
_GENERIC = re.compile(r"ng([0-9]+n[0-9]+)")


def devices(word: str) -> set[str]:
    """Return the controllers, such as nvme3, that a word leads to, whatever lies between; none for another word.

    It is the name of a block device (``nvme10n1``, ``dm-0``), a path below /dev, or where the host has something
    mounted. Of what lies on several namespaces, all controllers of each are meant.
    """
    name = word.removeprefix("/dev/")
    if path := _PATH.fullmatch(name):
        return {f"nvme{path[1]}"}
    return {
        device
        for number in _numbers(word)
        for namespace in block.below(number)
        for device in block.controllers(namespace)
    }


def _numbers(word: str) -> list[str]:
    """Return the numbers (``major:minor``) of the block devices that a word names."""
    if not word.startswith("/"):
        return _number(word)
    if word.startswith("/dev/"):
        # Not elsewhere: a server that is gone, with a file system below which it is, would not answer.
        try:
            status = os.stat(word)
        except OSError:
            return []
        if stat.S_ISBLK(status.st_mode):
            return [f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"]
        if stat.S_ISCHR(status.st_mode):
            return _number(os.path.basename(os.path.realpath(word)))
    target = os.path.normpath(word)
    # Of those at one place, the last one lies over the others.
    found = [mount for mount in mounts.of_host() if mount.target == target]
    return found[-1].numbers() if found else []


def _number(name: str) -> list[str]:
    """Return the number (``major:minor``) of a block device, or of the namespace that a character device (ng1n1) is of.

    None for another name.
    """
    if not re.fullmatch(r"[A-Za-z0-9._!-]+", name) or name in (".", ".."):
        return []
    generic = _GENERIC.fullmatch(name)
    number = block.number(f"nvme{generic[1]}" if generic else name)
    return [number] if number else []
