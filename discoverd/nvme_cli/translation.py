# SPDX-License-Identifier: Apache-2.0
"""The files of nvme-cli 2 as drop-ins of nvme-fabrics.conf that say the same.

What a line of discovery.conf says about the connection holds for what its discovery controller lists as well, and so do
the defaults of a file here: so each set of such options gets a file of its own, and so does each host of config.json
that is not this one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from discoverd.config import keys
from discoverd.config.errors import printable
from discoverd.config.fabrics import parse_fabrics
from discoverd.config.finding import Finding, Findings
from discoverd.config.identity import HostIdentity, derived_hostid
from discoverd.config.model import Connection, FabricsConfig
from discoverd.config.sources import SourceFile
from discoverd.kernel.controllers import canonical_nqn
from discoverd.tid import DISCOVERY_NQN, TidError, check_hostid, check_nqn

from . import files, options
from .entry import TOOL, Entry, Host
from .served import Served

_TITLE = "# Made by discoverctl import-nvme-cli from the files of nvme-cli 2. See discoverd-fabrics(5)."
_SECTIONS = {"discovery": keys.DISCOVERY, "io": keys.SUBSYSTEM}

Settings = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Translation:
    """The contents to write, one for each file in order, and what to say. They can hold secrets."""

    contents: tuple[str, ...] = field(repr=False)
    controllers: int
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _DropIn:
    """A file to be: as which host, with what for all in it, and with which entries."""

    host: Host
    shared: Settings
    entries: list[Entry] = field(default_factory=list)

    def text(self, entries: Iterable[Entry]) -> str:
        """Return its content with these entries; paths that are said the same of share a section."""
        parts = []
        if self.host.hostnqn:
            identity = {
                "hostnqn": self.host.hostnqn,
                "hostid": self.host.hostid,
                "hostsymname": self.host.symname,
                "kxchap-secret": self.host.secret,
            }
            parts.append([f"[{keys.HOST}]", *_lines(identity)])
        # Without a [Host] section, of which there can be one for each host, the secret is a default.
        secret = {} if self.host.hostnqn else {"kxchap-secret": self.host.secret}
        without_queues = {key: value for key, value in self.shared.items() if key not in options.QUEUES}
        for title, settings in ((keys.DISCOVERY_DEFAULTS, without_queues), (keys.IO_DEFAULTS, self.shared)):
            if lines := _lines({**settings, **secret}):
                parts.append([f"[{title}]", *lines])
        sections: dict[tuple[str, ...], list[str]] = {}
        for one in entries:
            head = (f"[{_SECTIONS[one.role]}]", *_lines({"nqn": one.nqn, **one.settings}))
            path = ";".join(f"{key}={value}" for key, value in {**one.address, **one.tunables}.items())
            sections.setdefault(head, []).extend((f"# {printable(one.place)}", f"controller = {path}"))
        parts += [[*head, *paths] for head, paths in sections.items()]
        return "\n\n".join("\n".join(part) for part in ([_TITLE], *parts)) + "\n"


def _lines(settings: Settings) -> list[str]:
    return [f"{key} = {value}" for key, value in settings.items() if value]


def translate(sources: Mapping[str, SourceFile], own: HostIdentity, existing: FabricsConfig) -> Translation:
    """Translate the files, by those of files.NAMES that exist.

    ``own`` is this host's identity; ``existing`` the fabrics configuration there is, whose paths are not written twice.
    Pure.
    """
    entries, told = files.entries(sources)
    findings = {source.path: Findings(source.path, TOOL) for source in sources.values()}
    hosts = _hosts(entries, own, findings)
    served = Served(existing.connections, own)
    drop_ins: dict[tuple[str, ...], _DropIn] = {}
    for entry in entries:
        persona = _persona(entry.host, own)
        host = hosts.get(persona)
        if host is None:
            continue  # It was said of the host.
        one = drop_ins.setdefault((persona, *_lines(entry.shared)), _DropIn(host, entry.shared))
        checked = _without_lone_secret(entry, host, findings[entry.file])
        connection = _understood(one, checked, findings[entry.file])
        if connection and _is_new(checked, served, {source.path for source in sources.values()}, findings[entry.file]):
            served.add(connection)
            one.entries.append(checked)
    found = [one for one in drop_ins.values() if one.entries]
    _name_host(found, hosts.get("", Host()), own, findings)
    _tell_of_discovery(found, findings)
    told += [one for some in findings.values() for one in some.found]
    order = {source.path: number for number, source in enumerate(sources.values())}
    return Translation(
        tuple(one.text(one.entries) for one in found),
        sum(len(one.entries) for one in found),
        tuple(sorted(told, key=lambda finding: (order[finding.path], finding.line))),
    )


def _persona(host: Host, own: HostIdentity) -> str:
    """Return the canonical host NQN, '' for this host's own."""
    nqn = canonical_nqn(host.hostnqn)
    return "" if nqn == canonical_nqn(own.hostnqn) else nqn


def _hosts(entries: Iterable[Entry], own: HostIdentity, findings: Mapping[str, Findings]) -> dict[str, Host]:
    """Return each host by its persona, without those that nothing can be connected as; this one has no NQN here.

    Of several with one NQN the first that says something counts.
    """
    hosts = {"": Host()}
    refused = set()
    for entry in entries:
        host, told = entry.host, findings[entry.file]
        persona = _persona(host, own)
        if not host.hostnqn or persona in refused:
            continue
        before = hosts.get(persona)
        if before is not None and before.line:
            if before.line != host.line:
                hosts[persona] = _merged(before, host, told)
            continue
        checked = _own(host, own, told) if not persona else _other(host, own, told)
        if checked is None:
            refused.add(persona)
        else:
            hosts[persona] = checked
    return hosts


