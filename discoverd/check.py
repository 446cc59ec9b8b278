# SPDX-License-Identifier: Apache-2.0
"""``discoverd --check``: all that the daemon would find wrong with its configuration, for people and for scripts.

Files are read as the daemon reads them, with their neighbours, and understood by the same code. No name is looked up,
and nothing of this host is asked for but its files, the last good configuration and what the kernel has told discoverd
among them.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from discoverd import exclusions
from discoverd.config import record
from discoverd.config.errors import ConfigError, Diagnostic
from discoverd.config.fabrics import FABRICS_CONF, RUNTIME_DROP_INS, parse_fabrics
from discoverd.config.files import Files
from discoverd.config.identity import HostIdentity, identity_for, parse_host_identity
from discoverd.config.last_good import settle
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Role
from discoverd.config.named import applied, said_of
from discoverd.config.settings import SETTINGS_CONF, parse_settings
from discoverd.config.sources import SourceFile, read_drop_ins, read_file, read_tree
from discoverd.kernel import fabrics
from discoverd.plan.candidate import check_security, refuse_tls
from discoverd.sources.configured import configured
from discoverd.sources.ways import Ways
from discoverd.state import StateError

_NOT_READ = "the daemon does not read a file of this name"
# Stands for a host whose identity is not known, such as one whose configuration is checked elsewhere.
_SOME_ID = "00000000-0000-4000-8000-000000000000"
_SOME_HOST = HostIdentity(f"nqn.2014-08.org.nvmexpress:uuid:{_SOME_ID}", _SOME_ID)
# These stand for the addresses of host names.
_SOME_ADDRESS = {4: "192.0.2.1", 6: "2001:db8::1"}


Kind = Literal["settings", "exclusions", "identity", "fabrics"]


@dataclass(frozen=True, slots=True)
class Place:
    """A configuration: the directory with all its files, and the main file of the connections in it."""

    directory: Path
    fabrics: Path


def check(paths: Sequence[Path] = (), directory: Path = FABRICS_CONF.parent) -> tuple[str, int]:
    """Check the configurations that ``paths`` belong to, that in ``directory`` without any; return (text, exit code).

    A drop-in is checked among its neighbours, and so is a main file, whatever its name is. A file whose name starts
    with ``discoverd``, or that lies in ``discoverd.conf.d``, holds settings; one whose name starts with ``exclusions``,
    that lies in ``exclusions.conf.d`` or ``exclusions``, or that has a section of that name holds exclusions; any other
    holds connections. The text has a line for each fault and a closing one, without secrets. The exit code is 1 for an
    error, which a file that may not be read is; warnings do not count.
    """
    places: dict[Place, list[Path]] = {}
    missing = []
    for path in map(Path.absolute, paths):
        if path.exists() or path.is_symlink():
            places.setdefault(_place(path), []).append(path)
        else:
            missing.append(Diagnostic(str(path), 0, 0, "error", "the file does not exist"))
    whole = Place(directory, directory / FABRICS_CONF.name)
    checks = [_Check(place, given, place.directory == directory) for place, given in places.items()]
    if not paths:
        checks = [_Check(whole, [], complete=True)]
    diagnostics = [*missing, *(one for made in checks for one in made.diagnostics)]
    errors = sum(diagnostic.severity == "error" for diagnostic in diagnostics)
    summary = f"{_count(errors, 'error')}, {_count(len(diagnostics) - errors, 'warning')}"
    summary += f" in {_count(sum(made.files for made in checks), 'file')}"
    summary += f"; {_count(sum(made.connections for made in checks), 'connection')}"
    lines = [f"{diagnostic.severity}: {diagnostic}" for diagnostic in diagnostics]
    return "\n".join((*lines, summary)) + "\n", int(errors > 0)


def _kind(path: Path) -> Kind:
    folder = path.parent.name
    if path.name.startswith("discoverd") or folder == f"{SETTINGS_CONF.name}.d":
        return "settings"
    if path.name.startswith(exclusions.DRAFT) or folder in (exclusions.DROP_INS, exclusions.DRAFT):
        return "exclusions"
    if path.name in ("hostnqn", "hostid"):
        return "identity"
    source = read_file(path)
    headers = [(kind, text) for _, kind, text in exclusions.scan(source.data)] if source else []
    return "exclusions" if (exclusions.HEADER, exclusions.SECTION) in headers else "fabrics"


def _place(path: Path) -> Place:
    """Return the configuration that a file belongs to."""
    folder = path.parent
    drop_in = folder.name.endswith(".conf.d") or folder.name == exclusions.DRAFT
    directory = folder.parent if drop_in else folder
    if _kind(path) != "fabrics":
        return Place(directory, directory / FABRICS_CONF.name)
    return Place(directory, directory / folder.name.removesuffix(".d") if drop_in else path)


class _Check:
    """One configuration, checked. ``complete``: it is the host's own, which cannot do without an identity."""

    def __init__(self, place: Place, given: Sequence[Path], complete: bool) -> None:
        self.diagnostics: list[Diagnostic] = []
        self.files = 0
        kinds: dict[Kind, list[Path]] = {}
        for path in given:
            kinds.setdefault(_kind(path), []).append(path)
        settings = self._tree(place.directory / SETTINGS_CONF.name, kinds.get("settings", ()))
        understood, faults = parse_settings(settings)
        self.diagnostics += faults
        host = self._identity(place.directory, complete)
        self._exclusions(place.directory, kinds.get("exclusions", ()))
        connections = self._tree(place.fabrics, kinds.get("fabrics", ()))
        if complete:
            connections += self._readable(read_drop_ins(RUNTIME_DROP_INS))
        config = parse_fabrics(connections)
        self.connections = len(config.connections)
        self.diagnostics += config.diagnostics
        if complete:
            self._missing(Files(tuple(settings), tuple(connections)))
        known = _abilities() if complete else None
        self.diagnostics += (*_identity_faults(config, host), *_refused(config, host, known, Ways.of(understood)))
        self.diagnostics += _unlisted(config, host, str(place.fabrics))

    def _tree(self, main: Path, given: Iterable[Path]) -> list[SourceFile]:
        """Read a main file and its drop-ins, with those that were given and that the daemon would not read."""
        sources = {source.path: source for source in read_tree(main)}
        for path in given:
            if str(path) not in sources and (source := read_file(path, drop_in=path != main)):
                hint = f"its drop-ins are {main}.d/*.conf"
                self.diagnostics.append(Diagnostic(source.path, 0, 0, "warning", _NOT_READ, hint))
                sources[source.path] = source
        ordered = sorted(sources.values(), key=lambda source: (source.drop_in, os.fsencode(source.path)))
        return self._readable(ordered)

    def _readable(self, sources: Sequence[SourceFile]) -> list[SourceFile]:
        self.files += len(sources)
        return [source for source in sources if self._is_readable(source)]

    def _is_readable(self, source: SourceFile) -> bool:
        if source.denied:
            self._denied(source.path)
        return not source.denied

    def _denied(self, path: str) -> None:
        hint = "check it as root"
        self.diagnostics.append(Diagnostic(path, 0, 0, "error", "this user may not read it: it is not checked", hint))

    def _missing(self, files: Files) -> None:
        """Make an error of each warning that is about what was in the last good configuration, and is missing now."""
        try:
            before = record.read().files
        except StateError:
            return  # Discoverd has never run here, or this user may not read it.
        places = {(one.path, one.line, one.column): one for one in settle(files, before).mistakes}
        for number, one in enumerate(self.diagnostics):
            if one.severity == "warning" and one.ignored:
                self.diagnostics[number] = places.get((one.path, one.line, one.column), one)

    def _identity(self, directory: Path, complete: bool) -> HostIdentity:
        """Read who the host is. Where that cannot be known, some host stands for it."""
        nqn, hostid = (
            read_file(directory / name) or SourceFile(str(directory / name), fault="does not exist")
            for name in ("hostnqn", "hostid")
        )
        readable = [self._is_readable(source) for source in (nqn, hostid)]
        if not all(readable) or (not complete and nqn.fault and hostid.fault):
            return _SOME_HOST
        host = parse_host_identity(nqn, hostid)
        self.diagnostics += host.diagnostics
        return host

    def _exclusions(self, directory: Path, given: Iterable[Path]) -> None:
        names, problems = exclusions.paths(str(directory))
        for path in map(str, given):
            if path not in names:
                hint = f"lists are {directory}/{exclusions.MAIN} and {directory}/{exclusions.DROP_INS}/*.conf"
                self.diagnostics.append(Diagnostic(path, 0, 0, "warning", _NOT_READ, hint))
                names.append(path)
        lists = []
        for name in names:
            try:
                data = exclusions.read(name)
            except PermissionError:
                self._denied(name)
            except OSError as error:
                problems.append((name, 0, f"{error.strerror}, so nothing in it counts; mend that"))
            else:
                if data is not None:
                    lists.append((name, data))
        self.files += len(lists)
        problems += exclusions.parse(lists).problems
        self.diagnostics += (Diagnostic(file, line, min(line, 1), "error", text) for file, line, text in problems)


