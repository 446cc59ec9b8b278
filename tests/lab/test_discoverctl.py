# SPDX-License-Identifier: Apache-2.0
"""discoverctl on a real host: each verb, and what it exits with."""

import json
from collections.abc import Callable, Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY, GENEROUS, nqn, unit_name

NOT_LIVE, UNKNOWN, REFUSED, NOT_PERMITTED = 3, 4, 5, 77
TWO_PATHS = f"""\
[Subsystem]
nqn = {nqn(1)}
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
controller = transport=tcp;traddr=198.51.100.1;trsvcid=4420
"""
ONE_PATH = TWO_PATHS.rsplit("controller", 1)[0]


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    host.run("cp /etc/fstab /run/fstab.before")
    yield host
    host.run("umount -l /mnt; cp /run/fstab.before /etc/fstab; systemctl daemon-reload", check=False)


def ctl(host: Machine, arguments: str, expected: int = 0) -> tuple[str, str]:
    """Runs discoverctl; returns output and errors, which are shown too."""
    ended = host.run(f"discoverctl {arguments}", check=False, timeout=GENEROUS)
    print(f"# discoverctl {arguments}\n{ended.stdout}{ended.stderr}")
    assert ended.returncode == expected
    assert "Traceback" not in ended.stderr
    return ended.stdout, ended.stderr


def listed(host: Machine) -> dict[str, dict[str, str]]:
    found = json.loads(host.run("discoverctl list --json").stdout)["controllers"]
    return {one["device"] or one["controller"]: one for one in found}


def mount(host: Machine, name: str = "nvme0n1") -> None:
    host.wait_until(f"test -b /dev/{name}", what=f"{name} is there")
    host.run(
        f"mkfs.ext4 -q /dev/{name} && mount /dev/{name} /mnt && dd if=/dev/zero of=/mnt/file bs=4k count=8 conv=fsync"
    )


