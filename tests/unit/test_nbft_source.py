# SPDX-License-Identifier: Apache-2.0
"""What the firmware tables ask for: which controllers, through which interface, as whom, and what is refused."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discoverd.config.settings import Settings
from discoverd.kernel import interfaces
from discoverd.kernel.interfaces import Link
from discoverd.kernel.nbft import parse
from discoverd.plan.candidate import NBFT
from discoverd.sources import nbft
from discoverd.sources.nbft import Found, Nbft, TableFile, wanted
from discoverd.sources.ways import Ways
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO

from . import virtual_time
from .nbft_tables import HOSTNQN, Discovery, Hfi, Namespace, Security, table

MAC1, MAC2 = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
NAMES = {(MAC1, 0): "eth0", (MAC2, 0): "eth1", (MAC1, 12): "eth0.12"}
TWO = (Hfi(), Hfi(2, "52:54:00:00:00:02", ip="198.51.100.2"))


def found(*tables: bytes, names: dict[tuple[bytes, int], str] = NAMES, own: str = HOSTNQN) -> Found:
    files = [TableFile(f"NBFT{number}" if number else "NBFT", parse(data)) for number, data in enumerate(tables)]
    return wanted(files, names, own)


def reasons(result: Found) -> list[str]:
    return [one.reason for one in result.refusals]


def test_every_interface_of_a_namespace_is_a_path() -> None:
    result = found(table(TWO, [Namespace(secondary=(2,))]))
    assert [str(tid) for tid in result.wishes] == [
        "tcp 192.0.2.1 port 4420 nqn.2024-08.com.example:vol1 through eth0 from 192.0.2.2",
        "tcp 192.0.2.1 port 4420 nqn.2024-08.com.example:vol1 through eth1 from 198.51.100.2",
    ]
    for wish in result.wishes.values():
        assert (wish.role, wish.origin, wish.source) == (IO, NBFT, "in the NBFT table NBFT, namespace 1")
        assert (wish.params, wish.give_up_after, wish.source_optional) == ((), 0, False)
    assert (result.refusals, result.identities) == ([], {})


def test_namespaces_on_one_path_are_one_controller_also_in_two_tables() -> None:
    data = table(namespaces=[Namespace(1), Namespace(2, nsid=2)])
    assert len(found(data, data).wishes) == 1


@pytest.mark.parametrize(
    ("uri", "traddr", "trsvcid"),
    [
        ("nvme+tcp://192.0.2.1:8010/", "192.0.2.1", "8010"),
        ("nvme+tcp://192.0.2.1/", "192.0.2.1", "8009"),
        ("nvme+tcp://192.0.2.1", "192.0.2.1", "8009"),
        ("NVMe+TCP://192.0.2.1:4420", "192.0.2.1", "4420"),
        ("nvme+tcp://[2001:DB8::1]:8009/", "2001:db8::1", "8009"),
        ("nvme+tcp://[2001:db8::1]/", "2001:db8::1", "8009"),
        ("nvme+tcp://[::ffff:192.0.2.1]/", "192.0.2.1", "8009"),
        ("nvme+tcp://[fe80::1]:8009/", "fe80::1%eth0", "8009"),
    ],
)
def test_addresses_of_discovery_controllers(uri: str, traddr: str, trsvcid: str) -> None:
    result = found(table((Hfi(ip=""),), (), [Discovery(uri=uri)]))
    ((tid, wish),) = result.wishes.items()
    assert (tid.traddr, tid.trsvcid, tid.subsysnqn, tid.host_iface) == (traddr, trsvcid, DISCOVERY_NQN, "eth0")
    assert (wish.role, wish.source) == (DISCOVERY, "in the NBFT table NBFT, discovery descriptor 1")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "192.0.2.1",
        "nvme+rdma://192.0.2.1:4420/",
        "nvme+tcp:///",
        "nvme+tcp://2001:db8::1:8009/",
        "nvme+tcp://[2001:db8::1",
        "nvme+tcp://192.0.2.1:99999/",
        "nvme+tcp://192.0.2.1:8009/path",
        "nvme+tcp://user@192.0.2.1/",
        "nvme+tcp://storage.example.com/",
        "nvme+tcp://192.0.2.1,hostnqn=x/",
        "nvme+tcp://[fe80::1%eth0]/",
        "nvme+tcp://0.0.0.0/",
        "nvme+tcp://[ff02::1]/",
        "nvme+tcp://192.0.2.1:8009/\n",
        "nvme+tcp://१९२.0.2.1/",
    ],
)
def test_addresses_that_are_refused(uri: str) -> None:
    result = found(table((Hfi(ip=""),), (), [Discovery(uri=uri)]))
    assert not result.wishes
    (refusal,) = result.refusals
    assert refusal.source == "in the NBFT table NBFT, discovery descriptor 1"
    assert refusal.what.isprintable()


def test_a_discovery_controller_whose_finds_are_in_the_table_is_not_asked_again() -> None:
    descriptors = [Discovery(1), Discovery(2, "nvme+tcp://198.51.100.1/", nqn="nqn.2024-08.com.example:dc")]
    result = found(table(namespaces=[Namespace(discovery=1)], discoveries=descriptors))
    assert [tid.subsysnqn for tid in result.wishes] == ["nqn.2024-08.com.example:vol1", "nqn.2024-08.com.example:dc"]


def test_a_namespace_may_be_a_discovery_controller() -> None:
    namespace = Namespace(nqn=DISCOVERY_NQN, trsvcid="8009", discovery=1)
    result = found(table(namespaces=[namespace], discoveries=[Discovery()]))
    assert [(wish.role, wish.tid.trsvcid) for wish in result.wishes.values()] == [(DISCOVERY, "8009")]


def test_vlan_and_mac_decide_the_interface() -> None:
    hfis = (Hfi(vlan=12), Hfi(2, ip="198.51.100.2"), Hfi(3, mac="00:00:00:00:00:00", ip=""))
    result = found(table(hfis, [Namespace(secondary=(2, 3))]))
    assert [(tid.host_iface, tid.host_traddr) for tid in result.wishes] == [
        ("eth0.12", "192.0.2.2"),
        ("eth0", "198.51.100.2"),
        ("", ""),
    ]


def test_an_interface_that_is_not_there_is_waited_for() -> None:
    result = found(table((Hfi(vlan=13), Hfi(2, "52:54:00:00:00:03")), [Namespace(secondary=(2, 7))]))
    assert not result.wishes
    assert reasons(result) == [
        "no interface has the MAC address 52:54:00:00:00:01 and the VLAN 13; it is connected once there is one",
        "no interface has the MAC address 52:54:00:00:00:03; it is connected once there is one",
        "the interface 7 that it names is not in the table, or cannot be used",
    ]


def test_addresses_of_the_host() -> None:
    hfis = (Hfi(ip="", dhcp="192.0.2.254"), Hfi(2, "52:54:00:00:00:02", ip="198.51.100.2", dhcp="198.51.100.254"))
    result = found(table(hfis, [Namespace(secondary=(2,))]))
    assert [(tid.host_traddr, wish.source_optional) for tid, wish in result.wishes.items()] == [
        ("", False),
        ("198.51.100.2", True),
    ]
    result = found(table([Hfi(ip="fe80::2")], [Namespace(traddr="fe80::1")]))
    assert [(tid.traddr, tid.host_traddr) for tid in result.wishes] == [("fe80::1%eth0", "fe80::2%eth0")]
    result = found(table([Hfi(ip="2001:db8::2")]))
    assert reasons(result) == ["host address 2001:db8::2 and address 192.0.2.1 are of different families"]


def test_digests_and_what_firmware_could_not_reach() -> None:
    result = found(table(namespaces=[Namespace(transport_flags=7, flags=0x101)]))
    (wish,) = result.wishes.values()
    assert wish.params == (("hdr-digest", "true"), ("data-digest", "true"))
    assert wish.source == "in the NBFT table NBFT, namespace 1, which firmware could not reach"


def test_a_security_profile_is_not_connected_in_the_clear() -> None:
    result = found(
        table(
            namespaces=[Namespace(security=1, discovery=1), Namespace(2, flags=5)],
            # The first one leads to what is refused.
            discoveries=[Discovery(), Discovery(2, "nvme+tcp://198.51.100.1/", security=1)],
            securities=[Security()],
        )
    )
    assert not result.wishes
    assert len(result.refusals) == 3
    assert all("a security profile" in reason for reason in reasons(result))


@pytest.mark.parametrize(
    ("namespace", "why"),
    [
        (Namespace(nqn="vol1"), "does not begin with 'nqn.'"),
        (Namespace(nqn="nqn.2024-08.com.example:a,hostnqn=b"), "',' is not allowed"),
        (Namespace(nqn="nqn.2024-08.com.example:a\nb"), "is not allowed"),
        (Namespace(nqn=""), "does not begin with 'nqn.'"),
        (Namespace(nqn="nqn." + "x" * 300), "304 bytes"),
        (Namespace(traddr=""), "its address is all zero"),
        (Namespace(traddr="224.0.0.1"), "224.0.0.1 is no address to connect to"),
        (Namespace(trsvcid="0"), "'0' is not a port number"),
        (Namespace(trsvcid="4420,x"), "is not a port number"),
    ],
)
def test_entry_that_breaks_a_rule_is_refused_alone(namespace: Namespace, why: str) -> None:
    result = found(table(namespaces=[namespace, Namespace(2, nqn="nqn.2024-08.com.example:vol2")]))
    assert [tid.subsysnqn for tid in result.wishes] == ["nqn.2024-08.com.example:vol2"]
    (refusal,) = result.refusals
    assert refusal.source == "in the NBFT table NBFT, namespace 1"
    assert why in refusal.reason
    assert refusal.what.isprintable()


def test_a_bad_descriptor_and_a_bad_table_are_refused_with_their_place() -> None:
    files = [
        TableFile("NBFT1", None, "its checksum: no"),
        TableFile("NBFT2", parse(table((*TWO, Hfi(3, raw={0: b"\7"}))))),
    ]
    result = wanted(files, NAMES, HOSTNQN)
    assert len(result.wishes) == 1
    assert [(one.what, one.source) for one in result.refusals] == [
        ("the table", "in the NBFT table NBFT1"),
        ("interface 3 of 3", "in the NBFT table NBFT2"),
    ]


def test_the_host_is_who_firmware_says() -> None:
    spelled = HOSTNQN.upper().replace("NQN.2014-08.ORG.NVMEXPRESS:UUID", "nqn.2014-08.org.nvmexpress:uuid")
    data = table(hostnqn=spelled)
    assert [tid.hostnqn for tid in found(data).wishes] == [""]
    for own in ("", "nqn.2024-08.com.example:host"):
        result = found(data, own=own)
        assert [tid.hostnqn for tid in result.wishes] == [HOSTNQN]
        # As firmware and libnvme send it; the UUID in the NQN has the first fields the other way round.
        assert result.identities == {spelled: "78563412-3412-7856-9abc-def012345678"}


def test_a_table_without_a_host_id() -> None:
    result = found(table(hostid=bytes(16)), own="")
    assert result.identities == {HOSTNQN: HOSTNQN[-36:]}
    result = found(table(hostnqn="nqn.2024-08.com.example:boot", hostid=bytes(16)))
    assert ([tid.hostnqn for tid in result.wishes], result.identities) == ([""], {})
    assert reasons(result) == [
        "no host ID goes with 'nqn.2024-08.com.example:boot'; this host's own NQN is used instead"
    ]


@pytest.mark.parametrize("name", ["host", "nqn.2014-08.org.nvmexpress:uuid:1", "nqn.2024-08.com.example:a b"])
def test_a_host_nqn_that_is_none_is_not_used(name: str) -> None:
    result = found(table(hostnqn=name))
    assert [tid.hostnqn for tid in result.wishes] == [""]
    (reason,) = reasons(result)
    assert reason.endswith("; this host's own NQN is used instead")
    assert [tid.hostnqn for tid in found(table(hostnqn="")).wishes] == [""]


def test_so_many_and_no_more() -> None:
    hfis = [Hfi(number, ip=f"192.0.2.{number}") for number in range(1, 101)]
    result = found(table(hfis, [Namespace(n, nqn=f"nqn.vol{n}", secondary=range(101)) for n in range(100)]))
    assert len(result.wishes) + len(result.refusals) == nbft.LIMIT + 1
    assert reasons(result)[-1] == "1024 controllers and faults are looked at, and no more"
    faults = [Namespace(number, trsvcid="x", secondary=range(101)) for number in range(100)]
    assert len(found(table(hfis, faults)).refusals) == nbft.LIMIT + 1


ANY = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=300, deadline=None)
@given(ANY, ANY, ANY, ANY, st.binary(min_size=16, max_size=16))
def test_any_text_becomes_a_wish_or_a_refusal(nqn: str, port: str, uri: str, host: str, hostid: bytes) -> None:
    names = [nqn, f"nqn.{nqn}"]
    data = table(
        namespaces=[Namespace(1, nqn=name, trsvcid=port) for name in names],
        discoveries=[Discovery(1, uri), Discovery(2, f"nvme+tcp://{uri}/"), Discovery(3, f"nvme+tcp://192.0.2.1{uri}")],
        hostnqn=f"nqn.2024-08.com.example:{host}",
        hostid=hostid,
    )
    result = found(data)
    for wish in result.wishes.values():
        assert all("," not in part and part.isprintable() for part in (wish.tid.instance, str(wish.tid)))
        assert wish.source.isprintable()
    for refusal in result.refusals:
        assert all(part.isprintable() for part in (refusal.what, refusal.source, refusal.reason))


# The source itself --------------------------------------------------------------------------------------------------


class Links:
    """Stands for the interfaces of a host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.links: tuple[Link, ...] = ()
        self._report: Callable[[tuple[Link, ...]], None] | None = None
        monkeypatch.setattr(interfaces, "follow", self._follow)

    async def _follow(self, report: Callable[[tuple[Link, ...]], None]) -> None:
        self._report = report
        report(self.links)
        await asyncio.Event().wait()

    def change(self, *links: Link) -> None:
        self.links = links
        if self._report:
            self._report(links)


