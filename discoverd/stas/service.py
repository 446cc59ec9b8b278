# SPDX-License-Identifier: Apache-2.0
"""stafd.conf and stacd.conf: the options that are not controllers, as settings of ours."""

from collections.abc import Callable
from dataclasses import dataclass, field

from discoverd import time_span
from discoverd.config.errors import did_you_mean, printable, quote
from discoverd.config.finding import Findings
from discoverd.config.settings import ATTEMPTS_MAX, SPAN_MAX_SECONDS

from .grammar import Option
from .values import QUEUES, TUNABLES, BadValueError, choice, is_true, number, seconds, tunable

GLOBAL = "Global"
DISCOVERY = "Service Discovery"
DC_MANAGEMENT = "Discovery controller connection management"
IO_MANAGEMENT = "I/O controller connection management"
CONTROLLERS = "Controllers"

_SCOPES = {
    "only-stas-connections": "ours",
    "all-connections-matching-disconnect-trtypes": "all",
    "no-disconnect": "none",
}
_FAMILIES = {"ipv4": (4,), "ipv6": (6,), "ipv4+ipv6": (4, 6), "ipv6+ipv4": (4, 6)}
_SWITCH = {"enabled": "yes", "disabled": "no"}
_OBSOLETE = ("udev-rule", "sticky-connections", "blacklist", "duplicate-connect", "persistent-connections")


@dataclass(slots=True)
class Service:
    """What one of the two files says. ``defaults`` and ``settings`` have our keys and values, in the file's order.

    A ``…_line`` is where it is said, 0 where it is not.
    """

    daemon: str
    defaults: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    ignore_iface: bool = False
    ignore_iface_line: int = 0
    families: frozenset[int] = frozenset((4, 6))
    families_line: int = 0
    mdns: bool = True
    defaults_line: int = 0
    controllers: list[Option] = field(default_factory=list)
    excludes: list[Option] = field(default_factory=list)


# Takes one option into account. Raises BadValueError.
_Handler = Callable[[Service, Option, Findings], None]


def translate(daemon: str, options: list[Option], findings: Findings) -> Service:
    """Understand the options of ``stafd`` or ``stacd``; of a repeated one the last counts."""
    service = Service(daemon)
    scalars: dict[tuple[str, str], Option] = {}
    table = TABLES[daemon]
    for option in options:
        if (option.section, option.key) == (CONTROLLERS, "controller"):
            service.controllers.append(option)
        elif (option.section, option.key) == (CONTROLLERS, "exclude"):
            service.excludes.append(option)
        elif (option.section, option.key) in table:
            scalars.pop((option.section, option.key), None)
            scalars[option.section, option.key] = option
        else:
            _unknown(daemon, option, findings)
    for place, option in scalars.items():
        try:
            table[place](service, option, findings)
        except BadValueError as error:
            findings.ignored(option.line, option.key, str(error))
    return service


def _unknown(daemon: str, option: Option, findings: Findings) -> None:
    sections = {section for section, _ in TABLES[daemon]} | {CONTROLLERS}
    if option.section not in sections:
        hint = did_you_mean(option.section, sections) or "remove it"
        text = f"{daemon} knows no section [{quote(option.section)[1:-1]}]; {hint}"
        findings.ignored(option.line, option.name, text)
        return
    known = [key for section, key in TABLES[daemon] if section == option.section]
    known += ["controller", "exclude"] if option.section == CONTROLLERS else []
    hint = did_you_mean(option.key, known) or "remove it"
    if option.key in _OBSOLETE:
        hint = "it is of an older release; remove it"
    text = f"{daemon} knows no such option in [{printable(option.section)}]; {hint}"
    findings.ignored(option.line, option.name, text)


def _tunable(service: Service, option: Option, _findings: Findings) -> None:
    service.defaults[TUNABLES[option.key]] = tunable(option.key, option.value)
    service.defaults_line = service.defaults_line or option.line


def _queue(_service: Service, option: Option, findings: Findings) -> None:
    findings.ignored(option.line, option.key, "a discovery controller has no such queues; remove it")


def _tron(service: Service, option: Option, _findings: Findings) -> None:
    service.settings["log-level"] = "debug" if is_true(option.value) else "info"


