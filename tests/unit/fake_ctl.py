# SPDX-License-Identifier: Apache-2.0
"""A host for discoverctl: files in a temporary directory, a made-up systemd behind pystemd's connection."""

import fnmatch
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pystemd.dbusexc import DBusBaseError

from discoverd import exclusions, registry, state
from discoverd.cli import holdings, jobs, kernel_log, namespaces, plan_file, systemd
from discoverd.cli.holdings import Namespace
from discoverd.cli.main import main
from discoverd.cli.namespaces import Namespace as Volume
from discoverd.kernel import block, controllers, fabrics, locks, paths, usage
from discoverd.kernel.usage import User
from discoverd.systemd import fragments
from discoverd.tid import unit_name

NQN = "nqn.2024-08.com.example:vol{}"
_SYSTEMD = b"org.freedesktop.systemd1."


def instance(volume: int, address: str = "192.0.2.1") -> str:
    return f"tcp:{address}:4420:{NQN.format(volume)}"


@dataclass
class Unit:
    """A unit as the made-up systemd has it."""

    active: str = "active"
    status: str = ""
    load: str = "loaded"
    sub: str = "running"
    lists: dict[str, list[str]] = field(default_factory=dict)
    file_state: str = ""
    pid: int = 0


@dataclass
class Answer:
    body: Any


class Bus:
    """pystemd's connection. ``on_stop`` and ``on_start`` say what a job does to a unit; ``slow`` jobs never end."""

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {"discoverd.service": Unit(status="1 controller: 1 live")}
        self.called: list[tuple[str, ...]] = []
        self.on_start: Callable[[str], None] = lambda _: None
        self.on_reload: Callable[[str], None] = lambda _: None
        self.on_stop: Callable[[str], None] = lambda _: None
        self.slow = False
        self.refuses: dict[str, DBusBaseError] = {}
        self._jobs = 0

    def open(self) -> None:
        if error := self.refuses.get("open"):
            raise error

    def call_method(self, _name: bytes, _path: bytes, _interface: bytes, method: bytes, packed: list[Any]) -> Answer:
        words = [value.decode() for kind, value in packed if kind == 115]
        called = method.decode()
        if called not in ("ListJobs", "ListUnitsByPatterns", "ListUnitsByNames", "GetUnitFileState"):
            self.called.append((called, *words))
        if error := self.refuses.get(called):
            raise error
        answer: Any = getattr(self, "_" + called)(*words)
        return Answer(answer)

    def get_property(self, _name: bytes, path: bytes, _interface: bytes, wanted: bytes, _signature: bytes) -> Any:
        unit = self.units.get(path.decode().removeprefix("/unit/"))
        if unit is None:
            raise DBusBaseError(-2, b"org.freedesktop.DBus.Error.UnknownObject", b"No such object")
        if wanted == b"StatusText":
            return unit.status.encode()
        if wanted == b"MainPID":
            return unit.pid
        return [one.encode() for one in unit.lists.get(wanted.decode(), [])]

    def _row(self, name: str) -> tuple[Any, ...]:
        unit = self.units.get(name, Unit("inactive", load="not-found", sub="dead"))
        texts = (name, "text", unit.load, unit.active, unit.sub, "", f"/unit/{name}")
        return (*(text.encode() for text in texts), 0, b"", b"/")

    def _ListUnitsByPatterns(self, pattern: str) -> list[Any]:  # noqa: N802
        return [self._row(name) for name in self.units if fnmatch.fnmatchcase(name, pattern)]

    def _ListUnitsByNames(self, *names: str) -> list[Any]:  # noqa: N802
        return [self._row(name) for name in names]

    def _GetUnitFileState(self, name: str) -> bytes:  # noqa: N802
        if name not in self.units:
            raise DBusBaseError(-2, b"org.freedesktop.DBus.Error.FileNotFound", b"No such file or directory")
        return self.units[name].file_state.encode()

    def _ListJobs(self) -> list[Any]:  # noqa: N802
        return [(self._jobs, b"unit", b"stop", b"running", b"/", b"/")] if self.slow else []

    def _job(self, name: str, act: Callable[[str], None]) -> bytes:
        unit = self.units.get(name)
        if unit is None or unit.load == "not-found":
            raise DBusBaseError(-2, _SYSTEMD + b"NoSuchUnit", b"Unit not loaded.")
        if unit.load == "masked":
            raise DBusBaseError(-132, _SYSTEMD + b"UnitMasked", b"Unit is masked.")
        self._jobs += 1
        act(name)
        return f"/org/freedesktop/systemd1/job/{self._jobs}".encode()

    def _StartUnit(self, name: str, mode: str) -> bytes:  # noqa: N802
        assert mode == "replace"
        return self._job(name, self.on_start)

    def _StopUnit(self, name: str, mode: str) -> bytes:  # noqa: N802
        assert mode == "replace"
        return self._job(name, self.on_stop)

    def _RestartUnit(self, name: str, mode: str) -> bytes:  # noqa: N802
        assert mode == "replace"
        return self._job(name, self.on_start)

    def _ReloadUnit(self, name: str, mode: str) -> bytes:  # noqa: N802
        assert mode == "replace"
        return self._job(name, self.on_reload)

    def _ResetFailedUnit(self, name: str) -> None:  # noqa: N802
        self.units[name].active = "inactive"


