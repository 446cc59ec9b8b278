# SPDX-License-Identifier: Apache-2.0
"""The ``controller`` lines of stafd.conf and stacd.conf as sections of nvme-fabrics.conf."""

import ipaddress
from dataclasses import dataclass, field

from discoverd.config.errors import did_you_mean, quote
from discoverd.config.fabrics import parse_fabrics
from discoverd.config.finding import Findings
from discoverd.config.ini import key_name
from discoverd.config.keys import DISCOVERY, SUBSYSTEM
from discoverd.config.model import Connection
from discoverd.config.sources import SourceFile
from discoverd.tid import TRANSPORTS

from .grammar import Option, fields
from .values import QUEUES, TUNABLES, BadValueError, tunable

_ADDRESS = ("transport", "traddr", "trsvcid", "host-traddr", "host-iface")
# Stands for the host's secret, where it only matters that there is one: a key of zeros.
_ANY_SECRET = "DHHC-1:00:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACtVQoZ:"  # noqa: S105 - it opens nothing
_SECRETS = {"dhchap-secret": "kxchap-secret", "dhchap-ctrl-secret": "kxchap-ctrl-secret"}
_KNOWN = (*_ADDRESS, "nqn", *_SECRETS, *TUNABLES)
_IP = ("tcp", "rdma")


