# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest: starts discoverd, watches it from outside for some time, and prints JSON.

`guest_meter.py PREFIX COUNT SECONDS`: until when so many controllers of NQNs with this prefix are live, how much memory
the supervisor has, and how long the turns of its loop are. Of these the kernel tells (ftrace): a turn begins where
epoll_wait returns in the main thread and ends at the next one. While others have the processor in the middle of a turn
it is not counted; while the thread waits for something it is. The supervisor runs as it always does.

A turn in an emulated machine takes longer than on the host that it stands for: `slowness` says how many times. It is
what a loop of Python takes here, in processor time, by what it takes on such a host.
"""

import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
EVENTS = ("syscalls/sys_enter_epoll_wait", "syscalls/sys_exit_epoll_wait", "sched/sched_switch")
BUFFER_KIB = 16384
CGROUP = Path("/sys/fs/cgroup/system.slice/discoverd.service/cgroup.procs")
CONTROLLERS = Path("/sys/class/nvme")
SLICE = Path("/sys/fs/cgroup/system.slice/system-nvme\\x2dctrl.slice")
# What LOOPS take on a processor of 3 GHz with Python 3.11 to 3.13 (seconds).
LOOPS, REFERENCE_SECONDS = 100_000, 0.004
_LINE = re.compile(r"^.*-(\d+)\s+\[\d+\]\s+\S+\s+(\d+\.\d+): (.*)$")


def turns(lines: Iterable[str], thread: int) -> Iterator[tuple[float, float]]:
    """Return when each turn of the thread's loop began, and how many seconds it took, from the text of a trace."""
    began: float | None = None
    preempted: float | None = None
    lost = 0.0
    for line in lines:
        match = _LINE.match(line)
        if not match:
            continue
        at, what = float(match[2]), match[3]
        if what.startswith("sched_switch: "):
            if f" next_pid={thread} " in what and preempted is not None:
                lost += at - preempted
                preempted = None
            elif re.search(rf" prev_pid={thread} .* prev_state=R", what):
                preempted = at
        elif int(match[1]) == thread and what.startswith("sys_epoll_wait ->"):
            began, lost = at, 0.0
        elif int(match[1]) == thread and what.startswith("sys_epoll_wait("):
            if began is not None:
                yield began, at - began - lost
            began = None


def slowness() -> float:
    """Return by how much this machine is slower now than what it stands for: the median of some tries."""
    tries = []
    for _ in range(7):
        before = time.process_time()
        sum(number * number for number in range(LOOPS))
        tries.append(time.process_time() - before)
    return statistics.median(tries) / REFERENCE_SECONDS


def trace(thread: int) -> None:
    (TRACING / "tracing_on").write_text("0")
    (TRACING / "trace").write_text("")
    (TRACING / "buffer_size_kb").write_text(str(BUFFER_KIB))
    (TRACING / "trace_clock").write_text("mono")
    (TRACING / "set_event_pid").write_text(str(thread))
    for event in EVENTS:
        (TRACING / "events" / event / "enable").write_text("1")
    (TRACING / "tracing_on").write_text("1")


def end_trace() -> int:
    """Return how many events were lost."""
    (TRACING / "tracing_on").write_text("0")
    for event in EVENTS:
        (TRACING / "events" / event / "enable").write_text("0")
    stats = (one.read_text() for one in TRACING.glob("per_cpu/cpu*/stats"))
    lost = re.compile(r"^(?:overrun|dropped events): (\d+)", re.MULTILINE)
    return sum(int(number) for text in stats for number in lost.findall(text))


def live(prefix: str) -> int:
    count = 0
    for controller in CONTROLLERS.glob("nvme*"):
        with contextlib.suppress(OSError):
            if (controller / "state").read_text() == "live\n":
                count += (controller / "subsysnqn").read_text().startswith(prefix)
    return count


def kib(process: int, file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc", str(process), file).read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def main() -> None:
    prefix, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    before = slowness()
    started = time.monotonic()
    subprocess.run(["systemctl", "start", "--no-block", "discoverd.service"], check=True)
    process = 0
    while not process:
        with contextlib.suppress(OSError, ValueError, IndexError):
            process = int(CGROUP.read_text().split()[0])
        time.sleep(0.01)
    trace(process)
    all_live = None
    pss = workers = 0
    looked = 0.0
    while (now := time.monotonic()) < started + seconds:
        if all_live is None and live(prefix) >= count:
            all_live = now - started
        if now > looked + 2:
            looked = now
            pss = max(pss, kib(process, "smaps_rollup", "Pss"))
            workers = max(workers, sum(1 for _ in SLICE.glob("*.service")))
        time.sleep(0.2)
    lost = end_trace()
    with (TRACING / "trace").open(errors="replace") as file:
        longest = sorted(((length, at - started) for at, length in turns(file, process)), reverse=True)
    (TRACING / "trace").write_text("")
    after = slowness()
    result = {
        "all live": all_live,
        "pss": pss,
        "peak rss": kib(process, "status", "VmHWM"),
        "workers": workers,
        "turns": len(longest),
        "longest": [{"ms": round(1000 * length, 1), "at": round(at, 1)} for length, at in longest[:8]],
        "lost events": lost,
        "slowness": max(before, after, 1.0),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
