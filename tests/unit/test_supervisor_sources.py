# SPDX-License-Identifier: Apache-2.0
"""The supervisor and its sources: referrals, exclusions, giving up, what was announced or connected before."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from discoverd import boot_record, state, store
from discoverd.config.model import Secrets
from discoverd.kernel import controllers
from discoverd.plan import facts, planner
from discoverd.plan.candidate import BOOT, CONFIGURATION, MDNS, Candidate, fabrics_options
from discoverd.plan.facts import UnitFact
from discoverd.supervisor import reconciler
from discoverd.systemd import unit_signals
from discoverd.tid import DISCOVERY as TID_DISCOVERY
from discoverd.tid import DISCOVERY_NQN, TransportId

from .fake_host import (
    DC,
    DISCOVERY,
    FIRST,
    NQN,
    ONE,
    SECOND,
    TWO,
    Host,
    leave_log,
    leave_spec,
    quiet,
    report,
    spec_of,
    until,
)
from .log_pages import entry

HOSTNQN = "nqn.2024-08.com.example:host"
HOSTID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


def ends(host: Host, instance: str, worker_state: str, **fields: str) -> None:
    """A worker ends by itself. There is no job, so there is no signal."""
    report(instance, worker_state, **fields)
    host.systemd.units[instance] = UnitFact("loaded", "inactive")


def kept(instance: str) -> bool:
    return Path(state.directory(instance)).is_dir()


# Exclusions -----------------------------------------------------------------------------------------------


def test_excluded_controller_starts_when_the_exclusion_goes(host: Host) -> None:
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


def test_running_controller_that_is_excluded_runs_on_and_is_told(host: Host) -> None:
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


def test_unwanted_controller_is_forgotten_when_its_worker_has_ended(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(1)), entry(NQN.format(2)))
        await until(lambda: "3 live" in host.status)
        leave_log(entry(NQN.format(2)), generation=2)
        await until(lambda: host.systemd.hung_up == [ONE])
        ends(host, ONE, "withdrawn")
        await until(lambda: host.status == "2 controllers: 2 live")
        assert not kept(ONE)
        # Nothing keeps it loaded: it would look as if an administrator had stopped it.
        assert host.systemd.released == [ONE]
        leave_log(entry(NQN.format(1)), entry(NQN.format(2)), generation=3)
        await until(lambda: host.status == "3 controllers: 3 live")
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
        await until(lambda: "1 excluded" in host.status)
        host.systemd.units[ONE] = UnitFact("loaded", "inactive")
        await until(lambda: not host.seen.units[ONE].running)
        host.systemd.listed.clear()
        await quiet()
        assert host.systemd.listed == []
        # An administrator starts it in vain, and its worker says so again.
        host.systemd.units[ONE] = UnitFact("loaded", "active")
        host.systemd.signal(unit_signals.JobRemoved(ONE, "done"))
        await until(lambda: host.seen.units[ONE].running)
        ends(host, ONE, "excluded")
        await until(lambda: not host.seen.units[ONE].running)

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE]


# Referrals ------------------------------------------------------------------------------------------------

NEXT = f"tcp:192.0.2.7:8009:{DISCOVERY_NQN}"


def instance(number: int) -> str:
    return f"tcp:192.0.2.1:4420:{NQN.format(number)}"


def volumes(*numbers: int) -> list[bytes]:
    return [entry(NQN.format(number)) for number in numbers]


def test_a_referral_is_followed_and_what_it_lists_is_connected(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        others = volumes(*range(3, 10))
        referral = entry(DISCOVERY_NQN, "192.0.2.7", "8009", subtype=1)
        leave_log(referral, entry(NQN.format(1)), *others)
        await until(lambda: "10 live" in host.status)
        assert spec_of(NEXT).origin == DC
        assert spec_of(NEXT).give_up_after == 72 * 3600
        assert spec_of(ONE).give_up_after == 0
        leave_log(entry(NQN.format(2)), instance=NEXT)
        await until(lambda: "11 live" in host.status)
        assert spec_of(TWO).source == f"listed in the log page of {NEXT}"
        # The first no longer refers to the second, and so nobody leads to what that one lists.
        leave_log(entry(NQN.format(1)), *others, generation=2)
        await until(lambda: spec_of(NEXT).disconnect and spec_of(TWO).disconnect)
        assert spec_of(NEXT).note == f"no longer a referral in the log page of {DC} (generation 2)"
        assert spec_of(TWO).note == f"no longer listed in the log page of {NEXT} (which nothing leads to any more)"
        leave_log(referral, entry(NQN.format(1)), *others, generation=3)
        await until(lambda: not spec_of(NEXT).note and not spec_of(TWO).note)
        await until(lambda: "11 live" in host.status)

    assert host.play(scenario) == 0
    assert host.systemd.started[:2] == [DC, NEXT]
    assert len(host.systemd.started) == 11


def test_given_up_controller_is_tried_again_when_asked_for_anew(host: Host) -> None:
    host.configure(DISCOVERY)
    host.set("[Global]\ngive-up = 1h\n")

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        referral = entry(DISCOVERY_NQN, "192.0.2.7", "8009", subtype=1)
        leave_log(referral)
        await until(lambda: "2 live" in host.status)
        assert spec_of(NEXT).give_up_after == 3600
        later = int(time.clock_gettime(time.CLOCK_BOOTTIME)) + 1
        ends(host, NEXT, "given up", status="given up after 60 min without a connection: no route", time=str(later))
        await until(lambda: "1 left alone" in host.status)
        await quiet()
        assert host.systemd.started == [DC, NEXT]
        # Read again, and the same: nobody has said anything new.
        report(DC, "live", log_read="17")
        await quiet()
        assert host.systemd.started == [DC, NEXT]
        await asyncio.to_thread(time.sleep, later + 0.1 - time.clock_gettime(time.CLOCK_BOOTTIME))
        leave_log(referral, generation=2)
        await until(lambda: host.systemd.started == [DC, NEXT, NEXT])
        await until(lambda: "2 live" in host.status)

    assert host.play(scenario) == 0


# Evidence -------------------------------------------------------------------------------------------------


OTHER_DC = DC.replace("192.0.2.1", "192.0.2.2")


def test_controller_of_two_referrers_stays_while_one_is_silent(host: Host) -> None:
    host.configure(DISCOVERY + "controller = transport=tcp;traddr=192.0.2.2\n")

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)
        leave_log(*volumes(1, 2))
        leave_log(*volumes(1, 2), instance=OTHER_DC)
        await until(lambda: "4 live" in host.status)
        # Nothing at all is no answer: it may have been started anew.
        leave_log(generation=2)
        await quiet()
        leave_log(*volumes(2), instance=OTHER_DC, generation=2)
        await quiet()
        assert not spec_of(ONE).withdrawn
        # What follows nothing at all is not compared with it.
        leave_log(*volumes(2), generation=3)
        await until(lambda: "has started anew" in spec_of(DC).note)
        assert not spec_of(ONE).withdrawn
        leave_log(*volumes(1, 2), generation=4)
        await until(lambda: not spec_of(DC).note)
        leave_log(*volumes(2), generation=5)
        await until(lambda: spec_of(ONE).disconnect == "ours")
        assert not spec_of(TWO).withdrawn

    assert host.play(scenario) == 0


def test_the_reason_is_the_present_doubt(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(*volumes(1, 2))
        await until(lambda: "3 live" in host.status)
        leave_log(generation=2)
        decisions = host.decisions
        await until(lambda: "its log page lists nothing" in decisions[ONE].reason)
        leave_log(entry("no NQN"), *volumes(2), generation=3)
        await until(lambda: "1 entry of its log page cannot be read" in decisions[ONE].reason)

    assert host.play(scenario) == 0


def test_a_listed_path_is_not_withdrawn_because_another_is_written_down(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(*volumes(1, 2))
        await until(lambda: "3 live" in host.status)
        host.configure(DISCOVERY + FIRST.replace("trsvcid=4420", "trsvcid=4420;host-iface=eth0"))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: spec_of(ONE).note == planner.ELSEWHERE)
        assert (spec_of(ONE).withdrawn, spec_of(ONE).disconnect) == (True, "")

    assert host.play(scenario) == 0


def test_half_of_a_page_waits_for_a_word(host: Host) -> None:
    host.configure(DISCOVERY)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(*volumes(*range(8)))
        await until(lambda: "9 live" in host.status)
        leave_log(*volumes(*range(4)), generation=2)
        await until(lambda: spec_of(DC).confirm)
        waiting = [instance(number) for number in range(4, 8)]
        said = "4 of 8 controllers that its log page listed are missing from it (generation 2), and stay until"
        assert said in spec_of(DC).note
        await until(lambda: said in host.status)
        assert not any(spec_of(one).withdrawn for one in waiting)
        plan = json.loads((host.root / "run/plan").read_text())
        assert plan["pending"] == [{"origin": DC, "instances": waiting}]

        # A word about others, and then the right one.
        await asyncio.to_thread(store.confirm, DC, [ONE])
        await asyncio.to_thread(report, DC, "live", log_read="2")
        await quiet()
        assert not any(spec_of(one).withdrawn for one in [ONE, *waiting])
        await asyncio.to_thread(store.confirm, DC, waiting)
        await asyncio.to_thread(report, DC, "live", log_read="2")
        await until(lambda: all(spec_of(one).disconnect == "ours" for one in waiting))
        await until(lambda: not spec_of(DC).confirm and not spec_of(DC).note)
        await until(lambda: "missing" not in host.status)

    assert host.play(scenario) == 0


def test_restarted_supervisor_takes_nothing_away_at_once(host: Host) -> None:
    """It knows what was listed, but not on which connection that was."""
    host.configure(DISCOVERY)

    async def before() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(*volumes(1, 2))
        await until(lambda: "3 live" in host.status)

    async def after() -> None:
        await until(lambda: "has started anew" in spec_of(DC).note)
        assert not spec_of(TWO).withdrawn

    assert host.play(before) == 0
    leave_log(*volumes(1), generation=2)
    assert host.play(after) == 0


# Announced before -----------------------------------------------------------------------------------------


def announced(origin: str, **more: object) -> Candidate:
    tid = TransportId.make(TID_DISCOVERY, "tcp", "192.0.2.7", "8009", DISCOVERY_NQN)
    options = fabrics_options(tid, TID_DISCOVERY, {}, Secrets(), HOSTNQN, HOSTID)
    return Candidate(tid, TID_DISCOVERY, f"announced by {origin}", origin, options, **more)  # type: ignore[arg-type]


def test_announced_controller_is_wanted_after_a_restart(host: Host) -> None:
    """Nobody announces it again for the supervisor's sake."""
    leave_spec(announced(MDNS))
    host.systemd.units[NEXT] = UnitFact("loaded", "active")

    async def scenario() -> None:
        await until(lambda: host.status == "1 controller: 1 starting")
        assert host.decisions[NEXT].candidate
        # Its worker's page still counts.
        leave_log(entry(NQN.format(1)), instance=NEXT)
        await until(lambda: "2 live" in host.status)

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE]


