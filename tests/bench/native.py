# SPDX-License-Identifier: Apache-2.0
"""`make bench-native`: what a host that is not emulated pays for each controller's unit.

A systemd of its own boots in namespaces, from a Debian tree like the lab's with the work tree installed, and discoverd
runs in it unchanged; only the kernel's NVMe is a stand-in (fabrics_device.py). The processor time is that of the
systemd's control groups, to the microsecond, so neither the stand-in nor what measures is in it. There is no udev in
it, and no kernel that connects; controllers are configured, and no log page is read.

Prints a table and writes `.cache/lab/bench/native-<time>.json`. Nothing here passes or fails.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench.guest import pss_of, wakeups_of
from tests.bench.namespaces import FORK_SERVER, PYTHON, Namespaces, NativeError, Usage, prepared_tree, properties
from tests.lab.image import CACHE, SUITE, ImageError

COUNTS = (64, 128, 256, 512)
CONNECT_MILLISECONDS = 5
IDLE_SECONDS = 60
BARE, OURS, PLAIN, DISCOVERD = "empty program", "empty, our properties", "discoverd, plain start", "discoverd"
CONTENDERS = (BARE, OURS, PLAIN, DISCOVERD)

EMPTY_UNITS = Path(__file__).resolve().with_name("empty_units.py")
KINDS = {BARE: "bare", OURS: "ours"}
SUBSYSTEM = """\
[Subsystem]
nqn = nqn.2024-08.com.example:vol{}
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """One start of ``count`` units. Times are seconds from the first request, memory is MiB (PSS).

    ``live`` is None for units without a controller. ``memory`` is that of a worker, on average, and of the others.
    """

    contender: str
    count: int
    live: float | None
    active: float
    cpu: Usage
    memory: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Idle:
    """What processes did in ``seconds`` in which nothing happened: voluntary context switches, and CPU seconds."""

    count: int
    seconds: float
    wakeups: Mapping[str, int]
    cpu: float


# Measuring -------------------------------------------------------------------------------------------------


def start(host: Namespaces, contender: str, count: int) -> Run:
    """Start so many units, and wait for all that comes of it. Raises NativeError."""
    if contender == PLAIN:
        host.run("systemctl", "mask", "--now", f"{FORK_SERVER}.socket")
    host.path("/etc/nvme/nvme-fabrics.conf").write_text("".join(SUBSYSTEM.format(i + 1) for i in range(count)))
    host.settle()
    before = host.usage()
    live: float | None = None
    if contender in KINDS:
        began = float(host.run(PYTHON, "-c", EMPTY_UNITS.read_text(), str(count), KINDS[contender]))
    else:
        began = time.monotonic()
        host.run("systemctl", "start", "--no-block", "discoverd.service")
        live = round(host.last_connect(count) - began, 3)
    active = round(all_active(host, count) - began, 3)
    spent = host.usage().since(before)
    return Run(contender, count, live, active, spent, {} if live is None else memory(host.processes()))


def all_active(host: Namespaces, count: int) -> float:
    """Wait until all units are active and it is quiet, and return when the last one was (monotonic).

    systemd remembers when; to be asked meanwhile would cost it time.
    """
    deadline = time.monotonic() + 120
    while True:
        host.settle()
        wanted = "--property=ActiveState,ActiveEnterTimestampMonotonic"
        units = properties(host.run("systemctl", "show", wanted, "nvme-ctrl@*.service"))
        entered = [int(unit["ActiveEnterTimestampMonotonic"]) for unit in units if unit["ActiveState"] == "active"]
        if len(entered) == count:
            return max(entered) / 1e6
        if time.monotonic() > deadline:
            raise NativeError(f"only {len(entered)} of {count} units are active; end of the journal:\n{host.journal()}")


def memory(processes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """MiB of each process, its proportional share, on average; systemd's is not ours."""
    return {
        name: round(statistics.mean(map(pss_of, pids)) / 1024, 3)
        for name, pids in processes.items()
        if pids and name != "PID 1"
    }


def idle(host: Namespaces, count: int, seconds: float) -> Idle:
    """Look at a host on which nothing happens, for so many seconds."""
    # A worker asks for somebody else to look at its controller ten seconds after it has connected.
    time.sleep(20)
    processes = host.processes()

    def switches() -> dict[str, int]:
        return {name: sum(wakeups_of(pid, every_thread=True) for pid in pids) for name, pids in processes.items()}

    before, cpu = switches(), host.usage().total
    time.sleep(seconds)
    after = switches()
    wakeups = {name: after[name] - before[name] for name in after if processes[name]}
    return Idle(count, seconds, wakeups, round(host.usage().total - cpu, 4))


# The table -------------------------------------------------------------------------------------------------


def medians(runs: Iterable[Run]) -> list[Run]:
    """One run for each number and contender, of the medians of all."""
    groups: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.count, run.contender), []).append(run)
    result = []
    for (count, contender), group in sorted(groups.items(), key=lambda item: item[0][0]):
        live = [run.live for run in group if run.live is not None]
        cpu = Usage(*map(statistics.median, zip(*(run.cpu.parts() for run in group), strict=True)))
        memory = {name: statistics.median(run.memory[name] for run in group) for name in group[0].memory}
        active = statistics.median(run.active for run in group)
        result.append(Run(contender, count, statistics.median(live) if live else None, active, cpu, memory))
    return result


