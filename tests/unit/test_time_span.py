# SPDX-License-Identifier: Apache-2.0
"""Spans of time: what they are in seconds, and what is none."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.time_span import TimeSpanError, parse, written

UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hours": 3600, "d": 86400, "days": 86400}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("0", 0),
        ("1.5", 1.5),
        ("30s", 30),
        ("5min", 300),
        ("2h", 7200),
        ("1m", 60),
        ("3d", 259200),
        ("15 min", 900),
        (" 5 sec ", 5),
        ("72H", 259200),
        ("1.1h", 3960),
        (".5h", 1800),
        ("5.", 5),
        ("0005", 5),
        ("Never", 0),
    ],
)
def test_span_in_seconds(text: str, expected: float) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "s",
        "-1",
        "+1",
        "1e3",
        "1_0",
        "٣",
        "inf",
        "nan",
        "5y",
        "3 weeks",
        "1h 30s",
        "5 s s",
        "1.2.3",
        "9" * 400,
    ],
)
def test_what_is_no_span_is_refused_with_what_one_is(text: str) -> None:
    with pytest.raises(TimeSpanError, match=r"^a time such as 30min, 72h or 3d, or never$"):
        parse(text)


@given(
    st.decimals(0, 10**9, places=3), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "\t "]), st.booleans()
)
def test_any_number_counts_its_unit(number: object, unit: str, blanks: str, upper: bool) -> None:
    text = f"{number}{blanks}{unit}"
    assert parse(text.upper() if upper else text) == float(Fraction(str(number)) * UNITS[unit])


@given(st.one_of(st.text(), st.from_regex(r"[0-9. ]{0,70}[a-z]{0,5}", fullmatch=True)))
def test_any_text_is_a_span_or_refused(text: str) -> None:
    try:
        seconds = parse(text)
    except TimeSpanError:
        return
    assert seconds >= 0
    assert math.isfinite(seconds)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "never"), (1, "1s"), (90, "90s"), (900, "15min"), (259200, "72h")]
)
def test_span_as_it_is_written(seconds: int, expected: str) -> None:
    assert written(seconds) == expected


@given(st.integers(0, 10**12))
def test_what_is_written_is_read_as_the_same(seconds: int) -> None:
    assert parse(written(seconds)) == seconds
