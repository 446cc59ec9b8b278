# SPDX-License-Identifier: Apache-2.0
"""What a discovery controller's worker does besides: when it reads the log page, and what it makes of the answers.

The controller sends no further event until the page has been read, and an event that arrives during a reading may be
about what that reading missed: so another one follows it. No I/O, no clock, no thread.
"""

from discoverd import notify, state
from discoverd.kernel import admin
from discoverd.worker.interrogation import Interrogation
from discoverd.worker.registration import Registration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Said = list[tuple[int, str]]

# Seconds until a failed reading is tried again; the last one for ever.
RETRY_SECONDS = (1, 2, 5, 10, 30)
# A storm of events costs one reading per so many seconds, and the last event is never lost.
EVENT_INTERVAL_SECONDS = 1
# Of events without end so many are read about in a row, and then one in so many seconds: a page that changes all the
# time must not have hundreds of others connected and disconnected all the time, nor fill the journal.
BURST, STORM_INTERVAL_SECONDS = 20, 10
# A page is read again after so many seconds without an event, less up to an eighth: events can be lost on their way.
REREAD_INTERVAL_SECONDS = 900
# And so often while the supervisor needs more readings (discoverd.plan.evidence).
CONFIRM_INTERVAL_SECONDS = 60
# After so many visits in a row in which it left a question open that it could have refused, nothing but the log page is
# asked for: a controller that hangs or drops the connection over a question would otherwise never get to the page.
_UNANSWERED_VISITS_MAX = 2
# A controller that ends so many connections in a row, each within so many seconds, gets no persistent connection,
# whatever it says. It is let alone for so long the first time, as one may that fails over, and twice as long each time
# after that.
_SHORT_LIVED_MAX = 3
SHORT_LIVED_SECONDS = 60
FIRST_BACKOFF_SECONDS = 60


class Persistence:
    """Whether the connection to a discovery controller is ``persistent``, None while that is not known.

    ``why_not`` is why it is not. That it ends its connections holds until it has been disconnected for that: each of
    these connections could say of itself that it is persistent.
    """

    def __init__(self) -> None:
        self.persistent: bool | None = None
        self.why_not = ""
        self._short_lived = 0
        # That it is not persistent because of that.
        self._ends_connections = False

    def begin(self) -> None:
        """A connection is a new one, or was made anew, and has not been asked yet."""
        if not self._ends_connections:
            self.persistent = None

    def forget(self) -> None:
        """The controller is no more, or to be judged otherwise."""
        self.persistent = None
        self._ends_connections = False

    def judge(self, spec: "state.Spec", answer: Interrogation) -> None:
        """Decide by what the controller has answered."""
        if self._ends_connections:
            return
        identity = answer.identity
        self.why_not = ""
        if spec.persistent == "no":
            self.why_not = "persistent = no"
        elif spec.persistent == "force" or identity is None or answer.may_persist():
            # It is to be persistent anyhow, its entry says so (EPCSD), or nothing speaks against it.
            pass
        elif not identity.keep_alive:
            self.why_not = "it takes no keep-alive"
        elif not identity.announces:
            self.why_not = "it announces no changes"
        self.persistent = not self.why_not

    def lost(self, spec: "state.Spec", seconds: float) -> None:
        """Take note of a connection that was lost after it had lasted for so many ``seconds``."""
        self._short_lived = self._short_lived + 1 if seconds < SHORT_LIVED_SECONDS else 0
        if self._ends_connections and not self._short_lived:
            self.forget()
        if self._short_lived >= _SHORT_LIVED_MAX and spec.persistent == "auto":
            self.persistent = False
            self.why_not = "it ends each connection within a minute"
            self._ends_connections = True

    @property
    def away(self) -> float:
        """For how many seconds it is let alone when it ends its connections; 0 if it does not."""
        return FIRST_BACKOFF_SECONDS << (self._short_lived - _SHORT_LIVED_MAX) if self._ends_connections else 0


