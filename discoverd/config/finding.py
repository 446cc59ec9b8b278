# SPDX-License-Identifier: Apache-2.0
"""What an administrator has to know about one thing in another tool's files."""

from dataclasses import dataclass
from enum import Enum

from .errors import MAX_PER_FILE, printable


class Kind(Enum):
    """How much a finding matters: the tool acts on it and we do not, we do otherwise, or the tool does not either."""

    LOST = "not carried over"
    DIFFERS = "differs"
    IGNORED = "{tool} ignores it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report about a file of ``tool``.

    ``line`` counts from 1, 0 for the file as a whole. ``text`` has the reason and what to do, and no secret.
    """

    path: str
    line: int
    key: str
    kind: Kind
    text: str
    tool: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return printable(f"{place}: {self.key}: {self.kind.value.format(tool=self.tool)}: {self.text}")


class Findings:
    """Collects the findings about one file."""

    def __init__(self, path: str, tool: str) -> None:
        self.path = path
        self.found: list[Finding] = []
        self._tool = tool

    @property
    def many(self) -> bool:
        """Whether there are so many that costly hints help nobody."""
        return len(self.found) > MAX_PER_FILE

    def lost(self, line: int, key: str, text: str) -> None:
        self._add(line, key, Kind.LOST, text)

    def differs(self, line: int, key: str, text: str) -> None:
        self._add(line, key, Kind.DIFFERS, text)

    def ignored(self, line: int, key: str, text: str) -> None:
        self._add(line, key, Kind.IGNORED, text)

    def _add(self, line: int, key: str, kind: Kind, text: str) -> None:
        self.found.append(Finding(self.path, line, key, kind, text, self._tool))
