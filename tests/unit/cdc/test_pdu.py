# SPDX-License-Identifier: Apache-2.0
"""Framing and digests."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cdc import pdu
from tests.cdc.crc32c import crc32c
from tests.cdc.pdu import NO_DIGESTS, Digests, Fault, Kind, Pdu, PduError


def read(data: bytes, digests: Digests = NO_DIGESTS) -> Pdu:
    async def receive() -> Pdu:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await pdu.receive(reader, digests)

    return asyncio.run(receive())


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_digest_is_the_one_of_rfc_3720(data: bytes, digest: int) -> None:
    assert crc32c(data) == digest.to_bytes(4, "little")


@given(
    st.binary(max_size=300),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 4, 8, 64, 128]),
    st.sampled_from([Kind.COMMAND, Kind.C2H_DATA, Kind.H2C_DATA]),
)
def test_encoded_pdu_is_received(data: bytes, header: bool, body: bool, alignment: int, kind: Kind) -> None:
    digests = Digests(header, body)
    fields = bytes(range(pdu.HEADER_LENGTH[kind] - 8))
    received = read(pdu.encode(Pdu(kind, fields, data), digests, alignment), digests)
    assert (received.kind, received.fields, received.data, received.intact) == (kind, fields, data, True)


def test_data_begins_where_the_host_wants_it() -> None:
    assert pdu.encode(Pdu(Kind.C2H_DATA, b"", b"data"), Digests(header=True), 128)[128:] == b"data"


def test_wrong_digests_are_told_apart() -> None:
    both = Digests(header=True, data=True)
    data = bytearray(pdu.encode(Pdu(Kind.C2H_DATA, b"", b"data"), both))
    data[-1] ^= 1
    assert not read(bytes(data), both).intact
    data[10] ^= 1
    with pytest.raises(PduError) as caught:
        read(bytes(data), both)
    assert caught.value.fault is Fault.HEADER_DIGEST


@pytest.mark.parametrize(
    "data",
    [
        b"\x0f\x00\x18\x00\x18\x00\x00\x00".ljust(24, b"\0"),  # no such type
        b"\x04\x00\x18\x00\x18\x00\x00\x00".ljust(72, b"\0"),  # a command of another length
        b"\x05\x00\x18\x00\x04\x00\x00\x00".ljust(24, b"\0"),  # shorter than its header
        b"\x05\x00\x18\x00\xff\xff\xff\xff".ljust(24, b"\0"),  # longer than anything
        b"\x07\x00\x18\xff\x20\x00\x00\x00".ljust(32, b"\0"),  # data behind its end
        b"\x05\x01\x18\x00\x18\x00\x00\x00".ljust(24, b"\0"),  # a digest that was not agreed upon
    ],
)
def test_a_header_that_makes_no_sense_ends_the_connection(data: bytes) -> None:
    with pytest.raises(PduError):
        read(data)


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_bytes_are_a_pdu_or_an_error_that_is_expected(data: bytes, header: bool, body: bool) -> None:
    try:
        read(data, Digests(header, body))
    except (PduError, EOFError):
        pass
