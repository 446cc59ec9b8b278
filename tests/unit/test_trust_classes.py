# SPDX-License-Identifier: Apache-2.0
"""Trusted and announced: who gets a key of the host, and whose paths a subsystem has."""

from dataclasses import replace

import pytest

from discoverd import state
from discoverd.config.errors import ConfigError
from discoverd.config.identity import HostIdentity
from discoverd.config.model import DiscoveredScope, Secrets
from discoverd.kernel.admin import READ_UNTRUSTED_ENTRIES
from discoverd.plan.budgets import ANNOUNCED_ATTEMPTS, ANNOUNCED_GIVE_UP_SECONDS
from discoverd.plan.candidate import (
    BOOT,
    CONFIGURATION,
    FIBRE_CHANNEL,
    MDNS,
    NBFT,
    Announcement,
    Candidate,
    Trust,
    Wish,
    granted,
)
from discoverd.plan.facts import Action, Decision, Facts, Known, Report, UnitFact
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import parse
from discoverd.plan.planner import plan
from discoverd.sources import discovery_log
from discoverd.sources.discovery_log import Parent
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from .log_pages import entry
from .log_pages import page as log_page

HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
KEYS = Secrets(kxchap_secret="DHHC-1:00:host:", kxchap_ctrl_secret="DHHC-1:00:controller:")
SCOPE = DiscoveredScope({}, KEYS, "", "", "", "")
NQN = "nqn.2024-08.com.example:vol1"
TRUSTED_DC = "tcp:192.0.2.1:8009:nqn.2014-08.org.nvmexpress.discovery"
ANNOUNCED_DC = "tcp:192.0.2.66:8009:nqn.2014-08.org.nvmexpress.discovery"
TRUSTED_ORIGINS = (CONFIGURATION, NBFT, BOOT, FIBRE_CHANNEL)


def path(address: str, *, trusted: bool, nqn: str = NQN, role: str = IO) -> Candidate:
    """Return what a log page lists."""
    tid = TransportId.make(role, "tcp", address, "", nqn)
    origin = TRUSTED_DC if trusted else ANNOUNCED_DC
    return Candidate(tid, role, f"listed in the log page of {origin}", origin, (), trusted_parent=trusted)


def keys_of(candidate: Candidate) -> list[str]:
    return [name for name, _ in candidate.options if "secret" in name]


@pytest.mark.parametrize("origin", [*TRUSTED_ORIGINS, MDNS])
def test_class_of_trust_follows_from_the_source(origin: str) -> None:
    one = replace(path("192.0.2.1", trusted=False), origin=origin)
    assert one.trust is (Trust.ANNOUNCED if origin == MDNS else Trust.TRUSTED)
    assert path("192.0.2.1", trusted=True).trusted
    assert not path("192.0.2.1", trusted=False).trusted


# Keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [NBFT, FIBRE_CHANNEL, MDNS])
def test_announced_discovery_controller_gets_no_key(origin: str) -> None:
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN)
    made = granted(Wish(tid, DISCOVERY, "announced", origin), SCOPE, HOST, {})
    assert keys_of(made) == ([] if origin == MDNS else ["dhchap_secret", "dhchap_ctrl_secret"])


@pytest.mark.parametrize("trusted", [True, False])
def test_what_an_announced_page_lists_gets_no_key(trusted: bool) -> None:
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN)
    parent = Parent(tid, tid.instance, SCOPE, SCOPE, 0, 0, trusted)
    page = parse(log_page(entry(NQN), entry(DISCOVERY_NQN, subtype=1, traddr="192.0.2.2")))
    io, referral = discovery_log.candidates(page, parent, HOST).candidates
    assert (io.trusted, referral.trusted) == (trusted, trusted)
    for one in (io, referral):
        assert keys_of(one) == (["dhchap_secret", "dhchap_ctrl_secret"] if trusted else [])


