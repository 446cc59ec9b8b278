# SPDX-License-Identifier: Apache-2.0
"""The ``controller=`` line: where a controller is, and what differs on this one path to it."""

from dataclasses import dataclass, field

from ..tid import unset
from . import keys
from .errors import Report, did_you_mean
from .ini import SPACE, Entry, comment_hint, key_name


@dataclass(frozen=True, slots=True)
class PathLine:
    """A ``controller=`` line. ``columns``: where each address value begins; '' as a setting is a reset."""

    line: int
    column: int
    transport: str
    traddr: str
    trsvcid: str = ""
    host_traddr: str = ""
    host_iface: str = ""
    columns: dict[str, int] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Token:
    key: str
    value: str
    column: int
    value_column: int


def parse_path(entry: Entry, section: str, report: Report) -> PathLine | None:
    """Parse a ``controller=`` line of ``section``; None when it has a fault, which is in ``report`` then."""
    address: dict[str, str] = {}
    columns: dict[str, int] = {}
    settings: dict[str, str] = {}
    sound = True
    for token in _tokens(entry, report):
        if token is None or not _take(token, entry.line, section, report, address, columns, settings):
            sound = False
    if not sound:
        return None
    missing = [key for key in ("transport", "traddr") if key not in address]
    if missing:
        hint = "write controller = transport=tcp;traddr=192.0.2.1"
        report.error(entry.line, entry.value_column, f"the controller line has no {' and no '.join(missing)}", hint)
        return None
    return PathLine(
        entry.line,
        entry.value_column,
        address["transport"].lower(),
        unset(address["traddr"]),
        unset(address.get("trsvcid", "")),
        unset(address.get("host-traddr", "")),
        unset(address.get("host-iface", "")),
        columns,
        settings,
    )


def _tokens(entry: Entry, report: Report) -> list[_Token | None]:
    tokens: list[_Token | None] = []
    column = entry.value_column
    for part in entry.value.split(";"):
        text = part.strip(SPACE)
        start = column + len(part) - len(part.lstrip(SPACE))
        column += len(part) + 1
        if not text:
            continue
        key, equals, value = text.partition("=")
        if not equals or not key:
            hint = comment_hint(entry.value) or "write key=value, separated by ';'"
            report.error(entry.line, start, "a part of the controller line is not key=value", hint)
            tokens.append(None)
            continue
        value_column = start + len(key) + 1 + len(value) - len(value.lstrip(SPACE))
        tokens.append(_Token(key.rstrip(SPACE), value.strip(SPACE), start, value_column))
    return tokens


def _take(
    token: _Token,
    line: int,
    section: str,
    report: Report,
    address: dict[str, str],
    columns: dict[str, int],
    settings: dict[str, str],
) -> bool:
    """Put one token where it belongs; False when it has a fault."""
    name = token.key
    if name in keys.ADDRESS_KEYS:
        if not token.value:
            report.error(line, token.value_column, f"{name} is empty", "give it a value, or remove it")
            return False
        if name in address:
            report.error(line, token.column, f"{name} is given twice", "one controller line is one path")
            return False
        address[name] = token.value
        columns[name] = token.value_column
        return True
    key = keys.KEYS.get(keys.OLDER_NAMES.get(name, name))
    if not key:
        known = (*keys.ADDRESS_KEYS, *(key.name for key in keys.KEYS.values() if key.on_path))
        hint = "" if report.full else did_you_mean(name, known)
        report.error(line, token.column, f"the unknown key {key_name(name)} on a controller line", hint)
        return False
    if not key.on_path or section not in key.sections:
        where = section if section in key.sections else next(s for s in keys.SECTIONS if s in key.sections)
        hint = f"put it on a line of its own in [{where}]"
        report.error(line, token.column, f"{name} does not belong on a controller line of [{section}]", hint)
        return False
    try:
        settings[name] = keys.canonical_value(key, token.value)
    except keys.BadValueError as fault:
        report.error(line, token.value_column, str(fault), fault.hint)
        return False
    return True
