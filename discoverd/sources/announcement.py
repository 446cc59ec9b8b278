# SPDX-License-Identifier: Apache-2.0
"""One announcement of a discovery controller, from the TXT record to a transport identity. Pure.

Rules: RFC 6763 §6 (TXT records), TP8009 (the keys ``p`` and ``nqn``). Whoever is on the link can announce anything.
"""

import ipaddress
from collections.abc import Iterable

from discoverd.bus.avahi import UDP, Announced
from discoverd.kernel.addresses import HostAddresses
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, TidError, TransportId, check_interface, check_peer_nqn

# What ``p`` may say. RoCE and iWARP are the same to the kernel.
_TRANSPORTS = {"tcp": "tcp", "roce": "rdma", "iwarp": "rdma", "rdma": "rdma"}

_NAME_MAX = 40


def attributes(txt: Iterable[bytes]) -> dict[str, bytes | None]:
    """Return the attributes of a TXT record, keys in lower case, None for one without a value.

    Of several with one key the first counts; what has no key, or one that is not printable ASCII, does not.
    """
    found: dict[str, bytes | None] = {}
    for string in txt:
        key, equals, value = string.partition(b"=")
        if key and all(0x20 <= byte < 0x7F for byte in key):
            found.setdefault(key.decode("ascii").lower(), value if equals else None)
    return found


def identify(announced: Announced, interface: str, unique_nqn: bool, addresses: HostAddresses) -> TransportId:
    """Return which controller is announced, as heard on ``interface`` by the host with these ``addresses``.

    Without ``unique_nqn`` it is asked for under the well-known NQN. Raises TidError with the rule that broke.
    """
    txt = attributes(announced.txt)
    protocol = _text(txt, "p")
    if not protocol:
        raise TidError("its TXT record has no p= that tells the transport")
    transport = _TRANSPORTS.get(protocol.lower(), "")
    if not transport:
        raise TidError(f"its transport p={protocol[:_NAME_MAX]!r} is not one of {', '.join(_TRANSPORTS)}")
    if transport == "tcp" and announced.service.type == UDP:
        raise TidError("it is announced as a service over UDP, and its TXT record says p=tcp")
    if not announced.port:
        raise TidError("its port is 0")
    nqn = check_peer_nqn(_text(txt, "nqn") or DISCOVERY_NQN)
    check_interface(interface)
    return TransportId.make(
        DISCOVERY,
        transport,
        _address(announced.address, interface, addresses),
        str(announced.port),
        nqn if unique_nqn else DISCOVERY_NQN,
        host_iface=interface if transport == "tcp" else "",
    )


def describe(name: str, interface: str) -> str:
    """Return where a wish comes from, completing "it is …", with a name from the network made harmless."""
    return f"announced by mDNS on {interface} as '{harmless(name)}'"


def harmless(text: str) -> str:
    """Return ``text`` cut, and without what a terminal could take for a command."""
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown if len(shown) <= _NAME_MAX else shown[: _NAME_MAX - 1] + "…"


def _text(txt: dict[str, bytes | None], key: str) -> str:
    try:
        return (txt.get(key) or b"").decode().strip()
    except UnicodeDecodeError:
        raise TidError(f"the {key}= of its TXT record is not valid UTF-8") from None


def _address(text: str, interface: str, addresses: HostAddresses) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise TidError(f"{text[:_NAME_MAX]!r} is not an IP address") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if fault := addresses.fault(str(address)):
        raise TidError(fault)
    # Without its interface a link-local address means nothing.
    if isinstance(address, ipaddress.IPv6Address) and address.is_link_local and address.scope_id is None:
        return f"{address}%{interface}"
    return str(address)
