# SPDX-License-Identifier: Apache-2.0
"""When what is only announced may be tried: one at a time, ever later, and never before who is trusted."""

from discoverd.plan.budgets import (
    ANNOUNCED_CONNECTING,
    ANNOUNCED_FIRST_WAIT_SECONDS,
    ANNOUNCED_LONGEST_WAIT_SECONDS,
    ANNOUNCED_PAUSE_SECONDS,
)


class Turns:
    """The turns of controllers that only announcements lead to. Times are those of one clock, in seconds. No I/O.

    An attempt counts as failed until :meth:`connected` is called. Whoever is on a link can announce ever new ones, so a
    failure has the others wait as well, though not for long.
    """

    def __init__(self) -> None:
        self._connecting: set[str] = set()
        self._waits: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._failures = 0
        self._pause_until = 0.0

    def due(self, instance: str, now: float) -> float:
        """Return when a controller may be tried: now, or later if there were failures; never while another one is."""
        if len(self._connecting) >= ANNOUNCED_CONNECTING:
            return float("inf")
        return max(now, self._pause_until, self._not_before.get(instance, 0.0))

    def began(self, instance: str) -> None:
        """Take note that an attempt has begun."""
        self._connecting.add(instance)

    def ended(self, instance: str, now: float) -> None:
        """Take note that a first attempt has ended, or has lasted long enough."""
        self._connecting.discard(instance)
        wait = min(self._waits.get(instance, ANNOUNCED_FIRST_WAIT_SECONDS / 2) * 2, ANNOUNCED_LONGEST_WAIT_SECONDS)
        self._waits[instance] = wait
        self._not_before[instance] = now + wait
        self._failures = min(self._failures + 1, ANNOUNCED_PAUSE_SECONDS)
        self._pause_until = now + self._failures

    def connected(self, instance: str) -> None:
        """Take note that a controller is live: whatever comes, it begins anew."""
        if instance in self._waits:
            self._failures = 0
            self._pause_until = 0.0
            self.forget(instance)

    def forget(self, instance: str) -> None:
        """Keep nothing about a controller that nobody asks for."""
        self._waits.pop(instance, None)
        self._not_before.pop(instance, None)
