# SPDX-License-Identifier: Apache-2.0
"""What is claimed of the controllers that were connected before the system was booted."""

import errno
from pathlib import Path

import pytest

from discoverd import boot_record, registry, state
from discoverd.kernel import controllers
from discoverd.plan.candidate import BOOT
from discoverd.sources import boot
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO

NQN = "nqn.2024-08.com.example:vol1"
HOST = "nqn.2024-08.com.example:host"
OTHER = "nqn.2024-08.com.example:firmware"
HOSTID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


class Boot:
    """A host with controllers, a record of those that were there when it booted, and a registry."""

    def __init__(self, root: Path) -> None:
        self.sysfs = root / "nvme"
        self.sysfs.mkdir()
        self.root = root
        self._removed = 0

    def connect(self, device: str = "nvme0", recorded: bool = True, owner: str = "", **attributes: str) -> None:
        given = {
            "transport": "tcp",
            "address": "traddr=192.0.2.1,trsvcid=4420",
            "subsysnqn": NQN,
            "cntrltype": "io",
            "state": "live",
            "hostnqn": HOST,
            "hostid": HOSTID,
            **attributes,
        }
        (self.sysfs / device).mkdir()
        for name, value in given.items():
            (self.sysfs / device / name).write_text(value + "\n")
        if recorded:
            before = boot_record.recorded()
            before[device] = controllers.sysfs_inode(device)
            fields = [(name, str(instance)) for name, instance in before.items()]
            state.write(boot_record.PATH, state.encode(boot_record.KIND, fields))
        if owner:
            registry.claim(device, owner, "")

    def disconnect(self, device: str = "nvme0") -> None:
        """Kept elsewhere, so that no other gets its inode number."""
        self._removed += 1
        (self.sysfs / device).rename(self.root / f"removed{self._removed}")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    (tmp_path / "registry").mkdir()
    (tmp_path / "uevent_seqnum").write_text("4711\n")
    monkeypatch.setattr(controllers, "CLASS", str(tmp_path / "nvme"))
    monkeypatch.setattr(boot_record, "PATH", str(tmp_path / "boot-controllers"))
    monkeypatch.setattr(registry, "ROOT", str(tmp_path / "registry"))
    monkeypatch.setattr(registry, "_SEQNUM", str(tmp_path / "uevent_seqnum"))
    return Boot(tmp_path)


def test_nothing_was_connected(host: Boot) -> None:
    assert boot.claims(HOST) == ()
    host.sysfs.rmdir()
    assert boot.claims(HOST) == ()


def test_a_claim_is_for_the_connection_as_it_is(host: Boot) -> None:
    host.connect(
        "nvme3",
        address="traddr=192.0.2.1,trsvcid=4421,host_traddr=192.0.2.9,host_iface=eth0",
        dhchap_secret="DHHC-1:00:host:",
        dhchap_ctrl_secret="none",
    )
    (one,) = boot.claims(HOST)
    assert (one.role, one.origin, one.source, one.give_up_after) == (IO, BOOT, "nvme3 since the boot", 0)
    assert one.tid.instance == f"tcp:192.0.2.1:4421:{NQN}::eth0:192.0.2.9"
    assert one.options == (
        ("nqn", NQN),
        ("transport", "tcp"),
        ("traddr", "192.0.2.1"),
        ("host_traddr", "192.0.2.9"),
        ("host_iface", "eth0"),
        ("trsvcid", "4421"),
        ("hostnqn", HOST),
        ("hostid", HOSTID),
        ("dhchap_secret", "DHHC-1:00:host:"),
    )
    assert "DHHC" not in repr(one)
    # It would be adopted by what was claimed.
    wanted = dict(one.options)
    assert [live.device for live in controllers.at_target(wanted) if controllers.matches(wanted, live)] == ["nvme3"]


def test_firmware_may_have_another_name_for_this_host(host: Boot) -> None:
    host.connect(hostnqn=OTHER)
    (one,) = boot.claims(HOST)
    assert one.tid.hostnqn == OTHER
    assert ("hostnqn", OTHER) in one.options


def test_own_name_in_another_case_is_no_other_host(host: Boot) -> None:
    own = f"nqn.2014-08.org.nvmexpress:uuid:{HOSTID}"
    host.connect(hostnqn=own.replace(HOSTID, HOSTID.upper()))
    (one,) = boot.claims(own)
    assert one.tid.hostnqn == ""
    # As the kernel has it: another spelling would be another host to it.
    assert dict(one.options)["hostnqn"].endswith(HOSTID.upper())