def link(index: int, name: str, mac: bytes, **more: Any) -> Link:
    return Link(index, name, mac, **{"permanent": b"", "vlan": 0, "parent": 0, "master": 0, "kind": "", **more})


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Links:
    return Links(monkeypatch)


def write(directory: Path, **tables: bytes) -> None:
    (directory / "SSDT").write_bytes(b"SSDT")
    for name, data in tables.items():
        (directory / name).write_bytes(data)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def names_of(source: Nbft) -> list[str]:
    return [wish.tid.host_iface for wish in source.wishes]


def test_tables_are_read_and_interfaces_followed(tmp_path: Path, links: Links) -> None:
    write(tmp_path, NBFT1=table(TWO, [Namespace(secondary=(2,))]), NBFT2=b"NBFT")
    told: list[int] = []

    async def scenario() -> None:
        source = Nbft(lambda: told.append(1), tmp_path)
        source.configure(Settings(), HOSTNQN)
        task = asyncio.create_task(source.run())
        await until(lambda: source.refusals)
        assert (source.wishes, len(source.refusals), len(told)) == ((), 3, 1)
        links.change(link(2, "eth0", MAC1))
        assert (names_of(source), len(source.refusals), len(told)) == (["eth0"], 2, 2)
        links.change(link(2, "eth0", MAC1), link(3, "eth1", MAC2))
        assert (names_of(source), len(told)) == (["eth0", "eth1"], 3)
        # Gone, it is still wanted; renamed, it is another.
        links.change(link(3, "eth9", MAC2))
        assert (names_of(source), len(told)) == (["eth0", "eth9"], 4)
        links.change(link(3, "eth9", MAC2), link(5, "other", b""))
        assert len(told) == 4
        source.configure(Settings(nbft=False), HOSTNQN)
        assert (source.wishes, source.refusals, len(told)) == ((), (), 5)
        source.configure(Settings(), "nqn.2024-08.com.example:host")
        assert [wish.tid.hostnqn for wish in source.wishes] == [HOSTNQN, HOSTNQN]
        assert list(source.identities) == [HOSTNQN]
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(scenario())


