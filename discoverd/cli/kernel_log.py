# SPDX-License-Identifier: Apache-2.0
"""What the kernel's log says about a controller: workers may not read it, and it says more than an error number."""

import os
import re
import time
from collections.abc import Container
from dataclasses import dataclass

from discoverd.config.errors import printable

PATH = "/dev/kmsg"
# One record of the log, and more (CONSOLE_EXT_LOG_MAX).
_RECORD_BYTES = 8192
# What the kernel says about an attempt comes in the seconds before its worker reports the end of it.
ATTEMPT_SECONDS = 2.0
# Lines that are quoted.
_SHOWN = 3
# An attempt of nvme-tcp whose socket could not be connected; the number is the errno.
_SOCKET = re.compile(r"failed to connect socket: -([0-9]+)")
# A controller that was made, or taken away.
_ROUTINE = re.compile(r"new ctrl|Removing ctrl")
_DEVICE = re.compile(r"\b(nvme[0-9]+):")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log: when it was written (seconds, about CLOCK_MONOTONIC), and what it says."""

    time: float
    text: str


def read() -> list[Line]:
    """Return what the log has about NVMe over Fabrics, oldest first. Raises OSError."""
    found = []
    for record in _records():
        head, semicolon, text = record.partition(";")
        fields = head.split(",")
        if semicolon and len(fields) > 2 and fields[2].isdigit() and "nvme" in text:
            found.append(Line(int(fields[2]) / 1_000_000, printable(text)))
    return found


def _records() -> list[str]:
    """Return the records of the log, without the fields that follow each (Documentation/ABI/testing/dev-kmsg)."""
    data = []
    fd = os.open(PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                chunk = os.read(fd, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # What would have come next was overwritten meanwhile.
            except BlockingIOError:
                break
            if not chunk:
                break
            data.append(chunk)
    finally:
        os.close(fd)
    lines = b"".join(data).decode("utf-8", "replace").split("\n")
    return [line for line in lines if line and not line.startswith(" ")]


def about_device(lines: list[Line], device: str) -> list[str]:
    """Return the last lines about a controller that the kernel has, none about an earlier one of its name."""
    own = [line.text for line in lines if device in _DEVICE.findall(line.text)]
    begin = max((number for number, text in enumerate(own) if "new ctrl" in text), default=0)
    return own[begin:][-_SHOWN:]


def about_subsystem(lines: list[Line], nqn: str, since: float) -> list[str]:
    """Return the last lines that name a subsystem and speak of no success, since then (seconds, CLOCK_BOOTTIME)."""
    name = re.compile(rf"(?<![\w.:-]){re.escape(nqn)}(?![\w:-])")
    begin = _monotonic(since) - ATTEMPT_SECONDS
    found = [line.text for line in lines if line.time >= begin and name.search(line.text)]
    return [text for text in found if not _ROUTINE.search(text)][-_SHOWN:]


def in_attempt(lines: list[Line], reported: float, others: Container[str]) -> list[str]:
    """Return the lines of an attempt of which its worker has reported at this time (seconds, CLOCK_BOOTTIME).

    Without those about ``others``, devices that are there. Those of another attempt in the same seconds are among them.
    """
    end = _monotonic(reported)
    found = [line.text for line in lines if end - ATTEMPT_SECONDS <= line.time <= end + 1]
    return [text for text in found if not any(device in others for device in _DEVICE.findall(text))][-_SHOWN:]


def _monotonic(boottime: float) -> float:
    """Return a time of CLOCK_BOOTTIME on the clock of the log, which stands still while the host sleeps."""
    return boottime - (time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())


def socket_error(lines: list[str]) -> int:
    """Return the errno of the last attempt to connect a socket that the lines tell of, 0 for none."""
    numbers = [int(found[1]) for line in lines if (found := _SOCKET.search(line))]
    return numbers[-1] if numbers else 0
