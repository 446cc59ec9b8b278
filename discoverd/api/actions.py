# SPDX-License-Identifier: Apache-2.0
"""What callers want done, handed on to a process that may (action.py): some at a time for each user, so that nobody's
requests, or the passwords that he is asked for, keep another user waiting.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from discoverd.api.interfaces import ACCESS_DENIED, FAILED, INTERACTIVE_REQUIRED, INVALID_ARGUMENTS
from discoverd.api.refusal import RefusalError

SOCKET = "/run/discoverd-api-action"
SOCKET_UNIT = "discoverd-api-action.socket"
# Of one user so many are under way.
AT_ONCE = 4
# Each request has a process of root's started before anybody can be asked about it. So the place of one that was not
# allowed stays taken for a while, twice as long each time in a row.
PAUSE_SECONDS = 1.0
PAUSE_SECONDS_MAX = 10.0
# Longer than polkit and systemd together are waited for.
TIMEOUT_SECONDS = 400
# A call that is as long as can be, of exclusions that name controllers, is some way below.
REQUEST_BYTES_MAX = 1 << 17
_ANSWER_BYTES_MAX = 1 << 20
_NOT_ALLOWED = (ACCESS_DENIED, INTERACTIVE_REQUIRED)


class _Places:
    """A user's places, how many have one or wait for one, and how long the last one that was not allowed keeps his."""

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(AT_ONCE)
        self.users = 0
        self.pause = 0.0


class Actions:
    """The places of each user."""

    def __init__(self) -> None:
        self._places: dict[int, _Places] = {}

    @contextlib.asynccontextmanager
    async def turn(self, user: int) -> AsyncIterator[None]:
        """Have one of a user's places. A RefusalError that says that he may not keeps it for a while."""
        places = self._places.setdefault(user, _Places())
        places.users += 1
        pause = 0.0
        try:
            await places.free.acquire()
        except BaseException:
            self._leave(user, places)
            raise
        try:
            yield
            places.pause = 0.0
        except RefusalError as error:
            if error.name in _NOT_ALLOWED:
                pause = places.pause = min(max(2 * places.pause, PAUSE_SECONDS), PAUSE_SECONDS_MAX)
            raise
        finally:
            if pause:
                asyncio.get_running_loop().call_later(pause, self._release, user, places)
            else:
                self._release(user, places)

    def _release(self, user: int, places: _Places) -> None:
        places.free.release()
        self._leave(user, places)

    def _leave(self, user: int, places: _Places) -> None:
        places.users -= 1
        if not places.users:
            del self._places[user]

    async def ask(self, sender: str, interactive: bool, verb: str, **what: Any) -> dict[str, Any]:
        """Have something done for a caller who has a place; return what came of it. Raises RefusalError."""
        return await _hand_on({"verb": verb, "sender": sender, "interactive": interactive, **what})


async def _hand_on(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request. Raises RefusalError."""
    line = json.dumps(request, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    if len(line) > REQUEST_BYTES_MAX:
        raise RefusalError(INVALID_ARGUMENTS, "these are too many exclusions at once; give some of them at a time")
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(SOCKET, limit=_ANSWER_BYTES_MAX)
            try:
                writer.write(line)
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
