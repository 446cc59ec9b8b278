# SPDX-License-Identifier: Apache-2.0
"""An initial RAM disk of initramfs-tools that connects the root file system over NVMe/TCP, kept under `.cache/lab/`.

It depends on the base tree and on `initramfs/`, where its configuration, its hook and its script are.
"""

import fcntl
import os
import shutil
from pathlib import Path

from tests.lab.image import CACHE, LAB, SUITE, Image, digest, file_parts, in_tree, keep_newest, step
from tests.lab.machine import KERNEL_ARGUMENTS

SOURCES = LAB / "initramfs"


def build(image: Image) -> Path:
    """The RAM disk for an image, made where the cached one does not match. Raises ImageError."""
    tree = image.initrd.parent.parent
    (kernel,) = (tree / "usr/lib/modules").iterdir()
    files = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    key = digest([tree.name.encode(), *file_parts(LAB, [*files, Path(__file__)])])
    made = CACHE / f"initramfs-{SUITE}-{key}.img"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            os.utime(made)
            return made
        work = tree / "var/tmp/initramfs"
        shutil.rmtree(work, ignore_errors=True)
        try:
            with step("initial RAM disk with the root on NVMe/TCP"):
                shutil.copytree(SOURCES, work)
                in_tree(
                    "initramfs",
                    tree,
                    "mkinitramfs",
                    "-d",
                    "/var/tmp/initramfs",
                    "-o",
                    "/var/tmp/initramfs/made",
                    kernel.name,
                )
                partial = made.with_suffix(".partial")
                shutil.copyfile(work / "made", partial)
                partial.rename(made)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        keep_newest(f"initramfs-{SUITE}-*.img", 2)
    return made


def boot_options(image: Image) -> tuple[str, ...]:
    """QEMU's options for a machine whose root file system is on NVMe/TCP."""
    return ("-initrd", str(build(image)), "-append", f"{KERNEL_ARGUMENTS} root=/dev/nvme0n1")
