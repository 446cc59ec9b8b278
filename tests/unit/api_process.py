# SPDX-License-Identifier: Apache-2.0
"""The API as a process of its own, on the host that is in a directory, with a meter for the turns of its loop.

    python -m tests.unit.api_process FOLDER

At SIGUSR1 it writes FOLDER/meter, and begins to measure anew: a JSON object with the longest turn of the loop
(``longest_us``; of the processor one used ``worked_us`` at most), their number, how much of the processor was used in
all (``cpu_us``), and its memory (``rss_kb``).
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from discoverd.api import main

from .private_bus import patch

LOOK_SECONDS = 0.001


class Meter:
    """How long anything else had to wait for its turn."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "meter"
        self._longest, self._worked, self._turns, self._cpu = 0.0, 0.0, 0, time.process_time()

    async def run(self) -> None:
        """Measure, for ever."""
        while True:
            began, worked = time.monotonic(), time.thread_time()
            await asyncio.sleep(LOOK_SECONDS)
            self._longest = max(self._longest, time.monotonic() - began - LOOK_SECONDS)
            self._worked = max(self._worked, time.thread_time() - worked)
            self._turns += 1

    def write(self) -> None:
        """Write what was measured since the last time."""
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
        now = time.process_time()
        told = {
            "longest_us": int(self._longest * 1e6),
            "worked_us": int(self._worked * 1e6),
            "turns": self._turns,
            "cpu_us": int((now - self._cpu) * 1e6),
        }
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({**told, "rss_kb": rss}))
        partial.rename(self._path)
        self._longest, self._worked, self._turns, self._cpu = 0.0, 0.0, 0, now


async def run(folder: Path) -> int:
    meter = Meter(folder)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, meter.write)
    measuring = asyncio.create_task(meter.run())
    status = await main.serve()
    measuring.cancel()
    return status


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(Path(sys.argv[1]), monkeypatch)
        sys.exit(asyncio.run(run(Path(sys.argv[1]))))
