# SPDX-License-Identifier: Apache-2.0
"""Full and read-only file systems, a clock that jumps, processes that stand still or starve, boots of half a system."""

import shlex
import time
from collections.abc import Callable

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, GENEROUS, unit_name


def two_volumes(host: Machine) -> dict[str, tuple[str, str, str]]:
    """discoverd with a discovery controller and two volumes, all live."""
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    return scenario.controllers(host)


def add_volume(host: Machine, volume: int) -> None:
    host.run(f"lab-target add-subsystem vol{volume} && lab-target link vol{volume} 1")


def kept(host: Machine, before: dict[str, tuple[str, str, str]]) -> bool:
    """Whether every controller of before is the same one still, and live."""
    now = scenario.controllers(host)
    return {name: now.get(name) for name in before} == before


def main_pid(host: Machine, name: str) -> int:
    return scenario.unit(host, name).main_pid


def test_run_is_full(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("No space left on device")
    before = two_volumes(host)
    host.run("cat /dev/zero >/run/fill", check=False)
    try:
        host.run(f"systemctl kill -s KILL discoverd.service {shlex.quote(unit_name(1))}")
        host.wait_until(
            lambda: main_pid(host, unit_name(1)) and main_pid(host, "discoverd.service"),
            timeout=GENEROUS,
            what="both run again",
        )
        add_volume(host, 3)
        # The supervisor has little to write, and may have found a page that the killed ones left.
        scenario.wait_unit(host, DISCOVERY_UNIT, "No space left on device")
        print(scenario.status(host), scenario.unit(host, DISCOVERY_UNIT).status, sep="\n")
        assert kept(host, before)
        # A stop is a stop, even if the worker has no place to write it down.
        host.run(f"systemctl stop '{unit_name(2)}'", timeout=GENEROUS)
        assert scenario.nqn(2) not in scenario.live(host)
    finally:
        host.run("rm /run/fill")
    host.wait_until(lambda: scenario.nqn(3) in scenario.live(host), timeout=GENEROUS, what="what was new is connected")
    scenario.wait_status(host, "4 controllers: 3 live, 1 stopped")
    host.run(f"systemctl start '{unit_name(2)}'", timeout=GENEROUS)
    scenario.wait_live(host, 4)
    scenario.wait_status(host, "4 controllers: 4 live")
    host.wait_until(lambda: len(scenario.registry(host)) == 4, what="four registry entries")


def test_etc_is_read_only(host: Machine) -> None:
    scenario.configure(host)
    host.run("mount --bind /etc /etc && mount -o remount,bind,ro /etc && ! touch /etc/x")
    try:
        host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
        host.run("systemctl start discoverd.service", timeout=GENEROUS)
        scenario.wait_live(host, 3)
        host.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
        host.run("systemctl reload discoverd.service", timeout=GENEROUS)
        scenario.wait_status(host, "3 controllers: 2 live, 1 stopped")
        host.run(f"systemctl start '{unit_name(1)}'", timeout=GENEROUS)
        scenario.wait_live(host, 3)
    finally:
        host.run("umount /etc")


def test_the_clock_jumps(host: Machine) -> None:
    before = two_volumes(host)
    # Named by the administrator, it is waited for, whatever the log page has.
    named = f"[Subsystem]\nnqn = {scenario.nqn(2)}\ncontroller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n"
    scenario.configure(host, scenario.ONE_DISCOVERY_CONTROLLER + named)
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)
    host.run("lab-target unlink vol2 1")
    host.run(f"nvme disconnect -n {scenario.nqn(2)}")
    scenario.wait_unit(host, unit_name(2), "waiting")
    rest = {name: one for name, one in before.items() if one[0] != scenario.nqn(2)}
    try:
        # Back, with timers running and files that are now from the future; then forward by more than that.
        for number, jump in ((3, "-1 day"), (4, "+2 days")):
            host.run(f"date -s '{jump}'")
            add_volume(host, number)
            host.wait_until(
                lambda volume=number: scenario.nqn(volume) in scenario.live(host),  # type: ignore[misc]
                timeout=GENEROUS,
                what="the new volume is connected",
            )
            host.run("systemctl restart discoverd.service", timeout=GENEROUS)
            scenario.wait_status(host, f"{number + 1} controllers: {number} live, 1 waiting")
            assert kept(host, rest)
        host.run("lab-target link vol2 1")
        # Waits are counted by a clock that nobody sets.
        seconds = scenario.wait_live(host, 5)
        print(f"connected {seconds:.1f} s after its target was back")
        assert seconds < 30
    finally:
        host.run("date -s '-1 day'")


