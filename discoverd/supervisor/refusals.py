# SPDX-License-Identifier: Apache-2.0
"""What cannot be connected, and why: kept for the status, and logged once, within bounds."""

import logging
import time

from discoverd.plan.candidate import Refusal

log = logging.getLogger("discoverd")

# Refusals that are logged at once; a hostile log page has thousands.
SAID_AT_ONCE = 20
# And so many in ten minutes: a page that is another one each second must not drown the rest of the journal.
SAID_LIMIT = 200
SAID_SECONDS = 600
# Refusals that are kept, for status and discoverctl: hundreds of discovery controllers may have hostile log pages.
KEPT = 1024
_MORE = Refusal("more", "in the log pages", "so many entries cannot be connected that the rest is not shown")


class Refusals:
    """``current`` are the present ones."""

    def __init__(self) -> None:
        self.current: tuple[Refusal, ...] = ()
        self._said: set[Refusal] = set()
        # How many were logged since when.
        self._said_lately = 0
        self._saying_since = time.monotonic()

    def say_again(self) -> None:
        """Log all of them at the next :meth:`put`: whoever has changed the configuration wants to know."""
        self._said.clear()

    def put(self, found: tuple[Refusal, ...]) -> None:
        """Take the present ones, and log those that are new."""
        self.current = found[:KEPT] + (_MORE,) * (len(found) > KEPT)
        news = [refusal for refusal in self.current if refusal not in self._said]
        news.sort(key=lambda refusal: refusal.expected)
        self._said = set(self.current)
        now = time.monotonic()
        if now >= self._saying_since + SAID_SECONDS:
            self._saying_since, self._said_lately = now, 0
        said = news[: max(0, min(SAID_AT_ONCE, SAID_LIMIT - self._said_lately))]
        self._said_lately += len(said)
        for refusal in said:
            level = logging.INFO if refusal.expected else logging.WARNING
            log.log(level, "%s (%s): %s", refusal.what, refusal.source, refusal.reason)
        if len(said) < len(news) and said:
            log.warning("and %d more that cannot be connected", len(news) - len(said))
