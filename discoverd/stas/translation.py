# SPDX-License-Identifier: Apache-2.0
"""All three files of nvme-stas together, as the three of ours that say the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from discoverd import exclusions
from discoverd.config import keys
from discoverd.config.errors import printable
from discoverd.config.finding import Finding, Findings
from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.config.sources import SourceFile
from discoverd.config.usable import identity
from discoverd.tid import TidError, check_interface

from . import endpoints, exclude, grammar, host, service
from .endpoints import Endpoint, Scope, section_of
from .exclude import Exclude
from .service import Service

NAMES = ("sys.conf", "stafd.conf", "stacd.conf")
_DEFAULTS = {"stafd": keys.DISCOVERY_DEFAULTS, "stacd": keys.IO_DEFAULTS}
_TITLE = "# Made by discoverctl import-stas from nvme-stas's files. See {manual}."


@dataclass(frozen=True, slots=True)
class Translation:
    """What to write, '' where there is nothing, and what to say. ``fabrics`` can hold secrets."""

    fabrics: str = field(repr=False)
    exclusions: str
    settings: str
    controllers: int
    entries: int
    findings: tuple[Finding, ...]


def translate(
    files: Mapping[str, SourceFile], own: HostIdentity, directory: Path, existing: FabricsConfig
) -> Translation:
    """Translate ``files``, by those of NAMES that exist.

    ``own`` is the host's identity and ``directory`` where it stands; ``existing`` the fabrics configuration there is,
    whose paths are not written twice. Blocks on the disk for values that stand in files of their own.
    """
    findings = {name: Findings(files[name].path if name in files else name, "nvme-stas") for name in NAMES}
    options = {name: grammar.read(files[name], findings[name]) for name in NAMES if name in files}
    identity_ = host.translate(options.get("sys.conf", []), findings["sys.conf"], own, directory)
    services = {
        daemon: service.translate(daemon, options.get(f"{daemon}.conf", []), findings[f"{daemon}.conf"])
        for daemon in _DEFAULTS
    }
    _ways(services, findings)
    everywhere = services["stafd"].families == services["stacd"].families
    seen = _paths(existing)
    found: list[Endpoint] = []
    for daemon, one in services.items():
        scope = Scope(section_of(daemon), one.ignore_iface, one.families, everywhere, bool(identity_.secret))
        for option in one.controllers:
            endpoint = endpoints.translate(option, scope, findings[f"{daemon}.conf"])
            if endpoint and _is_new(endpoint, identity_, own, seen, findings[f"{daemon}.conf"]):
                found.append(endpoint)
    lists = _exclusions(services, found, findings)
    _defaults_reach(services, identity_, found, findings)
    return Translation(
        _fabrics_text(services, identity_, found),
        _exclusions_text(lists),
        _settings_text(services),
        len(found),
        len(lists),
        tuple(one for name in NAMES for one in sorted(findings[name].found, key=lambda finding: finding.line)),
    )


def _ways(services: Mapping[str, Service], findings: Mapping[str, Findings]) -> None:
    """Carry over which families and interfaces are used where both daemons say the same: ours hold for everything."""
    stafd, stacd = services["stafd"], services["stacd"]
    everywhere = stafd.families == stacd.families
    if len(stafd.families) == 1:
        key = "address-families" if everywhere else "mdns-families"
        stafd.settings[key] = " ".join(f"ipv{version}" for version in sorted(stafd.families))
    if stafd.ignore_iface and stacd.ignore_iface:
        stafd.settings["ignore-iface"] = "yes"
    for daemon, one in services.items():
        told = findings[f"{daemon}.conf"]
        announced = " and for announcements" if daemon == "stafd" else ""
        if len(one.families) == 1 and not everywhere:
            text = (
                f"it counts for the controllers in this file{announced}; what a log page lists or refers to is "
                "connected whatever its family, because the other daemon's file says otherwise; if this is to hold for "
                "all, set address-families in discoverd.conf"
            )
            told.lost(one.families_line, "ip-family", text)
        if one.ignore_iface and not (stafd.ignore_iface and stacd.ignore_iface):
            text = (
                "it counts for the controllers in this file; what is announced, and what is found, is bound to the "
                "interface that leads there, because the other daemon's file says otherwise; if this is to hold for "
                "all, set ignore-iface = yes in discoverd.conf"
            )
            told.lost(one.ignore_iface_line, "ignore-iface", text)


def _paths(existing: FabricsConfig) -> dict[object, str]:
    paths: dict[object, str] = {}
    for connection in existing.connections:
        if not connection.problem:
            paths.setdefault(identity(connection), f"{connection.file}:{connection.line}")
    return paths


def _is_new(
    endpoint: Endpoint, persona: host.Host, own: HostIdentity, seen: dict[object, str], findings: Findings
) -> bool:
    """Tell whether nothing else asks for the path."""
    nqns = {persona.settings.get("hostnqn", "")}
    if nqns <= {"", own.hostnqn}:
        # One file says the host's own NQN, another leaves it out.
        nqns = {"", own.hostnqn}
    place = f"{endpoint.path}:{endpoint.line}"
    known = [seen[key] for nqn in sorted(nqns) if (key := identity(replace(endpoint.connection, hostnqn=nqn))) in seen]
    for nqn in nqns:
        seen.setdefault(identity(replace(endpoint.connection, hostnqn=nqn)), place)
    if not known:
        return True
    if known[0].startswith(endpoint.path + ":"):
        findings.ignored(endpoint.line, "controller", f"the same path stands in {known[0]}, which counts; remove one")
    else:
        text = f"the same path stands in {known[0]}, and is connected as that says; nothing to do"
        findings.differs(endpoint.line, "controller", text)
    return False


def _exclusions(
    services: Mapping[str, Service], found: list[Endpoint], findings: Mapping[str, Findings]
) -> list[tuple[str, str]]:
    """Return the entries, each with where it comes from (``file:line``)."""
    lines: dict[str, list[Exclude]] = {
        daemon: exclude.understand(one.excludes, one.ignore_iface, findings[f"{daemon}.conf"])
        for daemon, one in services.items()
    }
    written: dict[str, str] = {}
    for daemon, others in (("stafd", lines["stacd"]), ("stacd", lines["stafd"])):
        told = findings[f"{daemon}.conf"]
        for one in lines[daemon]:
            for text in exclude.entries(one, daemon, others, told):
                written.setdefault(text, f"{told.path}:{one.line}")
            if daemon == "stafd" and set(one.fields) == {"host-iface"}:
                _ignore_interface(services["stafd"], one.fields["host-iface"])
    _hit(lines, found, findings)
    return list(written.items())


def _ignore_interface(stafd: Service, name: str) -> None:
    try:
        check_interface(name)
    except TidError:
        return
    names = stafd.settings.get("mdns-ignore-interfaces", "").split()
    if name not in names:
        stafd.settings["mdns-ignore-interfaces"] = " ".join([*names, name])


def _hit(lines: dict[str, list[Exclude]], found: list[Endpoint], findings: Mapping[str, Findings]) -> None:
    """Tell which discovery controllers an exclusion of stacd's keeps away here, and did not there."""
    stafd, stacd = findings["stafd.conf"], findings["stacd.conf"]
    alone = [one for one in lines["stacd"] if all(one.fields != other.fields for other in lines["stafd"])]
    entries = [exclusions.Entry(stacd.path, one.line, one.fields) for one in alone]
    for endpoint in found:
        if endpoint.path == stafd.path and (place := exclude.hits(exclusions.Exclusions(entries, []), endpoint)):
            text = f"the exclude in {place} keeps it away here; add a trsvcid or nqn to that, and import again"
            stafd.lost(endpoint.line, "controller", text)


