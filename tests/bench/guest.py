#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's half in the machine: `guest.py MEASUREMENT [ARGUMENT]` prints one JSON object.

Times are seconds, memory is KiB. A process's CPU time comes from its own clock, which counts nanoseconds where
/proc/PID/stat counts ticks.
"""

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

CLASS = Path("/sys/class/nvme")
NQN = "nqn.2024-08.com.example:vol"
ADDRESS = "192.0.2.1"
# This host's own end of the link. A listener there that says nothing keeps a connect in the kernel for seconds.
SILENT = "192.0.2.2"
WORKER = "/usr/libexec/discoverd/nvme-ctrl-worker"
STATE = Path("/run/discoverd/controllers")
# What the supervisor has been told by the kernel; no worker connects without it.
ABILITIES = Path("/run/discoverd/abilities")
KEPT = Path("/run/bench-spec")
KEPT_ABILITIES = Path("/run/bench-abilities")
PYTHON = ("/usr/bin/python3", "-I", "-S")
TIMEOUT = 240

FABRICS_CONF = f"[Discovery Controller]\ncontroller = transport=tcp;traddr={ADDRESS};trsvcid=4420\n"
STAFD_CONF = f"""\
[Service Discovery]
zeroconf = disabled
[Controllers]
controller = transport=tcp;traddr={ADDRESS};trsvcid=4420
"""
CLEAN = """
systemctl stop discoverd.service stafd.service stacd.service
systemctl stop 'nvme-ctrl@*.service'
for controller in /sys/class/nvme/nvme*; do
    [ -w "$controller/delete_controller" ] && echo 1 >"$controller/delete_controller" &
done
wait
systemctl reset-failed
rm -rf /run/discoverd /run/nvme/registry/* /var/cache/stafd/* /var/cache/stacd/* /run/stafd/* /run/stacd/*
"""


def sh(command: str, *, check: bool = True) -> str:
    return subprocess.run(["sh", "-c", command], check=check, capture_output=True, text=True).stdout


def wait_for(condition: Callable[[], object], what: str, interval: float = 0.1, timeout: float = TIMEOUT) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"after {timeout:.0f} s still not so: {what}")
        time.sleep(interval)


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


# Processes


def cpu_of(pid: int) -> float:
    """Seconds of user and system time of a process, its threads included, its children not; 0 when it is gone."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def pss_of(pid: int) -> int:
    found = re.search(r"^Pss: +(\d+)", read(Path(f"/proc/{pid}/smaps_rollup")), re.MULTILINE)
    return int(found[1]) if found else 0


def wakeups_of(pid: int, every_thread: bool = False) -> int:
    """Voluntary context switches: of the first thread, which is the one that polls, or of all that are there."""
    threads = Path(f"/proc/{pid}/task").glob("*" if every_thread else str(pid))
    found = [re.search(r"^voluntary_ctxt_switches:\s+(\d+)", read(one / "status"), re.MULTILINE) for one in threads]
    return sum(int(one[1]) for one in found if one)


def main_pid(unit: str) -> int:
    return int(sh(f"systemctl show -P MainPID {unit}") or 0)


def agent_pid() -> int:
    return int(sh(f"pgrep -o -P {main_pid('discoverd.service')} || true") or 0)


def daemons(contender: str) -> dict[str, int]:
    """The processes of a contender that there is one of each of, by name."""
    if contender == "discoverd":
        found = {"discoverd": main_pid("discoverd.service"), "unit-agent": agent_pid()}
        found["fork-server"] = main_pid("discoverd-fork-server.service")
    else:
        found = {unit: main_pid(f"{unit}.service") for unit in ("stafd", "stacd")}
    return {name: pid for name, pid in found.items() if pid}


def workers() -> tuple[list[int], list[int]]:
    """Process numbers of the workers of I/O controllers, and of discovery controllers."""
    found: tuple[list[int], list[int]] = ([], [])
    for procs in Path("/sys/fs/cgroup/system.slice").glob("system-nvme*ctrl.slice/*/cgroup.procs"):
        found["discovery" in procs.parent.name].extend(int(pid) for pid in procs.read_text().split())
    return found


