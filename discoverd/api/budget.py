# SPDX-License-Identifier: Apache-2.0
"""How much of large answers each user gets.

An answer that nobody reads is kept by the bus, for each connection up to its own limit (max_outgoing_bytes), and a user
can have hundreds of connections. So it is counted what his connections together are sent.
"""

from collections import OrderedDict

# What is smaller everybody gets.
LARGE_BYTES = 1 << 16
# So many bytes at once, and so many more in a second.
BYTES_MAX = 1 << 26
BYTES_PER_SECOND = 1 << 18
# He can end the bus anyway.
_ROOT = 0
_USERS_MAX = 1024


class Budget:
    """What each user has left, and the moment of the loop's clock at which that was so."""

    def __init__(self) -> None:
        self._left: OrderedDict[int, tuple[float, float]] = OrderedDict()

    def spend(self, user: int, size: int, now: float) -> bool:
        """Tell whether a user may have an answer of this size, and count it. The last one may be larger than what is
        left, so that there is none that nobody gets."""
        if user == _ROOT or size <= LARGE_BYTES:
            return True
        left, since = self._left.pop(user, (float(BYTES_MAX), now))
        left = min(left + (now - since) * BYTES_PER_SECOND, float(BYTES_MAX))
        allowed = left > 0
        self._left[user] = (left - size if allowed else left, now)
        if len(self._left) > _USERS_MAX:
            self._left.popitem(last=False)
        return allowed