def test_a_worker_stands_still(host: Machine) -> None:
    before = two_volumes(host)
    host.run(f"systemctl kill -s STOP '{unit_name(1)}'")
    # Its controller works without it, and nobody else waits for it.
    host.run(f"dd if=/dev/nvme{namespace(host, 1)} of=/dev/null bs=4k count=16 iflag=direct", timeout=GENEROUS)
    add_volume(host, 3)
    scenario.wait_live(host, 4)
    host.run("systemctl restart discoverd.service", timeout=GENEROUS)
    scenario.wait_status(host, "4 controllers: 4 live")
    assert kept(host, before)
    # systemd wakes what it stops.
    began = time.monotonic()
    host.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
    print(f"stopped after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 30
    assert scenario.nqn(1) not in scenario.live(host)
    scenario.wait_status(host, "4 controllers: 3 live, 1 stopped")


def namespace(host: Machine, volume: int) -> str:
    """What follows "nvme" in the name of the volume's block device."""
    text = host.run(f"grep -l {scenario.nqn(volume)} /sys/class/nvme-subsystem/*/subsysnqn").stdout
    return host.run(f"ls -d {text.strip().removesuffix('/subsysnqn')}/nvme*n1").stdout.strip().rpartition("/nvme")[2]


def test_the_supervisor_stands_still(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("Watchdog timeout")
    host.put("/etc/systemd/system/discoverd.service.d/watchdog.conf", "[Service]\nWatchdogSec=10s\n")
    host.run("systemctl daemon-reload")
    before = two_volumes(host)
    stuck = main_pid(host, "discoverd.service")
    host.run(f"kill -STOP {stuck}")
    add_volume(host, 3)
    host.wait_until(
        lambda: main_pid(host, "discoverd.service") not in (0, stuck), timeout=150, what="systemd has started another"
    )
    scenario.wait_live(host, 4)
    scenario.wait_status(host, "4 controllers: 4 live")
    assert kept(host, before)


def test_a_worker_runs_out_of_memory(host: Machine, allow_journal: Callable[[str], None]) -> None:
    # The next process is started under the same limit where systemd finds the group still there.
    allow_journal("Failed to start nvme-ctrl@")
    before = two_volumes(host)
    killed = main_pid(host, unit_name(1))
    since = host.journal_end()
    host.run(f"echo 64K >/sys/fs/cgroup$(systemctl show -P ControlGroup '{unit_name(1)}')/memory.max")
    # It asks for memory when it has something to do.
    host.run(f"systemctl kill -s HUP '{unit_name(1)}'", check=False)
    host.wait_until(
        lambda: main_pid(host, unit_name(1)) not in (0, killed), timeout=GENEROUS, what="systemd has started another"
    )
    assert any("oom-kill" in entry.message for entry in host.journal(unit_name(1), since=since))
    scenario.wait_unit(host, unit_name(1), "live")
    scenario.wait_status(host, "3 controllers: 3 live")
    assert kept(host, before)


WRITER = """\
while :; do
    n=$((n + 1))
    echo $n >/mnt/$n.new && sync /mnt/$n.new && mv /mnt/$n.new /mnt/last || echo "write $n failed" >/run/writer.failed
    sleep 0.1
done
"""


# The links are still there; lab-network's "up" would make them.
NETWORK = """\
[Service]
ExecStart=
ExecStart=/bin/sh -c 'ip link set path0 up && ip link set path1 up || lab-network up'
"""


def prepare(machine: Machine) -> None:
    """What comes back with the system: the network, and discoverd."""
    machine.put("/etc/systemd/system/lab-network.service.d/again.conf", NETWORK)
    machine.run("systemctl daemon-reload && systemctl enable discoverd.service", timeout=GENEROUS)


def mount(host: Machine, volume: int) -> None:
    device = f"/dev/nvme{namespace(host, volume)}"
    host.run(f"mkfs.ext4 -q {device} && mount {device} /mnt", timeout=GENEROUS)


def test_isolate_rescue_and_back(fresh_machine: Machine) -> None:
    prepare(fresh_machine)
    before = two_volumes(fresh_machine)
    mount(fresh_machine, 1)
    fresh_machine.run(["systemd-run", "--unit=writer", "-p", "IgnoreOnIsolate=yes", "bash", "-c", WRITER])
    fresh_machine.run("systemctl isolate rescue.target", timeout=GENEROUS)
    fresh_machine.wait_until("systemctl is-active rescue.target && ! systemctl is-active discoverd.service")
    shown = scenario.units(fresh_machine)
    assert {name: unit.active for name, unit in shown.items()} == dict.fromkeys(
        (DISCOVERY_UNIT, unit_name(1), unit_name(2)), "active"
    )
    fresh_machine.run("systemctl isolate multi-user.target", timeout=GENEROUS)
    scenario.wait_live(fresh_machine, 3)
    scenario.wait_status(fresh_machine, "3 controllers: 3 live")
    assert kept(fresh_machine, before)
    last = fresh_machine.run("cat /mnt/last").stdout
    fresh_machine.wait_until(lambda: fresh_machine.run("cat /mnt/last").stdout != last, what="the writer goes on")
    assert fresh_machine.run("cat /run/writer.failed", check=False).stdout == ""


def test_soft_reboot(fresh_machine: Machine) -> None:
    """User space begins anew, with /run as it was: that is a boot, and after a boot everything is connected."""
    prepare(fresh_machine)
    two_volumes(fresh_machine)
    mount(fresh_machine, 1)
    fresh_machine.run(["systemd-run", "--unit=writer", "bash", "-c", WRITER])
    fresh_machine.run(f"systemctl stop '{unit_name(2)}'", timeout=GENEROUS)
    time.sleep(2)
    last = int(fresh_machine.run("cat /mnt/last").stdout)

    began = time.monotonic()
    fresh_machine.soft_reboot()
    print(f"soft-reboot took {time.monotonic() - began:.0f} s")
    scenario.wait_live(fresh_machine, 3)
    scenario.wait_status(fresh_machine, "3 controllers: 3 live")
    assert len(scenario.registry(fresh_machine)) == 3
    assert {unit.active for unit in scenario.units(fresh_machine).values()} == {"active"}
    device = f"/dev/nvme{namespace(fresh_machine, 1)}"
    fresh_machine.run(f"e2fsck -fn {device} && mount {device} /mnt", timeout=GENEROUS)
    assert int(fresh_machine.run("cat /mnt/last").stdout) >= last
    # A restart of the supervisor is no boot: what is stopped now stays stopped.
    fresh_machine.run(f"systemctl stop '{unit_name(2)}' && systemctl restart discoverd.service", timeout=GENEROUS)
    scenario.wait_status(fresh_machine, "3 controllers: 2 live, 1 stopped")
