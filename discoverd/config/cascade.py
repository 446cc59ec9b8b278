# SPDX-License-Identifier: Apache-2.0
"""Inheritance and personas: from files as written to connections as they are to be made.

The most specific wins: ``controller=`` line, its section, sections without such a line that have the same NQN,
``[Host]`` of the file, the file's defaults for the type of controller, those of the main file. The main file's
``[Host]`` holds for the main file only.
"""

from dataclasses import replace

from ..kernel.controllers import canonical_nqn
from ..tid import DISCOVERY_NQN, TidError
from . import keys
from .errors import quote
from .model import Connection, DiscoveredScope, NamedSettings, Role, Secrets
from .named import collect, key_of
from .paths import PathLine
from .sections import Endpoint, FabricsFile
from .usable import Problem, address_problem, identity, security_problem
from .values import persistent, secrets, tunables

_DEFAULTS: dict[Role, str] = {"discovery": keys.DISCOVERY_DEFAULTS, "io": keys.IO_DEFAULTS}
_UNTRUSTED = "the main file has errors, and the defaults in it may hold what this file relies on"

Settings = dict[str, str]


def check_personas(files: list[FabricsFile]) -> None:
    """Report where the host identities of sound files contradict each other; the later file is at fault."""
    nqns: dict[str, str] = {}
    ids: dict[str, tuple[str, str]] = {}
    for file in files:
        if not file.host_line or file.report.broken:
            continue
        hostnqn, hostid = canonical_nqn(file.identity.get("hostnqn", "")), file.identity.get("hostid", "")
        if file.drop_in and not hostnqn:
            hint = "add hostnqn, or remove the section to use the host's own identity"
            file.report.error(file.host_line, 1, "[Host] of a drop-in without a hostnqn", hint)
        elif hostnqn in nqns:
            line, column = file.identity_places["hostnqn"]
            hint = "one persona belongs in one file; move the sections there"
            file.report.error(line, column, f"hostnqn {quote(hostnqn)} is already that of {nqns[hostnqn]}", hint)
        elif hostnqn and hostid in ids and ids[hostid][0] != hostnqn:
            line, column = file.identity_places["hostid"]
            hint = "each host NQN needs a host ID of its own; uuidgen makes one"
            file.report.error(line, column, f"hostid {hostid} is already that of {ids[hostid][1]}", hint)
        if file.report.broken or not hostnqn:
            continue
        nqns[hostnqn] = file.path
        if hostid:
            ids[hostid] = (hostnqn, file.path)


def distrust_defaults(files: list[FabricsFile]) -> None:
    """Let a broken main file that has, or may have, defaults take the drop-ins that inherit them with it."""
    main = next((file for file in files if not file.drop_in), None)
    if not main or not main.report.broken:
        return
    if main.unread or any(name in main.settings for name in _DEFAULTS.values()):
        for file in files:
            if file.drop_in and not file.report.broken:
                file.report.error(0, 0, "the file is not used: " + _UNTRUSTED, f"mend {main.path}")


def resolve(files: list[FabricsFile]) -> tuple[list[Connection], dict[tuple[str, Role], DiscoveredScope]]:
    """Resolve the files without errors: connections in file order, and scopes by file, '' for the main one.

    A connection that cannot work gets a ``problem``, and the file a warning.
    """
    main = next((file for file in files if not file.drop_in), None)
    connections: list[Connection] = []
    seen: dict[object, Connection] = {}
    named = collect(files)
    by_nqn = {role: named.of_role(role) for role in _DEFAULTS}
    problem = f"the main file has errors (mend {main.path})" if main and main.report.broken else ""
    scopes: dict[tuple[str, Role], DiscoveredScope] = {
        ("", role): DiscoveredScope({}, Secrets(), "", "", "", "", problem, by_nqn[role]) for role in _DEFAULTS
    }
    for file in files:
        if file.report.broken:
            continue
        bases = {role: _base(main, file, role) for role in _DEFAULTS}
        for role, base in bases.items():
            scopes[file.path, role] = _scope(file, base, by_nqn[role])
            if file is main:
                scopes["", role] = scopes[file.path, role]
        for endpoint in file.endpoints:
            role = "discovery" if endpoint.section == keys.DISCOVERY else "io"
            key = key_of(file, endpoint)
            inherited = {**bases[role], **(named.general.get(key, {}) if key else {}), **endpoint.settings}
            if key and not endpoint.paths:
                _judge_section(file, endpoint, inherited)
            for path in endpoint.paths:
                connection = _connection(file, endpoint, path, {**inherited, **path.settings})
                connections.append(_judge(connection, file, endpoint, path, seen))
    return connections, scopes


def _base(main: FabricsFile | None, file: FabricsFile, role: Role) -> Settings:
    name = _DEFAULTS[role]
    inherited = main.settings.get(name, {}) if main and not main.report.broken else {}
    return {**inherited, **file.settings.get(name, {}), **file.settings.get(keys.HOST, {})}


def _scope(file: FabricsFile, base: Settings, named: dict[tuple[str, str], NamedSettings]) -> DiscoveredScope:
    security = secrets(base)
    return DiscoveredScope(
        tunables(base),
        security,
        persistent(base),
        file.identity.get("hostnqn", ""),
        file.identity.get("hostid", ""),
        file.identity.get("hostsymname", ""),
        str(security_problem(security) or ""),
        named,
    )


def _connection(file: FabricsFile, endpoint: Endpoint, path: PathLine, settings: Settings) -> Connection:
    return Connection(
        "discovery" if endpoint.section == keys.DISCOVERY else "io",
        path.transport,
        path.traddr,
        path.trsvcid,
        endpoint.nqn or DISCOVERY_NQN,
        path.host_traddr,
        path.host_iface,
        file.identity.get("hostnqn", ""),
        file.identity.get("hostid", ""),
        file.identity.get("hostsymname", ""),
        tunables(settings),
        persistent(settings),
        secrets(settings),
        file.path,
        path.line,
    )


def _judge(
    connection: Connection,
    file: FabricsFile,
    endpoint: Endpoint,
    path: PathLine,
    seen: dict[object, Connection],
) -> Connection:
    own = address_problem(connection) or security_problem(connection.secrets, connection.transport)
    problem = own or _duplicate(connection, seen)
    if not problem:
        return connection
    line, column = connection.line, path.columns.get(problem.key, path.column)
    if problem.key == "nqn":
        line, column = endpoint.nqn_place
    if problem.key not in keys.DHCHAP:  # That was said of the line with the secret.
        what = f"this connection cannot work: {problem.message}"
        # One that is there twice is not missing.
        file.report.warn(line, column, what, problem.hint, ignored=own is not None)
    return replace(connection, problem=str(problem))


def _judge_section(file: FabricsFile, endpoint: Endpoint, settings: Settings) -> None:
    """Warn of a section without a path whose settings make paths that are found unusable."""
    if problem := security_problem(secrets(settings)):
        message = f"paths that are found cannot be connected: {problem.message}"
        file.report.warn(endpoint.line, endpoint.column, message, problem.hint)


def _duplicate(connection: Connection, seen: dict[object, Connection]) -> Problem | None:
    try:
        earlier = seen.setdefault(identity(connection), connection)
    except TidError as error:
        return Problem(str(error), "")
    if earlier is connection:
        return None
    return Problem(f"the same path is already configured in {earlier.file}:{earlier.line}", "remove one of the two")
