# SPDX-License-Identifier: Apache-2.0
"""The process that workers are forked from, so that none of them pays for an interpreter's start and its imports.

A controller's unit has a placeholder for its main process (discoverd.systemd.unit_properties), with our socket for its
standard input. systemd has connected that, and the kernel tells whose it is. An empty line from the placeholder says
that systemd has set up all of the unit, and a worker is forked. It moves into the unit's control group, tells systemd
that it is the main process, and answers with a line, upon which the placeholder ends.

Whatever goes wrong before that, the connection ends without a line, and the placeholder becomes the worker itself. So
nothing depends on this process: it may be killed at any moment, also together with what it has just forked.

Who writes another line than an empty one is a worker that has us look at its controller (discoverd.worker.watch).

Control groups and their names as in cgroups(7) and systemd's src/basic/cgroup-util.c, the journal's stream as in
src/core/exec-invoke.c (connect_logger_as).
"""

import _ctypes
import _signal
import _socket
import gc
import posix
import select
import sys
import time

from discoverd import exclusions, notify, state
from discoverd.kernel import (
    claims,
    dhchap,
    fabrics,
    files,
    hosts,
    locks,
    mounts,
    openers,
    processes,
    routes,
    spawn,
    usage,
)
from discoverd.worker import (
    cause,
    disconnect,
    discovery,
    discovery_controller,
    interrogation,
    links,
    main,
    registration,
    watch,
)
from discoverd.worker.loop import SIGNALS

# What a worker would import later, it finds here: pages that all of them share.
LOADED = (
    *(cause, claims, dhchap, disconnect, discovery, discovery_controller, exclusions, fabrics, files, hosts),
    *(interrogation, links, locks, main, mounts, openers, processes, registration, routes, spawn, usage, watch),
)
# systemd's first socket (sd_listen_fds(3)).
_LISTENING = 3
_JOURNAL = "/run/systemd/journal/stdout"
_CGROUPS = "/sys/fs/cgroup"
# LOG_DAEMON | LOG_INFO, for lines that do not say their priority.
_PRIORITY = 30
_SO_PEERCRED, _SIZE_OF_UCRED = 17, 12
_SCORE = "/proc/{}/oom_score_adj"
# As systemd has it (src/basic/constants.h, SNDBUF_SIZE): a journal that stands still stops no worker.
_JOURNAL_BUFFER = 8 << 20
# Seconds that a connection may say nothing: a placeholder writes its line at once.
_SILENCE_SECONDS = 60
# Seconds after which it is tried again to accept a connection, where descriptors or memory are short.
_ACCEPT_AGAIN_SECONDS = 1
# As in linux/prctl.h.
_PR_SET_THP_DISABLE = 41
# Of /proc/PID/stat, after the name: where the arguments begin in memory, and where the environment ends.
_ARG_START, _ENV_END = 45, 48


class NoPlaceholderError(Exception):
    """Who has connected is no placeholder of a controller's unit, or not any more."""


def serve() -> int:
    """Fork workers until killed, or until what was imported is not what is installed any more.

    A forked worker returns from here as well, with its exit status.
    """
    notify.subject = "fork server"
    _forgo_huge_pages()
    # They are copied; what the process was executed with is written over by titles.
    for name, value in posix.environ.items():
        posix.putenv(name, value)
    return _Server(_socket.socket(fileno=_LISTENING)).run()


def _forgo_huge_pages() -> None:
    """Keep the kernel from making huge pages of what workers share (khugepaged): each would get 2 MiB of its own.

    Also for all that are forked, see PR_SET_THP_DISABLE(2const).
    """
    libc = _ctypes.dlopen(None, posix.RTLD_NOW)  # type: ignore[arg-type]  # As in ctypes.CDLL(None).
    if _ctypes.call_function(_ctypes.dlsym(libc, "prctl"), (_PR_SET_THP_DISABLE, 1, 0, 0, 0)):
        notify.log(notify.WARNING, "the kernel may make huge pages of workers' memory: each takes 1 MiB more")


