# SPDX-License-Identifier: Apache-2.0
"""What callers want done, handed on to a process that may (action.py): some at a time for each user, so that nobody's
requests, or the passwords that he is asked for, keep another user waiting.
"""

import asyncio
import json
from collections import Counter, OrderedDict, defaultdict
from typing import Any

from discoverd.api.connection import BUS, BUS_PATH, Connection, LostError, RefusedError
from discoverd.api.interfaces import ACCESS_DENIED, FAILED, LIMITS_EXCEEDED
from discoverd.api.wire import WireError

SOCKET = "/run/discoverd-api-action"
SOCKET_UNIT = "discoverd-api-action.socket"
# Of one user so many are under way, and wait.
AT_ONCE = 4
WAITING_MAX = 64
# Longer than polkit and systemd together are waited for.
TIMEOUT_SECONDS = 400
_ANSWER_BYTES_MAX = 1 << 20
_USERS_MAX = 1024


class RefusalError(Exception):
    """A call that is answered with an error; ``name`` is the error's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Actions:
    """Knows whose connections are whose, and how many requests of each user wait."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # A name on the bus is never given to another connection.
        self._users: OrderedDict[str, int] = OrderedDict()
        self._turns: defaultdict[int, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        self._waiting: Counter[int] = Counter()

    async def ask(self, sender: str, interactive: bool, verb: str, **what: Any) -> dict[str, Any]:
        """Have something done for a caller; return what came of it. Raises RefusalError."""
        user = await self._user(sender)
        if self._waiting[user] >= WAITING_MAX:
            raise RefusalError(LIMITS_EXCEEDED, f"{WAITING_MAX} requests of user {user} wait already; wait for these")
        self._waiting[user] += 1
        try:
            async with self._turns[user]:
                return await _hand_on({"verb": verb, "sender": sender, "interactive": interactive, **what})
        finally:
            self._waiting[user] -= 1
            if not self._waiting[user]:
                del self._waiting[user], self._turns[user]

    async def _user(self, sender: str) -> int:
        if sender not in self._users:
            try:
                (user,) = await self._connection.call(
                    BUS, BUS_PATH, BUS, "GetConnectionUnixUser", "s", sender, answer="u"
                )
            except RefusedError:
                raise RefusalError(ACCESS_DENIED, "whoever asked has left the bus") from None
            except (TimeoutError, LostError, WireError) as error:
                raise RefusalError(FAILED, f"the bus does not say who asks: {error}; try again") from None
            self._users[sender] = user
            if len(self._users) > _USERS_MAX:
                self._users.popitem(last=False)
        return self._users[sender]


async def _hand_on(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request. Raises RefusalError."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(SOCKET, limit=_ANSWER_BYTES_MAX)
            try:
                writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()
                answer = json.loads(await reader.readline())
            finally:
                writer.close()
    except TimeoutError:
        raise RefusalError(FAILED, f"nothing came of it within {TIMEOUT_SECONDS} s; see: systemctl list-jobs") from None
    except (OSError, ValueError) as error:
        raise RefusalError(FAILED, f"it cannot be done ({error}); see: systemctl status {SOCKET_UNIT}") from None
    if not isinstance(answer, dict):
        raise RefusalError(FAILED, f"the answer makes no sense; see: systemctl status {SOCKET_UNIT}")
    if "error" in answer:
        raise RefusalError(str(answer["error"]), str(answer.get("text", "")))
    return answer
