# SPDX-License-Identifier: Apache-2.0
"""A chart of what `make bench` has measured: `python -m tests.bench.chart RESULT.json >docs/design/performance.svg`."""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, ROW, LABEL, BAR = 720, 26, 130, 440
TITLE_HEIGHT = 34
OURS, OTHERS = "#0b6fa4", "#9aa5ad"


def panel(title: str, unit: str, rows: Sequence[tuple[str, float]], top: int) -> list[str]:
    """The lines of one group of bars, which begins at ``top``."""
    longest = max(value for _, value in rows)
    lines = [f'<text x="0" y="{top + 20}" class="title">{escape(title)}</text>']
    for number, (name, value) in enumerate(rows):
        y = top + TITLE_HEIGHT + number * ROW
        width = max(1, round(BAR * value / longest))
        color = OURS if name == "discoverd" else OTHERS
        lines += [
            f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{width}" height="18" fill="{color}"/>',
            f'<text x="{LABEL + width + 6}" y="{y + 14}">{value:.1f} {unit}</text>',
        ]
    return lines


def chart(result: dict[str, Any]) -> str:
    """The storms of a result as SVG: medians of the seconds, and of the CPU seconds of the whole machine."""
    storms: dict[str, list[dict[str, Any]]] = {}
    for one in result["storms"]:
        storms.setdefault(one["contender"], []).append(one)
    count = result["storms"][0]["controllers"]
    seconds = [(name, statistics.median(one["seconds"] for one in rounds)) for name, rounds in storms.items()]
    cpu = [(name, statistics.median(sum(one["cpu"].values()) for one in rounds)) for name, rounds in storms.items()]
    height = TITLE_HEIGHT + len(storms) * ROW + 16
    lines = panel(f"{count} controllers, from start to live, in the lab's emulated machine", "s", seconds, 0)
    lines += panel("processor seconds of the whole machine meanwhile", "s", cpu, height)
    style = "text { font: 13px sans-serif; fill: #222 } .title { font-weight: bold }"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{2 * height}" role="img">',
            f"<style>{style}</style>",
            f'<rect width="{WIDTH}" height="{2 * height}" fill="#fff"/>',
            *lines,
            "</svg>",
        ]
    )


if __name__ == "__main__":
    print(chart(json.loads(Path(sys.argv[1]).read_text())))
