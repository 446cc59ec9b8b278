# SPDX-License-Identifier: Apache-2.0
"""What a worker does about its controller, and when: tables, without I/O, clock or thread.

The state is a link (what there is between host and controller) and a goal (what is wanted). The loop hands in an event,
carries out the actions that come back, and hands in what became of them. TRANSITIONS says what an event does to the
link, DECISIONS what each goal makes of each link; the diagram in docs/design/worker.md is drawn from both.
"""

from discoverd import notify, state
from discoverd.notify import ERROR, NOTICE, WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Transition = tuple[str, "Callable[[Machine, Event], None] | None"] | None
    Decision = Callable[["Machine"], None] | None

# With CONNECTING and DISCONNECTING an operation is under way; there is never more than one.
LINKS = ABSENT, CONNECTING, LIVE, RECONNECTING, DISCONNECTING = (
    "absent",
    state.CONNECTING,
    state.LIVE,
    state.RECONNECTING,
    "disconnecting",
)

# In ascending order: keep the connection; read the log page now and then, and be disconnected meanwhile; end, because
# nobody asks for the controller; end, because the unit is stopped.
GOALS = KEEP, POLL, WITHDRAW, STOP = "keep", "poll", "withdraw", "stop"
# What else a disconnect is for: the system goes down, and what waits for this target waits in vain.
GIVE_UP = "give up"

# Why there is no connection, and none is being made.
WAITING, PARKED, GONE = state.WAITING, state.PARKED, state.GONE

# Waits double from the first of these to the second, which is about the kernel's own reconnect delay (seconds, as all
# below).
SHORTEST_WAIT, LONGEST_WAIT = 1, 8
# An attempt that has failed and that the kernel was at for so long has kept all others from connecting: the next ones
# take turns with others of the kind.
SLOW_CONNECT_SECONDS = 3
# When to try again for a turn that another has, less up to a half.
TURN_WAIT_SECONDS = 4
# A connection that lasted less was none: the wait before the next one grows as after failures.
BRIEF_CONNECTION_SECONDS = 10
# What a look has found out and the event that is about the same are not so far apart.
SAME_EVENT_SECONDS = 1
# Links that flap must not make waiting workers hammer the target.
LINK_PAUSE = 2
# And one that is parked rests for so long: an address that a router has only renewed is announced as well.
PARKED_LINK_INTERVAL_SECONDS = 60
# A log page that is another one a moment later, such as while a zone is being changed, costs no connection.
WITHDRAW_DEBOUNCE_SECONDS = 1.5
# A target that is silent for so long while the system goes down is given up, so that what waits for it ends. Less than
# the 90 seconds after which systemd gives up an unmount.
SILENCE_TIMEOUT_SECONDS = 60
# When a disconnect is tried again that something spoke against.
DISCONNECT_RETRY_SECONDS = {STOP: 1, WITHDRAW: 60, POLL: 60, GIVE_UP: 2}

NEVER = float("inf")

# Message IDs of a worker's last word.
_EVENTS = {state.GIVEN_UP: notify.GIVEN_UP, state.WITHDRAWN: notify.WITHDRAWN}

_NEVER_CONNECTED = "the kernel could not connect it"


class Event:
    """What has happened. The kinds are below; each says which of the fields count."""

    __slots__ = ("answer", "cause", "errno", "kind", "seconds", "spec", "text")

    def __init__(
        self,
        kind: str,
        text: str = "",
        seconds: float = 0.0,
        spec: "state.Spec | None" = None,
        errno: int = 0,
        cause: str = "",
        answer: str = "",
    ) -> None:
        self.kind = kind
        self.text = text
        self.seconds = seconds
        self.spec = spec
        self.errno = errno
        self.cause = cause
        self.answer = answer


# What becomes of the link.
CONNECTED = "connected"  # text: the device. It is live.
ATTACHED = "attached"  # text: the device. The kernel has it, and tries to connect it.
NOT_FOUND = "not found"  # The kernel has no such controller.
EXCLUDED = "excluded"  # text: by which file and line
REFUSED = "refused"  # errno, text: why; answer: the target's; seconds: how long the kernel was at it
POSTPONED = "postponed"  # text: whose turn it is
UP, DOWN = "up", "down"  # sysfs says so
REMADE = "remade"  # The kernel lost the connection and made it again between two looks.
REMOVED = "removed"  # The kernel has given the controller up.
DISCONNECTED = "disconnected"  # text: a remark; polled: for how long, with seconds
KEPT = "kept"  # text: what speaks against the disconnect, for now
CALLED_OFF = "called off"  # The system does not go down.
REFUSED_STOP, LEFT = "stop refused", "left"  # text: why a stop leaves it connected; cause: the same without advice

