# SPDX-License-Identifier: Apache-2.0
"""Tests that a document names as proof, and whether they exist."""

import ast
import functools
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DESIGN = TESTS.parent / "docs/design"


def rows(document: str, heads: tuple[str, ...]) -> list[list[str]]:
    """Return the cells of every row of the document's tables, without the heads, whose first cells are given."""
    found = []
    for line in (DESIGN / document).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] not in heads and not line.startswith("| ---"):
            found.append(cells)
    return found


def named(text: str) -> list[tuple[str, str]]:
    """Return the files and the functions that a text names."""
    return [(file, name) for file, name in re.findall(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`", text)]


def check(text: str) -> None:
    """Raise AssertionError for a test that does not exist, or is named in another form."""
    found = named(text)
    assert len(found) == text.count("::test_"), f"{text!r} has a test in another form"
    for file, name in found:
        assert (TESTS / file).is_file(), f"there is no tests/{file}"
        assert name in _functions_of(file), f"there is no {name} in tests/{file}"


@functools.cache
def _functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
