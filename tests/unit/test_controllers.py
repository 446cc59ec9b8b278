# SPDX-License-Identifier: Apache-2.0
"""Which controller in the kernel is the one that is wanted."""

import _socket
import os
import posix
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discoverd.kernel import controllers, routes
from discoverd.kernel.controllers import Controller, at_target, canonical_nqn, matches, same_address

NQN = "nqn.2024-08.com.example:vol1"
DISCOVERY = controllers.DISCOVERY_NQN
HOST = "nqn.2024-08.com.example:host"
HOSTID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
UUID_NQN = "nqn.2014-08.org.nvmexpress:uuid:0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
UPPER_NQN = UUID_NQN[:32] + UUID_NQN[32:].upper()
# Names of this host's interfaces, with their index; "storage" is the second name of eth1.
INTERFACES = {"lo": 1, "eth0": 2, "eth1": 3, "storage": 3, "dummy0": 4}

Sysfs = dict[str, str]


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /sys/class/nvme of our own, on a host with some addresses, of which one is on two interfaces."""
    monkeypatch.setattr(controllers, "CLASS", str(tmp_path))
    owned = [("eth0", "192.0.2.9"), ("eth1", "198.51.100.9"), ("eth1", "2001:db8::9"), ("lo", "203.0.113.9")]
    owned += [("eth0", "203.0.113.8"), ("eth1", "203.0.113.8")]

    def index(name: str) -> int:
        if name not in INTERFACES:
            raise OSError(19, "No such device")
        return INTERFACES[name]

    monkeypatch.setattr(_socket, "if_nametoindex", index)

    def local() -> list[tuple[str, bytes]]:
        return [
            (name, socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)) for name, text in owned
        ]

    monkeypatch.setattr(routes, "local_addresses", local)
    return tmp_path


def live(tree: Path, device: str = "nvme3", **attributes: str) -> Controller:
    """Put a controller into the tree and read it."""
    defaults = {
        "transport": "tcp",
        "address": "traddr=192.0.2.1,trsvcid=4420",
        "subsysnqn": NQN,
        "hostnqn": HOST,
        "hostid": HOSTID,
        "cntrltype": "io",
        "state": "live",
    }
    directory = tree / device
    directory.mkdir()
    for name, value in (defaults | attributes).items():
        (directory / name).write_text(value + "\n")
    return Controller(device)


def wanted(**changes: str) -> dict[str, str]:
    defaults = {
        "nqn": NQN,
        "transport": "tcp",
        "traddr": "192.0.2.1",
        "trsvcid": "4420",
        "hostnqn": HOST,
        "hostid": HOSTID,
    }
    return {key: value for key, value in (defaults | changes).items() if value}


TCP = "traddr=192.0.2.1,trsvcid=4420"
# What is wanted, what is live, whether they are the same, and which rule decides.
GENERAL: list[tuple[Sysfs, Sysfs, bool]] = [
    ({}, {}, True),
    ({"transport": "rdma"}, {}, False),
    ({"trsvcid": "4421"}, {}, False),
    ({"traddr": "192.0.2.2"}, {}, False),
    ({"nqn": NQN + "x"}, {}, False),
    ({"nqn": NQN.upper()}, {}, False),
    # The host's identity, as far as the kernel tells.
    ({"hostnqn": HOST + "x"}, {}, False),
    ({"hostnqn": HOST + "x"}, {"hostnqn": ""}, True),
    ({"hostid": HOSTID.replace("0f", "1f")}, {}, False),
    ({"hostid": HOSTID.upper()}, {}, True),
    ({}, {"hostnqn": "", "hostid": ""}, True),
    # A UUID is the same in either case, of a host as of a subsystem.
    ({"hostnqn": UPPER_NQN}, {"hostnqn": UUID_NQN}, True),
    ({"hostnqn": UUID_NQN}, {"hostnqn": UPPER_NQN}, True),
    ({"hostnqn": UUID_NQN.replace("uuid", "UUID")}, {"hostnqn": UUID_NQN}, False),
    ({"nqn": UPPER_NQN}, {"subsysnqn": UUID_NQN}, True),
    ({"nqn": UUID_NQN}, {"subsysnqn": UPPER_NQN}, True),
    ({"nqn": UUID_NQN[:-1] + "1"}, {"subsysnqn": UUID_NQN}, False),
    # TP8013: who asks for the well-known name is content with a unique one, of a discovery controller.
    ({"nqn": DISCOVERY}, {"subsysnqn": DISCOVERY, "cntrltype": "discovery"}, True),
    ({"nqn": DISCOVERY}, {"subsysnqn": "nqn.2024-08.com.example:dc", "cntrltype": "discovery"}, True),
    ({"nqn": DISCOVERY}, {"subsysnqn": NQN, "cntrltype": "io"}, False),
    ({"nqn": DISCOVERY}, {"subsysnqn": DISCOVERY, "cntrltype": ""}, True),
    ({"nqn": "nqn.2024-08.com.example:dc"}, {"subsysnqn": DISCOVERY, "cntrltype": "discovery"}, False),
    # Spellings of an address.
    ({"traddr": "2001:db8::1"}, {"address": "traddr=2001:0DB8:0:0:0:0:0:1,trsvcid=4420"}, True),
    ({}, {"address": "traddr=::ffff:192.0.2.1,trsvcid=4420"}, True),
    ({"traddr": "fe80::1%eth0"}, {"address": "traddr=fe80::1%eth0,trsvcid=4420"}, True),
    ({"traddr": "fe80::1%eth0"}, {"address": "traddr=fe80::1%eth1,trsvcid=4420"}, False),
    ({"traddr": "fe80::1"}, {"address": "traddr=fe80::1%eth0,trsvcid=4420"}, False),
    ({}, {"address": ""}, False),
    ({}, {"address": "(efault)"}, False),
]
SOURCE: list[tuple[Sysfs, Sysfs, bool]] = [
    # Who wants neither address nor interface is content with any.
    ({}, {"address": TCP + ",host_traddr=192.0.2.9,host_iface=eth0,src_addr=192.0.2.9"}, True),
    # Since kernel 6.1: the address that the connection has.
    ({"host_traddr": "192.0.2.9"}, {"address": TCP + ",src_addr=192.0.2.9"}, True),
    ({"host_traddr": "192.0.2.9"}, {"address": TCP + ",src_addr=198.51.100.9"}, False),
    ({"host_traddr": "192.0.2.9"}, {"address": TCP + ",src_addr=::ffff:192.0.2.9"}, True),
    # It counts, whatever was asked for at connect.
    ({"host_traddr": "192.0.2.9"}, {"address": TCP + ",host_traddr=198.51.100.9,src_addr=192.0.2.9"}, True),
    ({"host_iface": "eth0"}, {"address": TCP + ",src_addr=192.0.2.9"}, True),
    ({"host_iface": "eth1"}, {"address": TCP + ",src_addr=192.0.2.9"}, False),
    ({"host_iface": "eth1"}, {"address": TCP + ",src_addr=2001:DB8:0::9"}, True),
    ({"host_iface": "eth0"}, {"address": TCP + ",src_addr=203.0.113.1"}, False),
    # The interface that was asked for at connect counts, wherever the address lies.
    ({"host_iface": "eth1"}, {"address": TCP + ",host_iface=eth1,src_addr=192.0.2.9"}, True),
    ({"host_iface": "eth0"}, {"address": TCP + ",host_iface=eth0,src_addr=203.0.113.9"}, True),
    ({"host_iface": "eth1"}, {"address": TCP + ",host_iface=eth0,src_addr=203.0.113.9"}, False),
    ({"host_iface": "eth0"}, {"address": TCP + ",src_addr=203.0.113.9"}, False),
    ({"host_iface": "eth0"}, {"address": TCP + ",host_iface=eth0,src_addr=203.0.113.8"}, True),
    ({"host_iface": "eth0"}, {"address": TCP + ",host_iface=eth1,src_addr=203.0.113.8"}, False),
    ({"host_iface": "eth0"}, {"address": TCP + ",host_iface=eth1"}, False),
    ({"host_iface": "eth1"}, {"address": TCP + ",src_addr=203.0.113.8"}, True),
    (
        {"host_iface": "eth0", "host_traddr": "203.0.113.8"},
        {"address": TCP + ",host_traddr=203.0.113.8,host_iface=eth1,src_addr=203.0.113.8"},
        False,
    ),
    # Second names, and names that no interface has any more.
    ({"host_iface": "storage"}, {"address": TCP + ",host_iface=storage,src_addr=198.51.100.9"}, True),
    ({"host_iface": "storage"}, {"address": TCP + ",host_iface=eth1,src_addr=198.51.100.9"}, True),
    ({"host_iface": "eth1"}, {"address": TCP + ",host_iface=storage,src_addr=203.0.113.9"}, True),
    ({"host_iface": "storage"}, {"address": TCP + ",host_iface=eth0,src_addr=203.0.113.9"}, False),
    ({"host_iface": "storage"}, {"address": TCP + ",src_addr=198.51.100.9"}, True),
    ({"host_iface": "storage"}, {"address": TCP + ",src_addr=192.0.2.9"}, False),
    ({"host_iface": "old0"}, {"address": TCP + ",host_iface=old0,src_addr=192.0.2.9"}, True),
    ({"host_iface": "old0"}, {"address": TCP + ",host_iface=eth0,src_addr=192.0.2.9"}, False),
    ({"host_iface": "eth0"}, {"address": TCP + ",host_iface=old0,src_addr=192.0.2.9"}, False),
    ({"host_iface": "old0"}, {"address": TCP + ",host_iface=old1,src_addr=192.0.2.9"}, False),
    ({"host_traddr": "198.51.100.9"}, {"address": TCP + ",host_iface=storage"}, True),
    ({"host_traddr": "192.0.2.9", "host_iface": "eth0"}, {"address": TCP + ",src_addr=192.0.2.9"}, True),
    ({"host_traddr": "192.0.2.9", "host_iface": "eth1"}, {"address": TCP + ",src_addr=192.0.2.9"}, False),
    ({"host_traddr": "198.51.100.9", "host_iface": "eth0"}, {"address": TCP + ",src_addr=192.0.2.9"}, False),
    # Before: what was asked for at connect.
    ({"host_traddr": "192.0.2.9"}, {"address": TCP + ",host_traddr=192.0.2.9"}, True),
    ({"host_traddr": "192.0.2.9"}, {"address": TCP + ",host_traddr=198.51.100.9"}, False),
    ({"host_traddr": "192.0.2.9"}, {"address": TCP + ",host_iface=eth0"}, True),
    ({"host_traddr": "192.0.2.9"}, {"address": TCP + ",host_iface=eth1"}, False),
    ({"host_traddr": "192.0.2.9"}, {}, True),
    ({"host_traddr": "192.0.2.9"}, {"address": TCP + ",host_traddr=none,src_addr=None"}, True),
    ({"host_iface": "eth0"}, {"address": TCP + ",host_iface=eth0"}, True),
    ({"host_iface": "eth1"}, {"address": TCP + ",host_iface=eth0"}, False),
    ({"host_iface": "eth0"}, {"address": TCP + ",host_traddr=192.0.2.9"}, True),
    ({"host_iface": "eth1"}, {"address": TCP + ",host_traddr=192.0.2.9"}, False),
    ({"host_iface": "eth0"}, {}, True),
    # Any address of the interface, not only its first.
    ({"host_traddr": "2001:db8::9"}, {"address": TCP + ",host_iface=eth1"}, True),
]
WWNS = "nn-0x20000090fa942779:pn-0x10000090fa942779"
OTHER = "nn-0x20000090fa942780:pn-0x10000090fa942780"
FC_LIVE = {"transport": "fc", "address": f"traddr={WWNS},trsvcid=none,host_traddr={OTHER}"}
FC_WANTED = {"transport": "fc", "trsvcid": "", "traddr": WWNS, "host_traddr": OTHER}
RDMA_LIVE = {"transport": "rdma", "address": TCP + ",host_traddr=192.0.2.9"}
OTHERS: list[tuple[Sysfs, Sysfs, bool]] = [
    (FC_WANTED, FC_LIVE, True),
    (FC_WANTED | {"traddr": WWNS.upper()}, FC_LIVE, True),
    (FC_WANTED, FC_LIVE | {"address": f"traddr={WWNS},host_traddr={WWNS}"}, False),
    (FC_WANTED, FC_LIVE | {"address": f"traddr={WWNS}"}, False),
    (FC_WANTED | {"host_traddr": ""}, FC_LIVE, False),
    (FC_WANTED | {"traddr": OTHER}, FC_LIVE, False),
    ({"transport": "rdma"}, RDMA_LIVE, True),
    ({"transport": "rdma", "host_traddr": "192.0.2.9"}, RDMA_LIVE, True),
    ({"transport": "rdma", "host_traddr": "::ffff:192.0.2.9"}, RDMA_LIVE, True),
    ({"transport": "rdma", "host_traddr": "192.0.2.8"}, RDMA_LIVE, False),
    ({"transport": "loop", "traddr": "", "trsvcid": ""}, {"transport": "loop", "address": ""}, True),
]


@pytest.mark.parametrize(("asked", "there", "same"), GENERAL + SOURCE + OTHERS)
def test_matching(tree: Path, asked: Sysfs, there: Sysfs, same: bool) -> None:
    assert matches(wanted(**asked), live(tree, **there)) is same


host_sides = st.fixed_dictionaries(
    {},
    optional={
        "host_traddr": st.sampled_from(["192.0.2.9", "203.0.113.8", "203.0.113.9"]),
        "host_iface": st.sampled_from(["eth0", "eth1", "storage", "old0"]),
    },
)


def connected(side: Sysfs, src_addr: str) -> Controller:
    """Return the controller of a connect with this host's side, as sysfs has it."""
    made = Controller("none")
    for name, value in (wanted() | side).items():
        setattr(made, "subsysnqn" if name == "nqn" else name, value)
    made.src_addr = src_addr
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(host_sides, st.sampled_from(["", "192.0.2.9", "198.51.100.9", "203.0.113.8", "203.0.113.9"]))
def test_duplicate_for_the_kernel_always_matches(tree: Path, side: Sysfs, address: str) -> None:
    # The kernel compares the options as they were written; from where it connected shows only while it is.
    source = side.get("host_traddr", address) if address else ""
    assert matches(wanted() | side, connected(side, source))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(host_sides, host_sides, st.sampled_from(["203.0.113.8", "203.0.113.9"]))
