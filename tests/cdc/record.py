# SPDX-License-Identifier: Apache-2.0
"""What hosts told the fabric, and what became of their connections."""

import time
from collections import deque

from .registration import Registration

MEMORY = 20_000


class Record:
    """Everything that happened, in order, and who is registered with which instance now."""

    def __init__(self) -> None:
        self.history: deque[dict[str, object]] = deque(maxlen=MEMORY)
        self.registered: dict[tuple[str, str], Registration] = {}

    def note(self, what: str, instance: str, **facts: object) -> None:
        self.history.append({"time": round(time.time(), 3), "what": what, "instance": instance} | facts)

    def register(self, instance: str, registration: Registration) -> None:
        self.registered[instance, registration.nqn] = registration

    def deregister(self, instance: str, nqn: str) -> bool:
        """Returns whether there was something to forget."""
        return self.registered.pop((instance, nqn), None) is not None

    def forget(self) -> None:
        self.history.clear()
        self.registered.clear()
