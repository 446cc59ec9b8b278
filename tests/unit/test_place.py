# SPDX-License-Identifier: Apache-2.0
"""The controllers that a block device, a device file or a mount point lies on."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from discoverd.cli import place

from .fake_storage import Storage, install


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A subsystem on two paths, with a partition and a logical volume on it, and a disk that is none of NVMe."""
    made = Storage(tmp_path)
    install(made, monkeypatch)
    monkeypatch.setattr(place, "os", SimpleNamespace(**{**vars(os), "stat": made.stat}))
    for device in ("nvme1", "nvme2"):
        made.controller(device)
    made.namespace("nvme0n1", "nvme1", "nvme2")
    made.generic("ng0n1")
    made.partition("nvme0n1p1", "nvme0n1")
    made.device("dm-0", "nvme0n1p1")
    made.nodes["/dev/mapper/vg-data"] = made.nodes["/dev/dm-0"]
    made.controller("nvme3", 1)
    made.plain_namespace("nvme3n1", "nvme3")
    made.device("sda")
    return made


@pytest.mark.parametrize(
    "word",
    ["nvme0n1", "/dev/nvme0n1", "nvme0n1p1", "/dev/nvme0n1p1", "dm-0", "/dev/mapper/vg-data", "ng0n1", "/dev/ng0n1"],
)
def test_what_lies_on_a_namespace_means_all_its_controllers(storage: Storage, word: str) -> None:
    assert place.devices(word) == {"nvme1", "nvme2"}


def test_path_of_a_namespace_means_its_controller(storage: Storage) -> None:
    assert place.devices("nvme0c2n1") == {"nvme2"}
    assert place.devices("nvme3n1") == {"nvme3"}


def test_mount_point_means_what_is_mounted_there(storage: Storage) -> None:
    storage.mount("dm-0", "/srv/my data")
    assert place.devices("/srv/my data") == {"nvme1", "nvme2"}
    assert place.devices("/srv/my data/") == {"nvme1", "nvme2"}
    assert place.devices("/srv") == set()
    # The last one lies over the others.
    storage.mount("nvme3n1", "/srv/my data")
    assert place.devices("/srv/my data") == {"nvme3"}
    storage.mount("sda", "/srv/my data")
    assert place.devices("/srv/my data") == set()


@pytest.mark.parametrize("word", ["sda", "/dev/sda", "/dev/nothing", "nvme9n1", "", "..", "../x", "/", "vol1", "*"])
def test_other_words_lead_to_no_controller(storage: Storage, word: str) -> None:
    assert place.devices(word) == set()
