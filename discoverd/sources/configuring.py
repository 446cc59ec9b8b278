# SPDX-License-Identifier: Apache-2.0
"""A source's work, begun anew whenever its settings have changed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Never


async def work_anew(configured: asyncio.Event, work: Callable[[], Awaitable[None]]) -> Never:
    """Have the work done, and begun anew each time that ``configured`` is set, for ever."""
    while True:
        configured.clear()
        task = asyncio.ensure_future(work())
        try:
            await configured.wait()
        finally:
            task.cancel()
            await asyncio.wait([task])
