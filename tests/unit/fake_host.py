# SPDX-License-Identifier: Apache-2.0
"""A host to run the supervisor on: real files in a temporary directory, a made-up systemd and made-up workers."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from discoverd import boot_record, notify, registry, state, store
from discoverd.config import record
from discoverd.config.files import read_files
from discoverd.kernel import addresses, controllers, fabrics
from discoverd.kernel.addresses import HostAddresses
from discoverd.nvme_cli import unserved
from discoverd.plan.candidate import Candidate
from discoverd.plan.facts import Decision, UnitFact
from discoverd.sources import exclusion_files
from discoverd.sources.exclusion_files import ExclusionFiles
from discoverd.sources.fibre_channel import FibreChannel
from discoverd.sources.mdns import Mdns
from discoverd.sources.nbft import Nbft
from discoverd.supervisor import abilities, configuration, connection, daemon, inventory, reconciler, starter
from discoverd.supervisor.daemon import Supervisor
from discoverd.supervisor.observed import Observed
from discoverd.systemd import fragments, journal, unit_signals
from discoverd.systemd.references import References
from discoverd.systemd.unit_properties import Property
from discoverd.systemd.units import UnitError
from discoverd.tid import DISCOVERY_NQN

from . import virtual_time
from .log_pages import page

NQN = "nqn.2024-08.com.example:vol{}"
DC = f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}"
ONE = f"tcp:192.0.2.1:4420:{NQN.format(1)}"
TWO = f"tcp:192.0.2.1:4420:{NQN.format(2)}"
DISCOVERY = "[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.1\n"
SUBSYSTEM = "[Subsystem]\nnqn = {}\ncontroller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n"
FIRST = SUBSYSTEM.format(NQN.format(1))
SECOND = SUBSYSTEM.format(NQN.format(2))

PATIENCE = 5


class Systemd:
    """The made-up service manager, bus and unit agent. A started unit has a worker that is live at once."""

    def __init__(self) -> None:
        self.units: dict[str, UnitFact] = {}
        self.started: list[str] = []
        self.properties: dict[str, list[Property]] = {}
        self.hung_up: list[str] = []
        self.going_down: list[str] = []
        self.referenced: list[str] = []
        self.released: list[str] = []
        # What was asked for by name, and how often for everything.
        self.listed: list[set[str]] = []
        self.listed_all = 0
        # Units of other tools, and what was asked for of these.
        self.others: dict[str, UnitFact] = {}
        self.asked_for_others: list[tuple[list[str], list[str]]] = []
        self.soft_reboots = 0
        # What to do wrong: refuse to start or to list, leave first attempts without an end, refuse the bus.
        self.refuses = ""
        self.refuses_to_list = ""
        self.slow = False
        # Masked units that are not loaded, so that only a start tells.
        self.masked: set[str] = set()
        self.bus_refuses = False
        self.worker_state = "live"
        self.agents: list[Agent] = []
        self.watches = 0
        self.most_at_once = 0
        self._at_work: set[str] = set()
        self._handler: Callable[[unit_signals.Signal], None] | None = None
        self._bus_lost: asyncio.Event | None = None

    async def watch(
        self, handler: Callable[[unit_signals.Signal], None], subscribed: Callable[[References | None], None]
    ) -> None:
        self.watches += 1
        if self.bus_refuses:
            raise ConnectionRefusedError("the bus is not there")
        self._handler = handler
        self._bus_lost = asyncio.Event()
        subscribed(None)
        await self._bus_lost.wait()
        self._handler = None

    def lose_bus(self) -> None:
        assert self._bus_lost
        self._bus_lost.set()

    def signal(self, news: unit_signals.Signal) -> None:
        if self._handler:
            self._handler(news)

    async def connect(self, launcher: str, _: References | None, process: None) -> "Agent":
        assert (launcher, process) == ("/libexec/unit-agent", None)
        agent = Agent(self)
        self.agents.append(agent)
        return agent

    def attempt_ends(self, instance: str) -> None:
        """The unit's first attempt has ended."""
        self._at_work.discard(instance)
        self.units[instance] = UnitFact("loaded", "active")
        self.signal(unit_signals.JobRemoved(instance, "done"))

    async def start(self, instance: str, properties: list[Property]) -> str:
        if self.refuses:
            raise UnitError(self.refuses)
        unit = self.units.get(instance)
        if instance in self.masked or (unit and unit.load == "masked"):
            return "masked"
        if unit and unit.running:
            return "running"
        self.started.append(instance)
        self.properties[instance] = properties
        # A worker reads its files in a process of its own.
        spec = await asyncio.to_thread(store.read_spec, instance)
        assert spec, "a unit was started before it had its specification"
        conditions: Any = {name: value for name, _, value in properties}.get("Conditions", [])
        existing = [await asyncio.to_thread(os.path.exists, path) for _, _, _, path in conditions]
        if any(existing):
            self.units[instance] = UnitFact("loaded", "inactive")
            self.signal(unit_signals.JobRemoved(instance, "done"))
            return "started"
        self.units[instance] = UnitFact("loaded", "activating", job=True)
        self._at_work.add(instance)
        self.most_at_once = max(self.most_at_once, len(self._at_work))
        if not self.slow:
            await asyncio.to_thread(report, instance, self.worker_state)
            asyncio.get_running_loop().call_later(0.001, self.attempt_ends, instance)
        return "started"

    def stop(self, instance: str) -> None:
        """An administrator's ``systemctl stop``; its worker reports it."""
        report(instance, "stopped")
        self.units[instance] = UnitFact("loaded", "inactive")
        self.signal(unit_signals.JobRemoved(instance, "done"))