def _some_address(_key: str, _name: str, version: int) -> str:
    return _SOME_ADDRESS[version or 4]


def _abilities() -> set[str] | None:
    """Return the options that the kernel has told discoverd of, None where it has not, or this user may not know."""
    try:
        return fabrics.abilities()
    except OSError:
        return None


def _refused(config: FabricsConfig, host: HostIdentity, known: set[str] | None, ways: Ways) -> Iterator[Diagnostic]:
    """Yield a warning for each connection of which no unit can be made, or that has its unit already, or that has
    options that the kernel does not know."""
    seen: dict[str, Connection] = {}
    for connection in config.connections:
        if connection.problem or not _has_identity(connection, host):
            continue  # It is told already.
        made = configured(FabricsConfig((connection,)), host, _some_address, ways)
        for refusal in made.refusals:
            yield Diagnostic(connection.file, connection.line, 1, "warning", refusal.reason)
        for candidate in made.candidates:
            instance = candidate.tid.instance
            first = connection if instance in made.named else seen.setdefault(instance, connection)
            if first is not connection:
                message = f"the same path stands in {first.file}:{first.line}, which counts"
                yield Diagnostic(connection.file, connection.line, 1, "warning", message, "remove one of the two")
            for key, _ in candidate.options:
                if known is not None and key not in known:
                    left_out = "connected without" if fabrics.lacking([(key, "")], known) else "not connected"
                    message = f"this kernel does not know the option {key}: {left_out}"
                    yield Diagnostic(connection.file, connection.line, 1, "warning", message, "use a later kernel")