def test_announced_controller_is_not_connected_in_the_clear_for_want_of_a_key() -> None:
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN)
    scope = replace(SCOPE, secrets=Secrets(tls=True, tls_key="NVMeTLSkey-1:01:x:"))
    with pytest.raises(ConfigError):
        granted(Wish(tid, DISCOVERY, "announced", MDNS), scope, HOST, {})


# Paths ----------------------------------------------------------------------------------------------------


def decide(candidate: Candidate, **facts: object) -> Decision:
    instance = candidate.tid.instance
    (decision,) = plan(Facts({instance: (candidate,)}, **facts), [instance])  # type: ignore[arg-type]
    return decision


def test_announced_path_to_a_trusted_subsystem_is_not_started() -> None:
    decision = decide(path("192.0.2.66", trusted=False), trusted_subsystems={NQN})
    assert decision.action is Action.LEAVE
    assert "only announcements lead to it" in decision.reason


def test_announced_discovery_controller_with_the_nqn_of_a_trusted_subsystem_is_not_started() -> None:
    decision = decide(path("192.0.2.66", trusted=False, role=DISCOVERY), trusted_subsystems={NQN})
    assert decision.action is Action.LEAVE


def test_announced_path_that_is_there_before_the_subsystem_is_trusted_is_withdrawn() -> None:
    one = path("192.0.2.66", trusted=False)
    running = {one.tid.instance: UnitFact("loaded", "active")}
    decision = decide(one, units=running, trusted_subsystems={NQN})
    assert (decision.action, decision.disconnect) == (Action.KEEP, "ours")
    ended = {one.tid.instance: Report(state.WITHDRAWN)}
    assert decide(one, reports=ended, trusted_subsystems={NQN}).action is Action.LEAVE
    assert decide(one, reports=ended).action is Action.START, "nobody trusted asks for it any more"


@pytest.mark.parametrize(
    "candidate",
    [
        path("192.0.2.2", trusted=True),
        path("192.0.2.66", trusted=False, nqn="nqn.2024-08.com.example:other"),
        path("192.0.2.66", trusted=False, nqn=DISCOVERY_NQN, role=DISCOVERY),
    ],
)
def test_other_paths_are_started(candidate: Candidate) -> None:
    assert decide(candidate, trusted_subsystems={NQN, DISCOVERY_NQN}).action is Action.START


def test_news_of_a_trusted_subsystem_have_its_announced_paths_looked_at() -> None:
    wanted = Wanted(lambda _: False)
    announced, another = path("192.0.2.66", trusted=False), path("192.0.2.66", trusted=False, nqn="nqn.b")
    wanted.put(ANNOUNCED_DC, (announced, another))
    wanted.changes()
    first, second = path("192.0.2.1", trusted=True), path("192.0.2.2", trusted=True)
    wanted.put(TRUSTED_DC, (first,))
    assert set(wanted.changes()) == {first.tid.instance, announced.tid.instance}
    assert set(wanted.trusted_subsystems) == {NQN}
    wanted.put(TRUSTED_DC, (first, second))
    assert set(wanted.changes()) == {second.tid.instance}, "it was trusted before"
    wanted.put(TRUSTED_DC, ())
    assert announced.tid.instance in wanted.changes()
    assert not wanted.trusted_subsystems
    wanted.put(ANNOUNCED_DC, ())
    assert list(wanted.announced(NQN)) == []


def test_path_that_somebody_trusted_lists_as_well_is_trusted() -> None:
    wanted = Wanted(lambda _: False)
    wanted.put(ANNOUNCED_DC, (path("192.0.2.1", trusted=False),))
    wanted.put(TRUSTED_DC, (path("192.0.2.1", trusted=True),))
    ((instance, asked),) = wanted.asked.items()
    assert asked[0].trusted
    assert wanted.announced(NQN) == ()
    (decision,) = plan(Facts(wanted.asked, trusted_subsystems=wanted.trusted_subsystems), [instance])
    assert decision.action is Action.START


# Budgets --------------------------------------------------------------------------------------------------


