# SPDX-License-Identifier: Apache-2.0
"""JSON with the line of each key, which Python's json package does not tell.

The package decides what is JSON. Where it is, strings are easy to find in the text, and each one before a colon is a
key, in the order in which the values are gone through.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?', re.DOTALL)


class JsonError(ValueError):
    """A text that is no JSON. ``line`` counts from 1; the text says why, and quotes nothing."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


@dataclass(frozen=True, slots=True)
class Member:
    """A key of an object with its value and line. The value can be a secret."""

    key: str
    value: Any
    line: int

    def __repr__(self) -> str:
        return f"Member(line {self.line})"


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object; of members with the same key the last counts. ``line`` is that of the first, or of its parent."""

    members: tuple[Member, ...]
    line: int

    def get(self, key: str) -> Member | None:
        """Return the member that counts, None without one."""
        return next((one for one in reversed(self.members) if one.key == key), None)


@dataclass(frozen=True, slots=True)
class _Pairs:
    pairs: list[tuple[str, Any]]


def load(text: str) -> Any:
    """Return what a JSON text says, with an Object for each object in it. Raises JsonError."""
    try:
        value = json.loads(text, object_pairs_hook=_Pairs)
        return _located(value, _key_lines(text), 1)
    except json.JSONDecodeError as error:
        raise JsonError(error.lineno, error.msg) from None
    except ValueError:
        raise JsonError(1, "a number in it is too long") from None
    except RecursionError:
        raise JsonError(1, "its values are nested too deeply") from None


def _key_lines(text: str) -> Iterator[int]:
    """Yield the line of each key."""
    line, counted = 1, 0
    for match in _STRING.finditer(text):
        if match[1]:
            line += text.count("\n", counted, match.start())
            counted = match.start()
            yield line


def _located(value: Any, lines: Iterator[int], line: int) -> Any:
    if isinstance(value, _Pairs):
        members = []
        for key, inner in value.pairs:
            place = next(lines)
            members.append(Member(key, _located(inner, lines, place), place))
        return Object(tuple(members), members[0].line if members else line)
    if isinstance(value, list):
        return [_located(one, lines, line) for one in value]
    return value
