# SPDX-License-Identifier: Apache-2.0
"""What the supervisor tells its own service manager (sd_notify(3)), through the sdnotify package, without blocking."""

import asyncio
import os
import time

from sdnotify import SystemdNotifier

_STATUS_MAX = 500


class Notifier:
    """Readiness, status and watchdog. Must be made in a running event loop."""

    def __init__(self) -> None:
        # With debug, the package raises instead of hiding what went wrong.
        self._notifier = SystemdNotifier(debug=True) if os.environ.get("NOTIFY_SOCKET") else None
        if self._notifier:
            # PID 1 may be too busy to empty the socket, and then a send would block the loop.
            self._notifier.socket.setblocking(False)
        self._status = ""
        self._unsent: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._watchdog_interval = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
        if self._watchdog_interval:
            self._watchdog()

    def status(self, text: str) -> None:
        """Show ``text`` as the service's status, if it is news."""
        # The package sends Latin-1 and would lose anything else.
        text = text.encode("ascii", "replace").decode()
        if len(text) > _STATUS_MAX:
            text = text[: _STATUS_MAX - 3] + "..."
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def ready(self) -> None:
        """Tell that the daemon has started, or has reloaded."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Tell that a reload has begun."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that the daemon is about to end."""
        self._send("STOPPING=1")

    def _watchdog(self) -> None:
        self._send("WATCHDOG=1")
        self._loop.call_later(self._watchdog_interval, self._watchdog)

    def _send(self, text: str) -> None:
        # Only the latest of each kind is of interest, and it must not be overtaken by an older one.
        kind = text.partition("=")[0]
        self._unsent.pop(kind, None)
        if self._notifier is None:
            return
        try:
            self._notifier.notify(text)
        except OSError:
            # The socket is full, or PID 1 is just being replaced.
            if not self._unsent:
                self._loop.call_later(1, self._send_again)
            self._unsent[kind] = text

    def _send_again(self) -> None:
        unsent, self._unsent = self._unsent, {}
        for text in unsent.values():
            self._send(text)