def unit_cost(run: Run) -> float:
    """Milliseconds of the processor for each unit: of systemd, of what runs in the unit, and of the fork server."""
    return (run.cpu.pid1 + run.cpu.units + run.cpu.fork_server) / run.count * 1000


def time_lines(runs: Sequence[Run]) -> Iterator[str]:
    heads = ("CPU s", "PID 1", "units", "fork s.", "superv.", "agent", "rest")
    yield f"{'':24}{'live s':>9}{'active s':>9}{'ms/unit':>9}" + "".join(f"{head:>8}" for head in heads)
    count = 0
    for run in medians(runs):
        if run.count != count:
            count = run.count
            yield f"{count} units"
        live = "" if run.live is None else f"{run.live:.2f}"
        total, *named = run.cpu.parts()
        cells = "".join(f"{seconds:8.2f}" for seconds in (total, *named, total - sum(named)))
        yield f"  {run.contender:22}{live:>9}{run.active:9.2f}{unit_cost(run):9.1f}{cells}"


def memory_lines(runs: Sequence[Run]) -> Iterator[str]:
    names = ("worker", "fork server", "supervisor", "agent")
    yield f"{'PSS in MiB':30}" + "".join(f"{name:>13}" for name in names)
    for run in medians(runs):
        if run.memory:
            cells = (f"{run.memory[name]:13.2f}" if name in run.memory else f"{'-':>13}" for name in names)
            yield f"  {f'{run.contender}, {run.count}':28}" + "".join(cells)


def idle_lines(minutes: Sequence[Idle]) -> Iterator[str]:
    yield "wake-ups while nothing happens"
    for one in minutes:
        each = ", ".join(f"{name} {count}" for name, count in one.wakeups.items())
        yield f"  {one.count} controllers, {one.seconds:g} s: {each}; {one.cpu * 1000:.0f} ms CPU of all"


def table(runs: Sequence[Run], minutes: Sequence[Idle], connect_milliseconds: float) -> str:
    """The results as lines of text."""
    head = f"native: {SUITE}, {os.cpu_count()} processors, {connect_milliseconds:g} ms for each connect of the stand-in"
    lines = [head, *time_lines(runs), "", *memory_lines(runs)]
    if minutes:
        lines += ["", *idle_lines(minutes)]
    return "\n".join(lines)


# Command line ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be measured; ``idle_seconds`` may be 0."""

    counts: Sequence[int] = COUNTS
    rounds: int = 3
    contenders: Sequence[str] = CONTENDERS
    connect_milliseconds: float = CONNECT_MILLISECONDS
    idle_seconds: float = IDLE_SECONDS


def measure(order: Order) -> tuple[list[Run], list[Idle]]:
    """Measure in turn, each time with a systemd that has just booted. Raises ImageError, NativeError."""
    tree = prepared_tree()
    forks = (tree / f"usr/lib/systemd/system/{FORK_SERVER}.socket").exists()
    runs: list[Run] = []
    minutes: list[Idle] = []
    for number in range(order.rounds):
        for count in order.counts:
            for contender in (one for one in order.contenders if forks or one != PLAIN):
                with said(f"{count} units, {contender}"), Namespaces(tree, order.connect_milliseconds) as host:
                    runs.append(start(host, contender, count))
                    if order.idle_seconds and contender == DISCOVERD and number == order.rounds - 1:
                        minutes.append(idle(host, count, order.idle_seconds))
    return runs, minutes


@contextlib.contextmanager
def said(what: str) -> Iterator[None]:
    """Say on standard error what is being measured, and how long that took."""
    print(f"bench: native, {what} ...", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    yield
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def bench(order: Order) -> int:
    """Measure, print the table, and write all of it to a file. Returns the exit status."""
    if os.geteuid() != 0:
        print("bench: the native part boots a systemd, and therefore needs root; run it as root", file=sys.stderr)
        return 1
    try:
        runs, minutes = measure(order)
    except (ImageError, NativeError) as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    path = CACHE / "bench" / f"native-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "suite": SUITE,
        "connect_milliseconds": order.connect_milliseconds,
        "runs": [dataclasses.asdict(run) for run in runs],
        "idle": [dataclasses.asdict(one) for one in minutes],
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(table(runs, minutes, order.connect_milliseconds))
    print(f"\nall of it: {path}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench-native", description=__doc__)
    default = Order()
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--controllers", type=int, action="append", help="with so many; several times for several")
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="this contender, or these")
    parser.add_argument("--connect", type=float, default=default.connect_milliseconds, help="milliseconds of each")
    parser.add_argument(
        "--idle", type=float, default=default.idle_seconds, help="seconds to look on after it; 0 for none"
    )
    given = parser.parse_args()
    counts, contenders = given.controllers or default.counts, given.only or default.contenders
    return bench(Order(counts, given.rounds, contenders, given.connect, given.idle))


if __name__ == "__main__":
    sys.exit(main())
