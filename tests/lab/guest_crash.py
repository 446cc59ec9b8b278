# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest: kills processes of ours at random moments while units are stopped and started, and prints JSON.

`guest_crash.py SEED ROUNDS STOPS KILLS`: in each round that many units are stopped and started again, each at moments
of its own, and that many processes get SIGKILL, at moments of theirs. Every round ends when all is connected again.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SLICE = Path("/sys/fs/cgroup/system.slice")
WORKERS = SLICE / "system-nvme\\x2dctrl.slice"
# In this time a round's stops, starts and kills happen, in no order.
SPAN = 2.0
SETTLED = 90


def controllers() -> dict[str, tuple[str, str]]:
    """Instances of units, as far as the registry has them, to kernel name and inode."""
    found = {}
    for entry in Path("/run/nvme/registry").glob("nvme*"):
        try:
            unit = (entry / "unit").read_text().strip()
            live = Path("/sys/class/nvme", entry.name, "state").read_text() == "live\n"
            if live:
                found[unit] = (entry.name, str(Path("/sys/class/nvme", entry.name).stat().st_ino))
        except OSError:
            continue
    return found


def processes(unit: str) -> list[int]:
    for slice_ in (SLICE, WORKERS):
        try:
            return [int(line) for line in (slice_ / unit / "cgroup.procs").read_text().split()]
        except OSError:
            continue
    return []


def is_agent(process: int) -> bool:
    try:
        return b"unit-agent" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def kill(what: str) -> str:
    """Kills what stands for one process: "supervisor", "agent", or a unit's name. Returns what was hit."""
    unit = "discoverd.service" if what in ("supervisor", "agent") else what
    for process in processes(unit):
        if what not in ("supervisor", "agent") or is_agent(process) == (what == "agent"):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                return ""
            return what if what in ("supervisor", "agent", "discoverd-mounts.service") else "worker"
    return ""


def systemctl(*words: str) -> int:
    return subprocess.run(["systemctl", *words], capture_output=True).returncode


def start(unit: str) -> None:
    """Starts a unit as an administrator does who wants to see its controller live.

    A stopped unit is unloaded while the supervisor is dead, and a start is lost with a supervisor that is killed while
    it makes the unit again: so it is asked for until it is done.
    """
    deadline = time.monotonic() + SETTLED
    while systemctl("start", unit) != 0 or unit not in controllers():
        if time.monotonic() > deadline:
            raise SystemExit(f"{unit} cannot be started")
        time.sleep(0.2)


def stop_and_start(unit: str, stop_at: float, start_at: float) -> None:
    time.sleep(stop_at)
    systemctl("stop", unit)
    time.sleep(max(0.0, start_at - stop_at))
    start(unit)


def killer(what: str, at: float, hits: list[str]) -> None:
    time.sleep(at)
    hits.append(kill(what))


def await_all(units: list[str], what: str) -> None:
    deadline = time.monotonic() + SETTLED
    while True:
        found = controllers()
        missing = [unit for unit in units if unit not in found or not processes(unit)]
        if not missing and all(processes(unit) for unit in ("discoverd.service", "discoverd-mounts.service")):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not connected again: {missing}")
        time.sleep(0.2)


def play(chance: random.Random, units: list[str], stops: int, kills: int, hits: list[str]) -> list[str]:
    """One round. Returns what was connected anew although nobody had stopped it."""
    before = controllers()
    touched = chance.sample(units, stops)
    # Every other blow hits a worker that is being stopped or started.
    targets = [
        chance.choice(["supervisor", "agent", "discoverd-mounts.service", chance.choice(units)])
        if chance.random() < 0.5
        else chance.choice(touched)
        for _ in range(kills)
    ]
    threads = [
        threading.Thread(target=stop_and_start, args=(unit, *sorted(chance.uniform(0, SPAN) for _ in "12")))
        for unit in touched
    ]
    threads += [threading.Thread(target=killer, args=(what, chance.uniform(0, SPAN), hits)) for what in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    await_all(units, f"after {targets}")
    after = controllers()
    return [unit for unit in units if unit not in touched and before[unit] != after[unit]]


def main() -> None:
    seed, rounds, stops, kills = (int(word) for word in sys.argv[1:])
    chance = random.Random(seed)
    units = sorted(controllers())
    hits: list[str] = []
    anew: list[str] = []
    for _ in range(rounds):
        anew += play(chance, units, stops, kills, hits)
    print(json.dumps({"anew": anew, "hits": {hit: hits.count(hit) for hit in sorted(set(hits))}}))


if __name__ == "__main__":
    main()
