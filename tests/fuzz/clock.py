# SPDX-License-Identifier: Apache-2.0
"""An event loop whose clock stands still while anything is to be done, and then jumps to the next timer.

What is played on it takes the same time by its clock each time, however fast the machine is.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
# The clock at the beginning (seconds).
START = 1000.0


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        if timeout > 0:
            # A little more, for a timer must not be due a rounding error later.
            self.now += timeout + 1e-6
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._moves = _Selector()
        super().__init__(self._moves)

    def time(self) -> float:
        return self._moves.now


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on such a loop."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(coroutine)
