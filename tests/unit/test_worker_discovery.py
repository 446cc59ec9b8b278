# SPDX-License-Identifier: Apache-2.0
"""When a discovery controller's worker reads its log page: soon after each change, and not at a storm's pace."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from discoverd import state
from discoverd.kernel import admin
from discoverd.worker import discovery, notify
from discoverd.worker.call import Call
from discoverd.worker.controller import Worker
from discoverd.worker.discovery import INTERVAL, RETRY, Discovery

from .log_pages import page


class Reader:
    """A worker that reads when it is asked to, and whose clock the test moves."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.directory = str(directory)
        self.device = "nvme0"
        self.stopping = False
        self.log_read = ""
        self.call: object = None
        self.reads: list[float] = []
        self.shown = 0
        self.discovery = Discovery(cast(Worker, self))

    def start(self, what: str, function: Callable[..., object], *arguments: object) -> None:
        assert self.call is None
        assert (what, function, arguments) == ("log_page", admin.read_discovery_log, (self.device,))
        self.call = object()
        self.reads.append(self.now)

    def show(self) -> None:
        self.shown += 1

    def end(self, error: Exception | None = None, generation: int = 1) -> None:
        """The reading that is under way ends."""
        assert self.call is not None
        self.call = None
        result = None if error else (generation, 0, page(generation=generation))
        self.discovery.read(cast(Call, SimpleNamespace(result=result, error=error)))

    def tick(self) -> None:
        """What the worker's loop does at a deadline."""
        if self.discovery.retry_at and self.now >= self.discovery.retry_at:
            self.discovery.again()

    def pass_time(self, seconds: float, event_every: float = 0) -> None:
        """Let time go by in steps; readings take one of them."""
        for step in range(round(seconds / 0.01)):
            self.now += 0.01
            if event_every and step % round(event_every / 0.01) == 0:
                self.discovery.again()
            if self.call is not None:
                self.end()
            self.tick()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    made = Reader(tmp_path)
    clock: Any = SimpleNamespace(monotonic=lambda: made.now, monotonic_ns=lambda: int(made.now * 1e9))
    monkeypatch.setattr(discovery, "time", clock)
    monkeypatch.setattr(notify, "log", lambda *_: None)
    return made


def test_the_first_event_is_read_at_once(reader: Reader) -> None:
    reader.discovery.again()
    assert reader.reads == [1000.0]
    assert reader.discovery.retry_at == 0


def test_an_event_after_a_quiet_time_is_read_at_once(reader: Reader) -> None:
    reader.discovery.again()
    reader.end()
    reader.now += INTERVAL
    reader.discovery.again()
    assert reader.reads == [1000.0, 1000.0 + INTERVAL]


@pytest.mark.parametrize("events", [1, 100])
def test_events_right_after_a_reading_cost_one_at_the_end_of_the_interval(reader: Reader, events: int) -> None:
    reader.discovery.again()
    reader.end()
    for _ in range(events):
        reader.now += 0.001
        reader.discovery.again()
    assert len(reader.reads) == 1
    assert reader.discovery.retry_at == 1000.0 + INTERVAL
    reader.pass_time(3 * INTERVAL)
    assert len(reader.reads) == 2
    assert reader.reads[1] == pytest.approx(1000.0 + INTERVAL, abs=0.02)
    assert reader.discovery.retry_at == 0


def test_events_during_a_reading_cost_one_after_it(reader: Reader) -> None:
    """What the reading missed is read, but not before the interval is over."""
    reader.discovery.again()
    for _ in range(100):
        reader.now += 0.01
        reader.discovery.again()
    reader.end()
    ended = reader.now
    assert len(reader.reads) == 1
    reader.pass_time(3 * INTERVAL)
    assert len(reader.reads) == 2
    assert reader.reads[1] == pytest.approx(ended + INTERVAL, abs=0.02)


def test_a_storm_costs_one_reading_per_interval_and_its_last_event_is_read(reader: Reader) -> None:
    reader.discovery.again()
    reader.end()
    reader.pass_time(20 * INTERVAL, event_every=0.01)
    assert 18 <= len(reader.reads) <= 21
    assert all(later - earlier >= INTERVAL for earlier, later in zip(reader.reads, reader.reads[1:], strict=False))
    # The last event falls where it may: a reading starts after it.
    reader.discovery.again()
    last = reader.now
    reader.pass_time(3 * INTERVAL)
    assert last <= reader.reads[-1] <= last + INTERVAL + 0.02
    read = len(reader.reads)
    reader.pass_time(10 * INTERVAL)
    assert len(reader.reads) == read


def test_a_storm_does_not_shorten_the_way_to_a_reading(reader: Reader) -> None:
    """Each event within the interval leaves the deadline where it is; else a storm would put it off for ever."""
    reader.discovery.again()
    reader.end()
    deadlines = set()
    for _ in range(9):
        reader.now += INTERVAL / 10
        reader.discovery.again()
        deadlines.add(reader.discovery.retry_at)
    assert deadlines == {1000.0 + INTERVAL}


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), OSError("no number")])
def test_a_failed_reading_counts_for_the_interval_too(reader: Reader, error: OSError) -> None:
    reader.discovery.again()
    reader.end(error)
    assert reader.discovery.retry_at == reader.now + RETRY[0]
    for _ in range(5):
        reader.discovery.again()
    assert len(reader.reads) == 1
    assert reader.discovery.retry_at == reader.now + INTERVAL
    reader.pass_time(2 * INTERVAL)
    assert len(reader.reads) == 2
    assert reader.discovery.text() == ", 0 entries in its log page (generation 1)"


def test_failures_are_tried_again_ever_less_often(reader: Reader) -> None:
    reader.discovery.again()
    waits = []
    for _ in range(7):
        reader.end(OSError(errno.EIO, "Input/output error"))
        waits.append(reader.discovery.retry_at - reader.now)
        reader.now = reader.discovery.retry_at
        reader.tick()
    assert waits == [*RETRY, RETRY[-1], RETRY[-1]]


@pytest.mark.parametrize("change", [{"stopping": True}, {"device": ""}])
def test_nothing_is_read_of_what_is_gone_or_going(reader: Reader, change: dict[str, object]) -> None:
    vars(reader).update(change)
    reader.discovery.again()
    assert (reader.reads, reader.discovery.retry_at) == ([], 0)


def test_each_reading_has_another_stamp(reader: Reader) -> None:
    """A target that starts anew repeats its generations."""
    stamps = []
    for _ in range(3):
        reader.discovery.again()
        reader.end(generation=1)
        stamps.append(reader.log_read)
        reader.now += INTERVAL
    assert len(set(stamps)) == 3
    assert Path(reader.directory, "log").read_bytes() == page(generation=1)


def test_a_page_that_cannot_be_kept_is_read_again(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise state.StateError("No space left on device")

    reader.discovery.again()
    with monkeypatch.context() as patch:
        patch.setattr(state, "write", full)
        reader.end()
    assert reader.log_read == ""
    assert reader.discovery.text() == ", log page not read: cannot keep it: No space left on device"
    reader.pass_time(2)
    assert len(reader.reads) == 2
    assert reader.log_read