class Agent:
    """What the supervisor takes for its connection to systemd."""

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self.ended = asyncio.Event()
        self.closed = False
        self.start = self.make_stopped = systemd.start

    async def wait_lost(self) -> None:
        await self.ended.wait()

    async def close(self) -> None:
        self.closed = True
        self.ended.set()

    async def list(self, instances: Iterable[str] = ()) -> dict[str, UnitFact]:
        if self._systemd.refuses_to_list:
            raise UnitError(self._systemd.refuses_to_list)
        units = self._systemd.units
        if asked := set(instances):
            self._systemd.listed.append(asked)
            return {instance: units[instance] for instance in asked if instance in units}
        self._systemd.listed_all += 1
        return dict(units)

    async def others(self, units: Iterable[str], patterns: Iterable[str]) -> dict[str, UnitFact]:
        if self._systemd.refuses_to_list:
            raise UnitError(self._systemd.refuses_to_list)
        self._systemd.asked_for_others.append(([*units], [*patterns]))
        return dict(self._systemd.others)

    def keep_loaded(self, instances: Iterable[str]) -> None:
        self._systemd.referenced += instances

    def release(self, instance: str) -> None:
        """Nothing keeps it loaded: systemd unloads it if it does not run."""
        self._systemd.released.append(instance)
        unit = self._systemd.units.get(instance)
        if unit and unit.active == "inactive":
            del self._systemd.units[instance]
        self._systemd.signal(unit_signals.Released(instance))

    async def hang_up(self, instance: str) -> None:
        self._systemd.hung_up.append(instance)

    async def going_down(self, instance: str) -> None:
        self._systemd.going_down.append(instance)

    async def soft_reboots(self) -> int:
        return self._systemd.soft_reboots


