# SPDX-License-Identifier: Apache-2.0
"""What goes to the terminal: tables, lines and JSON. What a peer or a file brought is made harmless here."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from discoverd.config.errors import printable


def line(text: str = "") -> None:
    """Write a line to standard output."""
    sys.stdout.write(printable(text) + "\n")


def raw(text: str) -> None:
    """Write a line to standard output whose parts are harmless already, and that may have colours in it."""
    sys.stdout.write(text + "\n")


def remark(text: str, lines: Iterable[str] = ()) -> None:
    """Write a line to standard error, and these below it."""
    sys.stdout.flush()
    sys.stderr.write(f"discoverctl: {printable(text)}\n")
    sys.stderr.writelines(f"  {printable(one)}\n" for one in lines)
    sys.stderr.flush()


def document(value: Any) -> None:
    """Write JSON to standard output. It is ASCII, so that nothing in it moves a cursor."""
    # Only here, as in what follows: most commands print for people, and shall not wait for it.
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], legend: bool = True) -> None:
    """Write a table, an empty cell as ``-``. The last column is as wide as it likes."""
    cells = [[printable(cell) or "-" for cell in row] for row in rows]
    if legend:
        cells.insert(0, list(titles))
    widths = [max((len(row[column]) for row in cells), default=0) for column in range(len(titles) - 1)]
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join([*padded, row[-1]]).rstrip() + "\n")


def quoted(word: str) -> str:
    """Return a word as a shell takes it."""
    import shlex

    return shlex.quote(word)


def count(number: int, noun: str) -> str:
    """Return ``1 thing`` or ``2 things``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def progress(text: str) -> None:
    """Show a text in place of the last one on standard error, which is a terminal; '' takes it away."""
    import shutil

    sys.stderr.write("\r\x1b[K" + printable(text)[: shutil.get_terminal_size().columns - 1])
    sys.stderr.flush()
