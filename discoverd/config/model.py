# SPDX-License-Identifier: Apache-2.0
"""What the fabrics configuration says, resolved: connections, and what discovered controllers inherit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import Diagnostic

Role = Literal["discovery", "io"]
Persistent = Literal["", "no", "auto", "force"]


@dataclass(frozen=True, slots=True)
class Secrets:
    """Security parameters; '' is unset. ``repr()`` tells which are set and never a value."""

    kxchap_secret: str = ""
    kxchap_ctrl_secret: str = ""
    tls_key: str = ""
    tls_key_identity: str = ""
    keyring: str = ""
    tls: bool = False
    concat: bool = False

    def __repr__(self) -> str:
        names = (name for name in self.__slots__ if getattr(self, name))
        return f"Secrets({', '.join(f'{name}: set' for name in names)})"


@dataclass(frozen=True, slots=True)
class Connection:
    """One controller that the administrator asked for: one ``controller=`` line with everything it inherits.

    ``traddr`` may be a host name. '' is unset; ``hostnqn`` '' stands for the host's own NQN. ``params``
    holds tunables under their hyphenated names, integers decimal, booleans ``true`` or ``false``; one that
    was reset is absent. A connection with a ``problem`` cannot work: the text is the reason and the remedy.
    """

    role: Role
    transport: str
    traddr: str
    trsvcid: str
    subsysnqn: str
    host_traddr: str
    host_iface: str
    hostnqn: str
    hostid: str
    hostsymname: str
    params: Mapping[str, str]
    persistent: Persistent
    secrets: Secrets
    file: str
    line: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class NamedSettings:
    """What is said about one NQN: settings by their keys, '' for one that is reset, and where the last of it stands."""

    settings: Mapping[str, str] = field(repr=False)
    file: str
    line: int

    @property
    def place(self) -> str:
        """Where it stands: ``file:line``."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class DiscoveredScope:
    """What a discovered controller is connected with. Fields as in :class:`Connection`.

    ``named`` has what is said about single NQNs beyond that, by host NQN and NQN; see discoverd.config.named.
    """

    params: Mapping[str, str]
    secrets: Secrets
    persistent: Persistent
    hostnqn: str
    hostid: str
    hostsymname: str
    problem: str = ""
    named: Mapping[tuple[str, str], NamedSettings] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class FabricsConfig:
    """The whole fabrics configuration.

    ``valid`` is nvme-cli's verdict: one error in one file makes it false. ``connections`` nevertheless holds
    what the files without an error say, main file first, then drop-ins in order of their names. ``scopes``
    is for :meth:`discovered`. ``earlier`` says of each file that counts as it was before, because of a mistake in it,
    since which mistake (discoverd.config.last_good).
    """

    connections: tuple[Connection, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    valid: bool = True
    scopes: Mapping[tuple[str, Role], DiscoveredScope] = field(default_factory=dict, repr=False)
    earlier: Mapping[str, str] = field(default_factory=dict)

    def discovered(self, via: Connection | None, role: Role) -> DiscoveredScope:
        """Return what a controller of ``role`` gets that was found through ``via`` (None: unknown).

        The defaults and the ``[Host]`` section of the file that configured ``via``, not the settings of its
        own section; the identity is that of ``via``. Without ``via``, the same of the main file. What is said about
        single NQNs is in ``named``, and not applied. Raises ValueError when ``via`` is not a discovery controller.
        """
        main = self.scopes.get(("", role), _EMPTY)
        if via is None:
            return main
        if via.role != "discovery":
            raise ValueError(f"{via.file}:{via.line}: an I/O controller discovers nothing")
        base = self.scopes.get((via.file, role), main)
        return DiscoveredScope(
            base.params,
            base.secrets,
            base.persistent,
            via.hostnqn,
            via.hostid,
            via.hostsymname,
            base.problem,
            base.named,
        )


_EMPTY = DiscoveredScope({}, Secrets(), "", "", "", "")
