# SPDX-License-Identifier: Apache-2.0
"""How a reload is asked for, and answered: a signal to the daemon, and a file with what came of it.

systemd shows an administrator the exit status of what ExecReload= runs, so that has to wait for the daemon's answer.
"""

import os
import signal
import time
from collections.abc import Sequence

from discoverd import state
from discoverd.config.errors import Diagnostic
from discoverd.supervisor import lock

_KIND = "discoverd-reload 1"
# A daemon that gives answers has left one at its start by then.
FIRST_ANSWER_SECONDS = 10.0
# Less than the time-out that systemd has for it (DefaultTimeoutStartSec= in systemd-system.conf(5)).
TIMEOUT_SECONDS = 60.0
_POLL_INTERVAL_SECONDS = 0.02


class ReloadError(Exception):
    """The configuration was not taken; the text is a sentence that says why, and what to do."""


def path() -> str:
    """Return where the answer is."""
    return state.ROOT + "/reload"


def now() -> int:
    """Return the time by which answers are told from earlier ones (CLOCK_BOOTTIME, in nanoseconds)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def answer(began: int, mistakes: Sequence[Diagnostic]) -> None:
    """Tell that what the files said after ``began`` is in force, or for which mistakes nothing of it is.

    Blocks. Raises state.StateError.
    """
    fields = [("began", str(began)), *(("mistake", str(one)) for one in mistakes)]
    state.write(path(), state.encode(_KIND, fields))


def ask(timeout: float = TIMEOUT_SECONDS) -> None:
    """Have the daemon read its configuration, and wait until it has. Blocks. Raises ReloadError, and OSError."""
    asked = now()
    try:
        lock.check()
    except lock.HeldError as error:
        if not error.pid:
            raise ReloadError("discoverd runs out of sight, in another PID namespace; tell it there") from None
        os.kill(error.pid, signal.SIGHUP)
    else:
        raise ReloadError("discoverd does not run; to start it: systemctl start discoverd")
    start = time.monotonic()
    end = start + timeout
    while (mistakes := answered(asked)) is None:
        if not state.exists(path()) and time.monotonic() >= start + FIRST_ANSWER_SECONDS:
            what = "it is of an earlier version, or cannot write there"
            raise ReloadError(f"discoverd leaves no answer in {path()}: {what}; then: systemctl restart discoverd")
        if time.monotonic() >= end:
            raise ReloadError(f"discoverd has not answered for {timeout:.0f} s; see: systemctl status discoverd")
        time.sleep(_POLL_INTERVAL_SECONDS)
    if mistakes:
        raise ReloadError(f"not reloaded, and the configuration from before stays in force: {first(mistakes)}")


def first(mistakes: Sequence[str]) -> str:
    """Return the first mistake, and how many more there are."""
    return mistakes[0] + (f" (and {len(mistakes) - 1} more; see all: discoverd --check)" if mistakes[1:] else "")


def answered(asked: int) -> list[str] | None:
    """Return the mistakes in what was read after that time (:func:`now`), None if there is no answer yet."""
    try:
        fields = state.decode(_KIND, state.read(path()))
        began = state.number(dict(fields).get("began", "0"))
    except state.StateError:
        return None
    return [value for key, value in fields if key == "mistake"] if began >= asked else None
