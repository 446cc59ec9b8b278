# SPDX-License-Identifier: Apache-2.0
"""What a discovery controller answers to a host that does everything right, and to one that does not."""

import asyncio
import struct

import pytest

from tests.cdc import status
from tests.cdc.fabric import WELL_KNOWN, Instance
from tests.cdc.pdu import SUCCESS, Digests, Kind
from tests.unit.cdc.host import HOST, Host, serving
from tests.unit.cdc.registrations import data

UNIQUE = "nqn.2024-08.com.example:cdc"
ALL_DIGESTS = [Digests(header, body) for header in (False, True) for body in (False, True)]


@pytest.mark.parametrize("digests", ALL_DIGESTS)
@pytest.mark.parametrize("hpda", [0, 15])
def test_a_host_connects_and_reads_what_there_is(digests: Digests, hpda: int) -> None:
    async def scenario() -> None:
        async with (
            serving(Instance("cdc", nqn=UNIQUE), entries=20) as fabric,
            Host(fabric.instances["cdc"].port, digests=digests, hpda=hpda) as host,
        ):
            assert host.agreed == digests
            generation, count, entries = await host.discover()
            assert (generation, count) == (1, 21)
            assert entries[256 : 256 + len(UNIQUE)].decode() == UNIQUE
            assert (entries[2], entries[10]) == (3, 2), "itself, with EPCSD"
            assert entries[20 * 1024 + 256 :].startswith(b"nqn.2024-08.com.example:vol19\0")

    asyncio.run(scenario())


def test_digests_that_a_controller_does_not_want_are_off() -> None:
    async def scenario() -> None:
        instance = Instance("cdc", header_digest=False, data_digest=False)
        async with serving(instance), Host(instance.port, digests=Digests(header=True, data=True)) as host:
            assert host.agreed == Digests()
            assert (await host.discover())[1] == 1

    asyncio.run(scenario())


def test_identify_says_what_it_is() -> None:
    async def scenario() -> None:
        instance = Instance("cdc", nqn=UNIQUE, dctype="ddc", kas=0, events=False)
        async with serving(instance), Host(instance.port) as host:
            page = (await host.command(0x06, words=struct.pack("<I", 1), receive=4096)).data
            assert len(page) == 4096
            assert page[111] == 2, "a discovery controller"
            assert page[1806] == 1
            assert page[92:96] == bytes(4)
            assert page[320:322] == bytes(2)
            assert page[768:].partition(b"\0")[0].decode() == UNIQUE
            assert int.from_bytes(page[78:80], "little") == host.connect_reply.result
            for structure in (0, 2, 6):
                refused = await host.command(0x06, words=struct.pack("<I", structure), receive=4096)
                assert refused.status == status.INVALID_FIELD

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changes", "expected", "result"),
    [
        ({"form": 1}, status.CONNECT_FORMAT, 0),
        ({"queue": 1}, status.CONNECT_INVALID_PARAMETERS, 42),
        ({"size": 0}, status.CONNECT_INVALID_PARAMETERS, 44),
        ({"cntlid": 1}, status.CONNECT_INVALID_PARAMETERS, 16 | 1 << 16),
    ],
)
def test_a_wrong_connect_is_refused_with_what_was_wrong(changes: dict[str, int], expected: int, result: int) -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            host = Host(fabric.instances["cdc"].port)
            await host.open()
            refused = await host.connect(**changes)
            assert (refused.status, refused.result) == (expected, result)
            await host.close()

    asyncio.run(scenario())


def test_host_and_subsystem_decide_whether_a_connect_is_taken() -> None:
    async def scenario() -> None:
        instance = Instance("cdc", nqn=UNIQUE, hosts=[HOST])
        async with serving(instance):
            for nqn, subsystem, expected in (
                (HOST, WELL_KNOWN, status.SUCCESS),
                (HOST, UNIQUE, status.SUCCESS),
                (HOST, UNIQUE + "x", status.CONNECT_INVALID_PARAMETERS),
                (HOST + "x", UNIQUE, status.CONNECT_INVALID_HOST),
                ("host", UNIQUE, status.CONNECT_INVALID_PARAMETERS),
            ):
                host = Host(instance.port, nqn=nqn, subsystem=subsystem)
                await host.open()
                assert (await host.connect()).status == expected
                await host.close()
            assert instance.counters["refused"] == 3

    asyncio.run(scenario())


