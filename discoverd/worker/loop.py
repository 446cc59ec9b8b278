# SPDX-License-Identifier: Apache-2.0
"""The loop of a worker: it hears signals, the kernel and its threads, tells the machine, and does what that decides.

One thread polls; what can block in the kernel runs in a :class:`Call`. What a worker seldom needs is imported then, so
that it costs nothing before.
"""

import _signal
import _thread
import posix
import select
import time

from discoverd import notify, state
from discoverd.kernel import controllers
from discoverd.kernel.uevents import Uevents
from discoverd.worker import machine
from discoverd.worker.machine import Event, Machine
from discoverd.worker.ownership import Ownership, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from discoverd.worker.disconnect import Outcome, Progress
    from discoverd.worker.discovery_controller import DiscoveryController
    from discoverd.worker.links import Links
    from discoverd.worker.watch import Watch

# An absent target never holds up boot: the unit counts as started after this many seconds, whatever the kernel is at.
READY_TIMEOUT_SECONDS = 30
# The kernel sends no event when it loses a connection and begins to reconnect, so a live controller is looked at every
# LIVE_CHECK seconds, unless somebody looks for all workers (discoverd.worker.watch), and one that the kernel reconnects
# every RECONNECT_CHECK.
LIVE_CHECK = 10
RECONNECT_CHECK = 2

SIGNALS = _SIGTERM, _SIGHUP, _SIGUSR1 = 15, 1, 10
_BOOTTIME = 7
_EINVAL, _EADDRNOTAVAIL, _ETIMEDOUT, _EALREADY, _ECANCELED = 22, 99, 110, 114, 125
# The name of the lock of those that connect in turn.
TURN = "connect"

# Deep enough for the few frames of a call.
_thread.stack_size(256 * 1024)


class Call:
    """A function that runs in a thread. Once it has ended, ``done`` is true and a byte has been written to ``wake``."""

    __slots__ = ("_function", "_wake", "done", "error", "result")

    def __init__(self, function: "Callable[[], Any]", wake: int) -> None:
        self._function = function
        self._wake = wake
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:
            # The limit of tasks is reached, or memory is short: an attempt that failed, with no errno of the kernel's.
            self.error = OSError(0, "no thread can be started")
            self._end()

    def _run(self) -> None:
        try:
            self.result = self._function()
        except Exception as error:  # It is for the loop to tell what it expected.
            self.error = error
        self._end()

    def _end(self) -> None:
        self.done = True
        posix.write(self._wake, b"\0")


