# SPDX-License-Identifier: Apache-2.0
"""The exclusion lists as they stand in their files, read again after each edit."""

import asyncio
import logging
import os
from collections.abc import Callable

from discoverd import exclusions
from discoverd.exclusions import Exclusions
from discoverd.kernel.inotify import Event, Inotify

log = logging.getLogger("discoverd.exclusions")

# An administrator's edit often comes in several steps, and a script's always; each step restarts the wait (seconds).
DEBOUNCE_SECONDS = 1.0
# What is edited without end counts after this long all the same.
DEBOUNCE_MAX_SECONDS = 10.0
# Where the files cannot be watched, they are read this often.
POLL_INTERVAL_SECONDS = 60.0
# A directory of garbage must not become a journal of garbage.
PROBLEMS_SAID = 100


class ExclusionFiles:
    """The lists below ``root``. ``exclusions`` is replaced as a whole when an edit changed it, then ``changed`` is
    called.

    Workers read the files themselves before each connect, so that nothing depends on this being quick.
    """

    def __init__(self, changed: Callable[[], None], root: str = exclusions.ROOT) -> None:
        self.exclusions = Exclusions([], [])
        self._changed = changed
        self._root = root
        self._inotify: Inotify | None = None
        self._edited = asyncio.Event()
        self._loading = asyncio.Lock()
        self._watch_fault = self._fault_said = ""

    async def load(self) -> None:
        """Read the lists, now. Whatever is wrong with them is in ``exclusions.problems`` and in the journal."""
        async with self._loading:
            found = await asyncio.to_thread(self._look)
            if found == self.exclusions:
                return
            self._say(found)
            self.exclusions = found
        self._changed()

    async def run(self) -> None:
        """Watch the lists, for ever."""
        while True:
            try:
                await self._watch()
            except OSError as error:
                self._watch_fault = f"{error.strerror}"
            await self._poll()

    async def _watch(self) -> None:
        """Watch until that does not work any more. Raises OSError if there is no inotify to be had."""
        loop = asyncio.get_running_loop()
        self._inotify = Inotify()
        loop.add_reader(self._inotify.fileno(), self._read)
        try:
            self._watch_fault = ""
            # The watches begin with it.
            await self.load()
            while not self._watch_fault:
                await self._edited.wait()
                await self._settle()
                await self.load()
        finally:
            loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    async def _settle(self) -> None:
        """Wait until the edits have ended."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + DEBOUNCE_MAX_SECONDS
        while (left := latest - loop.time()) > 0:
            self._edited.clear()
            try:
                async with asyncio.timeout(min(DEBOUNCE_SECONDS, left)):
                    await self._edited.wait()
            except TimeoutError:
                break
        # What is edited from here on is seen by the next round, though it may be read by this one already.
        self._edited.clear()

    async def _poll(self) -> None:
        if self._watch_fault != self._fault_said:
            text = (
                "exclusions cannot be watched (%s), so edits take up to %d s to be seen; see inotify(7) for the limits"
            )
            log.warning(text, self._watch_fault, POLL_INTERVAL_SECONDS)
            self._fault_said = self._watch_fault
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
        await self.load()

    def _read(self) -> None:
        if self._inotify and any(self._concerns(event) for event in self._inotify.read()):
            self._edited.set()

    def _concerns(self, event: Event) -> bool:
        """Tell whether a list, or a directory with lists, may be another now. So it may where events were lost."""
        if event.directory == os.path.dirname(self._root):
            return event.name in ("", os.path.basename(self._root))
        if event.directory == self._root:
            return event.name in ("", exclusions.MAIN, exclusions.DROP_INS, exclusions.DRAFT)
        # Where writers have their temporary files.
        return not event.name.startswith(".") or event.name.endswith(".conf")

    def _look(self) -> Exclusions:
        """Watch what is there now, then read it. In a thread: it blocks."""
        inotify = self._inotify
        if inotify:
            try:
                for directory in ("..", "", exclusions.DROP_INS, exclusions.DRAFT):
                    inotify.watch(os.path.normpath(f"{self._root}/{directory}"))
            except OSError as error:
                self._watch_fault = f"{error.strerror}: {error.filename}"
        return exclusions.load(self._root)

    def _say(self, found: Exclusions) -> None:
        if found.entries or self.exclusions.entries:
            log.info("exclusions read: %d in force", len(found.entries))
        before = set(self.exclusions.problems)
        news = [one for one in found.problems if one not in before]
        for file, line, sentence in news[:PROBLEMS_SAID]:
            log.error("%s: %s", f"{file}:{line}" if line else file, sentence)
        if news[PROBLEMS_SAID:]:
            log.error("and %d more faults in exclusion lists; mend these first", len(news) - PROBLEMS_SAID)
