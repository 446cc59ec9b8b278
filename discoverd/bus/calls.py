# SPDX-License-Identifier: Apache-2.0
"""One call over D-Bus, with an end: the client has no time limit of its own."""

import asyncio
from typing import Any

from discoverd.bus.client import Message, MessageBus, MessageType


class RefusedError(ConnectionError):
    """A call was answered with an error; ``name`` is the error's."""

    def __init__(self, member: str, name: str, text: str) -> None:
        super().__init__(f"{member}: {text or name}")
        self.name = name


async def call(
    bus: MessageBus,
    seconds: float,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    *body: object,
) -> Any:
    """Return the first value of the answer, or None. Raises TimeoutError, RefusedError, ConnectionError."""
    message = Message(
        destination=destination, path=path, interface=interface, member=member, signature=signature, body=list(body)
    )
    try:
        async with asyncio.timeout(seconds):
            reply = await bus.call(message)
    except TimeoutError:
        raise TimeoutError(f"{member}: no answer within {seconds} s") from None
    if reply is None:
        raise ConnectionError(f"{member}: no answer")
    if reply.message_type is MessageType.ERROR:
        raise RefusedError(member, reply.error_name or "", str(reply.body[0]) if reply.body else "")
    return reply.body[0] if reply.body else None
