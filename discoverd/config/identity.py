# SPDX-License-Identifier: Apache-2.0
"""Who this host is: /etc/nvme/hostnqn and /etc/nvme/hostid, and which host ID goes with which host NQN.

Two host NQNs must never share a host ID: a target takes equal IDs for one host and merges its reservations.
"""

from dataclasses import dataclass
from pathlib import Path

from ..kernel.controllers import UUID_NQN_PREFIX, canonical_nqn
from ..tid import TidError, check_hostid, check_nqn
from .errors import ConfigError, Diagnostic, Report, quote
from .model import Connection, DiscoveredScope
from .sources import SourceFile, read_file

DIRECTORY = Path("/etc/nvme")
# The fault of a file that is not there.
MISSING = "does not exist"


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """The host's own NQN as its file spells it, and its ID, canonical; '' for none, and then a diagnostic says why."""

    hostnqn: str
    hostid: str
    diagnostics: tuple[Diagnostic, ...] = ()


def load_host_identity(directory: Path = DIRECTORY) -> HostIdentity:
    """Read ``hostnqn`` and ``hostid`` in ``directory``. Blocks on the disk; raises nothing."""
    return parse_host_identity(*read_identity_files(directory))


def read_identity_files(directory: Path = DIRECTORY) -> tuple[SourceFile, SourceFile]:
    """Read ``hostnqn`` and ``hostid`` in ``directory``, for :func:`parse_host_identity`. Blocks on the disk."""
    nqn, hostid = directory / "hostnqn", directory / "hostid"
    return (
        read_file(nqn) or SourceFile(str(nqn), fault=MISSING),
        read_file(hostid) or SourceFile(str(hostid), fault=MISSING),
    )


def is_absent(source: SourceFile) -> bool:
    """Tell whether a file of the host's identity is not there, or says nothing, as on a host that is to get its own."""
    return source.fault == MISSING or (not source.fault and not source.data.split(b"\n", 1)[0].strip())


def parse_host_identity(nqn_file: SourceFile, id_file: SourceFile) -> HostIdentity:
    """Understand the two files, whose first line counts. A missing host ID is derived from a UUID NQN."""
    nqn_report, id_report = Report(nqn_file.path), Report(id_file.path)
    hostnqn = hostid = ""
    text = _first_line(nqn_file, nqn_report, f"create it: nvme gen-hostnqn > {nqn_file.path}")
    try:
        hostnqn = check_nqn(text) if text else ""
    except TidError as error:
        nqn_report.error(1, 1, str(error), f"make a new one: nvme gen-hostnqn > {nqn_file.path}")
    if id_file.fault == MISSING and (not hostnqn or derived_hostid(hostnqn)):
        # Without an NQN there is one thing to create, and the NQN it makes brings the ID along.
        hostid = derived_hostid(hostnqn)
    else:
        text = _first_line(id_file, id_report, f"create it: uuidgen > {id_file.path}")
        try:
            hostid = check_hostid(text) if text else ""
        except TidError as error:
            id_report.error(1, 1, str(error), f"make a new one: uuidgen > {id_file.path}")
    return HostIdentity(hostnqn, hostid, (*nqn_report.diagnostics, *id_report.diagnostics))


def derived_hostid(hostnqn: str) -> str:
    """Return the UUID in an NQN of the UUID form, '' for any other NQN and for a UUID that is all zero."""
    if not hostnqn.startswith(UUID_NQN_PREFIX):
        return ""
    try:
        return check_hostid(hostnqn.removeprefix(UUID_NQN_PREFIX))
    except TidError:
        return ""


def identity_for(wanted: Connection | DiscoveredScope, host: HostIdentity) -> tuple[str, str]:
    """Return (hostnqn, hostid) to connect with.

    The host's own NQN goes with the host's own ID unless the configuration names another, and is spelled as the host's
    file does, because the kernel takes one spelling for an ID. Any other NQN gets the ID configured for it, or the one
    in its own UUID, and never the host's. Raises ConfigError when that leaves none.
    """
    hostnqn = wanted.hostnqn or host.hostnqn
    if not hostnqn:
        raise ConfigError("this host has no NQN; create one: nvme gen-hostnqn > /etc/nvme/hostnqn")
    if canonical_nqn(hostnqn) == canonical_nqn(host.hostnqn):
        hostnqn = host.hostnqn
        hostid = wanted.hostid or host.hostid
        if not hostid:
            raise ConfigError("this host has no host ID; create one: uuidgen > /etc/nvme/hostid")
        return hostnqn, hostid
    hostid = wanted.hostid or derived_hostid(hostnqn)
    if not hostid:
        raise ConfigError(
            f"the host NQN {quote(hostnqn)} has no host ID of its own; add hostid with the output of uuidgen"
        )
    if hostid == host.hostid:
        raise ConfigError(
            f"the host ID {hostid} of {quote(hostnqn)} is this host's own, and two host NQNs must not "
            "share one; give it another with: uuidgen"
        )
    return hostnqn, hostid


def _first_line(source: SourceFile, report: Report, remedy: str) -> str:
    if source.fault:
        report.error(0, 0, source.fault, remedy if source.fault == MISSING else "")
        return ""
    # Bytes that are not UTF-8 become characters that no NQN and no UUID may hold.
    text = source.data.split(b"\n", 1)[0].decode(errors="replace").strip()
    if not text:
        report.error(0, 0, "the first line is empty", remedy)
    return text
