# SPDX-License-Identifier: Apache-2.0
"""Transport identity: which controller is meant, in one canonical spelling, and the unit that stands for it.

Everything that names a controller, from configuration, a log page or the kernel, goes through this module
before it reaches a unit name, a file name, the fabrics device or a terminal. Rules: NVMe Base Specification
2.0 §4.5 (NQN), NVMe-oF transport binding (addresses), systemd.unit(5) (unit names).
"""

import functools
import hashlib
import ipaddress
import re
import uuid
from dataclasses import dataclass

from discoverd.kernel.controllers import UUID_NQN_PREFIX, canonical_nqn

TRANSPORTS = ("tcp", "rdma", "fc", "loop")
DISCOVERY = "discovery"
IO = "io"

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
NQN_MAX = 223

UNIT_PREFIX = "nvme-ctrl@"
UNIT_SUFFIX = ".service"
# systemd takes 255 bytes, but writes "log-extra-fields:<unit>" through a temporary name (".#" and 16 digits)
# into one directory, and loses the journal fields of a unit whose name leaves no room for both.
UNIT_NAME_MAX = 255 - len("log-extra-fields:") - len(".#") - 16
_INSTANCE_MAX = UNIT_NAME_MAX - len(UNIT_PREFIX) - len(UNIT_SUFFIX)

_DOMAIN_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_WWN = re.compile(r"nn-0x([0-9a-f]{1,16})[:,]pn-0x([0-9a-f]{1,16})")
_ALL_SAFE = re.compile(r"[A-Za-z0-9:\-_.@]*")
_UNIT_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.@")


class TidError(ValueError):
    """A part of a transport identity that breaks a rule; the text says which one."""


def check_nqn(nqn: str) -> str:
    """Return ``nqn`` if it obeys the full NQN grammar that names we make or an administrator writes must
    obey.

    Raises TidError with the rule that broke. A UUID keeps its case, because a target compares byte for byte; what
    counts as equal says canonical_nqn() (discoverd.kernel.controllers).
    """
    check_peer_nqn(nqn)
    if nqn == DISCOVERY_NQN:
        return nqn
    if nqn.startswith(UUID_NQN_PREFIX):
        text = nqn.removeprefix(UUID_NQN_PREFIX)
        if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
            raise TidError(f"NQN {nqn!r}: a UUID of the form 8-4-4-4-12 hexadecimal digits must follow 'uuid:'")
        return nqn
    date = re.match(r"nqn\.([0-9]{4})-([0-9]{2})\.", nqn)
    if not date:
        raise TidError(f"NQN {nqn!r}: 'nqn.' must be followed by a date of the form YYYY-MM and a dot")
    if not 1 <= int(date[2]) <= 12:
        raise TidError(f"NQN {nqn!r}: the month {date[2]} is not between 01 and 12")
    domain, colon, name = nqn[date.end() :].partition(":")
    if not colon or not name:
        raise TidError(f"NQN {nqn!r}: the reverse domain name must be followed by a colon and a name")
    if not all(_DOMAIN_LABEL.fullmatch(label) for label in domain.split(".")):
        raise TidError(f"NQN {nqn!r}: {domain!r} is not a reverse domain name")
    return nqn


def check_peer_nqn(nqn: str) -> str:
    """Return ``nqn`` if it is harmless, though perhaps not by the grammar: what a peer may call itself.

    Refused (TidError): not beginning with ``nqn.``, over 223 bytes, white space, control characters, and the
    comma, which separates options in what is written to the fabrics device.
    """
    if not nqn.startswith("nqn."):
        raise TidError(f"NQN {nqn[:40]!r}: it does not begin with 'nqn.'")
    try:
        size = len(nqn.encode())
    except UnicodeEncodeError:
        raise TidError(f"NQN {nqn[:40]!r}: it is not valid UTF-8") from None
    if size > NQN_MAX:
        raise TidError(f"NQN {nqn[:40]!r}…: {size} bytes, and {NQN_MAX} are allowed")
    if not nqn.isprintable() or "," in nqn or " " in nqn:
        char = next(one for one in nqn if one == "," or not one.isprintable() or one.isspace())
        raise TidError(f"NQN {nqn!r}: the character {char!r} is not allowed")
    return nqn


