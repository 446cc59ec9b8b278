# SPDX-License-Identifier: Apache-2.0
"""A reload that systemctl says has failed, and what a mistake takes away at the next boot: nothing."""

from collections.abc import Callable

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, ONE_DISCOVERY_CONTROLLER

MISSPELT = ONE_DISCOVERY_CONTROLLER.replace("controller =", "controler =")
PLACE = "/etc/nvme/nvme-fabrics.conf:2:1: "


def test_reload_fails_and_names_the_mistake(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("the configuration has mistakes")
    allow_journal("nvme-fabrics.conf:2:")
    allow_journal("Reload failed|Control process exited")
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    before = scenario.controllers(host)
    # It is a package of its own, and need not be there.
    host.run("mv /usr/bin/kill /root/kill-away")
    try:
        host.run("systemctl reload discoverd.service", timeout=GENEROUS)
        scenario.configure(host, MISSPELT)
        refused = host.run("systemctl reload discoverd.service", check=False, timeout=GENEROUS)
    finally:
        host.run("mv /root/kill-away /usr/bin/kill")
    assert refused.returncode != 0
    assert host.run("systemctl is-active discoverd.service").stdout.strip() == "active"
    shown = host.run("systemctl status discoverd.service", check=False).stdout
    print(shown)
    assert f"not reloaded, and the configuration from before stays in force: {PLACE}" in shown
    scenario.wait_status(host, "; nothing was reloaded")
    assert scenario.status(host).startswith("3 controllers: 3 live; ")
    assert host.run("discoverd --check", check=False).returncode == 1
    assert host.run("discoverctl doctor", check=False).returncode == 1
    assert scenario.controllers(host) == before

    # When it returns, the new configuration is in force.
    scenario.configure(host)
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)
    scenario.wait_status(host, "3 controllers: 3 live")
    assert scenario.controllers(host) == before
    modes = host.run("stat -c %a /var/lib/discoverd /var/lib/discoverd/last-good").stdout.split()
    assert modes == ["700", "600"]


def test_misspelt_key_and_a_reboot(fresh_machine: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("nvme-fabrics.conf:2:")
    machine = fresh_machine
    machine.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(machine)
    scenario.wait_live(machine, 3)
    machine.wait_until("test -e /var/lib/discoverd/last-good", what="the configuration is kept")
    machine.run("systemctl enable discoverd.service")
    machine.put("/etc/lab-target.conf", "TARGET=--subsystems 2 --ports 192.0.2.1:4420\n")
    scenario.configure(machine, MISSPELT)
    machine.reboot()
    scenario.wait_live(machine, 3)
    scenario.wait_status(machine, "until that is mended, the file counts as it was on ")
    why = machine.run(f"discoverctl why {scenario.DISCOVERY}").stdout
    print(why)
    assert "as the file was before the mistake in line 2" in why
    assert "counts as it was on " in machine.run("discoverctl doctor", check=False).stdout


def test_var_that_cannot_be_written_costs_a_line_in_the_journal(
    host: Machine, allow_journal: Callable[[str], None]
) -> None:
    allow_journal("the next start cannot make up for a mistake in the configuration")
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    host.run("rm -rf /var/lib/discoverd && mount --bind /var/lib /var/lib && mount -o remount,bind,ro /var/lib")
    try:
        scenario.start(host)
        scenario.wait_live(host, 3)
        host.run("systemctl reload discoverd.service", timeout=GENEROUS)
        assert "Read-only file system" in host.run("journalctl --boot --unit=discoverd.service").stdout
        assert host.run("systemctl show --property=NRestarts --value discoverd.service").stdout.strip() == "0"
    finally:
        host.run("systemctl stop discoverd.service; umount --lazy /var/lib; systemd-tmpfiles --create discoverd.conf")
    host.run("systemctl start discoverd.service", timeout=GENEROUS)
    host.wait_until("test -e /var/lib/discoverd/last-good", what="the configuration is kept")
