# SPDX-License-Identifier: Apache-2.0
"""What of a specification everybody may know, and where it stands."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd import state, store
from discoverd.public_spec import OPTIONS, public

from .private_bus import SECRET, instance, spec

ONE = instance(1)
TEXTS = st.text("abcdefghijklmnop:._-0123456789", max_size=20)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path))
    return tmp_path / ONE


@given(
    st.lists(st.tuples(TEXTS.map("key{}".format), TEXTS), max_size=6),
    st.lists(st.tuples(st.sampled_from(OPTIONS), TEXTS), max_size=6),
)
def test_of_a_specification_only_what_is_listed(others: list[tuple[str, str]], listed: list[tuple[str, str]]) -> None:
    told = public(state.Spec("io", [*others, *listed]))
    assert told.options == listed
    assert {key for key, _ in told.options} <= set(OPTIONS)


def test_public_options_are_no_secrets() -> None:
    """Whoever adds one has to think."""
    assert not [key for key in OPTIONS if "secret" in key or "key" in key or "tls" in key]


def test_everybody_reads_the_public_part_and_only_root_the_rest(directory: Path) -> None:
    spec(ONE)
    whole, part = directory / "spec", directory / state.PUBLIC_SPEC
    assert SECRET in whole.read_text()
    assert stat.S_IMODE(whole.stat().st_mode) == state.PRIVATE
    assert stat.S_IMODE(part.stat().st_mode) == state.PUBLIC
    assert SECRET not in part.read_text()
    assert "dhchap" not in part.read_text()
    assert state.Spec.decode(part.read_bytes()).option("traddr") == "192.0.2.2"


def test_specification_of_an_earlier_version_has_its_public_part_written(directory: Path) -> None:
    spec(ONE)
    (directory / state.PUBLIC_SPEC).unlink()
    one = store.read_spec(ONE)
    assert one
    assert not store.write_spec(ONE, one), "it is the same"
    assert (directory / state.PUBLIC_SPEC).exists()
