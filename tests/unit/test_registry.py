# SPDX-License-Identifier: Apache-2.0
"""The registry, byte for byte as nvme-cli 3 reads and writes it."""

import errno
import os
import random
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from discoverd import registry

UNIT = "nvme-ctrl@tcp:192.0.2.1:4420:nqn.x.service"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of our own, and a counter to stamp entries with."""
    place = tmp_path / "registry"
    place.mkdir()
    (tmp_path / "uevent_seqnum").write_text("4711\n")
    monkeypatch.setattr(registry, "ROOT", str(place))
    monkeypatch.setattr(registry, "_SEQNUM", str(tmp_path / "uevent_seqnum"))
    return place


def entry(root: Path, device: str = "nvme3") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / device).iterdir()}


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_an_entry_is_nvme_clis_byte_for_byte(root: Path, umask: int) -> None:
    root.rmdir()
    previous = os.umask(umask)
    try:
        registry.claim("nvme3", registry.OWNER, UNIT)
    finally:
        os.umask(previous)
    assert entry(root) == {"owner": b"nvme-ctrl\n", "seqnum": b"4711\n", "unit": UNIT.encode() + b"\n"}
    assert os.listdir(root) == ["nvme3"]
    for directory in (root, root / "nvme3"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    for path in (root / "nvme3").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert path.is_file()


def test_a_controller_that_was_adopted_is_told_apart(root: Path) -> None:
    registry.claim("nvme3", registry.OWNER, UNIT, adopted=True)
    assert entry(root)["adopted"] == b"yes\n"
    assert sorted(entry(root)) == ["adopted", "owner", "seqnum", "unit"]
    assert registry.retrieve("nvme3", "adopted") == "yes"
    # Claimed again, it is ours.
    registry.claim("nvme3", registry.OWNER, UNIT)
    assert registry.retrieve("nvme3", "adopted") is None


def test_attributes_have_names_that_nvme_cli_takes(root: Path) -> None:
    registry.claim("nvme3", registry.OWNER, UNIT, adopted=True)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in entry(root))


@pytest.mark.parametrize("content", [None, "", "4711 \n12", "\u0664"])
def test_no_stamp_rather_than_a_malformed_one(root: Path, tmp_path: Path, content: str | None) -> None:
    """The clean-up rule removes an entry whose stamp is no number."""
    (tmp_path / "uevent_seqnum").unlink()
    if content is not None:
        (tmp_path / "uevent_seqnum").write_text(content)
    registry.claim("nvme3", registry.OWNER, UNIT)
    assert sorted(entry(root)) == ["owner", "unit"]


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("nvme0", True),
        ("nvme3", True),
        ("nvme003", True),
        ("nvme1234567", True),
        ("nvme", False),
        ("", False),
        ("/dev/nvme3", False),
        ("nvme3n1", False),
        ("NVME3", False),
        ("nvme-1", False),
        ("nvme 3", False),
        ("nvme3\n", False),
        ("nvme٣", False),
        ("nvme²", False),
        ("nvme3/../nvme4", False),
        ("..", False),
        ("xnvme3", False),
    ],
)
def test_device_names(name: str, valid: bool) -> None:
    assert registry.valid_device(name) is valid
    if not valid:
        assert registry.retrieve(name, "owner") is None


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"stas\n", "stas"),
        (b"stas", "stas"),
        (b"stas\n\r\n\n", "stas"),
        (b' quoted "!@#%" \n', ' quoted "!@#%" '),
        (b"\n", ""),
        (b"", None),
        (b"\xff\n", "\ufffd"),
    ],
)
def test_values_as_others_write_them(root: Path, content: bytes, value: str | None) -> None:
    (root / "nvme3").mkdir()
    (root / "nvme3" / "owner").write_bytes(content)
    assert registry.retrieve("nvme3", "owner") == value


@pytest.mark.parametrize("content", [b"two\nlines\n", b"stas\x1b[2J\n", b"\0\n", "stas\u2028x\n".encode(), b"\rstas\n"])
def test_a_damaged_owner_is_somebody_and_any_other_damage_is_nothing(root: Path, content: bytes) -> None:
    (root / "nvme3").mkdir()
    for attribute in ("owner", "unit", "seqnum", "adopted"):
        (root / "nvme3" / attribute).write_bytes(content)
    with pytest.raises(OSError, match="unprintable characters"):
        registry.retrieve("nvme3", "owner")
    assert [registry.retrieve("nvme3", attribute) for attribute in ("unit", "seqnum", "adopted")] == [None] * 3
    registry.claim("nvme3", registry.OWNER, UNIT)
    assert sorted(entry(root)) == ["owner", "seqnum", "unit"]


def test_missing_entry_reads_as_none(root: Path) -> None:
    assert registry.retrieve("nvme3", "owner") is None
    (root / "nvme3").mkdir()
    assert registry.retrieve("nvme3", "owner") is None
    (root / "nvme4").write_bytes(b"")
    assert registry.retrieve("nvme4", "owner") is None


def test_unreadable_entry_is_not_unowned(root: Path) -> None:
    (root / "nvme3" / "owner").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        registry.retrieve("nvme3", "owner")
    (root / "nvme4").mkdir()
    (root / "nvme4" / "owner").symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic"):
        registry.retrieve("nvme4", "owner")


def test_a_claim_takes_the_place_of_the_whole_entry_before(root: Path) -> None:
    (root / "nvme3").mkdir()
    (root / "nvme3" / "owner").write_bytes(b"stas\n")
    (root / "nvme3" / "note").write_bytes(b"of an earlier controller\n")
    registry.claim("nvme3", "nbft", UNIT)
    assert sorted(entry(root)) == ["owner", "seqnum", "unit"]
    assert entry(root)["owner"] == b"nbft\n"
    assert os.listdir(root) == ["nvme3"]


def test_remnant_of_a_killed_claim_is_no_hindrance(root: Path) -> None:
    left = root / f".nvme3.tmp.{os.getpid()}"
    left.mkdir()
    (left / "owner").write_bytes(b"half")
    registry.claim("nvme3", registry.OWNER, UNIT)
    assert os.listdir(root) == ["nvme3"]
    assert entry(root)["owner"] == b"nvme-ctrl\n"


def test_an_entry_that_is_written_in_between_is_replaced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move_away = registry._move_away
    raced = iter([True, True])

    def lose(device: str) -> str:
        trash = move_away(device)
        if next(raced, False):
            (root / device).mkdir()
            (root / device / "owner").write_bytes(b"stas\n")
        return trash

    monkeypatch.setattr(registry, "_move_away", lose)
    registry.claim("nvme3", registry.OWNER, UNIT)
    assert entry(root)["owner"] == b"nvme-ctrl\n"


def test_an_entry_that_somebody_keeps_writing_is_left(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move_away = registry._move_away

    def lose(device: str) -> str:
        trash = move_away(device)
        (root / device).mkdir()
        (root / device / "owner").write_bytes(b"stas\n")
        return trash

    monkeypatch.setattr(registry, "_move_away", lose)
    with pytest.raises(FileExistsError, match="another tool"):
        registry.claim("nvme3", registry.OWNER, UNIT)
    assert entry(root) == {"owner": b"stas\n"}
    assert os.listdir(root) == ["nvme3"]


def test_a_full_file_system_leaves_no_rubbish(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("discoverd.registry.posix.write", full)
    with pytest.raises(OSError, match="No space left"):
        registry.claim("nvme3", registry.OWNER, UNIT)
    assert os.listdir(root) == []


def test_delete(root: Path) -> None:
    registry.claim("nvme3", registry.OWNER, UNIT)
    registry.claim("nvme4", registry.OWNER, UNIT)
    registry.delete("nvme3")
    registry.delete("nvme3")
    assert os.listdir(root) == ["nvme4"]


def test_remnant_of_a_killed_delete_is_no_hindrance(root: Path) -> None:
    left = root / f".trash.nvme3.0.{os.getpid()}"
    left.mkdir()
    (left / "owner").write_bytes(b"half")
    registry.claim("nvme3", registry.OWNER, UNIT)
    registry.delete("nvme3")
    assert os.listdir(root) == []


def test_a_claim_takes_the_place_of_whatever_is_there(root: Path, tmp_path: Path) -> None:
    (root / "nvme3").write_bytes(b"a file")
    registry.claim("nvme3", registry.OWNER, UNIT)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"not ours")
    (root / "nvme4").symlink_to(elsewhere)
    registry.claim("nvme4", registry.OWNER, UNIT)
    (root / "nvme5" / "owner" / "deeper").mkdir(parents=True)
    registry.claim("nvme5", registry.OWNER, UNIT)
    registry.delete("nvme5")
    assert sorted(os.listdir(root)) == ["nvme3", "nvme4"]
    assert entry(root) == entry(root, "nvme4")
    assert os.listdir(elsewhere) == ["file"]


def test_entry_that_cannot_be_emptied_is_left_for_the_next_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir

    def listed_too_early(place: int) -> list[str]:
        """A writer that has looked up the entry's path, and is slow, is always later than we are."""
        names = listdir(place)
        fd = os.open("owner.tmp.aZ3bq9", os.O_WRONLY | os.O_CREAT, dir_fd=place)
        os.close(fd)
        return names

    monkeypatch.setattr("discoverd.registry.posix.listdir", listed_too_early)
    for _ in range(2):
        (root / "nvme3").mkdir()
        (root / "nvme3" / "owner").write_bytes(b"stas\n")
        registry.claim("nvme3", registry.OWNER, UNIT)
        assert entry(root)["owner"] == b"nvme-ctrl\n"
        registry.delete("nvme3")
        assert not (root / "nvme3").exists()
    monkeypatch.undo()
    assert all(name.startswith(".trash.nvme3.") and name.endswith(f".{os.getpid()}") for name in os.listdir(root))


