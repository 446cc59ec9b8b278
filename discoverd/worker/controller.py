# SPDX-License-Identifier: Apache-2.0
"""The life of one controller: adopt or connect, watch, connect again, disconnect.

One thread polls; what can block in the kernel runs in a :class:`Call`.
"""

import _signal
import posix
import select
import time

from discoverd import state
from discoverd.kernel import controllers, fabrics
from discoverd.kernel.uevents import Uevents
from discoverd.worker import notify
from discoverd.worker.call import Call
from discoverd.worker.ownership import Ownership

# An absent target never holds up boot: the unit counts as started after this many seconds, whatever the
# kernel is at.
READY_AFTER = 30
# The kernel sends no event when it loses a connection and begins to reconnect, so a live controller is
# looked at every LIVE_CHECK seconds, and one that the kernel reconnects every RECONNECT_CHECK.
LIVE_CHECK = 10
RECONNECT_CHECK = 2
# Waits double up to this, which is about the kernel's own reconnect delay.
LONGEST_WAIT = 8
# A connection that lasted less than so many seconds was none: the wait before the next one grows as after failures.
BRIEF = 10
# What a look has found out and the event that is about the same are not so many seconds apart.
SAME_NEWS = 1
# Links that flap must not make waiting workers hammer the target.
LINK_PAUSE = 2
# And one that is parked rests for so many seconds, whatever they do.
LINK_REST = 60

_SIGTERM, _SIGHUP, _SIGUSR1 = 15, 1, 10
_BOOTTIME = 7
_EADDRNOTAVAIL, _EALREADY = 99, 114

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from discoverd.worker.departure import Departure
    from discoverd.worker.discovery import Discovery
    from discoverd.worker.links import Links
    from discoverd.worker.parking import Parking
    from discoverd.worker.withdrawal import Withdrawal


