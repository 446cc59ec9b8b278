# SPDX-License-Identifier: Apache-2.0
"""The configuration as it is in force: read as a whole, and swapped as a whole."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from discoverd import log_level, notify
from discoverd.config.errors import Diagnostic
from discoverd.config.fabrics import load_fabrics
from discoverd.config.identity import HostIdentity, load_host_identity
from discoverd.config.model import FabricsConfig
from discoverd.config.settings import SETTINGS_CONF, Settings, load_settings
from discoverd.plan.facts import Policy
from discoverd.supervisor.abilities import Abilities
from discoverd.systemd import journal

log = logging.getLogger("discoverd")

# So long the kernel may take to say what it knows before everything else goes on without that: a host where nothing is
# being connected answers at once.
ABILITIES_TIMEOUT_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was given to us at one moment.

    ``complaints`` are about the files as they are, also where those from before are in force. ``abilities`` are the
    options of connects that the kernel knows, None where it does not tell, or has not told yet.
    """

    fabrics: FabricsConfig = field(default_factory=FabricsConfig)
    settings: Settings = field(default_factory=Settings)
    host: HostIdentity = field(default_factory=lambda: HostIdentity("", ""))
    complaints: tuple[Diagnostic, ...] = ()
    abilities: frozenset[str] | None = None

    @property
    def policy(self) -> Policy:
        """What the settings say about disconnects."""
        return Policy(self.settings.disconnect_scope, self.settings.disconnect_transports)

    @property
    def unique_nqn(self) -> bool:
        """Tell whether the kernel takes any NQN for a discovery controller's."""
        return self.abilities is None or "discovery" in self.abilities


class Configuration:
    """``current`` is what is in force. ``blocking`` runs a function beside the loop, one at a time.

    ``changed`` is called when there is another ``current`` without :meth:`load`: the kernel has said what it knows.
    """

    def __init__(self, blocking: Callable[..., Awaitable[Any]], changed: Callable[[], None]) -> None:
        self._blocking = blocking
        self._changed = changed
        self.abilities = Abilities(blocking, self._kernel_answered)
        self._loading = False
        self.current = Snapshot()

    async def load(self) -> None:
        """Read everything anew, and log what is wrong with it; where that cannot be used, the one from before stays."""
        self._loading = True
        config: FabricsConfig = await self._blocking(load_fabrics)
        settings, complaints = await self._blocking(load_settings, SETTINGS_CONF, self.current.settings)
        host: HostIdentity = await self._blocking(load_host_identity)
        await self.abilities.look(ABILITIES_TIMEOUT_SECONDS)
        self._loading = False
        before = self.current
        complaints = (*config.diagnostics, *complaints, *host.diagnostics)
        if not config.valid and before.fabrics.valid and before.fabrics.connections:
            fields = {"fields": {"MESSAGE_ID": notify.CONFIGURATION_REFUSED}}
            log.error("the fabrics configuration has errors: keeping the one from before", extra=fields)
            config = before.fabrics
        if not host.hostnqn and before.host.hostnqn:
            host = before.host
        self.current = Snapshot(config, settings, host, complaints, self.abilities.known)
        await self.set_log_level()
        for complaint in complaints:
            log.log(logging.ERROR if complaint.severity == "error" else logging.WARNING, "%s", complaint)

    async def set_log_level(self) -> None:
        """Log at the level that an administrator has asked for until the next boot, or else at the configured one."""
        level = await self._blocking(log_level.read)
        journal.set_up(level or self.current.settings.log_level)
        await self._blocking(log_level.taken)

    def _kernel_answered(self) -> None:
        if not self._loading:
            self.current = replace(self.current, abilities=self.abilities.known)
            self._changed()
