# SPDX-License-Identifier: Apache-2.0
"""Values of nvme-stas's options as it reads them, and as we write them."""

import math
import re
from typing import TypeVar

from discoverd.config.errors import quote
from discoverd.config.ini import comment_hint
from discoverd.config.keys import parse_int

# Its names of what a connection is made with, and ours.
TUNABLES = {
    "hdr-digest": "hdr-digest",
    "data-digest": "data-digest",
    "disable-sqflow": "disable-sqflow",
    "kato": "keep-alive-tmo",
    "reconnect-delay": "reconnect-delay",
    "ctrl-loss-tmo": "ctrl-loss-tmo",
    "queue-size": "queue-size",
    "nr-io-queues": "nr-io-queues",
    "nr-write-queues": "nr-write-queues",
    "nr-poll-queues": "nr-poll-queues",
}
# They mean nothing for a discovery controller, and neither of us sends them.
QUEUES = frozenset(("queue-size", "nr-io-queues", "nr-write-queues", "nr-poll-queues"))
T = TypeVar("T")

_FLAGS = frozenset(("hdr-digest", "data-digest", "disable-sqflow"))

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_SPAN = re.compile(
    "".join(
        rf"(?:({_NUMBER})\s*(?:{words})\s*[,/]?\s*)?"
        for words in ("d|dys?|days?", "h|hrs?|hours?", "m|mins?|minutes?", "s|secs?|seconds?")
    )
)
_CLOCK = re.compile(rf"(?:([0-9]+)\s*(?:d|dys?|days?)\s*[,/]?\s*)?((?:[0-9]+:){{1,3}}|:)({_NUMBER})")
_UNITS = (86400, 3600, 60, 1)


class BadValueError(ValueError):
    """A value that nvme-stas or the kernel does not take; the text says why, and shows no secret."""


def is_true(text: str) -> bool:
    """Understand ``true`` and ``false``. Raises BadValueError."""
    return choice(text.lower(), {"true": True, "false": False})


def choice(text: str, meanings: dict[str, T]) -> T:
    """Return what a word means. Raises BadValueError."""
    if text not in meanings:
        raise _bad(text, " or ".join(meanings))
    return meanings[text]


def number(text: str) -> int:
    """Understand a whole number that fits a C int. Raises BadValueError."""
    try:
        value = int(text)
    except ValueError:
        raise _bad(text, "a whole number") from None
    if parse_int(str(value)) is None:
        raise _bad(text, "a number that the kernel can take")
    return value


def tunable(key: str, text: str) -> str:
    """Return the value of one of TUNABLES as our files have it. Raises BadValueError where it has no effect."""
    if key in _FLAGS:
        return "true" if is_true(text) else "false"
    value = number(text)
    if key == "ctrl-loss-tmo":
        return str(max(value, -1))
    if key == "queue-size" and not 16 <= value <= 1024:
        raise _bad(text, "a number from 16 to 1024")
    if value < 0:
        raise BadValueError(f"{value} is refused by the kernel; write a positive number")
    if not value:
        raise BadValueError("0 leaves it to the kernel, as if it were not there; nothing to do")
    return str(value)


def seconds(text: str) -> int:
    """Return the seconds, rounded up, in a number or a span such as ``3 days 5 hours``, ``72h`` or ``1:30:00``.

    Negative where there is a minus sign in front. Raises BadValueError.
    """
    word = text.strip().lower()
    sign = -1 if word.startswith("-") else 1
    word = word.removeprefix("-").removeprefix("+").strip()
    if len(word) > 60:
        raise _bad(text, "a time")
    if re.fullmatch(_NUMBER, word):
        return sign * math.ceil(float(word))
    if word and (match := _SPAN.fullmatch(word)):
        parts = [float(part or 0) for part in match.groups()]
    elif match := _CLOCK.fullmatch(word):
        days, colons, last = match.groups()
        clock = [*(float(part) for part in colons.split(":")[:-1] if part), float(last)]
        if days and len(clock) == 4:
            raise _bad(text, "a time")
        parts = [0.0] * (4 - len(clock)) + clock
        parts[0] += float(days or 0)
    else:
        raise _bad(text, "a time such as 30 minutes, 72 hours or 3 days")
    return sign * math.ceil(sum(part * unit for part, unit in zip(parts, _UNITS, strict=True)))


def _bad(text: str, wanted: str) -> BadValueError:
    hint = comment_hint(text)
    return BadValueError(f"{quote(text)} is not {wanted}; {hint or 'write one'}")
