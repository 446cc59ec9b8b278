# SPDX-License-Identifier: Apache-2.0
"""The end of a controller that a log page no longer lists: disconnected, unless it is in use or not ours to disconnect.

Nobody is urged, and nothing is waited for: what is in use is looked at again from time to time.
"""

import time

from discoverd import registry, state
from discoverd.kernel import disconnect, paths, usage
from discoverd.worker import departure, notify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.worker.call import Call

# A log page that is another one a moment later, such as while a zone is being changed, costs no connection (seconds).
SOAK = 1.5
# What is in use is looked at again after so many seconds.
LOOK_AGAIN = 60


class Withdrawal(departure.Departure):
    """The worker's controller is to go while the worker runs. ``kept`` is why it is still there, as a phrase, or ''."""

    kept = ""

    def again(self) -> None:
        """Look, in a thread, and disconnect if nothing speaks against it."""
        self.next_look = 0.0
        worker = self._worker
        if worker.ownership.firmware or worker.spec.origin == "boot":
            self._keep("it was connected before the boot")
        elif worker.ownership.spared and worker.spec.disconnect != "all":
            self._keep("others connected it")
        else:
            worker.start("withdrawal", self._depart, worker.device)

    def ended(self, call: "Call") -> None:
        """Act on what a look has found."""
        if isinstance(call.error, FileNotFoundError):
            pass  # The worker looks now, and sees that it is gone.
        elif isinstance(call.error, OSError):
            self._keep(f"it cannot be disconnected: {call.error.strerror or call.error}")
        elif call.error is not None:
            raise call.error
        elif call.result.verdict == disconnect.DISCONNECTED:
            self._disconnected()
        else:
            self._keep(call.result.text)

    def _disconnected(self) -> None:
        self._worker.withdrawn(self._worker.device)

    def _keep(self, why: str) -> None:
        worker = self._worker
        self.next_look = time.monotonic() + LOOK_AGAIN
        if why != self.kept:
            self.kept = why
            notify.log(notify.NOTICE, f"{worker.device} is {worker.spec.note}, and stays: {why}")
            worker.show()

    def _in_use(self, device: str, used: dict[str, list[usage.User]]) -> disconnect.Answer | None:
        users = usage.everybody(used)
        if usage.carries_system(users):
            return disconnect.Answer(disconnect.LEAVE, "it carries the system itself")
        others = paths.others(device, used)
        going = {path for path in set().union(*others) if _goes_too(path)}
        fault = paths.fault([one - going for one in others])
        if fault is None:
            return None
        return disconnect.Answer(disconnect.REFUSE, f"in use by {disconnect.phrase(users)}{fault}")


def _goes_too(device: str) -> bool:
    """Tell whether nobody asks for another path either.

    The same log page has dropped all paths of a subsystem: what is in use would be left with one, which is not
    connected again once it is lost.
    """
    try:
        instance = state.instance_of(registry.retrieve(device, "unit") or "")
        return state.Spec.decode(state.read(state.directory(instance) + "/spec")).withdrawn
    except (OSError, state.StateError):
        return False  # Not one of ours.