def check_hostid(text: str) -> str:
    """Return a host identifier as a lower-case UUID; TidError if it is none, or all zero."""
    try:
        value = uuid.UUID(text)
    except ValueError:
        raise TidError(f"host ID {text!r} is not a UUID") from None
    if not value.int:
        raise TidError("the host ID is all zero")
    return str(value)


def check_interface(name: str) -> str:
    """Return ``name`` if the kernel would take it for a network interface's name (dev_valid_name); else TidError."""
    if (
        not (0 < len(name) < 16 and name.isascii() and name.isprintable())
        or name in (".", "..")
        or re.search(r"[/:,%\s\x00-\x1f\x7f]", name)
    ):
        raise TidError(f"{name!r} is not the name of a network interface")
    return name


def unset(text: str) -> str:
    """Return ``text`` without surrounding white space, and '' for the kernel's and nvme-cli's word for nothing."""
    text = text.strip()
    return "" if text.lower() == "none" else text


# A log page has a thousand controllers behind a few addresses and ports.
@functools.lru_cache(maxsize=1024)
def canonical_address(transport: str, address: str) -> str:
    """Return the one spelling of a numeric transport address.

    IP: the compressed form, an IPv4-mapped IPv6 address as IPv4, the zone of a link-local address kept. FC:
    lower case, 16 digits, ``nn-0x…:pn-0x…``. Raises TidError for anything else, a host name among them.
    """
    if transport in ("tcp", "rdma"):
        try:
            parsed = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise TidError(f"{address!r} is not an IP address") from None
        if isinstance(parsed, ipaddress.IPv6Address):
            if parsed.ipv4_mapped:
                return str(parsed.ipv4_mapped)
            if parsed.scope_id is not None:
                check_interface(parsed.scope_id)
        return str(parsed)
    if transport == "fc":
        wwn = _WWN.fullmatch(address.lower())
        if not wwn:
            raise TidError(f"{address!r} is not a Fibre Channel address of the form nn-0x…:pn-0x…")
        return f"nn-0x{int(wwn[1], 16):016x}:pn-0x{int(wwn[2], 16):016x}"
    if transport == "loop":
        if not re.fullmatch(r"[A-Za-z0-9._-]*", address):
            raise TidError(f"{address!r} is not a loop address")
        return address
    raise TidError(f"transport {transport!r} is not one of {', '.join(TRANSPORTS)}")


def default_service(transport: str, role: str) -> str:
    """Return the default transport service identifier (port) of a controller of this role, '' where there is none."""
    if transport == "tcp":
        return "8009" if role == DISCOVERY else "4420"
    return "4420" if transport == "rdma" else ""


@functools.lru_cache(maxsize=1024)
def _service(transport: str, role: str, trsvcid: str) -> str:
    if not trsvcid:
        return default_service(transport, role)
    if transport not in ("tcp", "rdma"):
        raise TidError(f"{transport} has no transport service identifier, and {trsvcid!r} is given")
    if not re.fullmatch(r"[0-9]{1,6}", trsvcid) or not 0 < int(trsvcid) < 65536:
        raise TidError(f"{trsvcid!r} is not a port number")
    return str(int(trsvcid))


