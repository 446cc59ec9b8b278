# SPDX-License-Identifier: Apache-2.0
"""One identity, one spelling, one unit name."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd import tid
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TidError, TransportId

from .strategies import tids

NQN = "nqn.2024-08.com.example:vol1"
UUID = "0F1E2D3C-4B5A-6978-8796-A5B4C3D2E1F0"
# systemd.unit(5): what a unit's name may consist of; escapes are ours.
UNIT_PART = re.compile(r"([A-Za-z0-9:_.@-]|\\x[0-9a-f]{2})+")


@pytest.mark.parametrize(
    ("transport", "given", "canonical"),
    [
        ("tcp", "192.0.2.1", "192.0.2.1"),
        ("tcp", "2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("tcp", "[2001:db8::1]", "2001:db8::1"),
        ("rdma", "2001:db8:0000::0001", "2001:db8::1"),
        ("tcp", "::ffff:192.0.2.1", "192.0.2.1"),
        ("tcp", "::FFFF:c000:201", "192.0.2.1"),
        ("tcp", "fe80::1%eth0", "fe80::1%eth0"),
        ("tcp", "FE80:0::1%eth0", "fe80::1%eth0"),
        ("fc", "nn-0x20000090FA942779:pn-0x10000090FA942779", "nn-0x20000090fa942779:pn-0x10000090fa942779"),
        ("fc", "nn-0x1,pn-0x2", "nn-0x0000000000000001:pn-0x0000000000000002"),
        ("fc", "NN-0X1:PN-0X2", "nn-0x0000000000000001:pn-0x0000000000000002"),
        ("loop", "", ""),
        ("loop", "a-b_c.1", "a-b_c.1"),
    ],
)
def test_canonical_address(transport: str, given: str, canonical: str) -> None:
    assert tid.canonical_address(transport, given) == canonical
    assert tid.canonical_address(transport, canonical) == canonical


@pytest.mark.parametrize(
    ("transport", "address"),
    [
        ("tcp", ""),
        ("tcp", "array.example.com"),
        ("tcp", "192.0.2"),
        ("tcp", "192.0.2.256"),
        ("tcp", "010.0.2.1"),
        ("tcp", "192.0.2.1,host_traddr=192.0.2.9"),
        ("tcp", "192.0.2.1\n"),
        ("tcp", "fe80::1%"),
        ("tcp", "fe80::1%a/b"),
        ("tcp", "fe80::1%a,nqn=x"),
        ("tcp", "fe80::1%.."),
        ("tcp", "fe80::1%eth0\n"),
        ("tcp", "fe80::1%name-of-16-bytes"),
        ("fc", "192.0.2.1"),
        ("fc", "nn-0x1"),
        ("fc", "nn-0x12345678901234567:pn-0x1"),
        ("fc", "nn-0x1:pn-0x2\n"),
        ("loop", "a/b"),
        ("loop", "a\n"),
        ("loop", "a,b"),
        ("pcie", "0000:01:00.0"),
        ("", "192.0.2.1"),
    ],
)
def test_no_such_address(transport: str, address: str) -> None:
    with pytest.raises(TidError):
        tid.canonical_address(transport, address)


@pytest.mark.parametrize(
    ("transport", "role", "port"),
    [("tcp", DISCOVERY, "8009"), ("tcp", IO, "4420"), ("rdma", DISCOVERY, "4420"), ("rdma", IO, "4420")],
)
@pytest.mark.parametrize("unset", ["", "none", "None", " "])
def test_default_port(transport: str, role: str, port: str, unset: str) -> None:
    assert TransportId.make(role, transport, "192.0.2.1", unset, NQN).trsvcid == port


@pytest.mark.parametrize("transport", ["fc", "loop"])
def test_no_port_where_the_transport_has_none(transport: str) -> None:
    address = "nn-0x1:pn-0x2" if transport == "fc" else "loop0"
    assert TransportId.make(IO, transport, address, "none", NQN).trsvcid == ""
    with pytest.raises(TidError, match="4420"):
        TransportId.make(IO, transport, address, "4420", NQN)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "+4420", "0x1144", "4420 x", "٤٤٢٠", "4420,nqn=x", "4420\n1"])
def test_no_such_port(port: str) -> None:
    with pytest.raises(TidError, match="port"):
        TransportId.make(IO, "tcp", "192.0.2.1", port, NQN)


def test_leading_zeros_of_a_port_go() -> None:
    assert TransportId.make(IO, "tcp", "192.0.2.1", "04420", NQN).trsvcid == "4420"


def test_none_is_unset_on_the_hosts_side() -> None:
    made = TransportId.make(IO, "TCP", " 192.0.2.1 ", "none", NQN, host_traddr="none", host_iface="None")
    assert made == TransportId("tcp", "192.0.2.1", "4420", NQN)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"host_traddr": "2001:db8::9"}, "families"),
        ({"host_traddr": "elsewhere"}, "not an IP address"),
        ({"host_iface": "a/b"}, "network interface"),
        ({"host_iface": "eth0,nqn=x"}, "network interface"),
        ({"host_iface": "sixteen-letters-"}, "network interface"),
        ({"host_iface": "."}, "network interface"),
        ({"hostnqn": "host,1"}, "does not begin"),
        ({"hostnqn": "nqn.a,b"}, "not allowed"),
    ],
)
def test_hosts_side_refused(change: dict[str, str], match: str) -> None:
    with pytest.raises(TidError, match=match):
        TransportId.make(IO, "tcp", "192.0.2.1", "4420", NQN, **change)


def test_a_mapped_address_is_of_the_family_of_ipv4() -> None:
    made = TransportId.make(IO, "tcp", "::ffff:192.0.2.1", "4420", NQN, host_traddr="192.0.2.9")
    assert made.traddr == "192.0.2.1"


def test_an_interface_is_for_tcp() -> None:
    with pytest.raises(TidError, match="tcp only"):
        TransportId.make(IO, "rdma", "192.0.2.1", "4420", NQN, host_iface="eth0")


@pytest.mark.parametrize(
    "nqn",
    [
        DISCOVERY_NQN,
        NQN,
        "nqn.2014-08.org.nvmexpress:uuid:" + UUID.lower(),
        "nqn.2024-12.com:x",
        "nqn.2024-01.com.ex-ample.storage.a1:vol 1".replace(" ", "_"),
        "nqn.2024-08.com.example:a:b:c",
        "nqn.2024-08.com.example:größe",
        "nqn.2024-08.com.example:" + "x" * (223 - 24),
    ],
)
def test_nqn_accepted(nqn: str) -> None:
    assert tid.check_nqn(nqn) == nqn


def test_uuid_of_an_nqn_keeps_its_case() -> None:
    nqn = "nqn.2014-08.org.nvmexpress:uuid:" + UUID
    assert tid.check_nqn(nqn) == nqn
    assert tid.check_nqn(nqn.replace(UUID, UUID.lower())) == nqn.replace(UUID, UUID.lower())


@pytest.mark.parametrize(
    ("nqn", "rule"),
    [
        ("nqn.2014-08.org.nvmexpress:uuid:1234", "8-4-4-4-12"),
        ("nqn.2014-08.org.nvmexpress:uuid:" + UUID.replace("-", ""), "8-4-4-4-12"),
        ("nqn.2014-08.org.nvmexpress:uuid:{" + UUID + "}", "8-4-4-4-12"),
        ("nqn.24-08.com.example:x", "YYYY-MM"),
        ("nqn.2024-8.com.example:x", "YYYY-MM"),
        ("nqn.com.example:x", "YYYY-MM"),
        ("nqn.٢٠٢٤-08.com.example:x", "YYYY-MM"),
        ("nqn.2024-00.com.example:x", "month 00"),
        ("nqn.2024-13.com.example:x", "month 13"),
        ("nqn.2024-08.com.example", "colon and a name"),
        ("nqn.2024-08.com.example:", "colon and a name"),
        ("nqn.2024-08.:x", "reverse domain"),
        ("nqn.2024-08.com..example:x", "reverse domain"),
        ("nqn.2024-08.-com.example:x", "reverse domain"),
        ("nqn.2024-08.com_example:x", "reverse domain"),
        ("nqn.2024-08.com.example/../x:x", "reverse domain"),
        ("nqn.2024-08." + "a" * 64 + ":x", "reverse domain"),
    ],
)
def test_nqn_that_breaks_the_grammar(nqn: str, rule: str) -> None:
    with pytest.raises(TidError, match=rule):
        tid.check_nqn(nqn)
    # A peer may call itself so all the same.
    assert tid.check_peer_nqn(nqn) == nqn


@pytest.mark.parametrize(
    ("nqn", "rule"),
    [
        ("", "does not begin"),
        ("NQN.2024-08.com.example:x", "does not begin"),
        ("iqn.2024-08.com.example:x", "does not begin"),
        ("nqn.2024-08.com.example:" + "x" * (224 - 24), "224 bytes"),
        ("nqn.2024-08.com.example:" + "ü" * 100, "224 bytes"),
        ("nqn.2024-08.com.example:a,b", "','"),
        ("nqn.2024-08.com.example:a b", "' '"),
        ("nqn.2024-08.com.example:a\nb", "not allowed"),
        ("nqn.2024-08.com.example:a\0b", "not allowed"),
        ("nqn.2024-08.com.example:a\x1b[2Jb", "not allowed"),
        ("nqn.2024-08.com.example:a\x7f", "not allowed"),
        ("nqn.2024-08.com.example:a\u00a0b", "not allowed"),
        ("nqn.2024-08.com.example:a\u202eb", "not allowed"),
        ("nqn.2024-08.com.example:a\u2028b", "not allowed"),
        ("nqn.2024-08.com.example:a\ud800", "UTF-8"),
    ],
)
@pytest.mark.parametrize("check", [tid.check_nqn, tid.check_peer_nqn])
def test_dangerous_nqn(check: object, nqn: str, rule: str) -> None:
    assert callable(check)
    with pytest.raises(TidError, match=rule) as caught:
        check(nqn)
    assert str(caught.value).isprintable()


@given(st.text())
def test_a_checked_nqn_is_harmless(text: str) -> None:
    try:
        nqn = tid.check_peer_nqn("nqn." + text)
    except TidError as error:
        assert str(error).isprintable()  # noqa: PT017  # What did not raise is looked at below.
        return
    assert not set(nqn) & set(", \n\r\t\0")
    assert nqn.isprintable()
    assert len(nqn.encode()) <= 223


@pytest.mark.parametrize("hostid", ["", "x", "0" * 32, "00000000-0000-0000-0000-000000000000"])
def test_hostid_refused(hostid: str) -> None:
    with pytest.raises(TidError):
        tid.check_hostid(hostid)


def test_hostid_in_one_spelling() -> None:
    assert tid.check_hostid(UUID) == tid.check_hostid(UUID.lower()) == UUID.lower()


# Names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "instance"),
    [
        (TransportId.make(IO, "tcp", "192.0.2.1", "", NQN), f"tcp:192.0.2.1:4420:{NQN}"),
        (TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN), f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}"),
        (TransportId.make(IO, "rdma", "2001:db8::1", "4420", NQN), f"rdma:2001:db8::1:4420:{NQN}"),
        (
            TransportId.make(IO, "fc", "nn-0x1:pn-0x2", "", NQN),
            f"fc:nn-0x0000000000000001:pn-0x0000000000000002:{NQN}",
        ),
        (TransportId.make(IO, "loop", "loop0", "", NQN), f"loop:loop0:{NQN}"),
        (
            TransportId.make(IO, "tcp", "192.0.2.1", "", NQN, host_iface="eth0"),
            f"tcp:192.0.2.1:4420:{NQN}::eth0",
        ),
        (
            TransportId.make(IO, "tcp", "192.0.2.1", "", NQN, host_traddr="192.0.2.9"),
            f"tcp:192.0.2.1:4420:{NQN}:::192.0.2.9",
        ),
        (
            TransportId.make(IO, "tcp", "192.0.2.1", "", NQN, host_iface="eth0", host_traddr="192.0.2.9"),
            f"tcp:192.0.2.1:4420:{NQN}::eth0:192.0.2.9",
        ),
        (
            TransportId.make(IO, "tcp", "fe80::1%eth0", "", "nqn.a/b%c\\d"),
            "tcp:fe80::1\\x25eth0:4420:nqn.a\\x2fb\\x25c\\x5cd",
        ),
    ],
)
def test_instance(made: TransportId, instance: str) -> None:
    assert made.instance == instance
    assert made.unit == f"nvme-ctrl@{instance}.service"
    assert tid.unit_instance(made.unit) == instance


def test_another_host_nqn_has_a_mark() -> None:
    one = TransportId.make(IO, "tcp", "192.0.2.1", "", NQN, hostnqn="nqn.2024-08.com.example:h1")
    other = TransportId.make(IO, "tcp", "192.0.2.1", "", NQN, hostnqn="nqn.2024-08.com.example:h2")
    assert re.fullmatch(rf"tcp:192\.0\.2\.1:4420:{re.escape(NQN)}::::host-[0-9a-f]{{8}}", one.instance)
    assert one.instance != other.instance


def test_an_nqn_cannot_pose_as_the_hosts_side() -> None:
    posing = TransportId.make(IO, "tcp", "192.0.2.1", "", NQN + "::eth0")
    real = TransportId.make(IO, "tcp", "192.0.2.1", "", NQN, host_iface="eth0")
    assert posing.instance != real.instance


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # An interface may have the name of an address.
        (("nqn.a:", "", "192.0.2.9"), ("nqn.a", "192.0.2.9", "")),
        (("nqn.a:", "", "eth0"), ("nqn.a", "", "eth0")),
        (("nqn.a", "::", ""), ("nqn.a", "", "")),
        (("nqn.a", "::", "eth0"), ("nqn.a", "", "eth0")),
    ],
)
def test_colons_at_the_ends_keep_names_apart(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    names = []
    for nqn, host_traddr, host_iface in (one, other):
        address = "2001:db8::1" if "::" in (one[1], other[1]) else "192.0.2.1"
        made = TransportId.make(IO, "tcp", address, "", nqn, host_traddr=host_traddr, host_iface=host_iface)
        names.append(made.instance)
    assert names[0] != names[1]


@pytest.mark.parametrize("end", ["%" * 10 + "x" * n for n in range(8)])
def test_an_nqn_cannot_pose_as_a_cut_name(end: str) -> None:
    cut = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn." + "x" * 147 + end + "x" * 40)
    posing = cut.instance.removeprefix("tcp:192.0.2.1:4420:").replace("\\x25", "%")
    assert TransportId.make(IO, "tcp", "192.0.2.1", "", posing).instance != cut.instance


def test_a_long_name_is_cut_and_stays_different() -> None:
    one, other = (TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn." + "x" * 218 + end) for end in "12")
    assert one.instance != other.instance
    assert re.fullmatch(r"tcp:192\.0\.2\.1:4420:nqn\.x+-[0-9a-f]{16}", one.instance)
    assert len(one.unit) == len(other.unit) == tid.UNIT_NAME_MAX


@pytest.mark.parametrize("letters", range(6))
def test_a_cut_never_ends_inside_an_escape(letters: int) -> None:
    made = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn." + "x" * letters + "%" * 210)
    assert UNIT_PART.fullmatch(made.instance)


@given(tids())
def test_the_instance_is_a_part_of_a_unit_name(made: TransportId) -> None:
    assert UNIT_PART.fullmatch(made.instance)
    assert not made.instance.startswith(".")
    assert len(made.unit) <= tid.UNIT_NAME_MAX < 255
    assert tid.unit_instance(made.unit) == made.instance


@given(tids(), tids())
def test_different_identities_have_different_names(one: TransportId, other: TransportId) -> None:
    assert (one == other) == (one.instance == other.instance)


@given(tids(), tids(), st.sampled_from(list(TransportId.__slots__)))
def test_a_difference_in_one_field_shows(one: TransportId, other: TransportId, field: str) -> None:
    changed = replace(one, **{field: getattr(other, field)})
    assert (one == changed) == (one.instance == changed.instance)


@given(tids(), st.sampled_from([IO, DISCOVERY]))
def test_the_canonical_stays_as_it_is(made: TransportId, role: str) -> None:
    again = TransportId.make(
        role if made.trsvcid else IO,
        made.transport,
        made.traddr,
        made.trsvcid,
        made.subsysnqn,
        host_traddr=made.host_traddr,
        host_iface=made.host_iface,
        hostnqn=made.hostnqn,
    )
    assert again == made


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_escape_loses_nothing(text: str) -> None:
    escaped = tid.escape(text)
    assert not escaped or UNIT_PART.fullmatch(escaped)
    assert re.sub(rb"\\x(..)", lambda hit: bytes.fromhex(hit[1].decode()), escaped.encode()) == text.encode()


@pytest.mark.parametrize(
    "unit", ["nvme-ctrl@.service", "nvme-ctrl@x.socket", "xnvme-ctrl@x.service", "ssh.service", ""]
)
def test_units_of_others(unit: str) -> None:
    assert tid.unit_instance(unit) is None


def test_str_says_all_that_is_given() -> None:
    made = TransportId.make(
        IO, "tcp", "192.0.2.1", "", NQN, host_traddr="192.0.2.9", host_iface="eth0", hostnqn="nqn.2024-08.com.example:h"
    )
    assert str(made) == f"tcp 192.0.2.1 port 4420 {NQN} through eth0 from 192.0.2.9 as nqn.2024-08.com.example:h"
