# SPDX-License-Identifier: Apache-2.0
"""A controller that a source asks for, with everything that is needed to connect it.

Trust: what the configuration, firmware, the boot or the Fibre Channel fabric asks for is trusted, and so is what these
lead to by referrals and log pages. What only an announcement by mDNS leads to is announced: whoever is on a link can
have it tried. Local users are no source. docs/design/threats.md says what the difference makes.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from discoverd.config.errors import ConfigError
from discoverd.config.identity import HostIdentity, identity_for
from discoverd.config.model import Connection, DiscoveredScope, NamedSettings, Secrets
from discoverd.config.named import applied, said_of
from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.budgets import ANNOUNCED_ATTEMPTS, ANNOUNCED_GIVE_UP_SECONDS
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, TransportId

# Origins: who asks, for as long as it exists. A log page's is the instance of its discovery controller.
CONFIGURATION = "configuration"
NBFT = "nbft"
MDNS = "mdns"
FIBRE_CHANNEL = "fibre-channel"
BOOT = "boot"
# Nobody asks discoverd for it, and others have connected it (sources/unmanaged.py).
UNMANAGED = "others"
SOURCES = frozenset((CONFIGURATION, NBFT, MDNS, FIBRE_CHANNEL, BOOT, UNMANAGED))
# Those whose word nobody can forge who is merely on a link: a fabric's name server is its administrator's.
AUTHORITIES = frozenset((CONFIGURATION, NBFT, BOOT, FIBRE_CHANNEL))

# The keep-alive time-out of a discovery controller, unless the configuration names another (seconds).
DISCOVERY_KEEP_ALIVE = "30"

# Our name of a tunable, and the kernel's, in the order in which libnvme writes them.
_QUEUES = {
    "nr-io-queues": "nr_io_queues",
    "nr-write-queues": "nr_write_queues",
    "nr-poll-queues": "nr_poll_queues",
    "queue-size": "queue_size",
}
_TIMERS = {
    "keep-alive-tmo": "keep_alive_tmo",
    "reconnect-delay": "reconnect_delay",
    "ctrl-loss-tmo": "ctrl_loss_tmo",
    "fast-io-fail-tmo": "fast_io_fail_tmo",
    "tos": "tos",
}
_FLAGS = {
    "duplicate-connect": "duplicate_connect",
    "disable-sqflow": "disable_sqflow",
    "hdr-digest": "hdr_digest",
    "data-digest": "data_digest",
}


class Trust(enum.StrEnum):
    """Whom a controller is owed to; see above."""

    TRUSTED = "trusted"
    ANNOUNCED = "announced"


# Where a controller is, however the host gets there, and as which host.
Target = tuple[str, str, str, str]


def target_of(role: str, transport: str, traddr: str, trsvcid: str, nqn: str) -> Target:
    """Return the target; the kernel may have an address without its zone, and a discovery controller has two NQNs."""
    return transport, traddr.partition("%")[0], trsvcid, DISCOVERY_NQN if role == DISCOVERY else canonical_nqn(nqn)


def listed_by(role: str, origin: str) -> str:
    """Return the source of what a log page lists; ``origin`` is the instance of its discovery controller."""
    return f"{'a referral' if role == DISCOVERY else 'listed'} in the log page of {origin}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """Where a controller is announced by mDNS, or was: ``until`` is when that was last (local time), '' while it is."""

    interface: str
    until: str = ""

    @property
    def ended(self) -> bool:
        """Tell whether nobody announces it any more."""
        return bool(self.until)


@dataclass(frozen=True, slots=True)
class Wish:
    """A controller that something other than an administrator or a log page asks for, without what it takes to connect.

    ``source`` completes the sentence "it is …", ``origin`` is one of the origins above, ``params`` has tunables under
    their hyphenated names. ``give_up_after``: give up after so many seconds without a connection, 0 for never.
    ``asked`` is the time (seconds, CLOCK_BOOTTIME) of the last news that asked for it. With ``source_optional`` a
    ``host_traddr`` that this host does not have is left out: firmware had it from a DHCP server that gave another one
    since.
    """

    tid: TransportId
    role: str
    source: str
    origin: str
    params: tuple[tuple[str, str], ...] = ()
    give_up_after: int = 0
    asked: float = 0.0
    source_optional: bool = False
    announcement: Announcement | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A controller that a source asks for.

    Fields as in :class:`Wish`; ``origin`` may also be the instance of the discovery controller whose log page lists it.
    ``options`` are for the fabrics device, and can hold secrets, so they are not shown. ``trusted_parent``: it is
    listed by a discovery controller that is trusted (see :class:`discoverd.sources.discovery_log.Parent`).
    ``attempts``, ``persistent`` and ``symname`` as in state.Spec.
    """

    tid: TransportId
    role: str
    source: str
    origin: str
    options: tuple[tuple[str, str], ...] = field(repr=False)
    give_up_after: int = 0
    asked: float = 0.0
    source_optional: bool = False
    trusted_parent: bool = False
    attempts: int = 0
    persistent: str = "auto"
    symname: str = ""
    announcement: Announcement | None = None

    @property
    def configured(self) -> bool:
        """Tell whether an administrator wrote it."""
        return self.origin == CONFIGURATION

    @property
    def target(self) -> Target:
        """The target, whichever way leads there."""
        return target_of(self.role, *self.tid.target)

    @property
    def trusted(self) -> bool:
        """Tell whether the chain to it starts at somebody trusted, not at an announcement."""
        return self.trusted_parent or self.origin in AUTHORITIES

    @property
    def trust(self) -> Trust:
        """The class of trust."""
        return Trust.TRUSTED if self.trusted else Trust.ANNOUNCED


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that a source asked for and that cannot be connected: what it is, where it stands, and why not.

    ``expected``: nothing is wrong, and nothing is to be mended. ``trusted``: somebody trusted asked for it, or listed
    it. ``target`` is where it would be, as far as that can be told: it may be why it is refused.
    """

    what: str
    source: str
    reason: str
    expected: bool = False
    trusted: bool = True
    target: Target = ("", "", "", "")


def refuse_tls(wanted: Connection | DiscoveredScope) -> None:
    """Raise ConfigError where TLS is asked for: connecting in the clear instead would betray who asked."""
    if wanted.secrets.tls or wanted.secrets.concat or wanted.secrets.tls_key:
        raise ConfigError(
            "TLS is not supported yet, so it is not connected; remove tls, concat and tls-key to connect in the clear"
        )


def check_security(scope: DiscoveredScope) -> None:
    """Raise ConfigError where nothing can be connected as the scope says."""
    if scope.problem:
        raise ConfigError(scope.problem)
    refuse_tls(scope)


@dataclass(frozen=True, slots=True)
class Terms:
    """What controllers that the configuration does not name are connected with: as whom, and with which options.

    ``persona`` is the host NQN where it is not the host's own, else ''. Make one with :meth:`make`.
    """

    hostnqn: str
    hostid: str
    persona: str
    persistent: str
    symname: str
    tail: tuple[tuple[str, str], ...] = field(repr=False)

    @classmethod
    def make(
        cls, role: str, scope: DiscoveredScope, host: HostIdentity, params: tuple[tuple[str, str], ...] = ()
    ) -> "Terms":
        """Work out the terms for controllers of a role; ``params`` go before those of ``scope``. Raises ConfigError."""
        check_security(scope)
        hostnqn, hostid = identity_for(scope, host)
        tail = _tail(role, {**scope.params, **dict(params)}, scope.secrets)
        persona = canonical_nqn(hostnqn) if hostnqn != host.hostnqn else ""
        return cls(hostnqn, hostid, persona, *discovery_terms(role, scope), tail)

    def options(self, tid: TransportId, role: str) -> tuple[tuple[str, str], ...]:
        """Return the fabrics device's options for a controller."""
        return (*_head(tid, role, self.hostnqn, self.hostid), *self.tail)


