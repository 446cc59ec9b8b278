# SPDX-License-Identifier: Apache-2.0
"""discoverctl's verbs that change something: start, stop, disconnect."""

import errno
import sys
from pathlib import Path

import pytest
from pystemd.dbusexc import DBusBaseError

from discoverd import registry
from discoverd.cli import overview
from discoverd.cli.overview import Device
from discoverd.kernel import controllers, fabrics, usage
from discoverd.kernel.openers import UnknownError
from discoverd.kernel.usage import User
from discoverd.tid import unit_name

from .fake_ctl import NQN, Desk, Unit, install, instance

DATA = [User("mount", "/data")]
ROOT = [User("mount", "/")]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    return made


def disconnects(desk: Desk) -> None:
    """Let workers disconnect when they are stopped."""

    def stop(unit: str) -> None:
        desk.bus.units[unit] = Unit("inactive", "stopped")
        desk.vanish("nvme0")

    desk.bus.on_stop = stop


def refuses(desk: Desk) -> None:
    """Let workers refuse to disconnect when they are stopped."""

    def stop(unit: str) -> None:
        desk.bus.units[unit] = Unit("failed", "in use by /data: nvme0 stays connected")
        desk.report(instance(1), "refused", "in use by /data: nvme0 stays connected")

    desk.bus.on_stop = stop


def test_start(desk: Desk) -> None:
    name = desk.controller(1, "", unit=Unit("inactive"), action="keep stopped")

    def start(unit: str) -> None:
        desk.bus.units[unit] = Unit(status="live nvme0")
        desk.kernel(1, "nvme0", owner="nvme-ctrl", unit=unit)

    desk.bus.on_start = start
    assert desk.run("start", name) == (0, f"{name}: live nvme0\n", "")
    assert desk.bus.called == [("StartUnit", unit_name(name), "replace")]


def test_start_of_what_is_not_reached(desk: Desk) -> None:
    name = desk.controller(1, "", unit=Unit("inactive"))

    def start(unit: str) -> None:
        desk.bus.units[unit] = Unit(status="waiting 1 s, attempt 1: connection refused")

    desk.bus.on_start = start
    assert desk.run("start", name) == (3, f"{name}: waiting 1 s, attempt 1: connection refused\n", "")


def test_start_of_what_cannot_be_started(desk: Desk) -> None:
    masked = desk.controller(1, "", unit=Unit("inactive", load="masked"))
    status, _, errors = desk.run("start", masked)
    assert (status, f"systemctl unmask {unit_name(masked)}" in errors) == (1, True)
    desk.planned(instance(2), "start", "configured", 2)
    status, _, errors = desk.run("start", instance(2))
    assert (status, "systemctl status discoverd" in errors) == (1, True)
    desk.kernel(3, "nvme3")
    status, _, errors = desk.run("start", "nvme3")
    assert (status, "nvme3 is nobody's" in errors) == (1, True)
    desk.kernel(4, "nvme4", owner="stas")
    status, _, errors = desk.run("start", "nvme4")
    assert (status, "nvme4 belongs to stas" in errors) == (5, True)


def test_unit_that_cannot_be_started_does_not_keep_others_from_it(desk: Desk) -> None:
    desk.controller(1, "", unit=Unit("inactive", load="masked"))
    other = desk.controller(1, "", address="198.51.100.1", unit=Unit("inactive"), status="waiting")
    status, output, errors = desk.run("start", NQN.format(1))
    assert (status, "is masked" in errors) == (3, True)
    assert desk.bus.called[-1] == ("StartUnit", unit_name(other), "replace")
    assert output == f"{other}: waiting\n"


def test_a_worker_that_fails(desk: Desk) -> None:
    name = desk.controller(1, "", unit=Unit("inactive"), status="")

    def start(unit: str) -> None:
        desk.bus.units[unit] = Unit("failed", "no usable specification")

    desk.bus.on_start = start
    status, _, errors = desk.run("start", name)
    assert (status, f"journalctl -u {unit_name(name)}" in errors) == (1, True)