def test_paths_through_two_interfaces_never_match(tree: Path, one: Sysfs, other: Sysfs, address: str) -> None:
    through = [INTERFACES.get(side.get("host_iface", ""), side.get("host_iface")) for side in (one, other)]
    if None not in through and through[0] != through[1]:
        assert not matches(wanted() | one, connected(other, other.get("host_traddr", address)))


@given(st.text(max_size=8), st.uuids().map(str), st.sampled_from([str.upper, str.lower, str.swapcase, str.title]))
def test_only_the_uuid_of_a_uuid_nqn_is_without_case(text: str, uuid: str, spell: Callable[[str], str]) -> None:
    nqn = controllers.UUID_NQN_PREFIX + uuid
    assert canonical_nqn(controllers.UUID_NQN_PREFIX + spell(uuid)) == nqn
    other = "nqn.2024-08.com.example:" + text
    assert canonical_nqn(other) == other


@pytest.mark.parametrize("state", ["deleting", "deleting (no IO)", "dead"])
def test_controller_being_deleted_is_not_adopted(tree: Path, state: str) -> None:
    live(tree, state=state)
    assert at_target(wanted()) == []
    live(tree, "nvme4")
    assert [one.device for one in at_target(wanted())] == ["nvme4"]


@pytest.mark.parametrize("state", ["live", "connecting", "new", "resetting"])
def test_controller_being_connected_is_adopted(tree: Path, state: str) -> None:
    live(tree, state=state)
    live(tree, "nvme4", subsysnqn="nqn.2024-08.com.example:another")
    assert [one.device for one in at_target(wanted())] == ["nvme3"]


