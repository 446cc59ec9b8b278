# SPDX-License-Identifier: Apache-2.0
"""Processes that were started before what is installed now: they run older code, until they are started again."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import discoverd
from discoverd.cli.checks.finding import Finding, hint
from discoverd.cli.overview import Controller
from discoverd.cli.systemd import Systemd
from discoverd.cli.text import count, quoted
from discoverd.cli.unit import DAEMON
from discoverd.kernel import processes

SERVICES = (DAEMON, "discoverd-fork-server.service", "discoverd-mounts.service")
PACKAGE = Path(discoverd.__file__).parent
# Of proc_pid_stat(5): when it was started, in ticks since the boot.
_START = 22 - 3
# A package's files come one by one, and the services may be started meanwhile.
_TOLERANCE_SECONDS = 2.0


def check(controllers: Iterable[Controller], systemd: Systemd) -> list[Finding]:
    """Return the services and workers that are older than the files of the package.

    By when the files were changed in their place (ctime), because packages give them the time of their making. So a new
    label or mode counts as well, and it is a hint.
    """
    installed = _installed()
    found = [
        hint(f"{unit.name} runs code from before the last installation", f"systemctl restart {unit.name}")
        for unit in systemd.units(SERVICES).values()
        if _started(systemd.main_pid(unit)) < installed
    ]
    workers = [one.unit for one in controllers if one.unit and one.unit.active in ("active", "reloading")]
    older = [unit.name for unit in workers if _started(systemd.main_pid(unit)) < installed]
    if older:
        text = f"{count(len(older), 'worker')} of {len(workers)} run code from before the last installation"
        which = quoted("nvme-ctrl@*") if len(older) == len(workers) else quoted(older[0])
        remedy = f"have systemd start them anew; connections stay, each adopts its own: systemctl kill -s KILL {which}"
        found.append(hint(text, remedy))
    return found


def _installed() -> float:
    """Return when the newest file of the package was put where it is, in seconds since the epoch."""
    return max(path.stat().st_ctime for path in PACKAGE.rglob("*.py")) - _TOLERANCE_SECONDS


def _started(pid: int) -> float:
    """Return when a process was started, in seconds since the epoch; infinity for none."""
    fields = processes.fields(pid) if pid else []
    if len(fields) <= _START:
        return float("inf")
    since_boot = int(fields[_START]) / os.sysconf("SC_CLK_TCK")
    # By the clock as it is now, whatever it was then.
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
