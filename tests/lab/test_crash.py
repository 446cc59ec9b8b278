# SPDX-License-Identifier: Apache-2.0
"""Processes killed at any moment, and state files that cannot be read: no connection changes, nothing is left over."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, GENEROUS, ONE_DISCOVERY_CONTROLLER, unit_name

# LAB_ROUNDS=20 and more find what is rare; each round takes twenty seconds.
ROUNDS, STOPS, KILLS = int(os.environ.get("LAB_ROUNDS", "2")), 5, 5
TWO_PATHS = ONE_DISCOVERY_CONTROLLER + "controller = transport=tcp;traddr=198.51.100.1;trsvcid=4420\n"
TEMPORARY = "find /run/discoverd /run/nvme -name '*.tmp.*' -o -name '*.new' -o -name '.*'"


def assert_whole(host: Machine, count: int) -> None:
    """As many controllers, units that run and registry entries, each of them about the other two."""
    units = scenario.units(host)
    controllers = scenario.controllers(host)
    entries = scenario.registry(host)
    assert {unit.active for unit in units.values()} == {"active"}
    assert len(units) == len(controllers) == count
    assert {name: entry["owner"] for name, entry in entries.items()} == dict.fromkeys(controllers, "nvme-ctrl")
    assert sorted(entry["unit"] for entry in entries.values()) == sorted(units)
    for name, entry in entries.items():
        assert controllers[name][0] in entry["unit"]
        assert f"live {name}" in units[entry["unit"]].status
    left = host.run(TEMPORARY).stdout
    assert left == ""
    assert len(host.run("ls /run/discoverd/controllers").stdout.split()) == count


def test_kills_at_random_moments(host: Machine, allow_journal: Callable[[str], None]) -> None:
    # What systemd says of a worker that was killed before it was ready, and of a supervisor.
    allow_journal(r"Failed to start (nvme-ctrl@|discoverd)")
    seed = int(os.environ.get("LAB_SEED", random.randrange(1 << 32)))
    print(f"again with LAB_SEED={seed}")
    host.run("lab-target up --subsystems 8")
    scenario.start(host, TWO_PATHS)
    host.run("systemctl start discoverd-mounts.service", timeout=GENEROUS)
    scenario.wait_live(host, 18)
    scenario.wait_status(host, "18 controllers: 18 live")
    host.put("/root/guest_crash.py", Path(__file__).with_name("guest_crash.py").read_text())
    command = f"python3 /root/guest_crash.py {seed} {ROUNDS} {STOPS} {KILLS}"
    result = json.loads(host.run(command, timeout=800).stdout)
    print(result["hits"])
    assert result["anew"] == []
    scenario.wait_status(host, "18 controllers: 18 live")
    assert_whole(host, 18)


def test_a_second_discoverd_says_what_to_type_and_takes_nothing_away(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    in_terminal = "script --quiet --return --command discoverd /dev/null"
    refused = host.run(in_terminal, check=False)
    assert refused.returncode == 1
    assert "does not run in a terminal; to start it: systemctl start discoverd" in refused.stdout
    scenario.start(host)
    scenario.wait_live(host, 2)
    scenario.wait_status(host, "2 controllers: 2 live")
    pid = host.run("systemctl show -P MainPID discoverd.service").stdout.strip()
    for command in ("discoverd </dev/null 2>&1", in_terminal):
        refused = host.run(command, check=False)
        assert refused.returncode == 1
        assert f"discoverd is running already, as PID {pid} (discoverd.service); to see it: " in refused.stdout
    # The first hears of what is new as before, from the worker of the discovery controller.
    host.run("lab-target add-subsystem vol2 && lab-target link vol2 1")
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    host.run("systemctl restart discoverd.service", timeout=GENEROUS)
    assert host.run("systemctl show -P NRestarts discoverd.service").stdout.strip() == "0"
    scenario.wait_status(host, "3 controllers: 3 live")
    assert_whole(host, 3)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def emptied(content: bytes) -> bytes:
    return b""


def older(content: bytes) -> bytes:
    return content.replace(b" 1\n", b" 0\n", 1)


def newer(content: bytes) -> bytes:
    return content.replace(b" 1\n", b" 2\n", 1).replace(b'"version": 1', b'"version": 2')


def garbled(content: bytes) -> bytes:
    return random.Random(len(content)).randbytes(max(100, len(content)))


SPOILS = (truncated, emptied, older, newer, garbled)


@scenario.long
def test_state_files_that_cannot_be_read(host: Machine, allow_journal: Callable[[str], None]) -> None:
    # Workers that start before the supervisor has written their specification anew.
    allow_journal("no usable specification")
    allow_journal("Failed to start nvme-ctrl@")
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    for round_number, count in enumerate((3, 4)):
        spoil_and_kill(host, round_number, count)


def spoil_and_kill(host: Machine, round_number: int, count: int) -> None:
    """All state files are spoilt while so many controllers are live, and every process has to begin with them.

    Each in another way, and in the next round in yet another.
    """
    before = scenario.controllers(host)
    for number, path in enumerate(sorted(host.run("find /run/discoverd -type f").stdout.splitlines())):
        spoil = SPOILS[(number + 2 * round_number) % len(SPOILS)]
        host.put(path, spoil(host.read(path)), mode=0o600)

    host.run("systemctl kill -s KILL discoverd.service")
    scenario.wait_status(host, f"{count} controllers: {count} live")
    assert scenario.controllers(host) == before
    host.run("systemctl kill -s KILL 'nvme-ctrl@*'")

    expected = [DISCOVERY_UNIT, *(unit_name(volume) for volume in range(1, count))]

    def supervised() -> bool:
        units = scenario.units(host)
        found = [units[name] for name in expected if name in units]
        return len(found) == len(expected) and all(unit.active == "active" and "live" in unit.status for unit in found)

    host.wait_until(supervised, timeout=GENEROUS, what="each worker has read what it needs")
    scenario.wait_status(host, f"{count} controllers: {count} live")
    assert scenario.controllers(host) == before
    # What an administrator stops is still understood, and what the target adds.
    host.run(f"systemctl stop '{unit_name(2)}'", timeout=GENEROUS)
    host.run(f"lab-target add-subsystem vol{count} && lab-target link vol{count} 1")
    scenario.wait_status(host, f"{count + 1} controllers: {count} live, 1 stopped")
    host.run(f"systemctl start '{unit_name(2)}'", timeout=GENEROUS)
    scenario.wait_live(host, count + 1)
    scenario.wait_status(host, f"{count + 1} controllers: {count + 1} live")
    assert_whole(host, count + 1)
