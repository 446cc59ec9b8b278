# SPDX-License-Identifier: Apache-2.0
"""A kernel for the worker: a sysfs in a temporary directory, and connects that end as the test says."""

import _thread
import contextlib
import errno
import os
import posix
import select
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from discoverd import exclusions, notify, registry, state
from discoverd.kernel import admin, block, controllers, dim, fabrics, locks, spawn
from discoverd.worker import discovery, links, loop, machine

from .log_pages import page

PATIENCE = 5
# A loop that goes round more often is a busy one, of which a second has tens of thousands. This is five times as often
# as any test needs.
ROUNDS, ROUNDS_A_SECOND = 200, 500


class Uevents:
    """Stands for the netlink socket: the test says which events arrive."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.following: list[str] = []
        self._events: list[dict[str, str]] = []

    def fileno(self) -> int:
        return self._read

    def follow(self, device: str) -> None:
        self.following.append(device)

    def send(self, **event: str) -> None:
        self._events.append(event)
        os.write(self._write, b"\0")

    @property
    def heard(self) -> bool:
        """Whether nothing is left that was sent."""
        return not self._events

    def drain(self) -> list[dict[str, str]]:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Links:
    """Stands for the rtnetlink socket of a waiting worker."""

    opened: list["Links"]

    def __init__(self, options: dict[str, str]) -> None:
        self.options = options
        self._read, self._write = os.pipe()
        self.closed = False
        Links.opened.append(self)

    def fileno(self) -> int:
        return self._read

    def news(self) -> None:
        os.write(self._write, b"\0")

    def came_up(self) -> bool:
        return bool(os.read(self._read, 4096))

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._read)
            os.close(self._write)


class Session:
    """Stands for an open controller."""

    def __init__(self, device: str, seconds: float) -> None:
        assert device
        assert seconds > 0

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def identity(dctype: int = 0, kas: int = 10, oaes: int = 1 << 31) -> admin.Identity:
    """Return what a discovery controller says about itself; by default, that it can be held."""
    data = bytearray(4096)
    data[92:96] = oaes.to_bytes(4, "little")
    data[320:322] = kas.to_bytes(2, "little")
    data[1806] = dctype
    return admin.Identity(data)


class Kernel:
    """What the worker takes for the kernel, and what the worker has told about itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sysfs = root / "sys" / "class" / "nvme"
        self.sysfs.mkdir(parents=True)
        self.etc = root / "etc"
        self.written: list[str] = []
        self.deleted: list[str] = []
        # An errno for each connect that is to fail; what follows succeeds. Cleared gate: a connect blocks.
        self.failures: list[int] = []
        self.fails_always = 0
        self.gate = threading.Event()
        self.gate.set()
        # What the probe before a connect fails with, likewise.
        self.probed: list[dict[str, str]] = []
        self.probe_failures: list[OSError] = []
        self.probe_gate = threading.Event()
        self.probe_gate.set()
        self.missing = False
        # The addresses this host has, None for any.
        self.addresses: set[str] | None = None
        self.known: set[str] | None = None
        self.unknown = False
        self.delete_fails = 0
        self.log_pages: list[bytes | Exception] = []
        self.log_reads = 0
        self.log_gate = threading.Event()
        self.log_gate.set()
        # What Identify Controller says, and what each DIM command had: the task and the host.
        self.identity = identity()
        self.registrations: list[tuple[int, dim.Host]] = []
        self.dim_answers: list[Exception] = []
        self.dim_gate = threading.Event()
        self.dim_gate.set()
        self.uevents = Uevents()
        self.told: list[str] = []
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.notify.bind(str(root / "notify"))
        # The one that plays, or has played last.
        self.worker: Worker
        self._removed = 0

    def add(self, device: str = "nvme0", **attributes: str) -> None:
        """Put a controller into sysfs."""
        given = {
            "transport": "tcp",
            "address": "traddr=192.0.2.1,trsvcid=4420",
            "subsysnqn": "nqn.2024-08.com.example:vol1",
            "state": "live",
            **attributes,
        }
        making = self.root / "making"
        making.mkdir()
        for name, value in given.items():
            (making / name).write_text(value + "\n")
        making.rename(self.sysfs / device)

    def exclude(self, *entries: str) -> None:
        """Replace the exclusion list."""
        self.etc.mkdir(exist_ok=True)
        text = "[exclusions]\n" + "".join(f"exclusion = {entry}\n" for entry in entries)
        (self.etc / "exclusions.new").write_text(text)
        (self.etc / "exclusions.new").rename(self.etc / "exclusions.conf")

    def set_state(self, device: str, text: str) -> None:
        """Let the controller be in another state."""
        making = self.root / "state"
        making.write_text(text + "\n")
        making.rename(self.sysfs / device / "state")

    def remove(self, device: str = "nvme0", event: bool = True) -> None:
        """Give the controller up. Its directory is kept elsewhere, so that no other gets its inode number."""
        self._removed += 1
        (self.sysfs / device).rename(self.root / f"removed{self._removed}")
        if event:
            self.uevents.send(ACTION="remove")

    # What the worker calls.

    def abilities(self) -> set[str] | None:
        if self.missing:
            raise FileNotFoundError(2, "No such file or directory", fabrics.DEVICE)
        if self.unknown:
            raise fabrics.UnknownAbilitiesError(0, "the kernel is busy")
        return self.known

    def reach(self, options: dict[str, str]) -> None:
        self.probed.append(options)
        self.probe_gate.wait(PATIENCE)
        if self.probe_failures:
            raise self.probe_failures.pop(0)

    def connect(self, options: list[tuple[str, str]], known: set[str] | None) -> str:
        text = fabrics.connect_string(options, known)
        self.written.append(text)
        self.gate.wait(PATIENCE)
        number = self.failures.pop(0) if self.failures else self.fails_always
        if number:
            raise OSError(number, os.strerror(number))
        given = dict(options)
        if self.addresses is not None and given.get("host_traddr", "") not in {"", *self.addresses}:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        names = {path.name for path in self.sysfs.iterdir()}
        device = next(f"nvme{number}" for number in range(99) if f"nvme{number}" not in names)
        address = f"traddr={given['traddr']},trsvcid={given['trsvcid']}"
        if "host_traddr" in given:
            address += f",host_traddr={given['host_traddr']}"
        self.add(device, subsysnqn=given["nqn"], address=address)
        return device

    def delete(self, device: str, kernel_instance: int) -> None:
        if controllers.sysfs_inode(device) != kernel_instance:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.deleted.append(device)
        if self.delete_fails:
            raise OSError(self.delete_fails, os.strerror(self.delete_fails))
        self.remove(device, event=False)

    def read_discovery_log(self, *_: object) -> admin.Log:
        self.log_reads += 1
        self.log_gate.wait(PATIENCE)
        result = self.log_pages.pop(0) if len(self.log_pages) > 1 else self.log_pages[0]
        if isinstance(result, Exception):
            raise result
        return admin.Log(int.from_bytes(result[:8], "little"), int.from_bytes(result[8:16], "little"), result)

    def dim(self, _: object, task: int, host: dim.Host, *__: object) -> None:
        self.dim_gate.wait(PATIENCE)
        if self.dim_answers:
            raise self.dim_answers.pop(0)
        self.registrations.append((task, host))

    # What the worker has told.

    def hear(self) -> list[str]:
        while True:
            try:
                self.told.append(self.notify.recv(8192).decode())
            except BlockingIOError:
                return self.told

    @property
    def status(self) -> str:
        return next((text[7:] for text in reversed(self.hear()) if text.startswith("STATUS=")), "")

    @property
    def ready(self) -> bool:
        return "READY=1" in self.hear()


