# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/design/threats.md: what it says that somebody can do at most is shown by tests that exist."""

import pytest

from . import named_tests

DOCUMENT = "threats.md"
HEADS = ("class", "it can at most", "he can at most", "they can at most", "it can")


def rows() -> list[list[str]]:
    return [row for row in named_tests.rows(DOCUMENT, HEADS) if row[0] not in ("trusted", "announced", "nobody")]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_a_row_says_what_bounds_it_and_what_shows_that(row: list[str]) -> None:
    assert len(row) == 3, row
    _, because, shown_by = row
    assert because
    named_tests.check(shown_by)
    assert named_tests.named(shown_by) or shown_by == "–" or shown_by.startswith("see the "), shown_by


def test_the_tables_are_found() -> None:
    assert len(rows()) > 40
    named_tests.check((named_tests.DESIGN / DOCUMENT).read_text())
