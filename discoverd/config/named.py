# SPDX-License-Identifier: Apache-2.0
"""What sections say about an NQN, which holds for every path to it, however that was found.

A ``[Subsystem]`` section speaks of the subsystem with its ``nqn``, a ``[Discovery Controller]`` section of the
discovery controller that has such a name of its own. Both speak for the host that their file stands for: one persona
never gets what was said for another. nvme-cli takes a section for its ``controller=`` lines only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..kernel.controllers import canonical_nqn
from ..tid import DISCOVERY_NQN
from . import keys
from .model import DiscoveredScope, NamedSettings, Role
from .sections import Endpoint, FabricsFile
from .usable import security_problem
from .values import persistent, secrets, tunables

# The role, the host NQN of the file ('' where it names none), and the NQN, both canonical.
Key = tuple[Role, str, str]


@dataclass(slots=True)
class Named:
    """What the files say by NQN.

    ``found`` holds for paths that are found, all sections of an NQN together. ``general`` is what sections without a
    ``controller=`` line say, which holds for the configured paths of other sections, too.
    """

    found: dict[Key, NamedSettings] = field(default_factory=dict)
    general: dict[Key, dict[str, str]] = field(default_factory=dict, repr=False)

    def of_role(self, role: Role) -> dict[tuple[str, str], NamedSettings]:
        """Return :attr:`found` as a DiscoveredScope of this role has it."""
        return {(persona, nqn): said for (one, persona, nqn), said in self.found.items() if one == role}


def key_of(file: FabricsFile, endpoint: Endpoint) -> Key | None:
    """Return what a section speaks of, None if that has no name of its own."""
    role: Role = "discovery" if endpoint.section == keys.DISCOVERY else "io"
    nqn = canonical_nqn(endpoint.nqn)
    return None if nqn in ("", DISCOVERY_NQN) else (role, canonical_nqn(file.identity.get("hostnqn", "")), nqn)


def collect(files: list[FabricsFile]) -> Named:
    """Collect what the files without errors say by NQN.

    Of two sections that set one key the later one holds, as with the defaults. That they contradict each other, and
    that a section can have no effect, is a warning in the report of its file.
    """
    named = Named()
    places: dict[tuple[Key, str], str] = {}
    for file in files:
        if file.report.broken:
            continue
        with_paths = {key_of(file, one) for one in file.endpoints if one.paths}
        for endpoint in file.endpoints:
            key = key_of(file, endpoint)
            if not endpoint.paths:
                _warn_of_no_effect(file, endpoint, key, key in with_paths)
            if key is None or not endpoint.settings:
                continue
            _warn_of_contradiction(file, endpoint, key, named, places)
            before = named.found[key].settings if key in named.found else {}
            said = named.found[key] = NamedSettings({**before, **endpoint.settings}, file.path, endpoint.line)
            places |= dict.fromkeys(((key, name) for name in endpoint.settings), said.place)
            if not endpoint.paths:
                named.general[key] = {**named.general.get(key, {}), **endpoint.settings}
    return named


def _warn_of_no_effect(file: FabricsFile, endpoint: Endpoint, key: Key | None, has_paths: bool) -> None:
    """Warn of a section without a ``controller=`` line that can have no effect.

    ``has_paths``: another section of the file has some for the same name.
    """
    why, hint = "", "add a controller line"
    if key is None and endpoint.section == keys.DISCOVERY:
        why, hint = "names no discovery controller", f"{hint}, or an nqn that only this discovery controller has"
    elif key is None:
        why, hint = "has the NQN of discovery controllers", "use a [Discovery Controller] section"
    elif not endpoint.settings:
        why, hint = "says nothing about its nqn", f"{hint} to connect it, or settings for the paths that are found"
    elif file.drop_in and key[1] and not has_paths and not _discovers(file):
        # Unless that host NQN is firmware's, or written down though it is the host's own.
        why = "is for this file's host NQN, as which no file has anything discovered"
        hint = f"{hint}, or a [Discovery Controller] to this file, or move the section to the main file"
    if why:
        message = f"[{endpoint.section}] has no controller line and {why}: no effect"
        file.report.warn(endpoint.line, endpoint.column, message, hint)


def _discovers(file: FabricsFile) -> bool:
    return any(one.section == keys.DISCOVERY and one.paths for one in file.endpoints)


def _warn_of_contradiction(
    file: FabricsFile, endpoint: Endpoint, key: Key, named: Named, places: Mapping[tuple[Key, str], str]
) -> None:
    before = named.found[key].settings if key in named.found else {}
    other = [name for name, value in endpoint.settings.items() if before.get(name, value) != value]
    if not other:
        return
    where = ", ".join(sorted({places[key, name] for name in other}))
    message = f"{', '.join(other)} of this nqn is another in {where}; for paths that are found, this section holds"
    file.report.warn(endpoint.line, endpoint.column, message, "say it once, in one section")


def said_of(scope: DiscoveredScope, nqn: str, own: str) -> NamedSettings | None:
    """Return what is said about the NQN of a controller that is found, None for nothing.

    ``own`` is the host's own NQN, which a file may name or leave out.
    """
    if not scope.named:
        return None
    name = canonical_nqn(nqn)
    persona, own = canonical_nqn(scope.hostnqn), canonical_nqn(own)
    personas = ("", own) if persona in ("", own) else (persona,)
    found = [scope.named[one, name] for one in personas if (one, name) in scope.named]
    if len(found) < 2:
        return found[0] if found else None
    return replace(found[1], settings={**found[0].settings, **found[1].settings})


def applied(said: NamedSettings, scope: DiscoveredScope) -> DiscoveredScope:
    """Return the scope for controllers of which something is said; the identity stays."""
    security = secrets(said.settings, scope.secrets)
    problem = scope.problem
    if problem == str(security_problem(scope.secrets) or ""):
        # What is said may mend it, or be at fault itself.
        problem = str(security_problem(security) or "")
    return replace(
        scope,
        params=tunables(said.settings, scope.params),
        secrets=security,
        persistent=persistent(said.settings, scope.persistent),
        problem=problem,
    )