def _has_identity(connection: Connection, host: HostIdentity) -> bool:
    try:
        identity_for(connection, host)
    except ConfigError:
        return False
    return True


def _identity_faults(config: FabricsConfig, host: HostIdentity) -> Iterator[Diagnostic]:
    """Yield a warning for the first connection of each persona that has no usable identity."""
    seen = set()
    for connection in config.connections:
        if connection.hostnqn in seen or not (connection.hostnqn or host.hostnqn):
            continue
        seen.add(connection.hostnqn)
        try:
            identity_for(connection, host)
        except ConfigError as error:
            yield Diagnostic(connection.file, connection.line, 1, "warning", str(error))


def _unlisted(config: FabricsConfig, host: HostIdentity, main: str) -> Iterator[Diagnostic]:
    """Yield a warning where paths that are found could not be connected, because of what the files say about them."""
    finders: dict[str, Connection | None] = {main: None}
    for connection in config.connections:
        if connection.role == "discovery" and not connection.problem and not finders.get(connection.file):
            finders[connection.file] = connection
    told = set()
    roles: tuple[Role, ...] = ("io", "discovery")
    for file, finder in finders.items():
        line, what = (finder.line, "what it lists") if finder else (0, "what firmware names or is announced")
        where = Diagnostic(file, line, min(line, 1), "warning", what)
        for role in roles:
            # A file with errors has no scope.
            if (file, role) not in config.scopes:
                continue
            for diagnostic in _unusable(config.discovered(finder, role), host, where):
                if diagnostic not in told:
                    told.add(diagnostic)
                    yield diagnostic


def _unusable(scope: DiscoveredScope, host: HostIdentity, where: Diagnostic) -> Iterator[Diagnostic]:
    try:
        check_security(scope)
    except ConfigError as error:
        yield replace(where, message=f"{where.message} cannot be connected: {error}")
    for _, nqn in scope.named:
        said = said_of(scope, nqn, host.hostnqn)
        one = applied(said, scope) if said else scope
        if said is None or one.problem:
            continue  # Said for another persona, or told already.
        try:
            refuse_tls(one)
        except ConfigError as error:
            message = f"paths that are found cannot be connected: {error}"
            yield Diagnostic(said.file, said.line, 1, "warning", message)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
