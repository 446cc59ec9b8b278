# SPDX-License-Identifier: Apache-2.0
"""What supervisor and workers leave in /run/discoverd for everybody to read, told as it changes, and log pages.

Each file is told once at first, and again when it is another one. What comes faster than it can be read is told as it
is by then. Secrets are in none of it: of a specification ``spec.public`` is read, the rest is for root only.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable

from discoverd import state
from discoverd.api import TURN_SECONDS
from discoverd.api.watches import Watches
from discoverd.kernel.admin import HEADER_SIZE
from discoverd.kernel.inotify import DELETE_SELF, MOVE_SELF, OVERFLOW, Event
from discoverd.supervisor.loop_turn import LoopTurn

# Kinds of facts: files, and of a log page only the head of the file and of the page; that there is nothing of a
# controller any more; that all there was has been told once.
PLAN, REPORT, SPEC, LOG, GONE, WHOLE = "plan", "report", "spec", "log", "gone", "whole"
FILE_BYTES_MAX = 1 << 20
PLAN_BYTES_MAX = 1 << 26
PAGE_BYTES_MAX = 1 << 25
# What a log page's file has before the page, at most.
HEAD_BYTES_MAX = 4096
_FILES = {"report": REPORT, state.PUBLIC_SPEC: SPEC, "log": LOG}
# So many are read at once beside the loop; to take that many is short work in it.
_AT_ONCE = 64


class Feed:
    """Hands each fact to ``take`` with kind, instance and content; no content stands for a file that is not there."""

    def __init__(self, take: Callable[[str, str, bytes], None]) -> None:
        self._take = take
        # By kind and instance, in the order in which they are told.
        self._due: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._known: set[str] = set()
        self._all_stale = True
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Tell what there is, and what changes, for ever. Raises OSError where nothing can be watched."""
        loop = asyncio.get_running_loop()
        self._watches = Watches("what changes there is not seen")
        loop.add_reader(self._watches, self._hear)
        try:
            await self._tell()
            self._take(WHOLE, "", b"")
            while True:
                await self._news.wait()
                self._news.clear()
                await self._tell()
        finally:
            loop.remove_reader(self._watches)
            self._watches.close()

    async def _tell(self) -> None:
        while self._all_stale or self._due:
            if self._all_stale:
                self._all_stale = False
                await self._look_at_all()
            facts = [self._due.popitem(last=False)[0] for _ in range(min(len(self._due), _AT_ONCE))]
            contents = await asyncio.to_thread(_contents, facts)
            for (kind, instance), content in zip(facts, contents, strict=True):
                self._take(kind, instance, content)

    async def page(self, instance: str) -> bytes:
        """Return the file of a discovery controller's log page, nothing where there is none."""
        return await asyncio.to_thread(_read, f"{state.directory(instance)}/log", PAGE_BYTES_MAX)

    # What changes ------------------------------------------------------------------------------------------

    async def _look_at_all(self) -> None:
        """Watch what there is now, and have all of it told."""
        self._due[PLAN, ""] = None
        if not self._there(state.ROOT):
            # discoverd has not run yet.
            self._watches.watch_if_possible(os.path.dirname(state.ROOT))
        found = await asyncio.to_thread(_instances) if self._there(state.CONTROLLERS) else set()
        turn = LoopTurn(TURN_SECONDS)
        # Also those that were known: they may have come anew since the list was made.
        for instance in self._known | found:
            self._look_at(instance)
            await turn.end_if_long()

    def _look_at(self, instance: str) -> None:
        if not self._there(state.directory(instance)):
            self._forget(instance)
            return
        self._known.add(instance)
        for kind in _FILES.values():
            self._due[kind, instance] = None

    def _forget(self, instance: str) -> None:
        self._known.discard(instance)
        for kind in _FILES.values():
            self._due.pop((kind, instance), None)
        self._due[GONE, instance] = None

    def _there(self, directory: str) -> bool:
        """Watch a directory, and tell whether there is one: what cannot be watched is better told once than never."""
        return self._watches.watch_if_possible(directory) is not False

    def _hear(self) -> None:
        for event in self._watches.read():
            self._heard(event)
        self._news.set()

    def _heard(self, event: Event) -> None:
        directory, name, mask = event
        if mask & OVERFLOW or (mask & (DELETE_SELF | MOVE_SELF) and directory in (state.ROOT, state.CONTROLLERS)):
            self._all_stale = True
        elif directory == state.CONTROLLERS:
            if state.valid_instance(name):
                self._look_at(name)
        elif directory == state.ROOT:
            if name == PLAN:
                self._due[PLAN, ""] = None
            elif f"{state.ROOT}/{name}" == state.CONTROLLERS:
                self._all_stale = True
        elif directory == os.path.dirname(state.ROOT):
            self._all_stale |= f"{directory}/{name}" == state.ROOT
        elif name in _FILES:
            self._due[_FILES[name], os.path.basename(directory)] = None


# What is read, beside the loop -----------------------------------------------------------------------------


def _instances() -> set[str]:
    try:
        return {name for name in os.listdir(state.CONTROLLERS) if state.valid_instance(name)}
    except OSError:
        return set()


def _contents(facts: Iterable[tuple[str, str]]) -> list[bytes]:
    return [_content(kind, instance) for kind, instance in facts]


def _content(kind: str, instance: str) -> bytes:
    directory = state.directory(instance)
    if kind == PLAN:
        return _read(f"{state.ROOT}/plan", PLAN_BYTES_MAX)
    if kind == LOG:
        return _head(f"{directory}/log")
    name = next((name for name, one in _FILES.items() if one == kind), "")
    return _read(f"{directory}/{name}", FILE_BYTES_MAX) if name else b""


def _read(path: str, limit: int) -> bytes:
    try:
        return state.read(path, limit)
    except state.StateError:
        return b""  # It is not there, or not usable, which is the same.


def _head(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, HEAD_BYTES_MAX + HEADER_SIZE)
    except OSError:
        return b""
    finally:
        os.close(fd)
