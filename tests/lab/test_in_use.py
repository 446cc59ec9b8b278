# SPDX-License-Identifier: Apache-2.0
"""A disconnect and who uses the disk in that very moment: mounts, processes without a claim, paths that are dead."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.lab import scenario, storage
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn, unit_name

ROUNDS = 50
UNIT = unit_name(1)
INSTANCE = f"tcp:192.0.2.1:4420:{nqn(1)}"
LISTED = f"/sys/kernel/config/nvmet/subsystems/{nqn(1)}/attr_allow_any_host"
# A stop takes a second or two; one that waits for a lock takes minutes.
BRIEF = 20


def refusals(allow_journal: Callable[[str], None]) -> None:
    allow_journal("in use by ")
    allow_journal("Failed with result 'exit-code'")


def disk(host: Machine) -> str:
    """The disk of vol1, which is there already."""
    name = next(name for name, row in scenario.controllers(host).items() if row[0] == nqn(1))
    path = host.run(f"basename /sys/class/nvme/{name}/nvme*c*n1").stdout.strip()
    found = f"/dev/{path.partition('c')[0]}n1"
    host.wait_until(f"test -b {found}", what="the disk is there")
    return found


def start(host: Machine) -> None:
    """A target and discoverd. With one subsystem only, a page without it would be none that lists anything."""
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)


def test_a_mount_in_the_moment_of_the_disconnect(host: Machine, allow_journal: Callable[[str], None]) -> None:
    refusals(allow_journal)
    start(host)
    host.put("/root/guest_mounts.py", Path(__file__).with_name("guest_mounts.py").read_text())
    console, journal = len(host.console()), host.journal_end()
    done = host.run(["python3", "/root/guest_mounts.py", str(ROUNDS), nqn(1), INSTANCE], timeout=400)
    print(done.stdout)
    for outcomes in json.loads(done.stdout)["outcomes"].values():
        assert set(outcomes) == {"mounted", "EBUSY"}
    said = storage.harmed(host, console, journal)
    assert not said, "\n".join(said)


def test_processes_without_a_claim_and_locks_of_others(host: Machine, allow_journal: Callable[[str], None]) -> None:
    refusals(allow_journal)
    start(host)

    def use(path: str, how: str) -> str:
        """A process has it open; how it is called in a status."""
        host.run(["systemd-run", "-q", "--unit=raw", "bash", "-c", f"exec 7{how}{path}; exec sleep 600"])
        process = int(host.run("systemctl show -P MainPID raw").stdout)
        host.wait_until(f"readlink /proc/{process}/fd/7 && grep sleep /proc/{process}/comm", what="it is open")
        return f"in use by sleep (PID {process}) on {path}"

    # One that reads, through the generic device, and a stop.
    reader = use(disk(host).replace("nvme", "ng"), "<")
    host.run(f"systemctl stop '{UNIT}'", check=False, timeout=GENEROUS)
    shown = scenario.unit(host, UNIT)
    assert shown.active == "failed"
    assert reader in shown.status
    assert any(reader in entry.message for entry in host.journal(UNIT))
    assert nqn(1) in scenario.live(host)
    host.run(f"systemctl stop raw; systemctl start '{UNIT}'", timeout=GENEROUS)

    # One that can write, and a withdrawal.
    writer = use(disk(host), "<>")
    host.run(f"echo 0 >{LISTED}")
    scenario.wait_unit(host, UNIT, f"and stays: {writer}")
    assert nqn(1) in scenario.live(host)
    host.run(f"systemctl stop raw; echo 1 >{LISTED}")
    host.wait_until(lambda: scenario.unit(host, UNIT).status.startswith("live"), what="it is listed again")

    # Whoever has no rights can lock what all can read, and keeps nobody waiting.
    host.put("/tmp/guest_locks.py", Path(__file__).with_name("guest_locks.py").read_text())
    nobody = "setpriv --reuid=nobody --regid=nogroup --clear-groups python3 /tmp/guest_locks.py"
    host.run(f"systemd-run -q --unit=locks sh -c 'exec {nobody} >/run/locks'")
    host.wait_until("test -s /run/locks", what="it has its locks")
    print("locks:", host.run("cat /run/locks").stdout)
    host.run(f"systemctl stop '{UNIT}'", timeout=BRIEF)
    host.run(f"discoverctl exclude nqn={nqn(7)}", timeout=BRIEF)
    host.run("systemctl stop locks")
    assert nqn(1) not in scenario.live(host)


def test_a_logical_volume_on_two_subsystems(host: Machine) -> None:
    """Nobody uses it, and it stays in the kernel when its halves go, one after the other."""
    start(host)
    ids = [uuid.uuid5(uuid.NAMESPACE_OID, nqn(number)) for number in (1, 2)]
    disks = " ".join(f"/dev/disk/by-id/nvme-uuid.{one}" for one in ids)
    host.run(f"vgcreate --yes halves {disks} && lvcreate --yes --stripes 2 --extents 100%FREE --name volume halves")
    try:
        host.run("dd if=/dev/urandom of=/dev/halves/volume bs=1M count=8 conv=fsync; udevadm settle")
        for number in (1, 2):
            host.run(f"systemctl stop '{unit_name(number)}'", timeout=GENEROUS)
            shown = scenario.unit(host, unit_name(number))
            assert (shown.active, shown.status) == ("inactive", "stopped")
        assert not {nqn(1), nqn(2)} & set(scenario.live(host))
    finally:
        host.run("dmsetup remove --retry halves-volume")


def test_a_second_path_that_is_dead(host: Machine, allow_journal: Callable[[str], None]) -> None:
    refusals(allow_journal)
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420 198.51.100.1:4420")
    scenario.start(
        host,
        f"[I/O Controller Defaults]\nkeep-alive-tmo = 60\n[Subsystem]\nnqn = {nqn(1)}\n"
        "controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n"
        "controller = transport=tcp;traddr=198.51.100.1;trsvcid=4420\n",
    )
    scenario.wait_live(host, 2)
    host.run(f"mkfs.ext4 -q -F {disk(host)} && mkdir -p /srv/paths && mount {disk(host)} /srv/paths")
    second = scenario.unit(host, unit_name(1, "198.51.100.1")).status.split()[1]
    host.cut_link("path1", silent=True)
    host.run(f"systemctl stop --no-block '{UNIT}'")
    scenario.wait_unit(host, UNIT, f"in use by /srv/paths, and its other path {second} does not answer")
    assert scenario.live(host) == [nqn(1), nqn(1)], "the kernel does not know yet"
    host.restore_link("path1")
    # It answers again, and is a path.
    host.run(f"systemctl start '{UNIT}'", timeout=GENEROUS)
    host.run("echo text >/srv/paths/file && sync -f /srv/paths/file")
    host.run(f"systemctl stop '{UNIT}'", timeout=GENEROUS)
    assert scenario.live(host) == [nqn(1)]
    host.run("grep text /srv/paths/file && umount /srv/paths")
