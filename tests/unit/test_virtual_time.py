# SPDX-License-Identifier: Apache-2.0
"""The clock that jumps does so only while nothing is to be waited for."""

import asyncio
import threading
import time

from . import virtual_time


def test_hours_without_anything_to_do_take_no_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(7200)
        return loop.time() - before

    began = time.monotonic()
    assert 7200 <= virtual_time.run(main()) < 7300
    assert time.monotonic() < began + 60


def test_thread_that_works_holds_the_clock() -> None:
    """Also one whose result nobody waits for any more."""
    gate = threading.Event()

    async def main(cancelled: bool) -> bool:
        task = asyncio.ensure_future(asyncio.to_thread(gate.wait, 30))
        await asyncio.sleep(0)
        if cancelled:
            task.cancel()
        asyncio.get_running_loop().call_later(0.05, gate.set)
        # An hour that passes at once would be over before the gate is open.
        await asyncio.sleep(0.2)
        return gate.is_set()

    for cancelled in (False, True):
        gate.clear()
        assert virtual_time.run(main(cancelled))