def test_switched_off_it_reads_nothing(tmp_path: Path, links: Links) -> None:
    async def scenario() -> None:
        source = Nbft(lambda: None, tmp_path)
        source.configure(Settings(nbft=False), HOSTNQN)
        task = asyncio.create_task(source.run())
        await asyncio.sleep(0.02)
        write(tmp_path, NBFT=table((Hfi(mac="00:00:00:00:00:00"),)))
        assert not source.wishes
        source.configure(Settings(), HOSTNQN)
        await until(lambda: source.wishes)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(scenario())


@pytest.mark.parametrize("directory", ["", "nowhere"])
def test_no_table_is_no_news(tmp_path: Path, directory: str) -> None:
    async def scenario() -> None:
        source = Nbft(lambda: pytest.fail("there is none"), tmp_path / directory)
        source.configure(Settings(), HOSTNQN)
        task = asyncio.create_task(source.run())
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(scenario())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, NBFT=table(), NBFT2=b"", NBFT3=table()[:-1])
    (tmp_path / "NBFT1").mkdir()
    read: Sequence[TableFile] = nbft.read(tmp_path)
    assert [one.name for one in read] == ["NBFT", "NBFT1", "NBFT2", "NBFT3"]
    assert [one.table is None for one in read] == [False, True, True, True]
    assert [one.error.partition(":")[0] for one in read[1:]] == ["it cannot be read", "its size", "its length"]


def test_families_and_interfaces_that_are_left_out() -> None:
    files = [TableFile("NBFT", parse(table(TWO, [Namespace(secondary=(2,))])))]
    result = wanted(files, NAMES, HOSTNQN, Ways(ignore_iface=True))
    assert [(tid.host_traddr, tid.host_iface) for tid in result.wishes] == [("192.0.2.2", ""), ("198.51.100.2", "")]
    (first, _) = wanted(files, NAMES, HOSTNQN).wishes
    result = wanted(files, NAMES, HOSTNQN, Ways(ignore_iface=True), {first.instance})
    assert [tid.host_iface for tid in result.wishes] == [first.host_iface, ""], "a unit that is there keeps its name"
    result = wanted(files, NAMES, HOSTNQN, Ways(("ipv6",)))
    assert not result.wishes
    assert reasons(result) == ["address-families in discoverd.conf leaves out IPv4"] * 2
