# SPDX-License-Identifier: Apache-2.0
"""Firmware tables that a real kernel got from its (virtual) firmware: what is in them is connected by itself.

QEMU hands the tables to the kernel, which shows them as any firmware's. libnvme, which reads them too, is the oracle.
"""

import json
import uuid
from collections.abc import Iterator

import pytest

from discoverd.kernel import nbft
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId
from tests.lab import scenario
from tests.lab.conftest import booted, clean
from tests.lab.image import Image
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn
from tests.unit.nbft_tables import Discovery, Hfi, Namespace, Security, table

OWN = "nqn.2014-08.org.nvmexpress:uuid:0a1c4f2e-5d0b-4c6e-9a53-6f1d2b7c8e90"
OTHER = "nqn.2014-08.org.nvmexpress:uuid:7f9d3f0c-35e5-4a43-a6dd-2a9c1d0b3e11"
MAC0, MAC1 = "52:54:00:00:00:01", "52:54:00:00:00:02"
DC = "2001:db8:1::1"

FIRST = table(
    [
        Hfi(1, MAC0),
        Hfi(2, MAC1, ip="198.51.100.2"),
        Hfi(3, MAC0, ip="2001:db8:1::2"),
        Hfi(4, MAC0, vlan=12, ip="203.0.113.2"),
        # What the DHCP server gave to firmware, it did not give to the system.
        Hfi(5, MAC1, ip="198.51.100.77", dhcp="198.51.100.254", info_flags=5),
        Hfi(6, MAC1, raw={3: b"\1"}),
    ],
    [
        Namespace(1, nqn=nqn(1), secondary=(1,)),
        # Another namespace of the same subsystem on the same path.
        Namespace(2, nqn=nqn(1), nsid=2, secondary=None),
        Namespace(3, nqn=nqn(1), traddr="198.51.100.1", hfi=2, secondary=(2,)),
        # One address through two interfaces.
        Namespace(4, nqn=nqn(2), secondary=(2,), flags=0x101),
        Namespace(5, nqn=nqn(3), traddr="203.0.113.1", hfi=4),
        Namespace(6, nqn=nqn(4), traddr="198.51.100.1", hfi=5, secondary=(5,), transport_flags=7),
        Namespace(7, nqn=nqn(1), security=1),
        Namespace(8, nqn=nqn(1), hfi=6, traddr="192.0.2.99"),
        Namespace(9, raw={10: b"\xff\xff\xff\xff"}),
    ],
    [Discovery(uri=f"nvme+tcp://[{DC}]:8009/", hfi=3)],
    [Security()],
    hostnqn=OWN,
    hostid=uuid.UUID(OWN[-36:]).bytes,
)
SECOND = table(revision=(2, 0))
THIRD = table([Hfi(1, MAC0)], [Namespace(1, nqn=nqn(2))], hostnqn=OTHER)
TABLES = (FIRST, SECOND, THIRD)

TARGET = f"""
set -e
ip link set path0 address {MAC0}
ip link set path1 address {MAC1}
ip route replace 192.0.2.1/32 dev path1 metric 4000
lab-target up --subsystems 2 --ports 192.0.2.1:4420 198.51.100.1:4420 203.0.113.1:4420
lab-target add-port 4 [{DC}]:8009
for volume in 3 4 5; do lab-target add-subsystem vol$volume; done
lab-target link vol3 3
lab-target link vol4 2
lab-target link vol5 4
"""
VLAN = """
set -e
ip link add link path0 name storage type vlan id 12
ip address add 203.0.113.2/24 dev storage
ip link set storage up
"""
VLAN_OF_THE_TARGET = """
set -e
ip -netns tgt link add link path0 name storage type vlan id 12
ip -netns tgt address add 203.0.113.1/24 dev storage
ip -netns tgt link set storage up
"""


def path(volume: int, traddr: str, interface: str, host: str, hostnqn: str = "") -> str:
    tid = TransportId.make(
        IO, "tcp", traddr, "4420", nqn(volume), host_traddr=host, host_iface=interface, hostnqn=hostnqn
    )
    return tid.unit


STALE = path(4, "198.51.100.1", "path1", "198.51.100.77")
AT_ONCE = {
    STALE,
    path(1, "192.0.2.1", "path0", "192.0.2.2"),
    path(1, "198.51.100.1", "path1", "198.51.100.2"),
    path(2, "192.0.2.1", "path0", "192.0.2.2"),
    path(2, "192.0.2.1", "path1", "198.51.100.2"),
    path(2, "192.0.2.1", "path0", "192.0.2.2", OTHER),
    TransportId.make(DISCOVERY, "tcp", DC, "8009", DISCOVERY_NQN, host_traddr="2001:db8:1::2", host_iface="path0").unit,
    # Its log page has this one.
    TransportId.make(IO, "tcp", DC, "8009", nqn(5), host_traddr="2001:db8:1::2", host_iface="path0").unit,
}
ON_THE_VLAN = path(3, "203.0.113.1", "storage", "203.0.113.2")


