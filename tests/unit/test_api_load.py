# SPDX-License-Identifier: Apache-2.0
"""The API under a thousand controllers and callers who mean no good: bounded memory, and nobody is refused a stop.

How long things take is for tests/bench/api.py; what is bounded here is work and memory, also on a busy machine.
"""

import asyncio
import contextlib
import os
import socket

import pytest

from discoverd.api import connection as connections
from discoverd.api import interfaces, main, users, wire
from discoverd.api.connection import Connection, RefusedError
from discoverd.api.interfaces import CONTROLLER, CONTROLLERS, NAME, OBJECT_MANAGER, PEER, ROOT, object_path

from .fake_host import until
from .private_bus import DC, Bus, Client, bus, client, instance, needs_bus, populate

__all__ = ["bus"]

# A thousand controllers take their time on a machine that is busy with other tests.
pytestmark = [needs_bus, pytest.mark.timeout(600)]

COUNT = 1000
# Where it is about what waits, and not about how much there is.
SOME = 200
# Beyond what it has when all is quiet.
MEMORY_KB = 64 << 10
# So much work at most is done in one turn of the loop; how long that takes, other processes have a say in.
TURN_US = 50_000
GENEROUS = 300


@pytest.fixture
def thousand(bus: Bus) -> Bus:
    populate(bus, COUNT)
    return bus


@pytest.fixture
def some(bus: Bus) -> Bus:
    populate(bus, SOME)
    return bus


async def stop(one: Client, number: int = 1) -> None:
    path = object_path(CONTROLLERS, instance(number))
    job = await one.call(path, CONTROLLER, "Stop", answer="o", seconds=GENEROUS)
    assert job == "/org/freedesktop/systemd1/job/7"


def ask_for_all(connection: Connection) -> None:
    """Ask for everything, and do not wait for the answer."""
    fields = {wire.DESTINATION: NAME, wire.PATH: ROOT, wire.INTERFACE: OBJECT_MANAGER, wire.MEMBER: "GetManagedObjects"}
    connection.send(wire.CALL, fields)


def test_everything_asked_for_twenty_times_at_once(thousand: Bus) -> None:
    async def run() -> None:
        async with thousand.api_process() as process, client() as one:
            await process.measured()
            answers = await asyncio.gather(*(one.all_bytes() for _ in range(20)))
            measured = await process.measured()
            assert len(set(answers)) == 1
            assert len(answers[0]) > COUNT * 1000
            assert measured["turns"] > 1
            assert measured["worked_us"] < TURN_US

    asyncio.run(run())


def test_client_that_never_reads(some: Bus) -> None:
    async def run() -> None:
        async with some.api_process() as process, client() as deaf, client() as one:
            before = await process.measured()
            asyncio.get_running_loop().remove_reader(deaf.connection._end)
            for _ in range(300):
                ask_for_all(deaf.connection)
            await stop(one)
            assert len(await one.all_bytes()) > SOME * 1000
            after = await process.measured()
            assert after["rss_kb"] - before["rss_kb"] < MEMORY_KB

    asyncio.run(run())


def test_bus_that_stands_still_for_a_second(some: Bus) -> None:
    async def run() -> None:
        async with some.api_process() as process, contextlib.AsyncExitStack() as stack:
            one = await stack.enter_async_context(client())
            await one.subscribe()
            # Of one connection the bus takes 128 calls at a time.
            others = [await stack.enter_async_context(client()) for _ in range(4)]
            before = await process.measured()
            waiting = [asyncio.create_task(other.all_bytes()) for other in others for _ in range(75)]
            # Those that the bus has handed on by then are asked, the others when it goes on.
            await asyncio.sleep(0.02)
            some.stop()
            try:
                # Workers report, and what has changed waits to be told.
                await asyncio.to_thread(populate_again)
                await asyncio.sleep(1)
                during = await process.measured()
                assert during["turns"] > 50, "the loop goes on"
                assert during["worked_us"] < TURN_US
                assert during["rss_kb"] - before["rss_kb"] < MEMORY_KB
            finally:
                some.go_on()
            await stop(one)
            answers = await asyncio.gather(*waiting)
            assert all(len(answer) > SOME * 1000 for answer in answers)
            changed = {object_path(CONTROLLERS, instance(number)) for number in range(SOME)}

            def told() -> bool:
                return changed <= {found.text(wire.PATH) for found in one.heard("PropertiesChanged")}

            await until(told, patience=GENEROUS)

    asyncio.run(run())


def populate_again() -> None:
    """Have every worker report something else."""
    from .private_bus import report

    for number in range(SOME):
        report(instance(number), "connecting", status="connecting")


def test_who_asks_for_all_in_a_loop_keeps_nobody_waiting(some: Bus) -> None:
    async def run() -> None:
        async with some.api_process() as process, contextlib.AsyncExitStack() as stack:
            one = await stack.enter_async_context(client())
            greedy = [await stack.enter_async_context(client()) for _ in range(4)]
            before = await process.measured()

            async def ask(who: Client) -> None:
                while True:
                    for _ in range(8):
                        ask_for_all(who.connection)
                    await who.call(ROOT, PEER, "Ping", seconds=GENEROUS)

            asking = [asyncio.create_task(ask(who)) for who in greedy]
            try:
                for number in range(1, 9):
                    await stop(one, number)
                measured = await process.measured()
                assert measured["worked_us"] < TURN_US
                assert measured["rss_kb"] - before["rss_kb"] < MEMORY_KB
            finally:
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
            assert [found["instance"] for found in some.asked] == [instance(number) for number in range(1, 9)]

    asyncio.run(run())


