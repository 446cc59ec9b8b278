# SPDX-License-Identifier: Apache-2.0
"""What a discovery controller's worker does besides: read the log page, read it again when it changes, and register.

The controller sends no further event until the page has been read, and an event that arrives during a
reading may be about what that reading missed: so another one follows it.
"""

import posix
import time

from discoverd import state
from discoverd.kernel import admin, controllers
from discoverd.worker import notify
from discoverd.worker.registration import Registration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.worker.call import Call
    from discoverd.worker.controller import Worker

# Seconds until a failed reading is tried again; the last one for ever.
RETRY = (1, 2, 5, 10, 30)
# A storm of events costs one reading per so many seconds, and the last event is never lost.
INTERVAL = 1
# Of events without end so many are read about in a row, and then one in so many seconds: a page that changes all the
# time must not have hundreds of others connected and disconnected all the time, nor fill the journal.
BURST, SLOW = 20, 10
# A page is read again after so many seconds without an event, less up to an eighth: events can be lost on their way.
REREAD = 900
# And so often while the supervisor needs more readings (discoverd.plan.evidence).
CONFIRM = 60
# What one visit may cost, whatever the controller does.
VISIT = 60
# After so many visits in a row in which it left a question open that it could have refused, nothing but the log page is
# asked for: a controller that hangs or drops the connection over a question would otherwise never get to the page.
_PATIENT = 2
# A controller that ends so many connections in a row, each within so many seconds, is not to be held, whatever it says.
# It is let alone for so long the first time, as one may that fails over, and twice as long each time after that.
_SHORT_LIVED = 3
SHORT = 60
FIRST_PAUSE = 60

_BOOTTIME = 7


class Visit:
    """What is asked in one go, in a thread, and what came of it.

    ``fresh``: on a new connection; ``connection`` is another text for each. ``dctype`` is ``none``, ``ddc``, ``cdc``,
    or '' if it is not known; ``identity`` is None if it was not needed or not given; ``specific`` is how the log page
    was asked for. Of the questions that the page does not depend on, ``answered`` tells that one had an answer,
    ``silent`` that one had none.
    """

    __slots__ = (
        "_address",
        "_ask",
        "_automatic",
        "_port_local",
        "answered",
        "connection",
        "dctype",
        "fresh",
        "identity",
        "log",
        "silent",
        "specific",
    )

    def __init__(self, spec: state.Spec, before: "Visit | None", fresh: bool, connection: str, ask: bool) -> None:
        self._automatic = spec.persistent == "auto"
        self._port_local = spec.pleo
        self._address = spec.option("transport"), spec.option("traddr"), spec.option("trsvcid")
        self.fresh = fresh or before is None
        self.connection = connection
        self._ask = ask
        self.dctype: str = before.dctype if before else ""
        self.identity: admin.Identity | None = before.identity if before else None
        self.specific: int = before.specific if before and spec.pleo else 0
        self.answered = self.silent = False
        self.log: admin.Log | None = None

    def run(self, device: str, kernel_instance: int) -> None:
        """Ask. Raises AdminError and OSError, as admin.read_discovery_log."""
        with admin.Session(device, VISIT) as session:
            if controllers.kernel_instance(device) != kernel_instance:
                # The name is given again, and another's page would have what this one lists disconnected. It was opened
                # before: while the name is this one's, so is what was opened.
                raise FileNotFoundError(2, "the controller is gone")
            if self.fresh:
                self._look(session, device)
            try:
                self.log = admin.read_discovery_log(session, self.specific)
            except admin.RefusedError:
                if not self.specific:
                    raise
                # It announced what it does not keep.
                self.specific = 0
                self.log = admin.read_discovery_log(session)
            if self._automatic and not self.may_persist():
                self._identify(session)
                self._try_keep_alive(session)

    def may_persist(self) -> bool:
        """Tell whether its entry in the page says that this connection can be held."""
        return self.log is not None and self.log.persistent(*self._address)

    def _look(self, session: admin.Session, device: str) -> None:
        """Find out how to ask for the log page, on a new connection."""
        self.identity = None
        # 'none', and what kernels before 5.18 have not got, are both ''.
        self.dctype = controllers.attribute(device, "dctype")
        if not self.dctype:
            self._identify(session)
        # A central discovery controller's own port has no storage.
        if self._port_local and self._ask and not self.silent and self.dctype in ("none", "ddc"):
            try:
                self.specific = admin.discovery_options(session) & admin.PORT_LOCAL
                self.answered = True
            except admin.AdminError:
                self.specific = 0
                self.answered = True
            except OSError:
                self.silent = True

    def _identify(self, session: admin.Session) -> None:
        if self.identity is not None or not self._ask or self.silent:
            return
        try:
            self.identity = admin.identify(session)
            self.dctype = self.dctype or self.identity.dctype
            self.answered = True
        except admin.AdminError:
            self.answered = True
        except OSError:
            self.silent = True

    def _try_keep_alive(self, session: admin.Session) -> None:
        if self.identity is None or not self.identity.announces or self.identity.keep_alive:
            return
        try:
            self.identity.keep_alive = admin.takes_keep_alive(session)
        except (OSError, admin.AdminError):
            # A connection that is lost just now says nothing about it.
            self.identity = None
            self.silent = True


