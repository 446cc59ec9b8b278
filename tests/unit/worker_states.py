# SPDX-License-Identifier: Apache-2.0
"""The diagram of a worker's states in docs/design/worker.md, drawn from the machine's tables.

``python -m tests.unit.worker_states`` draws it anew.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from discoverd.worker import machine
from discoverd.worker.machine import DECISIONS, LINKS, TRANSITIONS, Machine

if TYPE_CHECKING:
    from discoverd.worker.machine import Decision

DOCUMENT = Path(__file__).parents[2] / "docs/design/worker.md"
BEGIN, END = "<!-- drawn by tests/unit/worker_states.py -->\n", "<!-- end of what is drawn -->\n"
# What a decision is called in the table of goals.
ORDERS: "dict[Decision, str]" = {
    Machine._connect: "find it, or connect, when it is due",
    Machine._give_up_dead: "give it up, if the system goes down and it has been silent for 60 s",
    Machine._poll: "disconnect until it is read again",
    Machine._withdraw: "disconnect",
    Machine._stop: "disconnect",
    Machine._stopped_without: "end",
}


def table(title: str, head: "list[str]", rows: "list[list[str]]") -> list[str]:
    """Return a table in Markdown."""
    return [
        f"| {title} | " + " | ".join(head) + " |",
        "|---" * (len(head) + 1) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def diagram() -> str:
    """Return what the document has to show."""
    lines = ["What an event makes of a link; an empty field: nothing.", ""]
    rows = []
    for event, row in TRANSITIONS.items():
        cells = []
        for link, cell in zip(LINKS, row, strict=True):
            after = "" if cell is None else cell[0] or "as before"
            cells.append("stays" if after == link else after)
        rows.append([event, *cells])
    lines += table("event", list(LINKS), rows)
    lines += [
        "What each goal makes of each link; an empty field: nothing, or the operation under way is waited for.",
        "",
    ]
    rows = [[goal, *(ORDERS.get(one, "") for one in row)] for goal, row in DECISIONS.items()]
    lines += table("goal", list(LINKS), rows)
    lines += ["```mermaid", "stateDiagram-v2", f"    [*] --> {machine.ABSENT}"]
    arrows: dict[tuple[str, str], list[str]] = {}
    for event, row in TRANSITIONS.items():
        for link, cell in zip(LINKS, row, strict=True):
            if cell is not None and cell[0] not in ("", link):
                arrows.setdefault((link, cell[0]), []).append(event)
    arrows[machine.ABSENT, machine.CONNECTING] = ["due"]
    for link in (machine.LIVE, machine.RECONNECTING):
        arrows[link, machine.DISCONNECTING] = ["the goal is not to keep it"]
        arrows[machine.DISCONNECTING, link] = ["kept"]
    lines += [f"    {one} --> {other}: {', '.join(events)}" for (one, other), events in arrows.items()]
    lines += [f"    {machine.ABSENT} --> [*]: stopped, withdrawn, excluded, given up", "```", ""]
    return "\n".join(lines)


def drawn(document: str) -> str:
    """Return what a document shows."""
    return document.partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    text = DOCUMENT.read_text()
    head, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(head + BEGIN + diagram() + END + rest.partition(END)[2])
