# SPDX-License-Identifier: Apache-2.0
"""The host's registration with a discovery controller (DIM), beside the reading of its log page.

It has a thread of its own, so that a controller that is slow to answer holds up neither a reading nor a stop. A refusal
is told, tried again, and stops nothing.
"""

import _thread
import time

from discoverd import notify
from discoverd.kernel import admin, controllers, dim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.state import Spec

# Seconds for an answer. The kernel resets the connection of a controller that has none after them.
ANSWER_TIMEOUT_SECONDS = 10
# The wait after a failed attempt doubles from the first to the last of these.
SHORTEST_WAIT, LONGEST_WAIT = 5, 300
# What deregistering may cost all together.
DEREGISTER_TIMEOUT_SECONDS = 3


def host_of(spec: "Spec") -> dim.Host:
    """Return the host as a specification names it."""
    return dim.Host(spec.option("hostnqn"), spec.option("hostid"), spec.symname, spec.option("traddr"))


class Registration:
    """When this host registers with the worker's controller, and what came of it. No I/O, no clock, no thread.

    ``registered``: the controller has accepted, on this connection. ``under_way``: an attempt is. ``retry_at`` is when
    to call :meth:`renew` again (monotonic), 0 for never. ``cause`` is why the last attempt failed.
    """

    def __init__(self) -> None:
        self.registered = False
        self.under_way = False
        self.retry_at = 0.0
        self.failures = 0
        self.cause = ""
        self._wanted = self._again_after = False
        # Until when a controller that did not answer is not asked again, also on its next connection: what hung once
        # would cost it that one, too.
        self._backoff_until = 0.0
        self._host: dim.Host | None = None

    def renew(self, now: float, fresh: bool = False) -> None:
        """Register, now or as soon as the attempt before and the wait after a failure are over.

        ``fresh``: the connection is a new one, of which nothing is known yet.
        """
        if fresh:
            self.registered = False
        if self.under_way:
            self._again_after = True
        elif now < self._backoff_until:
            self.retry_at = self._backoff_until
        else:
            self.retry_at = 0.0
            self._wanted = True

    def forget(self) -> None:
        """The host is not registered any more, and is not to be before the next :meth:`renew`."""
        self.registered = self._again_after = False
        self.put_off()

    def put_off(self) -> None:
        """Begin nothing before the next :meth:`renew`, which follows a reading of the log page."""
        self._wanted = False
        self.retry_at = 0.0

    @property
    def busy(self) -> bool:
        """Tell whether the controller is being told, or is just going to be."""
        return self.under_way or self._wanted

    def begin(self, spec: "Spec") -> dim.Host | None:
        """Return whom to register now, None for nobody. An attempt that is returned has to be ended."""
        if not self._wanted:
            return None
        self._wanted = False
        self.under_way = True
        self._host = host_of(spec)
        return self._host

    def outdated(self, spec: "Spec") -> bool:
        """Tell whether the specification names another host than the one that was registered last."""
        return self._host is not None and host_of(spec) != self._host

    def ended(self, now: float, error: Exception | None) -> tuple[int, str]:
        """Take in how an attempt has ended. Returns what to say, with its priority; '' for nothing."""
        self.under_way = False
        said = self._accepted() if error is None else self._failed(now, error)
        if self._again_after:
            self._again_after = False
            self.renew(now)
        return said

    def _accepted(self) -> tuple[int, str]:
        known, self.registered = self.registered, True
        self.failures = 0
        self.cause = ""
        self._backoff_until = 0.0
        return notify.INFO, "" if known else "registered with the discovery controller"

    def _failed(self, now: float, error: Exception) -> tuple[int, str]:
        self.registered = False
        self.failures += 1
        self.retry_at = now + min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** min(self.failures - 1, 10))
        if isinstance(error, OSError):
            self._backoff_until = self.retry_at
        why = getattr(error, "strerror", None) or str(error)
        known, self.cause = self.cause == why, why
        text = f"cannot register with the discovery controller: {why}; trying again"
        return notify.WARNING, "" if known else text

    @property
    def word(self) -> str:
        """Whether it is registered: yes or no, '' where it has not been tried."""
        return "yes" if self.registered else "no" if self.cause else ""

    def text(self) -> str:
        """Return what to add to the status of a live discovery controller."""
        if self.cause:
            return f", not registered: {self.cause}"
        return ", registered" if self.registered else ""


