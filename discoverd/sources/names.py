# SPDX-License-Identifier: Apache-2.0
"""Host names in the configuration: their addresses, looked up beside the event loop, and which one is in use.

DNS never disconnects: a connection keeps its address until its worker has failed there, whatever later answers say.
"""

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from discoverd.tid import TidError, canonical_address

log = logging.getLogger("discoverd.names")

# Seconds until a name is looked up again: after an answer, and after a failure or at a worker's wish.
REFRESH_INTERVAL_SECONDS = 300
RETRY_SECONDS = 15
# So that names that were wanted together are not looked up together for ever.
JITTER = 0.1
# A look-up can hang for half a minute for each name server that is silent. That many names can do so before others
# wait for them; nothing but names ever does.
AT_ONCE = 8
# A connection goes through all addresses at once, and then once in so many seconds: each time another unit starts, and
# begins anew with its attempts.
ROUND_SECONDS = 30
# An answer is not bounded by anybody else.
ADDRESSES_MAX = 64


@dataclass(slots=True)
class _Name:
    """A name that is wanted. ``asked`` is the time of the last look-up (the loop's)."""

    again: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    asked: float = 0.0
    complaints: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Choice:
    """The address that a connection uses. ``tried`` are those where it has failed since ``began`` (the loop's time).

    ``stuck``: it failed and there was no other address to try, and the answer to the look-up that this caused is not
    there yet.
    """

    address: str
    version: int
    began: float
    tried: set[str] = field(default_factory=set)
    stuck: bool = False