@pytest.mark.parametrize(
    ("transport", "one", "other", "same"),
    [
        ("tcp", "", "", True),
        ("tcp", "", "192.0.2.1", False),
        ("tcp", "nonsense", "192.0.2.1", False),
        ("tcp", "nonsense", "Nonsense", False),
        ("tcp", "::1", "0:0:0:0:0:0:0:1", True),
        ("tcp", "::ffff:c000:201", "192.0.2.1", True),
        ("fc", "nn-0xAB,pn-0xCD", "nn-0xab:pn-0xcd", True),
        ("loop", "A", "a", True),
    ],
)
def test_same_address(transport: str, one: str, other: str, same: bool) -> None:
    assert same_address(transport, one, other) is same
    assert same_address(transport, other, one) is same


def test_reading(tree: Path) -> None:
    one = live(
        tree,
        address="traddr=192.0.2.1,trsvcid=4420,host_traddr=192.0.2.9,host_iface=eth0,src_addr=192.0.2.9",
        hostid="none",
        cntrltype="(efault)",
    )
    assert (one.device, one.transport, one.subsysnqn, one.state) == ("nvme3", "tcp", NQN, "live")
    assert (one.traddr, one.trsvcid) == ("192.0.2.1", "4420")
    assert (one.host_traddr, one.host_iface, one.src_addr) == ("192.0.2.9", "eth0", "192.0.2.9")
    assert (one.hostid, one.cntrltype) == ("", "")


