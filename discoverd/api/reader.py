# SPDX-License-Identifier: Apache-2.0
"""The process that reads /run/discoverd for the API: root's, without a capability, one per connection.

Specifications are for root only, because they can hold secrets. So one small process reads what is there, and writes
it to its one client over the connection that systemd gives it (discoverd-api-reader.socket): the plan, reports, log
pages, and of a specification the fields and options that are listed here, whatever else is in it. It understands one
question, the name of a controller whose whole log page is wanted.

Each fact is a line, ``KIND SIZE INSTANCE``, and so many bytes; none where there is no such file. KIND is plan, report,
spec, log (of a log page only the head of the file and of the page) or page (all of it, as it was asked for). ``gone``
says that there is nothing of a controller any more, ``whole`` that all there was has been told once.
"""

import os
import select
import sys
from collections import OrderedDict
from collections.abc import Iterable

from discoverd import state
from discoverd.kernel.admin import HEADER_SIZE
from discoverd.kernel.inotify import DELETE_SELF, MOVE_SELF, OVERFLOW, Event, Inotify

PLAN, REPORT, SPEC, LOG, PAGE, GONE, WHOLE = "plan", "report", "spec", "log", "page", "gone", "whole"
PLAN_BYTES_MAX = 1 << 26
PAGE_BYTES_MAX = 1 << 25
FILES = (REPORT, SPEC, LOG)
# What a log page's file has before the page, at most.
HEAD_BYTES_MAX = 4096
# The options of the fabrics device that everybody may know: who is connected to whom, and nothing that proves it; and
# how.
IDENTITY = ("transport", "traddr", "trsvcid", "nqn", "host_traddr", "host_iface", "hostnqn", "hostid")
TUNABLES = (
    *("nr_io_queues", "nr_write_queues", "nr_poll_queues", "queue_size", "keep_alive_tmo", "reconnect_delay"),
    *("ctrl_loss_tmo", "fast_io_fail_tmo", "tos", "duplicate_connect", "disable_sqflow", "hdr_digest", "data_digest"),
)
OPTIONS = (*IDENTITY, *TUNABLES)

_REQUEST_BYTES_MAX = 4096
# As many questions wait; who asks for more before it has read is not what it should be.
_REQUESTS_MAX = 256


def public(spec: state.Spec) -> state.Spec:
    """Return what of a specification everybody may know."""
    told = state.Spec(spec.role, [(key, value) for key, value in spec.options if key in OPTIONS])
    told.source, told.origin, told.note, told.symname = spec.source, spec.origin, spec.note, spec.symname
    told.withdrawn, told.trusted, told.give_up_after = spec.withdrawn, spec.trusted, spec.give_up_after
    told.announced_on, told.announced_until = spec.announced_on, spec.announced_until
    return told


