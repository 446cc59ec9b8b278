# SPDX-License-Identifier: Apache-2.0
"""What of log pages is not acted on yet, in words."""

import time
from collections.abc import Mapping

from discoverd.plan.evidence import Wait
from discoverd.plan.facts import HeldBack
from discoverd.sources.log_pages import LogPages

# The most telling first.
_WHY = {
    Wait.SHARE: "they are more than disconnect-share",
    Wait.CONFIRMATION: "it has started anew, and has to say so again",
    Wait.DAMPING: "they come and go",
}


def held_back(pages: LogPages, before: Mapping[str, HeldBack]) -> dict[str, HeldBack]:
    """Return by discovery controller what its log page no longer lists and what stays until that is confirmed.

    ``before`` is what was returned the last time: the clock on the wall may be set meanwhile, and a time that stays the
    same is said in the same words.
    """
    found = {}
    for instance, units in pages.waiting.items():
        pending = [pages.pending[instance][unit] for unit in units]
        wait = min((one.wait for one in pending), key=list(_WHY).index)
        waiting = [one for one in pending if one.wait is wait]
        until = max(one.until for one in waiting)
        known = before.get(instance)
        clock = known.clock if known and known.until == until else _clock(until)
        text = f"{len(waiting)} of {pages.listed[instance]} controllers that its log page listed are missing"
        text += f" from it ({pages.authoritative[instance].text}), and stay until {clock} at least: {_WHY[wait]}"
        found[instance] = HeldBack(wait, text, until, clock)
    return found


def _clock(boottime: float) -> str:
    """Return the time of day, such as ``14:05``, that a time by CLOCK_BOOTTIME will be, to the next full minute."""
    ahead = boottime - time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.strftime("%H:%M", time.localtime(time.time() + ahead + 59))