class Host:
    """The host: ``/etc/nvme``, ``/run`` and ``/sys/class/nvme`` in ``root``, and what the supervisor has told its
    service manager.

    mDNS, firmware and Fibre Channel are silent. What a test does about them, it does to ``daemon``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc = root / "etc"
        self.sysfs = root / "sys/class/nvme"
        self.registry = root / "registry"
        self.systemd = Systemd()
        self.daemon: Supervisor | None = None
        # The options of connects that the kernel knows; None where it does not tell.
        self.abilities: set[str] | None = None
        # Another number is another loading of the module. Cleared: the kernel is busy, and does not answer.
        self.module = 4711
        self.idle = threading.Event()
        self.idle.set()
        self.asked = 0
        self.messages: list[str] = []
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.notify.bind(str(root / "notify"))
        (root / "nvme-fabrics").touch()
        (self.etc / "nvme-fabrics.conf.d").mkdir(parents=True)
        (self.etc / "hostnqn").write_text("nqn.2024-08.com.example:host\n")
        (self.etc / "hostid").write_text("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n")

    def supported(self) -> set[str] | None:
        """What the kernel says, as soon as it is not busy."""
        self.asked += 1
        self.idle.wait(PATIENCE)
        return self.abilities

    def configure(self, text: str) -> None:
        path = self.etc / "nvme-fabrics.conf"
        path.write_text(text)
        path.chmod(0o600)

    def exclude(self, *entries: str) -> None:
        """Replace the exclusion list."""
        text = "[exclusions]\n" + "".join(f"exclusion = {entry}\n" for entry in entries)
        (self.etc / "exclusions.new").write_text(text)
        (self.etc / "exclusions.new").rename(self.etc / "exclusions.conf")

    @property
    def inventory(self) -> inventory.Inventory:
        """What the supervisor that runs knows of its sources."""
        assert self.daemon
        return self.daemon._inventory

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """What the supervisor that runs has decided last; nothing before it has begun."""
        reconciler = getattr(self.daemon, "_reconciler", None)
        return reconciler.decisions if reconciler else {}

    @property
    def seen(self) -> Observed:
        """What the supervisor that runs has seen of its controllers."""
        assert self.daemon
        return self.daemon._observed

    def set(self, text: str) -> None:
        (self.etc / "discoverd.conf").write_text(text)

    @property
    def status(self) -> str:
        """The status line that the supervisor showed last."""
        self.hear()
        return next((text[7:] for text in reversed(self.messages) if text.startswith("STATUS=")), "")

    def hear(self) -> None:
        while True:
            try:
                self.messages.append(self.notify.recv(8192).decode())
            except BlockingIOError:
                return

    def told(self, text: str) -> int:
        """Return how often the supervisor has said exactly this."""
        self.hear()
        return self.messages.count(text)

    def leave_stopped(self) -> None:
        """A supervisor's life in which an administrator stops the first controller; then it ends."""
        self.configure(FIRST)

        async def scenario() -> None:
            await until(lambda: "1 live" in self.status)
            self.systemd.stop(ONE)
            await until(lambda: "1 stopped" in self.status)

        assert self.play(scenario) == 0
        # With the supervisor's references, the unit goes.
        self.systemd.units.clear()
        self.messages.clear()

    def play(self, scenario: Callable[[], Awaitable[None]], run: Callable[..., int] = virtual_time.run) -> int:
        """Run the supervisor for as long as the scenario lasts; returns its exit status.

        With asyncio.run for what waits for a thread that the loop does not know of.
        """

        async def main() -> int:
            daemon = self.daemon = Supervisor("/libexec")
            running = asyncio.create_task(daemon.run())
            acting = asyncio.ensure_future(scenario())
            await asyncio.wait([running, acting], return_when=asyncio.FIRST_COMPLETED)
            if not acting.done():
                acting.cancel()
                await asyncio.wait([acting])
            elif not running.done():
                daemon._stop.set()
            status = await asyncio.wait_for(running, PATIENCE)
            # It lives as long as the daemon's process, which this one is not.
            if notifier := daemon._notifier._notifier:
                notifier.socket.close()
            if not acting.cancelled():
                await acting
            return status

        return run(main())


async def until(condition: Callable[[], object], what: str = "", patience: float = PATIENCE) -> None:
    """Wait for a condition; fail when it does not come true."""
    # By the loop's clock: one that jumps must not bring what only a time-out of the supervisor's brings.
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not condition():
        if loop.time() > end:
            pytest.fail(f"it never came true: {what or condition}")
        await asyncio.sleep(0.002)


async def quiet() -> None:
    """Give the supervisor time for several rounds, for what must not happen in them."""
    await asyncio.sleep(1)


def spec_of(instance: str) -> state.Spec:
    """Read a specification as its worker would."""
    return state.Spec.decode((Path(state.directory(instance)) / "spec").read_bytes())


def report(instance: str, worker_state: str, **fields: str) -> None:
    """Report as a worker does."""
    given = {
        "state": worker_state,
        "status": worker_state,
        **{key.replace("_", "-"): value for key, value in fields.items()},
    }
    (Path(state.directory(instance)) / "report").write_bytes(state.encode(state.REPORT, list(given.items())))
    # As a worker does, sooner or later.
    while not notify.wake(state.WAKE_SOCKET, instance):
        time.sleep(0.001)


