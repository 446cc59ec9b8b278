# SPDX-License-Identifier: Apache-2.0
"""What becomes of a controller when its unit is stopped, or when the system goes down and the target is dead.

A namespace in use is not taken away. At shutdown the worker waits for it to be released, and helps: systemd tries once
to unmount, so it is asked again. An administrator's stop is refused, unless there is another path. systemd says which
of the two it is: ``systemctl is-system-running`` answers ``stopping`` from the moment when a shutdown is queued. Where
no systemd answers, this is the last signal of a shutdown (systemd-shutdown(8)), and there is nothing left to wait for.
"""

import time

from discoverd.kernel import controllers, disconnect, fabrics, paths, spawn, usage
from discoverd.kernel.disconnect import Answer
from discoverd.worker import notify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.worker.call import Call
    from discoverd.worker.controller import Worker

# Seconds between two looks whether a namespace was released.
LOOK = 1
# The regular order of a shutdown has this many seconds before systemd is asked to unmount out of order, and each
# unmount as many before it is asked again.
PATIENCE = 3
# A target that is silent for so long while the system goes down is given up, so that what waits for it ends. Less than
# the 90 seconds after which systemd gives up an unmount.
SILENCE = 60
# systemd kills the worker after 300 seconds; it says what it leaves behind before that.
LAST_LOOK = 285
# Processes that have a device open without a claim have so many seconds to end: as many as systemd gives them
# (DefaultTimeoutStopSec=).
PROCESSES = 90
# Unmounts that one look asks for.
_URGED = 16


class Departure:
    """The end of a worker's controller. ``next_look`` is when :meth:`again` wants to be called, 0 for never.

    ``stays`` is why an administrator's stop leaves the controller connected, '' if it does not. At shutdown its users
    are waited for all the same, because the network goes when the worker has ended.
    """

    def __init__(self, worker: "Worker", stays: str = "") -> None:
        self._worker = worker
        self._stays = stays
        # systemd counts from SIGTERM, and a call that was under way may have kept us since.
        self._began = worker.stopping_since or time.monotonic()
        self._silent_since = 0.0
        self._shutdown = False
        # Why it is not waited for any longer, once that was said.
        self._given_up = ""
        self._urge_at = self._began + PATIENCE
        # Who keeps the controller from being disconnected, as a phrase.
        self.users = ""
        self.next_look = 0.0

    def again(self) -> None:
        """Look, in a thread, and disconnect if nothing speaks against it."""
        self.next_look = 0.0
        self._worker.start("departure", self._depart, self._worker.device)

    def ended(self, call: "Call") -> None:
        """Act on what a look has found."""
        worker = self._worker
        if isinstance(call.error, FileNotFoundError):
            worker.gone()
        elif isinstance(call.error, OSError) and self._shutdown:
            # It may be able to tell the next time; the network must not go meanwhile.
            self._wait(f"somebody (cannot tell: {call.error.strerror or call.error})")
        elif isinstance(call.error, OSError):
            why = f"cannot disconnect {worker.device}: {call.error.strerror or call.error}"
            notify.log(notify.ERROR, why)
            worker.leave("refused", why, 1)
        elif call.error is not None:
            raise call.error
        elif call.result.verdict == disconnect.DISCONNECTED:
            notify.log(notify.NOTICE, f"disconnected {worker.device}{call.result.text}")
            worker.gone()
        elif call.result.verdict == disconnect.WAIT:
            self._wait(call.result.text)
        elif call.result.verdict == disconnect.REFUSE:
            self._refuse(call.result.text)
        else:
            notify.log(notify.NOTICE, f"{worker.device} stays: {call.result.text}")
            worker.leave("stopped", f"stopped; {worker.device} stays: {call.result.text}", 0)

    def _wait(self, users: str) -> None:
        worker = self._worker
        if time.monotonic() > self._began + LAST_LOOK:
            text = f"{worker.device} is still in use by {users} after {LAST_LOOK} s: left connected"
            notify.log(notify.ERROR, text)
            worker.leave("refused", text, 1)
            return
        if users != self.users:
            self.users = users
            notify.log(notify.NOTICE, f"the system goes down; {worker.text()}")
            worker.show()
        self.next_look = time.monotonic() + LOOK

    def _refuse(self, users: str) -> None:
        worker = self._worker
        text = f"in use by {users}: {worker.device} stays connected, and nobody looks after it"
        advice = f"end that, or insist with: discoverctl disconnect --force '{worker.instance}'"
        notify.log(notify.ERROR, f"{text}; {advice}")
        worker.leave("refused", f"{text}; {advice}", 1)

    # In a thread ------------------------------------------------------------------------------------------

    def _depart(self, device: str) -> Answer:
        turn = float(disconnect.TURN)
        if self._shutdown:
            # systemd kills whoever waits for longer.
            turn = max(1, min(turn, self._began + LAST_LOOK - time.monotonic()))
        worker = self._worker
        try:
            return disconnect.disconnect(
                device, worker.kernel_instance, turn, lambda used: self._in_use(device, used), self._part, self._doubt
            )
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == 16:
                # EBUSY: one on Fibre Channel that was never live; until it is, only the kernel itself can give it up.
                return Answer(disconnect.LEAVE, "it was never connected; the kernel gives it up after ctrl-loss-tmo")
            # Whether that ends the matter or is tried again.
            self._shutdown = self._shutdown or system_state() == "stopping"
            raise

    def _doubt(self, error: OSError) -> None:
        """Go on without what a silent target does not take, if the system goes down: what waits for it must end."""
        if isinstance(error, disconnect.UnwrittenError) and system_state() == "stopping":
            device = self._worker.device
            if controllers.attribute(device, "state") == "live":
                self._silent_since = 0.0
            else:
                self._note_silence(device, time.monotonic())
        if not self._given_up or not isinstance(error, disconnect.UnwrittenError):
            raise error
        notify.log(notify.ERROR, f"{error.strerror}; given up")

    def _part(self) -> Answer | None:
        """Do what is left to do before a disconnect; return an answer if there is to be none."""
        if self._stays and not self._goes_with_network():
            return Answer(disconnect.LEAVE, self._stays)
        self._deregister()
        return None

    def _deregister(self) -> None:
        """Take leave of a discovery controller, unless the host only goes down: it comes back to the same zones."""
        discovery = self._worker.discovery
        if discovery is None or not discovery.on_record or self._shutdown or self._worker.going_down:
            return
        if system_state() != "stopping":
            discovery.deregister()

    def _in_use(self, device: str, used: dict[str, list[usage.User]]) -> Answer | None:
        """Return what to do about a controller in use, None to disconnect it."""
        users = usage.everybody(used)
        if usage.carries_system(users):
            return Answer(disconnect.LEAVE, "it carries the system itself")
        if not self._shutdown:
            manager = system_state()
            if not manager:
                return Answer(disconnect.LEAVE, "the system is at its end")
            self._shutdown = manager == "stopping"
        if self._shutdown:
            return self._wait_for(device, users)
        if self._stays:
            return Answer(disconnect.LEAVE, self._stays)
        fault = paths.fault(paths.others(device, used))
        return None if fault is None else Answer(disconnect.REFUSE, disconnect.phrase(users) + fault)

    def _goes_with_network(self) -> bool:
        """Tell whether what others connected goes as well, because the system goes down.

        Without its network, whatever looks at its disks would wait until it is killed. Firmware's network is left alone
        by those who manage networks. A soft-reboot keeps the kernel, and nobody would connect it again.
        """
        if self._worker.ownership.firmware:
            return False
        self._shutdown = self._shutdown or system_state() == "stopping"
        return self._shutdown and not _soft_reboot()

    def _wait_for(self, device: str, users: list[usage.User]) -> Answer | None:
        now = time.monotonic()
        said = disconnect.phrase(users)
        if all(user.kind in ("process", "target") for user in users) and now > self._shutdown_began() + PROCESSES:
            self._give_up(notify.WARNING, f"{device} is not waited for any longer by a shutdown: in use by {said}")
            return None
        if controllers.attribute(device, "state") == "live":
            self._silent_since = 0.0
            if now > self._urge_at:
                _urge(users)
                self._urge_at = time.monotonic() + PATIENCE
            return Answer(disconnect.WAIT, said)
        self._note_silence(device, now)
        return None if self._given_up else Answer(disconnect.WAIT, f"{said}, and its target is silent")

    def _note_silence(self, device: str, now: float) -> None:
        self._silent_since = self._silent_since or now
        if now >= self._silent_since + SILENCE:
            self._give_up(notify.ERROR, f"{device} has been silent for {SILENCE} s, and the system goes down: given up")

    def _give_up(self, priority: int, text: str) -> None:
        """Say it, once: it is judged again at the end."""
        if not self._given_up:
            notify.log(priority, text)
        self._given_up = text

    def _shutdown_began(self) -> float:
        """Return when it did, as far as we were told: from then on systemd has stopped other units too."""
        return min(self._began, self._worker.going_down or self._began)


