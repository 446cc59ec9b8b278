# SPDX-License-Identifier: Apache-2.0
"""The pause of a discovery controller that is not to be held: disconnected, and connected again to read its page.

What it lists stays as it is meanwhile, and the host stays on its record.
"""

import time

from discoverd.kernel import disconnect, usage
from discoverd.worker import notify, withdrawal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.worker.controller import Worker

# It is read again after so many seconds, less up to an eighth, so that hosts do not come in step.
POLL = 900


class Parking(withdrawal.Withdrawal):
    """The worker's controller is to go, and to come back.

    ``since`` is when it went (monotonic), ``until`` when it comes back, by the wall clock, such as ``14:05``.
    """

    def __init__(self, worker: "Worker") -> None:
        super().__init__(worker)
        self.until = ""
        self.since = 0.0
        self.why = ""
        self._said = ""

    def again(self) -> None:
        """Disconnect, in a thread, unless something speaks against it."""
        worker = self._worker
        assert worker.discovery is not None  # noqa: S101 - it has decided this
        self.why = worker.discovery.why_not
        worker.start("parking", self._depart, worker.device)

    def _disconnected(self) -> None:
        discovery = self._worker.discovery
        assert discovery is not None  # noqa: S101 - it has decided this
        self._say(f"disconnected until it is read again in {discovery.interval(POLL) // 60:.0f} min: {self.why}")
        seconds = discovery.pause(POLL)
        self.since = time.monotonic()
        self.until = time.strftime("%H:%M", time.localtime(time.time() + seconds))
        self._worker.parked(seconds)

    def _keep(self, why: str) -> None:
        self.next_look = time.monotonic() + withdrawal.LOOK_AGAIN
        self._say(f"{self.why}, and stays connected: {why}")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            notify.log(notify.NOTICE, f"{self._worker.device}: {text}")

    def _deregister(self) -> None:
        # The host has not left: it comes back.
        pass

    def _in_use(self, device: str, used: dict[str, list[usage.User]]) -> disconnect.Answer | None:  # noqa: ARG002
        # A discovery controller has no namespaces; what pretends to be one may.
        return disconnect.Answer(disconnect.LEAVE, f"in use by {disconnect.phrase(usage.everybody(used))}")
