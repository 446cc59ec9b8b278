# SPDX-License-Identifier: Apache-2.0
"""The namespaces of controllers as `list` and `topology` see them: size, what lies on them, what is mounted."""

from pathlib import Path

import pytest

from discoverd.cli import namespaces
from discoverd.cli.namespaces import Namespace
from discoverd.kernel import block, mounts

from .fake_storage import Storage, install


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    made = Storage(tmp_path)
    install(made, monkeypatch)
    for device in ("nvme1", "nvme2"):
        made.controller(device)
    for name in ("nvme0n2", "nvme0n10"):
        made.namespace(name, "nvme1", "nvme2")
    (made.sys / "class/block/nvme0n2/size").write_text("32768\n")
    made.swap()
    return made


def test_each_path_has_the_same_namespaces_in_the_order_of_their_numbers(storage: Storage) -> None:
    both = (Namespace("nvme0n2", 16 << 20), Namespace("nvme0n10", 0))
    assert namespaces.of(["nvme1", "nvme2", "nvme9"]) == {"nvme1": both, "nvme2": both, "nvme9": ()}


def test_users_are_mounts_and_swap_on_it_or_on_what_lies_on_it(storage: Storage) -> None:
    storage.partition("nvme0n2p1", "nvme0n2")
    storage.device("dm-0", "nvme0n2p1")
    storage.mapped("dm-0", "LVM-x")
    (storage.sys / "class/block/dm-0/dm/name").write_text("vg-data\n")
    storage.mount("dm-0", "/srv/data")
    storage.mount("dm-0", "/srv/again")
    storage.loop("loop0", "/srv/data/image")
    storage.file("/srv/data/image", "dm-0")
    storage.mount("loop0", "/mnt")
    storage.swap("/dev/nvme0n10")
    found = namespaces.named(["nvme0n2", "nvme0n10"])
    assert set(found["nvme0n2"].devices) == {"nvme0n2p1", "vg-data", "loop0"}
    assert set(found["nvme0n2"].users) == {"/srv/data", "/srv/again", "/mnt"}
    assert found["nvme0n10"].users == ("swap on /dev/nvme0n10",)


def test_nothing_is_claimed_and_nothing_read_for_none(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    namespaces.of(["nvme1"])
    assert storage.ours == {}
    monkeypatch.setattr(mounts, "of_host", lambda: pytest.fail("it was read"))
    assert namespaces.of(["nvme9"]) == {"nvme9": ()}


def test_loop_devices_are_looked_at_once_for_all(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts have dozens, and each one is opened for it."""
    asked = []
    loops = block.loops

    def count() -> dict[str, list[str]]:
        asked.append(1)
        return loops()

    monkeypatch.setattr(block, "loops", count)
    namespaces.of(["nvme1", "nvme2"])
    assert asked == [1]