def leave_spec(candidate: Candidate) -> None:
    """Leave the specification that an earlier supervisor wrote."""
    spec = state.Spec(candidate.role, list(candidate.options))
    spec.source, spec.origin = candidate.source, candidate.origin
    os.makedirs(state.directory(candidate.tid.instance), exist_ok=True)
    (Path(state.directory(candidate.tid.instance)) / "spec").write_bytes(spec.encode())


class _Asking:
    """The thread that asks the kernel: one of the loop's, so that its clock does not jump meanwhile, unless the kernel
    is busy."""

    idle: threading.Event

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], **_: object) -> None:
        self._target, self._args = target, args

    def start(self) -> None:
        if self.idle.is_set():
            asyncio.get_running_loop().run_in_executor(None, self._target, *self._args)
        else:
            threading.Thread(target=self._target, args=self._args, daemon=True).start()


async def _silent(_: object) -> None:
    """What a source does of which nothing is heard."""
    await asyncio.Event().wait()


def install(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the supervisor on the made-up host, and in a hurry."""
    run = host.root / "run"
    monkeypatch.setattr(state, "ROOT", str(run))
    monkeypatch.setattr(state, "CONTROLLERS", str(run / "controllers"))
    monkeypatch.setattr(state, "WAKE_SOCKET", str(run / "wake"))
    monkeypatch.setattr(configuration, "read_files", partial(read_files, host.etc, run / "nvme-fabrics.conf.d"))
    monkeypatch.setattr(record, "PATH", str(host.root / "lib/last-good"))
    monkeypatch.setattr(record, "MACHINE", host.root / "machine-id")
    monkeypatch.setattr(unserved, "look", partial(unserved.look, directory=host.etc))
    monkeypatch.setattr(connection, "Units", host.systemd)
    monkeypatch.setattr(unit_signals, "watch", host.systemd.watch)
    monkeypatch.setattr(fragments, "DIRECTORIES", (str(host.root / "units"),))
    monkeypatch.setattr(fragments, "TRANSIENT", str(host.root / "transient"))
    # The log goes where pytest looks for it.
    monkeypatch.setattr(journal, "set_up", lambda _: None)
    monkeypatch.setattr(daemon, "DEBOUNCE_SECONDS", 0.005)
    # No test is to pass because the supervisor waits for nothing any longer.
    monkeypatch.setattr(daemon, "READY_TIMEOUT_SECONDS", 1e9)
    monkeypatch.setattr(connection, "RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr(reconciler, "LAST_REPORT_DELAY_SECONDS", 0.02)
    monkeypatch.setattr(starter, "START_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(starter, "FIRST_ATTEMPT_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(addresses, "read", HostAddresses)
    monkeypatch.setattr(addresses, "follow", _silent)
    for source in (Mdns, Nbft, FibreChannel):
        monkeypatch.setattr(source, "run", _silent)
    monkeypatch.setattr(inventory, "ExclusionFiles", partial(ExclusionFiles, root=str(host.etc)))
    monkeypatch.setattr(exclusion_files, "DEBOUNCE_SECONDS", 0.01)
    monkeypatch.setattr(boot_record, "PATH", str(run / "boot-controllers"))
    monkeypatch.setattr(registry, "ROOT", str(host.registry))
    monkeypatch.setattr(controllers, "CLASS", str(host.sysfs))
    monkeypatch.setattr(fabrics, "DEVICE", str(host.root / "nvme-fabrics"))
    monkeypatch.setattr(fabrics, "ABILITIES", str(run / "abilities"))
    monkeypatch.setattr(fabrics, "module", lambda: host.module)
    monkeypatch.setattr(_Asking, "idle", host.idle, raising=False)
    monkeypatch.setattr(abilities, "Thread", _Asking)
    monkeypatch.setattr(fabrics, "supported", host.supported)
    monkeypatch.setenv("NOTIFY_SOCKET", str(host.root / "notify"))
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)


def leave_log(
    *entries: bytes, generation: int = 1, instance: str = DC, connection: str = "1", asked: str = "all-ports"
) -> None:
    """Leave a log page as a discovery controller's worker does, and report it."""
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)
    head = [("milliseconds", str(now)), ("connection", connection), ("asked", asked)]
    data = state.encode(state.LOG, head) + page(*entries, generation=generation)
    (Path(state.directory(instance)) / "log").write_bytes(data)
    report(instance, "live", log_read=str(generation))
