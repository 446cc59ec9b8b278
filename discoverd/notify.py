# SPDX-License-Identifier: Apache-2.0
"""What a worker says: sd_notify(3), journal lines, and the report on its controller to the supervisor.

The sdnotify package would cost every worker 2.7 MB, so this is its own. All of it is one module, for the same reason.

Status and report have one grammar: ``live nvme3``, ``connecting``, ``reconnecting nvme3 …`` (the kernel is at it),
``waiting 8 s, attempt 4: <cause>``, ``parked until 14:05: …``, ``left alone: …``, ``disconnecting nvme3``, ``waiting to
disconnect nvme3: …``.
"""

import _socket
import posix
import sys
import time

from discoverd import state

# The supervisor is told again of a report after so many seconds, if it has too much to hear.
WAKE_AGAIN = 1
# And so often at most of a worker's end, which a stop must not have to wait for.
LAST_TRIES = 5

_BOOTTIME = 7

ERROR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7

# What one would search the journal for: message IDs, each with an entry in packaging/discoverd.catalog. They are here,
# and not in a module of their own, because workers pay for modules.
CONNECTED = "bd651663f0824cf497330143ecee3f62"
LOST = "c9a43174fa9447658f97317ee1ca89f1"
RESTORED = "08a92d3b54de4d9197afdc21a661757e"
REMOVED = "a447c960f817439a8dbdd7bd3a319966"
CANNOT_CONNECT = "2839e690efc3498b8b345dc2ca8ddbe0"
GIVEN_UP = "fc7917eb879d4ba388a56e726714a735"
STOP_REFUSED = "1cf294960dd849209c045b6bf8d95153"
WITHDRAWN = "28db3a4ef80045a6af8973a59567bad4"
HELD_BACK = "8b8342ed04554cb39097b392c6e0ab2c"
CONFIGURATION_REFUSED = "467b5299a3804a3699dd2c5d74db0da0"

JOURNAL = "/run/systemd/journal/socket"
_last = ""
# The instance of the unit, for readers of the journal who do not look at its fields.
subject = ""


def send(text: str) -> None:
    """Send a notification, such as ``READY=1``, to the service manager; nothing where there is none."""
    address = _manager()
    if not address:
        return
    try:
        _datagram(text.encode("utf-8", "replace"), address, _socket.SOCK_CLOEXEC)
    except OSError as error:
        log(WARNING, f"cannot notify the service manager: {error.strerror}")


def _manager() -> bytes:
    """Return the address of the service manager, b'' where there is none."""
    address = posix.environ.get(b"NOTIFY_SOCKET", b"")
    return b"\0" + address[1:] if address[:1] == b"@" else address


def become_main_process(predecessor: int) -> None:
    """Have the service manager take this process for the unit's main one; return when it has taken that in.

    It hears that from the ``predecessor``, as from a unit's processes it hears the main one only (NotifyAccess=main):
    who has CAP_SYS_ADMIN can speak for another process, see unix(7). As sd_pid_notify(3) and sd_notify_barrier(3).
    Raises OSError.
    """
    read, write = posix.pipe2(posix.O_CLOEXEC)
    try:
        socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            socket.connect(_manager())
            sender = b"".join(one.to_bytes(4, sys.byteorder) for one in (predecessor, posix.getuid(), posix.getgid()))
            text = f"MAINPID={posix.getpid()}".encode()
            socket.sendmsg([text], [(_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS, sender)])
            barrier = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, write.to_bytes(4, sys.byteorder))
            socket.sendmsg([b"BARRIER=1"], [barrier])
        finally:
            socket.close()
            posix.close(write)
        # It ends when systemd closes its copy.
        posix.read(read, 1)
    finally:
        posix.close(read)


def status(text: str) -> None:
    """Show ``text`` as the unit's status; a text that is shown already is not sent again."""
    global _last
    if text != _last:
        _last = text
        send("STATUS=" + text)


def log(priority: int, text: str, event: str = "") -> None:
    """Write one line to the journal, beginning with the controller it is about; ``event`` is its message ID, if any."""
    if event and _log_event(priority, text, event):
        return
    sys.stderr.write(f"<{priority}>{subject}: {text}\n")
    sys.stderr.flush()


