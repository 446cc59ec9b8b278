# SPDX-License-Identifier: Apache-2.0
"""What another configuration would have the supervisor decide, from what the one that runs has left in /run/discoverd.

Sources that hear of a controller once, such as mDNS, are asked for nothing: what they have asked for counts as still
asked for. Nothing is written, and nobody is told.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from discoverd import state, store
from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.config.settings import Settings
from discoverd.exclusions import Exclusions
from discoverd.kernel.addresses import HostAddresses
from discoverd.plan.candidate import BOOT, NBFT, SOURCES, Candidate
from discoverd.plan.facts import Action, Decision, Facts, Known, Policy, UnitFact
from discoverd.plan.log_page import LogPageError, PageRead
from discoverd.plan.planner import ELSEWHERE, plan, trusted_subsystems
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
    """Return what would be decided about each controller that is wanted, running, known or unmanaged, by instance."""
    found = left.found
    inventory = Inventory(found.known, lambda: None)
    inventory.exclusions.exclusions = basis.exclusions
    inventory.configure(basis.fabrics, basis.host, basis.settings)
    await inventory.unmanaged_source.look()
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
    policy = Policy(basis.settings.disconnect_scope, basis.settings.disconnect_transports)
    facts = Facts(
        wanted.asked,
        units,
        found.reports,
        found.known,
        inventory.authoritative,
        inventory.log_pages.inconclusive,
        inventory.excluded,
        policy,
        inventory.unmanaged,
        wanted.targets,
        wanted.trusted_targets,
        inventory.log_pages.pending,
        inventory.log_pages.closed,
        inventory.held_back,
        inventory.confirming,
        trusted_subsystems(wanted.asked, found.known, wanted.trusted_subsystems),
    )
    everyone = dict.fromkeys([*wanted.asked, *found.known, *units, *inventory.unmanaged])
    return {one.instance: _still_withdrawn(one, found.known.get(one.instance), policy) for one in plan(facts, everyone)}


def _still_withdrawn(decision: Decision, known: Known | None, policy: Policy) -> Decision:
    """Return the decision about what was withdrawn before and runs.

    The supervisor that runs has seen for itself that it is not listed any more, and leaves no proof of that.
    """
    withdrawn = known is not None and known.origin not in SOURCES and known.withdrawn not in ("", ELSEWHERE)
    if known is None or not withdrawn or decision.candidate or decision.action is not Action.KEEP:
        return decision
    disconnect = policy.disconnects(decision.instance)
    then = "it is disconnected unless it is in use" if disconnect else "what runs is left as it is"
    return replace(decision, reason=f"{known.withdrawn}; {then}", disconnect=disconnect)


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
