# SPDX-License-Identifier: Apache-2.0
"""What of a bus's stream is kept for the API, whose turn a caller has, and values as they go over the bus."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.api import callers, interfaces, wire
from discoverd.api.callers import Callers
from discoverd.api.frames import CALL_BYTES_MAX, Frames
from discoverd.api.interfaces import object_path
from discoverd.api.wire import Frame, WireError
from discoverd.bus.stream import StreamError

from .bus_messages import ANSWER, CALL, ERROR, SIGNAL, field, framed, message, text

SYSTEMD, USER = ":1.5", ":1.66"
OURS = (ANSWER, ERROR, SIGNAL, CALL)


def frames(asked: int = 7) -> Frames:
    return Frames({SYSTEMD.encode()}.__contains__, {asked}.__contains__)


def call(sender: str, size: int = 10) -> Frame:
    return Frame(wire.CALL, 0, 1, {wire.SENDER: sender.encode()}, bytes(size), True)


@pytest.mark.parametrize("kind", OURS)
def test_whole_messages_of_those_who_count(kind: int) -> None:
    (found,) = frames().feed(message(kind, SYSTEMD, "s", text("hello")))
    assert found.kind == kind
    assert found.values("s") == ("hello",)
    assert (found.text(wire.PATH), found.text(wire.INTERFACE), found.text(wire.MEMBER)) == ("/a/b", "a.b", "C")
    assert found.text(wire.SENDER) == SYSTEMD


def test_signals_of_others_and_answers_to_nothing_are_dropped() -> None:
    taken = frames(8)
    stream = message(SIGNAL, USER) + message(ANSWER, SYSTEMD) + message(ERROR, USER) + message(CALL, "")
    assert taken.feed(stream) == []
    assert taken.dropped == 4
    assert len(taken.feed(message(CALL, USER))) == 1


def test_call_that_is_too_long_is_dropped_and_the_next_one_is_not() -> None:
    taken = frames()
    long = message(CALL, USER, "ay", struct.pack("<I", CALL_BYTES_MAX) + bytes(CALL_BYTES_MAX))
    stream = long + message(CALL, USER)
    found = [frame for start in range(0, len(stream), 1000) for frame in taken.feed(stream[start : start + 1000])]
    assert len(found) == 1
    assert found[0].body == b""
    assert len(taken._buffer) < 1000


@pytest.mark.parametrize(("type_", "count"), [("o", 1), ("s", 0)])
def test_field_of_another_type_than_the_specifications_is_not_believed(type_: str, count: int) -> None:
    fields = [field(1, type_, text("/a")), field(7, "s", text(USER))]
    assert len(frames().feed(framed(CALL, fields))) == count


@given(st.lists(st.sampled_from([(kind, sender) for kind in OURS for sender in (SYSTEMD, USER)])), st.data())
def test_it_does_not_matter_how_the_stream_is_cut(sent: list[tuple[int, str]], data: st.DataObject) -> None:
    stream = b"".join(message(kind, sender, "s", text(str(number))) for number, (kind, sender) in enumerate(sent))
    whole = [frame.values("s") for frame in frames().feed(stream)]
    taken, cut, start = frames(), [], 0
    while start < len(stream):
        size = data.draw(st.integers(1, 400))
        cut += [frame.values("s") for frame in taken.feed(stream[start : start + size])]
        start += size
    assert cut == whole


@given(st.binary(max_size=300))
def test_garbage_is_no_message(garbage: bytes) -> None:
    taken = frames()
    try:
        for frame in taken.feed(garbage):
            frame.values("s")
    except (StreamError, WireError):
        pass


@given(st.binary(max_size=60), st.sampled_from(["s", "as", "ss", "a{sv}", "a(sssss)", "u", "o", "sa{sv}as"]))
def test_body_that_is_not_what_it_says_is_an_error(body: bytes, signature: str) -> None:
    try:
        wire.unmarshal(signature, body)
    except WireError:
        pass


VALUES = st.lists(st.tuples(st.text("ab/é", max_size=9), st.integers(0, 1 << 32), st.lists(st.text("x"), max_size=3)))


@given(VALUES, st.text("x", max_size=9))
def test_array_of_pieces_is_what_it_is_in_one(values: list[Any], before: str) -> None:
    pieces = [wire.element("(stas)", value) for value in values]
    assert wire.array(pieces, wire.marshal("s", before)) == wire.marshal("sa(stas)", before, values)
    assert wire.array(pieces) == wire.marshal("a(stas)", values)


def taken(waiting: Callers) -> list[str]:
    """Return the senders of all that waits, in their turns."""
    order = []
    while (one := waiting.take()) is not None:
        order.append(one[1].text(wire.SENDER))
    return order


def test_each_user_and_of_his_each_connection_has_a_turn() -> None:
    waiting = Callers()
    users = {":1.1": 1000, ":1.2": 1000, ":1.3": 1001}
    for sender in (":1.1", ":1.1", ":1.1", ":1.2", ":1.3", ":1.3"):
        assert waiting.put(call(sender), users[sender])
    assert taken(waiting) == [":1.1", ":1.3", ":1.2", ":1.3", ":1.1", ":1.1"]
    assert waiting._bytes == 0
    assert not waiting._sizes


def test_call_whose_user_is_not_known_has_no_turn_yet() -> None:
    waiting = Callers()
    assert waiting.put(call(":1.1"), None)
    assert taken(waiting) == []
    assert [one.text(wire.SENDER) for one in waiting.leave(b":1.1")] == [":1.1"]
    assert waiting.leave(b":1.1") == []
    assert waiting._bytes == 0
    assert not waiting._sizes


@pytest.mark.parametrize("user", [1000, None])
def test_who_has_too_much_waiting_is_refused_and_nobody_else(user: int | None) -> None:
    waiting = Callers()
    assert sum(waiting.put(call(USER), user) for _ in range(2000)) == callers.CALLS_MAX
    assert waiting.put(call(SYSTEMD), 0)


@pytest.mark.parametrize("known", [True, False])
def test_many_who_have_much_waiting_do_not_keep_out_another(known: bool) -> None:
    waiting = Callers()
    for number in range(2000):
        for _ in range(20):
            waiting.put(call(f":1.{number}", 1 << 12), 1000 + number if known else None)
    assert waiting._bytes < 4 * callers.BYTES_MAX
    assert waiting.put(call(":2.1", 100), 0)


def test_connections_of_one_user_share_what_he_may_have_waiting() -> None:
    waiting = Callers()
    assert waiting.put(call(":1.0", 100), 1000)
    assert waiting.put(call(":2.0", 100), 1001)
    for number in range(1000):
        for _ in range(20):
            waiting.put(call(f":1.{number}", 1 << 12), 1000)
    assert waiting._bytes <= callers.BYTES_MAX
    assert sum(waiting.put(call(f":2.{number}", 1 << 12), 1001) for number in range(2000)) > 500


@given(st.text(max_size=30), st.text(max_size=30))
def test_paths_are_paths_and_different(one: str, other: str) -> None:
    paths = [object_path(interfaces.CONTROLLERS, name) for name in (one, other)]
    assert (paths[0] == paths[1]) == (one == other) or "" in (one, other)
    for path in paths:
        last = path.removeprefix(interfaces.CONTROLLERS + "/")
        assert last
        assert last.isascii()
        assert last.replace("_", "a").isalnum()


def test_names_of_interfaces_and_members_are_valid() -> None:
    for one in (*interfaces.OURS.values(), *interfaces.STANDARD.values()):
        names = [method.name for method in one.methods] + [signal.name for signal in one.signals]
        names += [name for name, _ in one.properties]
        assert len(set(names)) == len(names)
        assert all(name.isidentifier() for name in names)
        for signature in (*(found.signature for found in one.methods), *(kind for _, kind in one.properties)):
            assert wire._body_type(signature)