def _own(host: Host, own: HostIdentity, told: Findings) -> Host:
    if host.hostid and host.hostid.lower() != own.hostid:
        text = (
            "/etc/nvme/hostid says something else, which is used: the kernel takes one host ID for one host NQN; make "
            "them the same"
        )
        told.lost(host.line, "hostid", text)
    return replace(host, hostnqn="", hostid="")


def _other(host: Host, own: HostIdentity, told: Findings) -> Host | None:
    try:
        check_nqn(host.hostnqn)
        hostid = check_hostid(host.hostid) if host.hostid else derived_hostid(host.hostnqn)
        if hostid in ("", own.hostid):
            raise TidError(
                "nvme-cli connects as it with this host's ID, and two host NQNs must not share one; if it is the "
                "host's name, write it into /etc/nvme/hostnqn, else give it a hostid of its own, made with uuidgen"
            )
    except TidError as error:
        told.lost(host.line, "hostnqn", f"nothing of this host is carried over: {error}; then import again")
        return None
    return replace(host, hostid=hostid)


def _merged(first: Host, second: Host, told: Findings) -> Host:
    for key, mine, theirs in (
        ("hostid", first.hostid, second.hostid),
        ("hostsymname", first.symname, second.symname),
        ("dhchap_key", first.secret, second.secret),
    ):
        if mine and theirs and mine != theirs:
            told.lost(second.line, key, f"the host stands in line {first.line} with another one; say it once")
    return replace(first, symname=first.symname or second.symname, secret=first.secret or second.secret)


def _without_lone_secret(entry: Entry, host: Host, told: Findings) -> Entry:
    """Return the entry without a controller's secret that nvme-cli does not send for want of the host's."""
    given = entry.settings
    if not given.get("kxchap-ctrl-secret") or given.get("kxchap-secret") or host.secret:
        return entry
    text = "nvme-cli does not send a controller's secret without the host's; it is left out"
    told.ignored(entry.line, "dhchap_ctrl_key", text)
    return replace(entry, settings={key: value for key, value in given.items() if key != "kxchap-ctrl-secret"})


def _understood(drop_in: _DropIn, entry: Entry, told: Findings) -> Connection | None:
    """Return the connection that our parser makes of an entry in its file; None, and a finding, if it is another."""
    config = parse_fabrics([SourceFile("", drop_in.text([entry]).encode())])
    faults = [one.message + (f" ({one.hint})" if one.hint else "") for one in config.diagnostics]
    (one, *more) = config.connections or (None,)
    if faults or one is None or more or not _is_meant(one, entry):
        why = "; ".join(dict.fromkeys(faults)) or "it cannot be written so that it is understood"
        told.lost(entry.line, entry.what, f"{why}; mend it and import again")
        return None
    if one.secrets.tls or one.secrets.concat or one.secrets.tls_key:
        text = "TLS is not supported yet: it is written, and not connected rather than connected in the clear"
        told.lost(entry.line, entry.what, text)
    return replace(one, file=entry.file, line=entry.line)


def _is_meant(one: Connection, entry: Entry) -> bool:
    address = (one.transport, one.traddr, one.trsvcid, one.host_traddr, one.host_iface)
    meant = tuple(entry.address.get(key, "") for key in keys.ADDRESS_KEYS)
    return (one.role, one.subsysnqn, address) == (entry.role, entry.nqn or DISCOVERY_NQN, meant)


def _is_new(entry: Entry, served: Served, paths: set[str], told: Findings) -> bool:
    """Tell whether nothing else asks for the path."""
    place = served.by(entry, exactly=True)
    if not place:
        return True
    if place.rpartition(":")[0] in paths:
        told.ignored(entry.line, entry.what, f"the same path stands in {place}, which counts; remove one of the two")
    else:
        told.differs(entry.line, entry.what, f"the same path stands in {place}, and is connected as that says")
    return False


def _name_host(found: list[_DropIn], host: Host, own: HostIdentity, findings: Mapping[str, Findings]) -> None:
    """Put the symbolic name of this host into the first file without another host, which needs its NQN then."""
    ours = [one for one in found if not one.host.hostnqn]
    if not host.symname or not ours:
        return
    if not own.hostnqn:
        text = "this host has no NQN to go with it; create one: nvme gen-hostnqn > /etc/nvme/hostnqn"
        findings[host.file].lost(host.line, "hostsymname", text)
        return
    ours[0].host = replace(host, hostnqn=own.hostnqn)
    if len(ours) > 1:
        text = "it counts for the controllers in the first of the files only; nothing to do unless others register"
        findings[host.file].differs(host.line, "hostsymname", text)


def _tell_of_discovery(found: list[_DropIn], findings: Mapping[str, Findings]) -> None:
    """Tell once that addresses of subsystems are not asked for a log page."""
    io = [entry for one in found for entry in one.entries if entry.role == "io"]
    if io:
        first = min(io, key=lambda entry: entry.line)
        text = (
            "nvme connect-all asks each address here for a log page, too, and connects all that it lists; here what "
            "stands in the file is connected; for the rest add a [Discovery Controller] section with that address"
        )
        findings[first.file].differs(first.line, "ports", text)
