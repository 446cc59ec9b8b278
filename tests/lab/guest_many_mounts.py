# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest, as a user without rights in a user and a mount namespace of his own: makes mounts, and keeps them.

`guest_many_mounts.py COUNT SOURCE`: nearly all are bind mounts; a few claim to be mounts of SOURCE, a disk that he may
not open. Prints how many there are once all are there.
"""

import ctypes
import os
import sys
import time

TOP = "/tmp"
MS_BIND = 4096
LIES = 16
libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int) -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def main() -> None:
    count, source = int(sys.argv[1]), sys.argv[2]
    mount("many", TOP, "tmpfs", 0)
    os.mkdir(f"{TOP}/from")
    made = 1
    for number in range(count):
        target = f"{TOP}/{number}"
        os.mkdir(target)
        if number < LIES:
            mount(source, target, "tmpfs", 0)
        else:
            mount(f"{TOP}/from", target, "", MS_BIND)
        made += 1
    print(made, flush=True)
    time.sleep(3600)


main()
