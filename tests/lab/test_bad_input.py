# SPDX-License-Identifier: Apache-2.0
"""What bad input gets: a clear error with place and remedy, and everything else keeps working."""

from collections.abc import Callable

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, GENEROUS, unit_name


def test_broken_configuration_at_start_and_at_reload(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("nvme-fabrics.conf")
    allow_journal("the configuration has mistakes")
    allow_journal("Reload failed|Control process exited")
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    host.put(
        "/etc/nvme/nvme-fabrics.conf.d/broken.conf",
        f"[Subsystem]\nnqn = {scenario.nqn(2)}\ncontroller = transport=tcp;traddr=192.0.2.1;colour=red\n",
    )
    scenario.start(host)
    # The good file is served; the broken one is told with its place.
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "/etc/nvme/nvme-fabrics.conf.d/broken.conf:3:")
    checked = host.run("discoverd --check", check=False)
    assert checked.returncode == 1
    assert "broken.conf:3:" in checked.stdout

    host.run("rm /etc/nvme/nvme-fabrics.conf.d/broken.conf && systemctl reload discoverd.service", timeout=GENEROUS)
    host.wait_until(lambda: "broken" not in scenario.status(host), what="the complaint is gone")
    before = scenario.controllers(host)
    # An inline comment, in the main file this time: what was good before stays.
    scenario.configure(host, "[Discovery Controller]\nkeep-alive-tmo = 30 # seconds\n")
    assert host.run("systemctl reload discoverd.service", check=False, timeout=GENEROUS).returncode != 0
    scenario.wait_status(host, "/etc/nvme/nvme-fabrics.conf:2:")
    print(scenario.status(host))
    assert scenario.status(host).startswith("3 controllers: 3 live; ")
    assert scenario.controllers(host) == before
    host.run("lab-target add-subsystem vol3 && lab-target link vol3 1")
    scenario.wait_live(host, 4)


def test_names_addresses_and_nqns_that_cannot_be(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("nvme-fabrics.conf.d/")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    directory = "/etc/nvme/nvme-fabrics.conf.d"
    host.put(f"{directory}/nqn.conf", "[Subsystem]\nnqn = nqn.2024-13.com.example:x\n")
    host.put(
        f"{directory}/entries.conf",
        f"[Subsystem]\nnqn = {scenario.nqn(1)}\n"
        "controller = transport=tcp;traddr=no-such-host.invalid\n"
        "controller = transport=tcp;traddr=192.0.2.1;host-traddr=2001:db8::2\n",
    )
    scenario.start(host)
    scenario.wait_live(host, 2)
    host.run("journalctl --sync")
    text = host.run("journalctl -b -u discoverd.service -o cat").stdout
    assert "nqn.conf:2:" in text
    assert "month" in text
    assert "no-such-host.invalid" in text
    assert "entries.conf:4" in text
    print(scenario.status(host))
    scenario.wait_status(host, "2 controllers: 2 live; ")


def test_missing_host_nqn(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("/etc/nvme/hostnqn")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    # It would make one.
    host.run("systemctl mask --runtime discoverd-identity.service && mv /etc/nvme/hostnqn /etc/nvme/hostid /root/")
    try:
        scenario.start(host)
        scenario.wait_status(host, "nvme gen-hostnqn > /etc/nvme/hostnqn")
        assert not scenario.units(host)
    finally:
        host.run("mv /root/hostnqn /root/hostid /etc/nvme/; systemctl unmask --runtime discoverd-identity.service")
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)
    scenario.wait_live(host, 2)
    scenario.wait_status(host, "2 controllers: 2 live")


def test_missing_fabrics_device(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run("modprobe nvme-fabrics && mv /dev/nvme-fabrics /dev/hidden")
    try:
        scenario.start(host)
        scenario.wait_unit(host, DISCOVERY_UNIT, "/dev/nvme-fabrics is missing: load the module nvme-fabrics")
    finally:
        host.run("mv /dev/hidden /dev/nvme-fabrics")
    scenario.wait_live(host, 2)


def test_full_run(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("No space left on device")
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    before = scenario.controllers(host)
    full = "/run/discoverd/controllers"
    host.run(f"mount -t tmpfs -o size=4k,mode=700 full {full}; cat /dev/zero >{full}/fill || true")
    try:
        host.run("systemctl restart discoverd.service", timeout=GENEROUS)
        host.run("lab-target add-subsystem vol3 && lab-target link vol3 1")
        scenario.wait_status(host, "No space left on device")
        print(scenario.status(host))
        assert scenario.controllers(host) == before
    finally:
        host.run(f"umount {full}")
    host.run("systemctl restart discoverd.service", timeout=GENEROUS)
    scenario.wait_live(host, 4)


def test_masked_unit(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    host.run(f"systemctl mask --runtime '{unit_name(1)}'")
    try:
        scenario.start(host)
        scenario.wait_live(host, 2)
        scenario.wait_status(host, "3 controllers: 2 live, 1 left alone")
        assert scenario.live(host) == sorted([scenario.DISCOVERY, scenario.nqn(2)])
    finally:
        host.run(f"systemctl unmask --runtime '{unit_name(1)}'")


def test_somebody_elses_controller_is_left_alone(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    host.run(f"modprobe nvme-tcp && nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {scenario.nqn(1)}")
    host.run("mkdir -p /run/nvme/registry/nvme0 && echo orchestrator >/run/nvme/registry/nvme0/owner")
    # One that nobody owns and that we want is adopted as it is.
    host.run(f"nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {scenario.nqn(2)}")
    before = scenario.controllers(host)
    scenario.start(host)
    scenario.wait_live(host, 3)
    scenario.wait_unit(host, unit_name(1), "left alone: nvme0 belongs to orchestrator")
    scenario.wait_unit(host, unit_name(2), "live nvme1")
    scenario.wait_status(host, "3 controllers: 2 live, 1 left alone")
    assert scenario.registry(host)["nvme0"] == {"owner": "orchestrator"}
    assert scenario.registry(host)["nvme1"]["owner"] == "nvme-ctrl"
    host.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
    assert all(scenario.controllers(host)[device] == row for device, row in before.items())


def test_registry_entries_of_the_past(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run("mkdir -p /run/nvme/registry/nvme0 && cd /run/nvme/registry/nvme0 && echo stas >owner && echo 1 >seqnum")
    scenario.start(host)
    # nvme0 is ours now, whatever an earlier nvme0 was.
    scenario.wait_live(host, 2)
    host.wait_until(
        lambda: {entry.get("owner") for entry in scenario.registry(host).values()} == {"nvme-ctrl"},
        what="the stale entry is replaced",
    )
