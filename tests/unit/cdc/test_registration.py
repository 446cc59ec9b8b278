# SPDX-License-Identifier: Apache-2.0
"""What a host tells about itself is read to the last byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cdc.registration import RegistrationError, parse
from tests.unit.cdc.host import HOST
from tests.unit.cdc.registrations import HOST_ID, attribute, data

SYMBOLIC = attribute(2, b"rack 4".ljust(8))


def test_a_host_with_its_id_and_symbolic_name() -> None:
    told = parse(0, data(attribute(1, HOST_ID.bytes), SYMBOLIC))
    assert (told.task, told.entity, told.nqn, told.name, told.version) == (
        "register",
        "host",
        HOST,
        "lab",
        "Linux 6.12",
    )
    assert (told.host_id, told.symbolic_name, told.key_type) == (str(HOST_ID), "rack 4", 0x5F)
    assert told.entries[0].nqn == HOST
    assert (told.entries[0].trtype, told.entries[0].adrfam, told.entries[0].traddr) == (3, 1, "")


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (data()[:1000], "no header"),
        (data() + bytes(4), "total length"),
        (data(total=2000), "total length"),
        (data(form=3), "entry format"),
        (data(entity=9), "entity type"),
        (data(copies=0) + bytes(4), "total length"),
        (data(attribute(1, bytes(12))), "host ID of 12 bytes"),
        (data(attribute(2, b"odd")), "entry of 1039 bytes"),
        (data(attribute(7, bytes(4))), "attribute of type 7"),
        (data().replace(b"lab\0", b"l\xff\xff\0", 1), "UTF-8"),
        (data().replace(b"lab\0", b"l\0b\0", 1), "bytes after the end of the text"),
        (data()[:700] + b"x" + data()[701:], "reserved"),
    ],
)
def test_malformed_registration_is_refused(spoilt: bytes, reason: str) -> None:
    with pytest.raises(RegistrationError, match=reason):
        parse(0, spoilt)


def test_there_are_three_tasks() -> None:
    assert [parse(task, data()).task for task in range(3)] == ["register", "deregister", "update"]
    with pytest.raises(RegistrationError, match="task 3"):
        parse(3, data())


@given(st.lists(st.tuples(st.integers(0, 2200), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 2300))
def test_mutations_are_parsed_or_refused(changes: list[tuple[int, int]], cut: int) -> None:
    spoilt = bytearray(data(attribute(1, HOST_ID.bytes), SYMBOLIC))
    for position, value in changes:
        spoilt[position % len(spoilt)] = value
    for candidate in (bytes(spoilt), bytes(spoilt[:cut])):
        try:
            parse(0, candidate)
        except RegistrationError:
            pass
