# SPDX-License-Identifier: Apache-2.0
"""A bus of its own with the API on it, a made-up systemd, and clients: real dbus-daemon, made-up host."""

import asyncio
import contextlib
import fnmatch
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from discoverd import exclusions, registry, state, store
from discoverd.api import action, actions, budget, main, wire
from discoverd.api import connection as connections
from discoverd.api.connection import BUS, BUS_PATH, Connection, RefusedError, connected
from discoverd.api.interfaces import NAME, OBJECT_MANAGER, PROPERTIES, ROOT, object_path
from discoverd.api.units import DAEMON, SYSTEMD, SYSTEMD_PATH
from discoverd.api.wire import Frame
from discoverd.config import identity
from discoverd.kernel import controllers, locks
from discoverd.tid import DISCOVERY_NQN, unit_name

from .fake_host import until

needs_bus = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="there is no dbus-daemon")

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="false"/><allow receive_sender="*"/><allow own="*"/>
<allow user="*"/></policy></busconfig>
"""
SECRET = "DHHC-1:00:c2VjcmV0IHRoYXQgbm9ib2R5IG1heSBzZWUhISE=:"
NQN = "nqn.2024-08.com.example:vol{}"
DC = f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}"
HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-555555555555"
LISTED = "a(ssssssouso)"


def instance(number: int) -> str:
    return f"tcp:192.0.2.{number % 200 + 1}:4420:{NQN.format(number)}"


def row(name: str, active: str) -> tuple[Any, ...]:
    path = object_path(SYSTEMD_PATH + "/unit", name)
    return (name, "", "loaded", active, "running" if active == "active" else "dead", "", path, 0, "", "/")


class Systemd:
    """The made-up service manager: ``active`` has its units."""

    def __init__(self) -> None:
        self.active: dict[str, str] = {DAEMON: "active"}
        self.calls: list[str] = []
        self.connection: Connection

    def hear(self, call: Frame) -> None:
        member = call.text(wire.MEMBER)
        self.calls.append(member)
        if member == "ListUnitsByPatterns":
            _, patterns = call.values("asas")
            rows = [
                row(name, active)
                for name, active in self.active.items()
                if any(fnmatch.fnmatchcase(name, one) for one in patterns)
            ]
            self.connection.answer(call, LISTED, wire.marshal(LISTED, rows))
        elif member == "Get":
            self.connection.answer(call, "v", wire.marshal("v", ("s", "all is well")))
        else:
            self.connection.answer(call)

    def change(self, name: str, active: str) -> None:
        """Have a unit be otherwise, and say so as systemd does."""
        self.active[name] = active
        body = wire.marshal("sa{sv}as", SYSTEMD + ".Unit", {"ActiveState": ("s", active)}, [])
        path = object_path(SYSTEMD_PATH + "/unit", name)
        self.connection.signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with connected(connections.SYSTEM_BUS, self.hear, nothing) as self.connection:
            await own(self.connection, SYSTEMD)
            yield


def nothing(_: Frame) -> None:
    """Take no notice."""


async def own(connection: Connection, name: str) -> None:
    assert await connection.call(BUS, BUS_PATH, BUS, "RequestName", "su", name, 4, answer="u") == (1,)


@dataclass
class Client:
    """One who calls the API, and hears its signals."""

    connection: Connection
    signals: list[Frame] = field(default_factory=list)

    async def call(
        self, path: str, interface: str, member: str, signature: str = "", *values: Any, answer: str = "", **more: Any
    ) -> Any:
        answered = await self.connection.call(NAME, path, interface, member, signature, *values, answer=answer, **more)
        return answered[0] if len(answered) == 1 else answered

    async def managed(self) -> dict[str, dict[str, dict[str, Any]]]:
        objects = await self.call(ROOT, OBJECT_MANAGER, "GetManagedObjects", answer="a{oa{sa{sv}}}", seconds=300)
        return {
            path: {one: {name: value[1] for name, value in found.items()} for one, found in interfaces.items()}
            for path, interfaces in objects.items()
        }

    async def all_bytes(self) -> bytes:
        """Return the answer to GetManagedObjects as it came: to understand it takes longer than to give it."""
        ask = (NAME, ROOT, OBJECT_MANAGER, "GetManagedObjects")
        return (await self.connection.ask(*ask, seconds=300)).body

    async def subscribe(self) -> None:
        rule = f"type='signal',sender='{NAME}'"
        await self.connection.call(BUS, BUS_PATH, BUS, "AddMatch", "s", rule)
        (owner,) = await self.connection.call(BUS, BUS_PATH, BUS, "GetNameOwner", "s", NAME, answer="s")
        self.connection.heard.add(owner.encode())

    def heard(self, member: str) -> list[Frame]:
        return [one for one in self.signals if one.text(wire.MEMBER) == member]


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[Client]:
    signals: list[Frame] = []
    async with connected(connections.SYSTEM_BUS, nothing, signals.append) as connection:
        yield Client(connection, signals)


async def refused(work: Any) -> str:
    """Return the name of the error that a call is answered with."""
    with pytest.raises(RefusedError) as caught:
        await work
    return caught.value.name


class Bus:
    """The dbus-daemon, and the paths of all that is made up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = str(folder / "bus")
        config = folder / "bus.conf"
        config.write_text(CONFIG.format(self.socket))
        self.process = subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"])
        while not self.is_there():
            assert self.process.poll() is None, "dbus-daemon has ended"
        self.systemd = Systemd()
        # What was asked of the processes that act, and what these answer.
        self.asked: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {"job": "/org/freedesktop/systemd1/job/7"}
        self.acting = asyncio.Event()

    def is_there(self) -> bool:
        with socket.socket(socket.AF_UNIX) as end:
            try:
                end.connect(self.socket)
            except OSError:
                return False
        return True

    def stop(self) -> None:
        """Have the bus stand still."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.go_on()
        self.process.terminate()
        self.process.wait()

    # The API -----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def api(self) -> AsyncIterator[None]:
        """The API in this loop."""
        async with self._around():
            running = asyncio.create_task(main.Api().run())
            try:
                await self._appears(running.done)
                yield
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def api_process(self) -> AsyncIterator["ApiProcess"]:
        """The API in a process of its own."""
        async with self._around():
            command = (sys.executable, "-m", "tests.unit.api_process", str(self.folder))
            process = await asyncio.create_subprocess_exec(*command)
            try:
                await self._appears(lambda: process.returncode is not None)
                yield ApiProcess(self.folder, process)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()

    async def _appears(self, has_ended: Callable[[], bool]) -> None:
        """Wait until the API has its name."""
        async with client() as one:
            while not (await one.connection.call(BUS, BUS_PATH, BUS, "NameHasOwner", "s", NAME, answer="b"))[0]:
                assert not has_ended(), "the API has ended"
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def _around(self) -> AsyncIterator[None]:
        """The made-up systemd, and something in place of the processes that act."""
        async with await asyncio.start_unix_server(self._act, actions.SOCKET), self.systemd.running():
            yield

    async def _act(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(json.loads(await reader.readline()))
        await self.acting.wait()
        writer.write(json.dumps(self.answers).encode() + b"\n")
        writer.close()


class ApiProcess:
    """The API's process, and what it says of itself (api_process.py)."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self._meter = folder / "meter"
        self._process = process

    async def ended(self) -> int:
        """Return the exit status, when it has one."""
        return await asyncio.wait_for(self._process.wait(), 300)

    def terminate(self) -> None:
        self._process.terminate()

    async def measured(self) -> dict[str, int]:
        """Return what was measured since the last call: the longest turn of the loop, how many there were, memory."""
        self._process.send_signal(signal.SIGUSR1)
        await until(self._meter.exists, patience=300)
        text = await asyncio.to_thread(self._meter.read_text)
        await asyncio.to_thread(self._meter.unlink)
        found: dict[str, int] = json.loads(text)
        return found


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    make(tmp_path)
    patch(tmp_path, monkeypatch)
    one = Bus(tmp_path)
    one.acting.set()
    yield one
    one.end()


