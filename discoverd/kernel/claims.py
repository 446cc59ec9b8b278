# SPDX-License-Identifier: Apache-2.0
"""Exclusive claims on block devices: nobody mounts, swaps to or builds on what we have claimed.

A claim is an open with O_EXCL. The kernel refuses it while somebody has the device to himself: a mounted file system,
swap, another device on it, another such open (bd_may_claim in block/bdev.c). It knows what no table shows: a mount in a
namespace without a process, and one that was detached while files in it are open.

Used by workers, so it imports only what they may.
"""

import posix

from discoverd.kernel import block
from discoverd.kernel.openers import UnknownError

_EBUSY = 16
# ENOENT, ENXIO, ENODEV, ENOMEDIUM
NOT_THERE = (2, 6, 19, 123)
_EIO = 5


class Claims:
    """What we have claimed, until :meth:`keep` gives it up; at once if we only ``look``."""

    __slots__ = ("_held", "_look")

    def __init__(self, look: bool = False) -> None:
        self._held: dict[str, int] = {}
        self._look = look

    def descriptor(self, name: str) -> int | None:
        """Return the open descriptor of a device that we have claimed."""
        return self._held.get(name)

    def take(self, stack: dict[str, list[str]]) -> list[str]:
        """Claim the topmost devices of a stack (block.stack), and return those that somebody else has claimed.

        What is held already stays so. Raises OSError if it cannot tell.
        """
        busy = []
        covered: set[str] = set()
        for name, holders in stack.items():
            if name in covered:
                continue
            partitions = block.partitions(name)
            if holders or name in self._held or self._claim(name):
                # Who has claimed a whole device has its partitions as well.
                covered.update(partitions)
            elif not partitions:
                busy.append(name)
            # Who has claimed a partition keeps others from the whole device; so the partitions tell who that is, and
            # one of them in our hands is as good as the whole.
        return busy

    def _claim(self, name: str) -> bool:
        try:
            fd = open_device(name, posix.O_EXCL)
        except OSError as error:
            if error.errno == _EBUSY:
                return False
            if error.errno in NOT_THERE:
                return True
            raise
        if self._look:
            posix.close(fd)
        else:
            self._held[name] = fd
        return True

    def keep(self, names: set[str]) -> None:
        """Give up all but these."""
        for name in [name for name in self._held if name not in names]:
            posix.close(self._held.pop(name))


def open_device(name: str, flags: int = 0) -> int:
    """Open a block device. Raises UnknownError if only its device file is missing."""
    path = f"{block.DEV}/{name.replace('!', '/')}"
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | flags)
    except FileNotFoundError:
        if block.number(name):
            raise UnknownError(_EIO, f"there is no {path}, though the kernel has the device") from None
        raise