def test_properties_and_the_way_down() -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            host = Host(fabric.instances["cdc"].port)
            await host.open()
            assert (await host.get_property(0x14)).status == status.COMMAND_SEQUENCE
            await host.connect()
            assert (await host.log(0x70, 0, 1024)).status == status.COMMAND_SEQUENCE
            assert (await host.get_property(0, wide=True)).result >> 32 == 1 << 5, "the NVM command set"
            assert (await host.get_property(8)).result == 0x20000
            assert (await host.get_property(0x1C)).result == 0
            await host.enable()
            assert (await host.get_property(0x1C)).result == 1
            assert (await host.set_property(0x1C, 0)).status == status.INVALID_FIELD
            assert (await host.get_property(0)).status == status.INVALID_FIELD
            await host.set_property(0x14, 0x464001)
            assert (await host.get_property(0x1C)).result == 9, "shutdown is complete"
            await host.close()
            await asyncio.sleep(0.05)
            what = [note["what"] for note in fabric.record.history]
            assert what == ["refused", "connected", "refused", "refused", "refused", "shutdown"]

    asyncio.run(scenario())


def test_features_and_keep_alive() -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port) as host:
            for feature, value in ((0x0B, 1 << 31), (0x0F, 5000)):
                assert (await host.command(0x09, words=struct.pack("<2I", feature, value))).status == status.SUCCESS
                assert (await host.command(0x0A, words=struct.pack("<2I", feature, 0))).result == value
            assert (await host.command(0x09, words=struct.pack("<2I", 0x0B | 1 << 31, 0))).status == 0x410D
            assert (await host.command(0x0A, words=struct.pack("<2I", 0x02, 0))).status == status.INVALID_FIELD
            assert (await host.command(0x18)).status == status.SUCCESS
            fabric.instances["cdc"].kas = 0
            assert (await host.command(0x18)).status == status.INVALID_OPCODE
            assert (await host.command(0x02, words=struct.pack("<I", 2 | 127 << 16), receive=512)).status == 0x4109
            assert (await host.command(0x7E)).status == status.INVALID_OPCODE

    asyncio.run(scenario())


def test_a_host_that_falls_silent_is_dropped() -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            host = Host(fabric.instances["cdc"].port)
            await host.open()
            await host.connect(keep_alive_ms=300)
            await host.enable()
            event = host.event()
            for _ in range(4):
                await asyncio.sleep(0.2)
                await host.command(0x18)
            with pytest.raises((EOFError, OSError)):
                await asyncio.wait_for(event, 5)
            assert fabric.instances["cdc"].counters["timeouts"] == 1
            assert fabric.record.history[-1]["why"] == "no keep-alive within 0.3 s"
            await host.close()

    asyncio.run(scenario())


def test_data_comes_with_success_where_flow_control_is_off() -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            host = Host(fabric.instances["cdc"].port)
            await host.open()
            await host.connect(attributes=4)
            await host.enable()
            assert (await host.discover())[1] == 1
            assert {flags & SUCCESS for kind, flags in host.arrivals if kind is Kind.C2H_DATA} == {SUCCESS}
            await host.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("digests", ALL_DIGESTS)
@pytest.mark.parametrize("in_capsule", [True, False])
def test_registration(digests: Digests, in_capsule: bool) -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port, digests=digests) as host:
            big = data(copies=6)
            assert (await host.dim(0, big, in_capsule=in_capsule)).status == status.SUCCESS
            assert fabric.record.registered["cdc", HOST].raw == big
            assert (await host.dim(2, data())).status == status.SUCCESS
            assert fabric.record.registered["cdc", HOST].task == "update"
            assert (await host.dim(0, data(nqn=HOST + "x"))).status == status.INVALID_FIELD
            assert (await host.dim(1, data())).status == status.SUCCESS
            assert not fabric.record.registered
            notes = [note for note in fabric.record.history if str(note["what"]).startswith("dim")]
            assert [note["task"] for note in notes] == ["register", "update", 0, "deregister"]
            fabric.instances["cdc"].dctype = "none"
            assert (await host.dim(0, data())).status == status.INVALID_OPCODE

    asyncio.run(scenario())


def test_a_registration_longer_than_one_transfer() -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port) as host:
            assert (await host.dim(0, data(copies=100), in_capsule=False)).status == status.SUCCESS
            assert len(fabric.record.registered["cdc", HOST].entries) == 100

    asyncio.run(scenario())


def test_wrong_data_digests_fail_the_command_and_not_the_connection() -> None:
    async def scenario() -> None:
        async with (
            serving() as fabric,
            Host(fabric.instances["cdc"].port, digests=Digests(data=True)) as host,
        ):
            host.liar = True
            for in_capsule in (True, False):
                assert (await host.dim(0, data(), in_capsule=in_capsule)).status == status.TRANSIENT_TRANSPORT
            host.liar = False
            assert (await host.dim(0, data())).status == status.SUCCESS

    asyncio.run(scenario())
