# SPDX-License-Identifier: Apache-2.0
"""Spans of time as people write them: a part of the grammar of systemd.time(7), with ``never``.

Imports ``re`` only, which argparse has imported already: discoverctl parses its options with it.
"""

import re

# Unlike in systemd.time(7), upper case counts as lower, so that M is minutes.
_UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hours": 3600, "d": 86400, "days": 86400}
_SPAN = re.compile(r"([0-9]*)(?:\.([0-9]*))?\s*([a-z]*)")
_WRITTEN = (("h", 3600), ("min", 60), ("s", 1))
# A number of so many digits fits a float, and int() takes it.
_LENGTH_MAX = 60


class TimeSpanError(ValueError):
    """A text that is no span of time; str() says what one is, to go behind "is not"."""


def parse(text: str) -> float:
    """Return the seconds, as the nearest float, of a number with a unit, or without: ``90``, ``1.5h``, ``15 min``.

    0 for ``never``. Raises TimeSpanError, also for what systemd takes beyond that, such as ``1h 30s``.
    """
    word = text.strip().lower()
    if word == "never":
        return 0.0
    match = _SPAN.fullmatch(word) if len(word) <= _LENGTH_MAX else None
    if not match or not (match[1] or match[2]) or match[3] not in _UNITS:
        raise TimeSpanError("a time such as 30min, 72h or 3d, or never")
    fraction = match[2] or ""
    # Not float(text) * unit: 1.1 hours are 3960 seconds, and not a little more.
    scale: int = 10 ** len(fraction)
    return int(match[1] + fraction) * _UNITS[match[3]] / scale


def written(seconds: int) -> str:
    """Return how the configuration has a span: in the largest of ``h``, ``min`` and ``s`` that is whole, 0 as never."""
    return next((f"{seconds // size}{unit}" for unit, size in _WRITTEN if seconds and not seconds % size), "never")