@dataclass(frozen=True, slots=True)
class Scope:
    """What one daemon's file says about all of its controllers.

    ``families`` are the IP versions it connects to, ``everywhere`` if the other daemon's are the same. ``secret``: the
    host has a secret for all controllers.
    """

    section: str
    ignore_iface: bool
    families: frozenset[int]
    everywhere: bool
    secret: bool


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One section with one path. ``lines`` can hold a secret; ``connection`` is how our parser understands it."""

    path: str
    line: int
    lines: tuple[str, ...] = field(repr=False)
    connection: Connection


def translate(option: Option, scope: Scope, findings: Findings) -> Endpoint | None:
    """Turn a ``controller`` line into a section; None where it cannot be one, which is a finding then."""
    line = option.line
    parsed = fields(option.value)
    pairs = parsed.pairs
    if parsed.stray:
        findings.ignored(line, "controller", "a part of it is not key=value; separate the parts with ';'")
    if not pairs:
        findings.ignored(line, "controller", "it is empty; remove it")
        return None
    address = _address(pairs, scope, findings, line)
    if address is None:
        return None
    settings: list[str] = []
    io = scope.section == SUBSYSTEM
    if pairs.get("nqn"):
        settings.append(f"nqn = {pairs['nqn']}")
    elif io:
        findings.ignored(line, "controller", "a controller of stacd.conf needs nqn=; add it, or remove the line")
        return None
    settings += _secrets(pairs, parsed.unread, scope, findings, line)
    parts = [f"{key}={value}" for key, value in address.items()]
    for key, value in pairs.items():
        if key in TUNABLES:
            parts += _tunable(key, value, io, findings, line)
        elif key not in _KNOWN:
            _unknown(key, findings, line)
    lines = (f"[{scope.section}]", *settings, f"controller = {';'.join(parts)}")
    return _understood(lines, scope, findings, line)


def _address(pairs: dict[str, str], scope: Scope, findings: Findings, line: int) -> dict[str, str] | None:
    address = {key: pairs[key] for key in _ADDRESS if pairs.get(key)}
    missing = [key for key in ("transport", "traddr") if key not in address]
    if missing:
        findings.ignored(line, "controller", f"it has no {' and no '.join(missing)}; complete it, or remove it")
        return None
    transport = address["transport"].lower()
    if transport not in TRANSPORTS:
        hint = did_you_mean(transport, TRANSPORTS) or f"write one of {', '.join(TRANSPORTS)}"
        findings.ignored(line, "controller", f"the transport {quote(transport)} is unknown; {hint}")
        return None
    if address["transport"] != transport:
        findings.ignored(line, "transport", f"it takes only {transport}, in small letters; it is connected from now on")
        address["transport"] = transport
    if transport in ("fc", "loop"):
        if transport == "fc":
            text = "it drops configured controllers on Fibre Channel, though documented; it is connected from now on"
            findings.ignored(line, "controller", text)
        address.pop("trsvcid", None)
    elif "trsvcid" not in address:
        address["trsvcid"] = "8009" if transport == "tcp" else "4420"
        if transport == "tcp" and scope.section == SUBSYSTEM:
            text = "nvme-stas connects to port 8009 without one, and so do we here; add trsvcid=4420 if that is meant"
            findings.differs(line, "trsvcid", text)
    if transport in _IP and not _family_allowed(address["traddr"], scope, findings, line):
        return None
    if scope.ignore_iface:
        address.pop("host-iface", None)
    elif "host-iface" in address and transport != "tcp":
        findings.ignored(line, "host-iface", f"the kernel takes none over {transport}; it is left out")
        address.pop("host-iface")
    return address


def _family_allowed(traddr: str, scope: Scope, findings: Findings, line: int) -> bool:
    if len(scope.families) == 2:
        return True
    try:
        version = ipaddress.ip_address(traddr).version
    except ValueError:
        if not scope.everywhere:
            text = "ip-family of one file does not hold for host names here, any address may be used; give the address"
            findings.differs(line, "traddr", text)
        return True
    if version not in scope.families:
        text = f"ip-family in this file leaves out IPv{version}, so this is not connected; remove one of the two"
        findings.ignored(line, "traddr", text)
    return version in scope.families


def _secrets(pairs: dict[str, str], unread: tuple[str, ...], scope: Scope, findings: Findings, line: int) -> list[str]:
    given = {key: pairs[key] for key in _SECRETS if pairs.get(key)}
    for key in given:
        if key in unread:
            text = (
                "it drops a secret with a '=' in it, and connects without; it is used from now on, so see that the "
                "target has it too"
            )
            findings.ignored(line, key, text)
    if "dhchap-secret" in given and scope.secret:
        text = (
            "the host's key in sys.conf, or in hostkey, beats it in some releases of nvme-stas, against their "
            "documentation; here this one counts, so see that the target has it"
        )
        findings.differs(line, "dhchap-secret", text)
    if "dhchap-ctrl-secret" in given and "dhchap-secret" not in given and not scope.secret:
        text = "a controller's secret does nothing without the host's; add dhchap-secret, and import again"
        findings.lost(line, "dhchap-ctrl-secret", text)
        del given["dhchap-ctrl-secret"]
    return [f"{_SECRETS[key]} = {value}" for key, value in given.items()]


def _tunable(key: str, value: str, io: bool, findings: Findings, line: int) -> list[str]:
    if key in QUEUES and not io:
        findings.ignored(line, key, "a discovery controller has no such queues; remove it")
        return []
    try:
        return [f"{TUNABLES[key]}={tunable(key, value)}"]
    except BadValueError as error:
        findings.ignored(line, key, str(error))
        return []


def _unknown(key: str, findings: Findings, line: int) -> None:
    if key in ("host-nqn", "hostnqn"):
        text = "it connects as the host all the same; another host NQN needs a file of its own with a [Host] section"
        findings.ignored(line, key, text)
        return
    hint = did_you_mean(key, _KNOWN) or "remove it"
    findings.ignored(line, key_name(key), f"it is no key of a controller; {hint}")


def _understood(lines: tuple[str, ...], scope: Scope, findings: Findings, line: int) -> Endpoint | None:
    """Have our parser read the section."""
    host = ["[Host]", "hostnqn = nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000001"]
    host += [f"kxchap-secret = {_ANY_SECRET}" if scope.secret else "", *lines]
    text = "\n".join(host) + "\n"
    config = parse_fabrics([SourceFile("", text.encode("utf-8", "surrogateescape"))])
    if config.diagnostics or len(config.connections) != 1:
        faults = [one.message + (f" ({one.hint})" if one.hint else "") for one in config.diagnostics]
        why = "; ".join(dict.fromkeys(faults)) or "it cannot be written so that it is understood"
        findings.lost(line, "controller", f"{why}; mend it and import again")
        return None
    return Endpoint(findings.path, line, lines, config.connections[0])


def section_of(daemon: str) -> str:
    """Return the section that a daemon's controllers belong in."""
    return DISCOVERY if daemon == "stafd" else SUBSYSTEM
