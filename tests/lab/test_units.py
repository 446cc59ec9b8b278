# SPDX-License-Identifier: Apache-2.0
"""Units and their signals against the real systemd: its answers, and what it reads back of a unit that we made."""

import json
import re
from pathlib import Path

from discoverd.systemd.unit_properties import unit_properties
from discoverd.tid import IO, TransportId
from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, unit_name

# Nobody has this address. All that an NQN may have is in the second name.
ABSENT = "192.0.2.77"
ODD_NQN = "nqn.2024-08.com.example:a%n$b\\c~d'e@f"
ODD = f"""\
{scenario.ONE_DISCOVERY_CONTROLLER}
[Subsystem]
nqn = {ODD_NQN}
controller = transport=tcp;traddr={ABSENT};trsvcid=4420
"""
# How long it has run, and what it has used.
OF_THE_RUN = re.compile(r" ; start_time=.*")


def test_life_of_a_unit(host: Machine) -> None:
    host.put("/root/guest_units.py", Path(__file__).with_name("guest_units.py").read_text())
    result = json.loads(host.run("python3 /root/guest_units.py", timeout=240).stdout)
    assert result.pop("refused")
    assert result == {
        "start": ["started", "done", "loaded active"],
        "start again": ["running", "loaded active"],
        "stop": ["done", "loaded inactive"],
        "start the stopped one": ["started", "done", "loaded active"],
        "stop after the agent was replaced": ["done", "loaded inactive"],
        "released": None,
        "made stopped": ["started", "done", "loaded inactive"],
        "made again": ["running", "loaded inactive"],
        "released again": None,
    }


def shown(host: Machine, unit: str) -> dict[str, list[str]]:
    """What systemd has for each property that we set, in an order of its own."""
    tid = TransportId.make(IO, "tcp", ABSENT, "4420", ODD_NQN)
    names = {name for name, _, _ in unit_properties(tid, IO, "/placeholder")}
    text = host.run(["systemctl", "show", "-p", ",".join(sorted(names)), unit]).stdout
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = OF_THE_RUN.sub("", line).partition("=")
        values[name] = sorted(values.get(name, []) + value.split())
    return values


def test_a_reload_of_systemd_leaves_a_unit_as_it_was_made(host: Machine) -> None:
    """systemd keeps a transient unit in a file, and a reload reads that."""
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host, ODD)
    scenario.wait_live(host, 2)
    odd = TransportId.make(IO, "tcp", ABSENT, "4420", ODD_NQN).unit
    scenario.wait_unit(host, odd, "connecting")
    made = {unit: shown(host, unit) for unit in (unit_name(1), odd)}
    host.run("systemctl daemon-reload", timeout=GENEROUS)
    for unit, before in made.items():
        after = shown(host, unit)
        assert {name: (before[name], after[name]) for name in before if after[name] != before[name]} == {}
    host.run(["systemctl", "restart", unit_name(1)], timeout=GENEROUS)
    scenario.wait_live(host, 2)
    host.run(["systemctl", "restart", odd], timeout=GENEROUS)
    scenario.wait_unit(host, odd, "connecting")
