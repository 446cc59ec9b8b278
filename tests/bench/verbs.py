# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench.verbs`: how long a hand waits for discoverctl, for its help, and for completion.

In namespaces with a systemd of its own, like the native benchmark, with so many controllers; with `--here` on this host
as it is, and only what needs no systemd. Each command is run once before it is measured, so that its files are cached.
Nothing here passes or fails: the budgets are in docs/design/architecture.md, and tests/unit/test_cli_imports.py holds
what makes them up.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.namespaces import Namespaces, NativeError, prepared_tree
from tests.bench.native import CONNECT_MILLISECONDS, SUBSYSTEM, said
from tests.lab.image import CACHE, SUITE, ImageError

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
HELP = (("--version",), ("--help",), ("list", "--help"))
DEVICE = "nvme0"
LOOKS = (
    ("list",),
    ("list", "--json"),
    ("status",),
    ("status", DEVICE),
    ("why", DEVICE),
    ("metrics",),
    ("wait", "--timeout", "5"),
    ("doctor",),
)
COMPLETION = "/usr/share/bash-completion/completions/discoverctl"
# What a shell does when the tab key is pressed; the shell is there already, so its own start does not count.
TAB = """
source "$1"
COMP_LINE="discoverctl why tcp:" COMP_POINT=20
_discoverctl
began=$EPOCHREALTIME
for ((i = 0; i < $2; i++)); do _discoverctl; done
ended=$EPOCHREALTIME
echo $((((${ended/[.,]/} - ${began/[.,]/})) / $2))
"""
# Wall-clock and processor time of each run of a command, by somebody who does nothing else meanwhile.
TIMER = """
import os, subprocess, sys, time
for _ in range(int(sys.argv[1]) + 1):
    before, began = os.times(), time.perf_counter()
    subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    print(wall * 1000, spent * 1000)
"""

Run = Callable[..., str]


@dataclasses.dataclass(frozen=True)
class Took:
    """Milliseconds: the median of all runs, and the longest; ``cpu`` is the median of processor time."""

    command: str
    median: float
    longest: float
    cpu: float


def took(command: str, lines: Sequence[str]) -> Took:
    """Understand what TIMER has printed. The first run was for the caches."""
    pairs = [tuple(map(float, line.split())) for line in lines[1:]]
    walls, cpus = zip(*pairs, strict=True)
    return Took(command, round(statistics.median(walls), 1), round(max(walls), 1), round(statistics.median(cpus), 1))


def measure(run: Run, program: Sequence[str], verbs: Sequence[Sequence[str]], rounds: int) -> Iterator[Took]:
    """Time each of these verbs of a program."""
    for words in verbs:
        shown = "discoverctl " + " ".join(words)
        yield took(shown, run(PYTHON, "-I", "-c", TIMER, str(rounds), *program, *words).splitlines())


def tab(run: Run, completion: str, rounds: int) -> Took:
    """Time what bash does for the tab key."""
    microseconds = float(run("bash", "--norc", "-c", TAB, "bash", completion, str(rounds)).split()[-1])
    milliseconds = round(microseconds / 1000, 1)
    return Took("completion of a controller", milliseconds, milliseconds, milliseconds)


def here(rounds: int) -> list[Took]:
    """Measure on this host what needs no systemd, from the work tree."""
    launcher = (ROOT / "discoverd/launchers/discoverctl.in").read_text()
    launcher = launcher.replace("@PYTHON@", PYTHON).replace("@PACKAGE_DIR@", str(ROOT))
    with tempfile.NamedTemporaryFile("w", prefix="discoverctl.") as file:
        file.write(launcher)
        file.flush()

        def run(*command: str) -> str:
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        found = list(measure(run, (PYTHON, "-I", file.name), HELP, rounds))
        return [*found, tab(run, str(ROOT / "packaging/completions/discoverctl.bash"), rounds)]


def inside(controllers: int, rounds: int) -> list[Took]:
    """Measure all in namespaces, with so many live controllers. Raises ImageError, NativeError."""
    with Namespaces(prepared_tree(), CONNECT_MILLISECONDS) as host:
        text = "".join(SUBSYSTEM.format(number + 1) for number in range(controllers))
        host.path("/etc/nvme/nvme-fabrics.conf").write_text(text)
        host.run("systemctl", "start", "discoverd.service")
        host.last_connect(controllers)
        host.settle()
        found = list(measure(host.run, ("discoverctl",), (*HELP, *LOOKS), rounds))
        return [*found, tab(host.run, COMPLETION, rounds)]


def table(found: Sequence[Took]) -> str:
    """The results as lines of text."""
    lines = [f"{'milliseconds':36}{'median':>8}{'longest':>9}{'CPU':>8}"]
    lines += [f"{one.command:36}{one.median:8.1f}{one.longest:9.1f}{one.cpu:8.1f}" for one in found]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.verbs", description=__doc__)
    parser.add_argument("--here", action="store_true", help="on this host, only what needs no systemd")
    parser.add_argument("--controllers", type=int, default=64, help="so many live ones (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="so many runs of each command (%(default)s)")
    given = parser.parse_args()
    if not given.here and os.geteuid() != 0:
        print("bench: it boots a systemd, and therefore needs root; run it as root, or with --here", file=sys.stderr)
        return 1
    try:
        with said("verbs"):
            found = here(given.rounds) if given.here else inside(given.controllers, given.rounds)
    except (ImageError, NativeError) as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    path = CACHE / "bench" / f"verbs-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    controllers = 0 if given.here else given.controllers
    result = {"suite": SUITE, "controllers": controllers, "took": [dataclasses.asdict(one) for one in found]}
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
