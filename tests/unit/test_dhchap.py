# SPDX-License-Identifier: Apache-2.0
"""The form of secrets for in-band authentication."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.kernel import dhchap

from .dhchap_secrets import secret

# As nvme gen-dhchap-key has made it.
MADE = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:"


@pytest.mark.parametrize(
    ("hash_id", "length"), [("00", 32), ("00", 48), ("00", 64), ("01", 32), ("02", 48), ("03", 64)]
)
def test_secret_of_the_right_form(hash_id: str, length: int) -> None:
    assert dhchap.problem(secret("x", hash_id, length)) == ""
    assert dhchap.problem(secret("x", hash_id, length).removesuffix(":")) == ""
    assert dhchap.problem(MADE) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "form"),
        ("x", "form"),
        ("DHHC-1:", "form"),
        ("DHHC-1:00", "form"),
        (MADE + "x", "form"),
        (MADE + ":", "form"),
        (MADE.lower(), "form"),
        (MADE.replace("DHHC-1", "DHHC-2"), "form"),
        (MADE.replace(":00:", ":0:"), "hash"),
        (MADE.replace(":00:", ":04:"), "hash"),
        (MADE.replace(":00:", "::"), "hash"),
        ("DHHC-1:00::", "0 bytes"),
        (MADE.replace("ia6z", "ia6 z"), "base64"),
        (MADE.replace("ia6z", "ia6"), "base64"),
        (MADE.replace("ia6z", "ia\n6z"), "base64"),
        (MADE.replace("ia6z", "ié6z"), "base64"),
        (MADE.replace("ia6z", "i-_z"), "base64"),
        (MADE.replace("ia6z", "ia6zia6z"), "35 bytes"),
        (secret("x", "01", 48), "48 bytes instead of 32"),
        (secret("x", "02", 32), "32 bytes instead of 48"),
        (secret("x", "00", 16), "16 bytes instead of 32 or 48 or 64"),
        (MADE.replace("ia6z", "ia6y"), "checksum"),
    ],
)
def test_secret_of_another_form(text: str, words: str) -> None:
    assert words in dhchap.problem(text)


@given(st.text())
def test_any_text_is_judged_and_not_shown(text: str) -> None:
    for one in (text, "DHHC-1:00:" + text, f"DHHC-1:{text}:x:"):
        problem = dhchap.problem(one)
        assert problem
        assert problem == "".join(filter(str.isprintable, problem))


@given(st.integers(10, len(MADE) - 2), st.characters(codec="ascii", exclude_characters="\n"))
def test_one_wrong_character_is_found(place: int, char: str) -> None:
    changed = MADE[:place] + char + MADE[place + 1 :]
    assert (dhchap.problem(changed) == "") is (changed == MADE)