def test_listed_controller_is_not_remembered_beside_its_page(host: Host) -> None:
    leave_spec(announced(DC))

    async def scenario() -> None:
        await until(lambda: host.told("READY=1"))
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.started == []
    assert kept(NEXT)


# Since the boot -------------------------------------------------------------------------------------------


def boots(host: Host, device: str = "nvme0", nqn: str = NQN.format(1)) -> None:
    """The initial RAM disk has connected a controller."""
    folder = host.sysfs / device
    folder.mkdir(parents=True)
    for name, value in (
        ("transport", "tcp"),
        ("address", "traddr=192.0.2.1,trsvcid=4420"),
        ("subsysnqn", nqn),
        ("hostnqn", HOSTNQN),
        ("hostid", HOSTID),
        ("state", "live"),
    ):
        (folder / name).write_text(value + "\n")
    (host.root / "run").mkdir(exist_ok=True)
    fields = [(one.name, str(controllers.sysfs_inode(one.name))) for one in host.sysfs.iterdir()]
    state.write(boot_record.PATH, state.encode(boot_record.KIND, fields))


def test_connection_of_the_initial_ram_disk_gets_a_unit(host: Host) -> None:
    boots(host)

    async def scenario() -> None:
        await until(lambda: host.status == "1 controller: 1 live")

    assert host.play(scenario) == 0
    assert host.systemd.started == [ONE]
    assert (spec_of(ONE).origin, spec_of(ONE).source) == (BOOT, "nvme0 since the boot")