def _log_event(priority: int, text: str, event: str) -> bool:
    """Send a line with a message ID, which standard error has no place for; tell whether that was possible.

    As systemd.io/JOURNAL_NATIVE_PROTOCOL has it. Of a process that ends at once, the journal may not find out the unit
    any more, so the line says it as well, in the field that journalctl(1) takes it from.
    """
    fields = [
        f"MESSAGE={subject}: {text}",
        f"PRIORITY={priority}",
        f"MESSAGE_ID={event}",
        "SYSLOG_IDENTIFIER=nvme-ctrl",
        f"NVME_CTRL={subject}",
        f"OBJECT_SYSTEMD_UNIT=nvme-ctrl@{subject}.service",
    ]
    if any("\n" in one for one in fields):
        return False
    try:
        data = "\n".join([*fields, ""]).encode("utf-8", "replace")
        _datagram(data, JOURNAL, _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    except OSError:
        return False  # There is no journal, or it has too much to hear.
    return True


def wake(path: str, instance: str) -> bool:
    """Tell the supervisor that there is a new report; return False if it has to be told again, a little later.

    One that is not there reads all reports at its next start.
    """
    try:
        _datagram(instance.encode(), path, _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    except BlockingIOError:
        return False  # The socket's queue is full: many have news at the moment.
    except OSError:
        pass
    return True


def _datagram(data: bytes, address: bytes | str, flags: int) -> None:
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | flags)
    try:
        socket.sendto(data, address)
    finally:
        socket.close()


# To try to connect, and to wait for the next attempt, are one state for who asks since when.
_TRYING = (state.CONNECTING, state.WAITING)


class View:
    """What is told of a controller. ``cause`` is why it is in its state, ``kept`` why it was not disconnected.

    ``errno`` and ``answer`` are those of the last attempt to connect, 0 and '' where ``cause`` is something else.

    ``poll`` is until when (``14:05``) and why it is parked; ``discovery`` what there is to add for a discovery
    controller, and ``page`` what of it is known of its log page. ``foreign`` is who else has it.
    """

    __slots__ = (
        "answer",
        "attempt",
        "attempts_made",
        "cause",
        "device",
        "discovery",
        "errno",
        "foreign",
        "kept",
        "log_read",
        "losses",
        "note",
        "page",
        "poll",
        "reconnects",
        "registered",
        "state",
        "sysfs_inode",
        "wait",
        "waits_for_kernel",
    )

    def __init__(self, name: str) -> None:
        self.state = name
        self.device = self.cause = self.answer = self.foreign = self.note = self.kept = ""
        self.poll = self.page = self.discovery = self.log_read = ""
        self.attempt = self.wait = self.sysfs_inode = self.errno = 0
        # Counts since the worker began.
        self.attempts_made = self.losses = self.reconnects = 0
        # yes or no, '' where this is no discovery controller or nothing is known.
        self.registered = ""
        # The kernel is at an attempt to connect that cannot be broken off.
        self.waits_for_kernel = False

    def text(self) -> str:
        """Return the status line."""
        # One that waits for its turn may not have been tried yet.
        counted = f", attempt {self.attempt}" if self.attempt else ""
        texts = {
            state.LIVE: f"live {self.device}{self.discovery}",
            state.RECONNECTING: f"reconnecting {self.device}: the kernel lost the connection and retries",
            state.WAITING: f"waiting {self.wait} s{counted}: {self.cause}",
            state.PARKED: f"parked until {self.poll}{self.page}",
            state.GONE: "lost while the system goes down",
        }
        if self.state == state.STOPPING:
            return self._stopping()
        text = texts.get(self.state, self.state)
        if self.foreign:
            text = f"left alone: {self.device} belongs to {self.foreign}"
        if self.kept:
            return f"{text}; {self.note}, and stays: {self.kept}"
        return text + (f"; {self.note}" if self.note else "")

    def detail(self) -> str:
        """Return what the status line says beside state and device."""
        counted = f", attempt {self.attempt}" if self.attempt else ""
        texts = {
            state.LIVE: self.discovery.removeprefix(", "),
            state.WAITING: f"{self.wait} s{counted}: {self.cause}",
            state.PARKED: f"until {self.poll}{self.page}",
        }
        text = texts.get(self.state, "")
        if self.state == state.STOPPING:
            text = f"in use by {self.kept}" if self.kept else ""
        elif self.foreign:
            text = f"{self.device} belongs to {self.foreign}"
        note = f"{self.note}, and stays: {self.kept}" if self.kept else self.note
        return text if not note or self.state == state.STOPPING else f"{text}; {note}" if text else note

    def _stopping(self) -> str:
        if self.waits_for_kernel:
            return "stopping: waiting for the kernel to end an attempt to connect"
        if self.kept:
            return f"waiting to disconnect {self.device}: in use by {self.kept}"
        return f"disconnecting {self.device}" if self.device else "stopping"


def _kind(name: str, sysfs_inode: int) -> tuple[str, str]:
    """Return what stays the same for as long as a controller is in one state."""
    return "" if name in _TRYING else name, str(sysfs_inode)


def _last_report(directory: str) -> tuple[tuple[str, str], str]:
    """Return the state that a worker before this one has reported last, and since when; '' where none has.

    A controller does not come to be live because its worker is started again.
    """
    try:
        fields = dict(state.decode(state.REPORT, state.read(directory + "/report")))
    except state.StateError:
        return ("", "0"), ""
    inode = fields.get("kernel-instance", "0")
    since = fields.get("since", "")
    return (_kind(fields.get("state", ""), 0)[0], inode), since if since.isdigit() else ""


class Report:
    """The report on a controller, in ``directory``. ``retry_at`` is when :meth:`wake` is to be called, 0 for never."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._directory = state.directory(instance)
        self._told: list[tuple[str, str]] = []
        # The state in which the controller is, and since when (seconds, CLOCK_BOOTTIME).
        self._state, self._since = _last_report(self._directory)
        # What could not be written yet, and why not.
        self._unwritten = b""
        self._complaint = ""
        self.retry_at = 0.0

    def show(self, view: View) -> None:
        """Bring unit status and report up to date; what is told already is not told again."""
        foreign = view.foreign and view.state != state.STOPPING
        self._tell(view, state.FOREIGN if foreign else view.state, view.text(), view.detail())

    def end(self, view: View, name: str, text: str, cause: str) -> None:
        """Say the last word until it is heard: systemd has no signal for a unit that ends by itself."""
        view.cause = cause
        self._tell(view, name, text, text.removeprefix(name).lstrip(" ;:"))
        for _ in range(LAST_TRIES):
            if not self.retry_at:
                break
            time.sleep(WAKE_AGAIN)
            self.wake()

    def _tell(self, view: View, name: str, text: str, detail: str) -> None:
        status(text)
        began = _kind(name, view.sysfs_inode if view.device else 0)
        if began != self._state or not self._since:
            self._state, self._since = began, str(int(time.clock_gettime(_BOOTTIME)))
        fields = [
            ("state", name),
            ("since", self._since),
            ("status", text),
            ("detail", detail),
            ("device", view.device),
            ("kernel-instance", str(view.sysfs_inode if view.device else 0)),
            ("attempt", str(view.attempt)),
            ("cause", view.cause),
            ("errno", str(view.errno)),
            ("answer", view.answer),
            ("owner", view.foreign),
            ("kept", view.kept),
            ("log-read", view.log_read),
            ("attempts-made", str(view.attempts_made)),
            ("losses", str(view.losses)),
            ("reconnects", str(view.reconnects)),
            ("registered", view.registered),
        ]
        if fields == self._told:
            return
        self._told = fields
        seconds = ("time", str(int(time.clock_gettime(_BOOTTIME))))
        self._unwritten = state.encode(state.REPORT, [*fields, seconds])
        self.wake()

    def forget(self) -> None:
        """Tell everything anew the next time: somebody may have taken the report away."""
        self._told = []

    def wake(self) -> None:
        """Write what is not written yet, and have the supervisor read it."""
        again = not self._write()
        again = not wake(state.WAKE_SOCKET, self._instance) or again
        self.retry_at = time.monotonic() + WAKE_AGAIN * (1 + posix.getrandom(1)[0] / 256) if again else 0.0

    def _write(self) -> bool:
        """Tell whether there is nothing left to be written."""
        if not self._unwritten:
            return True
        try:
            state.write(self._directory + "/report", self._unwritten, state.PUBLIC)
        except state.StateError as error:
            # A withdrawn controller's directory is gone with its last report.
            if not state.exists(self._directory):
                self._unwritten = b""
            elif self._complaint != str(error):
                self._complaint = str(error)
                log(WARNING, f"cannot report to the supervisor: {error}; trying again until it works")
            return not self._unwritten
        self._unwritten, self._complaint = b"", ""
        return True
