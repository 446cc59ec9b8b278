# SPDX-License-Identifier: Apache-2.0
"""The supervisor when the system goes down or user space boots anew, what the system runs from, and the plan file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from discoverd import state, store
from discoverd.kernel import usage
from discoverd.plan.facts import Action, Decision, UnitFact
from discoverd.systemd import unit_signals

from .fake_host import DISCOVERY, FIRST, NQN, ONE, SECOND, TWO, Host, quiet, report, until


def plan_file() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(state.ROOT) / "plan").read_text())
    return content


# Shutdown -------------------------------------------------------------------------------------------------


def test_workers_that_run_hear_of_a_shutdown_and_of_its_end(host: Host) -> None:
    host.configure(FIRST + SECOND)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)
        host.systemd.stop(TWO)
        await until(lambda: "1 live, 1 stopped" in host.status)
        host.systemd.signal(unit_signals.Shutdown(True))
        await until(lambda: host.systemd.going_down)
        await quiet()
        assert (host.systemd.going_down, host.systemd.hung_up) == ([ONE], [])
        host.systemd.signal(unit_signals.Shutdown(False))
        await until(lambda: host.systemd.hung_up)
        assert (host.systemd.going_down, host.systemd.hung_up) == ([ONE], [ONE])

    assert host.play(scenario) == 0


def test_unit_that_refused_to_stop_is_not_started_again(host: Host) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        host.systemd.units[ONE] = UnitFact("loaded", "failed")
        report(ONE, "refused")
        host.systemd.signal(unit_signals.JobRemoved(ONE, "failed"))
        await until(lambda: plan_file()["controllers"][0]["action"] == "keep stopped")
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE]


def test_controller_of_the_system_is_not_stopped_at_shutdown(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "system_subsystems", lambda: {NQN.format(2)})
    host.configure(FIRST + SECOND)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)

    assert host.play(scenario) == 0
    names = {instance: {name for name, _, _ in given} for instance, given in host.systemd.properties.items()}
    assert "Before" in names[ONE]
    assert "DefaultDependencies" not in names[ONE]
    assert "Before" not in names[TWO]
    assert "DefaultDependencies" in names[TWO]


# Soft-reboot ----------------------------------------------------------------------------------------------


def test_a_soft_reboot_brings_back_what_an_administrator_stopped(host: Host) -> None:
    host.leave_stopped()
    host.systemd.soft_reboots = 1

    async def second() -> None:
        await until(lambda: "1 live" in host.status)

    assert host.play(second) == 0


def test_after_it_a_stop_counts_again(host: Host) -> None:
    host.systemd.soft_reboots = 1
    host.leave_stopped()

    async def second() -> None:
        await until(lambda: "1 stopped" in host.status)
        await quiet()

    assert host.play(second) == 0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "ROOT", str(tmp_path))
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path / "controllers"))
    (tmp_path / "controllers/a").mkdir(parents=True)
    (tmp_path / "controllers/b").mkdir()
    (tmp_path / "controllers/a/report").write_text("x")
    (tmp_path / "controllers/a/spec").write_text("x")
    return tmp_path


def test_new_boot(run: Path) -> None:
    assert not store.new_boot(0)
    assert (run / "controllers/a/report").exists()
    assert store.new_boot(1)
    assert os.listdir(run / "controllers/a") == ["spec"]
    (run / "controllers/a/report").write_text("x")
    assert not store.new_boot(1)
    assert (run / "controllers/a/report").exists()


def test_the_first_look_after_a_soft_reboot(run: Path) -> None:
    """What ran before it did not write the file."""
    assert store.new_boot(2)
    assert os.listdir(run / "controllers/a") == ["spec"]


def test_a_boot_file_that_makes_no_sense(run: Path) -> None:
    (run / "boot").write_text("discoverd-boot 9\nrubbish")
    assert store.new_boot(0)
    assert not store.new_boot(0)


def test_a_full_run_is_no_reason_to_stand_still(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise state.StateError("no space")

    monkeypatch.setattr(state, "write", full)
    assert not store.new_boot(0)
    assert not (run / "boot").exists()


# The plan file --------------------------------------------------------------------------------------------


def test_the_plan_says_what_and_why(host: Host) -> None:
    host.configure(FIRST)
    broken = host.etc / "nvme-fabrics.conf.d/broken.conf"
    broken.write_text("[Subsystem]\nnqn = nqn.2024-08.com.example:a,b\n")

    async def scenario() -> None:
        await until(lambda: host.systemd.started)
        await until(lambda: plan_file()["controllers"][0]["action"] == "keep")

    assert host.play(scenario) == 0
    plan = plan_file()
    assert plan["version"] == 1
    (row,) = plan["controllers"]
    source = f"configured at {host.etc}/nvme-fabrics.conf:3"
    assert row == {
        "instance": ONE,
        "action": "keep",
        "reason": source,
        "note": "",
        "held_back": "",
        "excluded_by": "",
        "withdrawn_by": "",
        "blocked_by": "",
        "trust": "trusted",
        "transport": "tcp",
        "traddr": "192.0.2.1",
        "trsvcid": "4420",
        "subsysnqn": NQN.format(1),
        "host_iface": "",
        "host_traddr": "",
        "role": "io",
        "sources": source,
    }
    assert (plan["refusals"], len(plan["complaints"])) == ([], 1)
    assert plan["complaints"][0].startswith(f"{broken}:2")
    assert (Path(state.ROOT) / "plan").stat().st_mode & 0o777 == 0o644


def test_the_plan_is_written_when_it_changes_only(host: Host) -> None:
    host.configure(DISCOVERY + FIRST)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)
        await quiet()
        path = Path(state.ROOT) / "plan"
        before = path.stat().st_ino
        for _ in range(3):
            host.systemd.signal(unit_signals.ManagerChanged())
            await quiet()
        assert path.stat().st_ino == before
        host.systemd.stop(ONE)
        await until(lambda: path.stat().st_ino != before)
        await until(lambda: plan_file()["controllers"][1]["action"] == "keep stopped")

    assert host.play(scenario) == 0


def test_a_plan_that_cannot_be_written_changes_nothing_else(host: Host) -> None:
    (host.root / "run/plan").mkdir(parents=True)
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)

    assert host.play(scenario) == 0


def test_plan_row_without_candidate_has_no_address(run: Path) -> None:
    store.write_plan([store.plan_row(Decision("a", Action.KEEP, "no longer b", note="no longer b"))], [], [], {})
    (row,) = json.loads((run / "plan").read_text())["controllers"]
    assert (row["instance"], row["action"], row["note"]) == ("a", "keep", "no longer b")
    assert {row[name] for name in ("transport", "traddr", "trsvcid", "subsysnqn", "role", "sources")} == {""}