class Discovery:
    """The log page of the worker's controller, and this host's registration with it.

    ``retry_at`` is when to call :meth:`tick`, 0 for never. ``held`` tells whether the connection is to be kept, None
    as long as that is not known, and ``why_not`` why it is not. ``worker.judged()`` is called whenever that is decided.
    """

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker
        self.registration = Registration(worker)
        self.held: bool | None = None
        self.why_not = ""
        self.again_after = False
        self.read_at = float(-INTERVAL)
        self.failures = 0
        self.cause = ""
        self.page = ""
        self._fresh = True
        # Tells the present connection from others, '' until it is read on.
        self._connection = ""
        self._next = 0.0
        self._silent = 0
        self._short_lived = 0
        # That it is not held because of that.
        self._ends_connections = False
        # Readings, of which one is forgotten every SLOW seconds, and when they were counted.
        self._readings = 0.0
        self._counted_at = 0.0
        self._visit: Visit | None = None
        self._before: Visit | None = None
        self._policy = (worker.spec.persistent, worker.spec.pleo)
        self._confirm = worker.spec.confirm

    @property
    def retry_at(self) -> float:
        deadlines = [one for one in (self._next, self.registration.retry_at) if one]
        return min(deadlines) if deadlines else 0.0

    @property
    def on_record(self) -> bool:
        """Tell whether the controller may have this host on record; see Registration.on_record."""
        return self.registration.on_record

    def deregister(self) -> None:
        """Take this host off the controller's record; see Registration.deregister."""
        self.registration.deregister()

    def again(self, fresh: bool = False) -> None:
        """Read the log page now, or once more after the reading that is under way.

        ``fresh``: the connection is a new one, or was made anew. The controller is asked what it is, and told who is
        there.
        """
        worker = self.worker
        now = time.monotonic()
        if fresh:
            self._fresh = True
            self._connection = ""
            self.held = None
            worker.log_read = ""
        self._next = 0.0
        self.again_after = worker.call is not None and worker.call_name == "log_page"
        if self.again_after or not worker.device or worker.stopping:
            return
        # After the pause, or when what else keeps the worker busy is over.
        recent = max(0.0, self._readings - (now - self._counted_at) / SLOW)
        soon = max(self.read_at, now if worker.call is not None else 0.0) + (INTERVAL if recent < BURST else SLOW)
        if now < soon:
            self._next = soon
            return
        self._readings, self._counted_at = recent + 1, now
        self._connection = self._connection or str(time.monotonic_ns())
        ask = self._silent < _PATIENT
        visit = self._visit = Visit(worker.spec, self._before, self._fresh, self._connection, ask)
        self._fresh = False
        instance = worker.kernel_instance
        worker.start("log_page", lambda device: visit.run(device, instance), worker.device)

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        if self._next and now >= self._next:
            self.again()
        if self.registration.retry_at and now >= self.registration.retry_at:
            self.registration.retry_at = 0.0
            if self.worker.state == "live":
                # Else the connection will be a new one, and that registers.
                self.registration.renew()

    def heard(self) -> None:
        """Look whether a registration has ended."""
        if self.registration.heard():
            self.worker.show()
            self.tell_verdict()

    def respecified(self) -> None:
        """Look what a new specification changes."""
        policy = (self.worker.spec.persistent, self.worker.spec.pleo)
        confirm, self._confirm = self._confirm, self.worker.spec.confirm
        if policy != self._policy:
            self._policy = policy
            self.again(fresh=True)
            return
        if self._confirm and not confirm and self.worker.log_read:
            self._next = min(self._next, time.monotonic() + CONFIRM)
        if self.registration.outdated():
            self.registration.renew()

    def read(self, call: "Call") -> None:
        """Keep what a reading has brought. A failed one takes nothing away: the page from before stays."""
        self.read_at = time.monotonic()
        visit = self._visit
        assert visit is not None  # noqa: S101 - again has made it
        if visit.silent:
            self._silent += 1
        elif visit.answered:
            self._silent = 0
        kept = False
        if call.error is None and visit.log is not None and visit.connection != self._connection:
            # The connection was made anew meanwhile, and the page may be of either; another reading follows.
            self.again_after = True
        elif call.error is None and visit.log is not None:
            kept = self._keep(visit, visit.log)
        elif isinstance(call.error, (OSError, admin.AdminError)):
            self._failed(getattr(call.error, "strerror", None) or str(call.error))
        elif call.error is not None:
            raise call.error
        if isinstance(call.error, OSError):
            # The connection is at fault, so the next one is asked everything. That it is another one by the next
            # reading, nobody may have told us yet.
            self._fresh = self._fresh or visit.fresh
            self._connection = ""
        else:
            self._before = visit
            if visit.fresh and self._takes_registrations(visit):
                self.registration.renew(fresh=True)
        if kept:
            self._judge(visit)
            self.tell_verdict()
        if self.again_after:
            self.again()
        self.worker.show()

    def abandoned(self) -> None:
        """Make the reading anew that was under way and is not waited for; its event may not come again."""
        if self._visit is not None:
            self._fresh = self._fresh or self._visit.fresh
        self._next = time.monotonic() + RETRY[0]

    def _keep(self, visit: Visit, log: admin.Log) -> bool:
        try:
            state.write(self.worker.directory + "/log", _headed(visit, log))
        except state.StateError as error:
            self._failed(f"cannot keep it: {error}")
            return False
        self.failures = 0
        self.cause = ""
        count = f"{log.records} {'entry' if log.records == 1 else 'entries'}"
        page = f", {count} in its log page (generation {log.generation})"
        if page != self.page or visit.fresh:
            only = ", of the port that was asked only" if visit.specific & admin.PORT_LOCAL else ""
            notify.log(notify.INFO, f"discovery log page: {count}, generation {log.generation}{only}")
        self.page = page
        self.worker.log_read = str(time.monotonic_ns())
        self._next = self.read_at + self.pause(REREAD)
        return True

    def interval(self, usual: float) -> float:
        """Return how many seconds there are between two readings without an event, of which ``usual`` is the most."""
        if self._ends_connections:
            # It is to be let alone.
            return min(usual, self.away)
        return min(usual, CONFIRM) if self.worker.spec.confirm else usual

    def pause(self, usual: float) -> float:
        """Return the same less up to an eighth at random, unless the readings are for confirmation."""
        seconds = self.interval(usual)
        return seconds if seconds <= CONFIRM else seconds * (1 - posix.getrandom(1)[0] / 2048)

    def _failed(self, why: str) -> None:
        self.failures += 1
        self.worker.log_read = ""
        if why != self.cause:
            self.cause = why
            notify.log(notify.WARNING, f"cannot read the discovery log page: {why}; trying again")
        self._next = self.read_at + RETRY[min(self.failures, len(RETRY)) - 1]

    def _takes_registrations(self, visit: Visit) -> bool:
        # What a registration with RDMA or Fibre Channel would have to hold is not defined.
        return visit.dctype in ("ddc", "cdc") and self.worker.spec.option("transport") == "tcp"

    def _judge(self, visit: Visit) -> None:
        policy = self.worker.spec.persistent
        identity = visit.identity
        self.why_not = ""
        self._ends_connections = False
        if policy == "no":
            self.why_not = "persistent = no"
        elif policy == "force" or identity is None or visit.may_persist():
            # It is to be held anyhow, its entry says so (EPCSD), or nothing speaks against it.
            pass
        elif not identity.keep_alive:
            self.why_not = "it takes no keep-alive"
        elif not identity.announces:
            self.why_not = "it announces no changes"
        self.held = not self.why_not

    def dropped(self, seconds: float) -> None:
        """Take note of a connection that was lost after it had held for so many ``seconds``."""
        self._short_lived = self._short_lived + 1 if seconds < SHORT else 0
        if self._short_lived >= _SHORT_LIVED and self.worker.spec.persistent == "auto":
            self.held = False
            self.why_not = "it ends each connection within a minute"
            self._ends_connections = True
            self.tell_verdict()

    @property
    def away(self) -> float:
        """For how many seconds it is let alone when it ends its connections; 0 if it does not."""
        return FIRST_PAUSE << (self._short_lived - _SHORT_LIVED) if self._ends_connections else 0

    def tell_verdict(self) -> None:
        """Tell the worker whether the connection is to be held, if that is decided."""
        # One that is not held is registered with before it is left.
        if self.held is not None and (self.held or self.registration.call is None):
            self.worker.judged()

    def text(self) -> str:
        """Return what to add to the status of a live discovery controller."""
        page = f", log page not read: {self.cause}" if self.cause else self.page
        return page + self.registration.text()


def _headed(visit: Visit, log: admin.Log) -> bytes:
    """Return a page with a head that says how it was read: when, on which connection, and what was asked for."""
    fields = [
        ("milliseconds", str(int(time.clock_gettime(_BOOTTIME) * 1000))),
        ("connection", visit.connection),
        ("asked", "one-port" if visit.specific & admin.PORT_LOCAL else "all-ports"),
    ]
    return state.encode(state.LOG, fields) + log.data
