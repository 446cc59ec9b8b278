# SPDX-License-Identifier: Apache-2.0
"""``discoverctl log``: what discoverd writes to the journal, changed while it runs."""

import contextlib
import os

from discoverd import log_level, state
from discoverd.cli import text, wake
from discoverd.cli.exits import CliError, Exit


def change(level: str) -> Exit:
    """Have discoverd log at this level until the next boot; ``default`` is what the configuration says.

    Raises CliError where discoverd does not answer, and OSError.
    """
    if level == log_level.DEFAULT:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(log_level.path())
    else:
        try:
            state.write(log_level.path(), f"{level}\n".encode())
        except state.StateError as error:
            raise CliError(f"cannot tell discoverd: {error}; if it does not run: systemctl start discoverd") from None
    _tell()
    text.line("discoverd logs as configured" if level == log_level.DEFAULT else f"discoverd logs at the level {level}")
    return Exit.OK


def _tell() -> None:
    """Wake the daemon, and wait until it has taken the level. Raises CliError."""
    try:
        asked = state.ROOT + "/" + log_level.ASKED
        state.write(asked, b"")
        wake.tell(log_level.WAKE, asked)
    except (OSError, state.StateError):
        what = "discoverd does not answer; it takes the level at its next start"
        raise CliError(f"{what}; see: systemctl status discoverd") from None
