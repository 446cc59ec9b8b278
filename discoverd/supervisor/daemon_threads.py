# SPDX-License-Identifier: Apache-2.0
"""Threads for what may never end, such as a look at a disk that stands still."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Thread
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """Runs each call in a thread of its own, for which the interpreter does not wait when it ends, as it does for those
    of a pool.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin a call; see concurrent.futures.Executor."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as error:  # It is for whoever waits for the result.
                future.set_exception(error)
            else:
                future.set_result(result)

        Thread(target=work, name=self._name, daemon=True).start()
        return future
