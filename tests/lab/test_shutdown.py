# SPDX-License-Identifier: Apache-2.0
"""Nothing that was written is lost when the host goes down or a unit is stopped, however the storage is used."""

from collections.abc import Callable

import pytest

from tests.lab import scenario, storage
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, unit_name

FC_HOST = "nn-0x2000000000000001:pn-0x2000000000000002"
TWO_PORTS = ("192.0.2.1:4420", "198.51.100.1:4420")


@pytest.fixture
def host(fresh_machine: Machine) -> Machine:
    return fresh_machine


@scenario.long
def test_plain(host: Machine) -> None:
    """Only a measure: what the machine takes to power off with nothing connected."""
    storage.TIMES.append(("nothing connected", host.poweroff()))


def test_harm_is_seen(host: Machine) -> None:
    """What the other scenarios trust: a controller that is deleted under a mount shows in the log and on the disk."""
    storage.prepare(host, 1)
    storage.use(host, ["ext4"])
    console, journal = len(host.console()), host.journal_end()
    host.run("echo 1 >$(echo /sys/class/nvme/nvme*)/delete_controller; sleep 2")
    storage.power_off(host, "ext4, its controller deleted before", harmless=False)
    assert storage.harmed(host, console, journal)
    with pytest.raises(AssertionError, match="was not unmounted"):
        storage.verify(host, 1)


def test_every_kind(host: Machine) -> None:
    kinds = [kind for kind in storage.KINDS if kind != "held"]
    count = sum(storage.KINDS[kind] for kind in kinds)
    storage.prepare(host, count)
    storage.use(host, kinds)
    storage.power_off(host, "every kind of storage")
    assert set(storage.verify(host, count)) == set(kinds)


def test_a_file_that_is_held_open(host: Machine) -> None:
    """By a process that goes on for 15 seconds after systemd has tried to unmount."""
    storage.prepare(host, 1)
    storage.use(host, ["held"])
    seconds = storage.power_off(host, "a file held open for 15 s")
    assert seconds > 15
    assert any("the system goes down; " in entry.message for entry in host.journal(unit_name(1)))
    storage.verify(host, 1)


def test_dead_target(host: Machine, allow_journal: Callable[[str], None]) -> None:
    """It cannot be clean; it says why it waits, and ends."""
    allow_journal("has been silent for|given up")
    storage.prepare(host, 1)
    storage.use(host, ["ext4"])
    host.cut_link("path0", silent=True)
    storage.power_off(host, "ext4, its target dead", harmless=False)
    messages = [entry.message for entry in host.journal(unit_name(1))]
    assert any("its target is silent" in message for message in messages)
    storage.verify(host, 1, clean=False)


def test_fibre_channel(fresh_machine: Machine) -> None:
    """Its mounts are local ones, and need no network."""
    host = fresh_machine
    address = "nn-0x1000000000000001:pn-0x1000000000000002"
    target = f"--subsystems 1 --size {storage.SIZE_MIB} --keep --transport fc --ports {address}"
    host.run(f"lab-target up {target}")
    host.put("/etc/lab-target.conf", f"TARGET={target}\n")
    scenario.start(
        host,
        f"[Subsystem]\nnqn = {scenario.nqn(1)}\ncontroller = transport=fc;traddr={address};host-traddr={FC_HOST}\n",
    )
    host.run("systemctl enable discoverd.service")
    # With the discovery controller that the port announces.
    scenario.wait_live(host, 2)
    storage.use(host, ["ext4"])
    assert "_netdev" not in host.run("cat /run/mount/utab 2>/dev/null || true").stdout
    storage.power_off(host, "ext4 on Fibre Channel")
    storage.verify(host, 2)


def test_stop_of_the_only_path(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("in use by /srv/ext4")
    allow_journal("Failed with result 'exit-code'")
    storage.prepare(host, 1)
    storage.use(host, ["ext4"])
    stopped = host.run(["systemctl", "stop", unit_name(1)], check=False, timeout=GENEROUS)
    print(stopped)
    shown = scenario.unit(host, unit_name(1))
    assert shown.active == "failed"
    assert "/srv/ext4" in shown.status
    assert scenario.live(host) == [scenario.nqn(1)]
    storage.wait_writing(host)
    host.run("systemctl kill -s KILL discoverd.service")
    host.run("sleep 5")
    assert scenario.unit(host, unit_name(1)).active == "failed", "nobody but an administrator starts it again"
    host.run(["systemctl", "start", unit_name(1)], timeout=GENEROUS)
    scenario.wait_unit(host, unit_name(1), "live")
    storage.wait_writing(host)
    storage.reboot(host)
    storage.verify(host, 1)


def test_stop_of_one_of_two_paths(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("in use by /srv/ext4")
    allow_journal("Failed with result 'exit-code'")
    storage.prepare(host, 1, TWO_PORTS)
    storage.use(host, ["ext4"])
    second = unit_name(1, "198.51.100.1")
    host.run(["systemctl", "stop", unit_name(1)], timeout=GENEROUS)
    assert scenario.unit(host, unit_name(1)).active == "inactive"
    scenario.wait_live(host, 1)
    storage.wait_writing(host)
    host.run(["systemctl", "start", unit_name(1)], timeout=GENEROUS)
    scenario.wait_live(host, 2)
    # Both at once: each has the other until one of them goes.
    host.run("systemctl stop 'nvme-ctrl@*'", check=False, timeout=GENEROUS)
    assert sorted(scenario.unit(host, name).active for name in (unit_name(1), second)) == ["failed", "inactive"]
    scenario.wait_live(host, 1)
    storage.wait_writing(host)
    host.run(["systemctl", "start", unit_name(1), second], timeout=GENEROUS)
    scenario.wait_live(host, 2)
    storage.power_off(host, "ext4 on two paths")
    storage.verify(host, 2)
