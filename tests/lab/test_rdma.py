# SPDX-License-Identifier: Apache-2.0
"""RDMA as TCP: found, connected, ordered and brought back the same way; the transport is part of the identity."""

from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY, GENEROUS, nqn

ADDRESS, HOST_ADDRESS = "203.0.113.1", "203.0.113.2"
TARGET = f"lab-target up --transport rdma --ports {ADDRESS}:4420 --subsystems"
CONTROLLER = f"[Discovery Controller]\ncontroller = transport=rdma;traddr={ADDRESS}\n"
DISCOVERY_UNIT = f"nvme-ctrl@rdma:{ADDRESS}:4420:{DISCOVERY}.service"
# The software RDMA of the kernel forgets a message that meets a dead cable, and its sender waits 80 s for an answer.
PATIENT = 240


def unit_name(volume: int) -> str:
    return f"nvme-ctrl@rdma:{ADDRESS}:4420:{nqn(volume)}.service"


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    yield host
    host.run("ip link set port0 up")


def test_discovery_to_a_mount(host: Machine) -> None:
    host.run(f"{TARGET} 2")
    scenario.start(host, CONTROLLER)
    scenario.wait_live(host, 3)
    assert set(scenario.units(host)) == {DISCOVERY_UNIT, unit_name(1), unit_name(2)}
    scenario.wait_unit(host, DISCOVERY_UNIT, "3 entries in its log page")
    scenario.wait_status(host, "3 controllers: 3 live")
    shown = host.run(["systemctl", "show", "-p", "After", "-p", "Before", "-p", "Wants", unit_name(1)]).stdout
    after, before, wants = (next(row for row in shown.splitlines() if row.startswith(key)) for key in ("A", "B", "W"))
    assert "network.target" in after
    assert "remote-fs-pre.target" in before
    assert "remote-fs-pre.target" in wants

    host.run(
        "device=/dev/disk/by-id/nvme-uuid.$(cat /sys/class/nvme-subsystem/*/nvme*n1/uuid | head -1); "
        "mkfs.ext4 -q $device && mkdir -p /srv/rdma && mount $device /srv/rdma && echo hello >/srv/rdma/file && sync"
    )
    try:
        host.wait_until("grep -q _netdev /run/mount/utab", what="the mount is known to need the network")
        host.wait_until(
            "systemctl show -P Before srv-rdma.mount | grep -qw remote-fs.target", what="systemd orders it so"
        )
        # A worker that is killed changes nothing under the mount.
        inode = scenario.controllers(host)
        host.run(["systemctl", "kill", "-s", "KILL", unit_name(1), unit_name(2), DISCOVERY_UNIT])
        host.wait_until(
            lambda: sum(unit.active == "active" and unit.main_pid > 0 for unit in scenario.units(host).values()) == 3,
            timeout=GENEROUS,
            what="the workers are back",
        )
        for name in (unit_name(1), unit_name(2)):
            scenario.wait_unit(host, name, "live")
        assert scenario.controllers(host) == inode
        assert host.run("cat /srv/rdma/file").stdout == "hello\n"
    finally:
        host.run("umount /srv/rdma")


def test_a_source_address_is_part_of_the_identity(host: Machine) -> None:
    host.run(f"{TARGET} 1")
    scenario.start(host, CONTROLLER.replace(ADDRESS, f"{ADDRESS};host-traddr={HOST_ADDRESS}"))
    scenario.wait_live(host, 2)
    name = unit_name(1).replace(".service", f":::{HOST_ADDRESS}.service")
    before = scenario.controllers(host)
    host.run(["systemctl", "kill", "-s", "KILL", name])
    host.wait_until(
        lambda: scenario.unit(host, name).active == "active" and "live" in scenario.unit(host, name).status,
        timeout=GENEROUS,
        what="the worker is back",
    )
    assert any("adopted" in entry.message for entry in host.journal(name))
    assert scenario.controllers(host) == before


def test_one_subsystem_over_rdma_and_tcp_has_two_units(host: Machine) -> None:
    host.run(f"{TARGET} 1 && lab-target add-port 2 192.0.2.1:4420 && lab-target link vol1 2")
    scenario.start(
        host,
        CONTROLLER + f"[Subsystem]\nnqn = {nqn(1)}\ncontroller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n",
    )
    scenario.wait_live(host, 3)
    assert scenario.live(host).count(nqn(1)) == 2
    assert set(scenario.units(host)) == {DISCOVERY_UNIT, unit_name(1), scenario.unit_name(1)}
    host.run(["systemctl", "stop", unit_name(1)], timeout=GENEROUS)
    scenario.wait_live(host, 2)
    assert "live" in scenario.unit(host, scenario.unit_name(1)).status
    assert scenario.unit(host, unit_name(1)).active == "inactive"


def test_a_cable_that_is_pulled_and_put_back(host: Machine) -> None:
    host.run(f"{TARGET} 1")
    patience = "reconnect-delay = 1\nkeep-alive-tmo = 5\n"
    scenario.start(
        host, f"[Discovery Controller Defaults]\n{patience}[I/O Controller Defaults]\n{patience}{CONTROLLER}"
    )
    scenario.wait_live(host, 2)
    before = scenario.controllers(host)
    host.run("ip link set port0 down")
    for name in (DISCOVERY_UNIT, unit_name(1)):
        scenario.wait_unit(host, name, "reconnecting")
    host.run("ip link set port0 up")
    seconds = scenario.wait_live(host, 2, timeout=PATIENT)
    print(f"from the cable's return to live: {seconds:.1f} s")
    assert {name: row[2] for name, row in scenario.controllers(host).items()} == {
        name: row[2] for name, row in before.items()
    }, "the kernel reconnected, not we"
    scenario.wait_status(host, "2 controllers: 2 live")


def test_a_target_that_comes_late(host: Machine) -> None:
    host.run("lab-network rdma")
    scenario.start(host, CONTROLLER)
    scenario.wait_unit(host, DISCOVERY_UNIT, "waiting")
    print(scenario.unit(host, DISCOVERY_UNIT).status)
    host.run(f"{TARGET} 1")
    seconds = scenario.wait_live(host, 2, timeout=PATIENT)
    print(f"from the target's start to live: {seconds:.1f} s")