# What changes the goal, or the time.
SPECIFIED = "specified"  # spec
STOPPED = "stopped"  # SIGTERM
GOING_DOWN, NOT_GOING_DOWN = "going down", "not going down"
FOREIGN = "foreign"  # text: who else has it, '' for nobody
PROTECTED = "protected"  # text: why it is not ours to disconnect, '' if it is
PERSISTENCE = "persistence"  # text: why the connection is not to be persistent, '' if it is
SOONER = "sooner"  # seconds: try in so many at the latest
LINK_UP = "link up"
DUE = "due"  # The time has come, or there was a look.


class Action:
    """What the loop is to do. The kinds are below; each says which of the fields count."""

    __slots__ = ("cause", "event", "kind", "priority", "report", "seconds", "text")

    def __init__(
        self,
        kind: str,
        text: str = "",
        priority: int = 0,
        seconds: float = 0.0,
        report: str = "",
        cause: str = "",
        event: str = "",
    ) -> None:
        self.event = event
        self.kind = kind
        self.text = text
        self.priority = priority
        self.seconds = seconds
        self.report = report
        self.cause = cause


# The first three begin an operation, which ends with an event.
FIND = "find"  # Look for the controller: CONNECTED, ATTACHED, NOT_FOUND, EXCLUDED.
CONNECT = "connect"  # text: IN_TURN, or ''. CONNECTED, ATTACHED, REFUSED, POSTPONED
DISCONNECT = "disconnect"  # text: what for. DISCONNECTED, KEPT, REMOVED, REFUSED_STOP, LEFT
FORGET = "forget"  # The controller is no more.
LOST = "lost"  # seconds: for how long the connection had lasted
RESTORED = "restored"  # The kernel has made the connection again.
LOG = "log"  # priority, text, event: its message ID, if any
END = "end"  # report, text, cause: the last that the worker says


# No two at once, in all workers of the host.
IN_TURN = "in turn"


class Attempts:
    """Failed attempts to connect in a row, and for how long there has been no connection.

    ``wait`` (whole seconds), ``cause``, ``errno`` and ``answer`` are shown; ``turn`` is why there was no attempt at
    last, '' if there was one.
    ``slow`` tells that the last one kept others from connecting. ``brief`` counts connections in a row that the kernel
    gave up after less than BRIEF_CONNECTION_SECONDS. ``since`` is when there was one last; CLOCK_BOOTTIME goes on while
    the host sleeps.
    """

    __slots__ = (
        "answer",
        "brief",
        "cause",
        "connected_at",
        "count",
        "errno",
        "since",
        "slow",
        "turn",
        "wait",
        "was_live",
    )

    def __init__(self, boottime: float) -> None:
        self.count = self.wait = self.brief = self.errno = 0
        self.cause = self.turn = self.answer = ""
        self.slow = False
        self.connected_at = 0.0
        self.was_live = False
        self.since = boottime

    def end(self, spec: state.Spec, why: str, boottime: float) -> str:
        """Return why there is no further attempt, '' if there is one."""
        if 0 < spec.attempts <= self.count:
            times = "one attempt" if self.count == 1 else f"{self.count} attempts"
            limit = "its subsystem is not connected to the central discovery controller (NCC)"
            if not spec.trusted:
                limit = "only an announcement leads to it, so it is tried again later"
            return f"given up after {times}: {why}; {limit}"
        if not spec.give_up_after or boottime < self.since + spec.give_up_after:
            return ""
        return f"given up after {_span(spec.give_up_after)} without a connection: {why}"


class Counts:
    """What has happened since the worker began: attempts to connect, connections lost, and connections made again.

    ``lost``: the last loss is not made good yet.
    """

    __slots__ = ("attempts", "losses", "lost", "reconnects")

    def __init__(self) -> None:
        self.attempts = self.losses = self.reconnects = 0
        self.lost = False

    def lose(self) -> None:
        self.losses += not self.lost
        self.lost = True

    def restore(self) -> None:
        self.reconnects += self.lost
        self.lost = False