_CLAIMER = """
import sys
sys.path.append(sys.argv[1])
from discoverd import registry
registry.ROOT = sys.argv[2]
for number in range(100):
    try:
        registry.claim("nvme3", f"owner-{sys.argv[3]}-{number}", f"unit-{sys.argv[3]}-{number}")
    except FileExistsError:
        pass
"""


def test_ten_processes_leave_one_whole_entry(root: Path) -> None:
    package = str(Path(registry.__file__).parent.parent)
    processes = [
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CLAIMER, package, str(root), str(number)], stderr=subprocess.PIPE
        )
        for number in range(10)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")
    assert os.listdir(root) == ["nvme3"]
    left = entry(root)
    assert sorted(left) == ["owner", "seqnum", "unit"]
    assert re.fullmatch(rb"owner-\d-\d+\n", left["owner"])
    assert left["owner"].removeprefix(b"owner-") == left["unit"].removeprefix(b"unit-")


# A tool that writes attributes of an entry as nvme-cli 3's library does, as fast as it can, until it is killed.
_FOREIGN = """
import os, random, sys
root, seed = sys.argv[1:]
chance = random.Random(int(seed))
entry = root + "/nvme3"
while True:
    try:
        os.mkdir(entry, 0o755)
    except FileExistsError:
        pass
    path = entry + "/" + chance.choice(("owner", "note", "host"))
    temporary = path + ".tmp." + "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=6))
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.fchmod(fd, 0o644)
        os.write(fd, b"stas\\n")
        os.close(fd)
        os.rename(temporary, path)
    except FileNotFoundError:
        pass
"""
CLAIMS = int(os.environ.get("REGISTRY_CLAIMS", "400"))


