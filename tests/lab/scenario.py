# SPDX-License-Identifier: Apache-2.0
"""What scenarios ask of a machine on which discoverd runs."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.machine import Machine

DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery"
DISCOVERY_UNIT = f"nvme-ctrl@tcp:192.0.2.1:4420:{DISCOVERY}.service"
ONE_DISCOVERY_CONTROLLER = """\
[Discovery Controller]
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
"""
# Bash by itself: scenarios ask for it all the time, and a process is dear in an emulated machine.
CONTROLLERS = """\
cd /sys/class/nvme 2>/dev/null || exit 0
for name in nvme*; do
    nqn= state=
    { read -r nqn <$name/subsysnqn && read -r state <$name/state; } 2>/dev/null && echo "$name $nqn $state"
done
true
"""
# What takes minutes to wait for, and is a rule that unit tests hold as well, is waited for with LAB_LONG=1.
LONG = bool(os.environ.get("LAB_LONG"))
long = pytest.mark.skipif(not LONG, reason="it takes minutes; LAB_LONG=1 has it run")
# The bound for anything that takes a second on a quiet machine.
GENEROUS = 90


@dataclass(frozen=True)
class Unit:
    """A controller's unit, as `systemctl show` has it."""

    name: str
    load: str
    active: str
    sub: str
    status: str
    main_pid: int


def nqn(volume: int | str) -> str:
    return f"nqn.2024-08.com.example:vol{volume}"


def unit_name(volume: int | str, address: str = "192.0.2.1") -> str:
    return f"nvme-ctrl@tcp:{address}:4420:{nqn(volume)}.service"


def configure(machine: Machine, text: str = ONE_DISCOVERY_CONTROLLER) -> None:
    machine.put("/etc/nvme/nvme-fabrics.conf", text, mode=0o600)


def start(machine: Machine, text: str = ONE_DISCOVERY_CONTROLLER) -> None:
    """Configure and start discoverd."""
    configure(machine, text)
    machine.run("systemctl start discoverd.service", timeout=GENEROUS)


def units(machine: Machine) -> dict[str, Unit]:
    """Every controller's unit that systemd has loaded, running or not."""
    return {unit.name: unit for unit in _show(machine, "--all", "nvme-ctrl@*")}


def unit(machine: Machine, name: str) -> Unit:
    return next(_show(machine, name))


def _show(machine: Machine, *arguments: str) -> Iterator[Unit]:
    properties = "Id,LoadState,ActiveState,SubState,StatusText,MainPID"
    text = machine.run(["systemctl", "show", "-p", properties, *arguments]).stdout
    for block in text.strip().split("\n\n"):
        shown = dict(line.split("=", 1) for line in block.splitlines())
        if shown:
            yield Unit(
                shown["Id"],
                shown["LoadState"],
                shown["ActiveState"],
                shown["SubState"],
                shown.get("StatusText", ""),
                int(shown["MainPID"]),
            )


def status(machine: Machine) -> str:
    """The one line that discoverd says about itself."""
    return machine.run("systemctl show -P StatusText discoverd.service").stdout.strip()


def controllers(machine: Machine) -> dict[str, tuple[str, str, str]]:
    """Kernel controllers: name to (NQN, state, the inode that tells one nvme3 from the next)."""
    text = machine.run(CONTROLLERS + "stat -Lc '%n %i' nvme*/ 2>/dev/null || true").stdout
    inodes: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, *rest = line.split()
        if name.endswith("/"):
            inodes[name[:-1]] = rest[0]
        else:
            found[name] = rest
    return {name: (row[0], row[1], inodes[name]) for name, row in found.items() if len(row) == 2 and name in inodes}


def live(machine: Machine) -> list[str]:
    """The NQNs of the live controllers, sorted; an NQN with two live paths is in it twice."""
    rows = [line.split() for line in machine.run(CONTROLLERS).stdout.splitlines()]
    return sorted(row[1] for row in rows if row[2:] == ["live"])


def wait_live(machine: Machine, count: int, timeout: float = GENEROUS) -> float:
    return machine.wait_until(
        lambda: len(live(machine)) == count, timeout=timeout, what=f"{count} controllers are live"
    )


def wait_status(machine: Machine, text: str, timeout: float = GENEROUS) -> float:
    """Wait until discoverd's status contains the text."""
    return machine.wait_until(
        lambda: text in status(machine) and status(machine), timeout=timeout, what=f"the status says {text!r}"
    )


def wait_unit(machine: Machine, name: str, text: str, timeout: float = GENEROUS) -> float:
    """Wait until the unit's status contains the text."""

    def shown() -> bool:
        return text in unit(machine, name).status

    return machine.wait_until(shown, timeout=timeout, what=f"the status of {name} says {text!r}")


def registry(machine: Machine) -> dict[str, dict[str, str]]:
    """The ownership registry: device to attributes, values with the white space they have."""
    text = machine.run("cd /run/nvme/registry 2>/dev/null && grep -H . */* || true").stdout
    entries: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        path, _, value = line.partition(":")
        device, _, attribute = path.partition("/")
        entries.setdefault(device, {})[attribute] = value
    return entries


def clock(machine: Machine) -> float:
    """The machine's time, which its journal has too."""
    return float(machine.run("date +%s.%N").stdout)