class Desk:
    """The host, and an administrator who runs commands on it."""

    def __init__(self, root: Path, output: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.bus = Bus()
        self.deleted: list[str] = []
        self.plan: dict[str, Any] = {"version": 1, "controllers": [], "refusals": [], "complaints": []}
        self.namespaces: dict[str, list[Namespace]] = {}
        # The same as `list` looks at them.
        self.volumes: dict[str, tuple[Volume, ...]] = {}
        # Who uses the one namespace of each controller, its other paths, and those of them that do not answer.
        self.users: dict[str, list[User]] = {}
        self.paths: dict[str, list[str]] = {}
        self.silent: set[str] = set()
        self._output = output
        self._devices = 0
        for folder in ("run/controllers", "registry", "sys"):
            (root / folder).mkdir(parents=True)

    def controller(
        self,
        volume: int = 1,
        device: str = "nvme0",
        *,
        address: str = "192.0.2.1",
        action: str = "keep",
        reason: str = "configured at /etc/nvme/nvme-fabrics.conf:3",
        report: str = "live",
        status: str | None = None,
        unit: Unit | None = None,
        owner: str = "nvme-ctrl",
        **fields: str,
    ) -> str:
        """Make a controller with everything that belongs to it, and return its instance. Device '': not connected.

        With ``detail``, and other ``fields``, the report is one of today's worker, else of an earlier one.
        """
        name = instance(volume, address)
        status = status if status is not None else f"live {device}"
        self.bus.units[unit_name(name)] = unit or Unit(status=status)
        self.planned(name, action, reason, volume)
        spec = state.Spec("io", [("nqn", NQN.format(volume)), ("transport", "tcp"), ("traddr", address)])
        spec.options.append(("trsvcid", "4420"))
        spec.options.append(("dhchap_secret", "DHHC-1:00:secret:"))
        spec.source, spec.origin = reason, "configuration"
        folder = Path(state.directory(name))
        folder.mkdir()
        (folder / "spec").write_bytes(spec.encode())
        self.report(name, report, status, device, **fields)
        if device:
            self.kernel(volume, device, address=address, owner=owner, unit=unit_name(name))
        return name

    def planned(self, name: str, action: str, reason: str, volume: int = 1, note: str = "") -> None:
        entry = {"instance": name, "action": action, "reason": reason, "note": note, "sources": reason}
        self.plan["controllers"].append({**entry, "subsysnqn": NQN.format(volume), "transport": "tcp"})

    def report(self, name: str, word: str, status: str, device: str = "", **fields: str) -> None:
        now = str(int(time.clock_gettime(time.CLOCK_BOOTTIME)))
        given = {"state": word, "status": status, "device": device, **fields}
        if "detail" in fields:
            given = {"since": now, "time": now, **given}
        (Path(state.directory(name)) / "report").write_bytes(state.encode(state.REPORT, list(given.items())))

    def refuse(self, nqn: str, traddr: str, reason: str, source: str = "a.conf:3") -> None:
        """Have a source ask for something that cannot be connected."""
        refusal = {"what": f"tcp {traddr}", "source": source, "reason": reason, "expected": ""}
        where = {"transport": "tcp", "traddr": traddr, "trsvcid": "4420", "subsysnqn": nqn}
        self.plan["refusals"].append({**refusal, **where})

    def kmsg(self, *texts: str) -> None:
        """Write the kernel's log, all of it in this moment."""
        now = int(time.monotonic() * 1_000_000)
        records = [f"4,{number},{now},-;{text}\n SUBSYSTEM=nvme\n" for number, text in enumerate(texts)]
        (self.root / "kmsg").write_text("".join(records))

    def kernel(self, volume: int, device: str, *, address: str = "192.0.2.1", owner: str = "", unit: str = "") -> None:
        """Put a controller into sysfs, and into the registry."""
        folder = self.root / "sys" / device
        folder.mkdir()
        given = {
            "transport": "tcp",
            "address": f"traddr={address},trsvcid=4420",
            "subsysnqn": NQN.format(volume),
            "state": "live",
        }
        for name, value in given.items():
            (folder / name).write_text(value + "\n")
        entry = {"owner": owner, "unit": unit if owner == "nvme-ctrl" else "", "seqnum": "47"}
        if owner:
            (self.root / "registry" / device).mkdir()
            for name, value in entry.items():
                if value:
                    (self.root / "registry" / device / name).write_text(value + "\n")

    def override(self, name: str = "nvme-ctrl@.service", text: str = "[Service]\nNice=5\n") -> str:
        """Write a unit file as `systemctl edit` does, and return its path."""
        path = self.root / "units" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    def set(self, device: str, attribute: str, value: str) -> None:
        (self.root / "sys" / device / attribute).write_text(value + "\n")

    def delete(self, device: str, sysfs_inode: int) -> None:
        if controllers.sysfs_inode(device) != sysfs_inode:
            raise FileNotFoundError(2, "it is gone")
        self.deleted.append(device)
        self.vanish(device)

    def vanish(self, device: str) -> None:
        """The directory is kept elsewhere, so that no other gets its inode number."""
        self._devices += 1
        (self.root / "sys" / device).rename(self.root / f"gone{self._devices}")

    def write_plan(self) -> None:
        """Write the plan as discoverd does, in one step."""
        Path(plan_file.PATH + ".new").write_text(json.dumps(self.plan))
        Path(plan_file.PATH + ".new").rename(plan_file.PATH)

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run a command; return exit status, output and errors."""
        self.write_plan()
        return self.run_as_it_is(*words)

    def run_as_it_is(self, *words: str) -> tuple[int, str, str]:
        """Run a command with the plan that is there."""
        status = main(words)
        output = self._output.readouterr()
        assert "DHHC-1" not in output.out + output.err
        return status, output.out, output.err


def install(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put discoverctl on the made-up host."""
    monkeypatch.setattr(systemd, "DBus", lambda: desk.bus)
    monkeypatch.setattr(state, "CONTROLLERS", str(desk.root / "run/controllers"))
    monkeypatch.setattr(plan_file, "PATH", str(desk.root / "run/plan"))
    monkeypatch.setattr(registry, "ROOT", str(desk.root / "registry"))
    monkeypatch.setattr(controllers, "CLASS", str(desk.root / "sys"))
    monkeypatch.setattr(exclusions, "ROOT", str(desk.root / "etc/nvme"))
    monkeypatch.setattr(namespaces, "of", lambda devices: {device: desk.volumes.get(device, ()) for device in devices})
    monkeypatch.setattr(kernel_log, "PATH", str(desk.root / "kmsg"))
    monkeypatch.setattr(fragments, "DIRECTORIES", (str(desk.root / "units"),))
    monkeypatch.setattr(fragments, "TRANSIENT", str(desk.root / "transient"))
    monkeypatch.setattr(fabrics, "delete", desk.delete)
    monkeypatch.setattr(holdings, "namespaces", lambda device: desk.namespaces.get(device, []))
    monkeypatch.setattr(locks, "DIRECTORY", str(desk.root / "run/locks"))
    monkeypatch.setattr(block, "SYS", str(desk.root / "no-sys"))
    monkeypatch.setattr(block, "namespaces", lambda device: [device + "n1"])
    monkeypatch.setattr(block, "usable_paths", lambda name: desk.paths.get(name[:-2], []))
    monkeypatch.setattr(
        usage, "users", lambda names, _: {one: desk.users[one[:-2]] for one in names if one[:-2] in desk.users}
    )
    monkeypatch.setattr(usage, "processes", lambda _: [])
    monkeypatch.setattr(paths, "_answering", lambda others: set().union(*others) - desk.silent)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(jobs, "START_JOB_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(jobs, "STOP_JOB_TIMEOUT_SECONDS", 0.1)
