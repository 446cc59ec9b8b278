# SPDX-License-Identifier: Apache-2.0
"""Whose a controller is, and what a worker does about an entry that others have changed."""

import errno
import os
import time

import pytest

from discoverd import registry, state, store
from discoverd.plan.candidate import BOOT, CONFIGURATION, MDNS, NBFT
from discoverd.worker.ownership import Ownership

from .fake_kernel import Kernel

INSTANCE = "tcp:192.0.2.1:4420:nqn.2024-08.com.example:vol1"
UNIT = f"nvme-ctrl@{INSTANCE}.service"
DC = "tcp:192.0.2.9:8009:nqn.2014-08.org.nvmexpress.discovery"
OTHER = "nvme-ctrl@other.service"


@pytest.fixture(autouse=True)
def device(kernel: Kernel) -> None:
    kernel.add("nvme0")


def entry() -> tuple[str | None, str | None, bool]:
    adopted = registry.retrieve("nvme0", "adopted") is not None
    return registry.retrieve("nvme0", "owner"), registry.retrieve("nvme0", "unit"), adopted


def taken(found: bool = False, origin: str = CONFIGURATION) -> Ownership:
    made = Ownership(INSTANCE)
    made.take("nvme0", origin, found)
    return made


OURS = (registry.OWNER, UNIT, False)


def test_own_connection_is_ours_whatever_was_entered() -> None:
    registry.claim("nvme0", "stas", "theirs")
    one = taken()
    assert (one.foreign, one.protected, entry()) == ("", False, OURS)


@pytest.mark.parametrize(("origin", "protected"), [(CONFIGURATION, False), (DC, True), (MDNS, True), (BOOT, True)])
def test_unowned_controller_is_protected_unless_an_administrator_asks_for_it(origin: str, protected: bool) -> None:
    one = taken(found=True, origin=origin)
    assert (one.foreign, one.protected, entry()) == ("", protected, (registry.OWNER, UNIT, protected))
    # The next worker of the same unit knows.
    assert taken(found=True, origin=origin).protected is protected


def test_an_entry_that_was_erased_is_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    one = taken()
    registry.delete("nvme0")
    assert not one.check(CONFIGURATION)
    assert entry() == OURS
    assert "another tool erased nvme0 from the registry" in capsys.readouterr().err
    assert not one.check(CONFIGURATION)
    assert capsys.readouterr().err == ""


def test_erased_entry_of_adopted_controller_stays_protected() -> None:
    one = taken(found=True, origin=DC)
    registry.delete("nvme0")
    assert not one.check(DC)
    assert (one.protected, entry()) == (True, (registry.OWNER, UNIT, True))


def test_an_erased_entry_of_firmware_is_firmwares_again() -> None:
    registry.claim("nvme0", registry.FIRMWARE_OWNER, "")
    one = taken(found=True)
    registry.delete("nvme0")
    assert not one.check(CONFIGURATION)
    assert (one.protected, entry()[:2]) == (True, (registry.FIRMWARE_OWNER, UNIT))


@pytest.mark.parametrize("owner", ["stas", "nvme-discoverd", "nvme-cli"])
def test_taken_over_and_given_back(owner: str) -> None:
    one = taken()
    registry.claim("nvme0", owner, "")
    assert one.check(CONFIGURATION)
    assert (one.foreign, entry()[0]) == (owner, owner)
    # It is said once, and theirs as long as they want it.
    assert not one.check(CONFIGURATION)
    assert entry()[0] == owner
    registry.delete("nvme0")
    assert one.check(CONFIGURATION)
    assert (one.foreign, entry()) == ("", OURS)


def test_from_one_to_another() -> None:
    registry.claim("nvme0", "stas", "")
    one = taken(found=True)
    assert one.foreign == "stas"
    registry.claim("nvme0", "other", "")
    assert one.check(CONFIGURATION)
    assert one.foreign == "other"


def test_firmware_entry_keeps_its_owner_and_is_protected() -> None:
    registry.claim("nvme0", registry.FIRMWARE_OWNER, "")
    one = taken(found=True)
    assert (one.foreign, one.protected, entry()) == ("", True, (registry.FIRMWARE_OWNER, UNIT, False))


def test_connection_for_firmware_is_entered_as_firmware_and_protected() -> None:
    one = taken(origin=NBFT)
    assert (one.foreign, one.protected, entry()) == ("", True, (registry.FIRMWARE_OWNER, UNIT, False))
    # Erased, it is firmware's again.
    registry.delete("nvme0")
    assert not one.check(NBFT)
    assert (one.protected, entry()) == (True, (registry.FIRMWARE_OWNER, UNIT, False))


