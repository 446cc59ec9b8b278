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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.worker.controller import Worker

EMERGENCY, ERROR, WARNING, NOTICE, INFO, DEBUG = 0, 3, 4, 5, 6, 7

_last = ""
# The instance of the unit, for readers of the journal who do not look at its fields.
subject = ""


def send(text: str) -> None:
    """Send a notification, such as ``READY=1``, to the service manager; nothing where there is none."""
    address = posix.environ.get(b"NOTIFY_SOCKET", b"")
    if not address:
        return
    if address[:1] == b"@":
        address = b"\0" + address[1:]
    try:
        _datagram(text.encode("utf-8", "replace"), address, _socket.SOCK_CLOEXEC)
    except OSError as error:
        log(WARNING, f"cannot notify the service manager: {error.strerror}")


def status(text: str) -> None:
    """Show ``text`` as the unit's status; a text that is shown already is not sent again."""
    global _last
    if text != _last:
        _last = text
        send("STATUS=" + text)


def log(priority: int, text: str) -> None:
    """Write one line to the journal, beginning with the controller it is about."""
    sys.stderr.write(f"<{priority}>{subject}: {text}\n")
    sys.stderr.flush()


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


class Report:
    """Tells what the worker knows. ``retry_at`` is when :meth:`wake` wants to be called, 0 for never."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self.retry_at = 0.0

    def text(self) -> str:
        """Return the status line for the present state."""
        worker = self._worker
        texts = {
            "live": f"live {worker.device}",
            "reconnecting": f"reconnecting {worker.device}: the kernel lost the connection and retries",
            "waiting": f"waiting {worker.wait} s, attempt {worker.attempt}: {worker.cause}",
            "gone": "lost while the system goes down",
        }
        if worker.state == "parked" and worker.parking is not None and worker.discovery is not None:
            texts["parked"] = f"parked until {worker.parking.until}: {worker.parking.why}{worker.discovery.page}"
        text = texts.get(worker.state, worker.state)
        if worker.state == "stopping":
            return self._stopping_text()
        if worker.ownership.foreign:
            text = f"left alone: {worker.device} belongs to {worker.ownership.foreign}"
        elif worker.discovery is not None and worker.state == "live":
            text += worker.discovery.text()
        if worker.withdrawal is not None and worker.withdrawal.kept:
            return f"{text}; {worker.spec.note}, and stays: {worker.withdrawal.kept}"
        return text + (f"; {worker.spec.note}" if worker.spec.note else "")

    def _stopping_text(self) -> str:
        worker = self._worker
        if worker.call is not None and worker.call_name == "connect":
            return "stopping: waiting for the kernel to end an attempt to connect"
        if worker.departure is not None and worker.departure.users:
            return f"waiting to disconnect {worker.device}: in use by {worker.departure.users}"
        return f"disconnecting {worker.device}" if worker.device else "stopping"

    def show(self) -> None:
        """Bring unit status and report up to date."""
        worker = self._worker
        text = self.text()
        status(text)
        self._write("foreign" if worker.ownership.foreign and worker.state != "stopping" else worker.state, text)

    def end(self, name: str, text: str) -> None:
        """Say the last word until it is heard: systemd has no signal for a unit that ends by itself."""
        status(text)
        self._write(name, text)
        for _ in range(LAST_TRIES):
            if not self.retry_at:
                break
            time.sleep(WAKE_AGAIN)
            self.wake()

    def _write(self, name: str, text: str) -> None:
        worker = self._worker
        fields = [
            ("state", name),
            ("status", text),
            ("device", worker.device),
            ("kernel-instance", str(worker.kernel_instance if worker.device else 0)),
            ("attempt", str(worker.attempt)),
            ("time", str(int(time.clock_gettime(_BOOTTIME)))),
            ("cause", worker.cause),
            ("owner", worker.ownership.foreign),
            ("log-read", worker.log_read),
        ]
        try:
            state.write(worker.directory + "/report", state.encode(state.REPORT, fields))
        except state.StateError as error:
            # A withdrawn controller's directory is gone with its last report.
            if state.exists(worker.directory):
                log(WARNING, f"cannot report to the supervisor: {error}")
        self.wake()

    def wake(self) -> None:
        """Have the supervisor read the report."""
        heard = wake(state.WAKE_SOCKET, self._worker.instance)
        self.retry_at = 0.0 if heard else time.monotonic() + WAKE_AGAIN * (1 + posix.getrandom(1)[0] / 256)
