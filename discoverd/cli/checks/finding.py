# SPDX-License-Identifier: Apache-2.0
"""What a check has found."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["problem", "hint"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be: a sentence with the facts, and one with what to do.

    A problem loses data or connections sooner or later; a hint may be meant like this.
    """

    severity: Severity
    text: str
    remedy: str


def problem(text: str, remedy: str) -> Finding:
    """Return a finding that somebody should act upon."""
    return Finding("problem", text, remedy)


def hint(text: str, remedy: str) -> Finding:
    """Return a finding that may be meant like this."""
    return Finding("hint", text, remedy)
