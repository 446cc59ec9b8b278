# SPDX-License-Identifier: Apache-2.0
"""Storage of every kind under load, a shutdown, and what the next boot finds; the guest's half is `lab-storage`."""

import json
import re
from collections.abc import Iterable, Sequence

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import nqn

# Each kind of storage that `lab-storage` makes, and how many volumes it takes.
KINDS = {
    "ext4": 1,
    "xfs": 1,
    "fstab-netdev": 1,
    "fstab-nofail": 1,
    "fstab-noauto": 1,
    "fstab-defaults": 1,
    "lvm": 2,
    "luks": 1,
    "partition": 1,
    "bind": 1,
    "namespace": 1,
    "swap": 1,
    "held": 1,
}
# The smallest that mkfs.xfs makes is 300 MiB.
SIZE_MIB = 320
ONE_PORT = ("192.0.2.1:4420",)
# What the kernel prints about storage that went away under its users, or a network that went before its storage.
HARM = re.compile(
    r"I/O error|lost (async |sync )?page write|EXT4-fs.*(error|warning|Remounting)|JBD2: |Aborting journal"
    r"|XFS.*(error|shutdown)|(Read|Write)-error on swap"
    # Not "failed nvme_keep_alive_end_io", which a regular disconnect may say.
    r"|nvme nvme\d+: .*(error recovery|reconnecting|timeout|failed to)",
    re.IGNORECASE,
)

# Seconds by what was measured, for the report at the end of a run.
TIMES: list[tuple[str, float]] = []


def volumes(kinds: Iterable[str]) -> dict[str, list[str]]:
    """Which volumes of the target belong to each kind: they are given out in order."""
    result = {}
    count = 0
    for kind in kinds:
        result[kind] = [f"vol{number}" for number in range(count + 1, count + 1 + KINDS[kind])]
        count += KINDS[kind]
    return result


def prepare(machine: Machine, count: int, ports: Sequence[str] = ONE_PORT) -> None:
    """A target that outlives a reboot, and discoverd, which connects to all of it, enabled."""
    target = f"--subsystems {count} --size {SIZE_MIB} --keep --ports {' '.join(ports)}"
    machine.run(f"lab-target up {target}")
    machine.put("/etc/lab-target.conf", f"TARGET={target}\n")
    scenario.start(
        machine,
        "".join(
            f"[Subsystem]\nnqn = {nqn(volume)}\n"
            + "".join(f"controller = transport=tcp;traddr={port.rpartition(':')[0]};trsvcid=4420\n" for port in ports)
            for volume in range(1, count + 1)
        ),
    )
    machine.run("systemctl enable discoverd.service")
    scenario.wait_live(machine, count * len(ports))


def use(machine: Machine, kinds: Iterable[str]) -> None:
    """Each kind on its volumes, made if it is not there yet, with a writer that has begun to write."""
    wanted = [f"{kind}={','.join(names)}" for kind, names in volumes(kinds).items()]
    machine.run(["lab-storage", "use", *wanted], timeout=400)


def records(machine: Machine) -> dict[str, int]:
    """How many files each writer has written and recorded."""
    found: dict[str, int] = json.loads(machine.run("lab-storage records").stdout)
    return found


def wait_writing(machine: Machine) -> None:
    """Wait until every writer has written one more file."""
    before = records(machine)
    machine.wait_until(
        lambda: all(count > before[kind] for kind, count in records(machine).items()),
        timeout=60,
        what="every writer writes",
    )


def power_off(machine: Machine, title: str, *, harmless: bool = True) -> float:
    """Power off under load, judge what the kernel printed, and boot again. Returns the seconds to power off."""
    machine.run("lab-storage seal")
    console, journal = len(machine.console()), machine.journal_end()
    seconds = machine.poweroff()
    TIMES.append((title, seconds))
    if harmless:
        said = harmed(machine, console, journal)
        assert not said, "\n".join(said)
    machine.boot()
    return seconds


def reboot(machine: Machine) -> None:
    """Reboot under load, and judge what the kernel printed."""
    machine.run("lab-storage seal")
    console, journal = len(machine.console()), machine.journal_end()
    machine.reboot()
    said = harmed(machine, console, journal)
    assert not said, "\n".join(said)


def harmed(machine: Machine, console: int, journal: int) -> list[str]:
    """What the kernel said about harm since a place in the console's and the journal's text."""
    # The journal has warnings too, and the console has what came after the journal's end.
    said = machine.console()[console:].splitlines()
    said += [entry.message for entry in machine.journal(since=journal) if entry.identifier == "kernel"]
    # udev reads a device that swap or a file system has just let go of, also while it is disconnected.
    return [line for line in said if HARM.search(line) and not line.endswith("async page read")]


def verify(machine: Machine, count: int, *, clean: bool = True) -> dict[str, int]:
    """After a boot: every recorded file is there and, if `clean`, every journal too. Returns the files of each kind."""
    scenario.wait_live(machine, count)
    found = json.loads(machine.run("lab-storage verify", timeout=300).stdout)
    wrong = {
        f"{kind}: {problem}"
        for kind, one in found.items()
        for problem in one["problems"]
        if clean or problem.startswith("lost")
    }
    assert not wrong, "\n".join(sorted(wrong))
    return {kind: one["records"] for kind, one in found.items()}
