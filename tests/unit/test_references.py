# SPDX-License-Identifier: Apache-2.0
"""What keeps stopped units loaded: a systemd that counts references, and a bus that loses answers to these calls."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from discoverd.bus.calls import RefusedError
from discoverd.bus.client import Message
from discoverd.systemd.references import References
from discoverd.systemd.unit_properties import Property, unit_properties, unless_exists
from discoverd.systemd.units import UnitError, Units
from discoverd.tid import IO, TransportId, unit_name

from . import virtual_time
from .fake_host import until

ONE, TWO = "tcp:a", "tcp:b"
ERROR = "org.freedesktop.systemd1."


class Systemd:
    """Units that are loaded, by name, with how often each is referenced."""

    def __init__(self, *loaded: str) -> None:
        self.references: Counter[str] = Counter()
        self.loaded = set(map(unit_name, loaded))
        self.refuses = ""
        # How many of the next answers are lost.
        self.loses = 0
        self.calls: list[str] = []
        self.made: list[Any] = []
        self.released: list[str] = []

    async def ask(self, member: str, signature: str, *arguments: Any) -> None:
        self.calls.append(member)
        if self.refuses:
            name = self.refuses if "." in self.refuses else ERROR + self.refuses
            raise RefusedError(member, name, "no")
        unit: str = arguments[0]
        match member:
            case "StartTransientUnit":
                if unit in self.loaded:
                    raise RefusedError(member, ERROR + "UnitExists", "it exists")
                # As it goes over the bus.
                Message(path="/", member=member, interface="a.b", signature=signature, body=list(arguments))._marshall()
                self.made.append(arguments)
                self.loaded.add(unit)
                self.references[unit] += any(name == "AddRef" for name, _ in arguments[2])
            case "RefUnit":
                if unit not in self.loaded:
                    raise RefusedError(member, ERROR + "NoSuchUnit", "not loaded")
                self.references[unit] += 1
            case "UnrefUnit":
                if not self.references[unit]:
                    raise RefusedError(member, ERROR + "NotReferenced", "not referenced")
                self.references[unit] -= 1
        if self.loses:
            self.loses -= 1
            raise TimeoutError(f"{member}: no answer within 10 s")


@asynccontextmanager
async def working(systemd: Systemd) -> AsyncIterator[References]:
    references = References(systemd.ask, systemd.released.append)
    task = asyncio.create_task(references.run())
    yield references
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("loses", [0, 1, 3])
def test_reference_whose_answer_is_lost_is_taken_back_with_the_others(loses: int) -> None:
    async def main() -> None:
        systemd = Systemd(ONE)
        async with working(systemd) as references:
            systemd.loses = loses
            references.keep([ONE])
            await until(lambda: ONE in references._kept)
            assert systemd.references[unit_name(ONE)] == 1 + loses
            systemd.loses = loses
            references.release(ONE)
            await until(lambda: systemd.released == [ONE])
            assert not systemd.references[unit_name(ONE)]

    virtual_time.run(main())


def test_unit_is_referenced_once_however_often_it_is_wanted() -> None:
    async def main() -> None:
        systemd = Systemd(ONE, TWO)
        async with working(systemd) as references:
            for _ in range(3):
                references.keep([ONE, TWO])
                await until(lambda: not references._wanted)
            assert systemd.calls == ["RefUnit", "RefUnit"]

    virtual_time.run(main())


def test_reference_that_systemd_has_lost_is_asked_for_anew() -> None:
    async def main() -> None:
        systemd = Systemd(ONE, TWO)
        async with working(systemd) as references:
            references.keep([ONE, TWO])
            await until(lambda: systemd.references.total() == 2)
            systemd.references.clear()
            references.release(TWO)
            references.renew()
            await until(lambda: systemd.released == [TWO])
            await until(lambda: systemd.references[unit_name(ONE)] == 1)
            assert not systemd.references[unit_name(TWO)]

    virtual_time.run(main())


def test_unit_that_is_gone_stops_no_other() -> None:
    async def main() -> None:
        systemd = Systemd(TWO)
        async with working(systemd) as references:
            references.keep([ONE, TWO])
            await until(lambda: systemd.references[unit_name(TWO)])
            references.release(ONE)
            await until(lambda: systemd.released == [ONE])

    virtual_time.run(main())


@pytest.mark.parametrize("name", ["ServiceUnknown", "NoReply", "LimitsExceeded"])
def test_call_that_did_not_reach_systemd_is_made_again(name: str) -> None:
    async def main() -> None:
        systemd = Systemd(ONE)
        systemd.refuses = "org.freedesktop.DBus.Error." + name
        async with working(systemd) as references:
            references.keep([ONE])
            await until(lambda: len(systemd.calls) >= 3)
            systemd.refuses = ""
            await until(lambda: systemd.references[unit_name(ONE)] == 1)

    virtual_time.run(main())


def test_what_is_wanted_last_counts() -> None:
    async def main() -> None:
        systemd = Systemd(ONE)
        async with working(systemd) as references:
            systemd.loses = 1
            references.keep([ONE])
            await until(lambda: systemd.calls)
            references.release(ONE)
            await until(lambda: systemd.released == [ONE])
            assert not systemd.references[unit_name(ONE)]
            references.keep([ONE])
            await until(lambda: systemd.references[unit_name(ONE)])

    virtual_time.run(main())


def units(systemd: Systemd) -> tuple[Units, References]:
    references = References(systemd.ask, systemd.released.append)
    made = Units.__new__(Units)
    made._references = references
    return made, references


def properties() -> list[Property]:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn.a")
    return [*unit_properties(tid, IO, "/worker"), unless_exists("/x")]


def test_stopped_unit_is_made_with_its_reference() -> None:
    """All its properties go over the bus in their types."""

    async def main() -> None:
        systemd = Systemd()
        asked, references = units(systemd)
        assert await asked.make_stopped(ONE, properties()) == "started"
        assert systemd.references[unit_name(ONE)] == 1
        assert ONE in references._kept
        given = [name for name, _ in systemd.made[0][2]]
        assert given == ["AddRef", *(name for name, _, _ in properties())]

    virtual_time.run(main())


def test_stopped_unit_that_is_there_already_is_kept() -> None:
    async def main() -> None:
        systemd = Systemd(ONE)
        asked, references = units(systemd)
        assert await asked.make_stopped(ONE, properties()) == "running"
        assert references._wanted == {ONE: True}

    virtual_time.run(main())


def test_stopped_unit_that_is_masked_or_refused() -> None:
    async def main() -> None:
        systemd = Systemd()
        asked, _ = units(systemd)
        systemd.refuses = "UnitMasked"
        assert await asked.make_stopped(ONE, properties()) == "masked"
        systemd.refuses = "BadUnitSetting"
        with pytest.raises(UnitError, match="no"):
            await asked.make_stopped(ONE, properties())
        systemd.refuses, systemd.loses = "", 1
        with pytest.raises(UnitError, match="no answer"):
            await asked.make_stopped(ONE, properties())

    virtual_time.run(main())