@pytest.mark.parametrize(("nqn", "marked"), [(DISCOVERY_NQN, False), ("nqn.2024-08.com.example:dc", True)])
def test_a_discovery_controller(host: Boot, nqn: str, marked: bool) -> None:
    host.connect(subsysnqn=nqn, cntrltype="discovery", address="traddr=192.0.2.1,trsvcid=8009")
    (one,) = boot.claims(HOST)
    assert (one.role, one.tid.subsysnqn) == (DISCOVERY, nqn)
    assert (("discovery", "") in one.options) is marked
    assert ("keep_alive_tmo", "30") in one.options


def test_fibre_channel(host: Boot) -> None:
    host.connect(
        transport="fc",
        address="traddr=nn-0x1:pn-0x2,host_traddr=nn-0x3:pn-0x4",
    )
    (one,) = boot.claims(HOST)
    assert one.tid.transport == "fc"
    assert one.tid.host_traddr == "nn-0x0000000000000003:pn-0x0000000000000004"


@pytest.mark.parametrize(
    ("owner", "recorded", "claimed", "after"),
    [
        ("", True, True, None),
        ("", False, False, None),
        # Nobody looks after what the rule connected: it changes hands, and is not ours to disconnect.
        ("autoconnect", True, True, registry.OWNER),
        ("autoconnect", False, False, "autoconnect"),
        (registry.OWNER, True, True, registry.OWNER),
        (registry.OWNER, False, False, registry.OWNER),
        # What the registry says of firmware needs no record.
        (registry.FIRMWARE_OWNER, True, True, registry.FIRMWARE_OWNER),
        (registry.FIRMWARE_OWNER, False, True, registry.FIRMWARE_OWNER),
        ("stas", True, False, "stas"),
        ("nvme-discoverd", True, False, "nvme-discoverd"),
        ("stas", False, False, "stas"),
    ],
)
def test_whose_it_is(host: Boot, owner: str, recorded: bool, claimed: bool, after: str | None) -> None:
    host.connect(recorded=recorded, owner=owner)
    found = boot.claims(HOST)
    assert len(found) == claimed
    assert registry.retrieve("nvme0", "owner") == after
    if owner == "autoconnect" and claimed:
        assert registry.retrieve("nvme0", "unit") == found[0].tid.unit
        assert registry.retrieve("nvme0", "adopted") is not None
    # After a restart of the supervisor it is the same.
    assert boot.claims(HOST) == found


def test_a_name_that_is_anothers_by_now_is_not_claimed(host: Boot) -> None:
    host.connect()
    host.disconnect()
    host.connect(recorded=False, subsysnqn="nqn.2024-08.com.example:by-hand")
    assert boot.claims(HOST) == ()


def test_removed_controller_is_not_claimed(host: Boot) -> None:
    host.connect("nvme0")
    host.connect("nvme1", subsysnqn="nqn.2024-08.com.example:vol2")
    host.disconnect("nvme0")
    assert [one.source for one in boot.claims(HOST)] == ["nvme1 since the boot"]


@pytest.mark.parametrize(
    "odd",
    [
        {"subsysnqn": ""},
        {"address": ""},
        {"transport": ""},
        {"transport": "pcie", "address": "0000:01:00.0"},
        {"subsysnqn": "nqn.a,b"},
    ],
)
def test_implausible_controller_is_left_alone(
    host: Boot, caplog: pytest.LogCaptureFixture, odd: dict[str, str]
) -> None:
    """It is going away while it is looked at, perhaps."""
    host.connect("nvme0", owner="autoconnect", **odd)  # type: ignore[arg-type]
    host.connect("nvme1", subsysnqn="nqn.2024-08.com.example:vol2")
    assert [one.source for one in boot.claims(HOST)] == ["nvme1 since the boot"]
    assert registry.retrieve("nvme0", "owner") == "autoconnect"
    assert "nvme0 was connected at boot and is left alone" in caplog.text


def test_an_unreadable_registry_is_no_reason_to_take_anything(
    host: Boot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host.connect()

    def retrieve(device: str, attribute: str) -> str | None:
        raise OSError(errno.EIO, f"Input/output error of {device}/{attribute}")

    monkeypatch.setattr(registry, "retrieve", retrieve)
    assert boot.claims(HOST) == ()
    assert "nvme0 is left alone" in caplog.text


def test_an_unwritable_registry(host: Boot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be entered stays what it was: the worker would take it for somebody else's."""
    host.connect(owner="autoconnect")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(registry, "claim", full)
    assert boot.claims(HOST) == ()
    assert "cannot be entered" in caplog.text
