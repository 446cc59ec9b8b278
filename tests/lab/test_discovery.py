# SPDX-License-Identifier: Apache-2.0
"""Discovery log pages and their events, from a real target."""

import re

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, unit_name


def test_a_new_subsystem_is_connected_and_a_removed_one_is_withdrawn(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    host.run("lab-target add-subsystem vol3 && lab-target link vol3 1")
    seconds = host.wait_until(lambda: scenario.nqn(3) in scenario.live(host), timeout=60, what="vol3 is live")
    print(f"from the link on the target to live: {seconds:.1f} s")
    scenario.wait_unit(host, DISCOVERY_UNIT, "4 entries in its log page")

    host.run("lab-target unlink vol3 1")
    seconds = scenario.wait_live(host, 3)
    print(f"from the unlink on the target to the disconnect: {seconds:.1f} s")
    host.wait_until(lambda: unit_name(3) not in scenario.units(host), what="the unit is gone")
    said = [entry.message for entry in host.journal(unit_name(3))]
    page = rf"log page of {re.escape(DISCOVERY_UNIT[10:-8])} \(generation \d+\)"
    assert any(re.search(rf"disconnected nvme\d+: it is no longer listed in the {page}", text) for text in said), said

    host.run("lab-target link vol3 1")
    scenario.wait_live(host, 4)


def list_volumes(host: Machine, *volumes: int, listed: bool) -> None:
    """Have the target leave subsystems out of this host's log page, or list them again, and keep serving them."""
    for volume in volumes:
        host.run(f"echo {listed:d} >/sys/kernel/config/nvmet/subsystems/{scenario.nqn(volume)}/attr_allow_any_host")


def test_controller_in_use_or_of_others_is_not_withdrawn(host: Machine) -> None:
    host.run("lab-target up --subsystems 3 --ports 192.0.2.1:4420")
    host.run(f"modprobe nvme-tcp && nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {scenario.nqn(2)}")
    # Two of three at once are meant.
    host.put("/etc/nvme/discoverd.conf", "[Global]\ndisconnect-share = 100%\n")
    scenario.start(host)
    scenario.wait_live(host, 4)
    host.run("lab-storage use ext4=vol1")
    before = scenario.controllers(host)
    list_volumes(host, 1, 2, listed=False)
    scenario.wait_unit(host, unit_name(1), "and stays: in use by")
    scenario.wait_unit(host, unit_name(2), "and stays: others connected it")
    assert scenario.controllers(host) == before

    list_volumes(host, 1, 2, listed=True)
    for volume in (1, 2):
        host.wait_until(
            lambda volume=volume: "no longer" not in scenario.unit(host, unit_name(volume)).status,  # type: ignore[misc]
            what="the note is gone",
        )
    assert scenario.controllers(host) == before


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
