# SPDX-License-Identifier: Apache-2.0
"""The ways over which this host connects anything: which IP versions, and whether bound to an interface."""

from collections.abc import Container
from dataclasses import dataclass, replace

from discoverd.config.settings import FAMILIES, Settings
from discoverd.plan.candidate import Candidate
from discoverd.tid import TransportId


@dataclass(frozen=True, slots=True)
class Ways:
    """``families`` are those of addresses that are connected to; with ``ignore_iface`` routing picks the interface."""

    families: tuple[str, ...] = FAMILIES
    ignore_iface: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "Ways":
        """Return what the settings say."""
        return cls(settings.address_families, settings.ignore_iface)

    @property
    def version(self) -> int:
        """The IP version of each address that is connected to, 0 if it may be either."""
        return 0 if len(self.families) == len(FAMILIES) else 6 if "ipv6" in self.families else 4

    def refusal(self, transport: str, traddr: str) -> str:
        """Return why nothing is connected at an address, '' if it may be. Host names and WWNs have no family."""
        if not self.version or transport not in ("tcp", "rdma") or version_of(traddr) == self.version:
            return ""
        return f"address-families in discoverd.conf leaves out IPv{version_of(traddr)}"

    def identity(self, asked: TransportId, known: Container[str]) -> TransportId:
        """Return as what a controller is connected that is asked for. ``known`` are the instances that have a unit, and
        these keep their names, with the interface in it.
        """
        ignored = self.ignore_iface and asked.host_iface and asked.instance not in known
        return replace(asked, host_iface="") if ignored else asked

    def candidate(self, asked: Candidate, known: Container[str]) -> Candidate:
        """Return a candidate as it is connected; see :meth:`identity`."""
        tid = self.identity(asked.tid, known)
        if tid == asked.tid:
            return asked
        return replace(asked, tid=tid, options=tuple(one for one in asked.options if one[0] != "host_iface"))


# Nothing is left out.
ALL_WAYS = Ways()


def version_of(traddr: str) -> int:
    """Return the IP version of a canonical address."""
    return 6 if ":" in traddr else 4
