# SPDX-License-Identifier: Apache-2.0
"""Overrides of the controllers' units: the drop-in that works, and the template that `systemctl edit` leaves."""

import json
from collections.abc import Callable, Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import nqn, unit_name

OVERRIDE = "[Service]\nCPUWeight=50\n"
TEMPLATE = "/etc/systemd/system/nvme-ctrl@.service"
SUBSYSTEM = "[Subsystem]\nnqn = {}\ncontroller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n"
ONE, BOTH = SUBSYSTEM.format(nqn(1)), SUBSYSTEM.format(nqn(1)) + SUBSYSTEM.format(nqn(2))


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    yield host
    host.run(f"rm -rf {TEMPLATE} {TEMPLATE}.d && systemctl daemon-reload")


def weight(host: Machine, volume: int) -> str:
    return host.run(f"systemctl show -P CPUWeight '{unit_name(volume)}'").stdout.strip()


def test_drop_in_applies_to_units_that_are_made(host: Machine) -> None:
    """As nvme-ctrl@.service(8) has it."""
    host.put(f"{TEMPLATE}.d/local.conf", OVERRIDE)
    host.run("systemctl daemon-reload")
    scenario.start(host, ONE)
    scenario.wait_live(host, 1)
    assert weight(host, 1) == "50"


def test_template_of_systemctl_edit_is_found_and_put_right(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("is a unit file, and beside it systemd makes no unit")
    scenario.start(host, ONE)
    scenario.wait_live(host, 1)
    host.put("/tmp/override", OVERRIDE)
    # What it proposes itself when there is no unit file.
    edit = "systemctl edit --force --full nvme-ctrl@.service"
    host.run(f"SYSTEMD_EDITOR='cp /tmp/override' script -qec '{edit}' /dev/null </dev/null")
    scenario.wait_status(host, f"{TEMPLATE} is a unit file")
    # What runs goes on, also through a restart of the daemon.
    scenario.configure(host, BOTH)
    host.run("systemctl restart discoverd.service", timeout=scenario.GENEROUS)
    scenario.wait_status(host, "1 live, 1 blocked")
    assert scenario.live(host) == [nqn(1)]
    why = host.run(f"discoverctl why '{unit_name(2)}'").stdout
    print(why)
    assert "administrator" not in why
    assert "blocked" in host.run("discoverctl list").stdout
    assert host.run(f"discoverctl start '{unit_name(2)}'", check=False).returncode == 1

    (found,) = json.loads(host.run("discoverctl status --json").stdout)["blocked_by"]
    print(found)
    assert found["path"] == TEMPLATE
    host.run(found["remedy"])
    scenario.wait_live(host, 2)
    assert weight(host, 2) == "50"
    assert "blocked" not in scenario.status(host)


def test_stopped_unit_can_be_started_beside_a_template(host: Machine, allow_journal: Callable[[str], None]) -> None:
    """It is loaded, with a file of its own, until the daemon is restarted."""
    allow_journal("is a unit file, and beside it systemd makes no unit")
    scenario.start(host, BOTH)
    scenario.wait_live(host, 2)
    host.run(f"systemctl stop '{unit_name(2)}'")
    scenario.wait_status(host, "1 stopped")
    host.put(TEMPLATE, OVERRIDE)
    host.run("systemctl daemon-reload")
    scenario.wait_status(host, f"{TEMPLATE} is a unit file")
    scenario.wait_status(host, "1 live, 1 stopped")
    host.run(f"systemctl start '{unit_name(2)}'")
    scenario.wait_live(host, 2)
    host.run(f"systemctl stop '{unit_name(2)}' && systemctl restart discoverd.service", timeout=scenario.GENEROUS)
    scenario.wait_status(host, "1 live, 1 blocked")
    host.run(f"rm {TEMPLATE} && systemctl daemon-reload")
    scenario.wait_status(host, "1 live, 1 stopped")
