# SPDX-License-Identifier: Apache-2.0
"""The disconnect of a worker's controller: one operation, with a row of POLICIES for each reason to make it.

A namespace in use is not taken away. At shutdown the worker waits for it to be released, and helps: systemd tries once
to unmount, so it is asked again. An administrator's stop is refused, unless there is another path. systemd says which
of the two it is: ``systemctl is-system-running`` answers ``stopping`` from the moment when a shutdown is queued. Where
systemd-shutdown(8) has taken its place, this is the last signal of a shutdown, and there is nothing left to wait for.
While nobody answers, it is waited as at shutdown: a controller that is left loses its network.
What nobody asks for any more stays as long as it is in use, and so does what is only read now and then.

All of it runs in a thread, which gets a request and returns an outcome. Imported when a worker first disconnects.
"""

import time

from discoverd import notify, registry, state
from discoverd.kernel import controllers, fabrics, paths, processes, spawn, usage
from discoverd.kernel import disconnect as kernel_disconnect
from discoverd.kernel.disconnect import Answer
from discoverd.worker import machine, ownership

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from discoverd.kernel.usage import User
    from discoverd.worker.registration import Record

    Used = dict[str, list[User]]

# The regular order of a shutdown has this many seconds before systemd is asked to unmount out of order, and each
# unmount as many before it is asked again.
URGE_INTERVAL_SECONDS = 3
# systemd kills the worker after 300 seconds; it says what it leaves behind before that.
LAST_LOOK_SECONDS = 285
# Processes that have a device open without a claim have so many seconds to end: as many as systemd gives them
# (DefaultTimeoutStopSec=).
PROCESSES_TIMEOUT_SECONDS = 90
# Unmounts that one look asks for.
_URGED = 16
_EBUSY = 16

# The row of a stop once the system goes down; the others are named as the goals.
SHUTDOWN = "shutdown"
# Of what system_state() returns: a shutdown is queued or under way; PID 1 is systemd-shutdown(8); nobody answers.
STOPPING, AT_END, UNKNOWN = "stopping", "systemd-shutdown", ""
_UNKNOWN_TEXT = "and systemd does not say whether the system goes down"
# The kernel keeps as much of the name of a process.
_COMM_LENGTH = 15


class Progress:
    """What one look of a stop passes on to the next.

    ``began`` is when the stop did, from which systemd counts. ``shutdown``: the system goes down. ``given_up`` is why
    its users are not waited for any longer, once that was said; ``dead``: its target has been silent for too long.
    ``refused_since`` is when it first refused to take what was written, 0 if it never did.
    """

    __slots__ = ("began", "dead", "given_up", "refused_since", "shutdown", "silent_since", "urge_at")

    def __init__(self, began: float) -> None:
        self.began = began
        self.shutdown = False
        self.given_up = ""
        self.dead = False
        self.silent_since = 0.0
        self.refused_since = 0.0
        self.urge_at = began + URGE_INTERVAL_SECONDS

    def copy(self) -> "Progress":
        """Return another of the same content."""
        other = Progress(self.began)
        for name in Progress.__slots__:
            setattr(other, name, getattr(self, name))
        return other


class Request:
    """What is to be disconnected, what for (a machine's operation), and what has to be known for it.

    ``protected`` is why it is not ours to disconnect, '' if it is. At shutdown its users are waited for all the same,
    and with ``goes_with_network`` it is disconnected, because the network goes when the worker has ended. ``record`` is
    what a discovery controller may have on record. ``going_down`` is when the worker was told, 0 if it was not.
    """

    __slots__ = (
        "device",
        "goes_with_network",
        "going_down",
        "instance",
        "operation",
        "progress",
        "protected",
        "record",
        "sysfs_inode",
    )

    def __init__(self, instance: str, device: str, sysfs_inode: int, operation: str, progress: Progress) -> None:
        self.instance = instance
        self.device = device
        self.sysfs_inode = sysfs_inode
        self.operation = operation
        self.progress = progress
        self.protected = ""
        self.goes_with_network = False
        self.record: Record | None = None
        self.going_down = 0.0


class Outcome:
    """What has become of it: ``event``, ``text`` and ``cause`` for the machine, ``progress`` for the next look.

    ``deregistered``: the host has left the discovery controller's record.
    """

    __slots__ = ("cause", "deregistered", "event", "progress", "text")

    def __init__(self, event: str, text: str, progress: Progress, cause: str = "") -> None:
        self.event = event
        self.text = text
        self.progress = progress
        self.cause = cause
        self.deregistered = False


