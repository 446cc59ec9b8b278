# SPDX-License-Identifier: Apache-2.0
"""What ``--watch`` does: the same look again and again, until it is interrupted."""

import sys
import time
from collections.abc import Callable
from typing import Never

from discoverd.cli import terminal

INTERVAL_SECONDS = 2
_CLEAR, _HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"


def follow(look: Callable[[], list[str]]) -> Never:
    """Show the lines in place of the last ones on a terminal; elsewhere one after the other, whenever they change.

    Ends with KeyboardInterrupt, or with what ``look`` raises.
    """
    before: list[str] | None = None
    while True:
        lines = look()
        if terminal.columns():
            beginning = _CLEAR + _HOME if before is None else _HOME
            fitting = [line + _CLEAR_LINE for line in _fitting(lines, terminal.rows())]
            sys.stdout.write(beginning + "\n".join(fitting) + _CLEAR_REST)
        elif lines != before:
            sys.stdout.writelines(line + "\n" for line in lines)
        sys.stdout.flush()
        before = lines
        time.sleep(INTERVAL_SECONDS)


def _fitting(lines: list[str], rows: int) -> list[str]:
    """Return as many of the lines as a terminal has, and how many there are more."""
    if len(lines) <= rows:
        return lines
    return [*lines[: rows - 1], f"… and {len(lines) - rows + 1} more lines"]
