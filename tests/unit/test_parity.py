# SPDX-License-Identifier: Apache-2.0
"""The table of docs/design/parity.md: what it says is proven has a test, and every row says what it claims."""

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs/design/parity.md"
VERDICTS = ("yes", "differently", "not yet", "no")


def rows() -> list[list[str]]:
    """The cells of every row of a table of features, without the heads."""
    found = []
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] != "feature" and not line.startswith("| ---"):
            found.append(cells)
    return found


@functools.cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def proofs(text: str) -> list[tuple[str, str]]:
    return [(file, name) for file, name in re.findall(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`", text)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_a_row_has_four_cells_a_verdict_and_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 4, row
    _, theirs, ours, proof = row
    assert theirs
    verdict = re.match(r"\*\*([a-z ]+)\*\*", ours)
    assert verdict, f"{ours!r} does not begin with one of {VERDICTS}"
    assert verdict[1] in VERDICTS
    named = proofs(proof)
    assert len(named) == proof.count("::"), f"{proof!r} has a test in another form"
    assert named or verdict[1] in ("not yet", "no"), "what is there is proven"
    for file, name in named:
        assert (TESTS / file).is_file(), f"there is no tests/{file}"
        assert name in functions_of(file), f"there is no {name} in tests/{file}"


def test_the_table_is_found() -> None:
    assert len(rows()) > 100
    for file, name in proofs(TABLE.read_text()):
        assert name in functions_of(file)
