# SPDX-License-Identifier: Apache-2.0
"""The discovery log page: its options, whom it shows what, and how it can be wrong."""

import asyncio
import struct
from typing import Any

import pytest

from tests.cdc.fabric import Entry, Fabric, Instance, Zone
from tests.cdc.misbehaviour import Distortion
from tests.cdc.orders import Orders
from tests.unit.cdc.host import HOST, Host, server_of, serving


def records(entries: bytes, size: int = 1024) -> list[tuple[int, str, str]]:
    """Subtype, NQN and address."""
    return [
        (
            entries[at + 2],
            entries[at + 256 : at + 512].rstrip(b"\0").decode(),
            entries[at + 512 : at + 768].rstrip(b"\0").decode(),
        )
        for at in range(0, len(entries), size)
    ]


async def order(fabric: Fabric, name: str, /, **words: Any) -> dict[str, object]:
    return await Orders(server_of(fabric)).carry_out({"order": name} | words)


def test_options() -> None:
    async def scenario() -> None:
        instance = Instance("cdc")
        async with serving(instance, entries=2) as fabric, Host(instance.port) as host:
            fabric.entries.append(Entry("nqn.2024-08.com.example:local", instance.address))
            fabric.zones["z"] = Zone(frozenset({HOST}), frozenset({"nqn.2024-08.com.example:local", "vol"}))
            fabric.changed()
            page = (await host.log(0, 0, 1024)).data
            assert struct.unpack_from("<I", page, 4 * 0x70)[0] == 7 << 16 | 1
            assert len(records((await host.discover())[2])) == 2
            assert len(records((await host.discover(4))[2])) == 4, "all subsystems"
            assert len(records((await host.discover(6))[2])) == 2, "of these the port's own"
            _, count, extended = await host.discover(1)
            assert (count, len(extended)) == (2, 2 * 1032)
            assert struct.unpack_from("<IH", extended, 1024) == (1032, 0)
            assert records(extended, 1032) == records((await host.discover())[2])
            header = (await host.log(0x70, 0, 1024, options=1)).data
            assert struct.unpack_from("<BxI", header, 18) == (1, 1024 + 2 * 1032)
            instance.log_options = 0
            assert len((await host.discover(0))[2]) == 2 * 1024

    asyncio.run(scenario())


def test_offsets_and_lengths() -> None:
    async def scenario() -> None:
        async with serving(entries=3) as fabric, Host(fabric.instances["cdc"].port) as host:
            whole = (await host.log(0x70, 0, 5120)).data
            assert (await host.log(0x70, 1020, 8)).data == whole[1020:1028]
            assert (await host.log(0x70, 5116, 8)).data == whole[5116:] + bytes(4), "zeros behind the end"
            assert (await host.log(0x70, 6000, 8)).status == 0x4002
            assert (await host.log(0x70, 2, 8)).status == 0x4002

    asyncio.run(scenario())


def test_a_fabric_with_zones_and_a_ring_of_referrals() -> None:
    async def scenario() -> None:
        instances = Instance("a"), Instance("b", nqn="nqn.2024-08.com.example:b", epcsd=False)
        async with serving(*instances) as fabric, Host(instances[0].port) as a, Host(instances[1].port) as b:
            answer = await order(
                fabric,
                "load",
                entries=[
                    {"nqn": "nqn.2024-08.com.example:one", "traddr": "192.0.2.1"},
                    {"nqn": "nqn.2024-08.com.example:two", "traddr": "2001:db8::1", "instances": ["b"]},
                ],
                zones={"z": {"hosts": [HOST], "subsystems": ["nqn.2024-08.com.example:two"]}},
                referrals={"a": ["b"], "b": ["a"]},
            )
            assert answer == {"views": 2}
            _, _, entries = await a.discover()
            assert [row[:2] for row in records(entries)] == [
                (3, "nqn.2014-08.org.nvmexpress.discovery"),
                (1, "nqn.2024-08.com.example:b"),
            ]
            _, _, entries = await b.discover()
            assert [row[0] for row in records(entries)] == [3, 1, 2]
            assert entries[10] == 0, "no EPCSD"
            assert entries[2 * 1024 + 1] == 2, "IPv6"
            assert await order(fabric, "unzone", name="z") == {"views": 2}
            assert len(records((await b.discover())[2])) == 4

    asyncio.run(scenario())


def test_entries_come_and_go_and_nothing_changes_twice() -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port) as host:
            entry = {"nqn": "nqn.2024-08.com.example:x", "traddr": "192.0.2.1"}
            assert await order(fabric, "add", **entry) == {"views": 1}
            assert await order(fabric, "zone", name="z", hosts=[HOST], subsystems=[entry["nqn"]]) == {"views": 0}
            assert (await host.discover())[:2] == (2, 2)
            assert await order(fabric, "remove", nqn=entry["nqn"]) == {"removed": 1, "views": 1}
            assert await order(fabric, "instance", name="cdc", epcsd=False) == {"views": 1}
            assert (await host.discover())[:2] == (4, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("distortion", "expected"),
    [
        ({"numrec": 1 << 63}, (1 << 63, 4)),
        ({"keep": 0}, (0, 0)),
        ({"keep": 0.5}, (2, 2)),
        ({"half": True}, (4, 2)),
        ({"duplicates": 2}, (12, 12)),
        ({"raw": "00" * 2048}, (2, 2)),
        ({"garbage": 1}, (4, 4)),
    ],
)
def test_distortions(distortion: dict[str, Any], expected: tuple[int, int]) -> None:
    async def scenario() -> None:
        async with serving(entries=3) as fabric, Host(fabric.instances["cdc"].port) as host:
            right = (await host.log(0x70, 0, 5120)).data
            assert await order(fabric, "page", **distortion) == {"views": 1}
            header = (await host.log(0x70, 0, 1024)).data
            assert struct.unpack_from("<QQ4xI", header) == (2, expected[0], 1024 + expected[1] * 1024)
            wrong = (await host.log(0x70, 0, 5120)).data
            assert wrong[1024:] != right[1024:] or "numrec" in distortion
            await order(fabric, "behave")
            assert (await host.log(0x70, 0, 5120)).data[8:] == right[8:]
            assert fabric.instances["cdc"].distortion == Distortion()

    asyncio.run(scenario())


def test_padding() -> None:
    async def scenario() -> None:
        async with serving(entries=1) as fabric, Host(fabric.instances["cdc"].port) as host:
            await order(fabric, "page", pad=True, form=7)
            data = (await host.log(0x70, 0, 3072)).data
            assert data[16] == 7
            assert data[2048 + 32 : 2048 + 64] == b"4420".ljust(32)
            assert data[2048 + 512 : 2048 + 768] == b"192.0.2.1".ljust(256)

    asyncio.run(scenario())