def granted(wish: Wish, scope: DiscoveredScope, host: HostIdentity, identities: Mapping[str, str]) -> Candidate:
    """Return the candidate for a wish, connected with what the configuration has for discovered controllers.

    ``identities`` has the host IDs of host NQNs that wishes may have of their own. Raises ConfigError.
    """
    if wish.tid.hostnqn:
        scope = as_host(scope, wish.tid.hostnqn, identities)
    terms = terms_for(wish.tid.subsysnqn, wish.role, scope, host, wish.params, trusted=wish.origin in AUTHORITIES)
    tid = replace(wish.tid, hostnqn=terms.persona)
    options = terms.options(tid, wish.role)
    return Candidate(
        tid,
        wish.role,
        wish.source,
        wish.origin,
        options,
        wish.give_up_after,
        wish.asked,
        wish.source_optional,
        persistent=terms.persistent,
        symname=terms.symname,
        announcement=wish.announcement,
        attempts=0 if wish.origin in AUTHORITIES else ANNOUNCED_ATTEMPTS,
    )


def for_announced(scope: DiscoveredScope) -> DiscoveredScope:
    """Return the scope for what is only announced.

    It gets no key of this host, with which its answers could be tried; that TLS is asked for stays, so that nothing is
    connected in the clear for want of a key. And the kernel tries to reconnect for no longer than its worker would.
    """
    secrets = replace(scope.secrets, kxchap_secret="", kxchap_ctrl_secret="")
    loss = int(scope.params.get("ctrl-loss-tmo", "-1"))
    longest = ANNOUNCED_GIVE_UP_SECONDS if loss < 0 else min(loss, ANNOUNCED_GIVE_UP_SECONDS)
    return replace(scope, secrets=secrets, params={**scope.params, "ctrl-loss-tmo": str(longest)})