def test_announced_controller_ends_after_one_attempt_and_is_given_up_soon() -> None:
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN)
    made = granted(Wish(tid, DISCOVERY, "announced", MDNS), SCOPE, HOST, {})
    assert (made.attempts, made.give_up_after) == (ANNOUNCED_ATTEMPTS, 0), "while it is announced"
    parent = Parent(tid, tid.instance, SCOPE, SCOPE, 3600, 17.5, trusted=False, ncc_attempts=7)
    data = log_page(entry(NQN, eflags=4), entry(DISCOVERY_NQN, subtype=1, traddr="192.0.2.2"))
    for one in discovery_log.candidates(parse(data), parent, HOST).candidates:
        limits = one.attempts, one.give_up_after, one.asked
        assert limits == (ANNOUNCED_ATTEMPTS, ANNOUNCED_GIVE_UP_SECONDS, 17.5)


def test_announced_controller_that_gave_up_is_wanted_all_the_same() -> None:
    """When its turn comes; discoverd.supervisor.turns says when that is."""
    one = replace(path("192.0.2.66", trusted=False), attempts=1)
    reports = {one.tid.instance: Report(state.GIVEN_UP, attempt=1)}
    assert decide(one, reports=reports).action is Action.START


def test_controller_given_up_as_announced_is_tried_for_somebody_trusted() -> None:
    one = replace(path("192.0.2.66", trusted=True), give_up_after=3600, asked=10.0)
    reports = {one.tid.instance: Report(state.GIVEN_UP, time=20.0)}
    for trusted, action in ((False, Action.START), (True, Action.LEAVE)):
        known = {one.tid.instance: Known("listed", ANNOUNCED_DC, trusted=trusted)}
        assert decide(one, reports=reports, known=known).action is action


def test_page_of_an_announced_discovery_controller_is_cut_short() -> None:
    data = bytearray(log_page(*(entry(f"{NQN}-{number}") for number in range(READ_UNTRUSTED_ENTRIES))))
    data[8:16] = (1000).to_bytes(8, "little")
    data[20:24] = bytes(4)
    page = parse(bytes(data))
    assert (len(page.entries), page.beyond) == (READ_UNTRUSTED_ENTRIES, 1000 - READ_UNTRUSTED_ENTRIES)
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN)
    listing = discovery_log.candidates(page, Parent(tid, tid.instance, SCOPE, SCOPE, 0, 0, trusted=False), HOST)
    assert "only an announcement leads to it" in listing.refusals[0].reason
    assert listing.inconclusive


@pytest.mark.parametrize(("configured", "given"), [("", "300"), ("-1", "300"), ("600", "300"), ("5", "5"), ("0", "0")])
def test_kernel_reconnects_to_an_announced_controller_for_minutes_only(configured: str, given: str) -> None:
    params = {"ctrl-loss-tmo": configured} if configured else {}
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN)
    made = granted(Wish(tid, DISCOVERY, "announced", MDNS), replace(SCOPE, params=params), HOST, {})
    assert dict(made.options)["ctrl_loss_tmo"] == given
    firmware = granted(Wish(tid, DISCOVERY, "firmware", NBFT), replace(SCOPE, params=params), HOST, {})
    assert dict(firmware.options).get("ctrl_loss_tmo", "") == configured


@pytest.mark.parametrize("attempt", [0, 1])
def test_controller_without_a_worker_is_not_tried_when_its_announcement_has_ended(attempt: int) -> None:
    """Neither again nor for the first time: many that were announced would wait for their turns for long."""
    one = path("192.0.2.66", trusted=False)
    instance = one.tid.instance
    reports = {instance: Report(state.GIVEN_UP, attempt=attempt)} if attempt else {}
    ended = replace(one, announcement=Announcement("eth0", "2026-11-28 04:00"))
    assert decide(ended, reports=reports).action is Action.LEAVE
    still = replace(one, announcement=Announcement("eth0"))
    assert decide(still, reports=reports).action is Action.START
    (decision,) = plan(Facts({instance: (ended, still)}, reports=reports), [instance])
    assert decision.action is Action.START, "on another link it is announced"
    running = {instance: UnitFact("loaded", "active")}
    assert decide(ended, units=running).action is Action.KEEP