def test_claims_and_deletes_hold_while_another_tool_writes(root: Path) -> None:
    seed = int(os.environ.get("REGISTRY_SEED", random.randrange(1 << 32)))
    print(f"again with REGISTRY_SEED={seed}")
    foreign = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", _FOREIGN, str(root), str(seed + number)])
        for number in range(4)
    ]
    try:
        for number in range(CLAIMS):
            registry.claim("nvme3", registry.OWNER, UNIT)
            if number % 4 == 0:
                registry.delete("nvme3")
        assert {process.poll() for process in foreign} == {None}
    finally:
        for process in foreign:
            process.kill()
            process.wait()
    registry.claim("nvme3", registry.OWNER, UNIT)
    assert os.listdir(root) == ["nvme3"]
    assert sorted(entry(root)) == ["owner", "seqnum", "unit"]


def test_remnant_of_a_killed_process_is_swept(root: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name in (f".trash.nvme1.0.{gone.pid}", f".nvme2.tmp.{gone.pid}", f".nvme3.tmp.{os.getpid()}", "nvme4", ".odd"):
        (root / name).mkdir(parents=True)
        (root / name / "owner").write_text("nvme-ctrl\n")
    registry.sweep()
    assert sorted(os.listdir(root)) == [f".nvme3.tmp.{os.getpid()}", ".odd", "nvme4"]