@dataclass(frozen=True, slots=True, order=True)
class TransportId:
    """The identity of one controller as this host would connect to it. Equal identity, equal value, equal
    unit name.

    Make one with :meth:`make`, which checks and canonicalises. '' is unset; ``hostnqn`` is '' for the host's
    own NQN, and otherwise canonical, not as it is sent to the target.
    """

    transport: str
    traddr: str
    trsvcid: str
    subsysnqn: str
    host_traddr: str = ""
    host_iface: str = ""
    hostnqn: str = ""

    @classmethod
    def make(
        cls,
        role: str,
        transport: str,
        traddr: str,
        trsvcid: str,
        subsysnqn: str,
        *,
        host_traddr: str = "",
        host_iface: str = "",
        hostnqn: str = "",
    ) -> "TransportId":
        """Check and canonicalise; ``role`` (DISCOVERY or IO) only decides the default port.

        Raises TidError.
        """
        transport = transport.strip().lower()
        traddr = canonical_address(transport, unset(traddr))
        host_traddr = unset(host_traddr)
        if host_traddr:
            host_traddr = canonical_address(transport, host_traddr)
            if transport in ("tcp", "rdma") and (":" in host_traddr) != (":" in traddr):
                raise TidError(f"host address {host_traddr} and address {traddr} are of different families")
        host_iface = unset(host_iface)
        if host_iface:
            if transport != "tcp":
                raise TidError(f"a host interface ({host_iface}) can be given for tcp only, and this is {transport}")
            check_interface(host_iface)
        if hostnqn:
            check_peer_nqn(hostnqn)
        return cls(
            transport,
            traddr,
            _service(transport, role, unset(trsvcid)),
            check_peer_nqn(subsysnqn),
            host_traddr,
            host_iface,
            canonical_nqn(hostnqn),
        )

    @property
    def instance(self) -> str:
        """The instance in the unit's name: readable, a valid part of a unit name, and different for each
        identity.

        ``<transport>:<traddr>[:<trsvcid>]:<subsysnqn>``, then, only where the host's side is given, an empty
        component and ``<host-iface>:<host-traddr>:<mark>``, cut behind the last that is set. The empty
        component keeps an NQN that happens to end in ``:eth0`` apart from one that is reached through eth0.
        The mark stands for a host NQN that is not the host's own. What a unit name cannot hold is written as
        ``\\xNN``.
        """
        return _instance(self)

    @property
    def target(self) -> tuple[str, str, str, str]:
        """The target's side alone: transport, address, service, subsystem NQN."""
        return self.transport, self.traddr, self.trsvcid, self.subsysnqn

    @property
    def any_source(self) -> bool:
        """Tell whether any connection to the target will do, from whichever of this host's addresses."""
        return not self.host_traddr and not self.host_iface

    @property
    def unit(self) -> str:
        """The name of the systemd unit that stands for this controller."""
        return unit_name(self.instance)

    def __str__(self) -> str:
        text = f"{self.transport} {self.traddr}" + (f" port {self.trsvcid}" if self.trsvcid else "")
        text += f" {self.subsysnqn}"
        if self.host_iface:
            text += f" through {self.host_iface}"
        if self.host_traddr:
            text += f" from {self.host_traddr}"
        return text + (f" as {self.hostnqn}" if self.hostnqn else "")


# Asked for over and over, for each controller of each round.
@functools.lru_cache(maxsize=16384)
def _instance(tid: TransportId) -> str:
    parts = [tid.transport, tid.traddr, tid.trsvcid] if tid.trsvcid else [tid.transport, tid.traddr]
    nqn = escape(tid.subsysnqn).replace("::", ":\\x3a")
    if nqn.endswith(":"):
        nqn = nqn[:-1] + "\\x3a"
    name = ":".join(escape(part) for part in parts) + ":" + nqn
    mark = "host-" + _digest(tid.hostnqn, 8) if tid.hostnqn else ""
    host = [escape(tid.host_iface), escape(tid.host_traddr), mark]
    while host and not host[-1]:
        host.pop()
    if host:
        name += "::" + ":".join(host)
    # No whole name is as long as a cut one, so no NQN can be made up to collide with a cut name.
    if len(name) > _INSTANCE_MAX - 4:
        cut = name[: _INSTANCE_MAX - 17]
        # Never end inside an escape sequence.
        cut = cut[: cut.rindex("\\")] if "\\" in cut[-3:] else cut
        name = f"{cut}-{_digest(name, 16)}"
    return name


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def escape(text: str) -> str:
    """Escape what a unit name cannot hold, byte for byte as ``\\xNN``, so that different texts stay different."""
    if _ALL_SAFE.fullmatch(text):
        return text
    return "".join(chr(byte) if byte in _UNIT_SAFE else f"\\x{byte:02x}" for byte in text.encode())


def unit_name(instance: str) -> str:
    """Return the name of the unit with this instance."""
    return UNIT_PREFIX + instance + UNIT_SUFFIX


def unit_instance(unit: str) -> str | None:
    """Return the instance in the name of a controller's unit, or None if the unit is not one of ours."""
    if unit.startswith(UNIT_PREFIX) and unit.endswith(UNIT_SUFFIX):
        return unit[len(UNIT_PREFIX) : -len(UNIT_SUFFIX)] or None
    return None
