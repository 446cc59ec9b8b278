# SPDX-License-Identifier: Apache-2.0
"""All sources together: who asks for which controllers, in the light of the configuration and the exclusions."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from discoverd import state
from discoverd.config.errors import ConfigError
from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.config.named import said_of
from discoverd.config.settings import Settings
from discoverd.kernel.addresses import HostAddresses
from discoverd.plan.candidate import (
    AUTHORITIES,
    BOOT,
    CONFIGURATION,
    FIBRE_CHANNEL,
    MDNS,
    NBFT,
    UNMANAGED,
    Candidate,
    Refusal,
    Wish,
    granted,
    respecified,
)
from discoverd.plan.facts import Answer, HeldBack, Known, Report
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import PageRead
from discoverd.sources.configured import Configured, configured, host_names
from discoverd.sources.exclusion_files import ExclusionFiles
from discoverd.sources.fibre_channel import FibreChannel
from discoverd.sources.log_pages import LogPages
from discoverd.sources.mdns import Mdns
from discoverd.sources.names import Names
from discoverd.sources.nbft import Nbft
from discoverd.sources.transports import Transports
from discoverd.sources.unmanaged import Unmanaged
from discoverd.sources.walk import Context
from discoverd.sources.ways import ALL_WAYS, Ways
from discoverd.supervisor.held_back import held_back
from discoverd.supervisor.loop_turn import LoopTurn
from discoverd.supervisor.refusals import Refusals
from discoverd.tid import DISCOVERY

# A host name's next address is tried when so many attempts at the one before have failed.
ATTEMPTS = 2


class Inventory:
    """What is wanted. Must be made in a running event loop; ``changed`` is called when :meth:`update` has work.

    ``known`` has the controllers that there is state for, by instance.

    It has so many attributes because it is where all sources come together: the sources, what each was asked and has
    said last, so that an update costs as much as what has changed, and what follows for the planner: ``excluded`` has
    the place that excludes a controller, ``authoritative`` the present answers of origins, ``held_back`` what of log
    pages is not acted on yet, ``confirming`` the discovery controllers whose page has to be read every minute, and
    ``unmanaged`` what others connected and nobody asks for at that address, by the instance that its unit would have.
    """

    def __init__(self, known: Mapping[str, Known], changed: Callable[[], None]) -> None:
        self._known = known
        self._changed = changed
        self._stale = True
        self.config = FabricsConfig()
        self.host = HostIdentity("", "")
        self.settings = Settings()
        self.names = Names(self._news)
        self.mdns = Mdns(self._news, known)
        self.nbft = Nbft(self._news, known=known)
        self.fibre_channel = FibreChannel(self._news)
        self.exclusions = ExclusionFiles(changed)
        self.unmanaged_source = Unmanaged(self._news)
        self.transports = Transports(self._news)
        self.log_pages = LogPages()
        self.wanted = Wanted(known.__contains__)
        self._boot: tuple[Candidate, ...] = ()
        self._boot_basis: tuple[tuple[Candidate, ...], FabricsConfig, HostIdentity] | None = None
        self._configured = Configured((), {}, (), whole=False)
        self._addresses = HostAddresses()
        self._ways = ALL_WAYS
        self._context = Context(self.config, self.host, {}, {}, 0, 0, 0, self._addresses)
        self._exclusions = self.exclusions.exclusions
        # By origin: what the candidates were made from, and what could not be one.
        self._granted: dict[str, tuple[tuple[Wish, ...], FabricsConfig, HostIdentity, HostAddresses]] = {}
        self._ungranted: dict[str, tuple[Refusal, ...]] = {}
        self._refusals = Refusals()
        self.excluded: dict[str, str] = {}
        self.authoritative: Mapping[str, Answer] = {}
        self.held_back: dict[str, HeldBack] = {}
        self.confirming: frozenset[str] = frozenset()
        self.unmanaged: dict[str, Candidate] = {}

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What cannot be connected."""
        return self._refusals.current

    # News --------------------------------------------------------------------------------------------------

    def configure(
        self, config: FabricsConfig, host: HostIdentity, settings: Settings, *, unique_nqn: bool = True
    ) -> None:
        """Take a new configuration. ``unique_nqn`` as in discoverd.sources.mdns.Mdns."""
        self.config, self.host, self.settings = config, host, settings
        # The same object as long as nothing has changed: log pages are gone through again for another.
        self._ways = self._ways if self._ways == Ways.of(settings) else Ways.of(settings)
        self._refusals.say_again()
        self.names.want(host_names(config))
        self.mdns.unique_nqn = unique_nqn
        self.mdns.configure(settings)
        self.nbft.configure(settings, host.hostnqn)
        self.fibre_channel.configure(settings)
        self.unmanaged_source.configure(settings, host.hostnqn)
        self.transports.configure(settings)
        self._news()

    def remember(self, wishes: tuple[Wish, ...], addresses: frozenset[str]) -> None:
        """Take what an earlier supervisor knew from announcements and events, and where it was connected."""
        self.names.prefer(addresses)
        self.mdns.remember(tuple(wish for wish in wishes if wish.origin == MDNS))
        self.fibre_channel.remember(tuple(wish for wish in wishes if wish.origin == FIBRE_CHANNEL))

    def locate(self, addresses: HostAddresses) -> None:
        """Take the addresses of this host, to which nobody on the network may have it connect."""
        self._addresses = addresses
        self.mdns.locate(addresses)
        self._news()

    def booted(self, candidates: tuple[Candidate, ...]) -> None:
        """Take what was connected before the system was booted."""
        self._boot = candidates
        self._news()

    def put_page(self, instance: str, read: PageRead) -> None:
        """Take a discovery controller's new log page."""
        self.log_pages.put(instance, read)
        self._news()

    def confirm(self, instance: str, units: Collection[str]) -> None:
        """Take an administrator's word that a discovery controller's log page rightly lists these no longer."""
        self.log_pages.confirm(instance, units)
        self._news()

    def reported(self, instance: str, before: Report | None, report: Report) -> None:
        """Take the news of a worker, where a source learns from it."""
        named = self._configured.named.get(instance)
        if named and report.state == state.WAITING and report.attempt >= ATTEMPTS:
            self.names.refused(*named)
        if report.state == state.GIVEN_UP:
            self.mdns.forget(instance)
            # Folded, or with another host NQN, its unit has another name than the announcement alone would give it.
            for one in self.wanted.asked.get(instance, ()):
                if one.origin == MDNS:
                    self.mdns.forget(replace(one.tid, hostnqn="").instance)
        # One that is parked was let go of: to have it announced again would wake it.
        lost = before is not None and before.state == state.LIVE and report.state not in (state.LIVE, state.PARKED)
        if lost and instance.startswith("fc:") and instance in self.wanted.discovery:
            self.fibre_channel.lost()

    def left(self, instance: str) -> None:
        """Take the decision that no worker serves those who ask for a controller now, so that none will give them up.

        That nothing is done about it, or that what runs was asked for by somebody else.
        """
        for one in self.wanted.asked.get(instance, ()):
            if one.announcement and one.announcement.ended:
                self.mdns.forget(replace(one.tid, hostnqn="").instance)

    def _news(self) -> None:
        self._stale = True
        self._changed()

    # Update ------------------------------------------------------------------------------------------------

    async def update(self) -> dict[str, None]:
        """Bring everything up to date, and return the instances about which something is new, the first asked first.

        Costs as much as what has changed, and the number of discovery controllers. Others have their turns meanwhile:
        what a source has new after this has begun is for the next one. What is known here is of one moment before it
        begins, and after it has ended.
        """
        turn = LoopTurn()
        touched: dict[str, None] = {}
        again = self._stale
        if self.exclusions.exclusions is not self._exclusions:
            self._exclusions = self.exclusions.exclusions
            touched |= await self._exclude(
                self.wanted.asked.keys() | self.excluded.keys() | self.unmanaged.keys(), turn
            )
            again = True
        if self._stale:
            self._stale = False
            self._ask()
        await turn.end_if_long()
        touched |= await self._see(turn)
        if again:
            # Once more where this leads to one that is excluded, and that has left a page before it was.
            for _ in range(2):
                for _ in self.log_pages.follow(self.wanted, self._context, self.excluded, self._known):
                    await turn.end_if_long()
                seen = await self._see(turn)
                touched |= seen
                if not any(one in self.excluded and one in self.wanted.discovery for one in seen):
                    break
            self._conclude()
            touched |= await self._update_unmanaged(turn)
        return touched

    def _ask(self) -> None:
        """Put what all sources but the log pages ask for."""
        found = configured(self.config, self.host, self.names.address, self._ways, self._known)
        if found != self._configured:
            self._configured = found
            self.wanted.put(CONFIGURATION, found.candidates)
        context = Context(
            self.config,
            self.host,
            self._configured.discovery,
            self.nbft.identities,
            self.settings.give_up,
            self.settings.connect_attempts_on_ncc,
            self.settings.disconnect_share,
            self._addresses,
            self.transports.lacking,
            self._ways,
        )
        # Equal is not enough, and comparing whole configurations not cheap: log pages are gone through again for each.
        if any(getattr(context, name) is not getattr(self._context, name) for name in Context.__slots__):
            self._context = context
        self._put_boot()
        for origin, wishes in (
            (NBFT, self.nbft.wishes),
            (MDNS, self.mdns.wishes),
            (FIBRE_CHANNEL, self.fibre_channel.wishes),
        ):
            granted_before = self._granted.get(origin)
            basis = (wishes, self.config, self.host, self._addresses)
            if granted_before is None or any(
                one is not other for one, other in zip(granted_before, basis, strict=True)
            ):
                self._granted[origin] = basis
                self.wanted.put(origin, self._grant(origin, wishes))

    def _put_boot(self) -> None:
        """Put what was connected before the boot, with what is said about it by NQN. It stays, whatever that is."""
        basis, before = (self._boot, self.config, self.host), self._boot_basis
        if before is not None and all(one is other for one, other in zip(before, basis, strict=True)):
            return
        self._boot_basis = basis
        candidates = []
        refused = []
        for one in self._boot:
            scope = self.config.discovered(None, "discovery" if one.role == DISCOVERY else "io")
            as_connected = replace(scope, hostnqn=one.tid.hostnqn)
            said = said_of(as_connected, one.tid.subsysnqn, self.host.hostnqn)
            try:
                candidates.append(respecified(one, said) if said else one)
            except ConfigError as error:
                candidates.append(one)
                refused.append(
                    Refusal(
                        str(one.tid),
                        one.source,
                        f"connected as it was, without what is said about it: {error}",
                        target=one.tid.target,
                    )
                )
        self._ungranted[BOOT] = tuple(refused)
        self.wanted.put(BOOT, tuple(candidates))

    def _grant(self, origin: str, wishes: tuple[Wish, ...]) -> tuple[Candidate, ...]:
        candidates = []
        refused = []
        io, discovery = self.config.discovered(None, "io"), self.config.discovered(None, "discovery")
        for wish in wishes:
            # Also those that an earlier supervisor believed, when the address was another host's.
            fault = self._addresses.fault(wish.tid.traddr) if origin == MDNS else ""
            scope = discovery if wish.role == DISCOVERY else io
            try:
                if fault:
                    raise ConfigError(fault)
                candidates.append(granted(wish, scope, self.host, self.nbft.identities))
            except ConfigError as error:
                trusted = origin in AUTHORITIES
                refused.append(Refusal(str(wish.tid), wish.source, str(error), trusted=trusted, target=wish.tid.target))
        self._ungranted[origin] = tuple(refused)
        return tuple(candidates)

    async def _see(self, turn: LoopTurn) -> dict[str, None]:
        touched = self.wanted.changes()
        await self._exclude(touched, turn)
        return touched

    async def _exclude(self, instances: Iterable[str], turn: LoopTurn) -> dict[str, None]:
        """Look up which of these are excluded; return those for which that has changed."""
        changed: dict[str, None] = {}
        for instance in instances:
            await turn.end_if_long()
            asked = self.wanted.asked.get(instance)
            one = asked[0] if asked else self.unmanaged.get(instance)
            where = self._exclusions.match(dict(one.options)) if one else ""
            if where != self.excluded.get(instance, ""):
                changed[instance] = None
                if where:
                    self.excluded[instance] = where
                else:
                    del self.excluded[instance]
        return changed

    async def _update_unmanaged(self, turn: LoopTurn) -> dict[str, None]:
        """Work out which controllers are unmanaged; return the instances for which that has changed.

        Whoever asks for a controller is content with any connection to it, as whichever host, and so is what is left
        of a unit of ours, which may have been stopped.
        """
        before, self.unmanaged = self.unmanaged, {}
        if found := self.unmanaged_source.found:
            ours = {one.target for one in self._known.values() if one.origin != UNMANAGED}
            # What a page lists is not what no page lists, though we do not connect it.
            ours |= {one.target for some in self.log_pages.passed_over.values() for one in some}
            for one in found:
                if one.target not in self.wanted.targets and one.target not in ours:
                    self.unmanaged[one.tid.instance] = one
        changed = dict.fromkeys(one for one in before | self.unmanaged if before.get(one) != self.unmanaged.get(one))
        await self._exclude(changed, turn)
        return changed

    def evidence(self, reports: Mapping[str, Report]) -> tuple[str, str]:
        """Return the answer of all discovery controllers that what nobody asks for is not to be there, or why there is
        none: what any of them has not said, or not on this connection, may speak for it.
        """
        if self.unmanaged_source.found is None:
            return "", "nobody has looked yet, or disconnect-scope is not all"
        if CONFIGURATION not in self.authoritative or any(self._ungranted.values()) or self._exclusions.problems:
            return "", "not all of the configuration can be used"
        if self.nbft.refusals:
            # What is refused is asked for all the same, and need not say where it is.
            return "", "not all that firmware asks for can be connected"
        asked = sorted(self.wanted.discovery - self.excluded.keys())
        for one in asked:
            report = reports.get(one)
            if one not in self.authoritative:
                return "", self.log_pages.inconclusive.get(one, f"nothing is known from {one}")
            said = report.log_read if report is not None and report.state in (state.LIVE, state.PARKED) else ""
            if not self.log_pages.fresh(one, said):
                return "", f"the log page of {one} may be another one by now"
            if one not in self.log_pages.settled:
                return "", f"{one} has started anew, and what it lists has to stay the same for some minutes"
            if one not in self.log_pages.whole:
                return "", f"the log page of {one} does not say all about everything"
        if not asked:
            return "", "there is no discovery controller that could list it"
        more = f" and {len(asked) - 1} more" if asked[1:] else ""
        return f"{self.authoritative[asked[0]].text} of {asked[0]}{more}", ""

    def _conclude(self) -> None:
        self.authoritative = {
            **self.log_pages.authoritative,
            **({CONFIGURATION: Answer()} if self._configured.whole else {}),
        }
        self.held_back = held_back(self.log_pages, self.held_back)
        # What others connected may go by the word of pages that have never listed it.
        starting = self.log_pages.authoritative.keys() - self.log_pages.settled
        self.confirming = frozenset(self.held_back) | (starting if self.unmanaged_source.found else frozenset())
        refusals = (*self._configured.refusals, *self.mdns.refusals, *self.nbft.refusals, *self.fibre_channel.refusals)
        ungranted = (one for some in self._ungranted.values() for one in some)
        self._refusals.put((*refusals, *ungranted, *self.log_pages.refusals))
