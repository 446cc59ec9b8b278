# SPDX-License-Identifier: Apache-2.0
"""Owners whose daemons do not run: when one is gone, and who takes back what it has left."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd import state, store
from discoverd.plan.facts import UnitFact
from discoverd.plan.former_owner import TOOLS, Judgement, Standing, judge, patterns, services
from discoverd.supervisor import former_owners

from .fake_host import FIRST, ONE, SECOND, TWO, Host, report, until

STOPPED, RUNNING = UnitFact("loaded", "inactive"), UnitFact("loaded", "active")
ABSENT = UnitFact("not-found", "inactive")
C = "nvme-discoverd.service"
HOLDER = "nvme-discoverd-0123456789ab.service"
OTHER = "nvme-discoverd-ba9876543210.service"
STAS = {"stafd.service": STOPPED, "stacd.service": STOPPED}
GONE = Judgement(Standing.GONE)


@pytest.mark.parametrize(
    "service",
    [
        RUNNING,
        UnitFact("loaded", "activating"),
        UnitFact("loaded", "reloading"),
        UnitFact("loaded", "deactivating"),
        # It is about to be started again.
        UnitFact("loaded", "inactive", job=True),
        UnitFact("loaded", "failed", job=True),
    ],
)
def test_owner_whose_daemon_runs_or_is_about_to_runs(service: UnitFact) -> None:
    assert judge("discoverd", {C: service}) == Judgement(Standing.RUNS)
    for name in STAS:
        assert judge("stas", {**STAS, name: service}) == Judgement(Standing.RUNS)


@pytest.mark.parametrize("service", [STOPPED, UnitFact("loaded", "failed"), UnitFact("masked", "inactive")])
def test_owner_whose_daemon_does_not_run_is_gone(service: UnitFact) -> None:
    assert judge("discoverd", {C: service}) == GONE
    assert judge("stas", {**STAS, "stafd.service": service}) == GONE


def test_owner_that_systemd_has_never_had_may_run_in_a_container() -> None:
    unseen = Judgement(Standing.UNSEEN)
    assert judge("discoverd", {C: ABSENT}) == unseen
    assert judge("stas", dict.fromkeys(STAS, ABSENT)) == unseen
    # One of its services is enough, also at an earlier look, or a unit that it has made.
    assert judge("stas", {**STAS, "stafd.service": ABSENT}) == GONE
    assert judge("discoverd", {C: ABSENT}, before={C}) == GONE
    assert judge("discoverd", {C: ABSENT, HOLDER: STOPPED}) == GONE
    assert judge("discoverd", {C: ABSENT, HOLDER: RUNNING}) == Judgement(Standing.HOLDS, (HOLDER,))


@pytest.mark.parametrize("owner", ["", "nbft", "nvme-ctrl", "autoconnect", "somebody", "Discoverd"])
def test_nothing_is_known_of_anybody_else(owner: str) -> None:
    assert judge(owner, {C: STOPPED, **STAS}) == Judgement(Standing.UNKNOWN)


def test_what_was_not_asked_is_not_known() -> None:
    assert judge("discoverd", {}) == Judgement(Standing.UNKNOWN)
    assert judge("stas", {"stafd.service": STOPPED}) == Judgement(Standing.UNKNOWN)


def test_unit_of_its_own_holds_the_controller_that_its_record_names() -> None:
    units = {C: STOPPED, HOLDER: RUNNING, OTHER: RUNNING}
    assert judge("discoverd", units, HOLDER) == Judgement(Standing.HOLDS, (HOLDER,))
    # Without a record, each of them may.
    assert judge("discoverd", units) == Judgement(Standing.HOLDS, (HOLDER, OTHER))
    assert judge("discoverd", units, "x.service") == Judgement(Standing.HOLDS, (HOLDER, OTHER))
    assert judge("discoverd", {C: STOPPED, HOLDER: STOPPED, OTHER: RUNNING}, HOLDER) == GONE
    # One that is not loaded any more holds nothing.
    assert judge("discoverd", {C: STOPPED, OTHER: RUNNING}, HOLDER) == GONE
    assert judge("discoverd", {C: RUNNING, HOLDER: RUNNING}, HOLDER) == Judgement(Standing.RUNS)


unit_facts = st.builds(
    UnitFact,
    st.sampled_from(["loaded", "not-found", "masked"]),
    st.sampled_from(["active", "inactive", "failed", "activating", "deactivating", "reloading"]),
    st.booleans(),
)


@given(
    st.sampled_from([*TOOLS, "x"]),
    st.dictionaries(st.sampled_from([C, HOLDER, OTHER, *STAS]), unit_facts),
    st.sampled_from(["", HOLDER, OTHER, "x", C]),
)
def test_who_is_gone_has_nothing_that_runs(owner: str, units: dict[str, UnitFact], holder: str) -> None:
    if judge(owner, units, holder).standing is Standing.GONE:
        assert all(not units[name].running for name in TOOLS[owner].services)
        assert holder not in units or not units[holder].running or TOOLS[owner].holders == ""


def test_what_to_ask_systemd_for() -> None:
    assert services(["stas", "discoverd", "x"]) == [C, "stacd.service", "stafd.service"]
    assert patterns(["stas", "x"]) == []
    assert patterns(["stas", "discoverd"]) == ["nvme-discoverd-*.service"]


# The supervisor -------------------------------------------------------------------------------------------


@pytest.fixture
def left(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Two controllers are wanted, and the first is left to nvme-discoverd."""
    monkeypatch.setattr(store, "HOLDERS", str(host.root / "holders"))
    host.configure(FIRST + SECOND)
    host.systemd.others = {C: STOPPED}
    return host


