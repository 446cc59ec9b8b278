# SPDX-License-Identifier: Apache-2.0
"""The record of what the system was booted with: who is in it, when it is made, and what of it counts later."""

import stat
from pathlib import Path

import pytest

from discoverd import boot_record, state
from discoverd.kernel import controllers, spawn

BOOTING = "SystemState=initializing\nSoftRebootsCount=0"


class Boot:
    """A host that boots: its controllers, and what systemd says."""

    def __init__(self, root: Path) -> None:
        self.sysfs = root / "nvme"
        self.sysfs.mkdir()
        self.state = root / "discoverd"
        self.says: tuple[int, str] | None = (0, BOOTING)

    def run(self, *command: str) -> tuple[int, str]:
        assert command[:2] == ("systemctl", "show")
        if self.says is None:
            raise FileNotFoundError(2, "No such file or directory")
        return self.says

    def connect(self, device: str, transport: str = "tcp") -> int:
        """Connect a controller, and return what tells it from others of its name."""
        (self.sysfs / device).mkdir()
        (self.sysfs / device / "transport").write_text(f"{transport}\n")
        return controllers.sysfs_inode(device)

    @property
    def path(self) -> Path:
        return self.state / "boot-controllers"


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    made = Boot(tmp_path)
    monkeypatch.setattr(controllers, "CLASS", str(made.sysfs))
    monkeypatch.setattr(state, "ROOT", str(made.state))
    monkeypatch.setattr(boot_record, "PATH", str(made.path))
    monkeypatch.setattr(spawn, "run", made.run)
    return made


def test_the_fabrics_controllers_are_recorded(boot: Boot, capsys: pytest.CaptureFixture[str]) -> None:
    found = {device: boot.connect(device, transport) for device, transport in [("nvme1", "tcp"), ("nvme4", "fc")]}
    boot.connect("nvme0", "pcie")
    boot.connect("nvme7", "loop")
    boot.connect("nvme8", "apple-nvme")
    assert boot_record.main() == 0
    assert boot_record.recorded() == found
    lines = {f"nvme{number}={found[f'nvme{number}']}" for number in (1, 4)}
    written = boot.path.read_text().splitlines()
    assert (written[0], set(written[1:-1]), written[-1]) == ("discoverd-boot-controllers 1", lines, "end")
    assert "nvme1" in capsys.readouterr().err


def test_record_is_for_root_only(boot: Boot) -> None:
    boot.state.mkdir(0o700)
    boot_record.record()
    # What the supervisor puts there, everybody may see.
    assert stat.S_IMODE(boot.state.stat().st_mode) == 0o755
    assert stat.S_IMODE(boot.path.stat().st_mode) == 0o600


def test_a_host_that_booted_without_any_has_an_empty_record(boot: Boot, capsys: pytest.CaptureFixture[str]) -> None:
    boot.sysfs.rmdir()
    assert boot_record.main() == 0
    assert boot.path.exists()
    assert boot_record.recorded() == {}
    assert capsys.readouterr().err == ""


def test_a_later_run_changes_nothing(boot: Boot) -> None:
    first = boot.connect("nvme0")
    boot_record.record()
    boot.connect("nvme1")
    boot_record.record()
    assert boot_record.recorded() == {"nvme0": first}


def test_a_bad_record_is_not_made_good_later(boot: Boot) -> None:
    boot.state.mkdir()
    boot.path.write_text("discoverd-boot-controllers 1\nnvme0=")
    boot.connect("nvme0")
    boot_record.record()
    assert boot_record.recorded() == {}


@pytest.mark.parametrize(
    "says",
    [
        (0, "SystemState=running\nSoftRebootsCount=0"),
        (0, "SystemState=starting\nSoftRebootsCount=0"),
        (0, "SystemState=initializing\nSoftRebootsCount=1"),
        (0, ""),
        (1, "Failed to connect to bus: No such file or directory"),
        (1, BOOTING),
        None,
    ],
)
def test_nothing_is_recorded_unless_the_boot_has_just_begun(boot: Boot, says: tuple[int, str] | None) -> None:
    boot.says = says
    boot.connect("nvme0")
    assert boot_record.main() == 0
    assert not boot.path.exists()
    assert boot_record.recorded() == {}


def test_a_systemd_that_does_not_count_soft_reboots_is_believed(boot: Boot) -> None:
    boot.says = (0, "SystemState=initializing")
    boot_record.record()
    assert boot.path.exists()


def test_a_name_that_was_given_out_again_does_not_count(boot: Boot) -> None:
    boot.connect("nvme0")
    stays = boot.connect("nvme1")
    boot_record.record()
    (boot.sysfs / "nvme0").rename(boot.sysfs / "gone")
    assert boot_record.recorded() == {"nvme1": stays}
    boot.connect("nvme0")
    assert boot_record.recorded() == {"nvme1": stays}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "discoverd-boot-controllers 1\nnvme0=17\n",
        "discoverd-boot-controllers 2\nnvme0=17\nend\n",
        "discoverd-boot-controllers 1\nnvme0=x\nend\n",
        "discoverd-boot-controllers 1\nnvme0\nend\n",
    ],
)
def test_a_record_that_makes_no_sense_is_none(boot: Boot, text: str) -> None:
    boot.state.mkdir()
    boot.path.write_text(text)
    assert boot_record.recorded() == {}


def test_a_full_run_is_said_and_leaves_no_record(boot: Boot, capsys: pytest.CaptureFixture[str]) -> None:
    boot.state.write_text("no directory")
    assert boot_record.main() == 1
    assert "leaves alone" in capsys.readouterr().err
