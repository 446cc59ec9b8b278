# SPDX-License-Identifier: Apache-2.0
"""Fibre Channel from the kernel's announcement alone, beside TCP."""

import itertools

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY, GENEROUS, nqn

HOST = "nn-0x2000000000000001:pn-0x2000000000000002"
# The kernel's loop does not forget a port that it has had.
NUMBERS = itertools.count(1)


@pytest.fixture
def port() -> str:
    """The address of a port that no scenario has had before."""
    return f"nn-0x1000000000000000:pn-0x10000000000000{next(NUMBERS):02x}"


def fc_unit(port: str, subsystem: str) -> str:
    return f"nvme-ctrl@fc:{port}:{subsystem}:::{HOST}.service"


def properties(host: Machine, unit: str) -> dict[str, set[str]]:
    text = host.run(["systemctl", "show", "-p", "After,Before,Wants,Conflicts,DefaultDependencies", unit]).stdout
    return {name: set(value.split()) for name, _, value in (line.partition("=") for line in text.splitlines())}


def test_from_the_announcement_alone_beside_tcp(host: Machine, port: str) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 2)
    host.run(
        f"lab-target add-subsystem vol2 && lab-target add-port 2 {port} --transport fc && "
        "lab-target link vol1 2 && lab-target link vol2 2"
    )
    assert len(scenario.live(host)) == 2
    host.run(f"lab-target plug {port}")
    seconds = scenario.wait_live(host, 5)
    print(f"from the announcement to live: {seconds:.1f} s")
    expected = {
        fc_unit(port, DISCOVERY),
        fc_unit(port, nqn(1)),
        fc_unit(port, nqn(2)),
        scenario.DISCOVERY_UNIT,
        scenario.unit_name(1),
    }
    assert set(scenario.units(host)) == expected
    scenario.wait_unit(host, fc_unit(port, DISCOVERY), "3 entries in its log page")
    assert (
        f"it is announced by Fibre Channel port {port}"
        in host.run(["discoverctl", "why", fc_unit(port, DISCOVERY)]).stdout
    )

    # The order differs by the transport, on one host and for one subsystem.
    fc, tcp = properties(host, fc_unit(port, nqn(1))), properties(host, scenario.unit_name(1))
    assert fc["DefaultDependencies"] == {"no"}
    assert "network.target" not in fc["After"]
    assert "remote-fs-pre.target" not in fc["Before"] | fc["Wants"]
    assert {"local-fs-pre.target", "shutdown.target"} <= fc["Before"]
    assert "local-fs-pre.target" in fc["Wants"]
    assert "shutdown.target" in fc["Conflicts"]
    assert tcp["DefaultDependencies"] == {"yes"}
    assert "network.target" in tcp["After"]
    assert "remote-fs-pre.target" in tcp["Before"] & tcp["Wants"]
    assert "local-fs-pre.target" not in tcp["Before"]

    # A subsystem that is new on the port is heard of like one on TCP.
    host.run("lab-target add-subsystem vol3 && lab-target link vol3 2")
    scenario.wait_unit(host, fc_unit(port, nqn(3)), "live")


def test_a_port_that_goes_and_comes_back(host: Machine, port: str) -> None:
    host.run(f"lab-target up --subsystems 1 --transport fc --ports {port}")
    scenario.start(host, "")
    scenario.wait_live(host, 2)
    before = scenario.controllers(host)
    host.run(f"lab-target unplug {port}")
    for name in (fc_unit(port, DISCOVERY), fc_unit(port, nqn(1))):
        scenario.wait_unit(host, name, "reconnecting")
    host.run(f"lab-target plug {port}")
    seconds = scenario.wait_live(host, 2)
    print(f"from the port's return to live: {seconds:.1f} s")
    assert {name: row[2] for name, row in scenario.controllers(host).items()} == {
        name: row[2] for name, row in before.items()
    }, "the kernel reconnected, not we"


def test_a_port_that_comes_back_after_the_kernel_has_given_up(host: Machine, port: str) -> None:
    patience = "ctrl-loss-tmo = 5\nreconnect-delay = 1\n"
    host.run(f"lab-target up --subsystems 1 --transport fc --ports {port}")
    scenario.start(host, f"[Discovery Controller Defaults]\n{patience}[I/O Controller Defaults]\n{patience}")
    scenario.wait_live(host, 2)
    host.run(f"lab-target unplug {port}")
    for name in (fc_unit(port, DISCOVERY), fc_unit(port, nqn(1))):
        scenario.wait_unit(host, name, "waiting", timeout=2 * GENEROUS)
    print(scenario.unit(host, fc_unit(port, nqn(1))).status)
    host.run(f"lab-target plug {port}")
    seconds = scenario.wait_live(host, 2)
    print(f"from the port's return to live: {seconds:.1f} s")


def test_ports_that_were_there_before_discoverd(host: Machine, port: str) -> None:
    """The kernel is asked to announce them again, also by a supervisor that is started anew."""
    host.run(f"lab-target up --subsystems 1 --transport fc --ports {port}")
    host.put("/etc/nvme/discoverd.conf", "[Global]\nfibre-channel = no\n")
    scenario.start(host, "")
    host.run("sleep 5")
    assert scenario.controllers(host) == {}
    host.put("/etc/nvme/discoverd.conf", "[Global]\nfibre-channel = yes\n")
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)
    scenario.wait_live(host, 2)
    before = scenario.controllers(host)
    host.run("systemctl restart discoverd.service", timeout=GENEROUS)
    scenario.wait_status(host, "2 controllers: 2 live")
    assert scenario.controllers(host) == before
    why = host.run(["discoverctl", "why", fc_unit(port, DISCOVERY)]).stdout
    assert f"it is announced by Fibre Channel port {port}" in why


def test_an_administrators_stop_outlives_announcements(host: Machine, port: str) -> None:
    host.run(f"lab-target up --subsystems 1 --transport fc --ports {port}")
    scenario.start(host, "")
    scenario.wait_live(host, 2)
    host.run(["systemctl", "stop", fc_unit(port, DISCOVERY)], timeout=GENEROUS)
    host.run("echo add >/sys/class/fc/fc_udev_device/nvme_discovery; sleep 5")
    assert scenario.live(host) == [nqn(1)]
    assert scenario.unit(host, fc_unit(port, DISCOVERY)).active == "inactive"
    host.run(["systemctl", "start", fc_unit(port, DISCOVERY)], timeout=GENEROUS)
    scenario.wait_live(host, 2)


def test_events_of_other_devices_wake_nobody(host: Machine) -> None:
    scenario.start(host, "")
    host.run("sleep 2")
    wakings = (
        "cat /proc/$(systemctl show -P MainPID discoverd.service)/task/*/status | awk '/^volunt/{n+=$2} END{print n}'"
    )
    before = int(host.run(wakings).stdout)
    host.run("udevadm trigger --subsystem-match=mem --subsystem-match=tty && udevadm settle")
    after = int(host.run(wakings).stdout)
    # The events are about eighty.
    assert after - before < 10
