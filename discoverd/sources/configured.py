# SPDX-License-Identifier: Apache-2.0
"""What an administrator wrote: the connections of nvme-fabrics.conf as candidates."""

import ipaddress
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace

from discoverd.config.errors import ConfigError
from discoverd.config.identity import HostIdentity, identity_for
from discoverd.config.model import Connection, FabricsConfig
from discoverd.kernel.controllers import canonical_nqn
from discoverd.plan.candidate import CONFIGURATION, Candidate, Refusal, discovery_terms, fabrics_options, refuse_tls
from discoverd.sources.ways import ALL_WAYS, Ways
from discoverd.tid import TidError, TransportId, canonical_address, unset

# Which address a connection uses for a host name: the connection's key, the name, and 4 or 6 where the address must be
# of that family, else 0. None: none is known.
Address = Callable[[str, str, int], str | None]


@dataclass(frozen=True, slots=True)
class Configured:
    """Candidates, the connection behind each discovery controller's instance, and what cannot be served.

    ``whole`` tells that nothing is missing: the files are valid and every entry in them became a candidate. ``named``
    has, for each instance whose address came from a host name, the connection's key, the name, and the address.
    """

    candidates: tuple[Candidate, ...]
    discovery: Mapping[str, Connection]
    refusals: tuple[Refusal, ...]
    whole: bool
    named: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)


def host_names(config: FabricsConfig) -> set[str]:
    """Return the host names that the configuration gives for addresses, which somebody has to look up."""
    return {one.traddr for one in config.connections if not one.problem and _is_named(one)}


def configured(
    config: FabricsConfig,
    host: HostIdentity,
    address: Address,
    ways: Ways = ALL_WAYS,
    known: Container[str] = (),
) -> Configured:
    """Turn the configuration into candidates. ``address`` is asked for the address of each host name.

    What is not to be reached over ``ways`` is refused. ``known`` are the instances that have a unit.
    """
    candidates = []
    discovery: dict[str, Connection] = {}
    named: dict[str, tuple[str, str, str]] = {}
    refusals = []
    for connection in config.connections:
        where = f"{connection.file}:{connection.line}"
        what = f"{connection.transport} {connection.traddr}"
        try:
            if connection.problem:
                raise ConfigError(connection.problem)
            refuse_tls(connection)
            traddr = _address(connection, address, ways) if _is_named(connection) else connection.traddr
            earlier = config.earlier.get(connection.file)
            source = f"configured at {where}" + (f", {earlier}" if earlier else "")
            candidate = ways.candidate(_candidate(connection, host, traddr, source, ways), known)
        except (TidError, ConfigError) as error:
            target = (connection.transport, connection.traddr, connection.trsvcid, connection.subsysnqn)
            refusals.append(Refusal(what, where, str(error), target=target))
            continue
        candidates.append(candidate)
        instance = candidate.tid.instance
        if connection.role == "discovery":
            discovery.setdefault(instance, connection)
        if traddr != connection.traddr:
            named.setdefault(instance, (_key(connection), connection.traddr, traddr))
    whole = config.valid and not refusals
    return Configured(tuple(candidates), discovery, tuple(refusals), whole, named)


def _is_named(connection: Connection) -> bool:
    if connection.transport not in ("tcp", "rdma"):
        return False
    try:
        canonical_address(connection.transport, connection.traddr)
    except TidError:
        return True
    return False


def _key(connection: Connection) -> str:
    """Return what tells a connection from others by the same host name, wherever in the files it stands."""
    given = (
        connection.transport,
        connection.trsvcid,
        connection.subsysnqn,
        connection.host_iface,
        connection.host_traddr,
        connection.hostnqn,
    )
    return " ".join(text for text in given if text)


def _address(connection: Connection, address: Address, ways: Ways) -> str:
    """Return the address that a connection uses for its host name; ConfigError where there is none."""
    name = connection.traddr
    version = ways.version
    kind = f"IPv{version} address, which address-families in discoverd.conf asks for" if version else "address"
    if source := unset(connection.host_traddr):
        version = ipaddress.ip_address(canonical_address(connection.transport, source)).version
        kind = f"IPv{version} address, as host-traddr is one"
    found = address(_key(connection), name, version)
    if found is not None:
        return found
    raise ConfigError(
        f"the host name {name!r} has no {kind}; check the name, or the host's resolver; it is looked up again"
    )


def _candidate(connection: Connection, host: HostIdentity, traddr: str, source: str, ways: Ways) -> Candidate:
    hostnqn, hostid = identity_for(connection, host)
    tid = TransportId.make(
        connection.role,
        connection.transport,
        traddr,
        connection.trsvcid,
        canonical_nqn(connection.subsysnqn),
        host_traddr=connection.host_traddr,
        host_iface=connection.host_iface,
        hostnqn=hostnqn if hostnqn != host.hostnqn else "",
    )
    if why := ways.refusal(tid.transport, tid.traddr):
        raise ConfigError(f"{why}; change one of the two")
    spelled = replace(tid, subsysnqn=connection.subsysnqn)
    options = fabrics_options(spelled, connection.role, connection.params, connection.secrets, hostnqn, hostid)
    persistent, symname = discovery_terms(connection.role, connection)
    return Candidate(tid, connection.role, source, CONFIGURATION, options, persistent=persistent, symname=symname)
