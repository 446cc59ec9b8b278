# SPDX-License-Identifier: Apache-2.0
"""What a worker does with its controller when it is stopped, or when the system goes down."""

import errno
import fcntl
import os
import posix
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from discoverd import registry, state
from discoverd.kernel import block, fabrics, locks, mounts, paths, spawn, usage
from discoverd.kernel import disconnect as kernel_disconnect
from discoverd.kernel.claims import Claims
from discoverd.kernel.openers import UnknownError
from discoverd.kernel.usage import User
from discoverd.worker import disconnect, loop, machine
from discoverd.worker.discovery_controller import DiscoveryController

from .fake_kernel import Kernel, play, until

NQN = "nqn.2024-08.com.example:vol1"
INSTANCE = f"tcp:192.0.2.1:4420:{NQN}"
DATA = User("mount", "/data")


class System:
    """Who uses the namespace, what other paths it has, and what systemd says about the system."""

    def __init__(self) -> None:
        self.users: list[User] = []
        # Who has it open without a claim, and which paths do not answer.
        self.processes: list[User] = []
        self.silent: set[str] = set()
        self.error: OSError | None = None
        self.paths = ["nvme0"]
        self.system_subsystems: set[str] = set()
        self.state = "running"
        self.first_process = "systemd"
        self.soft_reboot = (0, "")
        self.asked = 0
        self.urged: list[str] = []

    def find(self, namespaces: list[str], _: Claims) -> dict[str, list[User]]:
        if self.error:
            raise self.error
        return {"nvme0n1": list(self.users)} if self.users and namespaces else {}

    def run(self, *command: str) -> tuple[int, str]:
        if command == ("systemctl", "is-system-running"):
            self.asked += 1
            return 1, self.state
        if command[:2] == ("systemctl", "show"):
            assert command[2:] == ("--property=Job", "soft-reboot.target")
            return self.soft_reboot
        assert command[:-1] == ("systemctl", "stop", "--no-block", "--job-mode=ignore-dependencies", "--")
        self.urged.append(command[-1])
        return 0, ""


