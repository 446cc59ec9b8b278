# SPDX-License-Identifier: Apache-2.0
"""What becomes of a controller when its unit is stopped, or when the system goes down and the target is dead.

A namespace in use is not taken away. At shutdown the worker waits for it to be released, and helps: systemd tries once
to unmount, so it is asked again. An administrator's stop is refused, unless there is another path. systemd says which
of the two it is: ``systemctl is-system-running`` answers ``stopping`` from the moment when a shutdown is queued. Where
no systemd answers, this is the last signal of a shutdown (systemd-shutdown(8)), and there is nothing left to wait for.
"""

import fcntl
import posix
import time

from discoverd.kernel import block, controllers, fabrics, spawn, usage
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
# Seconds that udev has to end what it is at.
QUIET = 2
# Unmounts that one look asks for.
_URGED = 16

DISCONNECTED, WAIT, REFUSE, LEAVE = "disconnected", "wait", "refuse", "leave"


class Answer:
    """What is to be done, and ``text``, why: who uses the controller."""

    __slots__ = ("text", "verdict")

    def __init__(self, verdict: str, text: str = "") -> None:
        self.verdict = verdict
        self.text = text


class Departure:
    """The end of a worker's controller. ``next_look`` is when :meth:`again` wants to be called, 0 for never.

    ``stays`` is why an administrator's stop leaves the controller connected, '' if it does not. At shutdown its users
    are waited for all the same, because the network goes when the worker has ended.
    """

    def __init__(self, worker: "Worker", stays: str = "") -> None:
        self._worker = worker
        self._stays = stays
        self._began = time.monotonic()
        self._silent_since = 0.0
        self._shutdown = False
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
        elif call.result.verdict == DISCONNECTED:
            notify.log(notify.NOTICE, f"disconnected {worker.device}{call.result.text}")
            worker.gone()
        elif call.result.verdict == WAIT:
            self._wait(call.result.text)
        elif call.result.verdict == REFUSE:
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
        advice = f"unmount, or insist with: discoverctl disconnect --force '{worker.instance}'"
        notify.log(notify.ERROR, f"{text}; {advice}")
        worker.leave("refused", f"{text}; {advice}", 1)

    # In a thread ------------------------------------------------------------------------------------------

    def _depart(self, device: str) -> Answer:
        kernel_instance = self._worker.kernel_instance
        # The workers of all paths of a subsystem may be here at once, and each of two would take the other path for the
        # one that stays.
        lock = _lock_subsystem(device)
        try:
            if controllers.kernel_instance(device) != kernel_instance:
                raise FileNotFoundError(2, "it is gone")
            used = {namespace: usage.users(namespace) for namespace in block.namespaces(device)}
            users = [user for found in used.values() for user in found]
            if users:
                answer = self._in_use(device, {one for one, found in used.items() if found}, users)
                if answer is not None:
                    return answer
            if self._stays and not self._goes_with_network():
                return Answer(LEAVE, self._stays)
            self._deregister()
            disks = _keep_udev_out(list(used))
            try:
                fabrics.delete(device, kernel_instance)
            except OSError as error:
                if error.errno != 16:
                    raise
                # EBUSY: one on Fibre Channel that was never live; until it is, only the kernel itself can give it up.
                return Answer(LEAVE, "it was never connected; the kernel gives it up after ctrl-loss-tmo")
            finally:
                for disk in disks:
                    posix.close(disk)
        finally:
            if lock >= 0:
                posix.close(lock)
        return Answer(DISCONNECTED, f", though in use by {phrase(users)}" if users else "")

    def _deregister(self) -> None:
        """Take leave of a discovery controller, unless the host only goes down: it comes back to the same zones."""
        discovery = self._worker.discovery
        if discovery is None or not discovery.on_record or self._shutdown or self._worker.going_down:
            return
        if system_state() != "stopping":
            discovery.deregister()

    def _in_use(self, device: str, namespaces: set[str], users: list[usage.User]) -> Answer | None:
        """Return what to do about a controller in use, None to disconnect it."""
        if usage.carries_system(users):
            return Answer(LEAVE, "it carries the system itself")
        if not self._shutdown:
            manager = system_state()
            if not manager:
                return Answer(LEAVE, "the system is at its end")
            self._shutdown = manager == "stopping"
        if self._shutdown:
            return self._wait_for(device, users)
        if self._stays:
            return Answer(LEAVE, self._stays)
        if all(set(block.usable_paths(namespace)) - {device} for namespace in namespaces):
            return None
        return Answer(REFUSE, phrase(users))

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
        if controllers.attribute(device, "state") == "live":
            self._silent_since = 0.0
            if now > self._urge_at:
                _urge(users)
                self._urge_at = time.monotonic() + PATIENCE
            return Answer(WAIT, phrase(users))
        self._silent_since = self._silent_since or now
        if now < self._silent_since + SILENCE:
            return Answer(WAIT, f"{phrase(users)}, and its target is silent")
        notify.log(notify.ERROR, f"{device} has been silent for {SILENCE} s, and the system goes down: given up")
        return None


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


def _keep_udev_out(namespaces: list[str]) -> list[int]:
    """Lock the disks, and return their descriptors; what is not locked within QUIET seconds is left unlocked.

    udev reads a disk that was just released, under a shared lock, and what it reads of one that goes away meanwhile is
    an I/O error in the kernel's log. Of a disk that somebody else has locked it keeps away (systemd's rules for locking
    block devices).
    """
    deadline = time.monotonic() + QUIET
    disks = []
    for namespace in namespaces:
        try:
            disk = posix.open(f"{block.DEV}/{namespace}", posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            continue  # Nobody else can read it either.
        disks.append(disk)
        while True:
            try:
                fcntl.flock(disk, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
    return disks


def phrase(users: list[usage.User]) -> str:
    """Return the users as a phrase: the first, and how many more."""
    texts = list(dict.fromkeys(user.text for user in users))
    return texts[0] + (f" and {len(texts) - 1} more" if texts[1:] else "")


def _lock_subsystem(device: str) -> int:
    """Wait for the lock of the controller's subsystem, and return its descriptor; -1 where there is no such thing."""
    root = f"{block.SYS}/class/nvme-subsystem"
    try:
        subsystems = posix.listdir(root)
    except FileNotFoundError:
        return -1
    for subsystem in subsystems:
        try:
            if device not in posix.listdir(f"{root}/{subsystem}"):
                continue
            fd = posix.open(f"{root}/{subsystem}", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        except FileNotFoundError:
            continue  # It has just gone. If it was ours, so has the controller, and the caller sees that.
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd
    return -1
