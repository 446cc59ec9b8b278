# SPDX-License-Identifier: Apache-2.0
"""The table of docs/design/parity.md: what it says is proven has a test, and every row says what it claims."""

import re

import pytest

from . import named_tests

DOCUMENT = "parity.md"
VERDICTS = ("yes", "differently", "not yet", "no")


def rows() -> list[list[str]]:
    return named_tests.rows(DOCUMENT, ("feature",))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_a_row_has_four_cells_a_verdict_and_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 4, row
    _, theirs, ours, proof = row
    assert theirs
    verdict = re.match(r"\*\*([a-z ]+)\*\*", ours)
    assert verdict, f"{ours!r} does not begin with one of {VERDICTS}"
    assert verdict[1] in VERDICTS
    named_tests.check(proof)
    assert named_tests.named(proof) or verdict[1] in ("not yet", "no"), "what is there is proven"


def test_the_table_is_found() -> None:
    assert len(rows()) > 100
    named_tests.check((named_tests.DESIGN / DOCUMENT).read_text())