@pytest.fixture
def system(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    for module, name, value in (
        (usage, "users", made.find),
        (usage, "system_subsystems", lambda: made.system_subsystems),
        (usage, "processes", lambda names: [one for one in made.processes if one.name[5:] in names]),
        (block, "nodes", lambda name: [(0, "259:0", f"/dev/{name}")]),
        (block, "namespaces", lambda _: ["nvme0n1"]),
        (paths, "_answering", lambda others: set().union(*others) - made.silent),
        (block, "usable_paths", lambda _: list(made.paths)),
        (spawn, "run", made.run),
        (disconnect, "_first_process", lambda: made.first_process),
        (mounts, "FSTAB", str(kernel.root / "fstab")),
        (machine, "DISCONNECT_RETRY_SECONDS", dict.fromkeys(machine.DISCONNECT_RETRY_SECONDS, 0.01)),
        (disconnect, "URGE_INTERVAL_SECONDS", 3600),
    ):
        monkeypatch.setattr(module, name, value)
    return made


def live(kernel: Kernel, act: Callable[[], None] = lambda: None, origin: str = "configuration") -> int:
    """Run a worker until it is live, and on with ``act``; then it is stopped."""
    owner = "nbft" if origin == "nbft" else "nvme-ctrl"
    spec = state.Spec("io", [("nqn", NQN), ("transport", "tcp"), ("traddr", "192.0.2.1"), ("trsvcid", "4420")])
    spec.origin = origin
    os.makedirs(state.directory(INSTANCE), exist_ok=True)
    state.write(state.directory(INSTANCE) + "/spec", spec.encode())

    def first() -> None:
        until(lambda: kernel.status == "live nvme0")
        until(lambda: registry.retrieve("nvme0", "owner") == owner)
        act()

    return play(INSTANCE, kernel, first, spec)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def report() -> dict[str, str]:
    return dict(state.decode(state.REPORT, state.read(state.directory(INSTANCE) + "/report")))


# Stopped by an administrator ------------------------------------------------------------------------------


def test_not_in_use(kernel: Kernel, system: System, capsys: pytest.CaptureFixture[str]) -> None:
    assert live(kernel) == 0
    assert kernel.deleted == ["nvme0"]
    assert (report()["state"], kernel.status) == ("stopped", "stopped")
    assert "disconnected nvme0\n" in capsys.readouterr().err
    # systemd is asked only if there is something to decide.
    assert system.asked == 0


@pytest.mark.parametrize("state_of_system", ["running", "degraded", "starting", "initializing", "maintenance"])
def test_in_use_it_is_refused(
    kernel: Kernel, system: System, capsys: pytest.CaptureFixture[str], state_of_system: str
) -> None:
    system.users = [DATA, User("swap", "/dev/nvme0n1p2")]
    system.state = state_of_system
    assert live(kernel) == 1
    assert kernel.deleted == []
    text = (
        "in use by /data and 1 more: nvme0 stays connected, and nobody looks after it; "
        f"end that, or insist with: discoverctl disconnect --force '{INSTANCE}'"
    )
    assert (report()["state"], report()["status"], kernel.status) == ("refused", text, text)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("<3>")
    assert error.endswith(text)
    # It is ours still, for whoever takes over.
    assert registry.retrieve("nvme0", "owner") == "nvme-ctrl"
    assert system.urged == []


def test_another_path(kernel: Kernel, system: System, capsys: pytest.CaptureFixture[str]) -> None:
    system.users = [DATA]
    system.paths = ["nvme0", "nvme1"]
    assert live(kernel) == 0
    assert kernel.deleted == ["nvme0"]
    assert "disconnected nvme0, though in use by /data" in capsys.readouterr().err


def test_each_namespace_in_use_needs_another_path(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, list[User]] = {"nvme0n1": [DATA], "nvme0n2": [DATA], "nvme0n3": []}
    paths = {"nvme0n1": ["nvme0", "nvme1"], "nvme0n2": ["nvme0"], "nvme0n3": ["nvme0"]}
    monkeypatch.setattr(block, "namespaces", lambda _: list(used))
    monkeypatch.setattr(usage, "users", lambda names, _: {one: used[one] for one in names if used[one]})
    monkeypatch.setattr(block, "usable_paths", paths.__getitem__)
    assert live(kernel) == 1
    assert kernel.deleted == []
    paths["nvme0n2"] = ["nvme1"]
    system.state = "running"
    assert live(kernel) == 0
    assert kernel.deleted == ["nvme0"]


@pytest.mark.parametrize("target", ["/", "/usr"])
@pytest.mark.parametrize("state_of_system", ["running", "stopping", ""])
def test_controller_of_the_system_stays(kernel: Kernel, system: System, target: str, state_of_system: str) -> None:
    system.users = [DATA, User("mount", target)]
    system.state = state_of_system
    system.paths = ["nvme0", "nvme1"]
    assert live(kernel) == 0
    assert kernel.deleted == []
    assert report()["state"] == "stopped"
    assert kernel.status == "stopped; nvme0 stays: it carries the system itself"


@pytest.mark.parametrize("used", [[], [DATA]])
def test_firmware_controller_stays(kernel: Kernel, system: System, used: list[User]) -> None:
    system.users = used
    assert live(kernel, origin="nbft") == 0
    assert kernel.deleted == []
    assert report()["state"] == "stopped"
    assert kernel.status == ("stopped; nvme0 stays: firmware asked for it; to disconnect: discoverctl disconnect nvme0")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_controller_with_unknown_use_stays(kernel: Kernel, system: System, number: int) -> None:
    system.error = OSError(number, os.strerror(number))
    assert live(kernel) == 1
    assert kernel.deleted == []
    assert report()["state"] == "refused"
    assert kernel.status == f"cannot disconnect nvme0: {os.strerror(number)}"


@pytest.mark.usefixtures("system")
def test_controller_never_live_is_left_to_the_kernel(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.delete_fails = errno.EBUSY
    assert live(kernel) == 0
    assert (report()["state"], report()["status"][:26]) == ("stopped", "stopped; nvme0 stays: it w")
    assert "the kernel gives it up" in capsys.readouterr().err


def test_a_stop_is_reported_at_once(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should systemd kill a worker whose disconnect takes too long, the unit is not started again for that."""
    gate = threading.Event()
    delete = kernel.delete

    def slow(device: str, sysfs_inode: int) -> None:
        gate.wait(5)
        delete(device, sysfs_inode)

    monkeypatch.setattr(fabrics, "delete", slow)

    def act() -> None:
        stop()
        until(lambda: kernel.status == "disconnecting nvme0")
        until(lambda: report()["state"] == "stopping")
        gate.set()

    assert live(kernel, act) == 0
    assert report()["state"] == "stopped"


# In use without a claim, and paths that do not answer -----------------------------------------------------

PROCESS = User("process", "/dev/nvme0n1", 4711, "postgres")


def test_a_process_that_has_it_open_is_a_use(
    kernel: Kernel, system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    system.processes = [PROCESS]
    assert live(kernel) == 1
    assert kernel.deleted == []
    assert kernel.status.startswith("in use by postgres (PID 4711) on /dev/nvme0n1: nvme0 stays connected")
    assert "<3>" in capsys.readouterr().err


def test_a_process_is_no_matter_where_there_is_another_path(kernel: Kernel, system: System) -> None:
    system.processes = [PROCESS]
    system.paths = ["nvme0", "nvme1"]
    assert live(kernel) == 0
    assert kernel.deleted == ["nvme0"]


def test_a_process_on_one_path_of_dm_multipath_itself_is_a_use(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the mount on top has another path."""
    system.users = [DATA]
    system.processes = [PROCESS]
    paths_of = {"nvme0n1": ["nvme0"], "nvme1n1": ["nvme1"]}
    monkeypatch.setattr(block, "siblings", lambda _: {"nvme1n1"})
    monkeypatch.setattr(block, "usable_paths", paths_of.__getitem__)
    assert live(kernel) == 1
    assert kernel.status.startswith("in use by /data and 1 more")
    system.processes = []
    assert live(kernel) == 0
    assert kernel.deleted == ["nvme0"]


def test_nobody_looks_for_processes_before_the_end(kernel: Kernel, system: System) -> None:
    looked: list[str] = []

    def act() -> None:
        time.sleep(0.2)
        assert looked == []

    system.processes = Watched(looked)
    live(kernel, act)
    assert looked


class Watched(list[User]):
    """Tells that somebody has looked at it."""

    def __init__(self, looked: list[str]) -> None:
        super().__init__()
        self._looked = looked

    def __iter__(self) -> Iterator[User]:
        self._looked.append("looked")
        return super().__iter__()


@pytest.mark.parametrize("how", ["an answer", "a sentence"])
def test_at_a_shutdown_a_process_has_its_time_and_no_more(
    kernel: Kernel,
    system: System,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    monkeypatch.setattr(disconnect, "PROCESSES_TIMEOUT_SECONDS", 0.3 if how == "a sentence" else 60)
    system.processes = [PROCESS]
    system.state = "stopping"

    def act() -> None:
        stop()
        until(lambda: kernel.status == "waiting to disconnect nvme0: in use by postgres (PID 4711) on /dev/nvme0n1")
        assert kernel.deleted == []
        if how == "an answer":
            system.processes = []

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]
    said = "nvme0 is not waited for any longer by a shutdown: in use by postgres (PID 4711)"
    assert (said in capsys.readouterr().err) == (how == "a sentence")


def test_a_mount_is_waited_for_beyond_that(kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "PROCESSES_TIMEOUT_SECONDS", 0)
    system.users = [DATA]
    system.processes = [PROCESS]
    system.state = "stopping"

    def act() -> None:
        stop()
        until(lambda: "in use by /data" in kernel.status)
        time.sleep(0.2)
        assert kernel.deleted == []
        system.users = []

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]


def test_a_path_that_does_not_answer_is_none(kernel: Kernel, system: System) -> None:
    system.users = [DATA]
    system.paths = ["nvme0", "nvme4"]
    system.silent = {"nvme4"}
    assert live(kernel) == 1
    assert kernel.deleted == []
    assert kernel.status.startswith("in use by /data, and its other path nvme4 does not answer: nvme0 stays connected")


def test_unknown_use_is_looked_at_again_at_a_shutdown(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network goes when the worker has ended."""
    system.state = "stopping"
    told = False

    def processes(_: list[str]) -> list[User]:
        if not told:
            raise UnknownError(errno.EACCES, "no right to look")
        return []

    monkeypatch.setattr(usage, "processes", processes)

    def act() -> None:
        nonlocal told
        stop()
        until(lambda: "in use by somebody (cannot tell: no right to look)" in kernel.status)
        told = True

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]


@pytest.mark.parametrize("state_of_system", ["running", "stopping"])
def test_silent_target_does_not_delay_a_shutdown(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch, state_of_system: str
) -> None:
    """It is no reason to let a shutdown wait for longer than a target has to come back."""
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.3)
    system.state = state_of_system

    def write_back(*_: object) -> None:
        raise kernel_disconnect.UnwrittenError(errno.ETIMEDOUT, "it is silent")

    monkeypatch.setattr(kernel_disconnect, "_write_back", write_back)

    def act() -> None:
        kernel.set_state("nvme0", "connecting")
        stop()
        if state_of_system == "stopping":
            until(lambda: "cannot tell: it is silent" in kernel.status)

    assert live(kernel, act) == (state_of_system == "running")
    assert kernel.deleted == (["nvme0"] if state_of_system == "stopping" else [])


@pytest.mark.parametrize(("refused", "deleted"), [(True, ["nvme0"]), (False, [])])
def test_live_target_that_does_not_take_what_was_written(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch, refused: bool, deleted: list[str]
) -> None:
    """One that answers with errors will not do better, and the kernel has let go of the data; a slow one gets on."""
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(disconnect, "LAST_LOOK_SECONDS", 2)
    system.state = "stopping"

    def write_back(*_: object) -> None:
        raise kernel_disconnect.UnwrittenError(errno.EIO, "it is not taken", refused)

    monkeypatch.setattr(kernel_disconnect, "_write_back", write_back)

    def act() -> None:
        stop()
        until(lambda: "cannot tell: it is not taken" in kernel.status)

    live(kernel, act)
    assert kernel.deleted == deleted


def test_the_other_path_is_asked_once_more_at_the_end(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.users = [DATA]
    system.paths = ["nvme0", "nvme1"]

    def keep_udev_out(*_: object) -> list[int]:
        system.silent = {"nvme1"}
        return []

    monkeypatch.setattr(kernel_disconnect, "_keep_udev_out", keep_udev_out)
    assert live(kernel) == 1
    assert kernel.deleted == []
    assert "its other path nvme1 does not answer" in kernel.status


# The claims are held ---------------------------------------------------------------------------------------


def test_claims_are_held_from_the_look_until_it_is_gone(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    delete = kernel.delete

    def note(event: str) -> list[Any]:
        events.append(event)
        return []

    def find(namespaces: list[str], claims: Claims) -> dict[str, list[User]]:
        events.append("claimed")
        return system.find(namespaces, claims)

    def keep(_: Claims, names: set[str]) -> None:
        events.append("released" if not names else "kept")

    for target, name, value in (
        (usage, "users", find),
        (Claims, "keep", keep),
        (kernel_disconnect, "_keep_udev_out", lambda *_: note("udev is out")),
        (usage, "processes", lambda _: note("looked for processes")),
        (kernel_disconnect, "_write_back", lambda *_: note("written back")),
        (fabrics, "delete", lambda *given: (note("deleted"), delete(*given))),
    ):
        monkeypatch.setattr(target, name, value)
    assert live(kernel) == 0
    looks = ["claimed", "udev is out", "claimed", "looked for processes"]
    assert events == [*looks, "written back", "deleted", "released"]
    # Refused, nothing is left claimed.
    events.clear()
    system.users = [DATA]
    assert live(kernel) == 1
    assert events == ["claimed", "released"]


def test_use_that_begins_while_udev_is_waited_for_counts(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one more logical volume, which no claim on the others keeps from being made and mounted."""

    def keep_udev_out(*_: object) -> list[int]:
        system.users = [DATA]
        return []

    monkeypatch.setattr(kernel_disconnect, "_keep_udev_out", keep_udev_out)
    assert live(kernel) == 1
    assert kernel.deleted == []
    assert kernel.status.startswith("in use by /data")


# The system goes down -------------------------------------------------------------------------------------


def test_stop_at_shutdown_waits_until_released(
    kernel: Kernel, system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    system.users = [DATA]
    system.state = "stopping"

    def act() -> None:
        stop()
        until(lambda: kernel.status == "waiting to disconnect nvme0: in use by /data")
        system.users = [User("swap", "/dev/nvme0n1")]
        until(lambda: kernel.status == "waiting to disconnect nvme0: in use by swap on /dev/nvme0n1")
        assert report()["state"] == "stopping"
        time.sleep(0.1)
        assert kernel.deleted == []
        system.users = []

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]
    assert report()["state"] == "stopped"
    # It is said when it changes, and systemd is asked once: it does not change its mind.
    assert capsys.readouterr().err.count("the system goes down;") == 2
    assert (system.asked, system.urged) == (1, [])


def test_firmware_controller_stays_and_is_waited_for(kernel: Kernel, system: System) -> None:
    """The network goes when the worker has ended."""
    system.users = [DATA]
    system.state = "stopping"

    def act() -> None:
        stop()
        until(lambda: "in use by /data" in kernel.status)
        assert report()["state"] == "stopping"
        system.users = []

    assert live(kernel, act, origin="nbft") == 0
    assert kernel.deleted == []
    assert "nvme0 stays: firmware asked for it" in kernel.status


@pytest.mark.parametrize("used", [[], [DATA]])
def test_controller_of_others_goes_with_the_network(kernel: Kernel, system: System, used: list[User]) -> None:
    """Whatever looked at its disks without a network would hang."""
    kernel.add("nvme0")
    system.users = used
    system.state = "stopping"

    def act() -> None:
        if used:
            stop()
            until(lambda: "in use by /data" in kernel.status)
            assert kernel.deleted == []
            system.users = []

    assert live(kernel, act, origin="boot") == 0
    assert kernel.deleted == ["nvme0"]


@pytest.mark.parametrize(
    ("state_of_system", "soft_reboot"),
    [("running", (0, "")), ("stopping", (0, "Job=17")), ("stopping", (1, ""))],
)
def test_controller_of_others_stays_while_the_kernel_goes_on(
    kernel: Kernel, system: System, state_of_system: str, soft_reboot: tuple[int, str]
) -> None:
    kernel.add("nvme0")
    system.state = state_of_system
    system.soft_reboot = soft_reboot
    assert live(kernel, origin="boot") == 0
    assert kernel.deleted == []
    assert "nvme0 stays: it was connected before the boot" in kernel.status


def test_another_path_is_no_reason_to_go_before_the_mount(kernel: Kernel, system: System) -> None:
    """Each of them would say so of the other."""
    system.users = [DATA]
    system.state = "stopping"
    system.paths = ["nvme0", "nvme1"]

    def act() -> None:
        stop()
        until(lambda: "in use by /data" in kernel.status)
        assert kernel.deleted == []
        system.users = []

    assert live(kernel, act) == 0


def test_systemd_is_asked_to_unmount_again(kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "URGE_INTERVAL_SECONDS", 0.05)
    system.users = [
        DATA,
        User("mount", "/c", 4711),
        User("claim", "/dev/nvme0n1"),
        User("swap", "/dev/mapper/a-b c"),
        *[User("mount", f"/m{number}") for number in range(50)],
    ]
    system.state = "stopping"

    def act() -> None:
        stop()
        until(lambda: system.urged.count("/data") == 3)
        system.users = []

    assert live(kernel, act) == 0
    # Not in a container, which is its manager's, and no claim; of many mounts some at a time.
    assert system.urged[:4] == ["/data", r"dev-mapper-a\x2db\x20c.swap", "/m0", "/m1"]
    assert set(system.urged).isdisjoint({"/c", "/dev/nvme0n1", "/m40"})


def test_a_program_that_cannot_be_run_now_does_not_end_the_wait(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnect, "URGE_INTERVAL_SECONDS", 0)
    system.users = [DATA]
    system.state = "stopping"
    tried: list[str] = []

    def run(*command: str) -> tuple[int, str]:
        if "stop" in command:
            tried.append(command[-1])
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return system.run(*command)

    monkeypatch.setattr(spawn, "run", run)

    def act() -> None:
        stop()
        until(lambda: len(tried) > 2)
        system.users = []

    assert live(kernel, act) == 0
    assert report()["state"] == "stopped"


def test_a_silent_target_is_given_up(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(disconnect, "URGE_INTERVAL_SECONDS", 0)
    system.users = [DATA]
    system.state = "stopping"

    def act() -> None:
        kernel.set_state("nvme0", "connecting")
        until(lambda: kernel.status.startswith("reconnecting"))
        stop()
        until(lambda: kernel.status == "waiting to disconnect nvme0: in use by /data, and its target is silent")
        assert kernel.deleted == []
        until(lambda: kernel.deleted)

    assert live(kernel, act) == 0
    assert "nvme0 has been silent for" in capsys.readouterr().err
    # What a dead target holds up is not unmounted for the asking.
    assert system.urged == []


def test_a_target_that_comes_back_is_waited_for(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(disconnect, "time", SimpleNamespace(monotonic=lambda: now))
    kernel.add("nvme0", state="connecting")
    progress = disconnect.Progress(now)
    progress.shutdown = True
    one = disconnect._Look(disconnect.Request(INSTANCE, "nvme0", 0, machine.STOP, progress))

    def verdict() -> str | None:
        answer = one.judge({"nvme0n1": [DATA]})
        return answer.verdict if answer else None

    assert verdict() == kernel_disconnect.WAIT
    now += machine.SILENCE_TIMEOUT_SECONDS - 1
    assert verdict() == kernel_disconnect.WAIT
    kernel.set_state("nvme0", "live")
    assert verdict() == kernel_disconnect.WAIT
    kernel.set_state("nvme0", "connecting")
    now += 2
    assert verdict() == kernel_disconnect.WAIT
    now += machine.SILENCE_TIMEOUT_SECONDS + 1
    assert verdict() is None
    assert system.asked == 0


def test_before_systemd_kills_it_says_what_it_leaves(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnect, "LAST_LOOK_SECONDS", 0.1)
    system.users = [DATA]
    system.state = "stopping"
    assert live(kernel) == 1
    assert kernel.deleted == []
    assert report()["state"] == "refused"
    assert kernel.status.startswith("nvme0 is still in use by /data after")


@pytest.mark.parametrize("word", ["", "offline", "unknown", "Failed to connect to bus: No such file or directory"])
def test_the_last_signals_of_a_shutdown_harm_nothing(kernel: Kernel, system: System, word: str) -> None:
    system.users = [DATA]
    system.state = word
    system.first_process = "systemd-shutdow"
    assert live(kernel) == 0
    assert kernel.deleted == []
    assert kernel.status == "stopped; nvme0 stays: the system is at its end"


@pytest.mark.parametrize("word", ["", "unknown", "Failed to get properties: Connection timed out"])
@pytest.mark.parametrize(("answer", "deleted"), [("stopping", ["nvme0"]), ("running", [])])
def test_no_answer_is_no_end_of_a_shutdown(
    kernel: Kernel, system: System, word: str, answer: str, deleted: list[str]
) -> None:
    """A worker that ended would leave its controller to a network that goes."""
    system.users = [DATA]
    system.state = word

    def act() -> None:
        stop()
        until(lambda: "systemd does not say whether the system goes down" in kernel.status)
        assert (kernel.deleted, report()["state"]) == ([], "stopping")
        system.state = answer
        if answer == "stopping":
            until(lambda: kernel.status.endswith("in use by /data"))
            system.users = []

    live(kernel, act)
    assert kernel.deleted == deleted
    assert report()["state"] == ("stopped" if deleted else "refused")


def test_users_that_nobody_can_tell_while_nobody_answers(kernel: Kernel, system: System) -> None:
    system.error = PermissionError(errno.EPERM, "Operation not permitted")
    system.state = ""

    def act() -> None:
        stop()
        until(lambda: "cannot tell" in kernel.status)
        assert report()["state"] == "stopping"
        system.error = None

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]


def test_something_that_is_not_found_is_not_the_controller(kernel: Kernel, system: System) -> None:
    """Whatever disappears while its users are looked for: the controller is there, and not left to itself."""
    system.error = FileNotFoundError(errno.ENOENT, "No such file or directory")
    system.state = "stopping"

    def act() -> None:
        stop()
        until(lambda: "cannot tell: No such file or directory" in kernel.status)
        system.error = None

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]


def test_what_others_connected_is_held_while_nobody_answers(kernel: Kernel, system: System) -> None:
    kernel.add("nvme0")
    system.state = ""

    def act() -> None:
        stop()
        until(lambda: "systemd does not say whether the system goes down" in kernel.status)
        system.state = "stopping"

    assert live(kernel, act, origin="boot") == 0
    assert kernel.deleted == ["nvme0"]


def test_a_systemctl_that_is_not_there(kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: str) -> tuple[int, str]:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(spawn, "run", run)
    monkeypatch.setattr(disconnect, "LAST_LOOK_SECONDS", 0.1)
    system.users = [DATA]
    assert live(kernel) == 1
    assert kernel.deleted == []
    assert kernel.status.startswith("nvme0 is still in use by /data")


# Shutdown announced, before the unit's turn to stop -------------------------------------------------------


def go_down() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_dead_target_is_given_up_before_the_units_turn(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.1)
    system.users = [DATA]
    system.state = "stopping"

    def act() -> None:
        kernel.set_state("nvme0", "connecting")
        go_down()
        until(lambda: kernel.deleted)
        until(lambda: kernel.status == "lost while the system goes down")

    assert live(kernel, act) == 0
    # It is not connected again.
    assert len(kernel.written) == 1
    assert "what was not written is lost" in capsys.readouterr().err


def test_a_dead_target_that_carries_the_system_is_not(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.1)
    system.users = [User("mount", "/")]
    system.system_subsystems = {NQN}
    system.state = "stopping"

    def act() -> None:
        kernel.set_state("nvme0", "connecting")
        go_down()
        until(lambda: system.asked)
        time.sleep(0.2)

    assert live(kernel, act) == 0
    assert kernel.deleted == []


@pytest.mark.usefixtures("system")
def test_a_live_one_is_left_as_it_is(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0)

    def act() -> None:
        go_down()
        time.sleep(0.2)
        assert kernel.deleted == []
        assert kernel.status == "live nvme0"

    assert live(kernel, act) == 0


@pytest.mark.parametrize("how", ["hang-up", "not stopping"])
def test_a_shutdown_that_was_called_off(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.1)
    system.state = "stopping" if how == "hang-up" else "running"

    def act() -> None:
        go_down()
        time.sleep(0.02)
        if how == "hang-up":
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.02)
        kernel.set_state("nvme0", "connecting")
        until(lambda: kernel.status.startswith("reconnecting"))
        time.sleep(0.3)
        assert kernel.deleted == []
        # From now on as if nothing had been.
        kernel.remove()
        until(lambda: len(kernel.written) == 2)
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0


# Workers of one subsystem ---------------------------------------------------------------------------------


def test_of_two_paths_one_stays(kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are stopped at once, and each sees the other's path: not both may go."""
    system.users = [DATA]
    subsystem = kernel.root / "sys/class/nvme-subsystem/nvme-subsys0"
    (subsystem.parent / "nvme-subsys1").mkdir(parents=True)
    subsystem.mkdir()
    for device in ("nvme0", "nvme1"):
        kernel.add(device)
        (subsystem / device).touch()
    system.paths = ["nvme0", "nvme1"]

    def delete(device: str, _: int) -> None:
        # The other one has time to look.
        time.sleep(0.1)
        system.paths.remove(device)
        kernel.deleted.append(device)

    monkeypatch.setattr(fabrics, "delete", delete)
    answers: list[str] = []

    def depart(device: str) -> None:
        instance = posix.stat(str(kernel.sysfs / device)).st_ino
        progress = disconnect.Progress(time.monotonic())
        answers.append(disconnect.run(disconnect.Request(INSTANCE, device, instance, machine.STOP, progress)).event)

    threads = [threading.Thread(target=depart, args=(device,)) for device in ("nvme0", "nvme1")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(answers) == [machine.DISCONNECTED, machine.REFUSED_STOP]
    assert len(kernel.deleted) == 1


def subsystem_of(kernel: Kernel) -> None:
    folder = kernel.root / "sys/class/nvme-subsystem/nvme-subsys0"
    folder.mkdir(parents=True)
    (folder / "nvme0").touch()


def test_another_path_that_does_not_end_its_disconnect(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_disconnect, "TURN_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(disconnect, "LAST_LOOK_SECONDS", 60)
    subsystem_of(kernel)
    lock = locks.take("nvme-subsys0", 0, "")
    assert live(kernel) == 1
    assert kernel.deleted == []
    why = "another path of nvme-subsys0 is being disconnected; try again later"
    assert kernel.status == f"cannot disconnect nvme0: {why}"

    # A shutdown goes on waiting.
    system.state = "stopping"

    def act() -> None:
        stop()
        until(lambda: f"in use by somebody (cannot tell: {why})" in kernel.status)
        os.close(lock)

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]


@pytest.mark.usefixtures("system")
def test_a_lock_that_any_user_can_take_keeps_nobody(kernel: Kernel) -> None:
    subsystem_of(kernel)
    fd = os.open(kernel.root / "sys/class/nvme-subsystem/nvme-subsys0", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert live(kernel) == 0
    assert kernel.deleted == ["nvme0"]
    os.close(fd)


def test_a_subsystem_that_goes_meanwhile_does_not_hide_ours(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kernel.root / "sys/class/nvme-subsystem"
    (root / "nvme-subsys1").mkdir(parents=True)
    (root / "nvme-subsys1/nvme0").touch()
    listdir = posix.listdir

    def stale(path: str) -> list[str]:
        return ["nvme-subsys0", "nvme-subsys1"] if path == str(root) else listdir(path)

    monkeypatch.setattr(kernel_disconnect, "posix", SimpleNamespace(**{**vars(posix), "listdir": stale}))
    (lock,) = kernel_disconnect._lock_subsystem("nvme0", 1)
    assert os.listdir(locks.DIRECTORY) == ["nvme-subsys1"]
    os.close(lock)


# The program that is run ----------------------------------------------------------------------------------


def test_run() -> None:
    assert spawn.run("sh", "-c", "echo out; echo err >&2; cat; exit 3") == (3, "out\nerr")
    assert spawn.run("sh", "-c", "kill -9 $$") == (-9, "")
    status, output = spawn.run("sh", "-c", "yes | head -c 200000")
    assert (status, len(output) <= 4096) == (0, True)
    with pytest.raises(FileNotFoundError):
        spawn.run("no-such-program-anywhere")


def test_nothing_is_left_open_by_a_program_that_is_not_there() -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            spawn.run("no-such-program-anywhere")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_programs_environment_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMD_OFFLINE", "1")
    assert "SYSTEMD_OFFLINE" not in spawn.run("env")[1]


# A discovery controller's ---------------------------------------------------------------------------------


class Registered:
    """The record of a discovery controller that has this host on it."""

    possible = True

    def __init__(self, left: list[str]) -> None:
        self._left = left

    def deregister(self, device: str, sysfs_inode: int) -> None:
        assert (device, sysfs_inode) != ("", 0)
        self._left.append("deregistered")


@pytest.mark.parametrize(("state_of_system", "left"), [("running", ["deregistered"]), ("stopping", [])])
def test_leave_is_taken_of_a_discovery_controller_that_has_this_host_on_record(
    kernel: Kernel, system: System, monkeypatch: pytest.MonkeyPatch, state_of_system: str, left: list[str]
) -> None:
    said: list[str] = []
    system.state = state_of_system
    spec = state.Spec("discovery", [])
    asked = DiscoveryController(
        state.directory(INSTANCE), spec, random.random, lambda _: pytest.fail("nothing is asked")
    )
    asked.record = Registered(said)  # type: ignore[assignment]
    monkeypatch.setattr(loop.Loop, "_discover", lambda self, _: setattr(self, "_discovery", asked))
    assert live(kernel) == 0
    assert (said, kernel.deleted) == (left, ["nvme0"])
