# SPDX-License-Identifier: Apache-2.0
"""What the format accepts and the kernel does not: connections that can never come up, and why.

nvme-cli 3 takes these silently and fails at connect time. Nothing here makes a file invalid.
"""

import re
from dataclasses import dataclass

from ..kernel import dhchap
from ..kernel.controllers import canonical_nqn
from ..tid import DISCOVERY_NQN, TRANSPORTS, TidError, TransportId, canonical_address, check_interface
from .errors import did_you_mean, printable, quote
from .ini import comment_hint
from .keys import DHCHAP
from .model import Connection, Secrets

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")

Identity = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a connection cannot work. ``key``: the key that is at fault, '' for none or several."""

    message: str
    hint: str
    key: str = ""

    def __str__(self) -> str:
        return printable(self.message + (f" ({self.hint})" if self.hint else ""))


def is_host_name(text: str) -> bool:
    """Tell whether ``text`` can be a host name (RFC 1123, and underscores), not a mistyped address."""
    labels = text.removesuffix(".").split(".")
    return len(text) <= 254 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()


def address_problem(connection: Connection) -> Problem | None:
    """Return what is wrong with where the connection goes to and comes from."""
    transport = connection.transport
    if transport not in TRANSPORTS:
        hint = did_you_mean(transport, TRANSPORTS) or f"write one of {', '.join(TRANSPORTS)}"
        return Problem(f"the transport {quote(transport)} is unknown", hint, "transport")
    if connection.role == "io" and connection.subsysnqn == DISCOVERY_NQN:
        hint = "use a [Discovery Controller] section"
        return Problem("the well-known discovery NQN stands in a [Subsystem]", hint, "nqn")
    return _traddr_problem(connection) or _service_problem(connection) or _host_side_problem(connection)


def _traddr_problem(connection: Connection) -> Problem | None:
    transport, traddr = connection.transport, connection.traddr
    try:
        canonical_address(transport, traddr)
    except TidError as error:
        if transport in ("tcp", "rdma"):
            if is_host_name(traddr):
                return None
            hint = comment_hint(traddr) or "write an IP address or a host name"
            return Problem(f"traddr {quote(traddr)} is neither an IP address nor a host name", hint, "traddr")
        return Problem(f"traddr: {error}", comment_hint(traddr), "traddr")
    return None


def _service_problem(connection: Connection) -> Problem | None:
    trsvcid = connection.trsvcid
    if not trsvcid:
        return None
    if connection.transport not in ("tcp", "rdma"):
        message = f"{connection.transport} has no trsvcid, and {quote(trsvcid)} is given"
        return Problem(message, "remove it", "trsvcid")
    if not re.fullmatch(r"[0-9]{1,6}", trsvcid) or not 0 < int(trsvcid) < 65536:
        hint = comment_hint(trsvcid) or "write a number from 1 to 65535"
        return Problem(f"trsvcid {quote(trsvcid)} is not a port number", hint, "trsvcid")
    return None


def _host_side_problem(connection: Connection) -> Problem | None:
    transport, host_traddr = connection.transport, connection.host_traddr
    if host_traddr:
        try:
            host = canonical_address(transport, host_traddr)
        except TidError as error:
            return Problem(
                f"host-traddr: {error}",
                comment_hint(host_traddr) or "host names cannot be used here",
                "host-traddr",
            )
        try:
            peer = canonical_address(transport, connection.traddr)
        except TidError:
            peer = host
        if transport in ("tcp", "rdma") and (":" in host) != (":" in peer):
            message = f"host-traddr {host} and traddr {peer} are of different address families"
            return Problem(message, "give both as IPv4 or both as IPv6", "host-traddr")
    elif transport == "fc":
        return Problem("a controller over fc needs host-traddr", "add host-traddr=nn-0x…:pn-0x…")
    if connection.host_iface:
        if transport != "tcp":
            message = f"host-iface works over tcp only, and this is {transport}"
            return Problem(message, "remove it", "host-iface")
        try:
            check_interface(connection.host_iface)
        except TidError as error:
            return Problem(f"host-iface: {error}", comment_hint(connection.host_iface), "host-iface")
    return None


def security_problem(secrets: Secrets, transport: str = "") -> Problem | None:
    """Return what is wrong with the security parameters; '' as transport leaves out what depends on it.

    A protection that was asked for and cannot be had makes a connection unusable rather than unprotected.
    """
    if secrets.tls and secrets.concat:
        return Problem("tls and concat exclude each other", "set one of the two to false")
    if secrets.concat and not secrets.kxchap_secret:
        return Problem("concat needs a kxchap-secret", "add one, or set concat to false")
    if secrets.kxchap_ctrl_secret and not secrets.kxchap_secret:
        return Problem("kxchap-ctrl-secret has no effect without kxchap-secret", "add kxchap-secret")
    if transport not in ("", "tcp") and (secrets.tls or secrets.concat):
        name = "tls" if secrets.tls else "concat"
        return Problem(f"{name} works over tcp only, and this is {transport}", f"set {name} to false here")
    for name in ("kxchap-secret", "kxchap-ctrl-secret", "tls-key", "tls-key-identity", "keyring"):
        if problem := secret_problem(name, getattr(secrets, name.replace("-", "_"))):
            return problem
    return None


def secret_problem(name: str, value: str) -> Problem | None:
    """Return what is wrong with the value of one security parameter in itself; the problem shows nothing of it."""
    # The identity of a TLS PSK consists of several words.
    space = " " in value and name != "tls-key-identity"
    if space or "," in value or not value.isprintable():
        hint = comment_hint(value) or "write the value alone, without quotation marks"
        return Problem(f"{name} holds a comma, white space or a control character", hint, name)
    if name in DHCHAP and value and (why := dhchap.problem(value)):
        return Problem(f"{name} is not usable: {why}", "copy it anew, or make another", name)
    return None


def identity(connection: Connection) -> TransportId | Identity:
    """Return what makes two connections the same; raises TidError for what is no identity."""
    host_side = {
        "host_traddr": connection.host_traddr,
        "host_iface": connection.host_iface,
        "hostnqn": connection.hostnqn,
    }
    nqn = canonical_nqn(connection.subsysnqn)
    traddr = connection.traddr
    # A host name has no canonical address yet; any stands in for it, and the name is compared beside it.
    name = traddr.lower().rstrip(".") if connection.transport in ("tcp", "rdma") and is_host_name(traddr) else ""
    if name:
        host = connection.host_traddr
        v6 = bool(host) and ":" in canonical_address(connection.transport, host)
        traddr = "::" if v6 else "0.0.0.0"  # noqa: S104 - nothing is bound to it
    tid = TransportId.make(connection.role, connection.transport, traddr, connection.trsvcid, nqn, **host_side)
    return (name, str(tid)) if name else tid
