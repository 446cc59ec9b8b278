# SPDX-License-Identifier: Apache-2.0
"""An event loop whose clock jumps: what waits for a time has it at once, as soon as nothing else is to be done.

So a test that sees that nothing happens in a second does not take one, and sees more than one that waits a tenth of it.
While a thread works for the loop, time goes by as usual: nobody knows when it will have ended. Of threads that were not
started through the loop, and of other processes, it knows nothing: what waits for these needs asyncio.run.
"""

import asyncio
import contextlib
import selectors
import time
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """What is there is told at once; else the clock is put forward instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        # Calls that run in threads of the loop's executors.
        self.threads = 0

        self._looked_at = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            if self.threads or timeout is None:
                ready = super().select(timeout)
            else:
                # A little more, for a timer must not be due a rounding error later.
                self.now += max(0.0, timeout) + 1e-6
        # What was worked, or waited for, took its time as well.
        before, self._looked_at = self._looked_at, time.monotonic()
        self.now += self._looked_at - before
        return ready


class Loop(asyncio.SelectorEventLoop):
    """The loop; :meth:`time` begins where the clock is, and goes its own way from there."""

    def __init__(self) -> None:
        self._moves = _Selector()
        self._pool: ThreadPoolExecutor | None = None
        self._moves.now = time.monotonic()
        super().__init__(self._moves)

    def time(self) -> float:
        return self._moves.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        if executor is None:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(thread_name_prefix="asyncio")
                self.set_default_executor(self._pool)
            executor = self._pool
        work = executor.submit(func, *args)
        self._moves.threads += 1
        future = asyncio.wrap_future(work, loop=self)
        # After the future has its result; and for a thread that nobody waits for any more, when it ends.
        work.add_done_callback(self._work_ended)
        return future

    def _work_ended(self, _: "Future[Any]") -> None:
        with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
            self.call_soon_threadsafe(self._thread_ended)

    def _thread_ended(self) -> None:
        self._moves.threads -= 1

    async def shutdown_default_executor(self, _: float | None = None) -> None:
        """As the loop's, without its time-out: that would be over at once."""
        self._moves.threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._moves.threads -= 1


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on a loop whose clock jumps."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(coroutine)
