# SPDX-License-Identifier: Apache-2.0
"""What an administrator wrote: the connections of nvme-fabrics.conf as candidates."""

from collections.abc import Mapping
from dataclasses import dataclass

from discoverd.candidate import CONFIGURATION, Candidate, Refusal, fabrics_options
from discoverd.config.errors import ConfigError
from discoverd.config.identity import HostIdentity, identity_for
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig
from discoverd.tid import TidError, TransportId, canonical_address


@dataclass(frozen=True, slots=True)
class Configured:
    """Candidates, the connection behind each discovery controller's instance, and what cannot be served.

    ``whole`` tells that nothing is missing: the files are valid and every entry in them became a candidate.
    """

    candidates: tuple[Candidate, ...]
    discovery: Mapping[str, Connection]
    refusals: tuple[Refusal, ...]
    whole: bool


def host_names(config: FabricsConfig) -> set[str]:
    """Return the host names that the configuration gives for addresses, which somebody has to look up."""
    names = set()
    for connection in config.connections:
        if connection.transport in ("tcp", "rdma") and not connection.problem:
            try:
                canonical_address(connection.transport, connection.traddr)
            except TidError:
                names.add(connection.traddr)
    return names


def configured(config: FabricsConfig, host: HostIdentity, addresses: Mapping[str, str]) -> Configured:
    """Turn the configuration into candidates.

    ``addresses`` has the address of each host name that is known.
    """
    candidates = []
    discovery: dict[str, Connection] = {}
    refusals = []
    for connection in config.connections:
        where = f"{connection.file}:{connection.line}"
        what = f"{connection.transport} {connection.traddr}"
        try:
            candidate = _candidate(connection, host, addresses)
        except (TidError, ConfigError) as error:
            refusals.append(Refusal(what, where, str(error)))
            continue
        candidates.append(candidate)
        if connection.role == "discovery":
            discovery.setdefault(candidate.tid.instance, connection)
    whole = config.valid and not refusals
    return Configured(tuple(candidates), discovery, tuple(refusals), whole)


def refuse_tls(wanted: Connection | DiscoveredScope) -> None:
    """Raise ConfigError where TLS is asked for: connecting in the clear instead would betray who asked."""
    if wanted.secrets.tls or wanted.secrets.concat or wanted.secrets.tls_key:
        raise ConfigError(
            "TLS is not supported yet, so it is not connected; remove tls, concat and tls-key to connect in the clear"
        )


def _candidate(connection: Connection, host: HostIdentity, addresses: Mapping[str, str]) -> Candidate:
    if connection.problem:
        raise ConfigError(connection.problem)
    refuse_tls(connection)
    hostnqn, hostid = identity_for(connection, host)
    traddr = connection.traddr
    if connection.transport in ("tcp", "rdma"):
        try:
            canonical_address(connection.transport, traddr)
        except TidError:
            if traddr not in addresses:
                raise ConfigError(
                    f"the host name {traddr!r} has no address; check the name, or the host's resolver; "
                    "it is looked up again"
                ) from None
            traddr = addresses[traddr]
    tid = TransportId.make(
        connection.role,
        connection.transport,
        traddr,
        connection.trsvcid,
        connection.subsysnqn,
        host_traddr=connection.host_traddr,
        host_iface=connection.host_iface,
        hostnqn=hostnqn if hostnqn != host.hostnqn else "",
    )
    options = fabrics_options(tid, connection.role, connection.params, connection.secrets, hostnqn, hostid)
    return Candidate(tid, connection.role, f"configured at {connection.file}:{connection.line}", CONFIGURATION, options)