def test_a_controller_that_goes_while_it_is_read(tree: Path) -> None:
    (tree / "nvme5").mkdir()
    (tree / "nvme5" / "address").mkdir()
    one = Controller("nvme5")
    assert (one.transport, one.traddr, one.state) == ("", "", "")


def test_all_names(tree: Path) -> None:
    live(tree, "nvme0", transport="pcie", address="0000:00:04.0")
    live(tree, "nvme10", transport="loop")
    (tree / "other").mkdir()
    assert sorted(controllers.names()) == ["nvme0", "nvme10"]


def test_a_kernel_without_nvme(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    monkeypatch.setattr(controllers, "CLASS", str(tree / "none"))
    assert at_target(wanted()) == []
    assert controllers.sysfs_inode("nvme0") == 0


def test_a_name_that_is_used_again_is_another_controller(tree: Path) -> None:
    live(tree)
    first = controllers.sysfs_inode("nvme3")
    assert first
    assert controllers.sysfs_inode("nvme3") == first
    # The old directory keeps its inode number from being handed out again.
    (tree / "nvme3").rename(tree / "gone")
    assert controllers.sysfs_inode("nvme3") == 0
    live(tree)
    assert controllers.sysfs_inode("nvme3") not in (0, first)


def test_own_addresses_are_read_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    try:
        found = routes.local_addresses()
    except OSError as error:
        pytest.skip(f"no rtnetlink here: {error}")
    assert ("lo", socket.inet_aton("127.0.0.1")) in found


# Secrets --------------------------------------------------------------------------------------------------


def test_secrets_are_hidden_of_the_controller_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "CLASS", str(tmp_path))
    assert controllers.hide_secrets("nvme0", 1) == ""
    (tmp_path / "nvme0").mkdir()
    secrets = [tmp_path / "nvme0" / name for name in ("dhchap_secret", "dhchap_ctrl_secret")]
    for one in secrets:
        one.touch(0o644)
    inode = controllers.sysfs_inode("nvme0")
    assert controllers.hide_secrets("nvme0", inode + 1) == ""
    assert [one.stat().st_mode & 0o777 for one in secrets] == [0o644, 0o644]
    before = os.listdir("/proc/self/fd")
    assert controllers.hide_secrets("nvme0", inode) == ""
    assert [one.stat().st_mode & 0o777 for one in secrets] == [0o600, 0o600]
    secrets[0].unlink()
    assert controllers.hide_secrets("nvme0", inode) == ""

    def chmod(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    secrets[1].chmod(0o644)
    monkeypatch.setattr(controllers, "posix", SimpleNamespace(**{**vars(posix), "chmod": chmod}))
    assert "everybody can read dhchap_ctrl_secret of nvme0" in controllers.hide_secrets("nvme0", inode)
    assert len(os.listdir("/proc/self/fd")) == len(before)
