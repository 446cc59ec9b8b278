# SPDX-License-Identifier: Apache-2.0
"""Log pages, most of them hostile."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.config.identity import HostIdentity
from discoverd.config.model import DiscoveredScope, Secrets
from discoverd.kernel.addresses import HostAddresses
from discoverd.plan.candidate import Candidate, Refusal
from discoverd.plan.log_page import Entry, LogPageError, parse
from discoverd.sources.discovery_log import Parent, candidates
from discoverd.state import Spec
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from .log_pages import FC, RDMA, TCP, entry, page

NQN = "nqn.2024-08.com.example:vol1"
HOST = "nqn.2024-08.com.example:host"
HOSTID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
IDENTITY = HostIdentity(HOST, HOSTID)
PARENT = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN)
SCOPE = DiscoveredScope({"ctrl-loss-tmo": "-1"}, Secrets(), "", "", "", "")


def found(
    data: bytes, parent: TransportId = PARENT, scope: DiscoveredScope = SCOPE, discovery: DiscoveredScope = SCOPE
) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
    about = Parent(parent, parent.instance, scope, discovery, give_up_after=3600, asked=17.5, trusted=True)
    listing = candidates(parse(data), about, IDENTITY)
    return listing.candidates, listing.refusals


def test_an_entry_is_read_exactly() -> None:
    log = parse(page(entry(NQN, "192.0.2.7", "4421", eflags=5), generation=2**63))
    assert log.generation == 2**63
    assert log.refused == ()
    assert log.entries == (Entry(0, 3, 2, 5, "4421", NQN, "192.0.2.7"),)


@pytest.mark.parametrize("pad", [b"\0", b" "])
def test_padding_is_no_text(pad: bytes) -> None:
    (one,) = parse(page(entry(NQN, pad=pad))).entries
    assert (one.subnqn, one.traddr, one.trsvcid) == (NQN, "192.0.2.1", "4420")


def test_fields_without_an_end() -> None:
    (one,) = parse(page(entry("n" * 256, "1" * 256, "4" * 32))).entries
    assert (len(one.subnqn), len(one.traddr), len(one.trsvcid)) == (256, 256, 32)


def test_an_empty_page_lists_nothing() -> None:
    assert found(page()) == ((), ())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes"),
        (page()[:-1], "1023 bytes"),
        (page(entry(NQN))[:-1], "claims 1 entries"),
        (page(entry(NQN)) + b"\0", "claims 1 entries"),
        (page(entry(NQN), records=2), "claims 2 entries"),
        (page(entry(NQN), records=0), "claims 0 entries"),
        (page(records=2**64 - 1), "claims"),
        (page(form=1), "record format 1"),
    ],
)
def test_no_log_page(data: bytes, why: str) -> None:
    with pytest.raises(LogPageError, match=why):
        parse(data)


def test_candidate() -> None:
    ((one,), refused) = found(page(entry(NQN), generation=9))
    assert refused == ()
    assert one.tid.instance == f"tcp:192.0.2.1:4420:{NQN}"
    assert one.source == f"listed in the log page of {PARENT.instance}"
    assert one.origin == PARENT.instance
    assert not one.configured
    assert one.options == (
        ("nqn", NQN),
        ("transport", "tcp"),
        ("traddr", "192.0.2.1"),
        ("trsvcid", "4420"),
        ("hostnqn", HOST),
        ("hostid", HOSTID),
        ("ctrl_loss_tmo", "-1"),
    )


def test_the_hosts_side_comes_from_the_discovery_controller() -> None:
    parent = TransportId.make(
        DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN, host_traddr="192.0.2.9", host_iface="eth0"
    )
    data = page(entry(NQN), entry(NQN, trtype=RDMA))
    (tcp, rdma), refused = found(data, parent)
    assert refused == ()
    assert (tcp.tid.host_traddr, tcp.tid.host_iface) == ("192.0.2.9", "eth0")
    assert (rdma.tid.host_traddr, rdma.tid.host_iface) == ("", "")


def test_another_host_nqn_is_part_of_the_identity() -> None:
    other = "nqn.2024-08.com.example:other"
    parent = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN, hostnqn=other)
    hostid = "11111111-2222-3333-4444-555555555555"
    ((one,), _) = found(page(entry(NQN)), parent, DiscoveredScope({}, Secrets(), "", other, hostid, ""))
    assert one.tid.hostnqn == other
    assert (dict(one.options)["hostnqn"], dict(one.options)["hostid"]) == (other, hostid)


def test_the_hosts_own_nqn_is_no_other_one_when_it_is_written_down() -> None:
    ((one,), _) = found(page(entry(NQN)), scope=DiscoveredScope({}, Secrets(), "", HOST, HOSTID, ""))
    assert one.tid.instance == f"tcp:192.0.2.1:4420:{NQN}"


def test_the_controller_itself_and_its_twins_are_passed_over() -> None:
    data = page(entry(DISCOVERY_NQN, subtype=3), entry(DISCOVERY_NQN, "192.0.2.7", "8009", subtype=1, eflags=1))
    assert found(data) == ((), ())


def test_storage_is_no_twin() -> None:
    """The flag is defined for discovery subsystems only; to pass over storage would be to have it disconnected."""
    wanted, refused = found(page(entry(NQN, eflags=1)))
    assert [one.tid.subsysnqn for one in wanted] == [NQN]
    assert refused == ()


@pytest.mark.parametrize("subtype", [0, 4, 255])
def test_an_entry_of_another_type_is_refused(subtype: int) -> None:
    wanted, (refusal,) = found(page(entry(DISCOVERY_NQN, subtype=subtype), generation=4))
    assert wanted == ()
    assert f"type {subtype} is unknown" in refusal.reason
    assert "entry 0" in refusal.what
    assert refusal.source == f"in the log page of {PARENT.instance}"


# Referrals ------------------------------------------------------------------------------------------------


def test_a_referral_is_a_discovery_controller() -> None:
    ((one,), refused) = found(page(entry(DISCOVERY_NQN, "192.0.2.7", "8009", subtype=1)))
    assert refused == ()
    assert (one.role, one.tid.instance) == (DISCOVERY, f"tcp:192.0.2.7:8009:{DISCOVERY_NQN}")
    assert one.source == f"a referral in the log page of {PARENT.instance}"
    assert (one.origin, one.give_up_after, one.asked) == (PARENT.instance, 3600, 17.5)
    # Held, like each discovery controller.
    assert dict(one.options)["keep_alive_tmo"] == "30"
    assert "discovery" not in dict(one.options)


def test_io_controller_of_a_page_is_never_given_up() -> None:
    ((one,), _) = found(page(entry(NQN)))
    assert (one.role, one.give_up_after, one.asked) == (IO, 0, 0)


def test_a_referral_by_a_name_of_its_own_is_marked_for_the_kernel() -> None:
    ((one,), _) = found(page(entry("nqn.2024-08.com.example:dc", subtype=1)))
    assert one.role == DISCOVERY
    assert ("discovery", "") in one.options


def test_a_referral_without_a_port_is_at_the_port_of_discovery() -> None:
    ((one,), _) = found(page(entry(DISCOVERY_NQN, trsvcid="", subtype=1)))
    assert one.tid.trsvcid == "8009"


def test_each_role_has_its_own_options() -> None:
    io = replace(SCOPE, params={"ctrl-loss-tmo": "5"})
    discovery = replace(SCOPE, params={"keep-alive-tmo": "7"})
    data = page(entry(NQN), entry(DISCOVERY_NQN, subtype=1))
    (one, other), _ = found(data, scope=io, discovery=discovery)
    assert dict(one.options)["ctrl_loss_tmo"] == "5"
    assert "keep_alive_tmo" not in dict(one.options)
    assert dict(other.options)["keep_alive_tmo"] == "7"
    assert "ctrl_loss_tmo" not in dict(other.options)


def test_a_referral_over_another_transport_has_no_side_of_this_one() -> None:
    parent = TransportId.make(
        DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN, host_traddr="192.0.2.9", host_iface="eth0"
    )
    data = page(entry(DISCOVERY_NQN, subtype=1), entry(DISCOVERY_NQN, trtype=RDMA, subtype=1))
    (tcp, rdma), refused = found(data, parent)
    assert refused == ()
    assert (tcp.tid.host_traddr, tcp.tid.host_iface) == ("192.0.2.9", "eth0")
    assert (rdma.tid.transport, rdma.tid.host_traddr, rdma.tid.host_iface) == ("rdma", "", "")


def test_an_fc_controller_lists_by_its_own_port_and_refers_to_tcp() -> None:
    parent = TransportId.make(DISCOVERY, "fc", "nn-0x1:pn-0x2", "", DISCOVERY_NQN, host_traddr="nn-0x3:pn-0x4")
    data = page(
        entry(NQN, "nn-0x5:pn-0x6", "none", trtype=FC), entry(DISCOVERY_NQN, "192.0.2.7", subtype=1, trtype=TCP)
    )
    (io, referral), refused = found(data, parent)
    assert refused == ()
    assert io.tid.host_traddr == parent.host_traddr
    assert (referral.tid.transport, referral.tid.host_traddr) == ("tcp", "")


@pytest.mark.parametrize(("bad", "role"), [("scope", IO), ("discovery", DISCOVERY)])
def test_unconnectable_entry_is_one_refusal_and_the_page_is_not_whole(bad: str, role: str) -> None:
    tls = replace(SCOPE, secrets=Secrets(tls=True))
    scopes = {"scope": SCOPE, "discovery": SCOPE, bad: tls}
    about = Parent(PARENT, PARENT.instance, scopes["scope"], scopes["discovery"], 0, 0)
    data = page(entry(NQN), entry("nqn.b"), entry(DISCOVERY_NQN, subtype=1), entry(DISCOVERY_NQN, subtype=1))
    listing = candidates(parse(data), about, IDENTITY)
    assert listing.inconclusive == "not all of its log page can be used"
    assert {one.role for one in listing.candidates} == {IO, DISCOVERY} - {role}
    (refusal,) = listing.refusals
    assert (refusal.what, "TLS is not supported" in refusal.reason) == ("everything", True)


HERE = HostAddresses(frozenset((bytes((192, 0, 2, 2)),)), frozenset((bytes((192, 0, 2, 255)),)))


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("dc", ["192.0.2.1", "192.0.2.2", "127.0.0.1"])
@pytest.mark.parametrize("listed", ["192.0.2.2", "127.0.0.1", "::ffff:192.0.2.2", "192.0.2.255", "192.0.2.3"])
def test_only_a_trusted_discovery_controller_of_this_host_lists_this_host(trusted: bool, dc: str, listed: str) -> None:
    tid = TransportId.make(DISCOVERY, "tcp", dc, "", DISCOVERY_NQN)
    about = Parent(tid, tid.instance, SCOPE, SCOPE, 0, 0.0, trusted, addresses=HERE)
    listing = candidates(parse(page(entry(NQN, listed))), about, IDENTITY)
    here = listed not in ("192.0.2.3", "192.0.2.255")
    taken = listed == "192.0.2.3" or (here and trusted and dc != "192.0.2.1")
    assert bool(listing.candidates) is taken
    if not taken:
        assert listing.possible_nqns == {NQN}, "what is connected already is not withdrawn for it"


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (entry(NQN, "127.0.0.1", subtype=1), "is an address of this host, and the"),
        (entry(NQN, "ff02::1", subtype=1), "no address to connect to"),
        (entry(DISCOVERY_NQN, "nn-0x1:pn-0x2", "none", trtype=FC, subtype=1), "cannot refer to fc"),
        (entry(DISCOVERY_NQN, "", "none", trtype=254, subtype=1), "cannot refer to loop"),
        (entry(DISCOVERY_NQN), "the NQN of discovery controllers"),
        (entry(NQN, "127.0.0.1"), "is an address of this host, and the"),
        (entry(NQN, "::1"), "is an address of this host, and the"),
        (entry(NQN, "224.0.0.1"), "no address to connect to"),
        (entry(NQN, "", "none", trtype=254), "cannot refer to loop"),
        (entry(NQN, "nn-0x1:pn-0x2", "none", trtype=FC), "cannot refer to fc"),
        (entry(NQN, "fe80::1%\u202egnp"), "does not tell of which"),
    ],
)
def test_entry_with_a_forbidden_address_is_refused(refused: bytes, why: str) -> None:
    wanted, (refusal,) = found(page(refused))
    assert wanted == ()
    assert why in refusal.reason


HOSTILE = [
    entry("nqn.a,host_traddr=192.0.2.66"),
    entry("nqn.a\nend"),
    entry("nqn.a\rb"),
    entry("nqn.a\x1b]0;owned\x07"),
    entry("nqn.a\x9b2J"),
    entry("nqn.a\u202eb"),
    entry("nqn.a b"),
    entry("nqn." + "x" * 252),
    entry("nqn." + "x" * 220),
    entry("../../etc/passwd"),
    entry(""),
    entry(b"nqn.\xff\xfe"),
    entry(b"nqn.a\xed\xa0\x80"),
    entry(NQN, "0.0.0.0"),  # noqa: S104
    entry(NQN, "::"),
    entry(NQN, "0:0:0:0:0:0:0:0"),
    entry(NQN, "::ffff:0.0.0.0"),
    entry(NQN, "::%eth0"),
    entry(NQN, ""),
    entry(NQN, "array.example.com"),
    entry(NQN, "192.0.2.1,nqn=x"),
    entry(NQN, "192.0.2.1\nend"),
    entry(NQN, "fe80::1%../x"),
    entry(NQN, "fe80::1%a,b"),
    entry(NQN, b"192.0.2.1\xff"),
    entry(NQN, trsvcid="4420,nqn=x"),
    entry(NQN, trsvcid="0"),
    entry(NQN, trsvcid="99999"),
    entry(NQN, trsvcid="4420\n1"),
    entry(NQN, trsvcid="-1"),
    entry(NQN, trsvcid=b"\xff"),
    entry(NQN, trtype=0),
    entry(NQN, trtype=255),
    entry(NQN, trtype=FC),
    entry(NQN, "nn-0x1:pn-0x2,x", trtype=FC),
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_entry_is_refused_alone(hostile: bytes) -> None:
    wanted, refused = found(page(hostile, entry(NQN)))
    assert [one.tid.subsysnqn for one in wanted] == [NQN]
    assert len(refused) == 1
    assert "entry 0" in refused[0].what
    assert f"{refused[0].what} {refused[0].reason} {refused[0].source}".isprintable()


@pytest.mark.parametrize("nqn", ["nqn.a/../b", "nqn.%i%n", "nqn.a\\x2f", "nqn.a;reboot", "nqn.$(x)", "nqn.é", "nqn.="])
def test_an_odd_name_is_taken_and_made_harmless(nqn: str) -> None:
    ((one,), refused) = found(page(entry(nqn)))
    assert refused == ()
    assert_harmless(one)
    assert dict(one.options)["nqn"] == nqn


def assert_harmless(one: Candidate) -> None:
    instance = one.tid.instance
    assert re.fullmatch(r"([A-Za-z0-9:_.@-]|\\x[0-9a-f]{2})+", instance)
    assert instance not in (".", "..")
    assert not instance.startswith(".")
    for key, value in one.options:
        assert not set(value) & set(",\n\r\0"), key
        assert value.isprintable()
    assert str(one.tid).isprintable()
    spec = Spec(one.role, list(one.options))
    spec.source, spec.origin = one.source, one.origin
    again = Spec.decode(spec.encode())
    assert (again.options, again.source) == (list(one.options), one.source)


def assert_survives(data: bytes) -> None:
    try:
        wanted, refused = found(data)
    except LogPageError:
        return
    for one in wanted:
        assert_harmless(one)
    for refusal in refused:
        assert f"{refusal.what} {refusal.reason} {refusal.source}".isprintable()


GOOD = page(entry(NQN), entry(NQN, "fe80::1%eth0"), entry(NQN, "nn-0x1:pn-0x2", "none", trtype=FC), entry("nqn.x"))


@given(st.binary(max_size=2100))
def test_noise(data: bytes) -> None:
    assert_survives(data)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=12), st.integers(0, len(GOOD)))
def test_a_page_with_wrong_bytes(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(GOOD)
    for position, value in changes:
        data[position] = value
    assert_survives(bytes(data))
    assert_survives(bytes(data[:cut]))


texts = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=80).map(str.encode),
    st.text(alphabet="nq.:,%/\\\n\0 ab1é", max_size=60).map(lambda text: b"nqn." + text.encode()),
    st.text(alphabet="0123456789abcdef:.%,/ ", max_size=40).map(str.encode),
    st.sampled_from([NQN.encode(), b"192.0.2.1", b"4420", b"fe80::1%eth0"]),
)


@given(
    st.lists(
        st.builds(
            entry,
            texts,
            texts,
            texts,
            trtype=st.sampled_from([0, RDMA, FC, TCP, 254, 255]),
            subtype=st.sampled_from([0, 1, 2, 2, 2, 3, 4]),
            eflags=st.integers(0, 65535),
        ),
        max_size=4,
    )
)
def test_made_up_entries(entries: list[bytes]) -> None:
    assert_survives(page(*entries))


@pytest.mark.parametrize(
    ("data", "inconclusive"),
    [
        (page(entry(NQN)), ""),
        # It is understood, and nothing for this host.
        (page(entry(NQN), entry("nqn.b", "nn-0x1:pn-0x2", "none", trtype=2)), ""),
        # What older Linux targets call a subsystem that was given no NQN.
        (page(entry(NQN), entry("nvme-ram0")), ""),
        (page(entry(NQN), entry("")), "1 entry of its log page cannot be read"),
        # Whatever else it has, without storage it may be that of a controller that starts.
        (page(entry(DISCOVERY_NQN, "192.0.2.2", subtype=1)), "its log page lists nothing"),
        (page(entry("nvme-ram0")), "its log page lists nothing"),
        (page(), "its log page lists nothing"),
        (page(entry(DISCOVERY_NQN, subtype=3)), "its log page lists nothing"),
        (page(entry(NQN), entry("nqn.a,b")), "1 entry of its log page cannot be read"),
        (page(entry(NQN), entry("nqn.b", subtype=9)), "1 entry of its log page cannot be read"),
        (page(entry(NQN), entry(DISCOVERY_NQN)), "1 entry of its log page cannot be read"),
        (page(entry(NQN), length=2048), ""),
        (
            page(entry(NQN), length=4096),
            "the length of its log page, 4096 bytes, does not fit its number of entries, 1",
        ),
        (page(entry(NQN), entry("nqn.\0\xff".encode("latin-1"))), ""),
    ],
)
def test_inconclusive_page_proves_nothing_by_its_gaps(data: bytes, inconclusive: str) -> None:
    about = Parent(PARENT, PARENT.instance, SCOPE, SCOPE, give_up_after=0, asked=0.0)
    assert candidates(parse(data), about, IDENTITY).inconclusive == inconclusive


@pytest.mark.parametrize(
    ("unusable", "possible_nqns"),
    [
        (entry("nqn.a", "0.0.0.0"), {"nqn.a"}),  # noqa: S104
        (entry("nqn.a", "127.0.0.1"), {"nqn.a"}),
        (entry("nqn.a", "224.0.0.1"), {"nqn.a"}),
        (entry("nqn.a", "array.example.com"), {"nqn.a"}),
        (entry("nqn.a", trsvcid="0"), {"nqn.a"}),
        (entry("nqn.a", trtype=9), {"nqn.a"}),
        (entry("nqn.a", trtype=FC), {"nqn.a"}),
        (entry("nqn.a", "", "none", trtype=254), {"nqn.a"}),
        (entry("nqn.a", "0.0.0.0", subtype=1), {DISCOVERY_NQN}),  # noqa: S104
        # These are understood, and no controller of this host's.
        (entry("nqn.a", "nn-0x1:pn-0x2", "none", trtype=FC), set()),
        (entry("nqn.a", "nn-0x1:pn-0x2", "none", trtype=FC, subtype=1), set()),
        (entry("nvme-ram0", "0.0.0.0"), set()),  # noqa: S104
    ],
)
def test_an_entry_that_cannot_be_used_may_be_a_controller_of_its_name(unusable: bytes, possible_nqns: set[str]) -> None:
    about = Parent(PARENT, PARENT.instance, SCOPE, SCOPE, give_up_after=0, asked=0.0)
    listing = candidates(parse(page(entry(NQN), unusable)), about, IDENTITY)
    assert (listing.inconclusive, set(listing.possible_nqns)) == ("", possible_nqns)
    assert len(listing.refusals) == 1


@pytest.mark.parametrize(("eflags", "limit", "attempts"), [(4, 3, 3), (4, 0, 0), (0, 3, 0), (6, 2, 2)])
def test_entry_not_connected_to_the_cdc_is_tried_so_often(eflags: int, limit: int, attempts: int) -> None:
    about = Parent(PARENT, PARENT.instance, SCOPE, SCOPE, give_up_after=0, asked=0.0, trusted=True, ncc_attempts=limit)
    (found,) = candidates(parse(page(entry(NQN, eflags=eflags))), about, IDENTITY).candidates
    assert found.attempts == attempts


def test_interface_of_the_discovery_controller_is_inherited() -> None:
    tid = TransportId.make(DISCOVERY, "tcp", "fe80::1%eth0", "", DISCOVERY_NQN, host_iface="eth0")
    about = Parent(tid, tid.instance, SCOPE, SCOPE, 0, 0.0, trusted=True)
    (one,) = candidates(parse(page(entry(NQN, "fe80::2"))), about, IDENTITY).candidates
    # The zone of a link-local address is a part of it.
    assert (one.tid.traddr, one.tid.host_iface) == ("fe80::2%eth0", "eth0")
