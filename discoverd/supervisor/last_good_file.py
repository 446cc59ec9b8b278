# SPDX-License-Identifier: Apache-2.0
"""The last good configuration on its disk, which may be one that stands still until something is connected."""

import asyncio
import logging

from discoverd import state
from discoverd.config import record
from discoverd.config.record import Record
from discoverd.supervisor.daemon_threads import DaemonThreads

log = logging.getLogger("discoverd")

READ_TIMEOUT_SECONDS = 2.0
_REMEDY = "free space there, or mount it writable, then: systemd-tmpfiles --create && systemctl restart discoverd"


class LastGoodFile:
    """Neither the start nor the end of the daemon waits for it.

    One that could not be read stays as it is: what it holds cannot be had again.
    """

    def __init__(self) -> None:
        self._threads = DaemonThreads("last-good")
        self._turn = asyncio.Lock()
        self._unreadable = False
        # As it is on the disk, as far as is known.
        self._kept: Record | None = None

    async def read(self) -> Record:
        """Return what is kept, or an empty record where that is nothing that can be used or had in time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                self._kept = await loop.run_in_executor(self._threads, record.read)
                return self._kept
        except TimeoutError:
            self._leave_alone(f"{record.PATH} was not read within {READ_TIMEOUT_SECONDS:.0f} s")
        except record.UnreadableError as error:
            self._leave_alone(str(error))
        except record.MissingError:
            pass
        except state.StateError as error:
            log.warning("the last good configuration cannot be used: %s; it is written anew", error)
        return Record()

    def _leave_alone(self, why: str) -> None:
        self._unreadable = True
        log.warning(
            "the last good configuration cannot be had: %s; it stays as it is until: systemctl restart discoverd", why
        )

    async def write(self, wanted: Record) -> None:
        """Keep this for the next start, if it is not kept yet. Writes one at a time, in the order of the calls."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            if self._unreadable:
                return
            try:
                await loop.run_in_executor(self._threads, _write_if_new, wanted, self._kept)
                self._kept = wanted
            except state.StateError as error:
                log.warning("the next start cannot make up for a mistake in the configuration: %s; %s", error, _REMEDY)


def _write_if_new(wanted: Record, kept: Record | None) -> None:
    if wanted != kept or not record.exists():
        record.write(wanted)