def terms_for(
    nqn: str,
    role: str,
    scope: DiscoveredScope,
    host: HostIdentity,
    params: tuple[tuple[str, str], ...] = (),
    *,
    trusted: bool,
) -> Terms:
    """Work out the terms for the controllers of one NQN, with what is said about it. Raises ConfigError."""
    said = said_of(scope, nqn, host.hostnqn)
    given = applied(said, scope) if said else scope
    try:
        return Terms.make(role, given if trusted else for_announced(given), host, params)
    except ConfigError as error:
        if said is None:
            raise
        raise ConfigError(f"{error}; see its section, {said.place}") from None


def respecified(candidate: Candidate, said: NamedSettings) -> Candidate:
    """Return a candidate that stands for a connection as it is, with what is said about its NQN for the next connect.

    Raises ConfigError.
    """
    now = dict(candidate.options)
    keys = Secrets(now.get("dhchap_secret", ""), now.get("dhchap_ctrl_secret", ""))
    scope = applied(said, DiscoveredScope({}, keys, "", "", "", ""))
    try:
        check_security(scope)
    except ConfigError as error:
        raise ConfigError(f"{error}; see its section, {said.place}") from None
    tail = _tail(candidate.role, scope.params, scope.secrets)
    replaced = {"dhchap_secret", "dhchap_ctrl_secret", *dict(tail)}
    kept = tuple((key, value) for key, value in candidate.options if key not in replaced)
    return replace(candidate, options=(*kept, *tail), persistent=scope.persistent or candidate.persistent)


def as_host(scope: DiscoveredScope, hostnqn: str, identities: Mapping[str, str]) -> DiscoveredScope:
    """Return the scope for connections as another host, spelled and with the host ID as ``identities`` has it."""
    for spelled, hostid in identities.items():
        if canonical_nqn(spelled) == hostnqn:
            return replace(scope, hostnqn=spelled, hostid=hostid)
    return replace(scope, hostnqn=hostnqn, hostid="")


def discovery_terms(role: str, wanted: Connection | DiscoveredScope) -> tuple[str, str]:
    """Return ``persistent`` and ``symname`` of a candidate; an I/O controller has no use for them."""
    return (wanted.persistent or "auto", wanted.hostsymname) if role == DISCOVERY else ("auto", "")


def fabrics_options(
    tid: TransportId, role: str, params: Mapping[str, str], secrets: Secrets, hostnqn: str, hostid: str
) -> tuple[tuple[str, str], ...]:
    """Return the options for a connect, in the order in which libnvme 3 writes them.

    A flag has the value ''.
    """
    return (*_head(tid, role, hostnqn, hostid), *_tail(role, params, secrets))


def _head(tid: TransportId, role: str, hostnqn: str, hostid: str) -> list[tuple[str, str]]:
    """Return what differs from one controller to the next."""
    options = [("nqn", tid.subsysnqn), ("transport", tid.transport)]
    if tid.traddr:
        options.append(("traddr", tid.traddr))
    if tid.host_traddr:
        options.append(("host_traddr", tid.host_traddr))
    if tid.host_iface:
        options.append(("host_iface", tid.host_iface))
    if tid.trsvcid:
        options.append(("trsvcid", tid.trsvcid))
    options += [("hostnqn", hostnqn), ("hostid", hostid)]
    if role == DISCOVERY and tid.subsysnqn != DISCOVERY_NQN:
        # The kernel takes only the well-known name for a discovery controller by itself.
        options.append(("discovery", ""))
    return options


def _tail(role: str, params: Mapping[str, str], secrets: Secrets) -> tuple[tuple[str, str], ...]:
    """Return what controllers that are configured alike have in common."""
    options = []
    if secrets.kxchap_secret:
        options.append(("dhchap_secret", secrets.kxchap_secret))
        if secrets.kxchap_ctrl_secret:
            options.append(("dhchap_ctrl_secret", secrets.kxchap_ctrl_secret))
    valued = dict(params)
    if role == DISCOVERY:
        valued = {name: value for name, value in valued.items() if name not in _QUEUES}
        valued.setdefault("keep-alive-tmo", DISCOVERY_KEEP_ALIVE)
    options += [(kernel, valued[ours]) for ours, kernel in {**_QUEUES, **_TIMERS}.items() if ours in valued]
    options += [(kernel, "") for ours, kernel in _FLAGS.items() if valued.get(ours) == "true"]
    return tuple(options)
