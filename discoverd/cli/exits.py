# SPDX-License-Identifier: Apache-2.0
"""The exit statuses of discoverctl, and the error that ends it with one of them."""

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    """What the exit status says; scripts rely on the numbers, which discoverctl(8) lists."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_LIVE = 3
    UNKNOWN = 4
    REFUSED = 5
    TIMED_OUT = 6
    NOT_PERMITTED = 77


class CliError(Exception):
    """Ends the command: a sentence with the facts that ends in what to do, and the exit status.

    ``lines`` are shown below it, such as names to choose from.
    """

    def __init__(self, text: str, exit_status: Exit = Exit.FAILED, lines: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.exit_status = exit_status
        self.lines = tuple(lines)
