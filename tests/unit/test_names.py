# SPDX-License-Identifier: Apache-2.0
"""Host names: which address a connection uses, and when names are looked up again."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from discoverd.sources import names
from discoverd.sources.names import Names

from .fake_host import until

A = "192.0.2.1"
B = "192.0.2.2"
C = "192.0.2.3"
SIX = "2001:db8::1"


class Resolver:
    """The made-up resolver: answers by name, an exception for a failure."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str] | Exception] = {}
        self.asked: list[str] = []
        self.hangs = threading.Event()
        self.hangs.set()
        self.at_once = 0
        self.most_at_once = 0

    def getaddrinfo(self, name: str, *_: object, **__: object) -> list[object]:
        self.asked.append(name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.hangs.wait()
        self.at_once -= 1
        answer = self.answers.get(name, socket.gaierror(-2, "Name or service not known"))
        if isinstance(answer, Exception):
            raise answer
        return [(2, 1, 6, "", (address, 0)) for address in answer]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.hangs.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "RETRY_SECONDS", 0.01)


class Watched(Names):
    """Names that count how often they changed."""

    def __init__(self) -> None:
        self.changes = 0
        super().__init__(self._count)

    def _count(self) -> None:
        self.changes += 1


def play(scenario: Callable[[Watched], Awaitable[None]]) -> None:
    async def run() -> None:
        made = Watched()
        try:
            await asyncio.wait_for(scenario(made), 5)
        finally:
            await made.close()

    asyncio.run(run())


async def settle(made: Watched, *wanted: str) -> None:
    made.want(set(wanted))
    await until(lambda: made.addresses.keys() == set(wanted))


def test_an_answer_is_canonical_without_duplicates_and_in_order(resolver: Resolver) -> None:
    resolver.answers["array"] = ["2001:DB8:0::1", B, "::ffff:192.0.2.2", "fe80::1%eth0", A, "nonsense"]

    async def scenario(made: Watched) -> None:
        assert made.address("one", "array") is None
        await settle(made, "array")
        assert made.addresses == {"array": (SIX, B, "fe80::1%eth0", A)}
        assert made.address("one", "array") == SIX
        assert made.changes == 1

    play(scenario)


def test_an_answer_is_bounded(resolver: Resolver) -> None:
    resolver.answers["array"] = [f"192.0.{high}.{low}" for high in range(4) for low in range(256)]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        assert len(made.addresses["array"]) == names.ADDRESSES_MAX

    play(scenario)


def test_a_connection_keeps_its_address_whatever_later_answers_say(
    resolver: Resolver, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "REFRESH_INTERVAL_SECONDS", 0.01)
    resolver.answers["array"] = [A, B]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        assert made.address("one", "array") == A
        for answer in ([B, A], [B]):
            resolver.answers["array"] = list(answer)
            await until(lambda answer=answer: made.addresses["array"] == tuple(answer))  # type: ignore[misc]
            assert made.address("one", "array") == A
        # One that is new has no reason to keep anything.
        assert made.address("two", "array") == B
        # The order alone is nothing to think about.
        assert made.changes == 2
        resolver.answers["array"] = OSError("no network")
        count = len(resolver.asked)
        await until(lambda: len(resolver.asked) > count + 1)
        assert made.addresses == {"array": (B,)}
        assert made.address("one", "array") == A

    play(scenario)


def test_addresses_take_turns_for_one_connection_alone(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "ROUND_SECONDS", 0)
    resolver.answers["array"] = [A, B, C]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        used = []
        for _ in range(5):
            address = made.address("one", "array")
            assert address
            used.append(address)
            made.refused("one", "array", address)
        assert used == [A, B, C, A, B]
        assert made.changes == 1 + 5
        assert made.address("two", "array") == A

    play(scenario)


def test_a_second_round_has_time(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "ROUND_SECONDS", 0.05)
    resolver.answers["array"] = [A, B]

    async def scenario(made: Watched) -> None:
        began = time.monotonic()
        await settle(made, "array")
        used: list[str] = []
        while len(used) < 4:
            address = made.address("one", "array")
            assert address
            if address not in used[-1:]:
                used.append(address)
            made.refused("one", "array", address)
            await asyncio.sleep(0.001)
        assert used == [A, B, A, B]
        assert time.monotonic() - began > 0.1
        assert made.changes == 1 + 3

    play(scenario)


def test_each_address_has_its_turn_in_whichever_order_they_come(resolver: Resolver) -> None:
    resolver.answers["array"] = [A, B, C]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        assert made.address("one", "array") == A
        made.refused("one", "array", A)
        assert made.address("one", "array") == B
        made.addresses["array"] = (B, A, C)
        made.refused("one", "array", B)
        assert made.address("one", "array") == C

    play(scenario)


def test_old_news_move_nothing(resolver: Resolver) -> None:
    resolver.answers["array"] = [A, B]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        assert made.address("one", "array") == A
        for connection, name, address in (("one", "array", B), ("two", "array", A), ("one", "other", A)):
            made.refused(connection, name, address)
        assert made.address("one", "array") == A
        assert made.changes == 1
        assert resolver.asked == ["array"]

    play(scenario)


def test_the_only_address_is_tried_again_and_left_once_the_name_has_another(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "RETRY_SECONDS", 0.05)
    resolver.answers["array"] = [A]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        assert made.address("one", "array") == A
        assert made.address("well", "array") == A
        made.refused("one", "array", A)
        assert (made.address("one", "array"), made.changes) == (A, 1)
        await until(lambda: len(resolver.asked) == 2)
        # The look-up that this caused still has it: nothing moves later, when it may be connected.
        await asyncio.sleep(0.01)
        made.addresses["array"] = (A,)
        resolver.answers["array"] = [B]
        made.refused("one", "array", A)
        await until(lambda: made.addresses["array"] == (B,))
        assert made.address("one", "array") == B
        assert made.address("well", "array") == A

    play(scenario)


