# SPDX-License-Identifier: Apache-2.0
"""``discoverctl wait``: until controllers are live, each subsystem has a path, or they are gone."""

import sys
import time
from collections.abc import Callable, Sequence

from discoverd import state
from discoverd.cli import choose, text
from discoverd.cli import overview as overviews
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview

LIVE, ANY_PATH, GONE = "live", "any-path", "gone"
# Seconds between two looks: each reads some files for each controller, and none asks systemd.
_POLL_FIRST, _POLL_MOST = 0.1, 1.0
_SHOW_WAIT_SECONDS = 2.0
_WANTED = ("start", "keep")
_SHOWN = 10


def wait(words: Sequence[str], goal: str, timeout: float, look: Callable[[], Overview] | None = None) -> Exit:
    """Wait until the controllers that the words mean are as the ``goal`` says, ``timeout`` seconds at most, 0 for ever.

    Without words all that discoverd wants now. A word may mean one that comes meanwhile. Raises CliError: TIMED_OUT
    with what is missing, UNKNOWN where a word means nothing by then.
    """
    look = look or (lambda: overviews.look(None))
    began = time.monotonic()
    pause = _POLL_FIRST
    shown = False
    try:
        while True:
            overview = look()
            missing = _missing(words, goal, overview)
            waited = time.monotonic() - began
            if not missing:
                break
            if timeout and waited >= timeout:
                raise _late(words, goal, overview, missing, timeout)
            if waited > _SHOW_WAIT_SECONDS and sys.stderr.isatty():
                shown = True
                text.progress(f"{waited:.0f} s: {missing[0]}" + (f", {len(missing) - 1} more" * (len(missing) > 1)))
            time.sleep(min(pause, max(0.0, began + timeout - time.monotonic())) if timeout else pause)
            pause = min(_POLL_MOST, pause * 1.5)
    finally:
        if shown:
            text.progress("")
    return Exit.OK


def _missing(words: Sequence[str], goal: str, overview: Overview) -> list[str]:
    """Return what is not yet as it should be, in words."""
    if not words and overview.plan.fault:
        # What is wanted is not known before discoverd has decided.
        return [overview.plan.fault]
    found = [choose.matches(word, overview.controllers) for word in words]
    meant = [one for some in found for one in some] if words else [one for one in overview.controllers if _wanted(one)]
    if goal == GONE:
        return [_shown(one) for one in meant if one.device]
    missing = [f"{word}: nothing is known of it" for word, some in zip(words, found, strict=True) if not some]
    if goal == ANY_PATH:
        served = {one.subsysnqn for one in meant if _in_order(one)}
        return missing + [_shown(one) for one in meant if one.subsysnqn not in served]
    return missing + [_shown(one) for one in meant if not _in_order(one)]


def _wanted(controller: Controller) -> bool:
    """Tell whether discoverd wants it connected, and asks for it still."""
    planned = controller.planned
    return bool(planned and planned.action in _WANTED and not planned.excluded_by and not planned.withdrawn_by)


def _in_order(controller: Controller) -> bool:
    parked = controller.report is not None and controller.report.state == state.PARKED
    return controller.live or parked


def _shown(controller: Controller) -> str:
    report = controller.report
    if controller.device:
        return f"{controller.name}: {controller.device.kernel.state} {controller.device.name}"
    return f"{controller.name}: {report.status if report and report.status else 'not connected'}"


def _late(words: Sequence[str], goal: str, overview: Overview, missing: list[str], timeout: float) -> CliError:
    if goal != GONE:
        # A word that means nothing is said as everywhere, with the nearest.
        choose.choose([word for word in words if not choose.matches(word, overview.controllers)], overview)
    more = f"; and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    what = {LIVE: "not live", ANY_PATH: "without a path", GONE: "not gone"}[goal]
    sentence = f"{what} after {timeout:g} s: {'; '.join(missing[:_SHOWN])}{more}; see: discoverctl why CONTROLLER"
    return CliError(sentence, Exit.TIMED_OUT)
