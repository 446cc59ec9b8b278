# SPDX-License-Identifier: Apache-2.0
"""Discovery controllers that point to others, on several ports of a real target."""

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import unit_name

PORTS = " ".join(f"192.0.2.1:{port}" for port in range(4420, 4424))
ROOT = "[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n"
# A port where nobody listens costs a referral's unit its wait, and nobody else anything.
NOBODY = "192.0.2.1:4499"


def discovery_unit(port: int) -> str:
    return f"nvme-ctrl@tcp:192.0.2.1:{port}:{scenario.DISCOVERY}.service"


def volume_unit(volume: int, port: int) -> str:
    return f"nvme-ctrl@tcp:192.0.2.1:{port}:{scenario.nqn(volume)}.service"


def test_a_chain_and_a_ring(host: Machine) -> None:
    host.run(f"lab-target up --subsystems 0 --ports {PORTS}")
    for number in (1, 2, 3, 4):
        host.run(f"lab-target add-subsystem vol{number} && lab-target link vol{number} {number}")
    # 1 -> 2 -> 3 -> 1, and 3 -> nobody.
    host.run("lab-target refer 1 192.0.2.1:4421 && lab-target refer 2 192.0.2.1:4422")
    host.run(f"lab-target refer 3 192.0.2.1:4420 && lab-target refer 3 {NOBODY}")
    scenario.start(host, ROOT)
    scenario.wait_live(host, 6)
    for port, volume in ((4420, 1), (4421, 2), (4422, 3)):
        scenario.wait_unit(host, discovery_unit(port), "in its log page")
        scenario.wait_unit(host, volume_unit(volume, port), "live")
    scenario.wait_unit(host, discovery_unit(4499), "connection refused")
    assert len(scenario.units(host)) == 7
    why = host.run(f"discoverctl why '{volume_unit(3, 4422)}'").stdout
    assert f"listed in the log page of {discovery_unit(4422)[10:-8]}" in why, why

    # One more link of the chain, while everything runs: the event leads to it.
    host.run("lab-target refer 2 192.0.2.1:4423")
    scenario.wait_unit(host, volume_unit(4, 4423), "live")

    # Nobody asks for the first any more: the ring does not keep itself wanted, and nothing is disconnected.
    before = scenario.controllers(host)
    scenario.configure(host, "")
    host.run("systemctl reload discoverd.service")
    scenario.wait_unit(host, discovery_unit(4420), "no longer configured")
    host.run("lab-target add-subsystem vol5 && lab-target link vol5 2")
    scenario.wait_unit(host, discovery_unit(4421), "in its log page")
    host.run("sleep 5")
    assert volume_unit(5, 4421) not in scenario.units(host), "what only an unwanted ring lists was connected"
    assert scenario.controllers(host) == before

    # Asked for again, it all is.
    scenario.configure(host, ROOT)
    host.run("systemctl reload discoverd.service")
    scenario.wait_unit(host, volume_unit(5, 4421), "live")


def test_a_referral_is_given_up_and_taken_up_again(host: Machine) -> None:
    host.put("/etc/nvme/discoverd.conf", "[Global]\ngive-up = 5s\n")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run(f"lab-target refer 1 {NOBODY}")
    scenario.start(host, ROOT)
    scenario.wait_live(host, 2)
    host.wait_until(
        lambda: "given up after 5 s" in host.run(f"discoverctl why '{discovery_unit(4499)}'").stdout, what="given up"
    )
    assert scenario.unit(host, discovery_unit(4499)).active == "inactive"
    # What else the page lists is unharmed, and a new page is a new reason.
    host.run("lab-target add-port 2 192.0.2.1:4499 && lab-target add-subsystem vol2 && lab-target link vol2 2")
    host.run("lab-target add-subsystem vol3 && lab-target link vol3 1")
    scenario.wait_unit(host, unit_name(3), "live")
    scenario.wait_unit(host, volume_unit(2, 4499), "live")
