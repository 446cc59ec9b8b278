# SPDX-License-Identifier: Apache-2.0
"""An event loop whose clock jumps: what waits for a time has it at once, as soon as nothing else is to be done.

So a test that sees that nothing happens in a second does not take one, and sees more than one that waits a tenth of it.
While a thread works for the loop, time goes by as usual: nobody knows when it will have ended.
"""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """What is there is told at once; else the clock is put forward instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        # Calls that run in threads of the loop's executors.
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.threads or timeout is None:
            began = time.monotonic()
            ready = super().select(timeout)
            self.now += time.monotonic() - began
        else:
            # A little more, for a timer must not be due a rounding error later.
            self.now += max(0.0, timeout) + 1e-6
        return ready


class Loop(asyncio.SelectorEventLoop):
    """The loop; :meth:`time` begins where the clock is, and goes its own way from there."""

    def __init__(self) -> None:
        self._moves = _Selector()
        self._moves.now = time.monotonic()
        super().__init__(self._moves)

    def time(self) -> float:
        return self._moves.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        self._moves.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: "asyncio.Future[Any] | Future[Any]") -> None:
        self._moves.threads -= 1


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on a loop whose clock jumps."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(coroutine)
