# SPDX-License-Identifier: Apache-2.0
"""The registry of owners, watched: entries come and go, and other tools change what is in one."""

import asyncio
import os
from collections.abc import Callable

from discoverd import registry
from discoverd.api.watches import Watches
from discoverd.kernel.inotify import DELETE_SELF, MOVE_SELF, OVERFLOW


class Owners:
    """``changed`` gets the controller whose entry has changed, such as nvme3; '' for any of them."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        """Raises OSError where nothing can be watched."""
        self._changed = changed
        self._watches = Watches("owners that change are seen late")
        self._watched = False
        self._listing: asyncio.Future[None] | None = None
        self.look()

    def fileno(self) -> int:
        """Return what is readable when there is news, for :meth:`heard`."""
        return self._watches.fileno()

    def close(self) -> None:
        """End the watches."""
        if self._listing:
            self._listing.cancel()
        self._watches.close()

    def look(self) -> None:
        """Watch what there is, if that is not done already; the registry is made with the first entry."""
        if self._watched or not self._watches.watch_if_possible(registry.ROOT):
            return
        self._watched = True
        self._listing = asyncio.ensure_future(self._look_at_entries())

    async def _look_at_entries(self) -> None:
        try:
            names = await asyncio.to_thread(os.listdir, registry.ROOT)
        except OSError:
            return  # It has gone again, which is heard.
        for name in filter(registry.valid_device, names):
            self._watches.watch_if_possible(f"{registry.ROOT}/{name}")
        self._changed("")

    def heard(self) -> None:
        """Take what has happened."""
        for directory, name, mask in self._watches.read():
            if directory not in ("", registry.ROOT):
                self._changed(os.path.basename(directory))
            elif mask & (OVERFLOW | DELETE_SELF | MOVE_SELF):
                self._watched = False
                self._changed("")
                self.look()
            elif registry.valid_device(name):
                self._watches.watch_if_possible(f"{registry.ROOT}/{name}")
                self._changed(name)
