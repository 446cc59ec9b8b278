# SPDX-License-Identifier: Apache-2.0
"""The supervisor and its sources: referrals, exclusions, giving up, what was announced or connected before."""

from pathlib import Path

from discoverd import state
from discoverd.bus import unit_signals
from discoverd.planner import UnitFact

from .fake_host import DISCOVERY, FIRST, NQN, ONE, SECOND, TWO, Host, leave_log, quiet, report, spec_of, until
from .log_pages import entry


def ends(host: Host, instance: str, worker_state: str, **fields: str) -> None:
    """A worker ends by itself. There is no job, so there is no signal."""
    report(instance, worker_state, **fields)
    host.systemd.units[instance] = UnitFact("loaded", "inactive")


def kept(instance: str) -> bool:
    return Path(state.directory(instance)).is_dir()


# Exclusions -----------------------------------------------------------------------------------------------


def test_what_is_excluded_is_not_started_until_it_is_no_longer(host: Host) -> None:
    host.configure(FIRST + SECOND)
    host.exclude(f"nqn={NQN.format(1)}")

    async def scenario() -> None:
        await until(lambda: host.status == "2 controllers: 1 live, 1 excluded")
        await quiet()
        assert host.systemd.started == [TWO]
        host.exclude()
        await until(lambda: host.status == "2 controllers: 2 live")

    assert host.play(scenario) == 0
    assert host.systemd.started == [TWO, ONE]


def test_what_runs_and_is_excluded_runs_on_and_is_told(host: Host) -> None:
    host.configure(FIRST + SECOND)

    async def scenario() -> None:
        await until(lambda: host.status == "2 controllers: 2 live")
        host.exclude(f"nqn={NQN.format(1)}")
        await until(lambda: host.systemd.hung_up == [ONE])
        assert spec_of(ONE).note == f"excluded by {host.etc}/exclusions.conf:2"
        assert spec_of(TWO).note == ""
        # The kernel gives it up: its worker ends instead of connecting again.
        ends(host, ONE, "excluded")
        await until(lambda: host.status == "2 controllers: 1 live, 1 excluded")
        await quiet()
        assert host.systemd.started == [ONE, TWO]
        host.exclude()
        await until(lambda: host.status == "2 controllers: 2 live")
        assert spec_of(ONE).note == ""

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE, TWO, ONE]


def test_an_excluded_discovery_controller_lists_nothing_new_and_takes_nothing_away(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)))
        await until(lambda: "2 live" in host.status)
        host.exclude("nqn=nqn.2014-08.org.nvmexpress.discovery")
        await until(lambda: host.systemd.hung_up)
        leave_log(entry(NQN.format(2)), generation=2)
        await quiet()
        assert spec_of(ONE).note == ""
        assert TWO not in host.systemd.started
        host.exclude()
        await until(lambda: "3 live" in host.status)
        assert spec_of(ONE).note.startswith("no longer listed")

    assert host.play(scenario) == 0


def test_a_fault_in_an_exclusion_list_is_in_the_status(host: Host) -> None:
    host.configure(FIRST)
    host.exclude("transport=carrier-pigeon")

    async def scenario() -> None:
        await until(lambda: f"{host.etc}/exclusions.conf:2" in host.status)

    assert host.play(scenario) == 0


# What ends by itself --------------------------------------------------------------------------------------


def test_what_nobody_asks_for_any_more_is_forgotten_when_its_worker_has_ended(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)))
        await until(lambda: "2 live" in host.status)
        leave_log(generation=2)
        await until(lambda: host.systemd.hung_up == [ONE])
        ends(host, ONE, "withdrawn")
        await until(lambda: host.status == "1 controller: 1 live")
        assert not kept(ONE)
        # Nothing keeps it loaded: it would look as if an administrator had stopped it.
        assert host.systemd.released == [ONE]
        leave_log(entry(NQN.format(1)), generation=3)
        await until(lambda: host.status == "2 controllers: 2 live")
        assert spec_of(ONE).note == ""

    assert host.play(scenario) == 0


def test_a_worker_that_ends_slowly_is_looked_at_until_it_has_ended(host: Host) -> None:
    host.configure(FIRST)
    host.exclude(f"nqn={NQN.format(2)}")

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        host.exclude(f"nqn={NQN.format(1)}")
        await until(lambda: host.systemd.hung_up)
        report(ONE, "excluded")
        await quiet()
        assert "1 excluded" in host.status
        host.systemd.units[ONE] = UnitFact("loaded", "inactive")
        await until(lambda: host.daemon and not host.daemon._units[ONE].running)
        host.systemd.listed.clear()
        await quiet()
        assert host.systemd.listed == []
        # An administrator starts it in vain, and its worker says so again.
        host.systemd.units[ONE] = UnitFact("loaded", "active")
        host.systemd.signal(unit_signals.JobRemoved(ONE, "done"))
        await until(lambda: host.daemon and host.daemon._units[ONE].running)
        ends(host, ONE, "excluded")
        await until(lambda: host.daemon and not host.daemon._units[ONE].running)

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE]
