# SPDX-License-Identifier: Apache-2.0
"""The log pages of all configured discovery controllers, and what they ask for together."""

from collections.abc import Mapping
from dataclasses import dataclass

from discoverd.candidate import Candidate, Refusal
from discoverd.config.errors import ConfigError
from discoverd.config.identity import HostIdentity, identity_for
from discoverd.config.model import FabricsConfig
from discoverd.planner import Known
from discoverd.sources import discovery_log
from discoverd.sources.configured import Configured, refuse_tls
from discoverd.sources.discovery_log import LogPage
from discoverd.tid import TransportId

# A log page is an order to run processes, and it comes from the network: so many for one discovery controller,
# over all the pages that it has ever sent.
LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Found:
    """What all pages ask for, what of it is refused, and the discovery controllers whose page was used whole."""

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    complete: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Listed:
    """What one page asks for, and what that was derived from."""

    page: LogPage
    config: FabricsConfig
    host: HostIdentity
    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    whole: bool


class LogPages:
    """Keeps the last good page of each discovery controller, by the instance of its unit."""

    def __init__(self) -> None:
        self._pages: dict[str, LogPage] = {}
        self._stamps: dict[str, str] = {}
        # A page of thousands is not gone through at each event.
        self._listed: dict[str, _Listed] = {}

    def news(self, instance: str, stamp: str) -> bool:
        """Tell whether there may be a page that was not read yet, given the stamp in its worker's report.

        A worker that has just started has read none, and has no stamp: the page that an earlier one left still counts.
        """
        if instance in self._stamps and stamp in ("", self._stamps[instance]):
            return False
        self._stamps[instance] = stamp
        return True

    def __contains__(self, instance: str) -> bool:
        return instance in self._pages

    def put(self, instance: str, page: LogPage) -> None:
        """Take a new page."""
        self._pages[instance] = page

    def candidates(
        self, configured: Configured, config: FabricsConfig, host: HostIdentity, known: Mapping[str, Known]
    ) -> Found:
        """Return what the pages of the configured discovery controllers ask for."""
        candidates: list[Candidate] = []
        refusals: list[Refusal] = []
        complete = set()
        parents = {one.tid.instance: one.tid for one in configured.candidates}
        for instance in configured.discovery:
            page = self._pages.get(instance)
            if page is None:
                continue
            listed = self._listed.get(instance)
            if listed is None or not (listed.page is page and listed.config is config and listed.host is host):
                listed = _list(instance, parents[instance], page, configured, config, host)
                self._listed[instance] = listed
            candidates += _within_limit(instance, listed.candidates, known, refusals)
            refusals += listed.refusals
            if listed.whole:
                complete.add(instance)
        return Found(tuple(candidates), tuple(refusals), frozenset(complete))


def _list(
    instance: str,
    parent: TransportId,
    page: LogPage,
    configured: Configured,
    config: FabricsConfig,
    host: HostIdentity,
) -> _Listed:
    scope = config.discovered(configured.discovery[instance], "io")
    try:
        if scope.problem:
            raise ConfigError(scope.problem)
        refuse_tls(scope)
        hostnqn, hostid = identity_for(scope, host)
    except ConfigError as error:
        refusal = Refusal("everything", f"in the log page of {instance}", str(error))
        return _Listed(page, config, host, (), (refusal,), whole=False)
    found, refused = discovery_log.candidates(page, parent, instance, scope, hostnqn, hostid)
    return _Listed(page, config, host, found, refused, whole=True)


def _within_limit(
    origin: str, found: tuple[Candidate, ...], known: Mapping[str, Known], refusals: list[Refusal]
) -> list[Candidate]:
    ours = {instance for instance, one in known.items() if one.origin == origin}
    room = max(0, LIMIT - len(ours))
    old = [one for one in found if one.tid.instance in ours]
    new = [one for one in found if one.tid.instance not in ours]
    if len(new) > room:
        why = f"one discovery controller can list {LIMIT} controllers, and the rest is not connected"
        refusals.append(Refusal(f"{len(new) - room} entries", f"in the log page of {origin}", why))
    return old + new[:room]