class _Server:
    """Who has connected, and since when he has said nothing; and for whom we look."""

    def __init__(self, listener: "_socket.socket") -> None:
        self._listener = listener
        self._accept_at = 0.0
        self._silent: dict[int, tuple[_socket.socket, float]] = {}
        self._looks = watch.Looks()
        self._looked = self._told = time.monotonic()
        # Seconds within which systemd hears that we do not hang: then every placeholder would wait.
        self._every = int(posix.environ.get(b"WATCHDOG_USEC", b"0")) / 2_000_000
        self._installed = _installed()
        self._poll = select.poll()
        self._poll.register(listener.fileno(), select.POLLIN)

    def run(self) -> int:
        """Serve. A worker that was forked goes on from here, and returns at its end."""
        # What is there now is never looked at again by the collector, and so stays shared.
        gc.collect()
        gc.freeze()
        notify.send("READY=1")
        while True:
            for descriptor, _ in self._poll.poll(self._timeout()):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor not in self._silent:
                    self._forget(descriptor)
                elif (placeholder := self._hear(descriptor)) is not None:
                    if _installed() != self._installed:
                        # The placeholder executes what is installed, and the next one has systemd start another server.
                        return 0
                    if _fork():
                        self._close()
                        return _be_worker(placeholder)
                    placeholder.close()
            self._tick()

    def _timeout(self) -> float | None:
        deadlines = [began + _SILENCE_SECONDS for _, began in self._silent.values()]
        if self._accept_at:
            deadlines.append(self._accept_at)
        if self._every:
            deadlines.append(self._told + self._every)
        if self._looks:
            deadlines.append(self._looked + watch.INTERVAL_SECONDS)
        return max(0, min(deadlines) - time.monotonic()) * 1000 + 1 if deadlines else None

    def _tick(self) -> None:
        now = time.monotonic()
        if self._looks and now >= self._looked + watch.INTERVAL_SECONDS:
            self._looked = now
            self._looks.look()
        if self._every and now >= self._told + self._every:
            self._told = now
            notify.send("WATCHDOG=1")
        for descriptor, (connection, began) in list(self._silent.items()):
            if now >= began + _SILENCE_SECONDS:
                del self._silent[descriptor]
                self._poll.unregister(descriptor)
                connection.close()
        if self._accept_at and now >= self._accept_at:
            self._accept_at = 0.0
            self._poll.register(self._listener.fileno(), select.POLLIN)

    def _accept(self) -> None:
        try:
            descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]  # The stubs lack it.
        except OSError as error:
            # It has gone again, or there is a shortage, of which poll would tell again at once.
            notify.log(notify.WARNING, f"cannot accept a connection: {error.strerror}")
            self._poll.unregister(self._listener.fileno())
            self._accept_at = time.monotonic() + _ACCEPT_AGAIN_SECONDS
            return
        self._silent[descriptor] = _socket.socket(fileno=descriptor), time.monotonic()
        self._poll.register(descriptor, select.POLLIN)

    def _hear(self, descriptor: int) -> "_socket.socket | None":
        """Take the first line of a connection; return it if a placeholder has written that."""
        connection, _ = self._silent.pop(descriptor)
        try:
            line = connection.recv(watch.LINE_LENGTH, _socket.MSG_DONTWAIT)
        except OSError:
            line = b""
        if line == b"\n":
            self._poll.unregister(descriptor)
            return connection
        if not self._looks.add(connection, line):
            # Who had a look at the socket only, or a placeholder that was killed.
            self._poll.unregister(descriptor)
            connection.close()
        return None

    def _forget(self, descriptor: int) -> None:
        """End the watch of a worker that has ended, or needs none any more."""
        self._poll.unregister(descriptor)
        self._looks.remove(descriptor)

    def _close(self) -> None:
        """Close what is the server's, in a worker."""
        self._listener.close()
        for connection, _ in self._silent.values():
            connection.close()
        for descriptor in self._looks.descriptors():
            self._looks.remove(descriptor)


def _installed() -> list[tuple[int, int, int]]:
    """Return what tells the installed interpreter and package from those of another version; [] while they are not
    there."""
    found = []
    for path in (sys.executable, sys.argv[0], __file__):
        try:
            status = posix.stat(path)
        except OSError:
            return []
        found.append((status.st_dev, status.st_ino, status.st_mtime_ns))
    return found


def _fork() -> bool:
    """Fork a worker as a child of PID 1, which hears only from its own children how they end. True in the worker."""
    try:
        read, write = posix.pipe2(posix.O_CLOEXEC)
    except OSError as error:
        return _cannot(error)
    try:
        between = posix.fork()
    except OSError as error:
        posix.close(read)
        posix.close(write)
        return _cannot(error)
    if between:
        posix.close(read)
        posix.waitpid(between, 0)
        # It is gone, and so PID 1 has taken in the worker, who reads the end now.
        posix.close(write)
        return False
    try:
        if posix.fork():
            posix._exit(0)
    except OSError:
        # The connection ends with it.
        posix._exit(1)
    # Away from the server's session, as what is executed for a unit has one of its own.
    posix.setsid()
    posix.close(write)
    posix.read(read, 1)
    posix.close(read)
    return True