def make(folder: Path) -> None:
    """Make a host in a directory."""
    for one in ("etc", "sys", "discoverd/controllers"):
        (folder / one).mkdir(parents=True)
    (folder / "etc/hostnqn").write_text(HOSTNQN + "\n")
    (folder / "etc/hostid").write_text("11111111-2222-4333-8444-555555555555\n")


def patch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that is outside be in that directory."""
    monkeypatch.setattr(connections, "SYSTEM_BUS", str(folder / "bus"))
    monkeypatch.setattr(state, "ROOT", str(folder / "discoverd"))
    monkeypatch.setattr(state, "CONTROLLERS", str(folder / "discoverd/controllers"))
    monkeypatch.setattr(locks, "DIRECTORY", str(folder / "discoverd/locks"))
    monkeypatch.setattr(actions, "SOCKET", str(folder / "action"))
    monkeypatch.setattr(action, "PRIVATE", str(folder / "systemd"))
    monkeypatch.setattr(controllers, "CLASS", str(folder / "sys"))
    monkeypatch.setattr(registry, "ROOT", str(folder / "registry"))
    monkeypatch.setattr(exclusions, "ROOT", str(folder / "etc"))
    monkeypatch.setattr(main, "listening_if_possible", quiet)
    # Whoever runs the tests, root or not, is all the clients.
    monkeypatch.setattr(budget, "BYTES_MAX", 1 << 40)
    # Nothing is missing here, but a busy machine takes its time.
    monkeypatch.setattr(main, "READY_TIMEOUT_SECONDS", 600)
    load = identity.load_host_identity
    monkeypatch.setattr("discoverd.api.facts.load_host_identity", lambda: load(folder / "etc"))


@contextlib.asynccontextmanager
async def quiet(*_: object) -> AsyncIterator[None]:
    """In place of udev."""
    yield


# What the supervisor and workers leave ---------------------------------------------------------------------


def plan(instances: Mapping[str, str], **more: Any) -> None:
    """Write the plan: what was decided about each instance."""
    rows = []
    for name, decision in instances.items():
        _, traddr, trsvcid, nqn = name.split(":", 3)
        rows.append(
            {
                "instance": name,
                "action": decision,
                "reason": "configured in nvme-fabrics.conf:3",
                "trust": "trusted",
                "transport": "tcp",
                "traddr": traddr,
                "trsvcid": trsvcid,
                "subsysnqn": nqn,
                "role": "discovery" if nqn == DISCOVERY_NQN else "io",
                "sources": "configured in nvme-fabrics.conf:3",
            }
        )
    whole = {"version": 1, "controllers": rows, "refusals": [], "complaints": [], "pending": [], **more}
    state.write(state.ROOT + "/plan", json.dumps(whole).encode())


def spec(name: str) -> None:
    """Write a specification, with secrets."""
    _, traddr, trsvcid, nqn = name.split(":", 3)
    options = [("transport", "tcp"), ("traddr", traddr), ("trsvcid", trsvcid), ("nqn", nqn), ("hostnqn", HOSTNQN)]
    options += [("keep_alive_tmo", "30"), ("hdr_digest", "")]
    options += [("dhchap_secret", SECRET), ("dhchap_ctrl_secret", SECRET)]
    one = state.Spec("discovery" if nqn == DISCOVERY_NQN else "io", options)
    one.source = "configured in nvme-fabrics.conf:3"
    store.write_spec(name, one)


def report(name: str, now: str = "waiting", **more: str) -> None:
    """Write a worker's report."""
    fields = {"state": now, "status": f"{now} 8 s: connection refused", "attempt": "2", "time": "100", **more}
    state.write(state.directory(name) + "/report", state.encode(state.REPORT, list(fields.items())))


def page(data: bytes) -> None:
    """Write the discovery controller's log page."""
    head = state.encode(state.LOG, [("milliseconds", "5000"), ("connection", "1"), ("asked", "all")])
    state.write(state.directory(DC) + "/log", head + data)


def kernel(device: str, name: str, kernel_state: str = "live") -> None:
    """Have a controller in the kernel."""
    folder = Path(controllers.CLASS) / device
    folder.mkdir(exist_ok=True)
    _, traddr, trsvcid, nqn = name.split(":", 3)
    shown = {"transport": "tcp", "subsysnqn": nqn, "state": kernel_state, "hostnqn": HOSTNQN, "cntrltype": "io"}
    shown |= {"model": "Example Array", "serial": "0123"}
    for attribute, value in {**shown, "address": f"traddr={traddr},trsvcid={trsvcid}"}.items():
        (folder / attribute).write_text(value + "\n")


def populate(bus: Bus, count: int) -> list[str]:
    """Have so many controllers, which wait, and a discovery controller."""
    names = [DC, *map(instance, range(count))]
    for name in names:
        spec(name)
        report(name)
        bus.systemd.active[unit_name(name)] = "active"
    plan(dict.fromkeys(names, "keep"))
    return names
