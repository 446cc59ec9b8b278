# SPDX-License-Identifier: Apache-2.0
"""Every step can go wrong in every way, as often as it is told to, and for nobody else."""

import asyncio
import struct
import time

import pytest

from tests.cdc import status
from tests.cdc.misbehaviour import Behaviour, Rule
from tests.cdc.pdu import NO_DIGESTS, Digests, PduError
from tests.unit.cdc.host import HOST, Host, serving
from tests.unit.cdc.registrations import data

ENDS = (EOFError, OSError, PduError, TimeoutError)


async def whole_life(port: int, digests: Digests = NO_DIGESTS, nqn: str = HOST) -> None:
    """Everything that a host does. Raises where it cannot go on."""
    host = Host(port, digests=digests, nqn=nqn)
    await host.open()
    try:
        replies = [await host.connect(), await host.get_property(0, wide=True), await host.set_property(0x14, 0x460001)]
        replies.append(await host.command(0x06, words=struct.pack("<I", 1), receive=4096))
        replies.append(await host.command(0x09, words=struct.pack("<2I", 0x0B, 1 << 31)))
        replies.append(await host.command(0x0A, words=struct.pack("<2I", 0x0B, 0)))
        replies.append(await host.command(0x18))
        replies += [await host.log(0, 0, 1024), await host.log(0x70, 0, 1024), await host.log(0x70, 1024, 1024)]
        replies.append(await host.dim(0, data(nqn=nqn)))
        for reply in replies:
            if reply.status:
                raise EOFError(f"status {reply.status:#x}")
    finally:
        await host.close()


STEPS = ["connect", "property-get", "property-set", "identify", "features-set", "features-get", "keep-alive"]
STEPS += ["log-supported", "log-header", "log-entries", "dim"]


@pytest.mark.parametrize(
    ("step", "action"),
    [("accept", "drop"), *((step, action) for step in ("icreq", *STEPS) for action in ("drop", "cut"))],
)
def test_the_connection_can_end_at_any_step(step: str, action: str) -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            port = fabric.instances["cdc"].port
            fabric.behaviour.rules.append(Rule(step, action, times=2))
            for _ in range(2):
                with pytest.raises(ENDS):
                    await whole_life(port)
            await whole_life(port)
            assert not fabric.behaviour.rules

    asyncio.run(scenario())


@pytest.mark.parametrize("step", STEPS)
def test_any_command_can_be_refused(step: str) -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            fabric.behaviour.rules.append(Rule(step, "status", 0x4123, times=1))
            with pytest.raises(EOFError, match="0x4123"):
                await whole_life(fabric.instances["cdc"].port)
            await whole_life(fabric.instances["cdc"].port)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("action", "value"), [("digest", 0), ("length", 8), ("length", 1 << 31), ("length", 25), ("type", 3), ("type", 99)]
)
@pytest.mark.parametrize("step", ["identify", "keep-alive", "log-header"])
def test_faulty_answer_ends_one_connection_only(step: str, action: str, value: int) -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            port = fabric.instances["cdc"].port
            fabric.behaviour.rules.append(Rule(step, action, value, times=1))
            with pytest.raises(ENDS):
                await asyncio.wait_for(whole_life(port, Digests(header=True, data=True)), 0.5)
            await whole_life(port)

    asyncio.run(scenario())


def test_delays_hold_up_nothing_else() -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port) as host:
            fabric.behaviour.rules.append(Rule("log", "delay", 0.3))
            began = time.monotonic()
            late = asyncio.create_task(host.log(0x70, 0, 1024))
            await asyncio.sleep(0)
            await host.command(0x18)
            assert time.monotonic() - began < 0.25
            assert len((await late).data) == 1024
            assert time.monotonic() - began >= 0.3

    asyncio.run(scenario())


def test_no_answer_at_all() -> None:
    async def scenario() -> None:
        async with serving() as fabric, Host(fabric.instances["cdc"].port) as host:
            fabric.behaviour.rules.append(Rule("dim", "ignore"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(host.dim(0, data()), 0.2)
            assert (await host.command(0x18)).status == status.SUCCESS
            assert not fabric.record.registered

    asyncio.run(scenario())


def test_data_can_be_short_or_something_else() -> None:
    async def scenario() -> None:
        async with serving(entries=2) as fabric, Host(fabric.instances["cdc"].port) as host:
            right = (await host.log(0x70, 1024, 2048)).data
            fabric.behaviour.rules = [Rule("log-entries", "short", times=1), Rule("log-entries", "garbage", 5, times=1)]
            assert (await host.log(0x70, 1024, 2048)).data == right[:1024]
            wrong = (await host.log(0x70, 1024, 2048)).data
            assert len(wrong) == 2048
            assert wrong != right

    asyncio.run(scenario())


@pytest.mark.parametrize("times", [3, None])
def test_the_generation_can_move_during_readings(times: int | None) -> None:
    async def scenario() -> None:
        async with serving(entries=2) as fabric, Host(fabric.instances["cdc"].port) as host:
            fabric.behaviour.rules.append(Rule("log-entries", "generation", times=times))
            seen = []
            for _ in range(5):
                before, _, _ = await host.discover()
                after = int.from_bytes((await host.log(0x70, 0, 1024)).data[:8], "little")
                seen.append(after - before)
            assert seen == ([1, 1, 1, 0, 0] if times else [1] * 5)
            assert fabric.instances["cdc"].counters["log-reads"] == 5

    asyncio.run(scenario())


def test_a_rule_for_one_host_touches_no_other() -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            port = fabric.instances["cdc"].port
            fabric.behaviour.rules.append(Rule("connect", "status", status.CONNECT_BUSY, host=HOST))
            with pytest.raises(EOFError):
                await whole_life(port)
            await whole_life(port, nqn=HOST + "x")

    asyncio.run(scenario())


def test_rules_count() -> None:
    behaviour = Behaviour()
    behaviour.rules = [Rule("log", "drop", after=1, times=1), Rule("*", "delay", instance="b")]
    taken = [behaviour.take(step, "a", "h") for step in ("dim", "log-header", "log-entries", "log-header")]
    assert [rule and rule.action for rule in taken] == [None, None, "drop", None]
    rule = behaviour.take("dim", "b", "h")
    assert rule is not None
    assert rule.action == "delay"


@pytest.mark.parametrize(("step", "action"), [("lunch", "drop"), ("dim", "eat"), ("lo", "drop")])
def test_a_rule_that_would_never_apply_is_refused(step: str, action: str) -> None:
    with pytest.raises(ValueError, match="there are"):
        Rule(step, action)


async def _raw(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x80\x00\x80\x00\x00\x00\x01".ljust(128, b"\0"), bytes(range(256))]
)
def test_a_host_that_talks_nonsense_is_told_so(sent: bytes) -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            answer = await _raw(fabric.instances["cdc"].port, sent)
            assert answer[:1] == b"\x03"
            assert fabric.instances["cdc"].counters["protocol-errors"] == 1
            await whole_life(fabric.instances["cdc"].port)

    asyncio.run(scenario())
