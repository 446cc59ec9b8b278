# SPDX-License-Identifier: Apache-2.0
"""The supervisor's log: structured journal entries, each naming the controller it is about.

Speaks the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL) without ever blocking; where there
is no journal, lines go to standard error. Errors go there as well where it is somebody's who reads no journal.
"""

import logging
import os
import socket
import sys

_SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class JournalHandler(logging.Handler):
    """Sends records to the journal; ``extra={"fields": {...}}`` adds fields."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._tells_errors = not _is_standard_error()

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; a full or missing journal costs the record's fields, not the loop's time."""
        message = self.format(record)
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        fields = {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "discoverd"}
        fields |= getattr(record, "fields", {})
        try:
            self._socket.sendto(b"".join(_field(name, value) for name, value in fields.items()), _SOCKET)
        except OSError:
            sys.stderr.write(f"<{priority}>{message}\n")
        else:
            if self._tells_errors and record.levelno >= logging.ERROR:
                sys.stderr.write(f"discoverd: {message}\n")


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" in data:
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def _is_standard_error() -> bool:
    """Tell whether standard error goes to the journal (JOURNAL_STREAM in systemd.exec(5))."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def complain(sentence: str) -> None:
    """Say why the process ends before it has begun, to whoever reads its standard error."""
    prefix = "<3>" if _is_standard_error() else ""
    sys.stderr.write(f"{prefix}{sentence}\n")


def set_up(level: str) -> None:
    """Send the log to the journal from now on; ``level`` is err, warning, info or debug."""
    logger = logging.getLogger("discoverd")
    if not logger.handlers:
        logger.addHandler(JournalHandler())
        logger.propagate = False
    logger.setLevel({"err": logging.ERROR, "warning": logging.WARNING, "debug": logging.DEBUG}.get(level, logging.INFO))
