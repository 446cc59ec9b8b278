# SPDX-License-Identifier: Apache-2.0
"""Machines that have booted, kept under `.cache/lab/`: one that starts from there is up in a second.

An emulated boot costs 15 to 75 seconds of a scenario's time. Where the guest runs in hardware it costs three, and
nothing is kept.
"""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.lab import accel, machine
from tests.lab.image import CACHE, Image, digest, keep_newest


def of(image: Image) -> Path | None:
    """The folder of `Machine.save` for this image, made where there is none yet; None where booting is as quick.

    Processes that ask at once wait for each other. Raises LabError where the machine does not boot.
    """
    if accel.in_hardware(image.kernel):
        return None
    with (CACHE / "snapshot.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = CACHE / f"snapshot-{image.disk.stem}-{digest([_qemu(), Path(machine.__file__).read_bytes()])}"
        if folder.exists():
            os.utime(folder)
        else:
            _make(image, folder)
        keep_newest("snapshot-disk-*", 4)
        return folder


def _make(image: Image, folder: Path) -> None:
    partial = CACHE / "snapshot.partial"
    shutil.rmtree(partial, ignore_errors=True)
    first = machine.Machine(image)
    try:
        first.boot()
        first.save(partial)
    finally:
        first.discard()
    partial.rename(folder)


def _qemu() -> bytes:
    """What a saved state depends on besides the command line."""
    return subprocess.run(["qemu-system-x86_64", "--version"], check=True, stdout=subprocess.PIPE).stdout
