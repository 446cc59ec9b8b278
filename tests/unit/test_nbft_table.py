# SPDX-License-Identifier: Apache-2.0
"""The firmware table's parser: what it reads, what it drops, and that no bytes can make it fail in another way."""

import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discoverd.kernel.nbft import NbftError, parse

from .nbft_tables import HOSTID, HOSTNQN, Discovery, Hfi, Namespace, Security, checked, table

TWO = (Hfi(), Hfi(2, "52:54:00:00:00:02", ip="198.51.100.2"))


def test_table_is_parsed() -> None:
    found = parse(
        table(
            (Hfi(), Hfi(2, "52:54:00:00:00:02", vlan=12, ip="2001:db8::2", dhcp="2001:db8::1")),
            (Namespace(secondary=(2,), discovery=1, transport_flags=7), Namespace(9, traddr="2001:db8::9", hfi=2)),
            (Discovery(uri="nvme+tcp://[2001:db8::1]/", nqn="nqn.2024-08.com.example:dc", hfi=2),),
        )
    )
    assert (found.hostnqn, found.hostid, found.faults) == (HOSTNQN, HOSTID, ())
    assert found.hfis[1].mac == bytes.fromhex("525400000001")
    assert (found.hfis[1].vlan, found.hfis[1].address, found.hfis[1].dynamic) == (0, "192.0.2.2", False)
    assert (found.hfis[2].vlan, found.hfis[2].address, found.hfis[2].dynamic) == (12, "2001:db8::2", True)
    first, second = found.namespaces
    assert (first.traddr, first.trsvcid, first.hfis, first.discovery) == ("192.0.2.1", "4420", (1, 2), 1)
    assert first.header_digest
    assert first.data_digest
    assert not first.security
    assert not first.unavailable
    assert (second.index, second.traddr, second.hfis) == (9, "2001:db8::9", (2,))
    (discovery,) = found.discoveries
    assert (discovery.uri, discovery.subsysnqn) == ("nvme+tcp://[2001:db8::1]/", "nqn.2024-08.com.example:dc")
    assert (discovery.hfi, discovery.security) == (2, False)


@pytest.mark.parametrize(
    ("hfi", "dynamic"),
    [
        (Hfi(), False),
        (Hfi(origin=2), False),
        (Hfi(origin=3), True),
        (Hfi(origin=4), True),
        (Hfi(info_flags=5), True),
        (Hfi(info_flags=9), True),
        (Hfi(info_flags=3), False),
        (Hfi(dhcp="192.0.2.254"), True),
    ],
)
def test_an_address_that_may_change(hfi: Hfi, dynamic: bool) -> None:
    assert parse(table((hfi,))).hfis[1].dynamic is dynamic


@pytest.mark.parametrize("unset", ["", "0.0.0.0", "::"])  # noqa: S104
def test_an_interface_without_an_address(unset: str) -> None:
    assert parse(table((Hfi(ip=unset),))).hfis[1].address == ""


def test_flags_of_a_namespace() -> None:
    found = parse(
        table(
            namespaces=[
                Namespace(1, flags=0x101),
                Namespace(2, flags=0x81),
                Namespace(3, flags=0x5),
                Namespace(4, security=1),
                # Digests count only where the transport flags are valid.
                Namespace(5, transport_flags=6),
            ],
            securities=[Security()],
        )
    ).namespaces
    assert [one.unavailable for one in found] == [True, False, False, False, False]
    assert [one.security for one in found] == [False, False, True, True, False]
    assert not found[4].header_digest


def test_further_interfaces_may_be_missing_and_double_ones_count_once() -> None:
    found = parse(table(TWO, [Namespace(secondary=None), Namespace(secondary=(2, 2, 1))])).namespaces
    assert [one.hfis for one in found] == [(1,), (1, 2)]


def test_revision_1_1_and_more_bytes_than_the_table_has() -> None:
    assert len(parse(table(revision=(1, 1)) + b"\1\xff").namespaces) == 1


