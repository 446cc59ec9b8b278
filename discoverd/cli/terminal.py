# SPDX-License-Identifier: Apache-2.0
"""The terminal that the output goes to, if it goes to one: how wide it is, what fits, and colours."""

import os
import shutil
import sys
import textwrap

# What is left out of a text that is cut.
_GAP = "…"
# Narrower ones are treated as if they had so many columns.
_NARROWEST = 12
RED, GREEN, YELLOW, GREY, BOLD = "1;31", "32", "33", "90", "1"


def columns() -> int:
    """Return how wide the terminal is, 0 where the output goes elsewhere: a pipe gets all."""
    if not sys.stdout.isatty():
        return 0
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def rows() -> int:
    """Return how many lines the terminal has."""
    return max(2, shutil.get_terminal_size().lines)


def has_colours() -> bool:
    """Tell whether to use colours: on a terminal that has them, unless NO_COLOR is set and not empty (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def painted(text: str, colour: str) -> str:
    """Return a text in a colour, as it is where there is none."""
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and has_colours() else text


def cut(text: str, width: int) -> str:
    """Return a text that is too wide without its middle: what tells the NQNs of one array apart is at their end."""
    if len(text) <= width:
        return text
    end = (width - len(_GAP)) * 2 // 3
    return text[: width - len(_GAP) - end] + _GAP + text[-end:]


def fold(text: str, width: int, indent: str = "") -> list[str]:
    """Return the lines of a text that is folded to a width, those from the second on behind an indentation."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False) or [""]
