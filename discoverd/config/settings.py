# SPDX-License-Identifier: Apache-2.0
"""discoverd.conf and its drop-ins: the daemon's own settings, under nvme-cli's lexical rules."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .errors import Diagnostic, Report, did_you_mean, quote
from .ini import Entry, Section, comment_hint, key_name, scan
from .keys import parse_int
from .sources import SourceFile, read_tree

SETTINGS_CONF = Path("/etc/nvme/discoverd.conf")

LogLevel = Literal["err", "warning", "info", "debug"]
LOG_LEVELS: tuple[LogLevel, ...] = ("err", "warning", "info", "debug")

_SECTION = "Global"
_KEYS = ("log-level", "max-connecting")


@dataclass(frozen=True, slots=True)
class Settings:
    """The daemon's settings, with their defaults.

    ``max_connecting``: how many controllers may be making their first connection attempt at the same time.
    """

    log_level: LogLevel = "info"
    max_connecting: int = 16


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
                if section != _SECTION:
                    hint = did_you_mean(section, (_SECTION,)) or f"the only section is [{_SECTION}]"
                    message = f"the unknown section [{quote(section)[1:-1]}] is ignored"
                    report.warn(item.line, item.column, message, hint)
            elif section is None:
                message = f"the key {key_name(item.key)} stands before any section"
                report.error(item.line, item.column, message, f"put it below [{_SECTION}]")
            elif section == _SECTION:
                settings = _apply(settings, item, report, last_good or Settings())
        diagnostics += sorted(report.diagnostics)
    return settings, tuple(diagnostics)


def _apply(settings: Settings, entry: Entry, report: Report, fallback: Settings) -> Settings:
    """Return ``settings`` with one entry taken into account; an empty value means the default."""
    value, default = entry.value, Settings()
    if entry.key == "log-level":
        level = next((level for level in LOG_LEVELS if level == value.lower()), None)
        if not value or level:
            return replace(settings, log_level=level or default.log_level)
        wanted = f"one of {', '.join(LOG_LEVELS)}"
        settings = replace(settings, log_level=fallback.log_level)
        used: str = settings.log_level
    elif entry.key == "max-connecting":
        number = parse_int(value)
        if not value or (number is not None and 1 <= number <= 256):
            return replace(settings, max_connecting=number or default.max_connecting)
        wanted = "a whole number from 1 to 256"
        settings = replace(settings, max_connecting=fallback.max_connecting)
        used = str(settings.max_connecting)
    else:
        hint = "" if report.full else did_you_mean(entry.key, _KEYS)
        report.warn(entry.line, entry.column, f"the unknown key {key_name(entry.key)} is ignored", hint)
        return settings
    message = f"{entry.key} = {quote(value)} is not {wanted}; {used} is used"
    report.error(entry.line, entry.value_column, message, comment_hint(value))
    return settings