class Reader:
    """What has to be told on a connection: which facts are new, and what is being written.

    As much memory as there are controllers, and one file at a time: a client that does not read has it wait.
    """

    def __init__(self, connection: int) -> None:
        self._connection = connection
        self._inotify = Inotify()
        # By kind and instance, in the order in which they are told.
        self._due: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._known: set[str] = set()
        self._pending = memoryview(b"")
        self._requests = b""
        self._asked: list[str] = []

    def close(self) -> None:
        """End the watches."""
        self._inotify.close()

    def run(self) -> None:
        """Serve until the client ends the connection. Raises OSError where nothing can be watched."""
        os.set_blocking(self._connection, False)
        self._look_at_all()
        self._due[WHOLE, ""] = None
        while True:
            poll = select.poll()
            poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._has_more() else 0))
            poll.register(self._inotify, select.POLLIN)
            ready = dict(poll.poll())
            if ready.get(self._inotify.fileno()):
                self._take(self._inotify.read())
            try:
                if ready.get(self._connection, 0) & ~select.POLLOUT and not self._read():
                    return
                if self._has_more():
                    self._write()
            except (BrokenPipeError, ConnectionResetError):
                return

    # What is there -----------------------------------------------------------------------------------------

    def _look_at_all(self) -> None:
        """Watch what there is now, and have all of it told."""
        self._due[PLAN, ""] = None
        if not self._inotify.watch(state.ROOT):
            # discoverd has not run yet.
            self._inotify.watch(os.path.dirname(state.ROOT))
        found = self._instances() if self._inotify.watch(state.CONTROLLERS) else set()
        for instance in self._known - found:
            self._forget(instance)
        for instance in found:
            self._look_at(instance)

    def _instances(self) -> set[str]:
        try:
            return {name for name in os.listdir(state.CONTROLLERS) if state.valid_instance(name)}
        except OSError:
            return set()

    def _look_at(self, instance: str) -> None:
        try:
            if not self._inotify.watch(state.directory(instance)):
                self._forget(instance)
                return
        except OSError as error:
            # Told once is better than not at all.
            print(f"<4>{instance}: cannot be watched: {error.strerror}", file=sys.stderr)  # noqa: T201
        self._known.add(instance)
        for kind in FILES:
            self._due[kind, instance] = None

    def _forget(self, instance: str) -> None:
        self._known.discard(instance)
        for kind in FILES:
            self._due.pop((kind, instance), None)
        self._due[GONE, instance] = None

    def _take(self, events: Iterable[Event]) -> None:
        for directory, name, mask in events:
            if mask & OVERFLOW or (mask & (DELETE_SELF | MOVE_SELF) and directory in (state.ROOT, state.CONTROLLERS)):
                self._look_at_all()
            elif directory == state.CONTROLLERS:
                if state.valid_instance(name):
                    self._look_at(name)
            elif directory == state.ROOT:
                if name == PLAN:
                    self._due[PLAN, ""] = None
                elif state.ROOT + "/" + name == state.CONTROLLERS:
                    self._look_at_all()
            elif directory == os.path.dirname(state.ROOT):
                if directory + "/" + name == state.ROOT:
                    self._look_at_all()
            elif name in FILES:
                self._due[name, os.path.basename(directory)] = None

    # The connection ----------------------------------------------------------------------------------------

    def _has_more(self) -> bool:
        return bool(self._pending or self._due or self._asked)

    def _read(self) -> bool:
        """Take what the client asks for; returns False if it asks for nothing more, or for nonsense."""
        try:
            data = os.read(self._connection, _REQUEST_BYTES_MAX)
        except BlockingIOError:
            return True
        *lines, self._requests = (self._requests + data).split(b"\n")
        for line in lines:
            kind, _, instance = line.decode("utf-8", "replace").partition(" ")
            if kind != PAGE or not state.valid_instance(instance):
                return False
            self._asked.append(instance)
        return bool(data) and len(self._requests) < _REQUEST_BYTES_MAX and len(self._asked) <= _REQUESTS_MAX

    def _write(self) -> None:
        if not self._pending:
            self._pending = memoryview(self._next())
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._connection, self._pending) :]
        except BlockingIOError:
            pass

    def _next(self) -> bytes:
        """Return the next fact; what was asked for comes first."""
        if self._asked:
            kind, instance = PAGE, self._asked.pop(0)
        else:
            (kind, instance), _ = self._due.popitem(last=False)
        data = content(kind, instance)
        return f"{kind} {len(data)} {instance}\n".encode() + data


def content(kind: str, instance: str) -> bytes:
    """Return what is told of a kind about a controller, nothing where there is no such file."""
    directory = state.directory(instance)
    try:
        if kind == PLAN:
            return state.read(state.ROOT + "/plan", PLAN_BYTES_MAX)
        if kind == REPORT:
            return state.read(directory + "/report")
        if kind == SPEC:
            return public(state.Spec.decode(state.read(directory + "/spec"))).encode()
        if kind == PAGE:
            return state.read(directory + "/log", PAGE_BYTES_MAX)
        if kind == LOG:
            return _head(directory + "/log")
    except state.StateError:
        pass  # It is not there, or not usable, which is the same.
    return b""


def _head(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, HEAD_BYTES_MAX + HEADER_SIZE)
    except OSError:
        return b""
    finally:
        os.close(fd)


def main() -> int:
    """Serve the connection that is standard input."""
    reader = Reader(sys.stdin.fileno())
    try:
        reader.run()
    except OSError as error:
        print(f"<3>cannot watch {state.ROOT}: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        reader.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
