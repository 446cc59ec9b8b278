# SPDX-License-Identifier: Apache-2.0
"""A UUID NQN goes to the target as it was written, and is one and the same in upper and lower case everywhere else."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Secrets
from discoverd.config.usable import identity
from discoverd.kernel.controllers import UUID_NQN_PREFIX
from discoverd.plan.candidate import CONFIGURATION, NBFT, Candidate, Wish, granted
from discoverd.plan.folding import fold, group_of
from discoverd.sources.configured import configured
from discoverd.tid import IO, TransportId

from .test_configured import CONNECTION

HOSTID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
OTHER_ID = "11111111-2222-3333-4444-555555555555"
SCOPE = DiscoveredScope({}, Secrets(), "", "", "", "")

uuids = st.uuids().filter(lambda one: one.int != 0).map(str)
spellings = st.sampled_from([str.lower, str.upper, str.swapcase, str.title])
Spell = Callable[[str], str]


def candidate(connection: Connection, host: HostIdentity) -> Candidate:
    (made,) = configured(FabricsConfig((connection,)), host, lambda *_: None).candidates
    return made


def nqn(uuid: str) -> str:
    return UUID_NQN_PREFIX + uuid


@given(uuids, spellings, st.sampled_from(["own", "persona", "subsystem"]))
def test_configured_one_is_sent_as_written_and_named_in_lower_case(uuid: str, spell: Spell, whose: str) -> None:
    def made(text: str) -> Candidate:
        own = nqn(text) if whose == "own" else "nqn.2024-08.com.example:host"
        persona = nqn(text) if whose == "persona" else ""
        subsystem = nqn(text) if whose == "subsystem" else CONNECTION.subsysnqn
        connection = replace(CONNECTION, hostnqn=persona, hostid=OTHER_ID if persona else "", subsysnqn=subsystem)
        return candidate(connection, HostIdentity(own, HOSTID))

    spelled, lower = made(spell(uuid)), made(uuid)
    option = "nqn" if whose == "subsystem" else "hostnqn"
    assert dict(spelled.options)[option] == nqn(spell(uuid))
    assert dict(lower.options)[option] == nqn(uuid)
    assert (spelled.tid, spelled.target) == (lower.tid, lower.target)
    assert bool(spelled.tid.hostnqn) is (whose == "persona")


@given(uuids, spellings, spellings)
def test_hosts_own_nqn_is_no_persona_in_whatever_case(uuid: str, one: Spell, other: Spell) -> None:
    connection = replace(CONNECTION, hostnqn=nqn(one(uuid)))
    made = candidate(connection, HostIdentity(nqn(other(uuid)), HOSTID))
    assert made.tid.hostnqn == ""
    # The kernel takes one spelling of a host NQN for one host ID.
    assert (dict(made.options)["hostnqn"], dict(made.options)["hostid"]) == (nqn(other(uuid)), HOSTID)


@given(uuids, spellings)
def test_same_path_written_in_two_cases_is_found_twice(uuid: str, spell: Spell) -> None:
    lower = replace(CONNECTION, subsysnqn=nqn(uuid), hostnqn=nqn(uuid))
    spelled = replace(CONNECTION, subsysnqn=nqn(spell(uuid)), hostnqn=nqn(spell(uuid)))
    assert identity(lower) == identity(spelled)


@given(uuids, spellings)
def test_firmwares_persona_is_sent_as_its_table_spells_it(uuid: str, spell: Spell) -> None:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn.a", hostnqn=nqn(spell(uuid)))
    assert tid.hostnqn == nqn(uuid)
    wish = Wish(tid, IO, "in the NBFT", NBFT)
    made = granted(wish, SCOPE, HostIdentity("nqn.2024-08.com.example:host", HOSTID), {nqn(spell(uuid)): OTHER_ID})
    assert (dict(made.options)["hostnqn"], dict(made.options)["hostid"]) == (nqn(spell(uuid)), OTHER_ID)
    assert made.tid == tid


@given(uuids, spellings, spellings)
def test_subsystem_listed_in_another_case_is_folded_into_the_configured_unit(
    uuid: str, one: Spell, other: Spell
) -> None:
    written = candidate(replace(CONNECTION, subsysnqn=nqn(one(uuid))), HostIdentity("nqn.a", HOSTID))
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", nqn(other(uuid)))
    listed = Candidate(tid, IO, "listed", "dc", (("nqn", tid.subsysnqn),))
    assert group_of(written) == group_of(listed)
    units = fold([listed, written], lambda _: False)
    assert units == {written.tid.instance: (written, listed)}
    assert written.origin == CONFIGURATION


@pytest.mark.parametrize("text", ["nqn.2024-08.com.example:Vol1", "nqn.2014-08.org.nvmexpress:UUID:A"])
def test_other_nqns_have_a_case(text: str) -> None:
    host = HostIdentity("nqn.2024-08.com.example:host", HOSTID)
    upper, lower = (candidate(replace(CONNECTION, subsysnqn=one), host) for one in (text, text.lower()))
    assert upper.tid != lower.tid
    assert group_of(upper) != group_of(lower)
