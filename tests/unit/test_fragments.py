# SPDX-License-Identifier: Apache-2.0
"""Unit files beside which systemd makes no transient units, as `systemctl edit nvme-ctrl@.service` leaves one."""

import subprocess
from pathlib import Path

import pytest

from discoverd.systemd import fragments
from discoverd.systemd.fragments import Fragment

OVERRIDE = "[Service]\nCPUWeight=50\n"
INSTANCE = "tcp:192.0.2.1:4420:nqn.2024-08.com.example:vol1"


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an administrator's units; one for those until the next boot comes after it."""
    for name in ("etc", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(fragments, "DIRECTORIES", (str(tmp_path / "etc"), str(tmp_path / "run")))
    monkeypatch.setattr(fragments, "TRANSIENT", str(tmp_path / "transient"))
    return tmp_path / "etc"


def test_no_unit_file_is_in_the_way(etc: Path) -> None:
    (etc / "nvme-ctrl@.service.d").mkdir()
    (etc / "nvme-ctrl@.service.d/override.conf").write_text(OVERRIDE)
    (etc / "discoverd.service").write_text(OVERRIDE)
    assert fragments.find().found == {}
    assert fragments.find().blocking(INSTANCE) is None


def test_directory_that_is_not_there_has_none(etc: Path) -> None:
    etc.rmdir()
    assert fragments.find().found == {}


def test_template_is_in_the_way_of_every_unit(etc: Path) -> None:
    path = etc / "nvme-ctrl@.service"
    path.write_text(OVERRIDE)
    found = fragments.find()
    assert found.blocking(INSTANCE) == Fragment(str(path), executes=False)
    assert found.paths == {"": str(path)}


def test_file_of_one_unit_is_in_the_way_of_that_one(etc: Path) -> None:
    path = etc.parent / f"run/nvme-ctrl@{INSTANCE}.service"
    path.write_text("[Service]\nExecStart=/bin/true\n")
    found = fragments.find()
    assert found.blocking(INSTANCE) == Fragment(str(path), executes=True)
    assert found.blocking(INSTANCE + "0") is None


def test_first_directory_counts_as_for_systemd(etc: Path) -> None:
    for folder in (etc, etc.parent / "run"):
        (folder / "nvme-ctrl@.service").write_text(OVERRIDE)
    assert fragments.find().paths == {"": str(etc / "nvme-ctrl@.service")}


def test_unit_that_is_made_already_is_not_in_the_way_of_itself(etc: Path, tmp_path: Path) -> None:
    """It has a file of its own, which systemd takes before the template."""
    (etc / "nvme-ctrl@.service").write_text(OVERRIDE)
    (tmp_path / "transient").mkdir()
    (tmp_path / f"transient/nvme-ctrl@{INSTANCE}.service").touch()
    found = fragments.find()
    assert found.blocking(INSTANCE) is None
    assert found.blocking(INSTANCE + "0") is not None


@pytest.mark.parametrize("target", ["/dev/null", "/nowhere/at/all"])
def test_mask_and_broken_link_are_no_unit_files(etc: Path, target: str) -> None:
    (etc / "nvme-ctrl@.service").symlink_to(target)
    (etc / f"nvme-ctrl@{INSTANCE}.service").touch()
    assert fragments.find().found == {}


def test_remedy_makes_a_drop_in_of_an_override(etc: Path, tmp_path: Path) -> None:
    (etc / "nvme-ctrl@.service").write_text(OVERRIDE)
    (fragment,) = fragments.find().found.values()
    assert fragment.problem.endswith(fragment.remedy)
    carry_out(fragment, tmp_path)
    assert fragments.find().found == {}
    assert (etc / "nvme-ctrl@.service.d/override.conf").read_text() == OVERRIDE


def test_remedy_executes_nothing_beside_the_worker(etc: Path, tmp_path: Path) -> None:
    name = r"nvme-ctrl@tcp:192.0.2.1:4420:nqn.a\x2fb.service"
    (etc / name).write_text("[Service]\n ExecStart=/bin/true\n")
    (fragment,) = fragments.find().found.values()
    carry_out(fragment, tmp_path)
    assert fragments.find().found == {}
    assert [one.name for one in etc.iterdir()] == [name + ".disabled"]


def test_remedy_replaces_no_drop_in(etc: Path, tmp_path: Path) -> None:
    (etc / "nvme-ctrl@.service").write_text(OVERRIDE)
    (etc / "nvme-ctrl@.service.d").mkdir()
    (etc / "nvme-ctrl@.service.d/override.conf").write_text("[Service]\n")
    (fragment,) = fragments.find().found.values()
    carry_out(fragment, tmp_path)
    assert (etc / "nvme-ctrl@.service.d/override.conf").read_text() == "[Service]\n"


def carry_out(fragment: Fragment, tmp_path: Path) -> None:
    """Do what the remedy says, with a systemctl that does nothing."""
    (tmp_path / "systemctl").symlink_to("/bin/true")
    subprocess.run(["/bin/sh", "-c", f"PATH={tmp_path}:$PATH; {fragment.remedy}"], check=False)
