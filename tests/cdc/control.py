# SPDX-License-Identifier: Apache-2.0
"""The Unix socket on which orders arrive, one line of JSON each, and are answered by one line each."""

import asyncio
import contextlib
import json
from pathlib import Path

from .orders import OrderError, Orders

# An order can carry thousands of entries.
LONGEST = 64 << 20


async def serve(orders: Orders, path: Path) -> asyncio.Server:
    """Listens, where an earlier process may have. An answer has `error` where the order could not be carried out."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(json.dumps(await _answer(orders, line)).encode() + b"\n")
                await writer.drain()
            writer.close()

    return await asyncio.start_unix_server(talk, path, limit=LONGEST)


async def _answer(orders: Orders, line: bytes) -> dict[str, object]:
    try:
        order = json.loads(line)
        if not isinstance(order, dict):
            raise OrderError("an order is a JSON object")
        return await orders.carry_out(order)
    except (ValueError, OrderError) as error:
        return {"error": str(error)}
