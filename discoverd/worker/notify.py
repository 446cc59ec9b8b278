# SPDX-License-Identifier: Apache-2.0
"""sd_notify(3) and journal lines of a worker.

The sdnotify package would cost every worker 2.7 MB, so this is its own.
"""

import _socket
import posix
import sys

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
