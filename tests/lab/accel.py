# SPDX-License-Identifier: Apache-2.0
"""Whether this machine can run the guest in hardware.

`/dev/kvm` may open and still not run a guest (no svm or vmx), so a real kernel gets a few seconds to print its name.
"""

import os
import subprocess
from pathlib import Path

from tests.lab.image import CACHE

PROBE_SECONDS = 15


def probe(kernel: Path) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    command = [
        *("qemu-system-x86_64", "-accel", "kvm", "-cpu", "max", "-m", "256", "-nodefaults", "-nographic"),
        # Without a root file system the kernel panics, and a panic ends QEMU.
        *("-no-reboot", "-serial", "stdio", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"),
    ]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and b"Linux version" in done.stdout


def in_hardware(kernel: Path) -> bool:
    """The answer of `probe` for this boot of this machine; it is kept under `.cache/lab/`."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = CACHE / f"accel-{boot_id}"
    if not answer.exists():
        answer.write_text("kvm" if probe(kernel) else "tcg")
    return answer.read_text() == "kvm"


def options(kernel: Path) -> list[str]:
    """QEMU's accelerator options."""
    if in_hardware(kernel):
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]
