# SPDX-License-Identifier: Apache-2.0
"""A host whose root file system is on NVMe/TCP, connected by an initial RAM disk before there was a discoverd.

The RAM disk (`initramfs/`) connects five controllers: nvme0 is the root file system's, nvme1 is entered in the registry
as firmware's, nvme2 as nvme-cli's own, nvme3 not at all, and nvme4 as another tool's.
"""

import subprocess
from collections.abc import Iterator

import pytest

from tests.lab import initramfs, scenario, storage
from tests.lab.conftest import booted
from tests.lab.image import SUITE, Image
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn, unit_name

RECORD = "/run/discoverd/boot-controllers"
CONFIG = f"""\
[Subsystem]
nqn = {nqn(5)}
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
"""


@pytest.fixture
def rooted(image: Image) -> Iterator[Machine]:
    """A machine with its root on NVMe/TCP; discoverd is installed and not enabled."""
    with booted(image, initramfs.boot_options(image)) as machine:
        yield machine


def claimed(machine: Machine) -> set[str]:
    return set(scenario.units(machine))


def write(machine: Machine, name: str) -> None:
    """Write a file whose fsync has returned."""
    machine.run(f"dd if=/dev/urandom of=/var/{name} bs=64k count=64 conv=fsync status=none")
    machine.run(f"sha256sum /var/{name} >/var/{name}.sum && sync /var/{name}.sum")


def connect_by_hand(machine: Machine) -> None:
    machine.run(f"nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {nqn(5)}")
    machine.wait_until("[ $(cat /sys/class/nvme/nvme5/state) = live ]")


def test_controllers_of_the_boot_are_claimed_and_no_others(rooted: Machine) -> None:
    machine = rooted
    assert machine.run("findmnt -no SOURCE /").stdout.strip() == "/dev/nvme0n1"
    before = scenario.controllers(machine)
    assert [found for found, _, _ in before.values()] == [nqn(number) for number in range(5)]

    # Installed on a running system: nobody can tell any more who connected what, but firmware's has a name on it.
    connect_by_hand(machine)
    machine.run("systemctl enable --now discoverd.service", timeout=GENEROUS)
    scenario.wait_unit(machine, unit_name(1), "live nvme1")
    machine.run("systemctl start lab-target.service")
    assert machine.run(f"test -e {RECORD}", check=False).returncode == 1
    assert claimed(machine) == {unit_name(1)}
    owners = {device: entry["owner"] for device, entry in scenario.registry(machine).items()}
    assert owners == {"nvme1": "nbft", "nvme2": "autoconnect", "nvme4": "orchestrator"}
    write(machine, "first")
    machine.reboot()

    # Booted with discoverd.
    machine.run("sha256sum --check --quiet /var/first.sum")
    for number in range(4):
        scenario.wait_unit(machine, unit_name(number), f"live nvme{number}")
    assert claimed(machine) == {unit_name(number) for number in range(4)}
    entries = scenario.registry(machine)
    assert {device: entry["owner"] for device, entry in entries.items()} == {
        "nvme0": "nvme-ctrl",
        "nvme1": "nbft",
        "nvme2": "nvme-ctrl",
        "nvme3": "nvme-ctrl",
        "nvme4": "orchestrator",
    }
    assert [entries[f"nvme{number}"].get("adopted") for number in range(5)] == ["yes", None, "yes", "yes", None]
    before = scenario.controllers(machine)
    lines = machine.read(RECORD).decode().splitlines()
    assert set(lines[1:-1]) == {f"{device}={instance}" for device, (_, _, instance) in before.items()}
    machine.run("echo 3 >/proc/sys/vm/drop_caches")
    assert scenario.controllers(machine) == before

    # An administrator's stop leaves the connection; so does force where the root is on it.
    for number in (0, 1, 3):
        machine.run(["systemctl", "stop", unit_name(number)], timeout=GENEROUS)
    assert "nvme0 stays" in scenario.unit(machine, unit_name(0)).status
    assert machine.run("discoverctl disconnect --force nvme0", check=False).returncode == 5
    assert scenario.controllers(machine) == before
    machine.run(["systemctl", "start", unit_name(0), unit_name(1)], timeout=GENEROUS)

    # Connected by hand: nobody's, until somebody asks for it.
    connect_by_hand(machine)
    before = scenario.controllers(machine)
    machine.run("systemctl restart discoverd.service", timeout=GENEROUS)
    assert claimed(machine) == {unit_name(number) for number in range(4)}
    if SUITE != "bookworm":
        # The kernel and /run stay, and so does the difference.
        machine.soft_reboot()
        for number in range(4):
            scenario.wait_unit(machine, unit_name(number), f"live nvme{number}")
        assert scenario.controllers(machine) == before
        assert claimed(machine) == {unit_name(number) for number in range(4)}
    assert "nvme5" not in scenario.registry(machine)
    scenario.configure(machine, CONFIG)
    machine.run("systemctl reload discoverd.service", timeout=GENEROUS)
    scenario.wait_unit(machine, unit_name(5), "live nvme5")
    entry = scenario.registry(machine)["nvme5"]
    assert (entry["owner"], entry.get("adopted")) == ("nvme-ctrl", None)
    assert scenario.controllers(machine) == before

    write(machine, "second")
    machine.poweroff()
    console = machine.console()
    assert "I/O error" not in console
    assert "EXT4-fs error" not in console
    root_was_left_clean(machine)


def root_was_left_clean(machine: Machine) -> None:
    """Look at the disk of a machine that is off: no journal to replay, no error, and what was written last."""
    raw = machine.folder / "root.img"
    subprocess.run(["qemu-img", "convert", "-O", "raw", machine.folder / "disk.qcow2", raw], check=True)
    header = subprocess.run(["dumpe2fs", "-h", raw], check=True, capture_output=True, text=True).stdout
    assert "needs_recovery" not in header
    subprocess.run(["e2fsck", "-fn", raw], check=True, capture_output=True)
    for name in ("second", "second.sum"):
        subprocess.run(
            ["debugfs", "-R", f"dump /var/{name} {machine.folder}/{name}", raw], check=True, capture_output=True
        )
    made = subprocess.run(["sha256sum", machine.folder / "second"], check=True, capture_output=True, text=True).stdout
    assert made.split()[0] == (machine.folder / "second.sum").read_text().split()[0]


def test_controller_of_others_is_waited_for_at_shutdown(fresh_machine: Machine) -> None:
    """An administrator's stop leaves it; and yet the network must not go under what is mounted."""
    machine = fresh_machine
    target = f"--subsystems 1 --size {storage.SIZE_MIB} --keep --ports 192.0.2.1:4420"
    machine.put("/etc/lab-target.conf", f"TARGET={target}\n")
    machine.run(f"lab-target up {target} && modprobe nvme-tcp")
    machine.run(f"nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {nqn(1)}")
    machine.run("systemctl enable discoverd.service")
    scenario.start(machine)
    scenario.wait_unit(machine, unit_name(1), "live nvme0")
    assert scenario.registry(machine)["nvme0"]["adopted"] == "yes"
    storage.use(machine, ["held"])
    seconds = storage.power_off(machine, "connected by others, a file held open for 15 s")
    assert seconds > 15
    storage.verify(machine, 2)
