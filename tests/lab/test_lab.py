# SPDX-License-Identifier: Apache-2.0
"""The lab proves itself: what the scenarios lean on is there and does what it says."""

import json
import time
from pathlib import Path

import pytest

from tests.lab import evidence, journal, scenario
from tests.lab.machine import LabError, Machine

VOLUMES = [f"nqn.2024-08.com.example:vol{number}" for number in range(1, 5)]


def controllers(machine: Machine) -> list[str]:
    """State of each controller in the guest, in the kernel's words."""
    return machine.run("cat /sys/class/nvme/nvme*/state 2>/dev/null", check=False).stdout.split()


def test_boots_with_the_work_tree_installed(machine: Machine) -> None:
    assert machine.run("systemctl is-system-running").stdout == "running\n"
    assert machine.run("systemctl show -P LoadState discoverd.service").stdout == "loaded\n"
    assert machine.run("systemctl is-active discoverd.service", check=False).stdout == "inactive\n"
    assert machine.run("compgen -G '/usr/lib/python3/dist-packages/discoverd/__pycache__/*.pyc'").stdout


def test_runs_commands(machine: Machine) -> None:
    result = machine.run(["sh", "-c", "cat; echo bad >&2; exit 3"], data=b"\0\xff", check=False)
    assert (result.output, result.errors, result.returncode) == (b"\0\xff", b"bad\n", 3)
    with pytest.raises(LabError, match="status 3"):
        machine.run("exit 3")
    with pytest.raises(LabError, match="still running after 1 s"):
        machine.run("sleep 60", timeout=1)
    # Whatever a command leaves in the background does not hold up its answer.
    started = time.monotonic()
    machine.run("sleep 60 & echo started")
    assert time.monotonic() - started < 30


def test_moves_files(machine: Machine) -> None:
    data = bytes(range(256)) * 4096
    machine.put("/tmp/folder/file", data, mode=0o600)
    assert machine.read("/tmp/folder/file") == data
    assert machine.run("stat -c %a /tmp/folder/file").stdout == "600\n"
    with pytest.raises(LabError, match="No such file"):
        machine.read("/tmp/nothing")


def test_wait_until_says_what_did_not_happen(machine: Machine) -> None:
    with pytest.raises(LabError, match="still not so: a miracle"):
        machine.wait_until("false", timeout=1, what="a miracle")


def test_journal_arrives_on_the_host(machine: Machine) -> None:
    start = machine.journal_end()
    machine.run("systemd-run --wait --unit lab-says.service logger -p user.warning --id=$$ 'caf\u00e9 \u0001'")
    messages = [entry.message for entry in machine.journal(priority=4, since=start)]
    assert "café \x01" in messages
    assert machine.journal("lab-says.service", since=start)


def test_target_on_two_paths(host: Machine) -> None:
    host.run("lab-target up --subsystems 4")
    listed = json.loads(host.run("lab-target list").stdout)
    assert listed["subsystems"] == VOLUMES
    assert [port["traddr"] for port in listed["ports"].values()] == ["192.0.2.1", "198.51.100.1"]
    host.run("modprobe nvme-fabrics")
    for address in ("192.0.2.1", "198.51.100.1"):
        host.run(f"nvme connect-all -t tcp -a {address} -s 4420")
    assert controllers(host) == ["live"] * 8
    subsystems = json.loads(host.run("nvme list-subsys -o json").stdout)[0]["Subsystems"]
    assert {subsystem["NQN"]: len(subsystem["Paths"]) for subsystem in subsystems} == dict.fromkeys(VOLUMES, 2)
    disk = "/dev/disk/by-id/nvme-uuid.$(cat /sys/class/nvme-subsystem/*/nvme*n1/uuid | head -1)"
    host.wait_until(f"test -b {disk}")
    host.run(f"mkfs.ext4 -q {disk} && mount {disk} /mnt && echo kept >/mnt/file && umount /mnt")


def test_host_fixture_cleans_up(host: Machine) -> None:
    assert controllers(host) == []
    assert json.loads(host.run("lab-target list").stdout) == {"subsystems": [], "ports": {}}


@pytest.mark.parametrize("silent", [False, True])
def test_link_is_cut_and_restored(host: Machine, silent: bool) -> None:
    reach = "ping -c 1 -W 2 192.0.2.1 && ping -c 1 -W 2 2001:db8:1::1"
    host.wait_until(reach)
    host.cut_link("path0", silent=silent)
    assert host.run("ping -c 1 -W 1 192.0.2.1", check=False).returncode != 0
    host.run("ping -c 1 -W 5 198.51.100.1")
    assert host.run("cat /sys/class/net/path0/carrier").stdout == ("1\n" if silent else "0\n")
    host.restore_link("path0")
    host.wait_until(reach)