def test_unentered_firmware_connection_is_firmwares() -> None:
    one = taken(found=True, origin=NBFT)
    assert (one.foreign, one.protected, entry()) == ("", True, (registry.FIRMWARE_OWNER, UNIT, False))


def test_another_unit_of_ours(kernel: Kernel) -> None:
    os.makedirs(state.directory("other"))
    registry.claim("nvme0", registry.OWNER, OTHER)
    one = taken(found=True)
    assert (one.foreign, entry()) == (OTHER, (registry.OWNER, OTHER, False))
    # When that is withdrawn, it is ours.
    os.rmdir(state.directory("other"))
    assert one.check(CONFIGURATION)
    assert (one.foreign, entry()) == ("", OURS)
    assert kernel.deleted == []


def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def retrieve(device: str, attribute: str) -> str | None:
        raise OSError(errno.EIO, f"Input/output error of {device}/{attribute}")

    monkeypatch.setattr(registry, "retrieve", retrieve)


def test_an_unreadable_registry_is_no_reason_to_take_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unreadable(monkeypatch)
    one = taken(found=True)
    assert one.foreign.startswith("somebody (the registry is unreadable")
    assert not one.check(CONFIGURATION)
    assert capsys.readouterr().err.count("cannot read the entry of nvme0") == 1
    monkeypatch.undo()


def test_an_unreadable_registry_is_no_reason_to_give_ours_up(monkeypatch: pytest.MonkeyPatch) -> None:
    one = taken()
    unreadable(monkeypatch)
    assert not one.check(CONFIGURATION)
    assert one.foreign == ""


def test_an_unwritable_registry_is_said_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = registry.claim

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    one = taken()
    registry.delete("nvme0")
    monkeypatch.setattr(registry, "claim", full)
    for _ in range(3):
        assert not one.check(CONFIGURATION)
    assert one.foreign == ""
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr(registry, "claim", claim)
    assert not one.check(CONFIGURATION)
    assert entry() == OURS


# Forget ---------------------------------------------------------------------------------------------------


def test_our_entry_goes_with_the_controller(kernel: Kernel) -> None:
    one = taken()
    kernel.remove("nvme0")
    one.forget()
    assert entry()[0] is None
    assert one.device == ""


def test_anothers_entry_stays(kernel: Kernel) -> None:
    one = taken()
    registry.claim("nvme0", "stas", "")
    kernel.remove("nvme0")
    one.forget()
    assert entry()[0] == "stas"


def test_an_entry_stays_with_the_next_controller_of_the_same_name(kernel: Kernel) -> None:
    one = taken()
    kernel.remove("nvme0")
    kernel.add("nvme0")
    one.forget()
    assert entry() == OURS


# An owner that does not count any more ---------------------------------------------------------------------


def left_to(owner: str) -> Ownership:
    one = taken()
    registry.claim("nvme0", owner, "theirs")
    assert one.check(CONFIGURATION)
    assert one.foreign == owner
    return one


def test_controller_is_taken_back_upon_the_supervisors_word() -> None:
    one = left_to("discoverd")
    os.makedirs(state.directory(INSTANCE), exist_ok=True)
    store.take_back(INSTANCE, "nvme0", "discoverd")
    assert one.check(CONFIGURATION)
    assert (one.foreign, one.protected, entry()) == ("", False, OURS)
    # An owner that comes later is one.
    registry.claim("nvme0", "stas", "theirs")
    assert one.check(CONFIGURATION)
    assert one.foreign == "stas"


@pytest.mark.parametrize(
    ("device", "owner", "age"), [("nvme1", "discoverd", 0), ("nvme0", "stas", 0), ("nvme0", "discoverd", 16)]
)
def test_word_about_another_or_of_earlier_does_not_count(
    device: str, owner: str, age: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = left_to("discoverd")
    os.makedirs(state.directory(INSTANCE), exist_ok=True)
    store.take_back(INSTANCE, device, owner)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "clock_gettime", lambda _: now + age)
    assert not one.check(CONFIGURATION)
    assert (one.foreign, registry.retrieve("nvme0", "owner")) == ("discoverd", "discoverd")


def test_controller_that_others_connected_is_taken_back_and_protected() -> None:
    registry.claim("nvme0", "discoverd", "theirs", adopted=True)
    one = taken(found=True, origin=DC)
    os.makedirs(state.directory(INSTANCE), exist_ok=True)
    store.take_back(INSTANCE, "nvme0", "discoverd")
    assert one.check(DC)
    assert (one.foreign, one.protected, entry()) == ("", True, (registry.OWNER, UNIT, True))
