# SPDX-License-Identifier: Apache-2.0
"""Faults in configuration files: where, what, and what to do about it."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]

# A file of garbage must not become a journal of garbage.
MAX_PER_FILE = 100

_SECRET = re.compile(r"(DHHC-1|NVMeTLSkey-[0-9])[^\s'\"]*")


class ConfigError(Exception):
    """Configuration that cannot be used; the text says why and what to do."""


def printable(text: str) -> str:
    """Return ``text`` safe for a terminal or a journal: no control characters, no secrets."""
    text = _SECRET.sub("<secret>", text)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def quote(text: str) -> str:
    """Return ``text`` printable, in quotation marks and at most 80 characters long."""
    text = printable(text)
    return f'"{text}"' if len(text) <= 80 else f'"{text[:80]}…"'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to ``word``, or ''."""
    if len(word) > 60:
        return ""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower().replace("_", "-"), names, n=1, cutoff=0.65)
    return f"did you mean {names[near[0]]}?" if near else ""


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """One fault. ``line`` and ``column`` count from 1; 0 where the fault is not at one place in the file.

    ``ignored``: what stands there has no effect, so that what was meant is missing.

    ``str()`` gives ``path:line:column: message (hint)``, printable and free of secrets.
    """

    path: str
    line: int
    column: int
    severity: Severity
    message: str
    hint: str = ""
    ignored: bool = False

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return printable(f"{place}: {self.message}" + (f" ({self.hint})" if self.hint else ""))


class Report:
    """Collects the faults of one file. ``broken`` becomes true with the first error."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.broken = False
        self.diagnostics: list[Diagnostic] = []

    def error(self, line: int, column: int, message: str, hint: str = "") -> None:
        self.broken = True
        self._add(line, column, "error", message, hint)

    def warn(self, line: int, column: int, message: str, hint: str = "", *, ignored: bool = False) -> None:
        self._add(line, column, "warning", message, hint, ignored)

    @property
    def full(self) -> bool:
        """Whether further faults are only counted as one; whoever computes costly hints can ask first."""
        return len(self.diagnostics) > MAX_PER_FILE

    def _add(self, line: int, column: int, severity: Severity, message: str, hint: str, ignored: bool = False) -> None:
        if self.full:
            return
        if len(self.diagnostics) == MAX_PER_FILE:
            message, hint = "more faults follow, which are not shown", "mend these first"
        text = printable(message), printable(hint)
        self.diagnostics.append(Diagnostic(self.path, line, column, severity, *text, ignored))
