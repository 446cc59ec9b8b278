# SPDX-License-Identifier: Apache-2.0
"""Calls that may never return, such as into a file system whose server is gone, in a thread that may be left behind.

Used by workers, so it imports only what they may.
"""

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

_ENOMEM, _ETIMEDOUT = 12, 110


def call(seconds: float, function: "Callable[..., T]", *arguments: object) -> "T":
    """Return what a function returns, or raise what it raises.

    Raises TimeoutError if it takes longer than ``seconds``; it goes on then, and what it does must harm nobody.
    """
    outcome = _Outcome()
    outcome.done.acquire()
    try:
        _thread.start_new_thread(_run, (outcome, function, arguments))
    except RuntimeError:
        raise OSError(_ENOMEM, "cannot start a thread") from None
    if not outcome.done.acquire(timeout=max(seconds, 0)):
        raise TimeoutError(_ETIMEDOUT, f"no answer in {seconds:g} s")
    if outcome.error is not None:
        raise outcome.error
    result: T = outcome.result
    return result


class _Outcome:
    __slots__ = ("done", "error", "result")

    def __init__(self) -> None:
        self.done = _thread.allocate_lock()
        self.error: Exception | None = None
        self.result: Any = None


def _run(outcome: _Outcome, function: "Callable[..., Any]", arguments: tuple[object, ...]) -> None:
    try:
        outcome.result = function(*arguments)
    except Exception as error:  # It is for the caller to tell what it expected.
        outcome.error = error
    finally:
        outcome.done.release()
