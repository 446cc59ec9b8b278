# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest: drives units and their signals against the real systemd, and prints JSON."""

import asyncio
import json
import os
import sys

from discoverd import state
from discoverd.systemd import unit_signals
from discoverd.systemd.references import References
from discoverd.systemd.unit_properties import unless_exists
from discoverd.systemd.units import UnitError, Units

AGENT = "/usr/libexec/discoverd/unit-agent"
INSTANCE = "test:unit\\x25with:escapes"


async def main() -> None:
    seen: asyncio.Queue[unit_signals.Signal] = asyncio.Queue()
    flowing: asyncio.Future[References] = asyncio.get_running_loop().create_future()
    os.makedirs(state.ROOT, mode=0o700, exist_ok=True)
    watch = asyncio.create_task(unit_signals.watch(seen.put_nowait, flowing.set_result))
    references = await asyncio.wait_for(flowing, 60)
    units = await Units.connect(AGENT, references)
    result: dict[str, object] = {}

    async def job() -> str:
        while True:
            news = await asyncio.wait_for(seen.get(), 60)
            if isinstance(news, unit_signals.JobRemoved) and news.instance == INSTANCE:
                return news.result

    async def active() -> str | None:
        fact = (await units.list()).get(INSTANCE)
        return f"{fact.load} {fact.active}" if fact else None

    command = ["/bin/sh", "-c", "systemd-notify --ready && exec sleep 600"]
    properties: list[tuple[str, str, object]] = [
        ("Description", "s", "a unit of the test"),
        ("Type", "s", "notify"),
        ("NotifyAccess", "s", "all"),
        ("ExecStart", "a(sasb)", [["/bin/sh", command, False]]),
        ("LogExtraFields", "aay", ["NVME_CTRL=test"]),
    ]
    result["start"] = [await units.start(INSTANCE, properties), await job(), await active()]
    result["start again"] = [await units.start(INSTANCE, properties), await active()]
    await units.stop(INSTANCE)
    result["stop"] = [await job(), await active()]
    result["start the stopped one"] = [await units.start(INSTANCE, properties), await job(), await active()]
    try:
        await units.stop("no such unit")
    except UnitError as error:
        result["refused"] = str(error)
    # What keeps it loaded is not the process that started it.
    other = await Units.connect(AGENT, references)
    await units.close()
    units = other
    await units.stop(INSTANCE)
    result["stop after the agent was replaced"] = [await job(), await active()]

    async def released() -> str | None:
        units.release(INSTANCE)
        while await asyncio.wait_for(seen.get(), 60) != unit_signals.Released(INSTANCE):
            pass
        return await active()

    result["released"] = await released()
    properties.append(unless_exists("/"))
    result["made stopped"] = [await units.make_stopped(INSTANCE, properties), await job(), await active()]
    result["made again"] = [await units.make_stopped(INSTANCE, properties), await active()]
    result["released again"] = await released()
    await units.close()
    watch.cancel()
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
