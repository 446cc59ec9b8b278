# SPDX-License-Identifier: Apache-2.0
"""The grammar of nvme-stas's files, with the line of everything found.

Python's configparser as nvme-stas 2 and 3 set it up: ``=`` alone separates, keys are case-insensitive and sections are
not, comments have lines of their own and begin with ``#`` or ``;``, sections and keys may be repeated, an indented
line continues the value above it, and each of its lines is a value of its own.
"""

import re
from dataclasses import dataclass

from discoverd.config.finding import Findings
from discoverd.config.ini import COMMENT_HINT, key_name
from discoverd.config.sources import SourceFile

_HEADER = re.compile(r"\[(.+)\]")


@dataclass(frozen=True, slots=True)
class Option:
    """One value of a key; the value may be a secret, so it is not shown. ``line`` counts from 1."""

    section: str
    key: str
    value: str
    line: int

    @property
    def name(self) -> str:
        """The key for a message, unless it may be the tail of a secret that somebody wrapped."""
        return _name(self.key)

    def __repr__(self) -> str:
        return f"Option([{self.section}] {self.name}, line {self.line})"


def read(source: SourceFile, findings: Findings) -> list[Option]:
    """Return the options of a file in their order; a line that cannot be one is a finding, and counts for nothing."""
    options: list[Option] = []
    section: str | None = None
    last: Option | None = None
    indent = 0
    for number, raw in enumerate(_lines(source.data), 1):
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            if not raw.strip().startswith((b"#", b";")):
                findings.ignored(
                    number, "line", "it is not valid UTF-8, and nvme-stas does not start with it; write it again"
                )
                last = None
            continue
        text = line.strip()
        if not text:
            continue
        if text.startswith(("#", ";")):
            continue
        depth = len(line) - len(line.lstrip())
        if last and depth > indent:
            options.append(Option(last.section, last.key, text, number))
            continue
        indent, last = depth, None
        if header := _HEADER.match(text):
            section = header[1]
            if text[header.end() :].strip():
                findings.ignored(number, f"[{section}]", f"something follows the header; {COMMENT_HINT}")
            continue
        key, equals, value = text.partition("=")
        key = key.rstrip().lower()
        if section is None:
            findings.ignored(number, _name(key), "it stands before any section, and nvme-stas does not start")
        elif not key or not equals:
            findings.ignored(number, _name(key), "it has no '=', on which nvme-stas fails; write KEY=VALUE")
        else:
            last = Option(section, key, value.strip(), number)
            options.append(last)
    return options


def _name(key: str) -> str:
    return key_name(key).strip('"')


def _lines(data: bytes) -> list[bytes]:
    data = data.removeprefix(b"\xef\xbb\xbf")
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")


@dataclass(frozen=True, slots=True)
class Fields:
    """The ``key=value`` pairs of a ``controller`` or ``exclude`` line.

    ``unread`` are the keys of pairs that nvme-stas drops without a word, because there is an ``=`` in the value.
    ``stray`` counts the parts that are no pair.
    """

    pairs: dict[str, str]
    unread: tuple[str, ...]
    stray: int

    def __repr__(self) -> str:
        return f"Fields({', '.join(map(key_name, self.pairs))})"


def fields(text: str) -> Fields:
    """Take a ``controller`` or ``exclude`` line apart; of a repeated key the last counts."""
    pairs: dict[str, str] = {}
    unread: dict[str, bool] = {}
    stray = 0
    for part in text.split(";"):
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if equals and key:
            # It calls the NQN so inside, and takes that spelling too.
            key = "nqn" if key == "subsysnqn" else key
            pairs[key] = value
            unread[key] = "=" in value
        elif part.strip():
            stray += 1
    return Fields(pairs, tuple(key for key, is_unread in unread.items() if is_unread), stray)
