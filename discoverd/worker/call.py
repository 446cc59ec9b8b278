# SPDX-License-Identifier: Apache-2.0
"""One call into the kernel that can block for minutes, made in a thread so that the worker still hears its signals."""

import _thread
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Deep enough for the few frames of a call.
_thread.stack_size(256 * 1024)


class Call:
    """A function running in a thread.

    When it has ended, ``done`` is true and a byte has been written to ``wake``.
    """

    __slots__ = ("_argument", "_function", "_wake", "done", "error", "result")

    def __init__(self, function: "Callable[[str], Any]", argument: str, wake: int) -> None:
        self._function = function
        self._argument = argument
        self._wake = wake
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            self.result = self._function(self._argument)
        except Exception as error:  # It is for the loop to tell what it expected.
            self.error = error
        self.done = True
        posix.write(self._wake, b"\0")