def test_boot_connection_that_is_configured_is_the_configured_unit(host: Host) -> None:
    boots(host)
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: host.status == "1 controller: 1 live")

    assert host.play(scenario) == 0
    assert spec_of(ONE).origin == CONFIGURATION
    assert host.decisions[ONE].reason == f"{spec_of(ONE).source} and nvme0 since the boot"


# What the kernel lacks ------------------------------------------------------------------------------------


def test_missing_kernel_option_is_said_once(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.abilities = {"nqn", "transport", "traddr", "trsvcid", "hostnqn", "hostid", "ctrl_loss_tmo"}
    digests = "hdr-digest = true\nctrl-loss-tmo = 5\n"
    host.configure(FIRST + digests + SECOND + digests)

    async def scenario() -> None:
        await until(lambda: "2 live" in host.status)

    assert host.play(scenario) == 0
    said = [record.getMessage() for record in caplog.records if "this kernel" in record.getMessage()]
    assert said == ["this kernel knows no hdr_digest: connecting without"]


# Host names -----------------------------------------------------------------------------------------------


def test_where_a_connection_is_refused_the_next_address_is_tried(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> list[object]:
        return [(2, 1, 6, "", (address, 0)) for address in ("192.0.2.1", "192.0.2.2")]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    host.configure(FIRST.replace("192.0.2.1", "array.example.com"))
    second = ONE.replace("192.0.2.1", "192.0.2.2")

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        report(ONE, "waiting", attempt="1")
        await quiet()
        assert host.systemd.started == [ONE]
        report(ONE, "waiting", attempt="2")
        await until(lambda: host.systemd.started == [ONE, second])
        # The old unit is told that nobody asks for that address any more, so its worker ends.
        await until(lambda: spec_of(ONE).note.startswith("no longer configured at"))

    assert host.play(scenario) == 0


# One of many ----------------------------------------------------------------------------------------------


def test_news_of_one_controller_has_only_that_one_looked_at(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure(DISCOVERY)
    host.set("[Global]\nmax-connecting = 256\n")
    looked_at: list[list[str]] = []
    decide = planner.plan

    def plan(facts: facts.Facts, instances: Iterable[str]) -> list[facts.Decision]:
        looked_at.append(list(instances))
        return decide(facts, looked_at[-1])

    monkeypatch.setattr(reconciler, "plan", plan)
    many = [NQN.format(f"x{number}") for number in range(1000)]

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(*(entry(nqn) for nqn in many))
        await until(lambda: "1001 live" in host.status, patience=9)
        await quiet()
        looked_at.clear()
        host.systemd.listed.clear()
        host.systemd.listed_all = 0
        one = f"tcp:192.0.2.1:4420:{many[500]}"
        report(one, "reconnecting")
        await until(lambda: "1 reconnecting" in host.status)
        host.systemd.stop(one)
        await until(lambda: "1 stopped" in host.status)
        await quiet()
        assert looked_at
        assert all(asked == [one] for asked in looked_at if asked)
        assert host.systemd.listed
        assert all(asked == {one} for asked in host.systemd.listed)
        assert host.systemd.listed_all == 0
        # One more in the page: only that one.
        looked_at.clear()
        leave_log(*(entry(nqn) for nqn in (*many, NQN.format("new"))), generation=2)
        await until(lambda: "1001 live, 1 stopped" in host.status)
        await quiet()
        new = f"tcp:192.0.2.1:4420:{NQN.format('new')}"
        assert {name for asked in looked_at for name in asked} == {DC, new}

    assert host.play(scenario) == 0


def test_ignoring_interfaces_at_a_reload_makes_no_second_unit(host: Host) -> None:
    """Two units for one controller would take it from each other, and who listed something would not be asked again."""
    host.configure(DISCOVERY.replace("192.0.2.1", "192.0.2.1;host-iface=eth0"))
    bound = f"{DC}::eth0"

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        leave_log(entry(NQN.format(2)), instance=bound)
        await until(lambda: "2 live" in host.status)
        host.set("[Global]\nignore-iface = yes\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: host.inventory.settings.ignore_iface)
        await quiet()
        assert host.status == "2 controllers: 2 live"
        leave_log(entry(NQN.format(2)), entry(NQN.format(3)), generation=2, instance=bound)
        await until(lambda: "3 live" in host.status)

    assert host.play(scenario) == 0
    assert host.systemd.started == [bound, f"{TWO}::eth0", f"tcp:192.0.2.1:4420:{NQN.format(3)}"]
