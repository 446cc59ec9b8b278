# SPDX-License-Identifier: Apache-2.0
"""One controller, one unit: started, listed, stopped, started and restarted with systemctl."""

import json
import time

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY, DISCOVERY_UNIT, GENEROUS, unit_name


def test_one_discovery_controller_brings_sixteen_subsystems(host: Machine) -> None:
    host.run("lab-target up --subsystems 16 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 17)
    scenario.wait_status(host, "17 controllers: 17 live")

    units = scenario.units(host)
    assert set(units) == {DISCOVERY_UNIT, *(unit_name(volume) for volume in range(1, 17))}
    assert {(unit.active, unit.sub) for unit in units.values()} == {("active", "running")}
    assert all(unit.status.startswith("live nvme") for unit in units.values())
    assert "17 entries in its log page (generation " in units[DISCOVERY_UNIT].status

    registry = scenario.registry(host)
    kernel = scenario.controllers(host)
    assert registry.keys() == kernel.keys()
    for device, entry in registry.items():
        assert entry.keys() == {"owner", "seqnum", "unit"}
        assert entry["owner"] == "nvme-ctrl"
        assert entry["seqnum"].isdigit()
        assert kernel[device][0] in entry["unit"]
    modes = host.run("stat -c '%a %U' /run/nvme/registry /run/nvme/registry/nvme0 /run/nvme/registry/nvme0/*").stdout
    assert modes.split("\n")[:-1] == ["755 root", "755 root", "644 root", "644 root", "644 root"]
    assert host.read("/run/nvme/registry/nvme0/owner") == b"nvme-ctrl\n"

    # nvme-cli sees the same controllers.
    subsystems = json.loads(host.run("nvme list-subsys -o json").stdout)[0]["Subsystems"]
    seen = {subsystem["NQN"]: [path["State"] for path in subsystem["Paths"]] for subsystem in subsystems}
    assert seen == {DISCOVERY: ["live"]} | {scenario.nqn(volume): ["live"] for volume in range(1, 17)}

    listed = host.run("systemctl list-units 'nvme-ctrl@*' --no-legend --plain").stdout
    print(listed)
    assert len(listed.splitlines()) == 17


def test_a_stopped_controller_stays_stopped(host: Machine) -> None:
    host.run("lab-target up --subsystems 4 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 5)
    before = scenario.controllers(host)

    host.run(f"systemctl stop '{unit_name(2)}'", timeout=GENEROUS)
    after = scenario.controllers(host)
    gone = before.keys() - after.keys()
    assert {before[device][0] for device in gone} == {scenario.nqn(2)}
    assert all(before[device] == after[device] for device in after)
    host.wait_until(lambda: scenario.registry(host).keys() == after.keys(), what="the registry entry is gone")
    scenario.wait_status(host, "4 live, 1 stopped")

    # A discovery event, a reload and a restart of the daemon bring back all kinds of things, and not this one.
    host.run("lab-target add-subsystem vol5 && lab-target link vol5 1")
    scenario.wait_live(host, 5)
    host.run("systemctl reload discoverd.service && systemctl restart discoverd.service", timeout=GENEROUS)
    scenario.wait_status(host, "6 controllers: 5 live, 1 stopped")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        assert scenario.nqn(2) not in scenario.live(host)
        time.sleep(2)
    stopped = scenario.unit(host, unit_name(2))
    assert (stopped.load, stopped.active) == ("loaded", "inactive")

    host.run(f"systemctl start '{unit_name(2)}'", timeout=GENEROUS)
    scenario.wait_live(host, 6)
    scenario.wait_status(host, "6 controllers: 6 live")


def test_restart_of_every_path_of_one_subsystem(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420 198.51.100.1:4420")
    scenario.start(
        host,
        scenario.ONE_DISCOVERY_CONTROLLER + "controller = transport=tcp;traddr=198.51.100.1;trsvcid=4420\n",
    )
    scenario.wait_live(host, 6)
    scenario.wait_status(host, "6 controllers: 6 live")
    before = scenario.controllers(host)
    host.run(f"systemctl restart 'nvme-ctrl@*:{scenario.nqn(1)}.service'", timeout=GENEROUS)
    scenario.wait_live(host, 6)
    after = scenario.controllers(host)

    def inodes(controllers: dict[str, tuple[str, str, str]], nqn: str) -> set[str]:
        return {inode for found, _, inode in controllers.values() if found == nqn}

    assert len(inodes(after, scenario.nqn(1))) == 2
    assert not inodes(before, scenario.nqn(1)) & inodes(after, scenario.nqn(1))
    assert inodes(before, scenario.nqn(2)) == inodes(after, scenario.nqn(2))


def test_stopping_discoverd_leaves_every_connection(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    before = scenario.controllers(host)
    host.run("systemctl stop discoverd.service", timeout=GENEROUS)
    assert scenario.controllers(host) == before
    assert {unit.active for unit in scenario.units(host).values()} == {"active"}
    # Without the daemon a unit can still be stopped, and a daemon that starts later respects it.
    host.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
    host.run("systemctl start discoverd.service", timeout=GENEROUS)
    scenario.wait_status(host, "3 controllers: 2 live, 1 stopped")
    host.run(f"systemctl start '{unit_name(1)}'", timeout=GENEROUS)
    scenario.wait_live(host, 3)


def test_a_configured_subsystem_on_ipv6_and_by_name(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports '[2001:db8:1::1]:4420' 192.0.2.1:4420")
    host.run("echo '192.0.2.1 array.example' >>/etc/hosts")
    scenario.start(
        host,
        f"""\
[Subsystem]
nqn = {scenario.nqn(1)}
controller = transport=tcp;traddr=2001:db8:1:0:0:0:0:1
controller = transport=tcp;traddr=array.example;host-iface=path0
""",
    )
    scenario.wait_live(host, 2)
    assert set(scenario.units(host)) == {
        f"nvme-ctrl@tcp:2001:db8:1::1:4420:{scenario.nqn(1)}.service",
        f"nvme-ctrl@tcp:192.0.2.1:4420:{scenario.nqn(1)}::path0.service",
    }
    host.run("sed -i /array.example/d /etc/hosts")


def test_every_line_of_the_journal_names_its_controller(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 2)
    host.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
    scenario.wait_status(host, "1 stopped")
    about = f"tcp:192.0.2.1:4420:{scenario.nqn(1)}"
    lines = host.run(f"journalctl -b -o json NVME_CTRL={about}").stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    assert {"nvme-ctrl", "discoverd"} <= {entry["SYSLOG_IDENTIFIER"] for entry in entries}
    wrong = [entry["MESSAGE"] for entry in entries if about not in entry["MESSAGE"]]
    assert not wrong
    assert {entry["NVME_SUBSYSNQN"] for entry in entries} == {scenario.nqn(1)}


def test_ordering_of_a_unit(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 2)
    shown = host.run(f"systemctl show -p After,Before,Wants,Conflicts,Restart '{unit_name(1)}'").stdout
    properties = {line.split("=", 1)[0]: line.split("=", 1)[1].split() for line in shown.splitlines()}
    assert "network.target" in properties["After"]
    assert "remote-fs-pre.target" in properties["Before"]
    assert "remote-fs-pre.target" in properties["Wants"]
    assert "shutdown.target" in properties["Conflicts"]
    assert properties["Restart"] == ["on-failure"]
