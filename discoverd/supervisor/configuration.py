# SPDX-License-Identifier: Apache-2.0
"""The configuration as it is in force: read as a whole, swapped as a whole, and remembered for the next start."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from discoverd import log_level, notify
from discoverd.config import record
from discoverd.config.errors import Diagnostic
from discoverd.config.files import read_files
from discoverd.config.identity import HostIdentity
from discoverd.config.last_good import Kept, Settled, refusing, settle
from discoverd.config.model import FabricsConfig
from discoverd.config.settings import Settings
from discoverd.nvme_cli import unserved
from discoverd.plan.facts import Policy
from discoverd.supervisor.abilities import Abilities
from discoverd.supervisor.last_good_file import LastGoodFile
from discoverd.systemd import journal

log = logging.getLogger("discoverd")

# So long the kernel may take to say what it knows before everything else goes on without that: a host where nothing is
# being connected answers at once.
ABILITIES_TIMEOUT_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was given to us at one moment.

    ``complaints`` are about the files as they are, also where those from before are in force. ``kept`` are the files
    that count as they were before, because of a mistake, and since when that is (local time). ``abilities`` are the
    options of connects that the kernel knows, None where it does not tell, or has not told yet; ``unique_nqn`` as in
    discoverd.supervisor.abilities.
    """

    fabrics: FabricsConfig = field(default_factory=FabricsConfig)
    settings: Settings = field(default_factory=Settings)
    host: HostIdentity = field(default_factory=lambda: HostIdentity("", ""))
    complaints: tuple[Diagnostic, ...] = ()
    abilities: frozenset[str] | None = None
    unique_nqn: bool = True
    kept: tuple[tuple[Kept, str], ...] = ()

    @property
    def policy(self) -> Policy:
        """What the settings say about disconnects."""
        return Policy(self.settings.disconnect_scope, self.settings.disconnect_transports)


class Configuration:
    """``current`` is what is in force. ``blocking`` runs a function beside the loop, one at a time.

    ``changed`` is called when there is another ``current`` without :meth:`load`: the kernel has said what it knows.
    """

    def __init__(self, blocking: Callable[..., Awaitable[Any]], changed: Callable[[], None]) -> None:
        self._blocking = blocking
        self._changed = changed
        self.abilities = Abilities(blocking, self._kernel_answered)
        self._loading = asyncio.Lock()
        # What is in force, and as the next start will need it; None before the first load.
        self._settled: Settled | None = None
        self._record: record.Record | None = None
        self._last_good = LastGoodFile()
        self.current = Snapshot()

    async def load(self) -> tuple[Diagnostic, ...]:
        """Read everything anew, and log what is wrong with it.

        Returns the mistakes for which everything from before stays in force; one that was there already when that was
        taken is none (discoverd.config.last_good.refusing). The first time it returns all mistakes that there are: what
        is good counts then, and for the rest what was remembered.
        """
        async with self._loading:
            before = self._record or await self._last_good.read()
            settled: Settled = await self._blocking(lambda: settle(read_files(), before.files))
            await self.abilities.look(ABILITIES_TIMEOUT_SECONDS)
            first = self._settled is None
            refused = refusing(settled, self._settled) if self._settled else ()
            in_force = self.current if refused else settled
            told = await self._blocking(unserved.look, in_force.fabrics, in_force.host)
            if refused:
                complaints = _refused((*settled.complaints, *told))
                self.current = replace(self.current, complaints=complaints)
            else:
                kept = tuple((one, _date(before, one.path)) for one in settled.kept)
                complaints = _told((*settled.complaints, *told), kept)
                self._settled = settled
                self._record = record.renewed(before, settled.good, int(time.time()))
                self.current = Snapshot(settled.fabrics, settled.settings, settled.host, complaints, kept=kept)
            self._take_abilities()
        await self.set_log_level()
        if refused:
            fields = {"fields": {"MESSAGE_ID": notify.CONFIGURATION_REFUSED}}
            log.error("the configuration has mistakes: keeping the one from before", extra=fields)
        for complaint in complaints:
            log.log(logging.ERROR if complaint.severity == "error" else logging.WARNING, "%s", complaint)
        return settled.mistakes if first else refused

    async def remember(self) -> None:
        """Keep what is in force for the next start, if it is not kept yet. The disk may take as long as it likes."""
        if self._record is not None:
            await self._last_good.write(self._record)

    async def set_log_level(self) -> None:
        """Log at the level that an administrator has asked for until the next boot, or else at the configured one."""
        level = await self._blocking(log_level.read)
        journal.set_up(level or self.current.settings.log_level)
        await self._blocking(log_level.taken)

    def _kernel_answered(self) -> None:
        if not self._loading.locked():
            self._take_abilities()
            self._changed()

    def _take_abilities(self) -> None:
        told = self.abilities
        self.current = replace(self.current, abilities=told.known, unique_nqn=told.unique_nqn)


def _date(before: record.Record, path: str) -> str:
    """Return since when a file, or what is in a directory, counts as it is remembered."""
    times = [when for name, when in before.since.items() if name == path or name.startswith(path + "/")]
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(max(times, default=0)))


def _refused(complaints: tuple[Diagnostic, ...]) -> tuple[Diagnostic, ...]:
    return tuple(
        replace(one, message=f"{one.message}; nothing was reloaded") if one.severity == "error" else one
        for one in complaints
    )


def _told(complaints: tuple[Diagnostic, ...], kept: tuple[tuple[Kept, str], ...]) -> tuple[Diagnostic, ...]:
    """Say with the first mistake of each file that was kept what counts in its place."""
    dates = {one.mistake: date for one, date in kept}
    return tuple(
        replace(one, message=f"{one.message}; until that is mended, the file counts as it was on {dates[one]}")
        if one in dates
        else one
        for one in complaints
    )
