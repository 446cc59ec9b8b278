# SPDX-License-Identifier: Apache-2.0
"""``discoverctl identity``: who this host is to its targets: host NQN, host ID, symbolic name."""

import os
import uuid
from pathlib import Path

from discoverd.cli import files, text
from discoverd.cli.exits import CliError, Exit
from discoverd.config import identity, keys
from discoverd.config.errors import Report
from discoverd.config.fabrics import FABRICS_CONF, parse_fabrics
from discoverd.config.identity import HostIdentity, derived_hostid
from discoverd.config.ini import Section, entries, scan
from discoverd.config.placeholders import PLACEHOLDERS
from discoverd.config.sources import SourceFile, read_file, read_tree
from discoverd.kernel.controllers import UUID_NQN_PREFIX
from discoverd.kernel.dim import SYMNAME_SIZE

# The machine's own, as firmware tells it; NVMe boot firmware makes its host NQN of the same.
MACHINE_UUID = Path("/sys/class/dmi/id/product_uuid")
_TEMPORARY = ".discoverctl."
_HINT = "then: systemctl reload discoverd"


def show(directory: Path, json: bool) -> Exit:
    """Print who the host is, and where that stands. Returns FAILED if something is missing or malformed."""
    host = identity.load_host_identity(directory)
    symname, place = _symname(directory)
    rows = [
        ("host NQN", host.hostnqn, str(directory / "hostnqn") if host.hostnqn else ""),
        ("host ID", host.hostid, _place_of_id(directory, host)),
        ("symbolic name", symname, place),
    ]
    if json:
        fields = {"hostnqn": host.hostnqn, "hostid": host.hostid, "hostsymname": symname}
        faults = [str(one) for one in host.diagnostics]
        text.document({"version": 1, **fields, "places": {name: place for name, _, place in rows}, "faults": faults})
    else:
        for name, value, where in rows:
            text.line(f"{name + ':':<15}{value or 'none'}" + (f"  ({where})" if where else ""))
        for one in host.diagnostics:
            text.remark(str(one))
        if not host.hostnqn or not host.hostid:
            text.remark("to make what is missing: discoverctl identity init")
    return Exit.FAILED if host.diagnostics else Exit.OK


def _place_of_id(directory: Path, host: HostIdentity) -> str:
    if not host.hostid:
        return ""
    path = directory / "hostid"
    return str(path) if path.exists() else f"of {directory / 'hostnqn'}"


def _symname(directory: Path) -> tuple[str, str]:
    """Return the symbolic name and where it stands, '' for none."""
    found, place = "", ""
    source = read_file(directory / FABRICS_CONF.name)
    for section, entry in entries(source) if source else ():
        if (section, entry.key) == (keys.HOST, "hostsymname"):
            found, place = entry.value, f"{directory / FABRICS_CONF.name}:{entry.line}"
    return found, place if found else ""


def init(directory: Path) -> Exit:
    """Make the host NQN and the host ID where there is no such file, or an empty one; what is there is never changed.

    The UUID in both is the one that is there already, or the machine's own, or else made up. Raises CliError for what
    is there and cannot be used, and OSError.
    """
    nqn_path, id_path = directory / "hostnqn", directory / "hostid"
    nqn, hostid = _content(nqn_path), _content(id_path)
    found = identity.parse_host_identity(nqn or SourceFile(str(nqn_path)), hostid or SourceFile(str(id_path)))
    if (nqn and not found.hostnqn) or (hostid and not found.hostid):
        raise CliError(f"{'; '.join(str(one) for one in found.diagnostics)}; mend that, and try again")
    if nqn and hostid:
        text.line(f"{nqn_path} and {id_path} are there, and stay as they are")
        return Exit.OK
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    own = derived_hostid(found.hostnqn) or (found.hostid if hostid else "") or _machine_uuid() or str(uuid.uuid4())
    if not nqn:
        _write(nqn_path, f"{UUID_NQN_PREFIX}{own}")
    if not hostid:
        _write(id_path, own)
    return Exit.OK


def _content(path: Path) -> SourceFile | None:
    """Return a file that says something, None if it is not there, or blank. Raises CliError if it cannot be read."""
    source = _read(path)
    return source if source and source.data.strip() else None


def _read(path: Path) -> SourceFile | None:
    """Return a file, None if it is not there. Raises CliError if it cannot be read."""
    source = read_file(path)
    if source and source.fault:
        raise CliError(f"{path} {source.fault}; mend that, and try again")
    return source


def _write(path: Path, value: str) -> None:
    """Write a file that others tell this host by, and that tells nothing secret; other tools read it."""
    files.replace(path, f"{value}\n".encode(), 0o644, _TEMPORARY)
    text.line(f"{path}: {value}")


def _machine_uuid() -> str:
    """Return the machine's own UUID, '' where firmware has none of its own, or it cannot be read."""
    try:
        found = str(uuid.UUID(MACHINE_UUID.read_text(errors="replace").strip()))
    except (OSError, ValueError):
        return ""
    return "" if found in PLACEHOLDERS or not uuid.UUID(found).int else found


def set_symname(directory: Path, name: str) -> Exit:
    """Write the host's symbolic name into the main file of the connections; '' takes it away.

    Raises CliError where the configuration has no error now and would have one, and OSError.
    """
    if not name.isascii() or not name.isprintable() or name != name.strip() or len(name) > SYMNAME_SIZE:
        what = f"a symbolic name is up to {SYMNAME_SIZE} printable ASCII characters, without blanks around it"
        raise CliError(what, Exit.USAGE)
    main = directory / FABRICS_CONF.name
    before = _read(main)
    data = edited(before, str(main), name)
    after = SourceFile(str(main), data, before.mode if before else 0o600)
    drop_ins = [one for one in read_tree(main) if one.drop_in]
    was = parse_fabrics([before, *drop_ins] if before else drop_ins)
    errors = [str(one) for one in parse_fabrics([after, *drop_ins]).diagnostics if one.severity == "error"]
    if was.valid and errors:
        raise CliError(f"nothing was written: {errors[0]}; mend that, and try again")
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    # The file may be a link into a managed directory; the link stays.
    real = Path(os.path.realpath(main))
    files.replace(real, data, after.mode, _TEMPORARY)
    said = f"hostsymname = {name}" if name else "without hostsymname"
    text.line(f"{main}: {said}; {_HINT}")
    return Exit.OK


def edited(source: SourceFile | None, path: str, name: str) -> bytes:
    """Return the file with this symbolic name, and all else as it was."""
    data = source.data if source else b""
    lines = data.split(b"\n")
    section, header, place = "", 0, 0
    for item in scan(source, Report(path)) if source else ():
        if isinstance(item, Section):
            section = item.name
            header = item.line if section == keys.HOST else header
        elif (section, item.key) == (keys.HOST, "hostsymname"):
            place = item.line
    written = f"hostsymname = {name}".encode()
    if place and name:
        lines[place - 1] = written
    elif place:
        del lines[place - 1]
    elif name and header:
        lines.insert(header, written)
    elif name:
        lines = [*data.rstrip(b"\n").split(b"\n"), b""] if data.strip() else []
        lines += [f"[{keys.HOST}]".encode(), written, b""]
    return b"\n".join(lines)