WRONG = {
    "nothing": (b"", "its size"),
    "a stump": (table()[:100], "its size"),
    "another table": (table(raw={0: b"SSDT"}), "its signature"),
    "too long": (table(raw={4: struct.pack("<I", 5000)}), "its length"),
    "too short": (table(raw={4: struct.pack("<I", 100)}), "its length"),
    "a flipped bit": (table(raw={300: b"\x55"}, fixed=False), "its checksum"),
    "major revision": (table(revision=(2, 0)), "its revision: 2.0"),
    "minor revision": (table(revision=(1, 2)), "its revision: 1.2"),
    "heap in the header": (table(raw={36: struct.pack("<I", 10)}), "its heap"),
    "heap past the end": (table(raw={40: struct.pack("<I", 5000)}), "its heap"),
    "control of another kind": (table(raw={64: b"\2"}), "its control descriptor"),
    "control not valid": (table(raw={70: b"\0"}), "its control descriptor"),
    "small interfaces": (table(raw={84: struct.pack("<H", 31)}), "its list of interfaces"),
    "interfaces past the end": (table(raw={87: b"\xff"}), "its list of interfaces"),
    "namespaces in the header": (table(raw={88: struct.pack("<I", 8)}), "its list of namespaces"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_table_that_cannot_be_used(wrong: str) -> None:
    data, why = WRONG[wrong]
    with pytest.raises(NbftError, match=why):
        parse(data)


BAD_NAMESPACES = {
    "another kind": (Namespace(raw={0: b"\3"}), "its id is 3"),
    "transport": (Namespace(raw={5: b"\1"}), "transport type 1"),
    "address outside": (Namespace(raw={10: struct.pack("<I", 0)}), "its address .* is not in the table's heap"),
    "no address": (Namespace(raw={14: bytes(2)}), "its address has 0 bytes"),
    "port outside": (Namespace(raw={16: struct.pack("<I", 1 << 31)}), "its port"),
    "interfaces outside": (Namespace(raw={48: struct.pack("<IH", 1 << 31, 3)}), "its list of further interfaces"),
    "name outside": (Namespace(raw={58: b"\xff\xff"}), "its NQN"),
    "name no text": (Namespace(nqn=b"nqn.\xff"), "its NQN is not valid UTF-8"),
}


@pytest.mark.parametrize("bad", BAD_NAMESPACES)
def test_a_bad_namespace_drops_only_itself(bad: str) -> None:
    namespace, why = BAD_NAMESPACES[bad]
    found = parse(table(namespaces=[namespace, Namespace(2)]))
    assert [one.index for one in found.namespaces] == [2]
    ((what, said),) = found.faults
    assert what == "namespace 1 of 2"
    assert re.search(why, said)


@pytest.mark.parametrize(
    "bad",
    [
        Hfi(raw={0: b"\4"}),
        Hfi(raw={3: b"\2"}),
        Hfi(raw={16: bytes(6)}),
        Hfi(raw={20: b"\x10\0"}),
        Hfi(info_flags=0),
        Hfi(info_raw={0: b"\6"}),
        Hfi(info_raw={1: b"\2"}),
        Hfi(info_raw={2: b"\1"}),
        Hfi(vlan=4095),
    ],
)
def test_a_bad_interface_drops_only_itself(bad: Hfi) -> None:
    found = parse(table((bad, TWO[1]), [Namespace(secondary=(2,))]))
    assert list(found.hfis) == [2]
    assert len(found.namespaces) == 1
    assert [what for what, _ in found.faults] == ["interface 1 of 2"]


def test_places_that_firmware_left_empty_are_no_fault() -> None:
    empty = {0: bytes(32)}
    found = parse(
        table(
            (Hfi(raw=empty), Hfi(2), Hfi(3, flags=0)),
            [Namespace(flags=0, nqn=b"\xff"), Namespace(2, hfi=2)],
            [Discovery(raw=empty), Discovery(flags=0)],
        )
    )
    assert (list(found.hfis), [one.index for one in found.namespaces], found.discoveries) == ([2], [2], ())
    assert found.faults == ()


def test_a_bad_discovery_descriptor_and_a_bad_host_drop_only_themselves() -> None:
    found = parse(table(discoveries=[Discovery(raw={0: b"\7"}), Discovery(2)], hostnqn=b"\xff"))
    assert [one.index for one in found.discoveries] == [2]
    assert (found.hostnqn, found.hostid) == ("", bytes(16))
    assert [what for what, _ in found.faults] == [
        "the host descriptor",
        "discovery descriptor 1 of 2",
    ]
    assert parse(table(raw={72: struct.pack("<I", 1 << 30)})).faults
    assert parse(table(host_flags=6)).hostnqn == ""


def reads(data: bytes) -> None:
    """Any other exception than NbftError fails the example."""
    said: list[str] = []
    try:
        said += [why for _, why in parse(data).faults]
    except NbftError as error:
        said.append(str(error))
    assert all(line.isprintable() and len(line) < 200 for line in said)


GOOD = (
    table(),
    table(TWO, [Namespace(secondary=(2,), discovery=1), Namespace(2, security=1)], [Discovery()], [Security()]),
    table(revision=(1, 1), discoveries=[Discovery(uri="nvme+tcp://[2001:db8::1]:8009/", nqn=HOSTNQN)]),
)
BYTES = st.one_of(st.sampled_from([b"\0", b"\1", b"\x7f", b"\x80", b"\xff"]), st.binary(min_size=1, max_size=6))


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=1200))
def test_any_bytes(data: bytes) -> None:
    reads(data)
    reads(checked(b"NBFT" + struct.pack("<IB", len(data), 1) + data[9:]))


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 900), BYTES), min_size=1, max_size=6), st.booleans())
def test_mutated_tables(good: bytes, changes: list[tuple[int, bytes]], cut: bool) -> None:
    data = good
    for at, new in changes:
        at %= len(data)
        data = data[:at] + new + data[at + len(new) :]
    if cut:
        data = data[: changes[0][0]]
    reads(checked(data))
