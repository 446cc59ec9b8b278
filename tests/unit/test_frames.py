# SPDX-License-Identifier: Apache-2.0
"""What of a bus's stream is handed on to the client, whatever any user of the bus sends."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.bus.frames import LENGTH_MAX, Frames
from discoverd.bus.stream import StreamError

from .bus_messages import ANSWER, CALL, ERROR, SIGNAL, field, framed, message, octets, text

BUS = "org.freedesktop.DBus"
SYSTEMD = ":1.1"
USER = ":1.11"


def signal(sender: str, body: bytes = b"") -> bytes:
    return message(SIGNAL, sender, "ay" if body else "", octets(body) if body else b"")


def answer(sender: str) -> bytes:
    return message(ANSWER, sender)


def test_signals_of_bus_pass() -> None:
    assert Frames().feed(signal(BUS, b"x")) == [signal(BUS, b"x")]


@pytest.mark.parametrize("kind", [ANSWER, ERROR])
def test_signals_pass_of_who_has_answered_and_of_nobody_else(kind: int) -> None:
    frames = Frames()
    assert frames.feed(signal(SYSTEMD)) == []
    assert frames.feed(message(kind, SYSTEMD)) == [message(kind, SYSTEMD)]
    assert frames.feed(signal(SYSTEMD)) == [signal(SYSTEMD)]
    assert frames.feed(signal(USER) + signal(":1.2") + signal("")) == []
    assert frames.dropped == 4


def test_call_is_dropped_whoever_makes_it() -> None:
    frames = Frames()
    frames.feed(answer(SYSTEMD))
    assert frames.feed(message(CALL, SYSTEMD) + message(CALL, BUS)) == []


def test_name_of_who_counts_elsewhere_in_header_does_not_help() -> None:
    frames = Frames()
    frames.feed(answer(SYSTEMD))
    assert frames.feed(message(SIGNAL, USER, interface=f"{BUS}:{SYSTEMD}")) == []


def test_field_that_no_specification_knows_is_not_believed() -> None:
    frames = Frames()
    frames.feed(answer(SYSTEMD))
    fields = [field(0x63, "s", text(SYSTEMD)), field(7, "s", text(SYSTEMD))]
    assert frames.feed(framed(SIGNAL, fields)) == []
    assert frames.feed(signal(SYSTEMD)) == [signal(SYSTEMD)]


def test_long_message_is_skipped_as_it_comes_and_next_one_passes() -> None:
    frames = Frames()
    data = signal(BUS, bytes(5 * LENGTH_MAX)) + signal(BUS)
    passed = []
    for start in range(0, len(data), 1000):
        passed += frames.feed(data[start : start + 1000])
        assert len(frames._buffer) <= 1000, "nothing of what is skipped is kept"
    assert passed == [signal(BUS)]


@pytest.mark.parametrize("length", [LENGTH_MAX, 2**26])
def test_long_header_is_skipped_without_a_look(length: int) -> None:
    frames = Frames()
    assert frames.feed(struct.pack("<BBBBIII", ord("l"), 4, 0, 1, 0, 1, length)) == []
    assert (frames.dropped, len(frames._buffer)) == (1, 0)
    assert frames._skip == length


def test_lines_of_authentication_pass_before_first_message_only() -> None:
    frames = Frames()
    assert frames.feed(b"OK 12") == []
    assert frames.feed(b"34\r\n" + answer(BUS)) == [b"OK 1234\r\n", answer(BUS)]
    with pytest.raises(StreamError):
        frames.feed(b"OK 1234\r\n")


def test_line_without_end_is_no_bus() -> None:
    with pytest.raises(StreamError):
        Frames().feed(b"O" * (LENGTH_MAX + 1))


def test_talkers_are_few_and_latest_count() -> None:
    frames = Frames()
    for number in range(100):
        frames.feed(answer(f":1.{number}"))
    assert len(frames._talkers) < 10
    assert frames.feed(signal(":1.99")) == [signal(":1.99")]


KINDS = st.sampled_from([SIGNAL, ANSWER, CALL])


@given(
    st.lists(st.tuples(KINDS, st.sampled_from([BUS, SYSTEMD, USER]), st.binary(max_size=2 * LENGTH_MAX))),
    st.lists(st.integers(1, 3 * LENGTH_MAX), min_size=1),
)
def test_where_stream_is_cut_makes_no_difference(sent: list[tuple[int, str, bytes]], cuts: list[int]) -> None:
    data = b"OK 1234\r\n" + b"".join(message(kind, sender, "ay", octets(body)) for kind, sender, body in sent)
    whole, cut = Frames(), Frames()
    passed = []
    position = 0
    while position < len(data):
        size = cuts[position % len(cuts)]
        passed += cut.feed(memoryview(data)[position : position + size])
        position += size
    assert passed == whole.feed(data)
    assert cut.dropped == whole.dropped
    assert len(passed) + cut.dropped == len(sent) + 1


@given(st.binary(), st.binary(max_size=200))
def test_nothing_that_is_sent_raises_anything_else(head: bytes, rest: bytes) -> None:
    frames = Frames()
    frames.feed(answer(SYSTEMD))
    fixed = struct.pack("<BBBBIII", ord("l"), 4, 0, 1, len(rest), 1, len(head)) + head
    frames.feed(fixed + bytes(-len(fixed) % 8) + rest)
    assert frames.feed(signal(SYSTEMD)) == [signal(SYSTEMD)]
