# SPDX-License-Identifier: Apache-2.0
"""What the supervisor misses of nothing while it connects to systemd anew, and what it says of that."""

import logging
from pathlib import Path

import pytest

from discoverd import state, store

from .fake_host import FIRST, ONE, Host, quiet, report, until


def test_first_report_during_a_soft_reboot_is_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """All reports are to be read anew, and that of a worker of which there was none is among them."""
    host.configure(FIRST)
    new_boot = store.new_boot

    def report_meanwhile(soft_reboots: int) -> bool:
        anew = new_boot(soft_reboots)
        report(ONE, "live")
        return anew

    async def scenario() -> None:
        host.systemd.slow = True
        await until(lambda: ONE in host.systemd.started)
        await quiet()
        assert ONE not in host.seen.reports
        host.systemd.soft_reboots = 1
        monkeypatch.setattr(store, "new_boot", report_meanwhile)
        host.systemd.agents[-1].ended.set()
        await until(lambda: len(host.systemd.agents) == 2)
        await until(lambda: ONE in host.seen.reports)

    assert host.play(scenario) == 0


def test_stray_file_among_the_controllers_does_not_keep_systemd_away(host: Host) -> None:
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        (Path(state.CONTROLLERS) / "stray").write_text("x")
        host.systemd.soft_reboots = 1
        host.systemd.agents[-1].ended.set()
        await until(lambda: len(host.systemd.agents) >= 2)
        await quiet()
        assert "not connected" not in host.status

    assert host.play(scenario) == 0


def test_bus_that_refuses_after_an_agent_died_is_said(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.systemd.bus_refuses = True

    async def scenario() -> None:
        await quiet()
        host.systemd.bus_refuses = False
        await until(lambda: host.systemd.agents)
        await quiet()
        caplog.clear()
        caplog.set_level(logging.WARNING)
        host.systemd.bus_refuses = True
        host.systemd.agents[-1].ended.set()
        await until(lambda: "cannot talk to the bus" in caplog.text)

    assert host.play(scenario) == 0