class Names:
    """Addresses of host names, and the one of them that each connection uses.

    ``addresses`` has all addresses of the last good answer for each name, canonical and without duplicates, in the
    order that the resolver gave. ``changed`` is called when :meth:`address` may return something else than before.
    A look-up that fails takes away nothing that an earlier one found.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        self._changed = changed
        self._names: dict[str, _Name] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._choices: dict[tuple[str, str], _Choice] = {}
        self._preferred: frozenset[str] = frozenset()
        self._slots = asyncio.Semaphore(AT_ONCE)

    def want(self, names: set[str]) -> None:
        """Look up these names, and no others, from now on."""
        for name in self._tasks.keys() - names:
            self._tasks.pop(name).cancel()
            del self._names[name]
            self.addresses.pop(name, None)
            self._choices = {key: choice for key, choice in self._choices.items() if key[1] != name}
        for name in sorted(names - self._tasks.keys()):
            self._names[name] = _Name()
            self._tasks[name] = asyncio.create_task(self._keep(name, self._names[name]))

    def prefer(self, addresses: Iterable[str]) -> None:
        """Let a connection begin with one of these addresses if its answer has one: what an earlier run has chosen."""
        self._preferred = frozenset(addresses)

    def address(self, connection: str, name: str, version: int = 0) -> str | None:
        """Return the address that a connection uses for a name, None as long as none is known.

        ``connection`` is any text that tells it from others. ``version`` 4 or 6 asks for an address of that family.
        """
        choice = self._choices.get((connection, name))
        if choice and version in (0, choice.version, ipaddress.ip_address(choice.address).version):
            choice.version = version
            return choice.address
        answer = self._answer(name, version)
        if not answer:
            return None
        address = next((one for one in answer if one in self._preferred), answer[0])
        self._choices[connection, name] = _Choice(address, version, asyncio.get_running_loop().time())
        return address

    def refused(self, connection: str, name: str, address: str) -> None:
        """Take note that a connection could not be made at an address.

        The connection gets the next address of the last answer, unless it has been to all of them in the last
        ROUND_SECONDS, and the name is looked up again.
        """
        choice = self._choices.get((connection, name))
        if choice is None or choice.address != address or name not in self._names:
            return  # Old news.
        self._names[name].again.set()
        answer = self._answer(name, choice.version)
        place = answer.index(address) + 1 if address in answer else 0
        others = [one for one in answer[place:] + answer[:place] if one != address]
        # Resolvers give the same addresses in a new order each time: each has its turn all the same.
        choice.tried.add(address)
        now = asyncio.get_running_loop().time()
        if choice.tried.issuperset(others) and now >= choice.began + ROUND_SECONDS:
            choice.tried = {address}
            choice.began = now
        following = next((one for one in others if one not in choice.tried), None)
        if following is None:
            choice.stuck = True
        else:
            self._move(connection, name, choice, following)

    async def answered(self) -> None:
        """Wait until each name that is wanted was looked up once, with whatever outcome."""
        for wanted in list(self._names.values()):
            await wanted.answered.wait()

    async def close(self) -> None:
        """Give up all look-ups. One that hangs goes on in its thread, which does not keep the process from ending."""
        tasks = list(self._tasks.values())
        self.want(set())
        await asyncio.gather(*tasks, return_exceptions=True)

    def _answer(self, name: str, version: int) -> tuple[str, ...]:
        answer = self.addresses.get(name, ())
        return tuple(one for one in answer if version in (0, ipaddress.ip_address(one).version))

    def _move(self, connection: str, name: str, choice: _Choice, address: str) -> None:
        log.info("%s: not reached at %s, trying %s, another address of %r", connection, choice.address, address, name)
        choice.address = address
        self._changed()

    async def _keep(self, name: str, wanted: _Name) -> None:
        """Look a name up for as long as it is wanted."""
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            wanted.again.clear()
            wanted.asked = loop.time()
            found = await self._look_up(name)
            self._answered(name, wanted, found)
            delay = REFRESH_INTERVAL_SECONDS if isinstance(found, tuple) else RETRY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_scattered(delay)):
                    await wanted.again.wait()
            await asyncio.sleep(wanted.asked + _scattered(RETRY_SECONDS) - loop.time())

    def _look_up(self, name: str) -> asyncio.Future[tuple[str, ...] | str]:
        """Return the addresses, or why there are none. Frees the caller's slot when it has ended, and not before."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[str, ...] | str] = loop.create_future()

        def ended(found: tuple[str, ...] | str) -> None:
            self._slots.release()
            if not future.done():
                future.set_result(found)

        def look_up() -> None:
            found = _addresses(name)
            with contextlib.suppress(RuntimeError):  # The loop has ended.
                loop.call_soon_threadsafe(ended, found)

        # Not of a pool, whose threads the interpreter waits for when it ends, however long a name server is silent.
        threading.Thread(target=look_up, name="names", daemon=True).start()
        return future

    def _answered(self, name: str, wanted: _Name, found: tuple[str, ...] | str) -> None:
        wanted.answered.set()
        stuck = [(key, choice) for key, choice in self._choices.items() if key[1] == name and choice.stuck]
        for _, choice in stuck:
            choice.stuck = False
        if isinstance(found, str):
            if found not in wanted.complaints:
                wanted.complaints.add(found)
                what = "what is connected stays" if name in self.addresses else "check the name, or the host's resolver"
                log.warning("host name %r: %s; looking it up again every %d s; %s", name, found, RETRY_SECONDS, what)
            return
        wanted.complaints.clear()
        before = self.addresses.get(name, ())
        self.addresses[name] = found
        for (connection, _), choice in stuck:
            answer = self._answer(name, choice.version)
            if answer and choice.address not in answer:
                self._move(connection, name, choice, answer[0])
        if set(found) != set(before):
            log.debug("host name %r has the addresses %s", name, ", ".join(found))
            self._changed()


def _scattered(seconds: float) -> float:
    return seconds * (1 + JITTER * random.random())  # noqa: S311 - no secret


def _addresses(name: str) -> tuple[str, ...] | str:
    """Ask the host's resolver. Returns the addresses, or why there are none. Blocks."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    addresses = []
    for *_, where in found:
        with contextlib.suppress(TidError):
            addresses.append(canonical_address("tcp", str(where[0])))
    return tuple(dict.fromkeys(addresses))[:ADDRESSES_MAX] or "no IP address"
