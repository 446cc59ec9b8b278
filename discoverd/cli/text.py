# SPDX-License-Identifier: Apache-2.0
"""What goes to the terminal: tables, lines and JSON. What a peer or a file brought is made harmless here."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from discoverd.config.errors import printable

# A wait that takes longer than this is shown.
_SHOW_WAIT_SECONDS = 2.0


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


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table below its titles, an empty cell as ``-``."""
    cells = [[printable(cell) or "-" for cell in row] for row in rows]
    for one in aligned([titles, *cells]):
        raw(one)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, its cells below those of the others. The last one is as wide as it likes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    padded = ([*map(str.ljust, row, widths), row[-1]] for row in rows)
    return ["  ".join(cells).rstrip() for cells in padded]


def quoted(word: str) -> str:
    """Return a word as a shell takes it."""
    import shlex

    return shlex.quote(word)


def count(number: int, noun: str) -> str:
    """Return ``1 thing`` or ``2 things``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def waiting() -> Iterator[Callable[[str], None]]:
    """Give what shows how a wait stands: in one line of standard error, if that is a terminal and it takes long.

    At the end the line is taken away.
    """
    began = time.monotonic()
    shown = False

    def show(what: str) -> None:
        nonlocal shown
        waited = time.monotonic() - began
        if waited > _SHOW_WAIT_SECONDS and sys.stderr.isatty():
            shown = True
            _progress(f"{waited:.0f} s: {what}")

    try:
        yield show
    finally:
        if shown:
            _progress("")


def _progress(text: str) -> None:
    """Show a text in place of the last one; '' takes it away."""
    import shutil

    sys.stderr.write("\r\x1b[K" + printable(text)[: shutil.get_terminal_size().columns - 1])
    sys.stderr.flush()