class Record:
    """What a discovery controller may have on record of this host. For threads: it locks itself."""

    def __init__(self) -> None:
        # Held while something is said to the controller, so that a registration never follows the deregistration.
        self._speaking = _thread.allocate_lock()
        self._host: dim.Host | None = None
        # A registration has begun, or is about to.
        self._expected = False
        # The sysfs inode of the controller that was left.
        self._left = 0

    @property
    def possible(self) -> bool:
        """Tell whether the controller may have this host on record, or is being told of it now."""
        return self._host is not None or self._expected

    def expect(self) -> None:
        """Take note that :meth:`register` is going to be called, in a thread."""
        self._expected = True

    def register(self, device: str, sysfs_inode: int, host: dim.Host) -> None:
        """Have the controller take the host on its record. Blocks; raises OSError and AdminError."""
        try:
            with self._speaking, admin.Session(device, 2 * ANSWER_TIMEOUT_SECONDS) as session:
                if self._left == sysfs_inode or controllers.sysfs_inode(device) != sysfs_inode:
                    raise FileNotFoundError(2, "the controller is gone")
                self._register(session, host)
        finally:
            self._expected = False

    def _register(self, session: admin.Session, host: dim.Host) -> None:
        before = self._host
        if before is not None and before.hostnqn != host.hostnqn:
            try:
                dim.send(session, dim.DEREGISTER, before, ANSWER_TIMEOUT_SECONDS)
            except admin.AdminError:
                pass  # It has no record of it any more, or keeps it: nothing more can be done.
            before = None
        # Without an answer it may have been taken in.
        self._host = host
        try:
            dim.send(session, dim.REGISTER, host, ANSWER_TIMEOUT_SECONDS)
        except admin.AdminError:
            self._host = before
            raise

    def deregister(self, device: str, sysfs_inode: int) -> bool:
        """Take this host off the controller's record, for it leaves for good; no registration follows.

        Blocks for DEREGISTER_TIMEOUT_SECONDS at most. Raises nothing; says in the journal how it went. Tells
        whether there was anything to take off.
        """
        self._left = sysfs_inode
        if not self.possible:
            return False
        outcome: list[str | None] = []
        over = _thread.allocate_lock()
        over.acquire()

        def leave() -> None:
            outcome.append(self._leave(device, sysfs_inode))
            over.release()

        try:
            _thread.start_new_thread(leave, ())
            # A command that the kernel cannot send has no time-out.
            over.acquire(timeout=DEREGISTER_TIMEOUT_SECONDS)
        except RuntimeError:
            outcome.append("no thread can be started")
        why = outcome[0] if outcome else f"no answer within {DEREGISTER_TIMEOUT_SECONDS} s"
        if why is None:
            return False
        if why:
            notify.log(notify.WARNING, f"left without deregistering from the discovery controller: {why}")
        else:
            notify.log(notify.INFO, "deregistered from the discovery controller")
        return True

    def stay(self) -> None:
        """The controller was not left after all: a registration may follow."""
        self._left = 0

    def _leave(self, device: str, sysfs_inode: int) -> str | None:
        """Return why it did not work, '' if it did, None if there was no need to."""
        deadline = time.monotonic() + DEREGISTER_TIMEOUT_SECONDS
        if not self._speaking.acquire(timeout=DEREGISTER_TIMEOUT_SECONDS):
            return "a registration has had no answer yet"
        try:
            if self._host is None:
                return None
            if controllers.attribute(device, "state") != "live":
                return "it has no connection"
            with admin.Session(device, max(0.1, deadline - time.monotonic())) as session:
                if controllers.sysfs_inode(device) != sysfs_inode:
                    return "it is gone"
                dim.send(session, dim.DEREGISTER, self._host, DEREGISTER_TIMEOUT_SECONDS)
            self._host = None
        except (OSError, admin.AdminError) as error:
            return getattr(error, "strerror", None) or str(error)
        finally:
            self._speaking.release()
        return ""
