# SPDX-License-Identifier: Apache-2.0
"""discoverd.conf and its drop-ins: the daemon's own settings, under nvme-cli's lexical rules."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .. import time_span
from ..state import PARKED_INTERVAL_SECONDS
from ..tid import TidError, check_interface
from .errors import Diagnostic, Report, did_you_mean, quote
from .ini import Entry, Section, comment_hint, entries, key_name, scan
from .keys import parse_bool, parse_int
from .sources import SourceFile, read_tree

SETTINGS_CONF = Path("/etc/nvme/discoverd.conf")

LogLevel = Literal["err", "warning", "info", "debug"]
LOG_LEVELS: tuple[LogLevel, ...] = ("err", "warning", "info", "debug")
FAMILIES = ("ipv4", "ipv6")
DisconnectScope = Literal["ours", "all", "none"]
Registration = Literal["trusted", "all", "none"]
REGISTRATIONS: tuple[Registration, ...] = ("trusted", "all", "none")
DISCONNECT_SCOPES: tuple[DisconnectScope, ...] = ("ours", "all", "none")
TRANSPORTS = ("tcp", "rdma", "fc")
# Over these a log page can lead from another transport; a port of Fibre Channel is reached from a port of it only.
FOLLOWED_TRANSPORTS = ("tcp", "rdma")
AUTO = ("auto",)

SECTION = "Global"
_HOUR = 3600
# The most that can be set: of a span of time, and of the attempts to connect.
SPAN_MAX_SECONDS, ATTEMPTS_MAX = 10 * 365 * 24 * _HOUR, 1000
_INTERVAL_MIN, _INTERVAL_MAX = 60, 7 * 24 * _HOUR


@dataclass(frozen=True, slots=True)
class Settings:
    """The daemon's settings, with their defaults. Spans are in seconds, and 0 for never.

    ``max_connecting``: how many controllers may be making their first connection attempt at the same time.
    ``disconnect_scope``: what is disconnected that a log page no longer lists: what discoverd has connected (``ours``),
    also what others have, over the ``disconnect_transports`` (``all``), or nothing (``none``).
    ``disconnect_share``: of what a log page listed, so many per cent may be withdrawn at once.
    ``follow_transports``: over which transports entries of a log page are followed that have another one than their
    discovery controller, or AUTO for those that this host has.
    ``connect_attempts_on_ncc``: for a subsystem that is not connected to the central discovery controller, 0 for as
    many as it takes. ``pleo``: ask direct discovery controllers for entries of the port that was asked only.
    ``mdns_interfaces``: only these, all if empty. ``mdns_persistence``: how long a discovery controller that is neither
    announced nor connected is kept. ``give_up``: the same for one that only a referral or a Fibre Channel event named.
    ``address_families``: over which IP versions anything is connected that is not connected yet.
    ``ignore_iface``: nothing is bound to an interface. ``parked_interval``: how often a parked discovery controller is
    read.
    ``registration``: which discovery controllers are told who this host is (DIM): those that are trusted
    (discoverd.plan.candidate), all, or none.
    """

    log_level: LogLevel = "info"
    max_connecting: int = 16
    mdns: bool = True
    mdns_interfaces: tuple[str, ...] = ()
    mdns_ignore_interfaces: tuple[str, ...] = ()
    mdns_families: tuple[str, ...] = FAMILIES
    mdns_persistence: int = 300
    nbft: bool = True
    fibre_channel: bool = True
    fc_kick_start_interval: int = 0
    give_up: int = 72 * _HOUR
    pleo: bool = True
    registration: Registration = "trusted"
    disconnect_scope: DisconnectScope = "ours"
    disconnect_transports: tuple[str, ...] = ("tcp",)
    disconnect_share: int = 25
    connect_attempts_on_ncc: int = 0
    follow_transports: tuple[str, ...] = AUTO
    address_families: tuple[str, ...] = FAMILIES
    ignore_iface: bool = False
    parked_interval: int = PARKED_INTERVAL_SECONDS


class _BadValueError(ValueError):
    """A value that its key does not take; the text says what it does take."""


def load_settings(
    main: Path = SETTINGS_CONF, last_good: Settings | None = None
) -> tuple[Settings, tuple[Diagnostic, ...]]:
    """Read ``main`` and ``main.d/*.conf``; see :func:`parse_settings`. Blocks on the disk."""
    return parse_settings(read_tree(main), last_good)


def parse_settings(
    sources: Iterable[SourceFile], last_good: Settings | None = None
) -> tuple[Settings, tuple[Diagnostic, ...]]:
    """Understand files that were read already, later ones overriding earlier ones. Pure; raises nothing.

    A key with a bad value keeps its value in ``last_good``, or its default; each fault is a diagnostic.
    """
    settings = Settings()
    diagnostics: list[Diagnostic] = []
    for source in sources:
        report = Report(source.path)
        section: str | None = None
        for item in scan(source, report):
            if isinstance(item, Section):
                section = item.name
                if section != SECTION:
                    hint = did_you_mean(section, (SECTION,)) or f"the only section is [{SECTION}]"
                    message = f"the unknown section [{quote(section)[1:-1]}] is ignored"
                    report.warn(item.line, item.column, message, hint, ignored=True)
            elif section is None:
                message = f"the key {key_name(item.key)} stands before any section"
                report.error(item.line, item.column, message, f"put it below [{SECTION}]")
            elif section == SECTION:
                settings = _apply(settings, item, report, last_good or Settings())
        diagnostics += sorted(report.diagnostics)
    return settings, tuple(diagnostics)


def keys_of(source: SourceFile) -> frozenset[str]:
    """Return the settings that a file says something about."""
    return frozenset(entry.key for section, entry in entries(source) if section == SECTION and entry.key in KEYS)


def _apply(settings: Settings, entry: Entry, report: Report, fallback: Settings) -> Settings:
    """Return ``settings`` with one entry taken into account; an empty value means the default."""
    read = KEYS.get(entry.key)
    if read is None:
        hint = "" if report.full else did_you_mean(entry.key, tuple(KEYS))
        what = f"the unknown key {key_name(entry.key)} is ignored"
        report.warn(entry.line, entry.column, what, hint, ignored=True)
        return settings
    field = entry.key.replace("-", "_")
    try:
        value = read(entry.value) if entry.value else getattr(Settings(), field)
    except _BadValueError as error:
        value = getattr(fallback, field)
        message = f"{entry.key} = {quote(entry.value)} is not {error}; {_shown(value, read)} is used"
        report.error(entry.line, entry.value_column, message, comment_hint(entry.value))
    return replace(settings, **{field: value})


def shown(settings: Settings, key: str) -> str:
    """Return the value of a setting, by the name that it has in the files, as people write it."""
    return _shown(getattr(settings, key.replace("-", "_")), KEYS[key])


def _shown(value: object, read: Callable[[str], Any]) -> str:
    if read is _share:
        return f"{value}%"
    if read in (_span, _interval) and isinstance(value, int):
        return time_span.written(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(value) or ("none" if read is _followed else "nothing")
    return str(value)


def _level(text: str) -> LogLevel:
    for level in LOG_LEVELS:
        if level == text.lower():
            return level
    raise _BadValueError(f"one of {', '.join(LOG_LEVELS)}")


def _connecting(text: str) -> int:
    number = parse_int(text)
    if number is None or not 1 <= number <= 256:
        raise _BadValueError("a whole number from 1 to 256")
    return number


def _switch(text: str) -> bool:
    value = parse_bool(text)
    if value is None:
        raise _BadValueError("yes or no")
    return value


def _interfaces(text: str) -> tuple[str, ...]:
    try:
        return tuple(check_interface(name) for name in text.split())
    except TidError:
        raise _BadValueError("a list of interfaces such as: eth0 eth1") from None


def _families(text: str) -> tuple[str, ...]:
    words = text.lower().split()
    if not all(word in FAMILIES for word in words):
        raise _BadValueError("ipv4, ipv6 or both")
    return tuple(family for family in FAMILIES if family in words)


def _scope(text: str) -> DisconnectScope:
    for scope in DISCONNECT_SCOPES:
        if scope == text.lower():
            return scope
    raise _BadValueError(f"one of {', '.join(DISCONNECT_SCOPES)}")


def _registration(text: str) -> Registration:
    for one in REGISTRATIONS:
        if one == text.lower():
            return one
    raise _BadValueError(f"one of {', '.join(REGISTRATIONS)}")


def _transports(text: str) -> tuple[str, ...]:
    words = text.lower().split()
    if not all(word in TRANSPORTS for word in words):
        raise _BadValueError("a list of transports such as: tcp rdma fc")
    return tuple(one for one in TRANSPORTS if one in words)


def _followed(text: str) -> tuple[str, ...]:
    words = tuple(text.lower().split())
    if words in (AUTO, ("none",)):
        return AUTO if words == AUTO else ()
    if not all(word in FOLLOWED_TRANSPORTS for word in words):
        raise _BadValueError(f"auto, none, or a list of {' '.join(FOLLOWED_TRANSPORTS)}")
    return tuple(one for one in FOLLOWED_TRANSPORTS if one in words)


def _share(text: str) -> int:
    number = parse_int(text.removesuffix("%").rstrip())
    if number is None or not 0 <= number <= 100:
        raise _BadValueError("a share from 0% (one controller at a time) to 100% (no limit)")
    return number


def _attempts(text: str) -> int:
    number = parse_int(text)
    if number is None or not 0 <= number <= ATTEMPTS_MAX:
        raise _BadValueError(f"a whole number from 0 (no limit) to {ATTEMPTS_MAX}")
    return number


def _span(text: str) -> int:
    """Return seconds, 0 for ``never`` (discoverd.time_span)."""
    try:
        seconds = time_span.parse(text)
    except time_span.TimeSpanError as error:
        raise _BadValueError(str(error)) from None
    # Cut off, a part of a second would be never.
    if not seconds.is_integer() or seconds > SPAN_MAX_SECONDS:
        raise _BadValueError("a time of whole seconds up to ten years")
    return int(seconds)


def _interval(text: str) -> int:
    """Return seconds, as :func:`_span`, of a time between two readings."""
    try:
        seconds = _span(text)
    except _BadValueError:
        seconds = 0
    if not _INTERVAL_MIN <= seconds <= _INTERVAL_MAX:
        raise _BadValueError("a time from 1min to 7d")
    return seconds


KEYS: dict[str, Callable[[str], Any]] = {
    "log-level": _level,
    "max-connecting": _connecting,
    "mdns": _switch,
    "mdns-interfaces": _interfaces,
    "mdns-ignore-interfaces": _interfaces,
    "mdns-families": _families,
    "mdns-persistence": _span,
    "nbft": _switch,
    "fibre-channel": _switch,
    "fc-kick-start-interval": _span,
    "give-up": _span,
    "pleo": _switch,
    "registration": _registration,
    "disconnect-scope": _scope,
    "disconnect-transports": _transports,
    "disconnect-share": _share,
    "connect-attempts-on-ncc": _attempts,
    "follow-transports": _followed,
    "address-families": _families,
    "ignore-iface": _switch,
    "parked-interval": _interval,
}
