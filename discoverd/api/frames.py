# SPDX-License-Identifier: Apache-2.0
"""The messages of a bus's stream that somebody here waits for.

Any user can send us calls, and signals that nobody subscribed to, of any length. What is too long for a call of ours,
and signals and answers of others than those we listen to, are never kept.
"""

from collections.abc import Callable

from discoverd.api.wire import ANSWER, CALL, ERROR, REPLY_SERIAL, SENDER, SIGNAL, Frame
from discoverd.bus.stream import Fields, Stream, Whole

# A list of exclusions is the longest that anybody has to tell us, and a list of 4,096 units the longest answer.
CALL_BYTES_MAX = 1 << 15
ANSWER_BYTES_MAX = 1 << 24
SIGNAL_BYTES_MAX = 1 << 18
_LIMITS = {CALL: CALL_BYTES_MAX, ANSWER: ANSWER_BYTES_MAX, ERROR: ANSWER_BYTES_MAX, SIGNAL: SIGNAL_BYTES_MAX}


class Frames(Stream[Frame]):
    """``hears`` tells of a signal's sender whether he is listened to, ``asked`` of a serial number whether an answer to
    it is waited for."""

    def __init__(self, hears: Callable[[bytes], bool], asked: Callable[[int], bool]) -> None:
        super().__init__(_LIMITS)
        self._hears = hears
        self._asked = asked

    def _look(self, kind: int, start: int, head: int) -> Fields | None:
        fields = self._fields(start, head)
        return fields if self._counts(kind, fields) else None

    def _counts(self, kind: int, fields: Fields) -> bool:
        if kind == SIGNAL:
            return self._hears(fields.get(SENDER, b""))
        if kind in (ANSWER, ERROR):
            return self._asked(fields.get(REPLY_SERIAL, 0))
        return bool(fields.get(SENDER))

    def _take(self, whole: Whole) -> Frame:
        body = bytes(self._buffer[whole.content : whole.end])
        return Frame(whole.kind, whole.flags, whole.serial, whole.fields, body, whole.little)
