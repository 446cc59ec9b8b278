# SPDX-License-Identifier: Apache-2.0
"""The controllers in the kernel, whose they are in the registry, and what they say of themselves.

The kernel tells of a controller that comes and goes, and not of a connection that is lost. What has no worker that
tells is looked at when somebody asks, every LOOK_SECONDS at most.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from discoverd import registry, state
from discoverd.api.properties import Identify
from discoverd.cli import overview
from discoverd.cli.overview import Controller, Device
from discoverd.kernel import controllers

LOOK_SECONDS = 2.0


class Devices:
    """``found`` and ``identified`` have the controllers by name, such as nvme3, as they were read last; both are
    replaced, and never changed. ``news`` is called when one may be another by now."""

    def __init__(self, news: Callable[[], None]) -> None:
        self._news = news
        self.found: Mapping[str, Device] = {}
        self.identified: Mapping[str, Identify] = {}
        # What is to be read anew, None for all.
        self._stale: set[str] | None = None
        # Those of which nobody tells, with the kernel's state of each.
        self._untold: Mapping[str, str] = {}
        self._looked = 0.0

    def changed(self, name: str = "") -> None:
        """Hear that a controller has come, gone, or changed its owner; '' for any of them."""
        if not name:
            self._stale = None
        elif self._stale is not None:
            self._stale.add(name)
        self._news()

    async def read(self) -> None:
        """Read what may be another by now."""
        stale, self._stale = self._stale, set()
        if stale is None or stale:
            self.found, self.identified = await asyncio.to_thread(_read, self.found, self.identified, stale)

    async def remember_untold(self, found: Iterable[Controller]) -> None:
        """Have :meth:`look` look at those of these controllers that have no worker that tells."""
        self._untold = await asyncio.to_thread(_untold, found)

    async def look(self) -> bool:
        """Look at those of which nobody tells, unless that was done a moment ago; tell whether one is to be read."""
        now = asyncio.get_running_loop().time()
        if not self._untold or now < self._looked + LOOK_SECONDS:
            return False
        self._looked = now
        changed = await asyncio.to_thread(_changed, self._untold)
        if self._stale is not None:
            self._stale |= changed
        return bool(changed)


def _read(
    known: Mapping[str, Device], identified: Mapping[str, Identify], stale: Iterable[str] | None
) -> tuple[dict[str, Device], dict[str, Identify]]:
    """Return the controllers in the kernel, and what they say of themselves: all read anew for None, else these."""
    if stale is None:
        found = {one.name: one for one in overview.devices()}
        return found, {name: _identify(name) for name in found}
    found, said = dict(known), dict(identified)
    for name in filter(registry.valid_device, stale):
        device = overview.read_device(name)
        if device is None:
            found.pop(name, None)
            said.pop(name, None)
        else:
            found[name], said[name] = device, _identify(name)
    return found, said


def _identify(name: str) -> Identify:
    return Identify(*(controllers.attribute(name, one) for one in ("model", "serial", "firmware_rev", "dctype")))


def _untold(found: Iterable[Controller]) -> dict[str, str]:
    """Return the kernel's state of each that has no worker that tells of it."""
    untold = {}
    for one in found:
        tells = one.unit is not None and one.unit.running and one.report and one.report.state != state.FOREIGN
        if one.device and not tells:
            untold[one.device.name] = one.device.kernel.state
    return untold


def _changed(known: Mapping[str, str]) -> set[str]:
    """Return the controllers whose state in the kernel is another one now."""
    return {name for name, before in known.items() if controllers.attribute(name, "state") != before}
