# SPDX-License-Identifier: Apache-2.0
"""Which entries of nvme-cli's files the configuration of ours asks for as well."""

from collections.abc import Iterable

from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection
from discoverd.kernel.controllers import canonical_nqn
from discoverd.tid import DISCOVERY_NQN, TidError, canonical_address, default_service, unset

from .entry import Entry

_Key = tuple[str, ...]
# The host's side of a connection: its address and its interface, '' where that is left open.
_Side = tuple[str, str]


class Served:
    """What the configuration asks for. Where a connection can work at all makes no difference: that is told elsewhere.

    ``own`` is this host's identity, whose NQN a file may name or leave out.
    """

    def __init__(self, connections: Iterable[Connection], own: HostIdentity) -> None:
        self._own = canonical_nqn(own.hostnqn)
        self._places: dict[_Key, list[tuple[_Side, str]]] = {}
        for one in connections:
            self.add(one)

    def add(self, one: Connection) -> None:
        """Take one more connection."""
        key = self._key(one.role, one.transport, one.traddr, one.trsvcid, one.subsysnqn, one.hostnqn)
        side = _side(one.transport, one.host_traddr, one.host_iface)
        self._places.setdefault(key, []).append((side, f"{one.file}:{one.line}"))

    def by(self, entry: Entry, *, exactly: bool = False) -> str:
        """Return where it stands that the controller is to be connected (``file:line``), '' for nowhere.

        ``exactly``: from the same side of this host; else a side that either leaves open is the same.
        """
        address = entry.address
        transport = address.get("transport", "")
        traddr, trsvcid = address.get("traddr", ""), address.get("trsvcid", "")
        key = self._key(entry.role, transport, traddr, trsvcid, entry.nqn, entry.host.hostnqn)
        wanted = _side(transport, address.get("host-traddr", ""), address.get("host-iface", ""))
        for side, place in self._places.get(key, ()):
            if side == wanted or (not exactly and _compatible(side, wanted)):
                return place
        return ""

    def _key(self, role: str, transport: str, traddr: str, trsvcid: str, nqn: str, hostnqn: str) -> _Key:
        # The name that a discovery controller is asked for by makes no other of it.
        name = DISCOVERY_NQN if role == "discovery" else canonical_nqn(nqn)
        host = canonical_nqn(hostnqn)
        port = unset(trsvcid) or default_service(transport, role)
        return role, transport, _address(transport, traddr), port, name, "" if host == self._own else host


def _address(transport: str, traddr: str) -> str:
    try:
        return canonical_address(transport, unset(traddr))
    except TidError:
        return traddr.lower().rstrip(".")


def _side(transport: str, traddr: str, interface: str) -> _Side:
    return _address(transport, traddr) if unset(traddr) else "", unset(interface)


def _compatible(one: _Side, other: _Side) -> bool:
    return all(not mine or not theirs or mine == theirs for mine, theirs in zip(one, other, strict=True))
