# SPDX-License-Identifier: Apache-2.0
"""``discoverctl wait``: until controllers are live, each subsystem has a path, or they are gone."""

import time
from collections.abc import Callable, Sequence

from discoverd import state
from discoverd.cli import choose, text
from discoverd.cli import overview as overviews
from discoverd.cli.command_line import GOALS
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview
from discoverd.tid import DISCOVERY

LIVE, ANY_PATH, GONE = GOALS
# Seconds between two looks: each reads some files for each controller, and none asks systemd.
_POLL_FIRST, _POLL_MOST = 0.1, 1.0
_SHOWN = 10


def wait(words: Sequence[str], goal: str, timeout: float, look: Callable[[], Overview] | None = None) -> Exit:
    """Wait until the controllers that the words mean are as the ``goal`` says, ``timeout`` seconds at most, 0 for ever.

    Without words all that discoverd wants now; discovery controllers count then once their log pages have been read,
    since what these list is wanted too. A word may mean one that comes meanwhile, but what is to be gone is what it
    meant at first. Raises CliError: TIMED_OUT with what is missing, UNKNOWN where a word means nothing by then.
    """
    look = look or (lambda: overviews.look(None))
    awaited = _Awaited(words, goal)
    began = time.monotonic()
    pause = _POLL_FIRST
    with text.waiting() as show:
        while True:
            overview = look()
            missing = awaited.missing(overview)
            if not missing:
                break
            if timeout and time.monotonic() - began >= timeout:
                raise _late(words, goal, overview, missing, timeout)
            show(missing[0] + (f", {len(missing) - 1} more" * (len(missing) > 1)))
            time.sleep(min(pause, max(0.0, began + timeout - time.monotonic())) if timeout else pause)
            pause = min(_POLL_MOST, pause * 1.5)
    return Exit.OK


class _Awaited:
    """What is waited for."""

    def __init__(self, words: Sequence[str], goal: str) -> None:
        self._words = words
        self._goal = goal
        # The instances that are to be gone, once they have been looked up.
        self._leaving: frozenset[str] | None = None

    def missing(self, overview: Overview) -> list[str]:
        """Return what is not yet as it should be, in words."""
        if not self._words and overview.plan.fault:
            # What is wanted is not known before discoverd has decided.
            return [overview.plan.fault]
        if self._goal == GONE:
            if self._leaving is None:
                self._leaving = frozenset(one.name for some in self._meant(overview) for one in some)
            return [_shown(one) for one in overview.controllers if one.device and one.name in self._leaving]
        found = self._meant(overview)
        missing = [
            f"{word}: nothing is known of it" for word, some in zip(self._words, found, strict=False) if not some
        ]
        meant = [one for some in found for one in some]
        in_order = _in_order if self._words else _has_said_all
        if self._goal == ANY_PATH:
            served = {_subsystem(one) for one in meant if in_order(one)}
            return missing + [_shown(one) for one in meant if _subsystem(one) not in served]
        return missing + [_shown(one) for one in meant if not in_order(one)]

    def _meant(self, overview: Overview) -> list[list[Controller]]:
        """Return the controllers that each word means, and without words all that are wanted."""
        if not self._words:
            return [[one for one in overview.controllers if one.wanted]]
        return [choose.matches(word, overview.controllers) for word in self._words]


def _subsystem(controller: Controller) -> str:
    """Return what a controller is a path to: discovery controllers, which share an NQN, lead to different places."""
    return controller.name if controller.role == DISCOVERY else controller.subsysnqn


def _in_order(controller: Controller) -> bool:
    """Tell what Controller.in_order tells where systemd was asked: here the worker's report has to do."""
    parked = controller.report is not None and controller.report.state == state.PARKED
    return controller.live or parked


def _has_said_all(controller: Controller) -> bool:
    """Tell whether it is in order, and of a discovery controller, whether its log page was read on this connection."""
    report, device = controller.report, controller.device
    if controller.role != DISCOVERY or not controller.live:
        return _in_order(controller)
    if report is None or device is None:
        return False
    if report.state == state.FOREIGN:
        # What has connected it reads its log page, and no worker will.
        return True
    if report.state != state.LIVE:
        return False
    return report.log_read != "" and report.sysfs_inode in (0, device.sysfs_inode)


def _shown(controller: Controller) -> str:
    report = controller.report
    if controller.live and report and report.state == state.LIVE and report.status:
        return f"{controller.name}: {report.status}"
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
