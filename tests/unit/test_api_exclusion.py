# SPDX-License-Identifier: Apache-2.0
"""An exclusion of a controller is about that controller, whatever a peer has put into its NQN."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd import exclusions
from discoverd.api import exclusion
from discoverd.api.exclusion import ExclusionError
from discoverd.tid import check_peer_nqn

PIECES = [";", "=", "nqn", "nqn.", "traddr", "transport", "tcp", "192.0.2.9", "trsvcid", " ", "#", ":", "x", "\t", "é"]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=12).map(
    lambda pieces: "nqn.2024-08.com.example:" + "".join(pieces)
)


def of_target(nqn: str, transport: str = "tcp", address: str = "192.0.2.1") -> exclusion.Fields:
    return exclusion.of_target(transport, address, "4420", nqn, "")


@given(HOSTILE)
def test_hostile_nqn_steers_an_exclusion_to_nothing_else(nqn: str) -> None:
    try:
        text = exclusion.written(of_target(nqn))
    except ExclusionError:
        return
    fields, sentence = exclusions.understand(text)
    assert sentence == ""
    assert fields == {"transport": "tcp", "traddr": "192.0.2.1", "trsvcid": "4420", "nqn": nqn}


@given(HOSTILE)
def test_nqn_as_a_word_excludes_that_subsystem_or_nothing(nqn: str) -> None:
    try:
        fields = exclusion.of_word(nqn)
    except ExclusionError:
        return
    assert fields == {"nqn": check_peer_nqn(nqn)}
    assert exclusions.understand(exclusion.written(fields))[0] == fields


def test_harmless_nqn_with_an_equals_sign_is_one() -> None:
    assert exclusion.of_word("nqn.2024-08.com.example:a=b") == {"nqn": "nqn.2024-08.com.example:a=b"}
    with pytest.raises(ExclusionError, match="give it as the target spells it"):
        exclusion.of_word("nqn.2024-08.com.example:a b")


@pytest.mark.parametrize(("nqn", "address"), [("", ""), ("", "192.0.2.1"), ("nqn.2024-08.com.example:a", "")])
def test_controller_of_which_too_little_is_known_excludes_no_others(nqn: str, address: str) -> None:
    with pytest.raises(ExclusionError, match="nothing tells any more what target"):
        of_target(nqn, address=address)


def test_loop_has_no_address_to_know() -> None:
    fields = of_target("nqn.2024-08.com.example:a", "loop", "")
    assert fields == {"transport": "loop", "trsvcid": "4420", "nqn": "nqn.2024-08.com.example:a"}
