# SPDX-License-Identifier: Apache-2.0
"""Events: once until the page is read, and otherwise only on order."""

import asyncio
import struct

import pytest

from tests.cdc import status
from tests.cdc.fabric import Entry, Fabric, Instance, Zone
from tests.cdc.orders import Orders
from tests.unit.cdc.host import HOST, Host, server_of, serving

CHANGED = 0x70F002


async def enable_events(host: Host) -> None:
    await host.command(0x09, words=struct.pack("<2I", 0x0B, 1 << 31))


def change(fabric: Fabric) -> None:
    fabric.entries.append(Entry(f"nqn.2024-08.com.example:new{len(fabric.entries)}", "192.0.2.1"))
    fabric.changed()


def test_a_change_is_told_once_until_the_page_is_read() -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port) as host:
            await enable_events(host)
            event = host.event()
            change(fabric)
            assert (await event).result == CHANGED
            event = host.event()
            change(fabric)
            await host.log(0x70, 0, 1024, retain=True)
            change(fabric)
            await asyncio.sleep(0.05)
            assert not event.done()
            assert (await host.discover())[:2] == (4, 4)
            assert not event.done()
            change(fabric)
            assert (await event).result == CHANGED

    asyncio.run(scenario())


def test_a_change_waits_for_the_request() -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port) as host:
            await enable_events(host)
            change(fabric)
            assert (await asyncio.wait_for(host.event(), 5)).result == CHANGED

    asyncio.run(scenario())


def test_no_events_without_being_asked_or_where_there_are_none() -> None:
    async def scenario() -> None:
        instances = Instance("a"), Instance("b", events=False)
        async with serving(*instances) as fabric, Host(instances[0].port) as one, Host(instances[1].port) as other:
            events = one.event(), other.event()
            await enable_events(other)
            change(fabric)
            await asyncio.sleep(0.05)
            assert not any(event.done() for event in events)

    asyncio.run(scenario())


def test_only_whose_view_changed_is_told() -> None:
    async def scenario() -> None:
        async with (
            serving(entries=2) as fabric,
            Host(fabric.instances["cdc"].port) as one,
            Host(fabric.instances["cdc"].port, nqn=HOST + "x") as other,
        ):
            await enable_events(one)
            await enable_events(other)
            first, second = one.event(), other.event()
            fabric.zones["z"] = Zone(frozenset({HOST, HOST + "x"}), frozenset(e.nqn for e in fabric.entries))
            assert fabric.changed() == 0
            fabric.zones["z"] = Zone(frozenset({HOST}), fabric.zones["z"].subsystems)
            assert fabric.changed() == 1
            assert (await second).result == CHANGED
            assert not first.done()
            assert (await one.discover())[:2] == (1, 3)
            assert (await other.discover())[:2] == (2, 1)

    asyncio.run(scenario())


def test_requests_have_a_limit_and_can_be_aborted() -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port) as host:
            requests = [host.event() for _ in range(5)]
            assert (await requests[4]).status == status.AER_LIMIT
            # Identifiers 3 to 7: after Connect and the property.
            assert (await host.command(0x08, words=struct.pack("<I", 3 << 16))).result == 0
            assert (await requests[0]).status == status.ABORTED
            assert (await host.command(0x08, words=struct.pack("<I", 3 << 16))).result == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("force", [False, True])
def test_a_storm_does_not_wait_for_the_page_to_be_read_only_if_it_is_told_so(force: bool) -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port) as host:
            await enable_events(host)
            orders = Orders(server_of(fabric))
            await orders.carry_out(
                {"order": "event", "count": 50, "seconds": 0.2, "force": force, "change": True},
            )
            arrived = 0
            try:
                while True:
                    await asyncio.wait_for(host.event(), 0.5)
                    arrived += 1
            except TimeoutError:
                pass
            assert arrived == (50 if force else 1)
            assert (await host.discover())[0] == 51
            await orders.end()

    asyncio.run(scenario())
