# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest: drives units and their signals against the real systemd, and prints JSON."""

import asyncio
import json
import sys

from discoverd.systemd import unit_signals
from discoverd.systemd.units import UnitError, Units

AGENT = "/usr/libexec/discoverd/unit-agent"
INSTANCE = "test:unit\\x25with:escapes"


async def main() -> None:
    seen: asyncio.Queue[unit_signals.Signal] = asyncio.Queue()
    flowing = asyncio.Event()
    watch = asyncio.create_task(unit_signals.watch(seen.put_nowait, flowing.set))
    await asyncio.wait_for(flowing.wait(), 60)
    units = await Units.connect(AGENT)
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
        ("AddRef", "b", True),
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
    # A second connection keeps it loaded when the first, which made it, has gone.
    other = await Units.connect(AGENT)
    await other.reference(INSTANCE)
    await units.close()
    units = other
    await units.stop(INSTANCE)
    result["stop after the agent was replaced"] = [await job(), await active()]
    await units.close()
    watch.cancel()
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
