# SPDX-License-Identifier: Apache-2.0
"""``discoverd --check``: validates configuration files, for people and for scripts."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .errors import ConfigError, Diagnostic
from .fabrics import FABRICS_CONF, parse_fabrics
from .identity import HostIdentity, identity_for, load_host_identity
from .model import FabricsConfig
from .settings import SETTINGS_CONF, parse_settings
from .sources import SourceFile, read_file, read_tree


def check(paths: Sequence[Path] = (), directory: Path = FABRICS_CONF.parent) -> tuple[str, int]:
    """Validate ``paths``, or everything in ``directory`` when there are none; return (text, exit code).

    A file whose name starts with ``discoverd``, or that lies in ``discoverd.conf.d``, holds settings; any
    other holds connections. A main file is read with its drop-ins, a drop-in alone. The text has a line for
    each fault and a closing one, without secrets. The exit code is 1 for an error; warnings do not count.
    """
    diagnostics: list[Diagnostic] = []
    files = connections = 0
    if paths:
        for path in paths:
            sources = _read(path)
            if not sources:
                diagnostics.append(Diagnostic(str(path), 0, 0, "error", "the file does not exist"))
            elif path.name.startswith("discoverd") or path.parent.name == f"{SETTINGS_CONF.name}.d":
                diagnostics += parse_settings(sources)[1]
            else:
                config = parse_fabrics(sources)
                diagnostics += config.diagnostics
                connections += len(config.connections)
            files += len(sources)
    else:
        settings_sources = read_tree(directory / SETTINGS_CONF.name)
        fabrics_sources = read_tree(directory / FABRICS_CONF.name)
        host = load_host_identity(directory)
        config = parse_fabrics(fabrics_sources)
        diagnostics += (*parse_settings(settings_sources)[1], *host.diagnostics, *config.diagnostics)
        diagnostics += _identity_faults(config, host)
        files = len(settings_sources) + len(fabrics_sources)
        connections = len(config.connections)
    errors = sum(diagnostic.severity == "error" for diagnostic in diagnostics)
    warnings = len(diagnostics) - errors
    summary = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    summary += f" in {_count(files, 'file')}; {_count(connections, 'connection')}"
    lines = [f"{diagnostic.severity}: {diagnostic}" for diagnostic in diagnostics]
    return "\n".join((*lines, summary)) + "\n", int(errors > 0)


def _read(path: Path) -> tuple[SourceFile, ...]:
    if not path.absolute().parent.name.endswith(".conf.d"):
        return read_tree(path)
    source = read_file(path, drop_in=True)
    return (source,) if source else ()


def _identity_faults(config: FabricsConfig, host: HostIdentity) -> Iterable[Diagnostic]:
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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