def run(request: Request) -> Outcome:
    """Disconnect the controller, unless something speaks against it. Blocks."""
    if request.operation == machine.GIVE_UP:
        return _give_up(request)
    look = _Look(request)
    device = request.device
    if request.protected and look.policy.protects:
        return Outcome(machine.KEPT, request.protected, look.progress)
    try:
        answer = kernel_disconnect.disconnect(
            device, request.sysfs_inode, look.turn(), look.judge, look.before_delete, look.on_error
        )
    except FileNotFoundError:
        return look.outcome_of(machine.REMOVED)
    except RuntimeError as error:
        # No further thread can be started.
        return look.failed(str(error))
    except OSError as error:
        if error.errno != _EBUSY:
            return look.failed(error.strerror or str(error))
        # One on Fibre Channel that was never live; until it is, only the kernel itself can give it up.
        answer = Answer(kernel_disconnect.LEAVE, "it was never connected; the kernel gives it up after ctrl-loss-tmo")
    return look.outcome(answer)


# What is done about a controller in use -------------------------------------------------------------------


def _refuse(look: "_Look", used: "Used") -> Answer | None:
    """An administrator's stop: refused, unless another path keeps what is used."""
    if look.request.protected:
        return Answer(kernel_disconnect.LEAVE, look.request.protected)
    fault = paths.fault(paths.others(look.request.device, used))
    return (
        None
        if fault is None
        else Answer(kernel_disconnect.REFUSE, kernel_disconnect.phrase(usage.everybody(used)) + fault)
    )


def _wait(look: "_Look", used: "Used") -> Answer | None:
    """A shutdown: waited for, until its processes have had their time or its target has been silent for too long."""
    device, progress, now = look.request.device, look.progress, time.monotonic()
    users = usage.everybody(used)
    said = kernel_disconnect.phrase(users)
    # Other units are stopped from the moment when the shutdown began, as far as we were told.
    began = min(progress.began, look.request.going_down or progress.began)
    if all(user.kind in ("process", "target") for user in users) and now > began + PROCESSES_TIMEOUT_SECONDS:
        look.give_up(notify.WARNING, f"{device} is not waited for any longer by a shutdown: in use by {said}")
        return None
    if look.silent():
        return None if progress.given_up else Answer(kernel_disconnect.WAIT, f"{said}, and its target is silent")
    if now > progress.urge_at:
        _urge(users)
        progress.urge_at = time.monotonic() + URGE_INTERVAL_SECONDS
    return Answer(kernel_disconnect.WAIT, said)


def _keep_unless_another_path(look: "_Look", used: "Used") -> Answer | None:
    """A withdrawal: kept, unless another path that stays keeps what is used.

    Where nobody asks for the other paths either, what is in use would be left with one that is not connected again
    once it is lost.
    """
    others = paths.others(look.request.device, used)
    going = {path for path in set().union(*others) if _goes_too(path)}
    fault = paths.fault([one - going for one in others])
    if fault is None:
        return None
    return Answer(kernel_disconnect.REFUSE, f"in use by {kernel_disconnect.phrase(usage.everybody(used))}{fault}")


def _keep(_: "_Look", used: "Used") -> Answer | None:
    """A discovery controller has no namespaces; what pretends to be one may."""
    return Answer(kernel_disconnect.LEAVE, f"in use by {kernel_disconnect.phrase(usage.everybody(used))}")


class Policy:
    """How a disconnect is made for one reason.

    ``judge`` says what is done about a controller in use; None disconnects it. ``protects``: what is not ours to
    disconnect is not even looked at. ``deregisters``: the host leaves a discovery controller for good.
    """

    __slots__ = ("deregisters", "judge", "protects")

    def __init__(
        self, judge: "Callable[[_Look, Used], Answer | None]", protects: bool = False, deregisters: bool = False
    ) -> None:
        self.judge = judge
        self.protects = protects
        self.deregisters = deregisters


POLICIES = {
    machine.STOP: Policy(_refuse, deregisters=True),
    # The host comes back to the same zones.
    SHUTDOWN: Policy(_wait),
    machine.WITHDRAW: Policy(_keep_unless_another_path, protects=True, deregisters=True),
    # It comes back in a while.
    machine.POLL: Policy(_keep, protects=True),
}


