# SPDX-License-Identifier: Apache-2.0
"""A log page read in pieces, from controllers that change it meanwhile or claim what cannot be."""

import os
from pathlib import Path

import pytest

from discoverd.kernel import admin

from .log_pages import entry, page

NQN = "nqn.2024-08.com.example:vol{}"


class Target:
    """A controller with these log pages, one after the other: the next one counts when a header has been read."""

    def __init__(self, *pages: bytes) -> None:
        self.pages = list(pages)
        self.reads: list[tuple[int, int]] = []

    def command(self, fd: int, opcode: int, data: bytearray, *cdw: int) -> int:
        os.fstat(fd)
        assert opcode == 0x02
        assert cdw[0] & 0xFF == 0x70
        assert not cdw[0] & 0x8000, "the event would be retained, and no other one sent"
        size = ((cdw[0] >> 16 | cdw[1] << 16) + 1) * 4
        offset = cdw[2] | cdw[3] << 32
        assert size == len(data) <= 4096
        self.reads.append((offset, size))
        part = self.pages[0][offset : offset + size]
        data[: len(part)] = part
        if offset == 0 and len(self.pages) > 1:
            self.pages.pop(0)
        return 0


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device that can be opened."""
    device = tmp_path / "nvme3"
    device.touch()
    opened = os.open
    monkeypatch.setattr("posix.open", lambda path, flags: opened(tmp_path / path.rpartition("/")[2], flags))
    return device


def entries(count: int) -> list[bytes]:
    return [entry(NQN.format(number)) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_a_page_is_read_whole(read: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    whole = page(*entries(count), generation=7)
    target = Target(whole)
    monkeypatch.setattr(admin, "command", target.command)
    assert admin.read_discovery_log("nvme3") == (7, count, whole)
    assert target.reads[0] == target.reads[-1] == (0, 1024)


def test_a_page_that_changes_while_it_is_read_is_read_again(read: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = page(*entries(2), generation=1), page(*entries(5), generation=2)
    target = Target(before, after)
    monkeypatch.setattr(admin, "command", target.command)
    assert admin.read_discovery_log("nvme3") == (2, 5, after)


def test_a_page_that_always_changes_is_given_up(read: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(*(page(*entries(1), generation=number) for number in range(50)))
    monkeypatch.setattr(admin, "command", target.command)
    with pytest.raises(admin.AdminError, match="changed during each of 6 readings"):
        admin.read_discovery_log("nvme3")


@pytest.mark.parametrize(
    ("header", "why"), [(page(form=1), "record format 1"), (page(records=16_385), "claims 16385 entries")]
)
def test_a_page_that_cannot_be(read: Path, monkeypatch: pytest.MonkeyPatch, header: bytes, why: str) -> None:
    target = Target(header)
    monkeypatch.setattr(admin, "command", target.command)
    with pytest.raises(admin.AdminError, match=why):
        admin.read_discovery_log("nvme3")
    assert target.reads == [(0, 1024)]
