# SPDX-License-Identifier: Apache-2.0
"""How a list of controllers is laid out: as a table for pipes, and to the width of a terminal.

On a terminal the controllers stand below their subsystem, so that the long part of their names is there once. Nothing
is lost but the middle of an NQN: what does not fit beside the other columns is folded, and where there is no room for
columns, lines are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from discoverd import state
from discoverd.cli import terminal, text
from discoverd.cli.overview import BLOCKED, Controller
from discoverd.config.errors import printable

_INDENT = "  "
_GAP = "  "
# With less room than this for the last column there are lines instead of columns.
_LEAST_ROOM = 20
_COLOURS = {
    state.LIVE: terminal.GREEN,
    **dict.fromkeys((state.RECONNECTING, state.CONNECTING, state.WAITING, state.STOPPING), terminal.YELLOW),
    **dict.fromkeys(("starting", "activating", "deactivating", "resetting"), terminal.YELLOW),
    **dict.fromkeys((state.REFUSED, state.GIVEN_UP, "failed", "dead", BLOCKED), terminal.RED),
    **dict.fromkeys((state.STOPPED, state.EXCLUDED, "masked"), terminal.GREY),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and what it says about a controller."""

    title: str
    cell: Callable[[Controller], str]

    def shown(self, controller: Controller) -> str:
        """Return the cell as it may go to a terminal."""
        return printable(self.cell(controller))


STATE = Column("STATE", lambda one: one.state)
SUBSYSTEM = Column("SUBSYSTEM", lambda one: one.subsysnqn)
STATUS = Column("STATUS", lambda one: one.detail)


def table(controllers: Sequence[Controller], columns: Sequence[Column], legend: bool) -> list[str]:
    """Return a line for each controller, with all there is to say; an empty cell is ``-``."""
    cells = [[column.shown(one) or "-" for column in columns] for one in controllers]
    if legend:
        cells.insert(0, [column.title for column in columns])
    return text.aligned(cells)


def tree(controllers: Sequence[Controller], columns: Sequence[Column], width: int, legend: bool) -> list[str]:
    """Return the lines for a terminal, with the controllers below their subsystems. The order is as given.

    ``columns`` begin with the state, and end with what may be folded.
    """
    *fixed, last = columns
    widths = _widths(controllers, fixed, legend)
    room = width - len(_INDENT) - sum(widths) - len(_GAP) * len(widths)
    has_room = room >= (_LEAST_ROOM if any(last.shown(one) for one in controllers) else -len(_GAP))
    lines = []
    if legend and has_room:
        lines.append(_INDENT + _row([column.title for column in columns], widths))
    for nqn, group in groupby(controllers, lambda one: one.subsysnqn):
        lines.append(terminal.painted(terminal.cut(printable(nqn) or "-", width), terminal.BOLD))
        for one in group:
            if has_room:
                lines += _beside(one, fixed, widths, terminal.fold(last.shown(one), max(1, room)))
            else:
                lines += _below([column.shown(one) for column in columns], width)
    return lines


def flat(controllers: Sequence[Controller], columns: Sequence[Column], width: int, legend: bool) -> list[str]:
    """Return the lines for a terminal in any other order, each controller with its subsystem. ``columns`` as above."""
    *fixed, last = columns
    widths = _widths(controllers, fixed, legend)
    room = width - sum(widths) - len(_GAP) * len(widths)
    lines = []
    if legend and room >= _LEAST_ROOM:
        lines.append(_row([*(column.title for column in fixed), SUBSYSTEM.title], widths))
    for one in controllers:
        nqn = SUBSYSTEM.shown(one)
        if room >= _LEAST_ROOM:
            lines.append(_beside(one, fixed, widths, [terminal.cut(nqn, room)])[0][len(_INDENT) :])
            lines += _indented(last.shown(one), width)
        else:
            lines += _below([*(column.shown(one) for column in fixed), nqn, last.shown(one)], width)
    return lines


def _widths(controllers: Sequence[Controller], columns: Sequence[Column], legend: bool) -> list[int]:
    widths = [max((len(column.shown(one)) for one in controllers), default=0) for column in columns]
    titles = [len(column.title) if legend else 1 for column in columns]
    return [max(pair) for pair in zip(widths, titles, strict=True)]


def _beside(controller: Controller, columns: Sequence[Column], widths: Sequence[int], folded: list[str]) -> list[str]:
    """Return a controller's row, with the lines of its last column below each other."""
    first, *rest = [column.shown(controller) or "-" for column in columns]
    head = _painted(first) + " " * (widths[0] - len(first))
    line = _INDENT + _GAP.join([head, _row([*rest, folded[0]], widths[1:])])
    offset = len(_INDENT) + sum(widths) + len(_GAP) * len(widths)
    return [line.rstrip(), *(" " * offset + one for one in folded[1:])]


def _below(cells: Sequence[str], width: int) -> list[str]:
    """Return a controller's cells as a paragraph, the state first."""
    first, *rest = cells
    lines = terminal.fold(_GAP.join([first, *(one for one in rest if one)]), width - len(_INDENT), _INDENT)
    if lines[0].startswith(first):
        lines[0] = _painted(first) + lines[0][len(first) :]
    return [_INDENT + line for line in lines]


def _indented(detail: str, width: int) -> list[str]:
    indent = _INDENT * 2
    return [indent + line for line in terminal.fold(detail, width - len(indent))] if detail else []


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return cells below those of other rows; the last one may be longer."""
    padded = [cell.ljust(width) for cell, width in zip(cells, [*widths, 0], strict=False)]
    return _GAP.join(padded).rstrip()


def _painted(word: str) -> str:
    return terminal.painted(word, _COLOURS.get(word, ""))
