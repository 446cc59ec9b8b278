# SPDX-License-Identifier: Apache-2.0
"""Hundreds of hosts, thousands of entries."""

import asyncio
import resource
import struct
import time

import pytest

from tests.cdc.fabric import Entry
from tests.unit.cdc.host import HOST, Host, serving


@pytest.fixture(autouse=True)
def enough_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))


def test_300_hosts_hear_of_a_change_and_read_it() -> None:
    async def life(port: int, number: int, told: asyncio.Semaphore) -> int:
        async with Host(port, nqn=f"{HOST}-{number}") as host:
            await host.command(0x09, words=struct.pack("<2I", 0x0B, 1 << 31))
            event = host.event()
            told.release()
            await asyncio.wait_for(event, 60)
            return (await host.discover())[1]

    async def scenario() -> None:
        async with serving(entries=10) as fabric:
            told = asyncio.Semaphore(0)
            hosts = [asyncio.create_task(life(fabric.instances["cdc"].port, n, told)) for n in range(300)]
            for _ in hosts:
                await told.acquire()
            fabric.entries.append(Entry("nqn.2024-08.com.example:new", "192.0.2.1"))
            assert fabric.changed() == 300
            assert await asyncio.gather(*hosts) == [12] * 300
            assert fabric.instances["cdc"].counters["events"] == 300

    asyncio.run(scenario())


def test_4096_entries() -> None:
    async def scenario() -> None:
        async with serving(entries=4096) as fabric, Host(fabric.instances["cdc"].port) as host:
            began = time.monotonic()
            _, count, entries = await host.discover()
            print(f"4096 entries in {time.monotonic() - began:.1f} s")
            assert (count, len(entries)) == (4097, 4097 * 1024)
            assert b"example:vol4095\0" in entries[-1024:]

    asyncio.run(scenario())