class Worker:
    """Owns the controller that ``spec`` describes. ``run`` returns the exit status."""

    def __init__(self, instance: str, spec: state.Spec) -> None:
        self.instance = instance
        self.directory = state.directory(instance)
        self.spec = spec
        # Since when there is no connection, for the horizon; CLOCK_BOOTTIME goes on while the host sleeps.
        self.disconnected = time.clock_gettime(_BOOTTIME)
        self.was_live = False
        self.device = ""
        self.ownership = Ownership(instance)
        self.kernel_instance = 0
        self.attempt = 0
        self.wait = 0
        self.state = "connecting"
        self.cause = ""
        self.next_look = 0.0
        self.changed_at = 0.0
        self.connected_at = 0.0
        # Connections in a row that the kernel gave up after less than BRIEF seconds.
        self.brief = 0
        # When we were told that the system goes down, 0 while it does not.
        self.going_down = 0.0
        self.stopping = False
        # When SIGTERM came.
        self.stopping_since = 0.0
        self.departure: Departure | None = None
        self.withdrawal: Withdrawal | None = None
        self.parking: Parking | None = None
        self.ready = False
        self.started = time.monotonic()
        self.call: Call | None = None
        self.call_name = ""
        # Another value for each reading of the log page, since a target that starts anew repeats its generations;
        # '' where the last one has failed, or was on an earlier connection.
        self.log_read = ""
        self.links: Links | None = None
        self.came_up = False
        self.discovery: Discovery | None = None
        self.report = notify.Report(self)
        self.last_word = ("stopped", "stopped")
        self.exit_status = 0
        self.wake_read, self.wake_write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self.uevents = Uevents()
        self.poll = select.poll()
        self.poll.register(self.wake_read, select.POLLIN)
        self.poll.register(self.uevents.fileno(), select.POLLIN)

    def run(self) -> int:
        """Live until SIGTERM and the disconnect after it. Returns the exit status."""
        _signal.set_wakeup_fd(self.wake_write)
        for number in (_SIGTERM, _SIGHUP, _SIGUSR1):
            # The byte in the pipe is what counts; Python needs a handler all the same to write it.
            _signal.signal(number, lambda *_: None)
        self.connect()
        while not (self.stopping and self.call is None and not self.device):
            for descriptor, _ in self.poll.poll(self._timeout()):
                if descriptor == self.wake_read:
                    self._woken()
                elif descriptor == self.uevents.fileno():
                    self._uevents()
                elif self.links is not None and self.links.came_up():
                    self._hurry()
            self._tick()
        self.report.end(*self.last_word)
        return self.exit_status

    # Waiting -----------------------------------------------------------------------------------------------

    def _timeout(self) -> int:
        now = time.monotonic()
        deadlines = [self.next_look] if self.next_look else []
        if not self.ready:
            deadlines.append(self.started + READY_AFTER)
        if self.discovery is not None and self.discovery.retry_at:
            deadlines.append(self.discovery.retry_at)
        if self.report.retry_at:
            deadlines.append(self.report.retry_at)
        # A stop takes the place of a withdrawal, and what is not acted on any more must not wake.
        leaving = (self.departure, None if self.stopping else self.withdrawal)
        deadlines += [one.next_look for one in leaving if one is not None and one.next_look]
        return max(0, int((min(deadlines) - now) * 1000) + 1) if deadlines else -1

    def _tick(self) -> None:
        now = time.monotonic()
        if not self.ready and now >= self.started + READY_AFTER:
            self._ready()
        if self.report.retry_at and now >= self.report.retry_at:
            self.report.wake()
        if self.stopping:
            self._stop(now)
        elif self.next_look and now >= self.next_look:
            self.next_look = 0.0
            if self.device:
                self.look()
            elif self.call is None:
                self.connect()
        if self.discovery is not None and self.discovery.retry_at and now >= self.discovery.retry_at:
            self.discovery.tick()
        if self.withdrawal is not None and 0 < self.withdrawal.next_look <= now and not self.stopping:
            self._withdraw(self.withdrawal, now)

    def _woken(self) -> None:
        try:
            received = posix.read(self.wake_read, 256)
        except BlockingIOError:
            return
        if _SIGHUP in received:
            self.going_down = 0.0
            before = self.spec
            self._read_spec()
            self._consider_withdrawal()
            if self.discovery is not None:
                self.discovery.respecified()
            if self.state in ("waiting", "parked"):
                self.next_look = self._after_news(before)
            self.show()
        if _SIGUSR1 in received:
            # From the supervisor, when a shutdown begins: long before our own stop, which waits for all mounts.
            self.going_down = time.monotonic()
            self.look()
        if _SIGTERM in received and not self.stopping:
            self.stopping = True
            self.stopping_since = time.monotonic()
            self.state = "stopping"
            # At once: should the stop take so long that systemd kills us, it tells that somebody wanted us to stop.
            self.show()
        if self.call is not None and self.call.done and self.call_name == "log_page":
            # That the connection was made anew meanwhile, an event tells that may be there already.
            self._uevents()
        if self.call is not None and self.call.done:
            call, self.call = self.call, None
            getattr(self, "_after_" + self.call_name)(call)
        if self.discovery is not None:
            self.discovery.heard()

    def _after_news(self, before: state.Spec) -> float:
        """Return when to connect, now that there may be a new specification: it is worth an attempt at once.

        Not if it only says what of the log page waits to be confirmed: that changes with each reading.
        """
        now = time.monotonic()
        spec = self.spec
        if not (before.confirm or spec.confirm) or before.encode() == spec.encode() or not spec.asks_the_same(before):
            return now
        if self.discovery is None or not spec.confirm:
            return self.next_look
        return min(self.next_look, now + self.discovery.interval(self.next_look - now))

    def start(self, name: str, function: "Callable[[str], Any]", argument: str) -> None:
        """Run ``function`` beside the loop; ``_after_<name>`` gets its outcome."""
        self.call_name = name
        self.call = Call(function, argument, self.wake_write)

    # Connect -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Adopt the controller if the kernel has it, else ask the kernel to connect it."""
        self._read_spec()
        if self._adopt() or self._unwanted():
            return
        self.state = "connecting"
        self.show()
        self.start("connect", self._attempt, "")

    def _unwanted(self) -> bool:
        """End instead of connecting what is excluded, or what nobody wants any more."""
        # A worker that has adopted its controller does not need it.
        from discoverd import exclusions

        if where := exclusions.load().match(dict(self.spec.options)):
            self._end("excluded", f"excluded by {where}: not connected")
        elif self.spec.withdrawn:
            self._end("withdrawn", f"{self.spec.note}: not connected again")
        return self.stopping

    def _attempt(self, _: str) -> str:
        """Run in a thread: what the kernel would wait for in vain is not given to it."""
        options = self.spec.options
        known = fabrics.supported()
        try:
            return fabrics.connect(options, known)
        except OSError as error:
            if error.errno != _EADDRNOTAVAIL or not self.spec.source_optional:
                raise
        return fabrics.connect(self._without_source(), known)

    def _without_source(self) -> list[tuple[str, str]]:
        return [(key, value) for key, value in self.spec.options if key != "host_traddr"]

    def _after_connect(self, call: Call) -> None:
        error = call.error
        if error is None:
            self._live(str(call.result), "connected")
        elif isinstance(error, OSError) and error.errno == _EALREADY and self._adopt():
            pass  # Somebody else was faster.
        elif isinstance(error, OSError):
            self._failed(error)
        else:
            raise error

    def _adopt(self) -> bool:
        found = controllers.find(dict(self.spec.options))
        if found is None and self.spec.source_optional:
            found = controllers.find(dict(self._without_source()))
        if found is None:
            return False
        self._live(found.device, "adopted")
        return True

    def _live(self, device: str, how: str) -> None:
        self._stop_links()
        self.device = device
        self.kernel_instance = controllers.kernel_instance(device)
        self.uevents.follow(device)
        self.connected_at = time.monotonic()
        self.attempt = 0
        self.cause = ""
        self.ownership.take(device, self.spec.origin, found=how == "adopted")
        if not self._left_alone():
            notify.log(notify.NOTICE, f"{how} {device}")
        self._consider_withdrawal()
        # What happened before the filter was in place shows in sysfs only.
        self.look()
        self._ready()
        self._discover()

    def _left_alone(self) -> bool:
        """Tell whether the controller is somebody else's, and say so."""
        if self.ownership.foreign:
            notify.log(notify.WARNING, f"{self.device} belongs to {self.ownership.foreign}: left alone")
        return bool(self.ownership.foreign)

    def _failed(self, error: OSError) -> None:
        """The attempt has ended without a controller: say why, and wait."""
        # Most workers never fail, and are spared the sentences.
        from discoverd.worker import cause

        why = cause.sentence(error)
        self.attempt += 1
        if self._given_up(why):
            return
        wait: float = min(LONGEST_WAIT, 2 ** min(self.attempt - 1, 10))
        # Less by up to a quarter, so that the controllers of a failed array do not come back in step.
        wait -= wait / 4 * (posix.getrandom(1)[0] / 255)
        self.next_look = time.monotonic() + wait
        self.state = "waiting"
        self.wait = max(1, round(wait))
        if why != self.cause:
            self.cause = why
            notify.log(notify.WARNING, f"cannot connect, errno {error.errno or 0}: {why}; trying again until it works")
        self._start_links()
        if self.came_up:
            # While the attempt was under way; it may have come too early.
            self.came_up = False
            self._hurry()
        self.show()
        self._ready()

    def _given_up(self, why: str) -> bool:
        if 0 < self.spec.attempts <= self.attempt:
            times = "one attempt" if self.attempt == 1 else f"{self.attempt} attempts"
            cdc = "its subsystem is not connected to the central discovery controller (NCC)"
            self._end("given up", f"given up after {times}: {why}; {cdc}")
            return True
        if not self.spec.horizon or time.clock_gettime(_BOOTTIME) < self.disconnected + self.spec.horizon:
            return False
        self._end("given up", f"given up after {_span(self.spec.horizon)} without a connection: {why}")
        return True

    def _end(self, report: str, text: str) -> None:
        """Have the loop end, with nothing connected; the supervisor makes a new worker when there is reason to."""
        notify.log(notify.NOTICE, text)
        self._ready()
        self.stopping = True
        self.leave(report, text, 0)

    def _start_links(self) -> None:
        if self.links is None and self.spec.option("transport") in ("tcp", "rdma"):
            # Only a waiting worker needs it, so a live one does not pay for it.
            from discoverd.worker.links import Links

            self.links = Links(dict(self.spec.options))
            self.poll.register(self.links.fileno(), select.POLLIN)

    def _stop_links(self) -> None:
        if self.links is not None:
            self.poll.unregister(self.links.fileno())
            self.links.close()
            self.links = None

    def _hurry(self) -> None:
        """A link, address or route came up: try soon, at different moments in different workers."""
        if self.call is not None:
            self.came_up = True
            return
        soon = time.monotonic() + LINK_PAUSE * (0.25 + posix.getrandom(1)[0] / 512)
        if self.state == "parked" and self.parking is not None:
            # The kernel tells of an address also when a router has only renewed it.
            soon = max(soon, self.parking.since + LINK_REST)
        if self.next_look > soon:
            self.next_look = soon

    # Live --------------------------------------------------------------------------------------------------

    def _uevents(self) -> None:
        look = rediscover = fresh = again = False
        for event in self.uevents.drain():
            look = True
            # Type 2 (notice), information 0xf0 (discovery log change), log page 0x70.
            if event.get("NVME_AEN") == "0x70f002":
                rediscover = True
            # Of events that were lost, one may have told of a new connection.
            if event.get("NVME_EVENT") in ("connected", "rediscover") or event.get("ACTION") == "overflow":
                rediscover = fresh = True
            # Only of a discovery controller whose connection was made once more.
            again = again or event.get("NVME_EVENT") == "rediscover"
        before = self.state
        if look:
            self.look()
        if before == "reconnecting" and self.state == "live":
            # The look has asked for it already.
            return
        if rediscover and self.device and self.discovery is not None:
            if again and time.monotonic() > self.changed_at + SAME_NEWS:
                # It was lost and made between two looks.
                self._dropped()
            if self.call is None or self.call_name != "parking":
                self.discovery.again(fresh)

    def look(self) -> None:
        """Compare sysfs with what we believe, and act on the difference."""
        if not self.device or self.stopping or (self.call is not None and self.call_name in ("withdrawal", "parking")):
            return
        if controllers.kernel_instance(self.device) != self.kernel_instance or not self.kernel_instance:
            self._lost()
            return
        self._check_owner()
        before = self.state
        now = controllers.attribute(self.device, "state")
        self.state = "live" if now == "live" else "reconnecting"
        self.was_live = self.was_live or now == "live"
        self.next_look = time.monotonic() + (LIVE_CHECK if now == "live" else RECONNECT_CHECK)
        if self.state != before or not self.ready:
            if (before, self.state) == ("live", "reconnecting"):
                self._dropped()
            self.changed_at = time.monotonic()
            if before in ("live", "reconnecting"):
                text = (
                    "the connection is back" if self.state == "live" else "lost the connection; the kernel reconnects"
                )
                notify.log(notify.NOTICE if self.state == "live" else notify.WARNING, f"{self.device}: {text}")
            self.show()
            if before == "reconnecting" and self.discovery is not None:
                # Events were lost meanwhile, and kernels before 6.1 do not say `rediscover`.
                self.discovery.again(fresh=True)
        if self.discovery is not None:
            self.discovery.tell_verdict()
        if self.going_down and self.state == "reconnecting" and self.call is None:
            self._consider_giving_up()

    def _check_owner(self) -> None:
        """Look whether the controller has changed hands, and say so."""
        if not self.ready or not self.ownership.check(self.spec.origin):
            return
        if not self._left_alone():
            notify.log(notify.NOTICE, f"{self.device} was left to us")
            self._discover()
        # What is another tool's is not ours to disconnect, and the other way round.
        self._consider_withdrawal()
        self.show()

    def _dropped(self) -> None:
        held_for = time.monotonic() - self.changed_at
        self.changed_at = time.monotonic()
        if self.discovery is not None:
            self.discovery.dropped(held_for)

    def _consider_giving_up(self) -> None:
        """The system goes down, and what is mounted here waits for a target that does not answer."""
        from discoverd.worker import departure

        if time.monotonic() > max(self.going_down, self.changed_at) + departure.SILENCE:
            self.start("giving_up", lambda device: departure.give_up(device, self.kernel_instance), self.device)

    def _after_giving_up(self, call: Call) -> None:
        if call.result:
            notify.log(
                notify.ERROR,
                f"{self.device} is given up: its target is silent, and the system goes down; what was not written "
                "is lost",
            )
            self.look()
        elif call.error is None:
            self.going_down = 0.0  # The shutdown was called off.

    def _lost(self) -> None:
        then = "the system goes down" if self.going_down else "connecting it again"
        notify.log(notify.WARNING, f"{self.device} is gone; {then}")
        if self.call is not None and self.call_name == "log_page":
            # It ends by itself, with nothing that still matters; the connect must not wait for it.
            self.call = None
        self.gone()
        self.uevents.follow("")
        if self.was_live:
            self.was_live = False
            self.disconnected = time.clock_gettime(_BOOTTIME)
        elif self._given_up("the kernel could not connect it"):
            # On Fibre Channel, where a connect never fails: the kernel tries until ctrl-loss-tmo.
            return
        self.state = "connecting"
        # A quarter of a second at most, so that a whole array's controllers do not come back in step.
        self.next_look = time.monotonic() + posix.getrandom(1)[0] / 1024
        self.brief = self.brief + 1 if time.monotonic() < self.connected_at + BRIEF else 0
        if self.brief > 1:
            # With a ctrl-loss-tmo of 0 the kernel does not wait either, and a target may end each connection.
            self.next_look += min(LONGEST_WAIT, 2 ** min(self.brief - 2, 10))
        if self.going_down:
            self.state = "gone"
            self.next_look = 0.0
        self.show()

    # Discovery ---------------------------------------------------------------------------------------------

    def _discover(self) -> None:
        if not self.device or self.spec.role != "discovery" or self.ownership.foreign:
            return
        if self.discovery is None:
            # An I/O controller's worker is spared the admin commands.
            from discoverd.worker.discovery import Discovery

            self.discovery = Discovery(self)
        self.discovery.again(fresh=True)

    def _after_log_page(self, call: Call) -> None:
        if self.discovery is not None:
            self.discovery.read(call)

    def judged(self) -> None:
        """Called when it is decided whether the discovery controller is to be held: one that is not is parked."""
        if self.stopping or self.going_down or not self._to_be_parked():
            return
        # It may have been taken over since the last look.
        self._check_owner()
        if not self._to_be_parked():
            return
        if self.parking is None:
            # Few workers ever need it.
            from discoverd.worker.parking import Parking

            self.parking = Parking(self)
        if time.monotonic() >= self.parking.next_look:
            self.parking.again()

    def _to_be_parked(self) -> bool:
        if self.discovery is None or self.discovery.held is not False or not self.device or self.call is not None:
            return False
        return self.withdrawal is None and not self.ownership.foreign and not self.ownership.spared

    def _after_parking(self, call: Call) -> None:
        if self.parking is not None:
            self.parking.ended(call)
        self.look()

    def parked(self, seconds: float) -> None:
        """The controller was disconnected, and is to be connected again after so many ``seconds``."""
        # What has changed while it was disconnected has woken nobody.
        changed = self.spec.withdrawn or self.discovery is None or self.discovery.held is not False
        self.gone()
        if self.stopping:
            return
        self.uevents.follow("")
        self.was_live = False
        self.disconnected = time.clock_gettime(_BOOTTIME)
        self.state = "parked"
        self.next_look = time.monotonic() + (0 if changed else seconds)
        self._start_links()
        self.show()

    # Withdrawal --------------------------------------------------------------------------------------------

    def _consider_withdrawal(self) -> None:
        """Begin to part with what no log page lists any longer, or no more."""
        wanted = not (self.spec.withdrawn and self.spec.disconnect)
        if wanted or not self.device or self.ownership.foreign:
            self.withdrawal = None
        elif self.withdrawal is None:
            # Few workers ever need it.
            from discoverd.worker import withdrawal

            self.withdrawal = withdrawal.Withdrawal(self)
            self.withdrawal.next_look = time.monotonic() + withdrawal.SOAK

    def _withdraw(self, withdrawal: "Withdrawal", now: float) -> None:
        # It may be gone, or have been taken over, since the last look.
        self.look()
        if self.withdrawal is not withdrawal:
            return
        if self.call is not None and self.call_name == "log_page" and self.discovery is not None:
            # It may hang until its time-out, and nobody needs the page any more, unless the controller stays.
            self.call = None
            self.discovery.abandoned()
        if self.call is not None or self.going_down:
            withdrawal.next_look = now + LIVE_CHECK
        elif self.device:
            withdrawal.again()

    def _after_withdrawal(self, call: Call) -> None:
        if self.withdrawal is not None:
            self.withdrawal.ended(call)
        # Asked for again in this very moment, or whatever happened meanwhile.
        self.look()

    def withdrawn(self, device: str) -> None:
        """End: the controller was disconnected, as nobody asks for it any more."""
        self.gone()
        self._end("withdrawn", f"disconnected {device}: it is {self.spec.note}")

    # Stop --------------------------------------------------------------------------------------------------

    def _stop(self, now: float) -> None:
        self.next_look = 0.0
        if self.call is not None and self.call_name == "log_page":
            # The disconnect ends it; waiting for it could take its whole time-out.
            self.call = None
        if self.call is not None or not self.device:
            return
        if controllers.kernel_instance(self.device) != self.kernel_instance:
            self.gone()
            return
        if self.departure is None:
            self.ownership.check(self.spec.origin)
        if self.ownership.foreign:
            text = f"{self.device} stays: {self._whose()}"
            notify.log(notify.NOTICE, text)
            self.leave("stopped", f"stopped; {text}", 0)
        elif self.departure is None:
            # Its modules are for the end of a worker's life.
            from discoverd.worker.departure import Departure

            self.departure = Departure(self, self._whose() if self.ownership.spared else "")
            self.departure.again()
            self.show()
        elif now >= self.departure.next_look:
            self.departure.again()

    def _whose(self) -> str:
        """Return why a stop leaves the controller, and what an administrator can do who wants it gone."""
        if self.ownership.firmware:
            why = "firmware asked for it"
        else:
            why = "it was connected before the boot" if self.spec.origin == "boot" else "others connected it"
        return f"{why}; to disconnect: discoverctl disconnect {self.device}"

    def _after_departure(self, call: Call) -> None:
        if self.departure is not None:
            self.departure.ended(call)

    def gone(self) -> None:
        """The controller is no more: take its entry out of the registry."""
        self.device = ""
        self.withdrawal = None
        if self.discovery is not None:
            # The next connection's log page decides anew.
            self.discovery.held = None
        self.ownership.forget()

    def leave(self, report: str, text: str, exit_status: int) -> None:
        """End without disconnecting; ``report`` and ``text`` are the last that is heard."""
        self.device = ""
        self.last_word = (report, text)
        self.exit_status = exit_status

    # Telling -----------------------------------------------------------------------------------------------

    def _ready(self) -> None:
        if not self.ready:
            self.ready = True
            notify.send("READY=1")

    def text(self) -> str:
        """Return the status line for the present state."""
        return self.report.text()

    def show(self) -> None:
        """Bring unit status and report up to date."""
        self.report.show()

    def _read_spec(self) -> None:
        horizon = self.spec.horizon
        try:
            self.spec = state.Spec.decode(state.read(self.directory + "/spec"))
            if self.spec.horizon and not horizon and not self.device:
                # Nobody announces it any longer: it counts from now.
                self.disconnected = time.clock_gettime(_BOOTTIME)
        except state.StateError as error:
            if state.exists(self.directory + "/spec"):
                notify.log(notify.WARNING, f"keeping the specification from before: {error}")


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
