# SPDX-License-Identifier: Apache-2.0
"""A unit, as systemd lists it: a controller's, or a service."""

from dataclasses import dataclass

# discoverd itself.
DAEMON = "discoverd.service"


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as systemd lists it. ``status`` is what its main process said last; ``path`` its object on the bus."""

    name: str
    load: str
    active: str
    sub: str
    job: bool
    path: str
    status: str = ""

    @property
    def up(self) -> bool:
        """Tell whether it runs, or is being started; one that is being stopped is not up."""
        return self.active in ("active", "activating", "reloading")

    @property
    def running(self) -> bool:
        """Tell whether there is, or is about to be, a process."""
        return self.active in ("active", "activating", "reloading", "deactivating") or self.job