class Discovery:
    """The log page of the worker's controller: more than a dozen attributes, most of them of the readings' times.

    Times are CLOCK_MONOTONIC. ``next`` is when :meth:`begin` has something to begin, 0 for never. ``log_read`` is
    another text for each reading, since a target that starts anew repeats its generations; '' where the last one has
    failed, or was on an earlier connection. ``page`` and ``cause`` are what there is to say of the last reading.
    """

    def __init__(self, spec: "state.Spec", random: "Callable[[], float]") -> None:
        self.spec = spec
        self.persistence = Persistence()
        self.registration = Registration()
        self.next = 0.0
        self.log_read = ""
        self.page = self.cause = ""
        self.under_way: Interrogation | None = None
        self._random = random
        self._failures = 0
        self._read_at = float(-EVENT_INTERVAL_SECONDS)
        self._before: Interrogation | None = None
        self._fresh = True
        self._again_after = False
        # Tells the present connection from others, '' until it is read on.
        self._connection = ""
        self._silent = 0
        # Readings, of which one is forgotten every STORM_INTERVAL_SECONDS, and when they were counted.
        self._readings = 0.0
        self._counted_at = 0.0

    @property
    def deadline(self) -> float:
        """When there is something to do, 0 for never."""
        deadlines = [one for one in (self.next, self.registration.retry_at) if one]
        return min(deadlines) if deadlines else 0.0

    def request(self, now: float, fresh: bool = False) -> None:
        """Have the log page read, or read once more after the reading that is under way.

        ``fresh``: the connection is a new one, or was made anew. The controller is asked what it is, and told who is
        there.
        """
        if fresh:
            self._fresh = True
            self._connection = ""
            self.persistence.begin()
            self.registration.put_off()
            self.log_read = ""
        self._again_after = self.under_way is not None
        # After the pause.
        soon = self._read_at + (EVENT_INTERVAL_SECONDS if self._recent(now) < BURST else STORM_INTERVAL_SECONDS)
        self.next = 0.0 if self._again_after else max(now, soon)

    def _recent(self, now: float) -> float:
        return max(0.0, self._readings - (now - self._counted_at) / STORM_INTERVAL_SECONDS)

    def begin(self, now: float) -> Interrogation | None:
        """Return what is to be asked now, None for nothing. What is returned has to be ended."""
        if not self.next or now < self.next or self.under_way is not None:
            return None
        self.next = 0.0
        self._readings, self._counted_at = self._recent(now) + 1, now
        self._connection = self._connection or str(int(now * 1e9))
        ask = self._silent < _UNANSWERED_VISITS_MAX
        self.under_way = Interrogation(self.spec, self._before, self._fresh, self._connection, ask)
        self._fresh = False
        return self.under_way

    def abandon(self, now: float) -> None:
        """Do not wait for the reading that is under way, and make it anew: its event may not come again."""
        if self.under_way is not None:
            self._fresh = self._fresh or self.under_way.fresh
            self.next = now + RETRY_SECONDS[0]
        self.under_way = None

    def forget(self) -> None:
        """The controller is no more: the next connection's log page decides anew."""
        self.persistence.forget()
        self.registration.forget()
        self.under_way = None
        self.next = 0.0

    def to_keep(self, boottime: float) -> bytes | None:
        """Return what of the reading under way is kept, with a head that says how it was read; None for nothing.

        ``boottime`` is CLOCK_BOOTTIME.
        """
        answer = self.under_way
        if answer is None or answer.log is None or answer.connection != self._connection:
            # In the last case the connection was made anew meanwhile, and the page may be of either.
            return None
        fields = [
            ("milliseconds", str(int(boottime * 1000))),
            ("connection", answer.connection),
            ("asked", "one-port" if answer.specific & admin.PORT_LOCAL else "all-ports"),
        ]
        return state.encode(state.LOG, fields) + answer.log.data

    def ended(self, now: float, error: Exception | None, not_kept: str = "") -> "Said":
        """Take in a reading that has ended, and return what to say of it. ``not_kept`` is why it is lost, or ''.

        A failed one takes nothing away: the page from before stays.
        """
        answer, self.under_way = self.under_way, None
        if answer is None:
            return []
        self._read_at = now
        if answer.silent:
            self._silent += 1
        elif answer.answered:
            self._silent = 0
        said: Said = []
        usable = error is None and answer.log is not None
        present = answer.connection == self._connection
        if usable and not present:
            self._again_after = True
        elif usable and not not_kept:
            said = self._read(now, answer)
        else:
            said = self._failed(now, not_kept or getattr(error, "strerror", None) or str(error))
        if isinstance(error, OSError):
            # The connection is at fault, so the next one is asked everything. That it is another one by the next
            # reading, nobody may have told us yet.
            self._fresh = self._fresh or answer.fresh
            self._connection = ""
        else:
            self._before = answer
            # The reading that is made anew on another connection registers there.
            if answer.fresh and present and self._takes_registrations(answer):
                self.registration.renew(now, fresh=True)
        if self._again_after:
            self.request(now)
        return said

    def _read(self, now: float, answer: Interrogation) -> "Said":
        log = answer.log
        assert log is not None  # noqa: S101 - the caller has looked
        self._failures = 0
        self.cause = ""
        count = f"{log.records} {'entry' if log.records == 1 else 'entries'}"
        page = f", {count} in its log page (generation {log.generation})"
        known, self.page = page == self.page and not answer.fresh, page
        self.log_read = str(int(now * 1e9))
        self.next = now + self.pause(REREAD_INTERVAL_SECONDS)
        self.persistence.judge(self.spec, answer)
        only = ", of the port that was asked only" if answer.specific & admin.PORT_LOCAL else ""
        text = f"discovery log page: {count}, generation {log.generation}{only}"
        return [] if known else [(notify.INFO, text)]

    def _failed(self, now: float, why: str) -> "Said":
        self._failures += 1
        self.log_read = ""
        self.next = now + RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS)) - 1]
        known, self.cause = why == self.cause, why
        text = f"cannot read the discovery log page: {why}; trying again"
        return [] if known else [(notify.WARNING, text)]

    def _takes_registrations(self, answer: Interrogation) -> bool:
        # What a registration with RDMA or Fibre Channel would have to hold is not defined.
        return self.spec.register and answer.dctype in ("ddc", "cdc") and self.spec.option("transport") == "tcp"

    def interval(self, usual: float) -> float:
        """Return how many seconds there are between two readings without an event, of which ``usual`` is the most."""
        if away := self.persistence.away:
            # It is to be let alone.
            return min(usual, away)
        return min(usual, CONFIRM_INTERVAL_SECONDS) if self.spec.confirm else usual

    def pause(self, usual: float) -> float:
        """Return the same less up to an eighth at random, unless the readings are for confirmation.

        So hosts do not come in step.
        """
        seconds = self.interval(usual)
        return seconds if seconds <= CONFIRM_INTERVAL_SECONDS else seconds * (1 - self._random() / 8)

    def respecify(self, now: float, spec: "state.Spec") -> None:
        """Take a new specification, and do what it changes."""
        before, self.spec = self.spec, spec
        if spec.persistent != before.persistent:
            self.persistence.forget()
        # One that was withdrawn may have had this host taken off its record.
        asked_again = before.withdrawn and not spec.withdrawn
        if not spec.register:
            self.registration.forget()
        to_register = spec.register and not before.register
        if (
            asked_again
            or to_register
            or ((before.persistent, before.pleo, before.trusted) != (spec.persistent, spec.pleo, spec.trusted))
        ):
            self.request(now, fresh=True)
            return
        if spec.confirm and not before.confirm and self.log_read and self.next:
            self.next = min(self.next, now + CONFIRM_INTERVAL_SECONDS)
        if spec.register and self.registration.outdated(spec):
            self.registration.renew(now)

    def tick(self, now: float, live: bool) -> None:
        """Do what is due. ``live``: there is a connection; else the next one registers."""
        if self.registration.retry_at and now >= self.registration.retry_at:
            self.registration.retry_at = 0.0
            if live:
                self.registration.renew(now)

    def verdict(self) -> str | None:
        """Return why the connection is not to be persistent, '' if it is or that is not known; None: not yet decided.

        One that is not persistent is registered with before it is left.
        """
        if self.persistence.persistent is not False:
            return ""
        return None if self.registration.busy else self.persistence.why_not

    def text(self) -> str:
        """Return what to add to the status of a live discovery controller."""
        page = f", log page not read: {self.cause}" if self.cause else self.page
        return page + self.registration.text()