def _pleo(service: Service, option: Option, _findings: Findings) -> None:
    service.settings["pleo"] = choice(option.value.lower(), _SWITCH)


def _zeroconf(service: Service, option: Option, _findings: Findings) -> None:
    service.settings["mdns"] = choice(option.value.lower(), _SWITCH)
    service.mdns = service.settings["mdns"] == "yes"


def _ignore_iface(service: Service, option: Option, _findings: Findings) -> None:
    service.ignore_iface, service.ignore_iface_line = is_true(option.value), option.line


def _ip_family(service: Service, option: Option, _findings: Findings) -> None:
    versions = choice(option.value, _FAMILIES)
    service.families, service.families_line = frozenset(versions), option.line


def _persistent_connections(_service: Service, option: Option, findings: Findings) -> None:
    if not is_true(option.value):
        text = (
            "nothing is disconnected when discoverd.service is stopped; to disconnect all discovery controllers: "
            "discoverctl stop nqn.2014-08.org.nvmexpress.discovery"
        )
        findings.lost(option.line, option.key, text)


def _zeroconf_persistence(service: Service, option: Option, findings: Findings) -> None:
    value = seconds(option.value)
    if value < 0:
        service.settings["mdns-persistence"] = "never"
    elif not value:
        service.settings["mdns-persistence"] = "1s"
        findings.differs(option.line, option.key, "nothing is given up at once, so it is after a second; nothing to do")
    elif value > SPAN_MAX_SECONDS:
        service.settings["mdns-persistence"] = "never"
        findings.differs(option.line, option.key, "more than ten years is never; nothing to do")
    else:
        service.settings["mdns-persistence"] = time_span.written(value)


def _scope(service: Service, option: Option, findings: Findings) -> None:
    service.settings["disconnect-scope"] = choice(option.value, _SCOPES)
    if service.settings["disconnect-scope"] == "all":
        text = (
            "what is in use, excluded, another tool's or from the boot stays, and so does all as long as one discovery "
            "controller has not answered; disconnect that by hand: discoverctl disconnect --force"
        )
        findings.differs(option.line, option.key, text)


def _trtypes(service: Service, option: Option, findings: Findings) -> None:
    words = option.value.split("+")
    good = [word for word in ("tcp", "rdma", "fc") if word in words]
    for word in words:
        if word not in good:
            text = f"{quote(word)} is none of tcp, rdma and fc, with + between them and no blanks; remove it"
            findings.ignored(option.line, option.key, text)
    if good:
        service.settings["disconnect-transports"] = " ".join(good)


def _attempts(service: Service, option: Option, findings: Findings) -> None:
    value = number(option.value)
    if value == 1:
        value = 2
        findings.differs(option.line, option.key, "1 counts as 2 there, and is written so; set it to 1 if you mean it")
    elif value < 0:
        value = 1
        findings.differs(option.line, option.key, "a negative number is one attempt there; it is written so")
    elif value > ATTEMPTS_MAX:
        value = ATTEMPTS_MAX
        findings.differs(option.line, option.key, f"at most {value} can be set, which is written; 0 sets no limit")
    service.settings["connect-attempts-on-ncc"] = str(value)


_COMMON: dict[tuple[str, str], _Handler] = {
    (GLOBAL, "tron"): _tron,
    **{(GLOBAL, key): _tunable for key in TUNABLES},
    (GLOBAL, "ignore-iface"): _ignore_iface,
    (GLOBAL, "ip-family"): _ip_family,
}
TABLES: dict[str, dict[tuple[str, str], _Handler]] = {
    "stafd": {
        **_COMMON,
        **{(GLOBAL, key): _queue for key in sorted(QUEUES)},
        (GLOBAL, "pleo"): _pleo,
        (DISCOVERY, "zeroconf"): _zeroconf,
        (DC_MANAGEMENT, "persistent-connections"): _persistent_connections,
        (DC_MANAGEMENT, "zeroconf-connections-persistence"): _zeroconf_persistence,
    },
    "stacd": {
        **_COMMON,
        (IO_MANAGEMENT, "disconnect-scope"): _scope,
        (IO_MANAGEMENT, "disconnect-trtypes"): _trtypes,
        (IO_MANAGEMENT, "connect-attempts-on-ncc"): _attempts,
    },
}
