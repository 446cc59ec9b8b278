# SPDX-License-Identifier: Apache-2.0
"""What a discovery controller's worker does besides: read the log page, and read it again when it changes.

The controller sends no further event until the page has been read, and an event that arrives during a
reading may be about what that reading missed: so another one follows it.
"""

import time

from discoverd import state
from discoverd.kernel import admin
from discoverd.worker import notify
from discoverd.worker.call import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.worker.controller import Worker

# Seconds until a failed reading is tried again; the last one for ever.
RETRY = (1, 2, 5, 10, 30)
# A storm of events costs one reading per so many seconds, and the last event is never lost.
INTERVAL = 1


class Discovery:
    """The log page of the worker's controller. ``retry_at`` is when to call :meth:`again`, 0 for never."""

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker
        self.again_after = False
        self.retry_at = 0.0
        self.read_at = float(-INTERVAL)
        self.failures = 0
        self.cause = ""
        self.page = ""

    def again(self) -> None:
        """Read the log page now, or once more after the reading that is under way."""
        worker = self.worker
        self.retry_at = 0.0
        self.again_after = worker.call is not None
        if worker.call is None and time.monotonic() < self.read_at + INTERVAL:
            self.retry_at = self.read_at + INTERVAL
            return
        if worker.call is None and worker.device and not worker.stopping:
            worker.start("log_page", admin.read_discovery_log, worker.device)

    def read(self, call: Call) -> None:
        """Keep what a reading has brought. A failed one takes nothing away: the page from before stays."""
        self.read_at = time.monotonic()
        if call.error is None:
            self._keep(*call.result)
        elif isinstance(call.error, (OSError, admin.AdminError)):
            self._failed(getattr(call.error, "strerror", None) or str(call.error))
        else:
            raise call.error
        if self.again_after:
            self.again()

    def _keep(self, generation: int, records: int, page: bytes) -> None:
        try:
            state.write(self.worker.directory + "/log", page)
        except state.StateError as error:
            self._failed(f"cannot keep it: {error}")
            return
        self.failures = 0
        self.cause = ""
        self.page = f", {records} {'entry' if records == 1 else 'entries'} in its log page (generation {generation})"
        self.worker.log_read = str(time.monotonic_ns())
        notify.log(notify.INFO, f"discovery log page: {records} entries, generation {generation}")
        self.worker.show()

    def _failed(self, why: str) -> None:
        self.failures += 1
        if why != self.cause:
            self.cause = why
            notify.log(notify.WARNING, f"cannot read the discovery log page: {why}; trying again")
        self.retry_at = self.read_at + RETRY[min(self.failures, len(RETRY)) - 1]
        self.worker.show()

    def text(self) -> str:
        """Return what to add to the status of a live discovery controller."""
        if self.cause:
            return f", log page not read: {self.cause}"
        return self.page