class Worker(loop.Loop):
    """A worker that counts its rounds, and to which signals can be sent so that it hears them at once."""

    def __init__(self, instance: str, spec: state.Spec) -> None:
        super().__init__(instance, spec)
        self.rounds = 0
        self._hearing = False

    def signal(self, *numbers: int) -> None:
        """Let it find these signals in one look, and wait until it has done what comes of them."""
        os.write(self._wake_write, bytes(numbers))
        # In this order: what is no longer in the pipe is heard, or being heard.
        until(lambda: not select.select([self._wake_read], [], [], 0)[0] and not self._hearing)

    def _woken(self) -> None:
        self._hearing = True
        super()._woken()
        self._hearing = False

    def _tick(self) -> None:
        self.rounds += 1
        super()._tick()


class Scenario(threading.Thread):
    """Acts beside the worker, which needs the main thread for its signals, and tells it to stop in the end."""

    def __init__(self, act: Callable[[], None], kernel: Kernel) -> None:
        super().__init__()
        self._act = act
        self._kernel = kernel
        self.error: BaseException | None = None
        self.over = False

    def run(self) -> None:
        try:
            self._act()
        except BaseException as error:
            self.error = error
        self._kernel.gate.set()
        self._kernel.probe_gate.set()
        self._kernel.log_gate.set()
        self._kernel.dim_gate.set()
        if not self.over:
            os.kill(os.getpid(), signal.SIGTERM)


