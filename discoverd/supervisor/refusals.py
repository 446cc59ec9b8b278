# SPDX-License-Identifier: Apache-2.0
"""What cannot be connected, and why: kept for the status, and logged once, within bounds."""

import logging
import time

from discoverd.plan.candidate import Refusal

log = logging.getLogger("discoverd")

# Refusals that are logged at once; a hostile log page has thousands.
SAID_AT_ONCE = 20
# And so many in ten minutes: a page that is another one each second must not drown the rest of the journal. Of what
# only announcements lead to they are fewer, and by themselves: an announcer must not silence what is trusted.
SAID_LIMIT = 200
SAID_LIMIT_ANNOUNCED = 50
SAID_SECONDS = 600
# Refusals that are kept, for status and discoverctl: hundreds of discovery controllers may have hostile log pages.
KEPT = 1024
_MORE = Refusal("more", "in the log pages", "so many entries cannot be connected that the rest is not shown")


class Refusals:
    """``current`` are the present ones, those first that somebody trusted has asked for."""

    def __init__(self) -> None:
        self.current: tuple[Refusal, ...] = ()
        self._said: set[Refusal] = set()
        self._trusted, self._announced = _Lines(SAID_LIMIT), _Lines(SAID_LIMIT_ANNOUNCED)

    def say_again(self) -> None:
        """Log all of them at the next :meth:`put`: whoever has changed the configuration wants to know."""
        self._said.clear()

    def put(self, found: tuple[Refusal, ...]) -> None:
        """Take the present ones, and log those that are new."""
        ordered = sorted(found, key=lambda refusal: not refusal.trusted)
        self.current = (*ordered[:KEPT], *(_MORE,) * (len(ordered) > KEPT))
        news = [refusal for refusal in self.current if refusal not in self._said]
        news.sort(key=lambda refusal: refusal.expected)
        self._said = set(self.current)
        self._trusted.write([one for one in news if one.trusted])
        self._announced.write([one for one in news if not one.trusted])


class _Lines:
    """Writes lines into the journal, up to ``limit`` of them in SAID_SECONDS."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._since = time.monotonic()

    def write(self, news: list[Refusal]) -> None:
        now = time.monotonic()
        if now >= self._since + SAID_SECONDS:
            self._since, self._count = now, 0
        said = news[: max(0, min(SAID_AT_ONCE, self._limit - self._count))]
        self._count += len(said)
        for refusal in said:
            level = logging.INFO if refusal.expected else logging.WARNING
            log.log(level, "%s (%s): %s", refusal.what, refusal.source, refusal.reason)
        if len(said) < len(news) and said:
            log.warning("and %d more that cannot be connected", len(news) - len(said))
