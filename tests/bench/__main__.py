# SPDX-License-Identifier: Apache-2.0
"""`make bench`: what discoverd costs, beside its peers and beside the kernel alone, in one machine.

Prints a table and writes `.cache/lab/bench/<time>.json`. Nothing here passes or fails: timings of an emulated machine
are for comparing with others of the same run. Unless only some contenders are asked for, native.py comes after it.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import native
from tests.lab.image import CACHE, ImageError, build
from tests.lab.machine import LabError, Machine

CONTENDERS = ("raw writes", "connect-all", "nvme-stas", "discoverd")
# Does the number of a worker's wake-ups grow with the number of workers?
FEW = 16
# How do time and memory grow? Of these the peers that have one process for all are measured as well.
GROWTH = (128, 256, 512)
GROWING = ("raw writes", "nvme-stas", "discoverd")
GUEST = "/root/bench.py"


class Bench:
    """The measurements, in one machine."""

    def __init__(self, machine: Machine, subsystems: int, idle_seconds: int) -> None:
        self._machine = machine
        self._subsystems = subsystems
        self._idle_seconds = idle_seconds
        self.result: dict[str, Any] = {"storms": []}

    def measure(self, measurement: str, argument: object, timeout: float = 400) -> dict[str, Any]:
        print(f"bench: {measurement} {argument} ...", end="", file=sys.stderr, flush=True)
        started = time.monotonic()
        output = self._machine.run(["python3", GUEST, measurement, str(argument)], timeout=timeout).stdout
        print(f" {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        result: dict[str, Any] = json.loads(output)
        return result

    def target(self, subsystems: int) -> None:
        self._machine.run(f"lab-target up --subsystems {subsystems} --ports 192.0.2.1:4420", timeout=300)

    def idle(self, contender: str) -> dict[str, Any]:
        return self.measure("idle", f"{contender},{self._idle_seconds}", self._idle_seconds + 200)

    def grow(self, contenders: Sequence[str], counts: Sequence[int]) -> None:
        """Storms of more and more controllers, and what discoverd and nvme-stas cost when they are idle after it."""
        found = self.result["growth"] = []
        for count in counts:
            self.measure("clean", "-")
            self.target(count)
            for contender in (one for one in GROWING if one in contenders):
                storm = self.measure("storm", contender, 1200)
                if contender in ("nvme-stas", "discoverd"):
                    storm["idle"] = self.idle(contender)
                found.append(storm)

    def run(self, contenders: Sequence[str], rounds: int) -> None:
        self._machine.put(GUEST, Path(__file__).with_name("guest.py").read_bytes())
        result = self.result
        if "discoverd" in contenders:
            self.target(FEW)
            result["few"] = self.measure("storm", "discoverd")
            self.measure("storm", "raw writes")
            self.measure("clean", "-")
        self.target(self._subsystems)
        self.measure("storm", "raw writes")  # The first storm of a boot is slow for whoever comes first.
        for _ in range(rounds):
            result["storms"] += [self.measure("storm", contender) for contender in contenders]
        if "discoverd" in contenders:
            if contenders[-1] != "discoverd":
                self.measure("storm", "discoverd")
            result["idle"] = self.idle("discoverd")
            result["modules"] = self.measure("modules", "-")
            result["worker_start"] = self.measure("worker-start", 20)


def table(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    storms: dict[str, list[dict[str, Any]]] = {}
    for one in result["storms"]:
        storms.setdefault(one["contender"], []).append(one)
    count = result["storms"][0]["controllers"]
    lines = [
        f"{count} controllers from start to live",
        f"  {'':14}{'min s':>8}{'median s':>10}{'x raw':>7}{'CPU s':>8}  rounds",
    ]
    medians = {name: statistics.median(one["seconds"] for one in rounds) for name, rounds in storms.items()}
    for name, rounds in storms.items():
        seconds = [one["seconds"] for one in rounds]
        ratio = f"{medians[name] / medians['raw writes']:7.2f}" if "raw writes" in medians else f"{'':7}"
        # Of the whole machine: what is noise in the seconds is less of one here.
        cpu = statistics.median(sum(one["cpu"].values()) for one in rounds)
        each = " ".join(map(str, seconds))
        lines.append(f"  {name:14}{min(seconds):8.1f}{medians[name]:10.1f}{ratio}{cpu:8.1f}  {each}")
    lines += ["", "processes after the storm (last round)", f"  {'':14}{'PSS MiB':>8}{'CPU s':>10}{'wake-ups':>10}"]
    for rounds in storms.values():
        for name, process in rounds[-1].get("supervisor", {}).items():
            lines.append(f"  {name:14}{process['pss'] / 1024:8.1f}{process['cpu']:10.2f}{process['wakeups']:10}")
    lines += ["", "CPU seconds during the storm (last round), by process"]
    for name, rounds in storms.items():
        spent = ", ".join(f"{process} {seconds:.1f}" for process, seconds in rounds[-1]["cpu"].items())
        lines.append(f"  {name:14}{spent}")
    if "discoverd" in storms:
        lines += ["", *worker_lines(storms["discoverd"][-1], result)]
    if "growth" in result:
        lines += growth_lines(result["growth"])
    return "\n".join(lines)


def worker_lines(last: dict[str, Any], result: dict[str, Any]) -> list[str]:
    start, idle, few = result["worker_start"], result["idle"], result["few"]
    # Noise only adds: the smallest of each is what they cost.
    ratio = start["worker"][0] / start["bare_python"][0]
    rows = [
        ("PSS, mean of all / largest", f"{last['worker_pss'] / 1024:.2f} / {last['worker_pss_max'] / 1024:.2f} MiB"),
        ("PSS of the discovery controller's", f"{last['discovery_worker_pss'] / 1024:.2f} MiB"),
        ("modules when live", str(result["modules"]["modules"])),
        ("CPU of a bare python3 -I -S -c pass", "min {:.4f} median {:.4f} s".format(*start["bare_python"])),
        ("CPU from exec to the fabrics write", "min {:.4f} median {:.4f} s".format(*start["worker"])),
        ("that, in bare interpreters", f"{ratio:.2f}"),
        ("CPU from exec to live, in the storm", f"{last['worker_cpu']:.4f} s (median)"),
        *(
            (
                f"wake-ups while {one['controllers']} connect",
                f"{one['worker_wakeups_each']} each, at most {one['worker_wakeups_max']}, "
                f"{one['worker_wakeups_total']} in all",
            )
            for one in (few, last)
        ),
    ]
    lines = [f"one worker of {last['workers']}", *(f"  {name:38}{value}" for name, value in rows)]
    lines += ["", "idle", *idle_lines(idle)]
    return lines


def idle_lines(idle: dict[str, Any]) -> list[str]:
    return [
        f"  {name:14}{one['processes']:5} processes, in {one['seconds']:.0f} s {one['wakeups']:6} wake-ups and "
        f"{one['cpu'] * 1000:8.1f} ms CPU, {one['pss'] / 1024:7.1f} MiB PSS"
        for name, one in idle.items()
    ]


def growth_lines(growth: list[dict[str, Any]]) -> list[str]:
    lines = ["", "growth", f"  {'':14}{'controllers':>12}{'s':>8}{'CPU s':>8}"]
    for one in growth:
        cpu = sum(one["cpu"].values())
        lines.append(f"  {one['contender']:14}{one['controllers']:12}{one['seconds']:8.1f}{cpu:8.1f}")
        lines += ["  " + line for line in idle_lines(one.get("idle", {}))]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subsystems", type=int, default=64)
    parser.add_argument("--growth", type=int, nargs="*", help=f"also so many: {', '.join(map(str, GROWTH))}, or these")
    parser.add_argument("--idle", type=int, default=60, help="seconds of each idle time")
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="this contender, or these")
    arguments = parser.parse_args()
    try:
        machine = Machine(build())
    except ImageError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    path = CACHE / "bench" / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    contenders = arguments.only or CONTENDERS
    bench = Bench(machine, arguments.subsystems, arguments.idle)
    try:
        machine.boot()
        bench.run(contenders, arguments.rounds)
        if arguments.growth is not None:
            bench.grow(contenders, arguments.growth or GROWTH)
    except LabError as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    finally:
        machine.discard()
        path.write_text(json.dumps(bench.result, indent=2) + "\n")
        print(f"all of it: {path}", file=sys.stderr)
    print(table(bench.result))
    return 0 if arguments.only else native.bench(native.Order(rounds=arguments.rounds))


if __name__ == "__main__":
    sys.exit(main())
