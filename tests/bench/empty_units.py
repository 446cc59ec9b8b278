#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The floor of the native benchmark: `empty_units.py COUNT KIND` starts so many units with an empty program.

KIND is `bare`, with what it takes to see that the program has run, or `ours`, with all properties of a controller's
unit. They are started as discoverd starts its own: at most 16 at once, over systemd's own socket. Prints the time of
the first call (monotonic clock), and ends when all jobs have.
"""

import asyncio
import os
import sys
import time

from discoverd import state
from discoverd.systemd.references import References
from discoverd.systemd.unit_agent import Agent
from discoverd.systemd.unit_properties import Property, unit_properties
from discoverd.systemd.unit_signals import JobRemoved, Signal, watch
from discoverd.tid import IO, TransportId, unit_name

AT_ONCE = 16
PROGRAM = "/usr/bin/true"
# A program that ends leaves its unit active, once it has.
RUN: list[Property] = [
    ("Type", "s", "oneshot"),
    ("RemainAfterExit", "b", True),
    ("ExecStart", "a(sasb)", [[PROGRAM, [PROGRAM], False]]),
]


def properties(tid: TransportId, kind: str) -> list[Property]:
    """The properties of a unit."""
    if kind == "bare":
        return RUN
    replaced = {name for name, *_ in RUN}
    return [one for one in unit_properties(tid, IO, "") if one[0] not in replaced] + RUN


async def start(count: int, kind: str) -> None:
    """Start so many units, and return when all of their jobs have ended."""
    tids = [
        TransportId.make(IO, "tcp", "192.0.2.1", "4420", f"nqn.2024-08.com.example:vol{i + 1}") for i in range(count)
    ]
    places, ended = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(0)
    subscribed: asyncio.Future[References] = asyncio.get_running_loop().create_future()

    def hear(signal: Signal) -> None:
        if isinstance(signal, JobRemoved):
            places.release()
            ended.release()

    # Where the signals come in (discoverd.bus.relay).
    os.makedirs(state.ROOT, 0o700, exist_ok=True)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch(hear, subscribed.set_result))
        await subscribed
        print(time.monotonic(), flush=True)
        with Agent() as agent:
            for tid in tids:
                await places.acquire()
                agent.start(unit_name(tid.instance), properties(tid, kind))
        for _ in tids:
            await ended.acquire()
        watching.cancel()


if __name__ == "__main__":
    asyncio.run(start(int(sys.argv[1]), sys.argv[2]))