def give_up(device: str, kernel_instance: int) -> bool:
    """Delete a controller whose target is dead, if the system really goes down; tell whether it did. Raises OSError.

    Never one that the system itself runs from: without it nothing of the shutdown would go on.
    """
    if system_state() != "stopping" or controllers.attribute(device, "subsysnqn") in usage.system_subsystems():
        return False
    fabrics.delete(device, kernel_instance)
    return True


def system_state() -> str:
    """Return what ``systemctl is-system-running`` says, such as ``stopping``; '' if no systemd answers."""
    try:
        _, output = spawn.run("systemctl", "is-system-running")
    except OSError:
        return ""
    word = output.rpartition("\n")[2]
    return "" if word in ("offline", "unknown") or not word.isalpha() else word


def _soft_reboot() -> bool:
    """Tell whether it is a soft-reboot that stops everything, or cannot be told."""
    try:
        status, output = spawn.run("systemctl", "show", "--property=Job", "soft-reboot.target")
    except OSError:
        return True
    return status != 0 or output not in ("", "Job=", "Job=0")


def _urge(users: list[usage.User]) -> None:
    """Have systemd unmount now: it tries once, and a mount that it takes for a local one waits for us, as we for it."""
    for user in users[:_URGED]:
        if user.kind == "mount" and not user.process:
            unit = user.name
        elif user.kind == "swap":
            unit = _swap_unit(user.name)
        else:
            continue
        try:
            spawn.run("systemctl", "stop", "--no-block", "--job-mode=ignore-dependencies", "--", unit)
        except OSError:
            return  # No memory for a process: the next look tries again. To give up waiting would lose more.


def _swap_unit(path: str) -> str:
    """Return the unit of a swap device (systemd.unit(5), string escaping)."""
    text = ""
    for byte in path.strip("/").encode("utf-8", "surrogateescape"):
        one = chr(byte)
        text += "-" if one == "/" else one if one.isascii() and (one.isalnum() or one in ":_.") else f"\\x{byte:02x}"
    return text + ".swap"
