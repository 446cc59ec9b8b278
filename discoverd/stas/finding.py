# SPDX-License-Identifier: Apache-2.0
"""What an administrator has to know about one thing in nvme-stas's files."""

from dataclasses import dataclass
from enum import Enum

from discoverd.config.errors import printable


class Kind(Enum):
    """How much a finding matters: nvme-stas acts on it and we do not, we do otherwise, or nvme-stas does not either."""

    LOST = "not carried over"
    DIFFERS = "differs"
    IGNORED = "nvme-stas ignores it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    ``line`` counts from 1, 0 for the file as a whole. ``text`` has the reason and what to do, and no secret.
    """

    path: str
    line: int
    key: str
    kind: Kind
    text: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return printable(f"{place}: {self.key}: {self.kind.value}: {self.text}")


class Findings:
    """Collects the findings about one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[Finding] = []

    def lost(self, line: int, key: str, text: str) -> None:
        self.found.append(Finding(self.path, line, key, Kind.LOST, text))

    def differs(self, line: int, key: str, text: str) -> None:
        self.found.append(Finding(self.path, line, key, Kind.DIFFERS, text))

    def ignored(self, line: int, key: str, text: str) -> None:
        self.found.append(Finding(self.path, line, key, Kind.IGNORED, text))