def cpu_by_name() -> dict[str, float]:
    """CPU seconds by process name, kernel threads as one. Who has ended counts as its parent's child."""
    sums: dict[str, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        head, _, tail = read(folder / "stat").rpartition(")")
        if tail:
            fields = tail.split()
            name = "kernel" if fields[0] and int(fields[6]) & 0x200000 else head.partition("(")[2]
            seconds = cpu_of(int(folder.name)) + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
            sums[name] = sums.get(name, 0) + seconds
    return sums


# Contenders: each starts 64 connects and returns; the storm ends when the kernel has all of them live.


def start_discoverd() -> None:
    Path("/etc/nvme/nvme-fabrics.conf").write_text(FABRICS_CONF)
    sh("systemctl start discoverd.service")


def start_stas() -> None:
    Path("/etc/stas/stafd.conf").write_text(STAFD_CONF)
    sh("systemctl start stafd.service stacd.service")


def start_connect_all() -> None:
    sh(f"nvme connect-all --transport=tcp --traddr={ADDRESS} --trsvcid=4420")


def start_raw() -> None:
    hostnqn, hostid = read(Path("/etc/nvme/hostnqn")), read(Path("/etc/nvme/hostid"))

    def connect(number: int) -> None:
        options = f"nqn={NQN}{number},transport=tcp,traddr={ADDRESS},trsvcid=4420,hostnqn={hostnqn},hostid={hostid}"
        with open("/dev/nvme-fabrics", "r+b", buffering=0) as device:
            device.write(options.encode())

    threads = [threading.Thread(target=connect, args=(number + 1,)) for number in range(offered())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


CONTENDERS = {
    "discoverd": start_discoverd,
    "nvme-stas": start_stas,
    "connect-all": start_connect_all,
    "raw writes": start_raw,
}


def offered() -> int:
    return sum(1 for _ in Path("/sys/kernel/config/nvmet/subsystems").glob(NQN + "*"))


def all_live(count: int) -> bool:
    # Reading states costs the contenders time, so they are read only once there may be enough.
    found = list(CLASS.glob("nvme*"))
    return len(found) >= count and count == sum(
        read(one / "state") == "live" for one in found if read(one / "subsysnqn").startswith(NQN)
    )


def clean() -> None:
    sh(CLEAN, check=False)
    wait_for(lambda: not list(CLASS.glob("nvme*")), "no controller left")
    # udev has as much to do for each controller that goes; the next contender must not pay for that.
    sh("udevadm settle; sync")
    time.sleep(2)


def storm(contender: str) -> dict[str, object]:
    clean()
    count = offered()
    before = cpu_by_name()
    started = time.monotonic()
    thread = threading.Thread(target=CONTENDERS[contender])
    thread.start()
    wait_for(lambda: all_live(count), f"{count} controllers live")
    seconds = time.monotonic() - started
    thread.join()
    after = cpu_by_name()
    used = {name: round(after.get(name, 0) - before.get(name, 0), 2) for name in before | after}
    result: dict[str, object] = {
        "contender": contender,
        "controllers": count,
        "seconds": round(seconds, 2),
        # Below 0 where who had been there before has ended: all of his counts as his parent's then, see cpu_by_name().
        "cpu": {name: spent for name, spent in sorted(used.items(), key=lambda item: -item[1]) if abs(spent) >= 0.05},
    }
    if contender in ("discoverd", "nvme-stas"):
        result["supervisor"] = {name: process(pid) for name, pid in daemons(contender).items()}
    if contender == "discoverd":
        result |= worker_costs()
    return result


def process(pid: int) -> dict[str, object]:
    return {"cpu": round(cpu_of(pid), 3), "pss": pss_of(pid), "wakeups": wakeups_of(pid, every_thread=True)}


def worker_costs() -> dict[str, object]:
    io, discovery = workers()
    cpu = [cpu_of(pid) for pid in io]
    wakeups = [wakeups_of(pid) for pid in io]
    pss = [pss_of(pid) for pid in io]
    keep_spec()
    return {
        "workers": len(io),
        "worker_cpu": round(statistics.median(cpu), 4),
        "worker_pss": round(statistics.mean(pss)),
        "worker_pss_max": max(pss),
        "discovery_worker_pss": pss_of(discovery[0]),
        "worker_wakeups_total": sum(wakeups),
        "worker_wakeups_each": round(statistics.mean(wakeups), 1),
        "worker_wakeups_max": max(wakeups),
    }


# One worker


def keep_spec() -> None:
    """Puts one controller's specification aside for the measurements that run a worker by hand."""
    (folder,) = STATE.glob(f"*{NQN}1")
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir()
    shutil.copy(folder / "spec", KEPT / folder.name)
    shutil.copy(ABILITIES, KEPT_ABILITIES)


def place_spec(address: str) -> str:
    (kept,) = KEPT.iterdir()
    folder = STATE / kept.name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(KEPT_ABILITIES, ABILITIES)
    (folder / "spec").write_text(kept.read_text().replace(f"={ADDRESS}\n", f"={address}\n"))
    return kept.name


def bare() -> float:
    """CPU of an interpreter that does nothing."""
    pid = os.posix_spawn(PYTHON[0], [*PYTHON, "-c", "pass"], {})
    usage = os.wait4(pid, 0)[2]
    return usage.ru_utime + usage.ru_stime


def to_the_write(instance: str, notify: str) -> float:
    """CPU of a worker from its exec until it hangs in its write to the fabrics device."""
    pid = os.posix_spawn(PYTHON[0], [*PYTHON, WORKER, instance], {"NOTIFY_SOCKET": notify})
    cpu = -1.0

    def hangs() -> bool:
        nonlocal cpu
        before, cpu = cpu, cpu_of(pid)
        # The write has a thread of its own.
        return cpu == before and len(os.listdir(f"/proc/{pid}/task")) == 2

    wait_for(hangs, "the worker connects", 0.2, 30)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return cpu


def clean_up(_: str) -> dict[str, object]:
    clean()
    return {}


def worker_start(rounds: str) -> dict[str, object]:
    clean()
    instance = place_spec(SILENT)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket() as listener,
        tempfile.TemporaryDirectory() as folder,
    ):
        manager.bind(folder + "/notify")
        listener.bind((SILENT, 4420))
        listener.listen(64)
        pairs = [(bare(), to_the_write(instance, folder + "/notify")) for _ in range(int(rounds) + 1)][1:]
    shutil.rmtree(STATE)
    empty, worker = (list(values) for values in zip(*pairs, strict=True))
    return {
        "bare_python": [round(min(empty), 4), round(statistics.median(empty), 4)],
        "worker": [round(min(worker), 4), round(statistics.median(worker), 4)],
    }


MODULES = """
import sys
sys.argv = ["-c", {instance!r}]
import _thread, posix, time
def tell():
    time.sleep({seconds})
    posix.write(1, " ".join(sorted(sys.modules)).encode())
_thread.start_new_thread(tell, ())
exec(compile(open({worker!r}).read(), {worker!r}, "exec"))
"""


def modules(_: str) -> dict[str, object]:
    """The modules of a worker whose controller is live."""
    clean()
    instance = place_spec(ADDRESS)
    program = MODULES.format(instance=instance, worker=WORKER, seconds=6)
    worker = subprocess.Popen([*PYTHON, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert worker.stdout is not None
    time.sleep(8)
    live = all_live(1)
    worker.send_signal(signal.SIGTERM)
    names = worker.communicate(timeout=60)[0].split()
    shutil.rmtree(STATE)
    return {"live": live, "modules": len(names), "names": names}


def idle(argument: str) -> dict[str, object]:
    """What a contender's processes cost while nothing happens, after a storm of his: "nvme-stas,60", in seconds.

    By process, all workers as one: how many there are, their wake-ups, CPU and memory in all.
    """
    contender, _, seconds = argument.partition(",")
    # A worker asks for somebody else to look at its controller ten seconds after it has connected.
    time.sleep(20)
    groups = {name: [pid] for name, pid in daemons(contender).items()}
    if contender == "discoverd":
        io, discovery = workers()
        groups["workers"] = io + discovery
    before = {
        name: (sum(wakeups_of(one, True) for one in group), sum(map(cpu_of, group))) for name, group in groups.items()
    }
    time.sleep(float(seconds))
    return {
        name: {
            "processes": len(group),
            "wakeups": sum(wakeups_of(one, True) for one in group) - before[name][0],
            "cpu": round(sum(map(cpu_of, group)) - before[name][1], 4),
            "seconds": float(seconds),
            "pss": sum(map(pss_of, group)),
        }
        for name, group in groups.items()
    }


def main() -> None:
    measurement: Callable[[str], dict[str, object]] = {
        "clean": clean_up,
        "storm": storm,
        "worker-start": worker_start,
        "modules": modules,
        "idle": idle,
    }[sys.argv[1]]
    print(json.dumps(measurement(sys.argv[2])))


if __name__ == "__main__":
    main()
