# SPDX-License-Identifier: Apache-2.0
"""The host's registration with a discovery controller (DIM), beside the reading of its log page.

It has a call of its own, so that a controller that is slow to answer holds up neither a reading nor a stop. A refusal
is told, tried again, and stops nothing.
"""

import _thread
import time

from discoverd.kernel import admin, controllers, dim
from discoverd.worker import notify
from discoverd.worker.call import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.worker.controller import Worker

# Seconds for an answer. The kernel resets the connection of a controller that has none after them.
PATIENCE = 10
# The wait after a failed attempt doubles from the first to the last of these.
SHORTEST_WAIT, LONGEST_WAIT = 5, 300
# What taking leave may cost all together.
LEAVE = 3


class Registration:
    """Keeps this host registered with the worker's controller.

    ``registered``: the controller has accepted, on this connection. ``call`` is the attempt that is under way, None if
    there is none; ``retry_at`` when to call :meth:`renew` again, 0 for never.
    """

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker
        self.registered = False
        self.call: Call | None = None
        self.retry_at = 0.0
        self.failures = 0
        self.cause = ""
        self._again_after = False
        # Until when a controller that did not answer is spared, also on its next connection: what hung once would cost
        # it that one, too.
        self._spared_until = 0.0
        # Whom the controller may have on record, and whom an attempt names.
        self._on_record: dim.Host | None = None
        self._host: dim.Host | None = None
        # Held while something is said to the controller, so that a registration never follows the leave-taking.
        self._speaking = _thread.allocate_lock()
        self._left = 0

    def renew(self, fresh: bool = False) -> None:
        """Register, now or as soon as the attempt before and the wait after a failure are over.

        ``fresh``: the connection is a new one, of which nothing is known yet.
        """
        if fresh:
            self.registered = False
        self._again_after = self.call is not None
        worker = self.worker
        if self.call is not None or not worker.device or worker.stopping:
            return
        if time.monotonic() < self._spared_until:
            self.retry_at = self._spared_until
            return
        self.retry_at = 0.0
        option = worker.spec.option
        self._host = dim.Host(option("hostnqn"), option("hostid"), worker.spec.symname, option("traddr"))
        instance = worker.kernel_instance
        self.call = Call(lambda device: self._register(device, instance), worker.device, worker.wake_write)

    @property
    def on_record(self) -> bool:
        """Tell whether the controller may have this host on record, or is being told of it now."""
        return self._on_record is not None or self.call is not None

    def outdated(self) -> bool:
        """Tell whether the specification names another host than the one that was registered last."""
        option = self.worker.spec.option
        host = dim.Host(option("hostnqn"), option("hostid"), self.worker.spec.symname, option("traddr"))
        return self._host is not None and host != self._host

    def heard(self) -> bool:
        """Take in what an attempt that has ended has brought; return False while there is none."""
        call = self.call
        if call is None or not call.done:
            return False
        self.call = None
        if call.error is None:
            self._accepted()
        elif isinstance(call.error, (OSError, admin.AdminError)):
            self._failed(call.error)
        else:
            raise call.error
        if self._again_after:
            self.renew()
        return True

    def _accepted(self) -> None:
        if not self.registered:
            notify.log(notify.INFO, "registered with the discovery controller")
        self.registered = True
        self.failures = 0
        self.cause = ""
        self._spared_until = 0.0

    def _failed(self, error: Exception) -> None:
        self.registered = False
        self.failures += 1
        wait = min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** min(self.failures - 1, 10))
        self.retry_at = time.monotonic() + wait
        if isinstance(error, OSError):
            self._spared_until = self.retry_at
        why = getattr(error, "strerror", None) or str(error)
        if why != self.cause:
            self.cause = why
            notify.log(notify.WARNING, f"cannot register with the discovery controller: {why}; trying again")

    def text(self) -> str:
        """Return what to add to the status of a live discovery controller."""
        if self.cause:
            return f", not registered: {self.cause}"
        return ", registered" if self.registered else ""

    def deregister(self) -> None:
        """Take this host off the controller's record, for it leaves for good; no registration follows.

        For another thread than the worker's, which it blocks for LEAVE seconds at most. Raises nothing; says in the
        journal how it went.
        """
        device, self._left = self.worker.device, self.worker.kernel_instance
        if not self.on_record:
            return
        outcome: list[str | None] = []
        over = _thread.allocate_lock()
        over.acquire()

        def leave() -> None:
            outcome.append(self._leave(device, self._left))
            over.release()

        try:
            _thread.start_new_thread(leave, ())
            # A command that the kernel cannot send has no time-out.
            over.acquire(timeout=LEAVE)
        except RuntimeError:
            outcome.append("no thread can be started")
        self.registered = False
        why = outcome[0] if outcome else f"no answer within {LEAVE} s"
        if why is None:
            return
        if why:
            notify.log(notify.WARNING, f"left without deregistering from the discovery controller: {why}")
        else:
            notify.log(notify.INFO, "deregistered from the discovery controller")

    # In threads -------------------------------------------------------------------------------------------

    def _register(self, device: str, instance: int) -> None:
        host = self._host
        assert host is not None  # noqa: S101 - renew has made it
        with self._speaking, admin.Session(device, 2 * PATIENCE) as session:
            if self._left == instance or controllers.kernel_instance(device) != instance:
                raise FileNotFoundError(2, "the controller is gone")
            before = self._on_record
            if before is not None and before.hostnqn != host.hostnqn:
                try:
                    dim.send(session, dim.DEREGISTER, before, PATIENCE)
                except admin.AdminError:
                    pass  # It has no record of it any more, or keeps it: nothing more can be done.
                before = None
            # Without an answer it may have been taken in.
            self._on_record = host
            try:
                dim.send(session, dim.REGISTER, host, PATIENCE)
            except admin.AdminError:
                self._on_record = before
                raise

    def _leave(self, device: str, instance: int) -> str | None:
        """Return why it did not work, '' if it did, None if there was no need to."""
        deadline = time.monotonic() + LEAVE
        if not self._speaking.acquire(timeout=LEAVE):
            return "a registration has had no answer yet"
        try:
            if self._on_record is None:
                return None
            if controllers.attribute(device, "state") != "live":
                return "it has no connection"
            with admin.Session(device, max(0.1, deadline - time.monotonic())) as session:
                if controllers.kernel_instance(device) != instance:
                    return "it is gone"
                dim.send(session, dim.DEREGISTER, self._on_record, LEAVE)
            self._on_record = None
        except (OSError, admin.AdminError) as error:
            return getattr(error, "strerror", None) or str(error)
        finally:
            self._speaking.release()
        return ""