class Machine:
    """The state of one controller: more than a dozen attributes, because each is shown or decides.

    ``random`` returns a number from 0 to 1, so that what many controllers do at once is not done again in step.
    ``device`` is '' without a controller. ``due`` is when a DUE is wanted (monotonic), 0 or NEVER if it is not.
    ``kept`` is why a disconnect was not made, ``pause`` why there is no connection and none is being made, and
    ``polled_for`` why it is polled. ``ended``: nothing that is handed in counts any more.
    """

    __slots__ = (
        "_actions",
        "_before",
        "_boottime",
        "_came_up",
        "_now",
        "_parked_at",
        "_random",
        "_said",
        "attempts",
        "changed_at",
        "counts",
        "device",
        "due",
        "ended",
        "foreign",
        "going_down",
        "kept",
        "link",
        "operation",
        "pause",
        "poll",
        "polled_for",
        "protected",
        "spec",
        "stopping",
    )

    def __init__(self, spec: state.Spec, boottime: float, random: "Callable[[], float]") -> None:
        self.spec = spec
        self.link = ABSENT
        self.device = ""
        self.due = 0.0
        self.attempts = Attempts(boottime)
        self.counts = Counts()
        self.stopping = self.ended = False
        self.poll = self.foreign = self.protected = ""
        self.pause = self.kept = self.polled_for = ""
        # When that was told; 0 while the system does not go down.
        self.going_down = 0.0
        # When the connection was made or lost last.
        self.changed_at = 0.0
        # What the disconnect under way is for, and what the link is again if it comes to nothing.
        self.operation = ""
        self._before = ABSENT
        self._came_up = False
        self._parked_at = 0.0
        self._said = ""
        self._random = random
        self._now, self._boottime = 0.0, boottime
        self._actions: list[Action] = []

    @property
    def goal(self) -> str:
        """What is wanted: the highest that applies."""
        if self.stopping:
            return STOP
        # What is polled is disconnected by itself, and not connected again.
        if self.spec.withdrawn and (self.spec.disconnect or not self.poll):
            return WITHDRAW
        return POLL if self.poll else KEEP

    @property
    def state(self) -> str:
        """The state that is reported."""
        if self.stopping:
            return state.STOPPING
        if self.link == ABSENT:
            return self.pause or CONNECTING
        return self._before if self.link == DISCONNECTING else self.link

    def step(self, event: Event, now: float, boottime: float) -> list[Action]:
        """Take an event, and return what is to be done, in this order. ``now`` is CLOCK_MONOTONIC."""
        self._now, self._boottime, self._actions = now, boottime, []
        if self.ended:
            return []
        if event.kind in INPUTS:
            INPUTS[event.kind](self, event)
        else:
            transition = TRANSITIONS[event.kind][LINKS.index(self.link)]
            if transition is not None:
                link, then = transition
                self.link = link or self._before
                if then is not None:
                    then(self, event)
        decide = None if self.ended else DECISIONS[self.goal][LINKS.index(self.link)]
        if decide is not None:
            decide(self)
        if self.due <= now:
            self.due = 0.0
        return self._actions

    # What the tables name ----------------------------------------------------------------------------------

    def _do(self, kind: str, text: str = "", priority: int = 0, seconds: float = 0.0) -> None:
        self._actions.append(Action(kind, text, priority, seconds))

    def _log(self, priority: int, text: str, event: str = "") -> None:
        self._actions.append(Action(LOG, text, priority, event=event))

    def _end(self, report: str, text: str, cause: str = "") -> None:
        self.ended = True
        self._actions.append(Action(END, text, report=report, cause=cause))

    def _end_and_say(self, report: str, text: str, cause: str) -> None:
        self._log(NOTICE, text, _EVENTS.get(report, ""))
        self._end(report, text, cause)

    def _forget(self) -> None:
        self._do(FORGET, self.device)
        self.device = self.kept = self.foreign = self.protected = ""

    def _connected(self, event: Event) -> None:
        self.device = event.text
        self.pause = self.kept = ""
        self.changed_at = self._now
        self._came_up = False
        self.due = self._now + WITHDRAW_DEBOUNCE_SECONDS if self.goal == WITHDRAW else 0.0
        attempts = self.attempts
        if self.link == LIVE:
            self.counts.restore()
        attempts.count, attempts.cause, attempts.turn, attempts.slow = 0, "", "", False
        attempts.errno, attempts.answer = 0, ""
        attempts.connected_at = self._now
        attempts.was_live = attempts.was_live or self.link == LIVE

    def _not_found(self, _: Event) -> None:
        if self.stopping:
            self.link = ABSENT
        elif self.goal == WITHDRAW:
            self.link = ABSENT
            self._end_and_say(state.WITHDRAWN, f"{self.spec.note}: not connected again", self.spec.note)
        else:
            # What was only announced has shown nothing yet that speaks for it.
            announced = self.spec.announced_on and not self.attempts.was_live
            self.counts.attempts += 1
            self._do(CONNECT, IN_TURN if self.attempts.slow or announced else "")

    def _excluded(self, event: Event) -> None:
        self._end_and_say(state.EXCLUDED, f"excluded by {event.text}: not connected", event.text)

    def _refused(self, event: Event) -> None:
        attempts = self.attempts
        attempts.count += 1
        attempts.errno, attempts.answer = event.errno, event.answer
        attempts.turn, attempts.slow = "", event.seconds >= SLOW_CONNECT_SECONDS
        if self.stopping:
            return
        # Less by up to a quarter, so that the controllers of a failed array do not come back in step.
        wait = min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** min(attempts.count - 1, 10)) * (1 - self._random() / 4)
        if self._waits(wait, event) and event.text != attempts.cause:
            attempts.cause = event.text
            text = f"cannot connect, errno {event.errno}: {event.text}; trying again until it works"
            self._log(WARNING, text, notify.CANNOT_CONNECT)

    def _postponed(self, event: Event) -> None:
        self.counts.attempts -= 1
        self.attempts.turn = event.text
        if not self.stopping:
            self._waits(TURN_WAIT_SECONDS * (1 - self._random() / 2), event)

    def _waits(self, wait: float, event: Event) -> bool:
        """Wait for another attempt; return False if there is to be none."""
        attempts = self.attempts
        if why := attempts.end(self.spec, event.text, self._boottime):
            self._end_and_say(state.GIVEN_UP, why, event.text)
            return False
        self.due = self._now + wait
        self.pause = WAITING
        attempts.wait = max(1, round(wait))
        if self._came_up:
            # While the attempt was under way; it may have come too early.
            self._link_up(event)
        return True

    def _up(self, _: Event) -> None:
        self.attempts.was_live = True

    def _restored(self, _: Event) -> None:
        self.attempts.was_live = True
        self.changed_at = self._now
        self._log(NOTICE, f"{self.device}: the connection is back", notify.RESTORED)
        self.counts.restore()
        self._do(RESTORED)

    def _lost(self, _: Event) -> None:
        self._do(LOST, seconds=self._now - self.changed_at)
        self.changed_at = self._now
        self._log(WARNING, f"{self.device}: lost the connection; the kernel reconnects", notify.LOST)
        self.counts.lose()

    def _remade(self, _: Event) -> None:
        if self._now > self.changed_at + SAME_EVENT_SECONDS:
            self.counts.lose()
            self.counts.restore()
            self._do(LOST, seconds=self._now - self.changed_at)
            self.changed_at = self._now

    def _removed(self, event: Event) -> None:
        device = self.device
        if event.kind == REMOVED and self.attempts.was_live and not self.stopping:
            self.counts.lose()
        self._forget()
        self.poll = ""
        if self.stopping:
            return
        then = "the system goes down" if self.going_down else "connecting it again"
        self._log(WARNING, f"{device} is gone; {then}", notify.REMOVED)
        attempts = self.attempts
        if attempts.was_live:
            attempts.was_live = False
            attempts.since = self._boottime
        elif why := attempts.end(self.spec, _NEVER_CONNECTED, self._boottime):
            # On Fibre Channel, where a connect never fails: the kernel tries until ctrl-loss-tmo.
            self._end_and_say(state.GIVEN_UP, why, _NEVER_CONNECTED)
            return
        # A quarter of a second at most, so that a whole array's controllers do not come back in step.
        self.due = self._now + self._random() / 4
        attempts.brief = attempts.brief + 1 if self._now < attempts.connected_at + BRIEF_CONNECTION_SECONDS else 0
        if attempts.brief > 1:
            # With a ctrl-loss-tmo of 0 the kernel does not wait either, and a target may end each connection.
            self.due += min(LONGEST_WAIT, 2 ** min(attempts.brief - 2, 10))
        if self.going_down:
            self.pause, self.due = GONE, NEVER

    def _disconnected(self, event: Event) -> None:
        device = self.device
        if self.operation == GIVE_UP:
            lost = "its target is silent, and the system goes down; what was not written is lost"
            self._log(ERROR, f"{device} is given up: {lost}")
            self._removed(event)
        elif self.operation == POLL:
            self._parked(event)
        elif self.operation == STOP:
            self._log(NOTICE, f"disconnected {device}{event.text}")
            self._forget()
        elif self.spec.withdrawn:
            self._forget()
            self._end_and_say(state.WITHDRAWN, f"disconnected {device}: it is {self.spec.note}", self.spec.note)
        else:
            # Asked for again in this very moment. A stop ends it all the same.
            self._removed(event)

    def _parked(self, event: Event) -> None:
        # What has changed while it was being disconnected is worth another look at once.
        changed = self.spec.withdrawn or self.goal != POLL
        text = f"disconnected until it is read again in {event.text}: {self.polled_for}"
        if text != self._said:
            self._said = text
            self._log(NOTICE, f"{self.device}: {text}")
        self._forget()
        self.poll = ""
        self.attempts.was_live = False
        self.attempts.since = self._boottime
        self.pause = PARKED
        self._parked_at = self._now
        self.due = self._now + (0 if changed else event.seconds)

    def _kept(self, event: Event) -> None:
        said, self.kept = self.kept, event.text
        self.due = self._now + DISCONNECT_RETRY_SECONDS[self.operation]
        if self.operation == GIVE_UP:
            self.kept = said
        elif self.operation != self.goal:
            self.kept, self.due = "", self._begin()
        elif self.kept == said:
            pass
        elif self.goal == WITHDRAW:
            self._log(NOTICE, f"{self.device} is {self.spec.note}, and stays: {self.kept}")
        elif self.goal == POLL and self._said != f"{self.poll}, {self.kept}":
            self._said = f"{self.poll}, {self.kept}"
            self._log(NOTICE, f"{self.device}: {self.poll}, and stays connected: {self.kept}")

    def _left(self, event: Event) -> None:
        self._end(state.STOPPED, f"stopped; {event.text}", event.cause)

    def _stop_refused(self, event: Event) -> None:
        self._end(state.REFUSED, event.text, event.cause)

    # What changes the goal ---------------------------------------------------------------------------------

    def _begin(self) -> float:
        """Return when to begin with what is wanted now of a controller that is there."""
        return self._now + WITHDRAW_DEBOUNCE_SECONDS if self.goal == WITHDRAW else 0.0

    def _aim(self, before: str) -> None:
        if self.goal != before:
            self.kept = ""
            if self.device:
                self.due = self._begin()

    def _specified(self, event: Event) -> None:
        assert event.spec is not None  # noqa: S101 - the kind says so
        before, aim = self.goal, self.spec.disconnect
        if event.spec.give_up_after and not self.spec.give_up_after and not self.device:
            # Nobody announces it any longer: it counts from now.
            self.attempts.since = self._boottime
        self.spec = event.spec
        if bool(aim) != bool(self.spec.disconnect):
            before = ""
        self._aim(before)

    def _stopped(self, _: Event) -> None:
        before = self.goal
        self.stopping = True
        self._aim(before)

    def _goes_down(self, _: Event) -> None:
        self.going_down = self._now

    def _does_not_go_down(self, _: Event) -> None:
        self.going_down = 0.0
        if self.pause == GONE:
            self.pause, self.due = "", 0.0

    def _is_foreign(self, event: Event) -> None:
        if self.foreign != event.text:
            self.foreign = event.text
            self.kept = ""
            self.due = self._begin()

    def _is_protected(self, event: Event) -> None:
        self.protected = event.text

    def _persistence(self, event: Event) -> None:
        before = self.goal
        self.poll = event.text if self.device else ""
        self._aim(before)

    def _sooner(self, event: Event) -> None:
        if self.link == CONNECTING:
            # What the attempt under way does not know of.
            self._came_up = self._came_up or not event.seconds
        elif self.link == ABSENT and self.pause in (WAITING, PARKED):
            self.due = min(self.due, self._now + event.seconds)

    def _link_up(self, _: Event) -> None:
        if self.link == CONNECTING:
            self._came_up = True
            return
        self._came_up = False
        if self.link == ABSENT and self.pause in (WAITING, PARKED):
            # At different moments in different workers.
            soon = self._now + LINK_PAUSE * (0.25 + self._random() / 2)
            if self.pause == PARKED:
                soon = max(soon, self._parked_at + PARKED_LINK_INTERVAL_SECONDS)
            self.due = min(self.due, soon)

    def _look(self, _: Event) -> None:
        pass

    # What is decided ---------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._now >= self.due:
            self.link = CONNECTING
            self.pause = ""
            self._do(FIND)

    def _disconnect(self, operation: str) -> None:
        self.operation = operation
        self.polled_for = self.poll
        self._before, self.link = self.link, DISCONNECTING
        self._do(DISCONNECT, operation)

    def _give_up_dead(self) -> None:
        """The system goes down, and what is mounted here waits for a target that does not answer."""
        silent = self._now > max(self.going_down, self.changed_at) + SILENCE_TIMEOUT_SECONDS
        if self.going_down and self.link == RECONNECTING and silent and self._now >= self.due:
            self._disconnect(GIVE_UP)

    def _withdraw(self) -> None:
        if self.going_down:
            self._give_up_dead()
        elif self.spec.disconnect and not self.foreign and self._now >= self.due:
            self._disconnect(WITHDRAW)

    def _poll(self) -> None:
        if self.going_down:
            self._give_up_dead()
        elif not self.foreign and not self.protected and self._now >= self.due:
            self._disconnect(POLL)

    def _stop(self) -> None:
        if self.foreign:
            text = f"{self.device} stays: {self.protected}"
            self._log(NOTICE, text)
            self._end(state.STOPPED, f"stopped; {text}", self.protected)
        elif self._now >= self.due:
            self._disconnect(STOP)

    def _stopped_without(self) -> None:
        self._end(state.STOPPED, "stopped")