def test_authentication(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    hostnqn = host.read("/etc/nvme/hostnqn").decode().strip()
    key = host.run(f"nvme gen-dhchap-key -n {hostnqn}").stdout.strip()
    host.run(["lab-target", "host-key", "vol1", hostnqn, key])
    host.run("modprobe nvme-fabrics")
    connect = f"nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {VOLUMES[0]}"
    assert host.run(connect, check=False).returncode != 0
    host.run(f"{connect} --dhchap-secret={key}")
    assert controllers(host) == ["live"]


def test_many_subsystems_are_made_quickly(host: Machine) -> None:
    host.run("lab-target up --subsystems 64", timeout=30)
    assert len(json.loads(host.run("lab-target list").stdout)["ports"]["1"]["subsystems"]) == 64


@scenario.long
def test_reboot_keeps_the_disk_and_brings_the_target(fresh_machine: Machine) -> None:
    fresh_machine.put("/etc/lab-target.conf", 'TARGET="--subsystems 2"\n')
    before = fresh_machine.run("cat /proc/sys/kernel/random/boot_id").stdout
    fresh_machine.reboot()
    assert fresh_machine.run("cat /proc/sys/kernel/random/boot_id").stdout != before
    assert json.loads(fresh_machine.run("lab-target list").stdout)["subsystems"] == VOLUMES[:2]
    fresh_machine.poweroff()
    assert not fresh_machine.running
    assert "reboot: Power down" in fresh_machine.console()
    # What systemd said last is there although the machine is not.
    assert any(entry.message == "Shutting down." for entry in fresh_machine.journal())


def test_machine_that_does_not_power_off_tells_what_waits(host: Machine) -> None:
    levels = host.read("/proc/sys/kernel/printk").decode().strip()
    host.run("dmsetup create stuck --table '0 8 zero' && dmsetup suspend stuck")
    host.run("systemd-run --unit=stuck-reader dd if=/dev/mapper/stuck of=/dev/null iflag=direct count=1")
    try:
        host.wait_until("grep -q D.*disk /proc/$(pidof -s dd)/status", what="the reader waits for the device")
        with pytest.raises(LabError, match=r"(?s)not powered off after 1 s.*task:dd .*state:D"):
            host.wait_off(1)
    finally:
        host.run("dmsetup resume stuck")
        host.wait_until("! pidof dd", what="the reader ends")
        host.run("dmsetup remove --retry stuck")
        host.run(f"echo '{levels}' >/proc/sys/kernel/printk")


tries: list[Machine] = []


def test_scenario_whose_kernel_its_emulation_broke_runs_once_more(host: Machine) -> None:
    tries.append(host)
    if len(tries) == 1:
        host.run("printf '%s: 0000\\nKernel panic - not syncing\\n' 'Oops: int3' >/dev/ttyS0")
        host.wait_until(lambda: host.broken_by_emulation, what="it has said so")
        host.kill()
        pytest.fail("the first time")
    assert not host.broken_by_emulation
    assert host.run("systemctl is-active dbus.socket").stdout == "active\n"


def test_failed_scenario_leaves_evidence(machine: Machine) -> None:
    folder = evidence.keep("of evidence", machine)
    assert "discoverd.service" in (folder / "units.txt").read_text()
    assert "Linux version" in (folder / "journal.txt").read_text()
    assert "login" in (folder / "console.txt").read_text()


def line(unit: str, priority: int, message: str, field: str = "_SYSTEMD_UNIT") -> str:
    return json.dumps({field: unit, "PRIORITY": str(priority), "MESSAGE": message})


@pytest.mark.parametrize("field", ["_SYSTEMD_UNIT", "UNIT"])
def test_planted_error_is_found(tmp_path: Path, field: str) -> None:
    file = tmp_path / "journal.json"
    lines = [
        line("discoverd.service", 3, "planted", field),
        line("nvme-ctrl@tcp:192.0.2.1:4420:nqn.x.service", 2, "planted too", field),
        line("discoverd.service", 4, "a warning", field),
        line("sshd.service", 3, "of somebody else", field),
        line("discoverd.service", 3, "expected: no route", field),
    ]
    file.write_text("\n".join(lines) + '\n{"MESSAGE": "cut o')
    found = journal.unexpected(journal.read(file), ["^expected"])
    assert [entry.message for entry in found] == ["planted", "planted too"]


def test_messages_that_are_no_text() -> None:
    entry = journal.parse('{"MESSAGE": [99, 97, 102, 195, 169, 255], "PRIORITY": ["3", "4"], "UNIT": null}')
    assert entry is not None
    assert entry.message == "café\\xff"


def test_planted_error_in_the_guest_is_found(host: Machine, allow_journal: object) -> None:
    assert callable(allow_journal)
    allow_journal("^planted$")
    start = host.journal_end()
    host.run("systemd-run --wait --collect --unit nvme-ctrl@planted.service sh -c 'echo \"<3>planted\"'")
    assert [entry.message for entry in journal.unexpected(host.journal(since=start))] == ["planted"]
