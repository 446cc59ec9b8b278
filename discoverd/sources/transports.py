# SPDX-License-Identifier: Apache-2.0
"""Which transports this host has, for entries of log pages over another one than their discovery controller's.

The kernel has one for each RDMA device below /sys/class/infiniband, whatever its fabric. TCP it always has. Whether a
module is there for a transport is not asked: the supervisor sees no modules (ProtectKernelModules=), and a connect
says it.
"""

import asyncio
import os
from collections.abc import Callable, Mapping

from discoverd.config.settings import AUTO, Settings
from discoverd.sources import udev
from discoverd.sources.configuring import work_anew

RDMA_DEVICES = "/sys/class/infiniband"
NO_RDMA = "this host has no RDMA device"
# From the kernel's news to a look: it announces a device before all of them stand in sysfs, or while the last goes.
DEBOUNCE_SECONDS = 1


class Transports:
    """``lacking`` has the transports that are not followed, and why: '' as long as that is not known yet. ``changed``
    is called when it is another one.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.lacking: Mapping[str, str] = {"rdma": ""}
        self._changed = changed
        self._followed = Settings().follow_transports
        self._again = asyncio.Event()
        self._configured = asyncio.Event()

    def configure(self, settings: Settings) -> None:
        """Take new settings. Devices count with ``auto`` only."""
        if settings.follow_transports != self._followed:
            self._followed = settings.follow_transports
            self._configured.set()
        if self._followed != AUTO:
            why = "follow-transports in discoverd.conf leaves it out"
            self._put({one: why for one in ("tcp", "rdma") if one not in self._followed})

    async def run(self) -> None:
        """Look at each change, for ever."""
        await work_anew(self._configured, self._look)

    async def _look(self) -> None:
        if self._followed != AUTO:
            return
        # To listen takes longer to begin with, and what comes meanwhile is seen by the look after it.
        await self._see()
        unnoticed = "an RDMA device that comes later is not noticed"
        async with udev.listening_if_possible("infiniband", self._heard, self._again.set, unnoticed):
            while True:
                self._again.clear()
                await self._see()
                await self._again.wait()
                await asyncio.sleep(DEBOUNCE_SECONDS)

    async def _see(self) -> None:
        self._put({} if await asyncio.to_thread(has_rdma) else {"rdma": NO_RDMA})

    def _heard(self, event: Mapping[str, str]) -> None:
        if event.get("ACTION") in ("add", "remove"):
            self._again.set()

    def _put(self, lacking: Mapping[str, str]) -> None:
        if lacking != self.lacking:
            self.lacking = lacking
            self._changed()


def has_rdma() -> bool:
    """Tell whether this host has an RDMA device. Blocks."""
    try:
        return bool(os.listdir(RDMA_DEVICES))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # It cannot be told, and a connect will.