def test_a_failure_ends_the_wish_for_another_address(resolver: Resolver, quick: None) -> None:
    resolver.answers["array"] = [A]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        assert made.address("one", "array") == A
        resolver.answers["array"] = OSError("no network")
        made.refused("one", "array", A)
        await until(lambda: len(resolver.asked) == 3)
        resolver.answers["array"] = [B]
        await until(lambda: made.addresses["array"] == (B,))
        assert made.address("one", "array") == A

    play(scenario)


def test_no_more_look_ups_than_one_in_a_while(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "RETRY_SECONDS", 0.1)
    resolver.answers["array"] = [A, B]

    async def scenario(made: Watched) -> None:
        began = time.monotonic()
        await settle(made, "array")
        while len(resolver.asked) < 3:
            address = made.address("one", "array")
            assert address
            made.refused("one", "array", address)
            await asyncio.sleep(0.005)
        assert time.monotonic() - began > 0.2

    play(scenario)


@pytest.mark.parametrize(("source", "expected"), [(0, B), (4, B), (6, SIX)])
def test_the_family(resolver: Resolver, source: int, expected: str) -> None:
    resolver.answers["array"] = [B, SIX, A]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        assert made.address("one", "array", source) == expected

    play(scenario)


def test_connection_keeps_an_address_of_the_family_that_is_asked_for_from_now_on(resolver: Resolver) -> None:
    resolver.answers["array"] = [A, B, SIX]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        assert made.address("one", "array") == A
        made.refused("one", "array", A)
        assert [made.address("one", "array", version) for version in (0, 4, 0)] == [B, B, B]
        assert made.address("one", "array", 6) == SIX
        # From now on it has its turns among those.
        made.refused("one", "array", SIX)
        assert made.address("one", "array", 6) == SIX

    play(scenario)


def test_a_family_that_a_name_does_not_have_yet(resolver: Resolver, quick: None) -> None:
    resolver.answers["array"] = [A, B]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        assert made.address("one", "array", 4) == A
        made.refused("one", "array", A)
        assert made.address("one", "array", 4) == B
        # The administrator has changed the connection.
        assert made.address("one", "array", 6) is None

    play(scenario)


def test_address_of_an_earlier_run_is_chosen_again(resolver: Resolver) -> None:
    resolver.answers["array"] = [A, B]
    resolver.answers["other"] = [A]

    async def scenario(made: Watched) -> None:
        made.prefer([B, C])
        await settle(made, "array", "other")
        assert made.address("one", "array") == B
        assert made.address("one", "other") == A

    play(scenario)


def test_failures_are_said_once_and_end(resolver: Resolver, quick: None, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(made: Watched) -> None:
        made.want({"array", "x" * 64, "a\0b"})
        await until(lambda: len(resolver.asked) > 12)
        resolver.answers["array"] = OSError("no network")
        await asyncio.sleep(0.1)
        resolver.answers["array"] = [A]
        await until(lambda: made.addresses)
        assert made.changes == 1

    play(scenario)
    said = [record.getMessage() for record in caplog.records if "'array'" in record.getMessage()]
    assert [line.split(":")[1].split(";")[0] for line in said] == [" Name or service not known", " no network"]
    assert "check the name" in said[0]


@pytest.mark.parametrize("name", ["x" * 64, "a..b", "a\0b"])
def test_names_that_cannot_be_looked_up(name: str) -> None:
    """The real resolver, which is asked nothing: these never leave the process."""
    assert isinstance(names._addresses(name), str)


def test_the_real_resolver() -> None:
    # No name: a host without /etc/hosts, such as a minimal Debian 12, knows not even localhost.
    assert names._addresses("127.0.0.1") == ("127.0.0.1",)
    assert names._addresses("::1") == ("::1",)


def test_a_name_that_is_wanted_no_longer_is_forgotten(resolver: Resolver, quick: None) -> None:
    resolver.answers["array"] = [A, B]

    async def scenario(made: Watched) -> None:
        await settle(made, "array")
        made.refused("one", "array", str(made.address("one", "array")))
        made.want(set())
        count = len(resolver.asked)
        assert (made.addresses, made.address("one", "array")) == ({}, None)
        made.refused("one", "array", A)
        await asyncio.sleep(0.05)
        assert len(resolver.asked) == count
        await settle(made, "array")
        assert made.address("one", "array") == A

    play(scenario)


def test_names_that_hang_keep_others_waiting_and_nothing_else(resolver: Resolver) -> None:
    wanted = {f"array{number}" for number in range(3 * names.AT_ONCE)}
    resolver.answers = {name: [A] for name in wanted}
    resolver.hangs.clear()

    async def scenario(made: Watched) -> None:
        made.want(wanted)
        await until(lambda: len(resolver.asked) == names.AT_ONCE)
        # Those that hang keep their places, even if nobody wants them any more.
        made.want(set())
        made.want(wanted)
        await asyncio.sleep(0.05)
        assert len(resolver.asked) == names.AT_ONCE
        # The loop's own threads are free.
        assert await asyncio.to_thread(lambda: 1) == 1
        resolver.hangs.set()
        await until(lambda: made.addresses.keys() == wanted)
        assert resolver.most_at_once == names.AT_ONCE

    play(scenario)


def test_a_look_up_that_hangs_does_not_keep_the_process_from_ending() -> None:
    program = """
import asyncio, socket, time
from discoverd.sources.names import Names
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
async def main():
    made = Names(print)
    made.want({"array"})
    await asyncio.sleep(0.05)
    await made.close()
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=20).returncode == 0
