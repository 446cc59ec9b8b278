# SPDX-License-Identifier: Apache-2.0
"""Entries of nvme-cli 2's files that nobody connects.

Its units stand back while discoverd runs, and discoverd goes by files of its own: what only nvme-cli's files ask for is
not connected by either.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from discoverd import exclusions
from discoverd.config.errors import Diagnostic, Report
from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.config.sources import SourceFile, read_file
from discoverd.exclusions import Exclusions
from discoverd.tid import DISCOVERY_NQN, TidError, TransportId

from . import files
from .entry import Entry
from .served import Served

DIRECTORY = Path(exclusions.ROOT)
HINT = "take it over with discoverctl import-nvme-cli, or take it out of the file"
UNREADABLE_HINT = "mend that, or move it away"


def look(config: FabricsConfig, own: HostIdentity, directory: Path = DIRECTORY) -> tuple[Diagnostic, ...]:
    """Read nvme-cli's files and the exclusions in ``directory``; see :func:`unserved`. Blocks; raises nothing.

    A file that cannot be read is a warning of its own.
    """
    sources = read(directory)
    reports = [_unreadable(file) for file in sources.values() if file.fault]
    found, _ = files.entries({name: file for name, file in sources.items() if not file.fault})
    told = unserved(found, config, own, exclusions.load(str(directory))) if found else ()
    return (*(one for report in reports for one in report.diagnostics), *told)


def _unreadable(file: SourceFile) -> Report:
    report = Report(file.path)
    report.warn(0, 0, f"{file.fault}, so it is not known whether nobody connects what it asks for", UNREADABLE_HINT)
    return report


def read(directory: Path) -> dict[str, SourceFile]:
    """Return nvme-cli's files in ``directory`` that count, by their names, also what cannot be read. Blocks; raises
    nothing.

    One that nvme-cli 3 has turned into nvme-fabrics.conf, which a link beside it says, does not count for it either.
    """
    found = {}
    for name in files.NAMES:
        path = directory / name
        if not os.path.lexists(f"{path}.converted") and (file := read_file(path)):
            found[name] = file
    return found


def unserved(
    entries: Iterable[Entry], config: FabricsConfig, own: HostIdentity, lists: Exclusions
) -> tuple[Diagnostic, ...]:
    """Return a warning for each entry that neither the configuration asks for nor an exclusion keeps away. Pure."""
    served = Served(config.connections, own)
    reports: dict[str, Report] = {}
    for entry in entries:
        if not served.by(entry) and not _excluded(entry, lists):
            message = f"nobody connects the {entry.what}: nvme-cli's units stand back while discoverd runs"
            reports.setdefault(entry.file, Report(entry.file)).warn(entry.line, 1, message, HINT)
    return tuple(one for report in reports.values() for one in report.diagnostics)


def _excluded(entry: Entry, lists: Exclusions) -> bool:
    if not lists.entries:
        return False
    address = entry.address
    try:
        tid = TransportId.make(
            entry.role,
            address.get("transport", ""),
            address.get("traddr", ""),
            address.get("trsvcid", ""),
            entry.nqn or DISCOVERY_NQN,
            host_traddr=address.get("host-traddr", ""),
            host_iface=address.get("host-iface", ""),
        )
    except TidError:
        return False  # A host name, perhaps; the lists have addresses.
    options = {"transport": tid.transport, "traddr": tid.traddr, "trsvcid": tid.trsvcid, "nqn": tid.subsysnqn}
    return bool(lists.match({**options, "host_traddr": tid.host_traddr, "host_iface": tid.host_iface}))