# For each event, what becomes of each link (the columns are LINKS): the next link, '' for the one before the
# disconnect, and what else is done. None: nothing, because it does not happen to this link, or is no news to it.
TRANSITIONS: "dict[str, tuple[Transition, Transition, Transition, Transition, Transition]]" = {
    CONNECTED: (None, (LIVE, Machine._connected), None, None, None),
    ATTACHED: (None, (RECONNECTING, Machine._connected), None, None, None),
    NOT_FOUND: (None, (CONNECTING, Machine._not_found), None, None, None),
    EXCLUDED: (None, (ABSENT, Machine._excluded), None, None, None),
    REFUSED: (None, (ABSENT, Machine._refused), None, None, None),
    POSTPONED: (None, (ABSENT, Machine._postponed), None, None, None),
    UP: (None, None, (LIVE, Machine._up), (LIVE, Machine._restored), None),
    DOWN: (None, None, (RECONNECTING, Machine._lost), None, None),
    REMADE: (None, None, (LIVE, Machine._remade), None, None),
    REMOVED: (None, None, (ABSENT, Machine._removed), (ABSENT, Machine._removed), (ABSENT, Machine._removed)),
    DISCONNECTED: (None, None, None, None, (ABSENT, Machine._disconnected)),
    KEPT: (None, None, None, None, ("", Machine._kept)),
    CALLED_OFF: (None, None, None, None, ("", Machine._does_not_go_down)),
    LEFT: (None, None, None, None, ("", Machine._left)),
    REFUSED_STOP: (None, None, None, None, ("", Machine._stop_refused)),
}

# What changes the goal or the time, and nothing about the link.
INPUTS: "dict[str, Callable[[Machine, Event], None]]" = {
    SPECIFIED: Machine._specified,
    STOPPED: Machine._stopped,
    GOING_DOWN: Machine._goes_down,
    NOT_GOING_DOWN: Machine._does_not_go_down,
    FOREIGN: Machine._is_foreign,
    PROTECTED: Machine._is_protected,
    PERSISTENCE: Machine._persistence,
    SOONER: Machine._sooner,
    LINK_UP: Machine._link_up,
    DUE: Machine._look,
}

# For each goal, what is done about each link (the columns are LINKS); None: nothing, or it is waited for.
DECISIONS: "dict[str, tuple[Decision, Decision, Decision, Decision, Decision]]" = {
    KEEP: (Machine._connect, None, None, Machine._give_up_dead, None),
    POLL: (Machine._connect, None, Machine._poll, Machine._poll, None),
    WITHDRAW: (Machine._connect, None, Machine._withdraw, Machine._withdraw, None),
    STOP: (Machine._stopped_without, None, Machine._stop, Machine._stop, None),
}


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