async def leave(host: Host, owner: str = "discoverd") -> None:
    await until(lambda: "2 live" in host.status)
    report(ONE, "foreign", status=f"left alone: nvme0 belongs to {owner}", device="nvme0", owner=owner)
    await until(lambda: "1 left alone" in host.status)


def word(instance: str) -> dict[str, str]:
    try:
        with open(f"{state.directory(instance)}/take-back", "rb") as file:
            return dict(state.decode(state.TAKE_BACK, file.read()))
    except FileNotFoundError:
        return {}


def test_controller_of_an_owner_that_is_gone_is_taken_back_after_a_minute(left: Host) -> None:
    async def scenario() -> None:
        await leave(left)
        began = asyncio.get_running_loop().time()
        await until(lambda: left.systemd.hung_up == [ONE], patience=200)
        assert 59 < asyncio.get_running_loop().time() - began < 121
        assert (word(ONE)["device"], word(ONE)["owner"]) == ("nvme0", "discoverd")
        assert word(TWO) == {}
        asked = left.systemd.asked_for_others
        assert asked[0] == ([C], ["nvme-discoverd-*.service"])
        # Nobody looks any more.
        report(ONE, "live")
        await until(lambda: "2 live" in left.status)
        await asyncio.sleep(40)
        seen = len(asked)
        await asyncio.sleep(300)
        assert len(asked) == seen

    assert left.play(scenario) == 0


def test_controller_of_an_owner_that_was_removed_is_taken_back_if_it_was_seen(left: Host) -> None:
    async def scenario() -> None:
        left.systemd.others = {C: ABSENT}
        await leave(left)
        await asyncio.sleep(300)
        assert word(ONE) == {}
        left.systemd.others = {C: RUNNING}
        await asyncio.sleep(40)
        left.systemd.others = {C: ABSENT}
        await until(lambda: word(ONE), patience=200)

    assert left.play(scenario) == 0


def test_controller_of_an_owner_that_runs_or_holds_it_is_left(left: Host) -> None:
    async def scenario() -> None:
        left.systemd.others = {C: RUNNING}
        await leave(left)
        await asyncio.sleep(200)
        left.systemd.others = {C: STOPPED, HOLDER: RUNNING}
        await asyncio.sleep(200)
        # A daemon that is started again by and by is never away for a minute.
        for others in itertools.islice(itertools.cycle([{C: STOPPED}, {C: RUNNING}]), 20):
            left.systemd.others = others
            await asyncio.sleep(former_owners.INTERVAL_SECONDS)
        assert (word(ONE), left.systemd.hung_up) == ({}, [])

    assert left.play(scenario) == 0


@pytest.mark.parametrize("owner", ["autoconnect", "nbft", "nvme-ctrl@other.service"])
def test_nobody_looks_for_other_owners(left: Host, owner: str) -> None:
    async def scenario() -> None:
        await leave(left, owner)
        await asyncio.sleep(300)
        assert left.systemd.asked_for_others == []

    assert left.play(scenario) == 0


def test_controller_that_is_not_asked_for_any_more_is_left(left: Host) -> None:
    async def scenario() -> None:
        await leave(left)
        left.exclude("transport=tcp;traddr=192.0.2.1")
        assert left.daemon
        await left.inventory.exclusions.load()
        await until(lambda: left.decisions[ONE].excluded_by)
        left.systemd.hung_up.clear()
        await asyncio.sleep(300)
        assert word(ONE) == {}

    assert left.play(scenario) == 0


def test_systemd_that_does_not_answer_proves_nothing(left: Host) -> None:
    async def scenario() -> None:
        await leave(left)
        left.systemd.refuses_to_list = "no"
        await asyncio.sleep(300)
        assert word(ONE) == {}
        left.systemd.refuses_to_list = ""
        await until(lambda: word(ONE), patience=200)

    assert left.play(scenario) == 0
