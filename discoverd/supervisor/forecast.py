# SPDX-License-Identifier: Apache-2.0
"""What another configuration would have the supervisor decide, from what the one that runs has left in /run/discoverd.

Sources that hear of a controller once, such as mDNS, are asked for nothing: what they have asked for counts as still
asked for. Nothing is written, and nobody is told.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from discoverd import state, store
from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.config.settings import Settings
from discoverd.exclusions import Exclusions
from discoverd.kernel.addresses import HostAddresses
from discoverd.plan.candidate import BOOT, NBFT, Candidate
from discoverd.plan.facts import Decision, Facts, Policy, UnitFact
from discoverd.plan.log_page import LogPageError, PageRead
from discoverd.plan.planner import plan, trusted_subsystems
from discoverd.sources.walk import DEPTH
from discoverd.supervisor.inventory import Inventory

# Names of the new configuration are looked up; one whose server is silent is left without an address.
LOOKUP_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Basis:
    """A configuration as it was read."""

    fabrics: FabricsConfig
    settings: Settings
    host: HostIdentity
    exclusions: Exclusions


@dataclass(frozen=True, slots=True)
class Left:
    """What the supervisor and its workers have left. ``specs`` can hold secrets."""

    found: store.Found
    specs: Mapping[str, state.Spec] = field(repr=False)
    pages: Mapping[str, PageRead]
    addresses: HostAddresses


def read(addresses: HostAddresses) -> Left:
    """Read what was left. Blocks. Raises OSError where there is nothing, or it is not for this user."""
    found = store.find()
    specs, pages = {}, {}
    for instance in found.known:
        if spec := store.read_spec(instance):
            specs[instance] = spec
        with contextlib.suppress(LogPageError):
            if page := store.read_log(instance):
                pages[instance] = page
    return Left(found, specs, pages, addresses)


async def forecast(basis: Basis, left: Left, units: Mapping[str, UnitFact]) -> dict[str, Decision]:
    """Return what would be decided about each controller that is wanted, running or known, by instance."""
    found = left.found
    inventory = Inventory(found.known, lambda: None)
    inventory.exclusions.exclusions = basis.exclusions
    inventory.configure(basis.fabrics, basis.host, basis.settings)
    inventory.remember(found.wishes, found.addresses)
    _ask_as_before(inventory, left.specs)
    inventory.locate(left.addresses)
    for instance, page in left.pages.items():
        report = found.reports.get(instance)
        inventory.log_pages.news(instance, report.log_read if report else "")
        inventory.put_page(instance, page)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOKUP_TIMEOUT_SECONDS):
                await inventory.names.answered()
        for _ in range(DEPTH):
            if not await inventory.update():
                break
    finally:
        await inventory.names.close()
    wanted = inventory.wanted
    facts = Facts(
        wanted.asked,
        units,
        found.reports,
        found.known,
        inventory.authoritative,
        inventory.log_pages.inconclusive,
        inventory.excluded,
        Policy(basis.settings.disconnect_scope, basis.settings.disconnect_transports),
        inventory.unmanaged,
        wanted.targets,
        wanted.trusted_targets,
        inventory.log_pages.pending,
        inventory.log_pages.closed,
        inventory.held_back,
        inventory.confirming,
        trusted_subsystems(wanted.asked, found.known, wanted.trusted_subsystems),
    )
    everyone = dict.fromkeys([*wanted.asked, *found.known, *units])
    return {decision.instance: decision for decision in plan(facts, everyone)}


def _ask_as_before(inventory: Inventory, specs: Mapping[str, state.Spec]) -> None:
    """Have firmware and the boot ask for what they have asked for."""
    firmware, boot = [], []
    for spec in specs.values():
        wish = store.wish(spec) if spec.origin in (NBFT, BOOT) and not spec.withdrawn else None
        if wish and spec.origin == NBFT:
            firmware.append(wish)
        elif wish:
            boot.append(Candidate(wish.tid, wish.role, wish.source, BOOT, tuple(spec.options)))
    inventory.nbft.wishes = tuple(firmware)
    inventory.booted(tuple(boot))
