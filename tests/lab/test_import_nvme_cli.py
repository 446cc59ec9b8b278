# SPDX-License-Identifier: Apache-2.0
"""A host that nvme-cli 2 has connected from its files is changed over by the documented commands, and loses nothing."""

import json
from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn
from tests.lab.test_authentication import make_key

AUTOCONNECT = "nvmf-autoconnect.service"
FAR = "198.51.100.1"
LINE = "--transport=tcp --traddr=192.0.2.1 --trsvcid=4420 --ctrl-loss-tmo=1230 --nr-io-queues=1\n"
DRY_RUN = "discoverctl import-nvme-cli --dry-run"
IMPORT = "discoverctl import-nvme-cli"
# Two subsystems that are in use, as an administrator's are.
MOUNT = """\
for volume in 1 2; do
    device=$(grep -l example:vol$volume$ /sys/class/nvme-subsystem/*/subsysnqn | head -n 1 | xargs dirname)
    name=$(ls $device | grep -E '^nvme[0-9]+n1$' | head -n 1)
    mkfs.ext4 -q /dev/$name && mkdir -p /mnt/vol$volume && mount /dev/$name /mnt/vol$volume
    echo before >/mnt/vol$volume/file
done
sync
"""


def config_json(host: Machine) -> str:
    """A subsystem on the other path, which no line of discovery.conf leads to."""
    hostnqn = host.run("cat /etc/nvme/hostnqn").stdout.strip()
    port = {"transport": "tcp", "traddr": FAR, "trsvcid": "4420", "ctrl_loss_tmo": 4320}
    subsystem = {"nqn": nqn(3), "ports": [port]}
    # Without a host ID, nvme-cli 2.13 compares with none, and crashes.
    hostid = host.run("cat /etc/nvme/hostid").stdout.strip()
    return json.dumps([{"hostnqn": hostnqn, "hostid": hostid, "subsystems": [subsystem]}], indent=2)


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    yield host
    host.run(f"systemctl disable discoverd.service; systemctl disable --now {AUTOCONNECT}", check=False)
    host.run("umount /mnt/vol1 /mnt/vol2", check=False, timeout=GENEROUS)
    host.run(
        "rm -rf /etc/nvme/discovery.conf /etc/nvme/config.json /etc/nvme/nvme-fabrics.conf.d/50-nvme-cli*.conf*",
        check=False,
    )


def unserved(host: Machine, place: str) -> bool:
    """Whether the daemon says of an entry that nobody connects it."""
    return f"{place}:1: nobody connects the " in host.run("discoverctl status").stdout


def test_host_is_changed_over_without_losing_a_connection(host: Machine) -> None:
    host.run(f"lab-target up --subsystems 3 --ports 192.0.2.1:4420 {FAR}:4420")
    # Two are behind the near port, the third one behind the far one: nvme-cli connects all that a port lists.
    host.run("lab-target unlink vol3 1 && lab-target unlink vol1 2 && lab-target unlink vol2 2 && modprobe nvme-tcp")
    host.put("/etc/nvme/discovery.conf", f"# ours\n{LINE}")
    host.put("/etc/nvme/config.json", config_json(host))
    host.run(f"systemctl enable --now {AUTOCONNECT}", timeout=GENEROUS)
    scenario.wait_live(host, 3)
    host.put("/run/mount-two", MOUNT)
    host.run("bash -eu /run/mount-two", timeout=GENEROUS)
    before = scenario.controllers(host)
    assert sorted(scenario.live(host)) == [nqn(1), nqn(2), nqn(3)]

    # Started without the import: nothing is connected by it, nothing lost, and everything says so.
    host.run("systemctl start discoverd.service", timeout=GENEROUS)
    host.wait_until(lambda: unserved(host, "/etc/nvme/discovery.conf:2"), what="the warning about discovery.conf")
    status = host.run("discoverctl status").stdout
    print(status)
    assert f"nobody connects the subsystem {nqn(3)} at tcp {FAR}:4420" in status
    assert any(
        "nobody connects the discovery controller at tcp 192.0.2.1:4420" in one.message for one in host.journal()
    )
    examined = host.run("discoverctl doctor", check=False)
    print(examined.stdout)
    assert examined.returncode == 1
    assert examined.stdout.count("nobody connects the ") == 2
    assert scenario.controllers(host) == before

    # By the documented commands.
    shown = host.run(DRY_RUN).stdout
    assert "Nothing was written" in shown
    told = host.run(IMPORT).stdout
    print(told)
    assert "2 controllers carried over; 0 not carried over, 1 with a difference" in told
    host.run("discoverd --check && systemctl enable --now discoverd.service", timeout=GENEROUS)
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)
    # The discovery controller is connected as well, and stays.
    scenario.wait_live(host, 4)
    scenario.wait_status(host, "4 controllers: 4 live")
    after = scenario.controllers(host)
    assert {name: one for name, one in after.items() if name in before} == before
    assert not unserved(host, "/etc/nvme/discovery.conf:2")
    assert "nobody connects the " not in host.run("discoverctl doctor", check=False).stdout
    assert host.run("cat /mnt/vol1/file /mnt/vol2/file").stdout == "before\nbefore\n"

    # What the files said counts from the next connect on.
    host.run("umount /mnt/vol1 /mnt/vol2", timeout=GENEROUS)
    host.run(f"systemctl restart '{scenario.unit_name(1)}' '{scenario.unit_name(3, FAR)}'", timeout=GENEROUS)
    scenario.wait_live(host, 4)
    attributes = {
        found: host.run(f"cat /sys/class/nvme/{name}/ctrl_loss_tmo").stdout.strip()
        for name, (found, _, _) in scenario.controllers(host).items()
    }
    assert (attributes[nqn(1)], attributes[nqn(3)]) == ("1230", "4320")
    # And it may be asked again.
    assert "as it was" in host.run(IMPORT).stdout


def test_secrets_are_for_root_only(host: Machine) -> None:
    secret = make_key()
    value = json.loads(config_json(host))
    value[0]["subsystems"][0]["ports"][0]["dhchap_key"] = secret
    host.put("/etc/nvme/config.json", json.dumps(value), mode=0o600)
    shown = host.run(DRY_RUN).stdout
    told = host.run(IMPORT).stdout
    assert secret not in shown + told
    path = "/etc/nvme/nvme-fabrics.conf.d/50-nvme-cli.conf"
    assert host.run(f"stat -c %a:%u {path}").stdout.strip() == "600:0"
    assert f"kxchap-secret = {secret}" in host.run(f"cat {path}").stdout
    denied = host.run(f"setpriv --reuid 65534 --regid 65534 --clear-groups cat {path}", check=False)
    assert denied.returncode != 0