def _cannot(error: OSError) -> bool:
    """Say that there is no worker from here; its placeholder does without."""
    notify.log(notify.WARNING, f"cannot fork a worker: {error.strerror}")
    return False


def _be_worker(placeholder: "_socket.socket") -> int:
    """Take the place of a placeholder, and be the worker of its unit. Returns the exit status."""
    # A stop before there are handlers for them must find the worker at its end, not kill it.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, SIGNALS)  # type: ignore[attr-defined]  # The stubs lack it.
    try:
        instance = _take_place(placeholder)
    except (NoPlaceholderError, OSError):
        # The placeholder, if there is one, becomes the worker when the connection ends. If it was stopped, so are we.
        return 1
    sys.argv = ["nvme-ctrl-worker", instance]
    _show_title(f"nvme-ctrl-worker {instance}")
    status = main.main()
    sys.stderr.flush()
    # Not through the interpreter's end, which would write to all the memory that is shared.
    posix._exit(status)


def _take_place(placeholder: "_socket.socket") -> str:
    """Become the main process of a placeholder's unit, and end it. Returns the instance of the unit.

    Raises NoPlaceholderError and OSError.
    """
    # As struct ucred: process, user, group.
    credentials = placeholder.getsockopt(_socket.SOL_SOCKET, _SO_PEERCRED, _SIZE_OF_UCRED)
    pid = int.from_bytes(credentials[:4], sys.byteorder)
    group = _control_group(pid)
    unit = group.rpartition("/")[2]
    instance = state.instance_of(unit) if unit.startswith("nvme-ctrl@") else ""
    score = files.whole(_SCORE.format(pid))
    if not instance or _has_gone(placeholder):
        raise NoPlaceholderError
    _write(f"{_CGROUPS}{group}/cgroup.procs", b"0")
    # The unit may have been stopped and started again meanwhile. With the placeholder still there, it is this run of it
    # that we are in, and its stop ends us.
    if _has_gone(placeholder):
        raise NoPlaceholderError
    _write(_SCORE.format("self"), score)
    notify.subject = instance
    _connect_journal(unit)
    notify.become_main_process(pid)
    placeholder.send(b"\n")
    # A stop from before systemd took us for the main process has killed the placeholder, and we would not hear of it.
    if not placeholder.recv(1):
        raise NoPlaceholderError
    placeholder.close()
    return instance


def _control_group(pid: int) -> str:
    for line in processes.control_groups(pid):
        if line[:3] == "0::":
            return line[3:]
    raise NoPlaceholderError


def _has_gone(placeholder: "_socket.socket") -> bool:
    """Tell whether the other end is closed: another process may have its number by now."""
    poll = select.poll()
    poll.register(placeholder.fileno(), 0)
    return bool(poll.poll(0))


def _connect_journal(unit: str) -> None:
    """Have standard output and error go where systemd has those of the unit go."""
    journal = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        journal.connect(_JOURNAL)
        journal.shutdown(_socket.SHUT_RD)
        journal.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _JOURNAL_BUFFER)
        # Who says it, for which unit, with which priority, with levels at the beginning of lines; and nowhere else.
        journal.send(f"nvme-ctrl\n{unit}\n{_PRIORITY}\n1\n0\n0\n0\n".encode())
        posix.dup2(journal.fileno(), 1)
        posix.dup2(journal.fileno(), 2)
    except OSError as error:
        # What the worker says is the fork server's then, and begins with the instance all the same.
        notify.log(notify.WARNING, f"cannot connect to the journal for {unit}: {error.strerror}")
    finally:
        journal.close()


def _show_title(text: str) -> None:
    """Have ``ps`` and ``systemctl status`` show what this process is.

    It goes over the arguments, and over the environment if need be, which serve() has copied: the kernel shows what
    lies there (fs/proc/base.c, get_mm_cmdline).
    """
    try:
        _write("/proc/self/comm", b"nvme-ctrl-worke")
        fields = processes.fields("self")
        start, end = int(fields[_ARG_START]), int(fields[_ENV_END])
        fd = posix.open("/proc/self/mem", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.pwrite(fd, text.encode()[: end - start - 1].ljust(end - start, b"\0"), start)
        finally:
            posix.close(fd)
    except OSError:
        pass  # It is for readers only.


def _write(path: str, data: bytes) -> None:
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(fd, data)
    finally:
        posix.close(fd)