def test_flood_of_small_calls_keeps_nobody_waiting(some: Bus) -> None:
    async def run() -> None:
        async with some.api_process() as process, client() as flooding, client() as one:
            before = await process.measured()
            fields = {wire.DESTINATION: NAME, wire.PATH: ROOT, wire.INTERFACE: PEER, wire.MEMBER: "Ping"}

            async def flood() -> None:
                while True:
                    await flooding.connection.room()
                    for _ in range(100):
                        flooding.connection.send(wire.CALL, fields)
                    await asyncio.sleep(0)

            task = asyncio.create_task(flood())
            try:
                await asyncio.sleep(0.5)
                for number in range(1, 4):
                    await stop(one, number)
                after = await process.measured()
                assert after["rss_kb"] - before["rss_kb"] < MEMORY_KB
                assert after["worked_us"] < TURN_US
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_flood_of_long_calls_that_act_is_answered_with_short_errors(bus: Bus) -> None:
    populate(bus, 1)

    async def run() -> None:
        async with bus.api_process() as process, contextlib.AsyncExitStack() as stack:
            before = await process.measured()
            body = wire.marshal("as", ["\x01" * 32000])
            fields = {wire.DESTINATION: NAME, wire.PATH: ROOT, wire.INTERFACE: interfaces.MANAGER}
            for _ in range(12):
                flooding = (await stack.enter_async_context(client())).connection
                asyncio.get_running_loop().remove_reader(flooding._end)
                for _ in range(100):
                    flooding.send(wire.CALL, {**fields, wire.MEMBER: "Exclude"}, "as", body)
            one = await stack.enter_async_context(client())
            assert DC in repr(await one.managed())
            after = await process.measured()
            assert after["rss_kb"] - before["rss_kb"] < MEMORY_KB

    asyncio.run(run())


def test_who_waits_for_a_password_keeps_no_other_user_waiting(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers of polkit come late, so all that a user may have under way is under way."""
    populate(bus, 3)
    bus.acting.clear()
    path = object_path(CONTROLLERS, instance(1))

    async def run() -> None:
        async with bus.api(), client() as one, client() as other:
            names = {other.connection.name: 1000}
            monkeypatch.setattr(users.Users, "known", lambda _, sender: names.get(sender, 0))
            waiting = [asyncio.create_task(one.call(path, CONTROLLER, "Stop", answer="o")) for _ in range(64)]
            await until(lambda: len(bus.asked) == 4)
            with pytest.raises(RefusedError) as refused:
                await one.call(path, CONTROLLER, "Stop", answer="o")
            assert refused.value.name == interfaces.LIMITS_EXCEEDED
            last = asyncio.create_task(other.call(path, CONTROLLER, "Stop", answer="o"))
            await until(lambda: bus.asked[-1]["sender"] == other.connection.name)
            bus.acting.set()
            await asyncio.gather(last, *waiting)
            assert len(bus.asked) == 65

    asyncio.run(run())


def test_caller_who_sends_nonsense_costs_nothing(bus: Bus) -> None:
    """Calls that are too long, and bodies that are not what they say."""
    populate(bus, 1)

    async def run() -> None:
        async with bus.api(), client() as one:
            fields = {wire.DESTINATION: NAME, wire.PATH: ROOT, wire.INTERFACE: interfaces.MANAGER, wire.MEMBER: "Find"}
            for size in (1 << 16, 1 << 20):
                one.connection.send(wire.CALL, fields, "s", wire.marshal("s", "x" * size))
            assert await one.call(ROOT, interfaces.MANAGER, "Find", "s", "x" * 500, answer="ao") == []
            assert DC in repr(await one.managed())

    asyncio.run(run())


def test_bus_that_goes_ends_the_process(bus: Bus) -> None:
    populate(bus, 1)

    async def run() -> None:
        async with bus.api_process() as process:
            bus.process.kill()
            assert await process.ended() == 0

    asyncio.run(run())


def test_process_ends_when_it_is_told_to(bus: Bus) -> None:
    populate(bus, 1)

    async def run() -> None:
        async with bus.api_process() as process:
            process.terminate()
            assert await process.ended() == 0

    asyncio.run(run())


def test_second_process_is_none(bus: Bus) -> None:
    """The name on the bus is somebody's already."""
    populate(bus, 1)

    async def run() -> None:
        async with bus.api(), client() as one:
            with pytest.raises(FileExistsError):
                await asyncio.wait_for(main.Api().run(), GENEROUS)
            await stop(one, 0)

    asyncio.run(run())


def test_peer_that_is_no_bus_is_not_believed(bus: Bus) -> None:
    """Whatever comes in place of messages, the connection ends."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            connection = Connection(ours, lambda _: None, lambda _: None)
            theirs.send(os.urandom(4096).replace(b"l", b"x").replace(b"B", b"x"))
            await asyncio.wait_for(connection.closed(), GENEROUS)
            with pytest.raises(connections.LostError):
                await connection.call("a.b", "/a", "a.b", "C")

    asyncio.run(run())
