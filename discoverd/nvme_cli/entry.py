# SPDX-License-Identifier: Apache-2.0
"""What the files of nvme-cli 2 ask for: a controller, with everything that is said about it there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from discoverd.config.model import Role

# As reports name it.
TOOL = "nvme-cli"


@dataclass(frozen=True, slots=True)
class Host:
    """As whom a controller is connected; '' is unset, and no NQN stands for this host's own.

    ``secret`` is the one for all controllers of the host, which stands in ``file`` from ``line`` on, 0 for nowhere.
    """

    hostnqn: str = ""
    hostid: str = ""
    symname: str = ""
    secret: str = field(default="", repr=False)
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A controller that a file asks for, at ``file:line``. Keys are those of nvme-fabrics.conf, values canonical.

    ``address`` has the keys of ADDRESS_KEYS that are given, and ``nqn`` is '' for the well-known discovery NQN.
    ``tunables`` are for this path, ``shared`` also for what its log page lists. ``settings`` are those of its section
    alone, which can hold secrets.
    """

    file: str
    line: int
    role: Role
    address: Mapping[str, str]
    nqn: str
    host: Host
    tunables: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """Where it stands: ``file:line``."""
        return f"{self.file}:{self.line}"

    @property
    def what(self) -> str:
        """What it is, for a message."""
        address = self.address.get("traddr", "")
        address = f"[{address}]" if ":" in address and self.address.get("transport") in ("tcp", "rdma") else address
        service = self.address.get("trsvcid", "")
        where = f"{address}:{service}" if service and address else address
        what = f"subsystem {self.nqn}" if self.role == "io" else "discovery controller"
        return f"{what} at {self.address.get('transport', '')} {where}".rstrip()
