# SPDX-License-Identifier: Apache-2.0
"""A controller that the system itself runs from: no shutdown stops its unit, and nobody disconnects it.

What stands for the initial RAM disk: a connection and a mount that are there before discoverd, and fstab's word for it.
"""

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn, unit_name

CONFIG = f"""\
[Subsystem]
nqn = {nqn(1)}
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
"""
MOUNT = f"""
set -e
modprobe nvme-tcp
nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {nqn(1)} >/dev/null
device=/dev/nvme0n1
until [ -b $device ]; do sleep 0.1; done
[ -n "$(blkid $device)" ] || mkfs.ext4 -q $device
mkdir -p /system
echo "UUID=$(blkid -o value -s UUID $device) /system ext4 noauto,x-initrd.mount 0 2" >>/etc/fstab
systemctl daemon-reload
mount /system
"""
# A network manager leaves alone what the initial RAM disk has set up.
NETWORK_STAYS = "[Service]\nExecStop=\n"


def test_nothing_stops_what_the_system_runs_from(fresh_machine: Machine) -> None:
    machine = fresh_machine
    machine.put("/etc/lab-target.conf", "TARGET=--keep --subsystems 1 --ports 192.0.2.1:4420\n")
    machine.put("/etc/systemd/system/lab-network.service.d/stays.conf", NETWORK_STAYS)
    machine.run("systemctl daemon-reload && lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    machine.run(MOUNT)
    scenario.start(machine, CONFIG)
    scenario.wait_unit(machine, unit_name(1), "live nvme0")
    before = scenario.controllers(machine)
    shown = machine.run(["systemctl", "show", "-P", "Conflicts", "-P", "Before", unit_name(1)]).stdout
    assert "shutdown.target" not in shown
    assert "umount.target" not in shown
    assert "TARGET=/system" not in machine.run("grep . /run/mount/utab | grep _netdev", check=False).stdout

    machine.run(["systemctl", "stop", unit_name(1)], timeout=GENEROUS)
    assert scenario.controllers(machine) == before
    assert "carries the system itself" in scenario.unit(machine, unit_name(1)).status
    machine.run(["systemctl", "start", unit_name(1)], timeout=GENEROUS)
    assert scenario.controllers(machine) == before

    insisted = machine.run("discoverctl disconnect --force nvme0", check=False)
    assert (insisted.returncode, scenario.controllers(machine)) == (5, before)
    assert "carries the system itself" in insisted.stderr

    machine.run("echo kept >/system/file && sync /system/file")
    machine.poweroff()
    console = machine.console()
    assert "I/O error" not in console
    stops = [entry.message for entry in machine.journal() if entry.unit == unit_name(1) and "Stopping" in entry.message]
    assert len(stops) == 1, "the administrator's, and none at the shutdown"

    machine.boot()
    machine.run("modprobe nvme-tcp && nvme connect -t tcp -a 192.0.2.1 -s 4420 -n " + nqn(1))
    machine.wait_until("test -b /dev/nvme0n1")
    machine.run("e2fsck -fn /dev/nvme0n1 && ! dumpe2fs -h /dev/nvme0n1 2>/dev/null | grep needs_recovery")
    machine.run("mount /system && grep -x kept /system/file")
