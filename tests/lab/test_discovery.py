# SPDX-License-Identifier: Apache-2.0
"""Discovery log pages and their events, from a real target."""

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, unit_name


def test_a_new_subsystem_is_connected_and_a_removed_one_is_told(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    host.run("lab-target add-subsystem vol3 && lab-target link vol3 1")
    seconds = host.wait_until(lambda: scenario.nqn(3) in scenario.live(host), timeout=60, what="vol3 is live")
    print(f"from the link on the target to live: {seconds:.1f} s")
    scenario.wait_unit(host, DISCOVERY_UNIT, "4 entries in its log page")

    host.run("lab-target unlink vol3 1")
    scenario.wait_unit(host, unit_name(3), f"no longer listed in the log page of {DISCOVERY_UNIT[10:-8]}")
    scenario.wait_unit(host, DISCOVERY_UNIT, "3 entries in its log page")
    # Nothing is disconnected because of it.
    assert scenario.unit(host, unit_name(3)).active == "active"

    host.run("lab-target link vol3 1")
    scenario.wait_unit(host, unit_name(3), "live")
    host.wait_until(lambda: "no longer" not in scenario.unit(host, unit_name(3)).status, what="the note is gone")


def test_a_lost_discovery_controller_is_read_again(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(
        host,
        "[Discovery Controller Defaults]\nreconnect-delay = 1\nkeep-alive-tmo = 5\n"
        "[I/O Controller Defaults]\nreconnect-delay = 1\nkeep-alive-tmo = 5\n" + scenario.ONE_DISCOVERY_CONTROLLER,
    )
    scenario.wait_live(host, 2)
    before = scenario.controllers(host)
    host.cut_link("path0")
    # The event for this one is lost with the connection.
    host.run("lab-target add-subsystem vol2 && lab-target link vol2 1")
    scenario.wait_unit(host, DISCOVERY_UNIT, "reconnecting")
    host.restore_link("path0")
    scenario.wait_live(host, 3)
    after = scenario.controllers(host)
    assert all(after[device][2] == row[2] for device, row in before.items()), "the kernel reconnected, not we"