@pytest.fixture(scope="module")
def machine(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine whose firmware has these tables."""
    folder = tmp_path_factory.mktemp("acpi")
    options = []
    for number, data in enumerate(TABLES, start=1):
        (folder / f"{number}").write_bytes(data)
        options += ["-acpitable", f"file={folder}/{number}"]
    with booted(image, options) as result:
        yield result
        clean(result)
        result.poweroff()


@pytest.fixture
def target(host: Machine) -> Iterator[Machine]:
    """The machine with the target that the tables mean, but for the VLAN."""
    host.run(VLAN_OF_THE_TARGET)
    host.run(TARGET)
    yield host
    host.run("ip link del storage; ip -netns tgt link del storage; ip route del 192.0.2.1/32 dev path1", check=False)


def live_units(machine: Machine) -> set[str]:
    """All units if every one is live: a second one for a controller would be left alone, or wait."""
    units = scenario.units(machine).values()
    return {unit.name for unit in units} if all(unit.status.startswith("live") for unit in units) else set()


def addresses(machine: Machine) -> dict[str, str]:
    """Of each unit that owns a controller: the kernel's words for its address, and its host NQN."""
    text = machine.run(
        "cd /run/nvme/registry; for c in *; do "
        'echo "$(cat $c/unit) $(cat /sys/class/nvme/$c/hostnqn) $(cat /sys/class/nvme/$c/address)"; done'
    ).stdout
    return {unit: f"{host} {address}" for unit, host, address in (line.split() for line in text.splitlines())}


def test_kernel_shows_the_tables_as_firmware_wrote_them(host: Machine) -> None:
    assert host.read("/sys/firmware/acpi/tables/NBFT1") == FIRST
    names = host.run("ls /sys/firmware/acpi/tables | grep NBFT").stdout.split()
    assert names == ["NBFT1", "NBFT2", "NBFT3"]


def test_all_paths_are_connected_without_any_configuration(target: Machine) -> None:
    since = target.journal_end()
    target.run("systemctl start discoverd.service", timeout=GENEROUS)
    target.wait_until(lambda: live_units(target) == AT_ONCE, timeout=GENEROUS, what="all paths that can be are live")
    kernel = addresses(target)
    assert set(kernel) == AT_ONCE
    through = kernel[path(2, "192.0.2.1", "path1", "198.51.100.2")]
    assert through.startswith(OWN + " traddr=192.0.2.1,")
    assert "host_traddr=198.51.100.2,host_iface=path1" in through
    assert kernel[path(2, "192.0.2.1", "path0", "192.0.2.2", OTHER)].startswith(OTHER + " ")
    # The source address that the host does not have is left out.
    stale = kernel[STALE]
    assert "host_iface=path1" in stale
    assert "host_traddr" not in stale

    said = [entry.message for entry in target.journal("discoverd.service", since=since)]
    for what in (
        "in the NBFT table NBFT2",
        "in the NBFT table NBFT1, namespace 7",
        "in the NBFT table NBFT1, namespace 8",
        "interface 6 of 6",
        "namespace 9 of 9",
    ):
        assert len([line for line in said if what in line]) == 1, what

    target.run(VLAN)
    target.wait_until(lambda: ON_THE_VLAN in live_units(target), timeout=GENEROUS, what="the VLAN's path is live")
    assert live_units(target) == AT_ONCE | {ON_THE_VLAN}
    assert "host_iface=storage" in addresses(target)[ON_THE_VLAN]

    restarted(target, AT_ONCE | {ON_THE_VLAN})


def restarted(machine: Machine, expected: set[str]) -> None:
    """A supervisor that starts anew finds the same."""
    before = scenario.controllers(machine)
    machine.run("systemctl restart discoverd.service", timeout=GENEROUS)
    machine.wait_until(lambda: live_units(machine) == expected, what="the same units are live again, and no others")
    assert scenario.controllers(machine) == before


def test_firmware_is_not_asked_where_the_setting_says_so(target: Machine) -> None:
    target.put("/etc/nvme/discoverd.conf", "[Global]\nnbft = no\n")
    target.run("systemctl start discoverd.service", timeout=GENEROUS)
    assert scenario.status(target).startswith("0 controllers")
    assert not scenario.units(target)
    target.put("/etc/nvme/discoverd.conf", "")
    target.run("systemctl reload discoverd.service", timeout=GENEROUS)
    target.wait_until(lambda: live_units(target) == AT_ONCE, timeout=GENEROUS, what="all paths that can be are live")


# What nvme-cli 3 enters for what it connects from the tables; nvme-cli 2 enters nothing.
ENTER = """
cd /sys/class/nvme
for controller in nvme*; do
    mkdir -p /run/nvme/registry/$controller
    echo nbft >/run/nvme/registry/$controller/owner
    cat /sys/kernel/uevent_seqnum >/run/nvme/registry/$controller/seqnum
done
"""


@pytest.mark.parametrize("enter", ["", ENTER], ids=["nvme-cli 2", "nvme-cli 3"])
def test_connection_of_nvme_cli_from_the_tables_is_adopted(target: Machine, enter: str) -> None:
    # It ends with an error because of the bad table. In an initial RAM disk it does the same.
    target.run("modprobe nvme-tcp; nvme connect-all --nbft", check=False)
    theirs = scenario.controllers(target)
    assert sorted(found for found, _, _ in theirs.values()) == [nqn(1), nqn(1), nqn(2), nqn(2), nqn(4)]
    target.run(enter)
    expected = AT_ONCE
    if enter:
        # Its unit is made for the connection that is there: nvme-cli asked for no side of this host's in the end.
        expected = AT_ONCE - {STALE} | {scenario.unit_name(4, "198.51.100.1")}
    target.run("systemctl start discoverd.service", timeout=GENEROUS)
    target.wait_until(lambda: live_units(target) == expected, timeout=GENEROUS, what="all paths that can be are live")
    ours = scenario.controllers(target)
    assert theirs.items() <= ours.items(), "the same connections as before"
    assert len(ours) == len(AT_ONCE), "none is there twice"
    restarted(target, expected)


# libnvme drops a namespace without a list of further interfaces, or with an empty one, and a discovery descriptor
# without a name; its Python half stumbles over the gaps that anything dropped leaves. Here there is none of that.
ORACLE = {
    "IPv4": table(namespaces=[Namespace(secondary=(1,))]),
    "much": table(
        [
            Hfi(1),
            Hfi(2, MAC1, vlan=12, ip="2001:db8::2", prefix=64, dhcp="2001:db8::1", info_flags=5),
            Hfi(3, MAC1, vlan=4094, ip=""),
        ],
        [
            Namespace(1, secondary=(2, 3)),
            Namespace(2, "2001:db8::9", "4421", nqn(2), hfi=2, secondary=(1,), transport_flags=7),
            Namespace(3, "198.51.100.1", "8009", DISCOVERY_NQN, hfi=3, secondary=(3,), transport_flags=3),
            Namespace(4, nqn=nqn(3), secondary=(2, 2, 1), transport_flags=5),
        ],
        [Discovery(1, nqn=DISCOVERY_NQN), Discovery(2, "nvme+tcp://[2001:db8::1]/", nqn(9), hfi=2)],
    ),
    "another revision": SECOND,
    "another checksum": table(raw={200: b"\xff"}, fixed=False),
    "cut off": table()[:-1],
}
ASK = """
import json, sys
from libnvme import nvme
print(json.dumps(nvme.nbft_get(sys.argv[1])))
"""


@pytest.mark.parametrize("kind", ORACLE)
def test_libnvme_reads_the_same(machine: Machine, kind: str) -> None:
    machine.put("/tmp/table", ORACLE[kind])
    # In a process of its own: it may crash.
    theirs = json.loads(machine.run(["python3", "-c", ASK, "/tmp/table"]).stdout)
    try:
        ours = nbft.parse(ORACLE[kind])
    except nbft.NbftError:
        assert theirs is None
        return
    assert ours.faults == ()
    assert theirs["host"]["nqn"] == ours.hostnqn
    assert theirs["host"]["id"].replace("-", "") == ours.hostid.hex()
    assert [
        (one["mac_addr"], one["vlan"], "" if one["ipaddr"] == "::" else one["ipaddr"]) for one in theirs["hfi"]
    ] == [(one.mac.hex(":"), one.vlan, one.address) for one in ours.hfis.values()]
    assert [one["dhcp_override"] for one in theirs["hfi"]] == [one.dynamic for one in ours.hfis.values()]
    assert [
        (
            *(one["subsys_nqn"], one["traddr"], one["trsvcid"], [index + 1 for index in one["hfi_indexes"]]),
            *(one["pdu_header_digest_required"], one["data_digest_required"]),
        )
        for one in theirs["subsystem"]
    ] == [
        (one.subsysnqn, one.traddr, one.trsvcid, list(one.hfis), one.header_digest, one.data_digest)
        for one in ours.namespaces
    ]
    assert [(one["uri"], one["nqn"], one["hfi_index"] + 1) for one in theirs["discovery"]] == [
        (one.uri, one.subsysnqn, one.hfi) for one in ours.discoveries
    ]