class _Look:
    """One attempt at a disconnect, with what it finds out on the way."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.progress = request.progress.copy()
        self._deregistered = False

    @property
    def policy(self) -> Policy:
        """The row for what is going on, as far as it is known."""
        return POLICIES[SHUTDOWN if self.progress.shutdown else self.request.operation]

    def turn(self) -> float:
        """Return for how many seconds the disconnect of another path of the subsystem is waited for."""
        turn = float(kernel_disconnect.TURN_TIMEOUT_SECONDS)
        # At shutdown systemd kills whoever waits for longer.
        return max(1, min(turn, self._left())) if self.progress.shutdown else turn

    def judge(self, used: "Used") -> Answer | None:
        """Return what speaks against the disconnect of a controller in use, None if nothing does."""
        if usage.carries_system(usage.everybody(used)):
            return Answer(kernel_disconnect.LEAVE, "it carries the system itself")
        if self.request.operation == machine.STOP:
            manager = self._ask_system()
            if manager == AT_END:
                return Answer(kernel_disconnect.LEAVE, "the system is at its end")
            if manager == UNKNOWN:
                said = kernel_disconnect.phrase(usage.everybody(used))
                return Answer(kernel_disconnect.WAIT, f"{said}, {_UNKNOWN_TEXT}")
        return self.policy.judge(self, used)

    def before_delete(self) -> Answer | None:
        """Do what is left to do before a disconnect; return an answer if there is to be none."""
        request = self.request
        if why := self._no_longer():
            return Answer(kernel_disconnect.LEAVE, why)
        if request.protected and (answer := self._stays()):
            return answer
        record = request.record
        leaves = record is not None and record.possible and self.policy.deregisters and not request.going_down
        if record is not None and leaves and system_state() not in (STOPPING, UNKNOWN):
            self._deregistered = record.deregister(request.device, request.sysfs_inode)
        return None

    def _no_longer(self) -> str:
        """Return why what allowed the disconnect does not hold any more: its turn may have been minutes away."""
        request = self.request
        if other := ownership.holder(request.instance, request.device):
            return f"it belongs to {other}"
        if request.operation == machine.STOP:
            return ""
        try:
            spec = state.Spec.decode(state.read(state.directory(request.instance) + "/spec"))
        except state.StateError as error:
            return f"its specification cannot be read ({error})"
        if request.operation == machine.POLL:
            return "its connection is to be kept by now" if spec.persistent == "force" else ""
        return "" if spec.withdrawn and spec.disconnect else "it is asked for again"

    def on_error(self, error: OSError) -> None:
        """Go on without what a target does not take for too long, if the system goes down: what waits for it must end.

        It is silent, or it answers with errors. One that takes it slowly is waited for.
        """
        if not isinstance(error, kernel_disconnect.UnwrittenError) or self.request.operation != machine.STOP:
            raise error
        progress, now = self.progress, time.monotonic()
        if system_state() == STOPPING and not self.silent() and error.refused:
            progress.refused_since = progress.refused_since or now
        refused = progress.refused_since and now >= progress.refused_since + machine.SILENCE_TIMEOUT_SECONDS
        if not progress.dead and not refused:
            raise error
        notify.log(notify.ERROR, f"{error.strerror}; given up")

    def silent(self) -> bool:
        """Tell whether the target has no connection; one that has had none for too long is given up."""
        device, progress, now = self.request.device, self.progress, time.monotonic()
        if controllers.attribute(device, "state") == "live":
            progress.silent_since, progress.dead = 0.0, False
            return False
        progress.silent_since = progress.silent_since or now
        if now >= progress.silent_since + machine.SILENCE_TIMEOUT_SECONDS:
            text = (
                f"{device} has been silent for {machine.SILENCE_TIMEOUT_SECONDS} s, and the system goes down: given up"
            )
            progress.dead = True
            self.give_up(notify.ERROR, text)
        return True

    def give_up(self, priority: int, text: str) -> None:
        """Wait for nobody any longer, and say so once: it is judged again at the end."""
        if not self.progress.given_up:
            notify.log(priority, text)
        self.progress.given_up = text

    def outcome(self, answer: Answer) -> Outcome:
        """Return what an answer is to the machine, and say what a stop leaves connected."""
        device = self.request.device
        if answer.verdict == kernel_disconnect.DISCONNECTED:
            return self.outcome_of(machine.DISCONNECTED, answer.text)
        if self.request.operation != machine.STOP:
            return self.outcome_of(machine.KEPT, answer.text)
        if answer.verdict == kernel_disconnect.WAIT:
            return self._wait(answer.text)
        if answer.verdict == kernel_disconnect.LEAVE:
            notify.log(notify.NOTICE, f"{device} stays: {answer.text}")
            return self.outcome_of(machine.LEFT, f"{device} stays: {answer.text}", answer.text)
        text = f"in use by {answer.text}: {device} stays connected, and nobody looks after it"
        advice = f"end that, or insist with: discoverctl disconnect --force '{self.request.instance}'"
        return self._refused(f"{text}; {advice}", f"in use by {answer.text}")

    def failed(self, why: str) -> Outcome:
        """Return what it means that it cannot be told who uses the controller, or that the kernel fails."""
        if self.request.operation != machine.STOP:
            return self.outcome_of(machine.KEPT, f"it cannot be disconnected: {why}")
        if self._ask_system() in (STOPPING, UNKNOWN):
            # It may be able to tell the next time; the network must not go meanwhile.
            return self._wait(f"somebody (cannot tell: {why})")
        return self._refused(f"cannot disconnect {self.request.device}: {why}", why)

    def _wait(self, users: str) -> Outcome:
        if self._left() > 0:
            return self.outcome_of(machine.KEPT, users)
        text = f"{self.request.device} is still in use by {users} after {LAST_LOOK_SECONDS} s: left connected"
        return self._refused(text, f"in use by {users}")

    def _refused(self, text: str, cause: str) -> Outcome:
        notify.log(notify.ERROR, text, notify.STOP_REFUSED)
        return self.outcome_of(machine.REFUSED_STOP, text, cause)

    def outcome_of(self, event: str, text: str = "", cause: str = "") -> Outcome:
        """Return an outcome with what this look has found out."""
        made = Outcome(event, text, self.progress, cause)
        made.deregistered = self._deregistered
        return made

    def _ask_system(self) -> str:
        """Return what system_state() does, and keep in mind that the system goes down: then it is not asked again."""
        manager = STOPPING if self.progress.shutdown else system_state()
        self.progress.shutdown = manager == STOPPING
        return manager

    def _left(self) -> float:
        return self.progress.began + LAST_LOOK_SECONDS - time.monotonic()

    def _stays(self) -> Answer | None:
        """Return what is answered of a controller that is not ours; None if it goes as well, as the system goes down.

        Without its network, whatever looks at its disks would wait until it is killed. A soft-reboot keeps the kernel,
        and nobody would connect it again.
        """
        leave = Answer(kernel_disconnect.LEAVE, self.request.protected)
        if not self.request.goes_with_network:
            return leave
        manager = self._ask_system()
        if manager == UNKNOWN and self.request.operation == machine.STOP:
            return Answer(kernel_disconnect.WAIT, f"nobody, {_UNKNOWN_TEXT}")
        return None if manager == STOPPING and not _soft_reboot() else leave


def _goes_too(device: str) -> bool:
    """Tell whether nobody asks for another path either, such as where the same log page has dropped all of them."""
    try:
        instance = state.instance_of(registry.retrieve(device, "unit") or "")
        return state.Spec.decode(state.read(state.directory(instance) + "/spec")).withdrawn
    except (OSError, state.StateError):
        return False  # Not one of ours.


def _give_up(request: Request) -> Outcome:
    """Delete a controller whose target is dead, if the system really goes down.

    Never one that the system itself runs from: without it nothing of the shutdown would go on.
    """
    device, progress = request.device, request.progress
    manager = system_state()
    if manager != STOPPING:
        return Outcome(machine.CALLED_OFF if goes_on(manager) else machine.KEPT, "", progress)
    try:
        if controllers.attribute(device, "subsysnqn") in usage.system_subsystems():
            return Outcome(machine.KEPT, "the system itself runs from it", progress)
        if controllers.attribute(device, "state") == "live":
            return Outcome(machine.KEPT, "it has its connection again", progress)
        fabrics.delete(device, request.sysfs_inode)
    except FileNotFoundError:
        return Outcome(machine.REMOVED, "", progress)
    except OSError as error:
        return Outcome(machine.KEPT, error.strerror or str(error), progress)
    return Outcome(machine.DISCONNECTED, "", progress)


def system_state() -> str:
    """Return what ``systemctl is-system-running`` says, such as STOPPING; AT_END or UNKNOWN where systemd does not."""
    try:
        _, output = spawn.run("systemctl", "is-system-running")
    except OSError:
        output = ""
    word = output.rpartition("\n")[2]
    if word.isalpha() and word not in ("offline", "unknown"):
        return word
    return AT_END if _first_process() == AT_END[:_COMM_LENGTH] else UNKNOWN


def goes_on(manager: str) -> bool:
    """Tell whether, by what system_state() has returned, the system is known not to go down."""
    return manager not in (STOPPING, AT_END, UNKNOWN)


def _first_process() -> str:
    try:
        return processes.name(1)
    except OSError:
        return ""


def _soft_reboot() -> bool:
    """Tell whether it is a soft-reboot that stops everything, or cannot be told."""
    try:
        status, output = spawn.run("systemctl", "show", "--property=Job", "soft-reboot.target")
    except OSError:
        return True
    return status != 0 or output not in ("", "Job=", "Job=0")


def _urge(users: "list[User]") -> None:
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
