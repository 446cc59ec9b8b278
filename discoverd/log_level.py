# SPDX-License-Identifier: Apache-2.0
"""The level at which discoverd logs, where an administrator has changed it for this boot.

A file by the side of the state says it, so that a restart of discoverd does not end it; a datagram to the wake socket
has discoverd read it, and discoverd takes the request away when it has.
"""

import contextlib
import os

from discoverd import state
from discoverd.config.settings import LOG_LEVELS, LogLevel

DEFAULT = "default"
# No instance begins with a dot.
WAKE = b".log-level"
ASKED = "log-level-asked"


def path() -> str:
    """Return where the file is."""
    return state.ROOT + "/log-level"


def read() -> LogLevel | None:
    """Return the level, None where the configuration's counts. Blocks."""
    try:
        word = state.read(path()).decode("ascii", "replace").strip()
    except state.StateError:
        return None
    return next((level for level in LOG_LEVELS if level == word), None)


def taken() -> None:
    """Tell whoever asked that the level counts from now on. Blocks."""
    with contextlib.suppress(OSError):
        os.unlink(f"{state.ROOT}/{ASKED}")
