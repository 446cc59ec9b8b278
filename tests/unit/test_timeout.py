# SPDX-License-Identifier: Apache-2.0
"""Calls that may never return."""

import _thread
import threading
import time

import pytest

from discoverd.kernel import timeout


def test_call_that_returns() -> None:
    assert timeout.call(5, divmod, 7, 2) == (3, 1)


def test_call_that_fails() -> None:
    with pytest.raises(FileNotFoundError):
        timeout.call(5, open, "/gone")


def test_call_without_end_is_left_behind() -> None:
    gate = threading.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer in 0.05 s"):
        timeout.call(0.05, gate.wait, 20)
    assert time.monotonic() - began < 10
    gate.set()


def test_call_without_time_left() -> None:
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        timeout.call(-1, gate.wait, 20)
    gate.set()


def test_shortage_of_threads_is_one_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", fail)
    with pytest.raises(OSError, match="cannot start a thread") as caught:
        timeout.call(5, len, "")
    assert caught.value.errno == 12
