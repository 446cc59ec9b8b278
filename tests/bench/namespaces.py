# SPDX-License-Identifier: Apache-2.0
"""A systemd in namespaces of its own, for the native benchmark: its tree, its boot, and what it has cost."""

import contextlib
import dataclasses
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.guest import cpu_of, read
from tests.lab import image
from tests.lab.image import CACHE, SUITE, call, step

DEVICE = Path(__file__).resolve().with_name("fabrics_device.py")
PYTHON = "/usr/bin/python3"
FORK_SERVER = "discoverd-fork-server"
SUPERVISOR_GROUP = "system.slice/discoverd.service"
FORK_SERVER_GROUP = f"system.slice/{FORK_SERVER}.service"
# Bounds for one step, on a host that is busy with other things.
STEP_SECONDS = 120

# Of what Debian starts at boot, what is needed here; much of the rest would turn to the host's kernel or its hardware.
NEEDED = ("dbus.socket", "systemd-journald.service", "systemd-tmpfiles-setup.service")
NEEDED_PREFIX = "systemd-journald"
AT_BOOT = ("sysinit", "sockets", "timers", "local-fs")
# Made at boot, for what is not ours to mount.
MADE_AT_BOOT = ("systemd-remount-fs.service",)

# The tree is read-only, and what is written goes to memory: nothing that a run leaves costs the next one. The kernel is
# the host's, so sysfs and its settings are read-only as well, and devices, modules and the clock out of reach.
BOOT = """
set -e
tree=$1
mount --bind "$tree" "$tree"
mount -o remount,bind,ro "$tree"
cd "$tree"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount --bind sys mnt
mount -t tmpfs class sys/class
mkdir -p sys/class/nvme sys/class/misc/nvme-fabrics sys/class/net
mount --bind mnt/class/net sys/class/net
umount mnt
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 etc mnt
cp -a etc/. mnt
mount --move mnt etc
for folder in run tmp var; do mount -t tmpfs -o mode=755 "$folder" "$folder"; done
mount -t tmpfs -o mode=755 dev dev
for node in null zero full random urandom tty fuse; do touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
touch dev/nvme-fabrics
ip link set lo up
ip address add 192.0.2.1/32 dev lo
pivot_root . mnt
umount -l /mnt
exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio env -i container=bench PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/lib/systemd/systemd --unit=basic.target --log-target=journal --show-status=no
"""
# A run that is killed takes its systemd along.
DIES = ("setpriv", "--pdeathsig", "KILL")
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--cgroup", "--ipc", "--uts", "--net")
MOUNTS = ("--mount", "--propagation", "private")


class NativeError(Exception):
    """The benchmark cannot be run, or did not come to its end; the message says why."""


# Reading ---------------------------------------------------------------------------------------------------


def usage(text: str) -> float:
    """The processor seconds in a control group's cpu.stat (Documentation/admin-guide/cgroup-v2.rst)."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == "usage_usec":
            return int(value) / 1e6
    raise NativeError(f"no usage_usec in cpu.stat: {text[:80]!r}")


def hierarchy(mountinfo: str) -> Path:
    """Where control groups of version 2 are mounted, by /proc/self/mountinfo (proc(5))."""
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        if source.startswith("cgroup2 "):
            return Path(mount.split()[4])
    raise NativeError("no control groups of version 2 are mounted on this host")


def properties(text: str) -> list[dict[str, str]]:
    """What `systemctl show` has printed: a dictionary for each unit."""
    units = []
    for block in text.split("\n\n"):
        pairs = (line.partition("=") for line in block.splitlines() if line)
        units.append({key: value for key, _, value in pairs})
    return [unit for unit in units if unit]


@dataclasses.dataclass(frozen=True)
class Usage:
    """Processor seconds, by who has had them; ``total`` includes what has no name here."""

    total: float
    pid1: float
    units: float
    fork_server: float
    supervisor: float
    agent: float

    def parts(self) -> tuple[float, ...]:
        """All of them, ``total`` first."""
        return dataclasses.astuple(self)

    def since(self, before: "Usage") -> "Usage":
        """What was used from ``before`` to this one."""
        return Usage(*(round(now - then, 6) for now, then in zip(self.parts(), before.parts(), strict=True)))


def wait_for(condition: Callable[[], object], what: str, seconds: float = STEP_SECONDS, interval: float = 0.05) -> None:
    """Wait until a condition holds. Raises NativeError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NativeError(f"after {seconds:.0f} s still not so: {what}")
        time.sleep(interval)


