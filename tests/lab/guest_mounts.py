# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest: mounts a namespace in the moment of its disconnect, and prints JSON.

`guest_mounts.py ROUNDS NQN INSTANCE`: rounds of a stop of the unit or, three times in ten, of a withdrawal. In each
of them the disk is locked, as udev does, until the worker is at its disconnect; then it is let go and mounted. Either
the mount fails and the controller goes, or it stays, and what is written is there.
"""

import ctypes
import errno
import fcntl
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

TARGET = Path("/srv/mounts")
PATIENCE = 60
CONTROLLERS = Path("/run/discoverd/controllers")
PARENT = CONTROLLERS / "tcp:192.0.2.1:4420:nqn.2014-08.org.nvmexpress.discovery/spec"
PROCESSES = Path("/sys/fs/cgroup/system.slice/system-nvme\\x2dctrl.slice")
libc = ctypes.CDLL(None, use_errno=True)


class Round:
    """One controller's life, up to its end or its escape."""

    def __init__(self, nqn: str, instance: str) -> None:
        self.unit = f"nvme-ctrl@{instance}.service"
        self.report = CONTROLLERS / instance / "report"
        self.spec = CONTROLLERS / instance / "spec"
        self.listed = Path("/sys/kernel/config/nvmet/subsystems", nqn, "attr_allow_any_host")
        self.nqn = nqn
        until(self._find, "it is live, and its disk is there")

    def _find(self) -> bool:
        for controller in Path("/sys/class/nvme").glob("nvme*"):
            try:
                if (controller / "subsysnqn").read_text().strip() != self.nqn:
                    continue
                path = next(controller.glob("nvme*c*n*")).name
            except (OSError, StopIteration):
                continue
            self.controller = controller
            self.kernel_instance = os.stat(controller).st_ino
            subsystem, _, rest = path.partition("c")
            self.disk = f"/dev/{subsystem}n{rest.partition('n')[2]}"
            return os.path.exists(self.disk) and "state=live\n" in self.said()
        return False

    def said(self) -> str:
        try:
            return self.report.read_text()
        except OSError:
            return ""

    def is_at_it(self) -> bool:
        """The worker has the disk open."""
        try:
            for process in (PROCESSES / self.unit / "cgroup.procs").read_text().split():
                for entry in os.listdir(f"/proc/{process}/fd"):
                    if os.readlink(f"/proc/{process}/fd/{entry}") == self.disk:
                        return True
        except OSError:
            pass
        return False

    def is_gone(self) -> bool:
        try:
            return os.stat(self.controller).st_ino != self.kernel_instance
        except OSError:
            return True


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"it never came true: {what}")
        time.sleep(0.005)


def mount(disk: str) -> int:
    """Mounts it; returns the errno."""
    return ctypes.get_errno() if libc.mount(disk.encode(), bytes(TARGET), b"ext4", 0, b"") else 0


def write(text: str) -> None:
    with (TARGET / "file").open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def confirm(one: Round) -> None:
    """Returns when its worker is told; what comes and goes is kept longer each time, until it is confirmed."""
    until(lambda: "confirm=yes" in PARENT.read_text() or "no longer listed" in one.spec.read_text(), "it is missed")
    if "no longer listed" not in one.spec.read_text():
        subprocess.run(["discoverctl", "confirm", PARENT.parent.name], check=True, stdout=subprocess.DEVNULL)


def play(one: Round, stop: bool, at_once: bool) -> str:
    """Returns what came of it. `at_once`: it is mounted before the worker looks."""
    lock = os.open(one.disk, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    if stop:
        subprocess.run(["systemctl", "stop", "--no-block", one.unit], check=True)
    else:
        one.listed.write_text("0")
        confirm(one)
    if not at_once:
        until(one.is_at_it, "the worker looks")
        time.sleep(random.random() * 0.2)
    os.close(lock)
    failed = mount(one.disk)
    if failed:
        until(one.is_gone, f"gone, since it could not be mounted: {errno.errorcode[failed]}")
        outcome = errno.errorcode[failed]
    else:
        write("before")
        until(lambda: "state=refused" in one.said() if stop else "and stays: in use by" in one.said(), "it is refused")
        if one.is_gone():
            raise RuntimeError("it has gone under the mount")
        write("after")
        subprocess.run(["umount", TARGET], check=True)
        outcome = "mounted"
    if stop:
        subprocess.run(["systemctl", "start", one.unit], check=True)
    else:
        one.listed.write_text("1")
        until(lambda: "no longer listed" not in one.said(), "it is listed again")
    return outcome


def main() -> None:
    rounds, nqn, instance = int(sys.argv[1]), *sys.argv[2:]
    TARGET.mkdir(exist_ok=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", Round(nqn, instance).disk], check=True)
    outcomes: dict[str, Counter[str]] = {"stop": Counter(), "withdrawal": Counter()}
    began = time.monotonic()
    for number in range(rounds):
        # A page that has changed thirty times is read at longer and longer intervals.
        stop = number % 10 not in (1, 4, 7)
        try:
            outcomes["stop" if stop else "withdrawal"][play(Round(nqn, instance), stop, number % 4 == 0)] += 1
        except RuntimeError as error:
            sys.exit(f"round {number}, {'stop' if stop else 'withdrawal'}: {error}")
    print(json.dumps({"outcomes": outcomes, "seconds": time.monotonic() - began}))


main()
