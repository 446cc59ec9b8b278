# SPDX-License-Identifier: Apache-2.0
"""Calls to systemd through the unit agent's process: what becomes of them, and of us, when it ends."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from discoverd.systemd.agent_process import AgentProcess
from discoverd.systemd.references import References
from discoverd.systemd.units import UnitError, Units

# Answers each request with its operation; "stop" ends it.
AGENT = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["operation"] == "stop":
        break
    print(json.dumps({"id": request["id"], "result": {}}), flush=True)
"""
TIMEOUT_SECONDS = 30


@pytest.fixture
def launcher(tmp_path: Path) -> str:
    path = tmp_path / "agent"
    path.write_text(AGENT)
    return str(path)


async def connect(launcher: str) -> tuple[Units, AgentProcess]:
    process = AgentProcess(launcher)
    return await Units.connect(launcher, cast(References, None), process), process


def run(test: Callable[[], Awaitable[None]], errors: list[object]) -> None:
    async def all_of_it() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await test()
        # What was left for the loop to do at the end.
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(all_of_it())


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_process_that_is_closed_while_it_runs_leaves_nothing(launcher: str) -> None:
    errors: list[object] = []
    before = descriptors()

    async def test() -> None:
        units, process = await connect(launcher)
        assert await units.list() == {}
        await units.close()
        assert str(process._pid) not in os.listdir("/proc")

    run(test, errors)
    assert (errors, descriptors()) == ([], before)


@pytest.mark.parametrize("turns", [0, 1, 3, 20])
def test_process_that_was_killed_can_be_closed_at_any_later_moment(launcher: str, turns: int) -> None:
    """What asyncio does of it takes some turns of the loop: first it hears the end, then it closes the pipes."""
    errors: list[object] = []
    before = descriptors()

    async def test() -> None:
        units, process = await connect(launcher)
        os.kill(process._pid, signal.SIGKILL)
        await units.wait_lost()
        for _ in range(turns):
            await asyncio.sleep(0)
        await units.close()

    run(test, errors)
    assert (errors, descriptors()) == ([], before)


def test_call_that_the_process_does_not_answer_fails_with_its_end(launcher: str) -> None:
    errors: list[object] = []

    async def test() -> None:
        units, _ = await connect(launcher)
        with pytest.raises(UnitError):
            await units.stop("instance")
        with pytest.raises(UnitError, match="has ended"):
            await units.list()
        await units.close()

    run(test, errors)
    assert errors == []