# The systemd -----------------------------------------------------------------------------------------------


class Namespaces:
    """A systemd that has booted from a tree, with the stand-in for the fabrics device; a context.

    What it needs, and what is called here, raises NativeError when it does not work.
    """

    def __init__(self, tree: Path, connect_milliseconds: float) -> None:
        self._tree = tree
        self._milliseconds = connect_milliseconds
        self._group = hierarchy(Path("/proc/self/mountinfo").read_text()) / f"discoverd-bench-{os.getpid()}"
        self._log = CACHE / "log" / "native.log"
        self._pid = 0
        self._unshare: subprocess.Popen[bytes] | None = None
        self._device: subprocess.Popen[bytes] | None = None
        self._said = b""

    def __enter__(self) -> "Namespaces":
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as begun:
            begun.callback(self.__exit__)
            self._boot()
            self._start_device()
            begun.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._device, self._unshare):
            if process is not None:
                process.kill()
                process.wait()
        if self._group.exists():
            wait_for(lambda: "populated 0" in read(self._group / "cgroup.events"), "all processes have ended")
            for folder in os.walk(self._group, topdown=False):
                os.rmdir(folder[0])

    def _boot(self) -> None:
        try:
            self._group.mkdir()
        except OSError as error:
            raise NativeError(f"no control group can be made here: {error}") from error
        enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
        boot = ("sh", "-c", BOOT, "sh", str(self._tree))
        command = ("sh", "-c", enter, str(self._group), *DIES, *UNSHARE, *MOUNTS, *boot)
        with self._log.open("wb") as log:
            self._unshare = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_for(self._listens, "systemd listens")
        except NativeError as error:
            raise NativeError(f"no systemd boots in namespaces here: {error}\n{read(self._log)}") from error
        # It waits for the end of the boot; a systemd in a container seldom says that all went well.
        self.run("systemctl", "is-system-running", "--wait", check=False)
        # The bus starts when somebody asks for it, and systemd joins it after that.
        listed = ("busctl", "list", "--acquired", "--no-legend")
        wait_for(lambda: "org.freedesktop.systemd1" in self.run(*listed, check=False), "systemd is on the bus")

    def _listens(self) -> bool:
        assert self._unshare is not None
        if self._unshare.poll() is not None:
            raise NativeError(f"the boot has ended with status {self._unshare.returncode}")
        number = self._unshare.pid
        children = read(Path(f"/proc/{number}/task/{number}/children")).split()
        self._pid = int(children[0]) if children else 0
        # Before that it has the root of the host, whose systemd listens as well.
        booted = read(Path(f"/proc/{self._pid}/comm")) == "systemd"
        return booted and self.path("/run/systemd/private").exists()

    def _start_device(self) -> None:
        command = self._entering(PYTHON, "-I", "-c", DEVICE.read_text(), str(self._milliseconds))
        with self._log.open("ab") as log:
            self._device = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        if self._device_says() != "ready":
            raise NativeError(f"the stand-in for the fabrics device does not start:\n{read(self._log)}")

    def _device_says(self) -> str:
        """The next line of the stand-in; '' if none comes."""
        assert self._device is not None
        assert self._device.stdout is not None
        pipe = self._device.stdout.fileno()
        while b"\n" not in self._said:
            there, _, _ = select.select([pipe], [], [], STEP_SECONDS)
            more = os.read(pipe, 1 << 16) if there else b""
            if not more:
                return ""
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def path(self, inside: str) -> Path:
        """A file in there, as the host reaches it."""
        return Path(f"/proc/{self._pid}/root{inside}")

    def _entering(self, *command: str) -> list[str]:
        # Into the namespaces, and not into the control group.
        enter = ("nsenter", "-t", str(self._pid), "--mount", "--pid", "--net", "--ipc", "--uts", "--root", "--wd")
        return [*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in there, and return its output. Its time is not counted."""
        shown = " ".join(command).strip().partition("\n")[0]
        try:
            result = subprocess.run(
                self._entering(*command), capture_output=True, text=True, check=False, timeout=STEP_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise NativeError(f"{shown} takes longer than {STEP_SECONDS} s\n{self.journal()}") from error
        if check and result.returncode:
            raise NativeError(f"{shown} failed:\n{result.stderr or result.stdout}")
        return result.stdout

    def journal(self) -> str:
        """The end of what was logged in there."""
        return self.run("journalctl", "--no-pager", "--lines=20", check=False)

    def last_connect(self, count: int) -> float:
        """Wait for so many connects, and return when the last one ended (monotonic)."""
        line = ""
        for number in range(count):
            line = self._device_says()
            if not line:
                raise NativeError(f"only {number} of {count} were connected; the end of the journal:\n{self.journal()}")
        return float(line)

    def settle(self) -> None:
        """Wait until next to nothing happens any more: a twentieth of a processor, for half a second.

        Hundreds of workers need the half of that to look at their controllers every ten seconds.
        """
        before = self._cpu(".")

        def quiet() -> bool:
            nonlocal before
            now = self._cpu(".")
            spent, before = now - before, now
            return spent < 0.025

        time.sleep(0.5)
        wait_for(quiet, "it is quiet", interval=0.5)

    # What it has cost

    def usage(self) -> Usage:
        """Processor seconds since the boot. What a forked worker has before it joins its unit is the fork server's."""
        agent = sum(map(cpu_of, self.processes()["agent"]))
        return Usage(
            total=self._cpu("."),
            pid1=self._cpu("init.scope"),
            units=self._cpu("system.slice/system-nvme\\x2dctrl.slice"),
            fork_server=self._cpu(FORK_SERVER_GROUP),
            supervisor=self._cpu(SUPERVISOR_GROUP) - agent,
            agent=agent,
        )

    def processes(self) -> dict[str, list[int]]:
        """The processes of systemd and of discoverd, as the host numbers them."""
        service = self._pids(SUPERVISOR_GROUP)
        agents = [pid for pid in service if "unit-agent" in read(Path(f"/proc/{pid}/cmdline"))]
        return {
            "worker": self._pids("system.slice/system-nvme*ctrl.slice/*"),
            "fork server": self._pids(FORK_SERVER_GROUP),
            "supervisor": [pid for pid in service if pid not in agents],
            "agent": agents,
            "PID 1": self._pids("init.scope"),
        }

    def _cpu(self, group: str) -> float:
        text = read(self._group / group / "cpu.stat")
        return usage(text) if text else 0.0

    def _pids(self, group: str) -> list[int]:
        return [int(pid) for procs in self._group.glob(f"{group}/cgroup.procs") for pid in procs.read_text().split()]


# The tree --------------------------------------------------------------------------------------------------


def prepared_tree() -> Path:
    """The lab's base tree with the work tree installed, built where the cached one does not match.

    Raises ImageError.
    """
    image.check()
    with image.locked():
        base = image.base_tree()
        sources = image.installed_sources()
        parts = (base.name.encode(), Path(__file__).read_bytes(), *image.file_parts(image.PROJECT, sources))
        tree = CACHE / f"native-{SUITE}-{image.digest(parts)}"
        if not tree.exists():
            partial = CACHE / "native.partial"
            shutil.rmtree(partial, ignore_errors=True)
            with step(f"tree of the native benchmark ({SUITE})"):
                call("native", ["cp", "--archive", "--link", base, partial])
                image.install(partial, sources)
                mask(partial)
            partial.rename(tree)
        os.utime(tree)
        image.keep_newest(f"native-{SUITE}-*", 2)
    return tree


def mask(tree: Path) -> None:
    """Mask what is started at boot and not needed."""
    ours = tree / "etc/systemd/system"
    wants = [f"{target}.target.wants/*" for target in AT_BOOT]
    found = {
        unit.name for folder in (ours, tree / "usr/lib/systemd/system") for want in wants for unit in folder.glob(want)
    }
    for name in sorted(found.union(MADE_AT_BOOT)):
        if name not in NEEDED and not name.startswith(NEEDED_PREFIX):
            (ours / name).unlink(missing_ok=True)
            (ours / name).symlink_to("/dev/null")
