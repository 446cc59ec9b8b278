# SPDX-License-Identifier: Apache-2.0
"""The lexical rules that nvme-cli 3 gives its configuration files, with line and column of everything found.

One ``[Section]`` or ``key = value`` on a line, ``#`` comments on lines of their own; white space around keys
and values means nothing. No inline comments, no ``;`` comments, no continuation lines, no quoting.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import Report, quote
from .sources import SourceFile

# The C locale's isspace, which is what the format means by white space.
SPACE = " \t\n\v\f\r"

COMMENT_HINT = "comments go on a line of their own; remove everything from the '#' on"


@dataclass(frozen=True, slots=True)
class Section:
    """A section header. ``line`` and ``column`` count from 1, columns in characters."""

    name: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``key = value``; ``column`` is the key's, ``value_column`` the value's first character."""

    key: str
    value: str
    line: int
    column: int
    value_column: int


def comment_hint(value: str) -> str:
    """Return the hint about inline comments when ``value`` seems to end in one, else ''."""
    return COMMENT_HINT if re.search(r"(^|\s)#", value) else ""


def key_name(key: str) -> str:
    """Return ``key`` for a message, unless it may be a secret that ended up on the wrong side of an '='."""
    return quote(key) if re.fullmatch(r"[A-Za-z][A-Za-z_-]{0,39}", key) else "(not shown)"


def scan(source: SourceFile, report: Report) -> Iterator[Section | Entry]:
    """Yield sections and entries in file order; lines that are neither become errors in ``report``.

    A malformed header that has a name is reported and yielded all the same, so that what follows is judged
    in the section it was meant for. After a fault of the file as a whole nothing is yielded.
    """
    if source.fault:
        report.error(0, 0, source.fault, "nothing of it is used")
        return
    if b"\0" in source.data:
        line, column = _place(source.data, source.data.index(b"\0"))
        report.error(line, column, "the file contains a NUL byte", "it is not a text file; nothing of it is used")
        return
    if source.data.startswith(b"\xef\xbb\xbf"):
        report.error(1, 1, "the file begins with a byte order mark", "save it as UTF-8 without BOM")
    for number, raw in enumerate(source.data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        item = _line(raw, number, report)
        if item:
            yield item


def entries(source: SourceFile) -> Iterator[tuple[str, Entry]]:
    """Yield the entries in file order, each behind its section's name, '' before any; faults are passed over."""
    section = ""
    for item in scan(source, Report(source.path)):
        if isinstance(item, Section):
            section = item.name
        else:
            yield section, item


def _line(raw: bytes, number: int, report: Report) -> Section | Entry | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        column = len(raw[: error.start].decode()) + 1
        what = "the line is not valid UTF-8"
        if raw.strip().startswith(b"#"):
            report.warn(number, column, f"{what}, and only a comment", "save the file as UTF-8")
        else:
            report.error(number, column, what, "save the file as UTF-8")
        return None
    body = text.strip(SPACE)
    if not body or body.startswith("#"):
        return None
    column = len(text) - len(text.lstrip(SPACE)) + 1
    if body.startswith("["):
        return _header(body, number, column, report)
    key, equals, value = body.partition("=")
    key = key.rstrip(SPACE)
    if not equals or not key:
        hint = "a comment begins with '#'" if body.startswith((";", "//")) else "write [Section] or key = value"
        # The line is not quoted: it may be the tail of a secret that somebody wrapped.
        report.error(number, column, "the line is neither a section nor a key with a value", hint)
        return None
    spaces = len(value) - len(value.lstrip(SPACE))
    value_column = column + body.index("=") + 1 + spaces
    value = value.strip(SPACE)
    if "\r" in value or "\r" in key:
        report.error(number, column, "a carriage return stands inside the line", "end lines with LF or CR LF")
        return None
    return Entry(key, value, number, column, value_column)


def _header(body: str, number: int, column: int, report: Report) -> Section | None:
    name, bracket, tail = body[1:].partition("]")
    name = name.strip(SPACE)
    if not bracket or not name:
        hint = "write [Section], alone on its line"
        report.error(number, column, "the section header is malformed", hint)
        return Section(name, number, column) if name else None
    if tail:
        place = column + body.index("]") + 1 + len(tail) - len(tail.lstrip(SPACE))
        hint = COMMENT_HINT if "#" in tail else "a header stands alone on its line"
        report.error(number, place, f"something follows the section header [{name}]", hint)
    return Section(name, number, column)


def _place(data: bytes, offset: int) -> tuple[int, int]:
    return data.count(b"\n", 0, offset) + 1, offset - (data.rfind(b"\n", 0, offset) + 1) + 1
