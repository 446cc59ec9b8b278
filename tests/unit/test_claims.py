# SPDX-License-Identifier: Apache-2.0
"""Exclusive claims: what is claimed, what is busy, and what cannot be told."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from discoverd.kernel import block
from discoverd.kernel.claims import Claims
from discoverd.kernel.openers import UnknownError

from .fake_storage import Storage, install


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    made = Storage(tmp_path)
    install(made, monkeypatch)
    made.device("nvme0n1")
    return made


@pytest.fixture
def claims(storage: Storage) -> Iterator[Claims]:
    made = Claims()
    yield made
    made.keep(set())
    assert storage.ours == {}


def take(claims: Claims) -> list[str]:
    return claims.take(block.stack("nvme0n1"))


def test_a_claim_is_held(storage: Storage, claims: Claims) -> None:
    assert take(claims) == []
    assert take(claims) == []
    assert list(storage.ours) == ["nvme0n1"]


def test_claimed_device_is_busy(storage: Storage, claims: Claims) -> None:
    storage.claimed.add("nvme0n1")
    assert take(claims) == ["nvme0n1"]


def test_a_partition_of_others_leaves_us_the_rest(storage: Storage, claims: Claims) -> None:
    for number in (1, 2):
        storage.partition(f"nvme0n1p{number}", "nvme0n1")
    storage.claimed.add("nvme0n1p1")
    assert take(claims) == ["nvme0n1p1"]
    assert list(storage.ours) == ["nvme0n1p2"]


def test_the_partitions_under_a_device_on_the_whole_are_nobodys(storage: Storage, claims: Claims) -> None:
    """An old partition table on a disk that LVM has for itself."""
    storage.partition("nvme0n1p1", "nvme0n1")
    storage.device("dm-0", "nvme0n1")
    assert take(claims) == []
    assert list(storage.ours) == ["dm-0"]


def test_kept_claim_stays(storage: Storage, claims: Claims) -> None:
    storage.loop("loop0", "/dev/nvme0n1")
    assert take(claims) == []
    claims.keep({"loop0", "sda"})
    assert list(storage.ours) == ["loop0"]


@pytest.mark.parametrize("number", [errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM])
def test_missing_device_is_not_busy(storage: Storage, claims: Claims, number: int) -> None:
    storage.open_errors["nvme0n1"] = number
    assert take(claims) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE])
def test_claim_that_fails_otherwise_is_an_error(storage: Storage, claims: Claims, number: int) -> None:
    storage.open_errors["nvme0n1"] = number
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        take(claims)
    assert caught.value.errno == number


def test_without_its_device_file_it_cannot_be_told(storage: Storage, claims: Claims) -> None:
    storage.open_errors["nvme0n1"] = errno.ENOENT
    with pytest.raises(UnknownError, match="there is no /dev/nvme0n1"):
        take(claims)
    # It has gone from the kernel.
    assert claims.take({"nvme0n2": []}) == []
    storage.open_errors["nvme0n2"] = errno.ENOENT
    assert claims.take({"nvme0n2": []}) == []


def test_a_look_holds_nothing(storage: Storage) -> None:
    look = Claims(look=True)
    assert take(look) == []
    assert storage.ours == {}
    storage.claimed.add("nvme0n1")
    assert take(look) == ["nvme0n1"]


def test_a_name_with_a_slash(storage: Storage, claims: Claims) -> None:
    """Sysfs writes an exclamation mark for it."""
    storage.device("cciss!c0d0")
    storage.claimed.add("cciss!c0d0")
    assert claims.take({"cciss!c0d0": []}) == ["cciss!c0d0"]