def test_looking(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    found = listed(host)
    assert {one["subsysnqn"] for one in found.values()} == {DISCOVERY, nqn(1), nqn(2)}
    assert {(one["state"], one["owner"]) for one in found.values()} == {("live", "nvme-ctrl")}
    assert ctl(host, "list")[0].splitlines()[-1] == "3 controllers, 3 live"
    assert len(ctl(host, "list --no-legend")[0].splitlines()) == 3

    assert "3 controllers: 3 live" in ctl(host, "status")[0]
    name = next(device for device, one in found.items() if one["subsysnqn"] == nqn(1))
    mount(host, f"{name}n1")
    text, errors = ctl(host, f"status {name}")
    assert f"namespace:  {name}n1: used by /mnt; no other live path" in text
    assert errors == ""
    host.run("umount /mnt")
    assert f"{name}n1: not in use" in ctl(host, f"status '{unit_name(1)}'")[0]
    assert "because it is listed" in ctl(host, f"why {nqn(1)}")[0]
    assert "because it is configured at /etc/nvme/nvme-fabrics.conf:2" in ctl(host, f"why {DISCOVERY}")[0]
    assert nqn(1) in ctl(host, f"why {nqn(11)}", UNKNOWN)[1]
    assert host.run("runuser -u nobody -- discoverctl list --no-legend").stdout.count("live") >= 3
    assert host.run("discoverctl list --json | head -c 1; echo ${PIPESTATUS[0]}").stderr == ""

    took = host.run("cd /; bash -c 'time discoverctl list' 2>&1 >/dev/null | grep real").stdout
    print(f"list with three controllers: {took}")
    # Nothing of it needs the daemon.
    host.run("systemctl kill -s KILL discoverd.service; systemctl stop discoverd.service", check=False)
    assert len(listed(host)) == 3
    assert "systemctl start discoverd" in ctl(host, "status", 1)[1]


def test_stop_and_start_every_path(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420 198.51.100.1:4420")
    scenario.start(host, TWO_PATHS)
    scenario.wait_live(host, 2)
    ctl(host, f"stop {nqn(1)}")
    assert scenario.controllers(host) == {}
    scenario.wait_status(host, "2 stopped")
    assert {one["state"] for one in listed(host).values()} == {"stopped"}
    ctl(host, f"status {nqn(1)}", NOT_LIVE)
    assert "To have it back: discoverctl start" in ctl(host, f"why '{unit_name(1)}'")[0]
    ctl(host, f"start '{unit_name(1)}'")
    assert scenario.live(host) == [nqn(1)]
    host.cut_link("path1", silent=True)
    ctl(host, f"start '{unit_name(1, '198.51.100.1')}'", NOT_LIVE)
    host.restore_link("path1")
    scenario.wait_live(host, 2)


def test_one_of_two_paths_of_what_is_in_use(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420 198.51.100.1:4420")
    scenario.start(host, TWO_PATHS)
    scenario.wait_live(host, 2)
    mount(host)
    ctl(host, f"disconnect '{unit_name(1)}'")
    assert scenario.live(host) == [nqn(1)]
    host.run("dd if=/dev/zero of=/mnt/file bs=4k count=8 conv=fsync && umount /mnt")


def test_controller_in_use_is_disconnected_by_force_only(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("in use by /mnt")
    allow_journal(r"nvme-ctrl@.*Failed with result")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host, ONE_PATH)
    scenario.wait_live(host, 1)
    mount(host)
    assert "in use by /mnt" in ctl(host, "stop nvme0", REFUSED)[1]
    host.wait_until(lambda: listed(host)["nvme0"]["state"] == "refused", what="it is listed as refused")
    host.run("dd if=/dev/zero of=/mnt/file bs=4k count=8 conv=fsync")
    assert "To have it looked after again: discoverctl start" in ctl(host, "why nvme0")[0]
    assert "discoverctl start" in ctl(host, "doctor", 1)[0]
    ctl(host, "start nvme0")
    assert listed(host)["nvme0"]["state"] == "live"

    assert "in use by /mnt" in ctl(host, "disconnect nvme0", REFUSED)[1]
    host.run("dd if=/dev/zero of=/mnt/file bs=4k count=8 conv=fsync")
    assert "though in use by /mnt" in ctl(host, "disconnect --force nvme0")[0]
    assert scenario.controllers(host) == {}
    assert scenario.registry(host) == {}
    unit = scenario.unit(host, unit_name(1))
    assert (unit.load, unit.active) == ("loaded", "inactive")
    host.run("umount -l /mnt")
    scenario.wait_status(host, "1 stopped")
    # It holds, and ends with the next start.
    ctl(host, f"start '{unit_name(1)}'")
    scenario.wait_live(host, 1)


def test_the_controllers_of_others(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    host.run("modprobe nvme-tcp")
    for volume in (1, 2):
        host.run(f"nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {nqn(volume)}")
    scenario.wait_live(host, 2)
    host.run("mkdir -p /run/nvme/registry/nvme0 && echo orchestrator >/run/nvme/registry/nvme0/owner")
    scenario.start(host, ONE_PATH)
    scenario.wait_status(host, "1 controller: 1 left alone")
    found = listed(host)
    assert (found["nvme0"]["state"], found["nvme0"]["owner"]) == ("left alone", "orchestrator")
    assert (found["nvme1"]["state"], found["nvme1"]["owner"], found["nvme1"]["unit"]) == ("live", "", "")
    assert "As long as orchestrator owns it" in ctl(host, "why nvme0")[0]
    assert "nvme0 belongs to orchestrator" in ctl(host, "disconnect nvme0", REFUSED)[1]
    assert "discoverctl disconnect nvme1" in ctl(host, "stop nvme1", REFUSED)[1]
    ctl(host, "disconnect nvme1")
    assert set(scenario.controllers(host)) == {"nvme0"}
    ctl(host, "disconnect --force nvme0")
    assert scenario.controllers(host) == {}
    assert scenario.registry(host) == {}


def test_the_doctor(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("is a unit file, and beside it systemd makes no unit")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host, ONE_PATH)
    scenario.wait_live(host, 1)
    mount(host)

    def healthy() -> bool:
        ended = host.run("discoverctl doctor", check=False)
        return ended.returncode == 0 and "hint" not in ended.stdout

    host.wait_until(healthy, what="the doctor finds nothing")
    print(ctl(host, "doctor")[0])

    host.run("systemctl stop discoverd-mounts.service")
    host.run("umount /mnt && mount /dev/nvme0n1 /mnt")
    # Entered again by nobody: systemd stops the network before it unmounts this.
    text = ctl(host, "doctor", 1)[0]
    assert "/mnt is on NVMe over a network, and systemd stops the network before it unmounts it" in text
    assert "discoverd-mounts.service does not run" in text
    host.run("systemctl start discoverd-mounts.service")
    host.wait_until(healthy, what="the doctor finds nothing")

    uuid = host.run("blkid -s UUID -o value /dev/nvme0n1").stdout.strip()
    host.run(f"echo 'UUID={uuid} /mnt ext4 defaults 0 0' >>/etc/fstab")
    assert "/mnt is on NVMe over a network, and its options lack _netdev" in ctl(host, "doctor", 1)[0]
    host.run(
        f"sed -i 's/^UUID={uuid}.*/UUID={uuid} /mnt ext4 _netdev,nofail 0 0/' /etc/fstab".replace(" /mnt", r" \/mnt")
    )
    host.wait_until(healthy, what="the doctor finds nothing")

    host.run(
        "mkdir -p /run/systemd/system && printf '[Service]\\nExecStart=true\\n' >/run/systemd/system/nvme-ctrl@.service"
    )
    host.run("systemctl daemon-reload")
    host.run("cp /etc/nvme/hostid /run/hostid && uuidgen >/etc/nvme/hostid")
    try:
        findings = [
            one["text"] for check in json.loads(ctl(host, "doctor --json", 1)[0])["checks"] for one in check["findings"]
        ]
    finally:
        host.run("rm /run/systemd/system/nvme-ctrl@.service && mv /run/hostid /etc/nvme/hostid")
        host.run("systemctl daemon-reload")
    assert [text for text in findings if "nvme-ctrl@.service is installed" in text]
    assert [text for text in findings if "is not the UUID in the host NQN" in text]
