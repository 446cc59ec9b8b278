# SPDX-License-Identifier: Apache-2.0
"""Directories, watched as far as the limits of inotify(7) allow that: a user has so many watches and no more."""

import logging

from discoverd.kernel.inotify import Inotify

log = logging.getLogger("discoverd.api")


class Watches(Inotify):
    """``loss`` is what a line in the journal ends in, once, when a directory cannot be watched: what comes of that."""

    def __init__(self, loss: str) -> None:
        """Raises OSError where nothing can be watched."""
        super().__init__()
        self._loss = loss
        self._complained = False

    def watch_if_possible(self, directory: str) -> bool | None:
        """Watch what is at this path now; return False where there is no directory, None where it cannot be watched."""
        try:
            return self.watch(directory)
        except OSError as error:
            if not self._complained:
                log.warning("%s cannot be watched: %s; %s", directory, error.strerror, self._loss)
            self._complained = True
            return None