def _defaults_reach(
    services: Mapping[str, Service], persona: host.Host, found: list[Endpoint], findings: Mapping[str, Findings]
) -> None:
    """Tell that defaults in a drop-in do not reach what announcements and firmware ask for."""
    if not services["stafd"].mdns:
        return
    leads = any(endpoint.connection.role == "discovery" for endpoint in found)
    titles = {daemon: f"[{_DEFAULTS[daemon]}]" for daemon, one in services.items() if one.defaults}
    for name, title in (*titles.items(), *((("sys", f"[{keys.HOST}]"),) if persona.settings else ())):
        told = findings[f"{name}.conf"]
        line = services[name].defaults_line if name in services else 0
        text = (
            "it counts for the controllers in the same file and what they list; for what announcements and firmware "
            "ask for, copy it to nvme-fabrics.conf"
        )
        if leads:
            told.differs(line, title, text)
        else:
            told.lost(line, title, text)


def _fabrics_text(services: Mapping[str, Service], persona: host.Host, found: list[Endpoint]) -> str:
    parts: list[list[str]] = []
    if persona.settings:
        parts.append([f"[{keys.HOST}]", *(f"{key} = {value}" for key, value in persona.settings.items())])
    for daemon, title in _DEFAULTS.items():
        if defaults := services[daemon].defaults:
            parts.append([f"[{title}]", *(f"{key} = {value}" for key, value in defaults.items())])
    parts += [[f"# {printable(one.path)}:{one.line}", *one.lines] for one in found]
    return _text("discoverd-fabrics(5)", parts)


def _exclusions_text(lists: list[tuple[str, str]]) -> str:
    if not lists:
        return ""
    lines = [f"[{exclusions.SECTION}]"]
    for entry, place in lists:
        lines += [f"# {printable(place)}", f"{exclusions.KEY} = {entry}"]
    return _text("discoverd-exclusions(5)", [lines])


def _settings_text(services: Mapping[str, Service]) -> str:
    settings = dict(services["stafd"].settings)
    for key, value in services["stacd"].settings.items():
        # Both have a switch for tracing, and one daemon is behind both here.
        settings[key] = max(value, settings.get(key, value), key=lambda level: level == "debug")
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return _text("discoverd.conf(5)", [["[Global]", *lines]] if lines else [])


def _text(manual: str, parts: list[list[str]]) -> str:
    if not parts:
        return ""
    return "\n\n".join("\n".join(part) for part in ([_TITLE.format(manual=manual)], *parts)) + "\n"
