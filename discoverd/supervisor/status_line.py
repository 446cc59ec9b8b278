# SPDX-License-Identifier: Apache-2.0
"""What the supervisor says about itself in one line: how many controllers in which state, and what is wrong."""

import logging
from collections import Counter
from collections.abc import Iterable

from discoverd import state
from discoverd.supervisor.fields import about

log = logging.getLogger("discoverd")

# What a controller counts as for which its worker has reported nothing, one that is not ours to look after, and one
# beside whose unit file systemd does not make a unit.
STARTING, LEFT_ALONE, BLOCKED = "starting", "left alone", "blocked"

_ORDER = (
    state.LIVE,
    state.RECONNECTING,
    state.CONNECTING,
    state.WAITING,
    state.PARKED,
    STARTING,
    state.GIVEN_UP,
    state.STOPPED,
    state.EXCLUDED,
    BLOCKED,
    LEFT_ALONE,
)


class Tally:
    """The state of each controller, counted as it changes, and why units are not as they were decided to be."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        # By instance, '' for what concerns none by itself.
        self._failures: dict[str, str] = {}

    def state(self, instance: str) -> str:
        """Return what a controller counts as, '' for none."""
        return self._states.get(instance, "")

    def which(self, counted: str) -> list[str]:
        """Return the controllers that count as this."""
        return [instance for instance, now in self._states.items() if now == counted]

    def has(self, counted: str) -> bool:
        """Tell whether any controller counts as this."""
        return self._counts[counted] > 0

    def count(self, instance: str, now: str) -> None:
        """Take what a controller counts as, '' for none: then nothing is wrong with it either."""
        before = self._states.pop(instance, "")
        if before:
            self._counts[before] -= 1
        if now:
            self._states[instance] = now
            self._counts[now] += 1
        else:
            self._failures.pop(instance, None)

    def failed(self, instance: str, why: str) -> None:
        """Take why a unit could not be started, or its worker not be told, '' if it could; it is logged once."""
        if not why:
            self._failures.pop(instance, None)
        elif self._failures.get(instance) != why:
            self._failures[instance] = why
            log.error("%s", why, extra=about(instance))

    def line(self, connected: bool, problems: Iterable[str]) -> str:
        """Return the line. ``connected`` to systemd; ``problems`` are with what we were given."""
        total = self._counts.total()
        counts = ", ".join(f"{self._counts[name]} {name}" for name in _ORDER if self._counts[name])
        text = f"{total} controller{'' if total == 1 else 's'}" + (f": {counts}" if counts else "")
        if not connected:
            text += "; not connected to systemd, trying again"
        wrong = [*problems, *self._failures.values()]
        if wrong:
            text += f"; {wrong[0]}" + (f" (and {len(wrong) - 1} more, see the journal)" if wrong[1:] else "")
        return text