class Attempt:
    """An attempt to connect, which can be called off for as long as the kernel has not begun.

    ``began`` is when it did (monotonic), 0 before. ``behind``: it has ended because another has the turn that it needs.
    ``remark`` is what there is to say of a connection that was made in another way than it was asked for.
    """

    __slots__ = ("_in_turn", "_lock", "_spec", "began", "behind", "remark")

    def __init__(self, spec: state.Spec, in_turn: bool) -> None:
        self._spec = spec
        self._in_turn = in_turn
        # Who takes it first decides whether the kernel begins, and it is never given back.
        self._lock = _thread.allocate_lock()
        self.began = 0.0
        self.behind = False
        self.remark = ""

    def call_off(self) -> bool:
        """Tell whether the kernel has not begun; it does not begin then."""
        return self._lock.acquire(False)

    def run(self) -> "tuple[str, int]":
        """Have the kernel connect, and return the device and its inode. In a thread; raises OSError.

        Later, the name may be another's already.
        """
        # One that adopts its controller does without.
        from discoverd.kernel import fabrics

        spec = self._spec
        known = fabrics.abilities()
        try:
            device = self._try(spec.options, known)
        except OSError as error:
            if error.errno != _EADDRNOTAVAIL or not spec.source_optional:
                raise
            device = self._try(_without_source(spec), known)
        return device, controllers.sysfs_inode(device)

    def _try(self, options: list[tuple[str, str]], known: set[str] | None) -> str:
        from discoverd.kernel import fabrics

        fabrics.reach(dict(options))
        turn = self._take_turn() if self._in_turn else -1
        try:
            if not self.began and not self._lock.acquire(False):
                raise OSError(_ECANCELED, "called off")
            self.began = self.began or time.monotonic()
            try:
                return fabrics.connect(options, known)
            except OSError as error:
                spelled = self._spelled(options) if error.errno == _EINVAL else []
                if not spelled:
                    raise
            return fabrics.connect(spelled, known)
        finally:
            if turn != -1:
                posix.close(turn)

    def _spelled(self, options: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the options with the host NQN as the kernel has it, [] where it is not only spelled in another way.

        A target takes two spellings for two hosts, and all paths to it have to be one host's.
        """
        # The kernel refuses few.
        from discoverd.kernel import hosts

        given = dict(options)
        found = hosts.holder(given.get("hostnqn", ""), given.get("hostid", ""))
        if found is None or not found.spells(given.get("hostnqn", "")):
            return []
        self.remark = f"connected as {found.hostnqn}, because {found.device} is, and the kernel takes one spelling"
        return [(key, found.hostnqn if key == "hostnqn" else value) for key, value in options]

    def _take_turn(self) -> int:
        # Few workers need it.
        from discoverd.kernel import locks

        try:
            return locks.take(TURN, 0, "others come first: what is slow or only announced is connected one at a time")
        except locks.LockError as error:
            self.behind = error.errno == _ETIMEDOUT
            raise


class Loop:
    """Owns the controller of a unit: its descriptors, and whatever talks to the kernel; hence its attributes.

    The machine decides. ``_operation`` is the connect or disconnect that is under way.
    """

    def __init__(self, instance: str, spec: state.Spec) -> None:
        self._directory = state.directory(instance)
        self._machine = Machine(spec, time.clock_gettime(_BOOTTIME), _random)
        self._ownership = Ownership(instance)
        self._report = notify.Report(instance)
        self._sysfs_inode = 0
        # It was said that secrets can be read by everybody.
        self._exposed = False
        # What the machine is still to be told, beginning with what it is being told.
        self._events: list[Event] = []
        self._operation: Call | None = None
        self._attempt: Attempt | None = None
        self._discovery: DiscoveryController | None = None
        self._links: Links | None = None
        self._watch: Watch | None = None
        self._progress: Progress | None = None
        self._stopped_at = 0.0
        self._next_look = 0.0
        self._started = time.monotonic()
        self._ready = False
        self._parked_until = ""
        self._last_word = (state.STOPPED, "stopped", "")
        self._wake_read, self._wake_write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self._uevents = Uevents()
        self._poll = select.poll()
        self._poll.register(self._wake_read, select.POLLIN)
        self._poll.register(self._uevents.fileno(), select.POLLIN)

    def run(self) -> int:
        """Live until SIGTERM and the disconnect after it, or until the machine ends. Returns the exit status."""
        _signal.set_wakeup_fd(self._wake_write)
        for number in SIGNALS:
            # The byte in the pipe is what counts; Python needs a handler all the same to write it.
            _signal.signal(number, lambda *_: None)
        # One that was forked has them blocked until there are handlers.
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, SIGNALS)  # type: ignore[attr-defined]  # The stubs lack it.
        self._tell(Event(machine.DUE))
        while not self._machine.ended:
            for descriptor, _ in self._poll.poll(self._timeout()):
                if descriptor == self._wake_read:
                    self._woken()
                elif descriptor == self._uevents.fileno():
                    self._hear_kernel()
                elif self._watch is not None and descriptor == self._watch.fileno():
                    self._hear_watch(self._watch)
                elif self._links is not None and self._links.came_up():
                    self._tell(Event(machine.LINK_UP))
            self._tick()
        view = self._view()
        # Whatever is left connected, nobody looks after it here any more.
        view.device = view.kept = ""
        self._report.end(view, *self._last_word)
        return 1 if self._last_word[0] == state.REFUSED else 0

    def close(self) -> None:
        """Close what was opened here. At the end of a process nobody needs to."""
        self._close_links()
        self._close_watch()
        posix.close(self._wake_read)
        posix.close(self._wake_write)

    # Waiting -----------------------------------------------------------------------------------------------

    def _timeout(self) -> int:
        now = time.monotonic()
        deadlines = [self._next_look, self._report.retry_at]
        if not self._ready:
            deadlines.append(self._started + READY_TIMEOUT_SECONDS)
        if self._machine.due < machine.NEVER:
            deadlines.append(self._machine.due)
        if self._discovery is not None and self._attends():
            deadlines.append(self._discovery.discovery.deadline)
        deadlines = [one for one in deadlines if one]
        return max(0, int((min(deadlines) - now) * 1000) + 1) if deadlines else -1

    def _tick(self) -> None:
        now = time.monotonic()
        if not self._ready and now >= self._started + READY_TIMEOUT_SECONDS:
            self._say_ready()
        if self._report.retry_at and now >= self._report.retry_at:
            self._report.wake()
        if self._next_look and now >= self._next_look:
            # What is not looked at now is looked at when something else asks for it.
            self._next_look = 0.0
            if self._machine.link == machine.LIVE and self._watch is None and not self._machine.going_down:
                self._begin_watch()
            self._look()
        self._tell(Event(machine.DUE))

    def _woken(self) -> None:
        try:
            received = posix.read(self._wake_read, 256)
        except BlockingIOError:
            return
        if _SIGTERM in received and not self._stopped_at:
            self._stopped_at = time.monotonic()
            if self._machine.link in (machine.LIVE, machine.RECONNECTING) and self._is_there():
                # Whose it is by now decides what the stop does.
                self._check_owner()
            self._tell(Event(machine.STOPPED))
            self._call_off()
        if _SIGHUP in received:
            self._hang_up(_SIGUSR1 in received)
        if _SIGUSR1 in received:
            # From the supervisor, when a shutdown begins: long before our own stop, which waits for all mounts.
            self._tell(Event(machine.GOING_DOWN))
            self._look()
        if self._discovery is not None and self._discovery.has_read:
            # That the connection was made anew meanwhile, an event tells that may be there already.
            self._hear_kernel()
        if self._operation is not None and self._operation.done:
            call, self._operation = self._operation, None
            if self._machine.link == machine.CONNECTING:
                self._connect_ended(call)
            else:
                self._disconnect_ended(call)
        if self._discovery is not None:
            self._discovery.hear()

    def _hang_up(self, going_down: bool) -> None:
        """SIGHUP: there may be a new specification, which is worth an attempt at once.

        Without one, the supervisor may have sent it because a shutdown was called off.
        """
        before = self._machine.spec
        spec = self._read_spec()
        self._report.forget()
        changed = spec.encode() != before.encode()
        if self._machine.going_down and not going_down and (not changed or _called_off()):
            self._tell(Event(machine.NOT_GOING_DOWN))
        seconds = 0.0
        if changed and spec.asks_the_same(before) and (before.confirm or spec.confirm):
            # It only says what of the log page waits to be confirmed, which changes with each reading.
            seconds = machine.NEVER
            if self._discovery is not None and spec.confirm:
                seconds = self._discovery.discovery.interval(seconds)
        self._tell(Event(machine.SOONER, seconds=seconds))
        if self._ownership.foreign:
            # Its owner may not count any more.
            self._look()

    def _start(self, function: "Callable[[], Any]") -> Call:
        return Call(function, self._wake_write)

    # Telling the machine, and doing what it says ------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        """Hand in an event and do what comes of it; one that occurs on the way is handed in after it."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            now, boottime = time.monotonic(), time.clock_gettime(_BOOTTIME)
            for action in self._machine.step(self._events[0], now, boottime):
                PERFORM[action.kind](self, action)
            del self._events[0]
        self._attend()
        self._mind_links()
        if not self._machine.ended:
            self._report.show(self._view())
        if self._machine.ended or self._machine.link != machine.CONNECTING:
            self._say_ready()

    def _log(self, action: machine.Action) -> None:
        notify.log(action.priority, action.text, action.event)

    def _end(self, action: machine.Action) -> None:
        self._last_word = (action.report, action.text, action.cause)

    def _say_ready(self) -> None:
        if not self._ready:
            self._ready = True
            notify.send("READY=1")

    def _read_spec(self) -> state.Spec:
        """Return the specification as it is now, or the one from before if it cannot be read; tell of a new one."""
        try:
            spec = state.Spec.decode(state.read(self._directory + "/spec"))
        except state.StateError as error:
            if state.exists(self._directory + "/spec"):
                notify.log(notify.WARNING, f"keeping the specification from before: {error}")
            return self._machine.spec
        self._tell(Event(machine.SPECIFIED, spec=spec))
        if self._discovery is not None:
            self._discovery.respecify(spec)
        return spec

    # Connect -----------------------------------------------------------------------------------------------

    def _find(self, _: machine.Action) -> None:
        """Adopt the controller if the kernel has it."""
        spec = self._read_spec()
        if self._adopt(spec):
            return
        # A worker that has adopted its controller does not need it.
        from discoverd import exclusions

        if where := exclusions.load().match(dict(spec.options)):
            self._tell(Event(machine.EXCLUDED, where))
        else:
            self._tell(Event(machine.NOT_FOUND))

    def _adopt(self, spec: state.Spec) -> bool:
        choices = [dict(spec.options)]
        if spec.source_optional:
            choices.append(dict(_without_source(spec)))
        device = find(self._ownership.instance, choices)
        if device:
            self._attach(device, controllers.sysfs_inode(device), spec, found=True)
        return bool(device)

    def _connect(self, action: machine.Action) -> None:
        self._attempt = Attempt(self._machine.spec, action.text == machine.IN_TURN)
        self._operation = self._start(self._attempt.run)

    def _call_off(self) -> None:
        """End an attempt to connect that has not got to the kernel: a stop does not wait for it."""
        if self._attempt is not None and self._machine.link == machine.CONNECTING and self._attempt.call_off():
            self._operation = self._attempt = None
            self._tell(Event(machine.REFUSED, "called off", errno=_ECANCELED))

    def _connect_ended(self, call: Call) -> None:
        attempt, self._attempt = self._attempt, None
        error = call.error
        if error is None:
            device, sysfs_inode = call.result
            self._attach(device, sysfs_inode, self._machine.spec, found=False)
            if attempt is not None and attempt.remark:
                notify.log(notify.NOTICE, attempt.remark)
        elif not isinstance(error, OSError):
            raise error
        elif attempt is not None and attempt.behind:
            self._tell(Event(machine.POSTPONED, error.strerror or ""))
        elif error.errno != _EALREADY or not self._adopt(self._machine.spec):
            # Most workers never fail, and do without the sentences.
            from discoverd.worker import cause

            began = attempt.began if attempt is not None else 0.0
            seconds = time.monotonic() - began if began else 0.0
            self._tell(
                Event(
                    machine.REFUSED,
                    cause.sentence(error, dict(self._machine.spec.options)),
                    seconds,
                    errno=error.errno or 0,
                    answer=cause.answer(error),
                )
            )

    def _attach(self, device: str, sysfs_inode: int, spec: state.Spec, found: bool) -> None:
        """Take the controller that the kernel has made, or has had before (``found``)."""
        self._sysfs_inode = sysfs_inode
        if not sysfs_inode or controllers.sysfs_inode(device) != sysfs_inode:
            # Gone again, and the name may be another's: nothing of it is ours to enter.
            self._tell(Event(machine.REFUSED, "it was gone at once"))
            return
        self._uevents.follow(device)
        self._ownership.take(device, spec.origin, found)
        if not self._left_alone():
            notify.log(notify.NOTICE, f"{'adopted' if found else 'connected'} {device}", notify.CONNECTED)
            self._hide_secrets(device)
        # What happened before the filter was in place shows in sysfs only.
        live = controllers.attribute(device, "state") == "live"
        # Whose it is, and that nothing is known of it, before anything is decided about it.
        self._tell_owner(spec)
        self._discover(spec)
        self._tell(Event(machine.CONNECTED if live else machine.ATTACHED, device))
        self._next_look = time.monotonic() + (LIVE_CHECK if live else RECONNECT_CHECK)

    def _hide_secrets(self, device: str) -> None:
        why = controllers.hide_secrets(device, self._sysfs_inode)
        if why and not self._exposed:
            notify.log(notify.WARNING, why)
        self._exposed = bool(why)

    # Live --------------------------------------------------------------------------------------------------

    def _hear_kernel(self) -> None:
        look = rediscover = fresh = again = False
        for event in self._uevents.drain():
            look = True
            # Type 2 (notice), information 0xf0 (discovery log change), log page 0x70.
            if event.get("NVME_AEN") == "0x70f002":
                rediscover = True
            # Of events that were lost, one may have told of a new connection.
            if event.get("NVME_EVENT") in ("connected", "rediscover") or event.get("ACTION") == "overflow":
                rediscover = fresh = True
            # Only of a discovery controller whose connection was made once more.
            again = again or event.get("NVME_EVENT") == "rediscover"
        before = self._machine.link
        if look:
            self._look()
        if before == machine.RECONNECTING and self._machine.link == machine.LIVE:
            # The look has asked for it already.
            return
        if again:
            self._tell(Event(machine.REMADE))
        now = self._machine
        polled = now.link == machine.DISCONNECTING and now.operation == machine.POLL
        if rediscover and self._discovery is not None and now.device and not now.stopping:
            # Also while it is being disconnected, for it may stay, and sends no further event before it was read.
            self._discovery.request(fresh and not polled)
            self._tell(Event(machine.DUE))

    def _look(self) -> None:
        """Compare sysfs with what is believed, and tell of the difference."""
        if self._machine.link not in (machine.LIVE, machine.RECONNECTING) or self._stopped_at:
            return
        device = self._machine.device
        if not self._is_there():
            self._tell(Event(machine.REMOVED))
            return
        self._check_owner()
        live = controllers.attribute(device, "state") == "live"
        self._next_look = time.monotonic() + (LIVE_CHECK if live else RECONNECT_CHECK)
        if live and self._watch is not None and self._watch.heard:
            self._next_look = 0.0
        self._tell(Event(machine.UP if live else machine.DOWN))

    def _begin_watch(self) -> None:
        """Have somebody else look at the controller from now on, if there is anybody."""
        # Not needed for as long as a whole array is being connected.
        from discoverd.worker.watch import Watch

        try:
            self._watch = Watch(self._machine.device)
        except OSError:
            return
        self._poll.register(self._watch.fileno(), select.POLLIN)

    def _hear_watch(self, watch: "Watch") -> None:
        if watch.goes_on():
            self._look()
            return
        self._close_watch()
        self._look()
        if self._next_look:
            # Not all workers in the same moment.
            self._next_look += LIVE_CHECK * _random()

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._poll.unregister(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _is_there(self) -> bool:
        now = controllers.sysfs_inode(self._machine.device)
        return now != 0 and now == self._sysfs_inode

    def _forget(self, _: machine.Action) -> None:
        self._ownership.forget()
        self._close_watch()
        self._next_look = 0.0
        if self._discovery is not None:
            self._discovery.forget()
        if not self._machine.ended and not self._stopped_at:
            self._uevents.follow("")

    def _lost(self, action: machine.Action) -> None:
        if self._discovery is not None:
            self._discovery.lost(action.seconds)

    def _restored(self, _: machine.Action) -> None:
        if self._discovery is not None:
            # Events were lost meanwhile, and kernels before 6.1 do not say `rediscover`.
            self._discovery.request(fresh=True)

    # Ownership ---------------------------------------------------------------------------------------------

    def _check_owner(self) -> None:
        """Look whether the controller has changed hands, and say so."""
        spec = self._machine.spec
        if self._ownership.check(spec.origin) and not self._left_alone():
            notify.log(notify.NOTICE, f"{self._machine.device} was left to us")
            self._hide_secrets(self._machine.device)
            self._discover(spec)
            # What was found out before is of no account any more.
            self._tell(Event(machine.PERSISTENCE))
        self._tell_owner(spec)

    def _tell_owner(self, spec: state.Spec) -> None:
        foreign, protected = self._ownership.foreign, self._whose(spec)
        if protected != self._machine.protected:
            self._tell(Event(machine.PROTECTED, protected))
        if foreign != self._machine.foreign:
            self._tell(Event(machine.FOREIGN, foreign))

    def _left_alone(self) -> bool:
        """Tell whether the controller is somebody else's, and say so."""
        if foreign := self._ownership.foreign:
            notify.log(notify.WARNING, f"{self._ownership.device} belongs to {foreign}: left alone")
        return bool(self._ownership.foreign)

    def _whose(self, spec: state.Spec) -> str:
        """Return why a stop leaves the controller, and what an administrator can do who wants it gone; '' if not."""
        if not self._ownership.foreign and not self._ownership.protected:
            return ""
        if self._ownership.firmware:
            why = "firmware asked for it"
        else:
            why = "it was connected before the boot" if spec.origin == "boot" else "others connected it"
        return f"{why}; to disconnect: discoverctl disconnect {self._ownership.device}"

    # Disconnect --------------------------------------------------------------------------------------------

    def _disconnect(self, action: machine.Action) -> None:
        if not self._is_there():
            self._tell(Event(machine.REMOVED))
            return
        self._check_owner()
        if self._ownership.foreign and action.text != machine.GIVE_UP:
            # Taken over since the last look: not ours to disconnect.
            self._tell(Event(machine.KEPT))
            return
        # Its modules are for the end of a connection.
        from discoverd.worker import disconnect

        if self._discovery is not None:
            self._discovery.abandon()
        progress = self._progress or disconnect.Progress(self._stopped_at or time.monotonic())
        request = disconnect.Request(
            self._ownership.instance, self._machine.device, self._sysfs_inode, action.text, progress
        )
        request.protected = self._protection(action.text)
        request.goes_with_network = not self._ownership.firmware
        request.record = self._discovery.record if self._discovery is not None else None
        request.going_down = self._machine.going_down
        self._operation = self._start(lambda: disconnect.run(request))

    def _protection(self, operation: str) -> str:
        """Return why the controller is not ours to disconnect, '' if it is."""
        spec = self._machine.spec
        if operation == machine.STOP:
            return self._whose(spec)
        if operation == machine.GIVE_UP:
            return ""
        if self._ownership.firmware or spec.origin == "boot":
            return "it was connected before the boot"
        anybodys = operation == machine.WITHDRAW and spec.disconnect == "all"
        return "others connected it" if self._ownership.protected and not anybodys else ""

    def _disconnect_ended(self, call: Call) -> None:
        if isinstance(call.error, OSError):
            self._tell(Event(machine.KEPT, f"it cannot be disconnected: {call.error.strerror}"))
            return
        if call.error is not None:
            raise call.error
        outcome: Outcome = call.result
        operation, said = self._machine.operation, self._machine.kept
        event = Event(outcome.event, outcome.text, cause=outcome.cause)
        if operation == machine.POLL and outcome.event == machine.DISCONNECTED and self._discovery is not None:
            event = self._parked(self._discovery)
        if outcome.deregistered and self._discovery is not None:
            self._discovery.discovery.registration.forget()
            if outcome.event == machine.KEPT:
                self._discovery.record.stay()
        if operation == machine.STOP:
            self._progress = outcome.progress
        else:
            # Whatever has happened meanwhile.
            self._next_look = time.monotonic()
        self._tell(event)
        if operation == machine.STOP and self._machine.kept not in ("", said):
            why = "the system goes down; " if outcome.progress.shutdown else ""
            notify.log(notify.NOTICE, why + self._view().text())

    def _parked(self, discovery: "DiscoveryController") -> Event:
        seconds, often = discovery.pause()
        self._parked_until = time.strftime("%H:%M", time.localtime(time.time() + seconds))
        return Event(machine.DISCONNECTED, often, seconds)

    # Discovery ---------------------------------------------------------------------------------------------

    def _attends(self) -> bool:
        """Tell whether the controller is there for questions."""
        return self._machine.link in (machine.LIVE, machine.RECONNECTING) and not self._machine.stopping

    def _discover(self, spec: state.Spec) -> None:
        if spec.role != "discovery" or self._ownership.foreign:
            return
        if self._discovery is None:
            # An I/O controller's worker does without the admin commands.
            from discoverd.worker.discovery_controller import DiscoveryController

            self._discovery = DiscoveryController(self._directory, spec, _random, self._start)
        self._discovery.request(fresh=True)

    def _attend(self) -> None:
        """Have a discovery controller asked what there is to ask, and tell whether its connection is to be
        persistent."""
        if self._discovery is None or not self._attends():
            return
        live, poll = self._machine.link == machine.LIVE, self._machine.poll
        verdict = self._discovery.attend(self._machine.device, self._sysfs_inode, live, poll)
        if verdict is not None and verdict != poll:
            self._tell(Event(machine.PERSISTENCE, verdict))

    # Links and report --------------------------------------------------------------------------------------

    def _mind_links(self) -> None:
        """Listen for links while there is no connection; a live worker does not pay for it."""
        if self._machine.device or self._machine.ended:
            self._close_links()
            return
        spec = self._machine.spec
        waits = self._machine.pause in (machine.WAITING, machine.PARKED)
        if waits and self._links is None and spec.option("transport") in ("tcp", "rdma"):
            from discoverd.worker.links import Links

            self._links = Links(dict(spec.options))
            self._poll.register(self._links.fileno(), select.POLLIN)

    def _close_links(self) -> None:
        if self._links is not None:
            self._poll.unregister(self._links.fileno())
            self._links.close()
            self._links = None

    def _view(self) -> notify.View:
        now = self._machine
        view = notify.View(now.state)
        view.device, view.sysfs_inode = now.device, self._sysfs_inode
        view.attempt, view.wait = now.attempts.count, now.attempts.wait
        view.cause = now.polled_for if now.state == state.PARKED else now.attempts.turn or now.attempts.cause
        if now.state != state.PARKED and not now.attempts.turn:
            view.errno, view.answer = now.attempts.errno, now.attempts.answer
        view.foreign, view.note = now.foreign, now.spec.note
        view.kept = now.kept if now.goal != machine.POLL else ""
        view.poll = f"{self._parked_until}: {now.polled_for}"
        counts = now.counts
        view.attempts_made, view.losses, view.reconnects = counts.attempts, counts.losses, counts.reconnects
        view.waits_for_kernel = now.link == machine.CONNECTING
        if self._discovery is not None:
            known = self._discovery.discovery
            view.discovery, view.page, view.log_read = known.text(), known.page, known.log_read
            view.registered = known.registration.word
        return view


# How each action of the machine is performed.
PERFORM: "dict[str, Callable[[Loop, machine.Action], None]]" = {
    machine.FIND: Loop._find,
    machine.CONNECT: Loop._connect,
    machine.DISCONNECT: Loop._disconnect,
    machine.FORGET: Loop._forget,
    machine.LOST: Loop._lost,
    machine.RESTORED: Loop._restored,
    machine.LOG: Loop._log,
    machine.END: Loop._end,
}


def _called_off() -> bool:
    """Tell whether the system is known not to go down any more."""
    from discoverd.worker import disconnect

    return disconnect.goes_on(disconnect.system_state())


def _without_source(spec: state.Spec) -> list[tuple[str, str]]:
    return [(key, value) for key, value in spec.options if key != "host_traddr"]


def _random() -> float:
    return posix.getrandom(1)[0] / 255
