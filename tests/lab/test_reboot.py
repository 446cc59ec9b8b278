# SPDX-License-Identifier: Apache-2.0
"""A host that boots with discoverd enabled."""

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, unit_name


def test_controllers_come_back_after_a_reboot(fresh_machine: Machine) -> None:
    machine = fresh_machine
    machine.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(machine)
    scenario.wait_live(machine, 3)
    machine.run("systemctl enable discoverd.service")
    machine.put("/etc/lab-target.conf", "TARGET=--subsystems 2 --ports 192.0.2.1:4420\n")
    # A stop by the administrator holds until the next boot.
    machine.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
    machine.reboot()
    scenario.wait_live(machine, 3)
    scenario.wait_status(machine, "3 controllers: 3 live")
    machine.poweroff()