def leave_spec(instance: str, nqn: str, **changes: object) -> state.Spec:
    """Write a specification as the supervisor does; ``changes`` are to its fields."""
    port = instance.split(":")[2]
    spec = state.Spec("io", [("nqn", nqn), ("transport", "tcp"), ("traddr", "192.0.2.1"), ("trsvcid", port)])
    for name, value in changes.items():
        setattr(spec, name, value)
    os.makedirs(state.directory(instance), exist_ok=True)
    state.write(state.directory(instance) + "/spec", spec.encode())
    return spec


def play(instance: str, kernel: Kernel, act: Callable[[], None], spec: state.Spec) -> int:
    """Run a worker until the scenario is over and SIGTERM has done its work; returns the exit status.

    Fails a worker that does not wait for anything.
    """
    threads = _thread._count()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    worker = kernel.worker = Worker(instance, spec)
    began = time.monotonic()
    # Until the worker takes them, they must not end the tests.
    for number in handlers:
        signal.signal(number, lambda *_: None)
    scenario = Scenario(act, kernel)
    scenario.start()
    try:
        status = worker.run()
        scenario.over = True
    finally:
        scenario.join()
        # A call that the worker has given up still writes to its pipe.
        until(lambda: _thread._count() <= threads)
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        worker.close()
    if scenario.error is not None:
        raise scenario.error
    most = ROUNDS + ROUNDS_A_SECOND * (time.monotonic() - began)
    assert worker.rounds <= most, f"a busy loop: {worker.rounds} rounds"
    return status


def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for a condition; fail when it does not come true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"it never came true: {what or condition}")
        time.sleep(0.002)


def install(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the worker on the made-up kernel, and in a hurry."""
    run = kernel.root / "run"
    (run / "registry").mkdir(parents=True)
    (run / "controllers").mkdir()
    (kernel.root / "uevent_seqnum").write_text("4711\n")
    for module, name, value in (
        # What `systemctl is-system-running` says.
        (spawn, "run", lambda *_: (0, "running")),
        (state, "CONTROLLERS", str(run / "controllers")),
        (state, "WAKE_SOCKET", str(run / "wake")),
        (state, "FORK_SERVER", str(run / "fork-server")),
        (locks, "DIRECTORY", str(run / "locks")),
        (registry, "ROOT", str(run / "registry")),
        (registry, "_SEQNUM", str(kernel.root / "uevent_seqnum")),
        (controllers, "CLASS", str(kernel.sysfs)),
        (block, "SYS", str(kernel.root / "sys")),
        (fabrics, "abilities", kernel.abilities),
        (fabrics, "reach", kernel.reach),
        (fabrics, "connect", kernel.connect),
        (fabrics, "delete", kernel.delete),
        (admin, "Session", Session),
        (admin, "read_discovery_log", kernel.read_discovery_log),
        (admin, "identify", lambda _: kernel.identity),
        (admin, "discovery_options", lambda _: 0),
        (admin, "takes_keep_alive", lambda _: False),
        (dim, "send", kernel.dim),
        (loop, "Uevents", lambda: kernel.uevents),
        (links, "Links", Links),
        (machine, "LONGEST_WAIT", 0.02),
        (machine, "LINK_PAUSE", 0.01),
        (notify, "WAKE_AGAIN", 0.01),
        (loop, "LIVE_CHECK", 0.05),
        (discovery, "EVENT_INTERVAL_SECONDS", 0.1),
        (loop, "RECONNECT_CHECK", 0.02),
        (notify, "_last", ""),
        (exclusions, "load", partial(exclusions.load, str(kernel.etc))),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setitem(posix.environ, b"NOTIFY_SOCKET", str(kernel.root / "notify").encode())
    Links.opened = []
    kernel.log_pages = [page()]


def remove_tree(path: Path) -> None:
    """Take a directory away, as the supervisor does for a withdrawn controller."""
    shutil.rmtree(path)