def test_systemd_refuses(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.bus.refuses["StopUnit"] = DBusBaseError(-errno.EACCES, b"org.freedesktop.DBus.Error.AccessDenied", b"No.")
    assert desk.run("stop", "nvme0")[0] == 77
    desk.bus.refuses["StopUnit"] = DBusBaseError(-errno.EIO, b"org.example.Tired", b"Too tired.")
    status, _, errors = desk.run("stop", "nvme0")
    assert status == 1
    assert errors.startswith("discoverctl: systemd refuses: Too tired; see: systemctl status")


def test_a_job_that_does_not_end(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    desk.bus.slow = True
    status, _, errors = desk.run("stop", "nvme0")
    assert (status, "systemctl list-jobs" in errors) == (6, True)


def test_a_long_wait_is_shown_on_a_terminal(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    name = desk.controller(1, "nvme0")
    desk.bus.slow = True
    monkeypatch.setattr("discoverd.cli.text._SHOW_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, _, errors = desk.run("stop", "nvme0")
    shown = errors.split("\r\x1b[K")
    assert f"0 s: 1 of 1 not done, {name} among them"[:79] in shown
    assert shown[-1].startswith("discoverctl: 1 job not done")


def test_stop(desk: Desk) -> None:
    name = desk.controller(1, "nvme0")
    disconnects(desk)
    assert desk.run("stop", "nvme0") == (0, f"{name}: stopped\n", "")
    # Again, and nothing is asked of systemd.
    desk.bus.called.clear()
    assert desk.run("stop", name)[0] == 0
    assert desk.bus.called == []


def test_stopping_what_somebody_has_connected_again_says_that_it_stays(desk: Desk) -> None:
    name = desk.controller(1, "nvme0", unit=Unit("inactive", sub="dead"), owner="")
    status, output, errors = desk.run("stop", name)
    assert (status, output) == (5, "")
    assert f"{name}: stopped, but nvme0 is still connected; to disconnect it: discoverctl disconnect nvme0" in errors


def test_stop_of_all_paths(desk: Desk) -> None:
    first = desk.controller(1, "nvme0")
    second = desk.controller(1, "nvme1", address="198.51.100.1")
    assert desk.run("stop", NQN.format(1), first)[0] == 1
    assert desk.bus.called == [("StopUnit", unit_name(one), "replace") for one in (first, second)]


def test_stop_is_refused(desk: Desk) -> None:
    name = desk.controller(1, "nvme0")
    refuses(desk)
    status, output, errors = desk.run("stop", "nvme0")
    assert (status, output) == (5, "")
    assert errors == f"discoverctl: {name}: in use by /data: nvme0 stays connected\n"
    assert desk.deleted == []


def test_stop_of_what_has_no_unit(desk: Desk) -> None:
    desk.kernel(1, "nvme0")
    status, _, errors = desk.run("stop", "nvme0")
    assert (status, "discoverctl disconnect nvme0" in errors) == (5, True)


def test_disconnect(desk: Desk) -> None:
    name = desk.controller(1, "nvme0")
    disconnects(desk)
    assert desk.run("disconnect", "nvme0") == (0, f"{name}: disconnected\n", "")
    assert desk.deleted == []


def test_disconnect_of_what_is_in_use(desk: Desk) -> None:
    name = desk.controller(1, "nvme0")
    desk.users["nvme0"] = DATA
    refuses(desk)
    status, _, errors = desk.run("disconnect", "nvme0")
    assert status == 5
    assert "nvme0 is in use by /data, and stays connected" in errors
    assert errors.endswith("discoverctl disconnect --force nvme0\n")
    assert desk.deleted == []
    assert desk.bus.units[unit_name(name)].active == "failed"

    # What has failed is not stopped again.
    desk.bus.called.clear()
    status, output, errors = desk.run("disconnect", "--force", "nvme0")
    assert (status, errors) == (0, "")
    assert output == f"{name}: disconnected nvme0, though in use by /data\n"
    assert desk.deleted == ["nvme0"]
    assert registry.retrieve("nvme0", "owner") is None
    assert desk.bus.called == [("ResetFailedUnit", unit_name(name))]


def test_force_stops_the_worker_first(desk: Desk) -> None:
    """Else it would connect again."""
    name = desk.controller(1, "nvme0")
    desk.users["nvme0"] = DATA
    refuses(desk)
    assert desk.run("disconnect", "--force", "nvme0")[0] == 0
    assert [method for method, *_ in desk.bus.called] == ["StopUnit", "ResetFailedUnit"]
    assert desk.deleted == ["nvme0"]
    assert desk.bus.units[unit_name(name)].active == "inactive"


def test_in_use_with_another_path(desk: Desk) -> None:
    """A worker that was told to look after it, and not to disconnect it, leaves it."""
    desk.controller(1, "nvme0", unit=Unit("inactive"))
    desk.users["nvme0"] = DATA
    desk.paths["nvme0"] = ["nvme0", "nvme1"]
    desk.silent = {"nvme1"}
    status, _, errors = desk.run("disconnect", "nvme0")
    assert (status, desk.deleted) == (5, [])
    assert "nvme0 is in use by /data, and its other path nvme1 does not answer, and stays connected" in errors
    desk.silent.clear()
    assert desk.run("disconnect", "nvme0")[0] == 0
    assert desk.deleted == ["nvme0"]


def test_disconnect_of_nobodys(desk: Desk) -> None:
    desk.kernel(1, "nvme0")
    desk.users["nvme0"] = DATA
    assert desk.run("disconnect", "nvme0")[0] == 5
    desk.users.clear()
    assert desk.run("disconnect", "nvme0")[0] == 0
    assert desk.deleted == ["nvme0"]
    assert desk.bus.called == []


@pytest.mark.parametrize("ours", [True, False])
def test_disconnect_of_anothers(desk: Desk, ours: bool) -> None:
    """Whether or not a worker of ours stands by."""
    if ours:
        desk.controller(1, "nvme0", owner="stas", report="foreign")
        desk.bus.on_stop = lambda unit: desk.bus.units.update({unit: Unit("inactive")})
    else:
        desk.kernel(1, "nvme0", owner="stas")
    status, _, errors = desk.run("disconnect", "nvme0")
    assert (status, "nvme0 belongs to stas" in errors) == (5, True)
    assert (desk.deleted, desk.bus.called) == ([], [])
    assert desk.run("disconnect", "--force", "nvme0")[0] == 0
    assert desk.deleted == ["nvme0"]
    assert registry.retrieve("nvme0", "owner") is None


def test_disconnect_of_what_firmware_asked_for(desk: Desk) -> None:
    desk.kernel(1, "nvme0", owner="nbft")
    status, _, errors = desk.run("disconnect", "nvme0")
    assert (status, "firmware" in errors) == (5, True)
    assert desk.run("disconnect", "--force", "nvme0")[0] == 0


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_systems_own_controller_is_never_disconnected(desk: Desk, force: list[str]) -> None:
    desk.controller(1, "nvme0")
    desk.controller(2, "nvme5")
    desk.users["nvme0"] = ROOT
    status, _, errors = desk.run("disconnect", *force, "nvme5", "nvme0")
    assert (status, "carries the system itself" in errors) == (5, True)
    assert (desk.deleted, desk.bus.called) == ([], [])


def test_a_process_without_a_claim_is_found_last(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.kernel(1, "nvme0")
    process = User("process", "/dev/nvme0n1", 4711, "postgres")
    monkeypatch.setattr(usage, "processes", lambda _: [process])
    (desk.root / "no-sys/class/block/nvme0n1").mkdir(parents=True)
    (desk.root / "no-sys/class/block/nvme0n1/dev").write_text("259:0\n")
    status, _, errors = desk.run("disconnect", "nvme0")
    assert (status, desk.deleted) == (5, [])
    assert "nvme0 is in use by postgres (PID 4711) on /dev/nvme0n1, and stays connected" in errors
    status, output, _ = desk.run("disconnect", "--force", "nvme0")
    assert (status, desk.deleted) == (0, ["nvme0"])
    assert "though in use by postgres (PID 4711)" in output


def test_controller_with_unknown_use_stays(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.kernel(1, "nvme0")

    def processes(_: list[str]) -> list[User]:
        raise UnknownError(errno.EACCES, "cannot tell what process 1 has open")

    monkeypatch.setattr(usage, "processes", processes)
    status, _, errors = desk.run("disconnect", "nvme0")
    assert (status, desk.deleted) == (5, [])
    assert "cannot tell who uses nvme0 (cannot tell what process 1 has open), so it stays connected" in errors
    # What carries the system is known otherwise.
    monkeypatch.setattr(usage, "system_subsystems", lambda: {controllers.attribute("nvme0", "subsysnqn")})
    assert desk.run("disconnect", "--force", "nvme0")[0] == 5
    assert desk.deleted == []
    monkeypatch.setattr(usage, "system_subsystems", set)
    status, _, errors = desk.run("disconnect", "--force", "nvme0")
    assert (status, desk.deleted) == (0, ["nvme0"])
    assert "nvme0: cannot tell who uses it (cannot tell what process 1 has open); disconnected all the same" in errors


def test_a_name_that_another_controller_has_by_now(desk: Desk) -> None:
    name = desk.controller(1, "nvme0")

    def stop(unit: str) -> None:
        desk.bus.units[unit] = Unit("inactive", "stopped")
        desk.vanish("nvme0")
        desk.kernel(9, "nvme0")

    desk.bus.on_stop = stop
    assert desk.run("disconnect", "--force", "nvme0") == (0, f"{name}: disconnected\n", "")
    assert desk.deleted == []


def test_a_unit_that_is_started_again_meanwhile(desk: Desk) -> None:
    """A running worker would connect again."""
    name = desk.controller(1, "nvme0")
    status, _, errors = desk.run("disconnect", "--force", name)
    assert (status, "try again" in errors) == (1, True)
    assert desk.deleted == []


def test_an_entry_that_is_a_later_controllers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.kernel(1, "nvme0", owner="stas")

    def delete(device: str, sysfs_inode: int) -> None:
        desk.delete(device, sysfs_inode)
        (desk.root / "registry" / device / "seqnum").write_text("99\n")

    monkeypatch.setattr(fabrics, "delete", delete)
    assert desk.run("disconnect", "--force", "nvme0")[0] == 0
    assert registry.retrieve("nvme0", "owner") == "stas"


def test_the_kernel_refuses(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.kernel(1, "nvme0")

    def delete(device: str, sysfs_inode: int) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(fabrics, "delete", delete)
    status, _, errors = desk.run("disconnect", "nvme0")
    assert (status, "cannot disconnect nvme0: Device or resource busy" in errors) == (1, True)


def test_kernel_is_looked_through_once_however_many_are_stopped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [desk.controller(number, f"nvme{number}") for number in range(5)]
    devices = {unit_name(name): f"nvme{number}" for number, name in enumerate(names)}

    def stop(unit: str) -> None:
        desk.bus.units[unit].active = "inactive"
        desk.vanish(devices[unit])

    desk.bus.on_stop = stop
    looks: list[list[Device]] = []
    real = overview.devices

    def look() -> list[Device]:
        looks.append(real())
        return looks[-1]

    monkeypatch.setattr(overview, "devices", look)
    assert desk.run("stop", *names)[0] == 0
    # Before, and after.
    assert [len(one) for one in looks] == [5, 0]
