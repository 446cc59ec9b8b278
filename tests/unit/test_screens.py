# SPDX-License-Identifier: Apache-2.0
"""The screens of tests/lab/screens/, rendered from made-up state: they are what a reader looks at, to the letter."""

import os
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from discoverd import state
from discoverd.cli import namespaces
from discoverd.cli import overview as overviews
from discoverd.cli.namespaces import Namespace
from discoverd.kernel import block
from discoverd.tid import DISCOVERY_NQN, unit_name
from tests.lab import screen

from .fake_ctl import NQN, Desk, Unit, install

# 21 November 2026, 09:30 in UTC, and how long the host has been up then.
NOW, UPTIME = 1_795_253_400.0, 400_000.0
BEGAN = str(int(UPTIME - 3600))
LOST = str(int(UPTIME - 60))
TLS = "TLS is not supported yet, so it is not connected; remove tls, concat and tls-key to connect in the clear"
PAGE = "9 entries in its log page (generation 18)"
SIZE = 16 << 20


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    """The scenario of tests/lab/screens/README."""
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    clock = SimpleNamespace(time=lambda: NOW, clock_gettime=lambda _: UPTIME, CLOCK_BOOTTIME=time.CLOCK_BOOTTIME)
    monkeypatch.setattr(overviews, "time", clock)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    numbers = iter(range(99))
    for path, address in enumerate(screen.ADDRESSES):
        discovery_controller(made, address, f"nvme{next(numbers)}", down=path > 0)
    for volume in screen.VOLUMES:
        for path, address in enumerate(screen.ADDRESSES):
            connected = volume not in (screen.STOPPED, screen.EXCLUDED, screen.REFUSED)
            controller(made, volume, address, f"nvme{next(numbers)}" if connected else "", down=path > 0)
    return made


def discovery_controller(desk: Desk, address: str, device: str, *, down: bool) -> None:
    name = f"tcp:{address}:4420:{DISCOVERY_NQN}"
    desk.bus.units[unit_name(name)] = Unit()
    entry = {"instance": name, "action": "keep", "reason": "configured", "transport": "tcp", "traddr": address}
    desk.plan["controllers"].append({**entry, "trsvcid": "4420", "subsysnqn": DISCOVERY_NQN, "role": "discovery"})
    folder = Path(state.directory(name))
    folder.mkdir()
    spec = state.Spec("discovery", [("nqn", DISCOVERY_NQN), ("transport", "tcp"), ("traddr", address)])
    spec.options.append(("trsvcid", "4420"))
    (folder / "spec").write_bytes(spec.encode())
    desk.kernel(0, device, address=address, owner="nvme-ctrl", unit=unit_name(name))
    desk.set(device, "subsysnqn", DISCOVERY_NQN)
    report(desk, name, device, PAGE, down=down)


def controller(desk: Desk, volume: int, address: str, device: str, *, down: bool) -> None:
    if volume == screen.REFUSED:
        # Its section, and the log page that lists it.
        desk.refuse(NQN.format(volume), address, TLS, f"{screen.CONFIGURATION}:{9 if down else 8}")
        page = f"in the log page of tcp:{address}:4420:{DISCOVERY_NQN}"
        desk.refuse(NQN.format(volume), address, f"{TLS}; see its section, {screen.CONFIGURATION}:5", page)
        return
    name = f"tcp:{address}:4420:{NQN.format(volume)}"
    if volume == screen.EXCLUDED:
        where = f"{screen.EXCLUSIONS}:2"
        desk.planned(name, "leave", f"listed, but excluded by {where}", volume)
        here = {"excluded_by": where, "traddr": address, "trsvcid": "4420"}
        desk.plan["controllers"][-1].update(here)
        return
    if volume == screen.STOPPED:
        desk.controller(volume, "", address=address, action="keep stopped", unit=Unit("inactive"))
        desk.report(name, "stopped", "stopped", detail="", since=BEGAN)
        return
    desk.controller(volume, device, address=address, detail="")
    report(desk, name, device, "", down=down)
    users = (screen.TARGET,) if volume == screen.MOUNTED else ()
    desk.volumes[device] = (Namespace(f"nvme{volume + 1}n1", SIZE, users),)


def report(desk: Desk, name: str, device: str, detail: str, *, down: bool) -> None:
    if down:
        desk.set(device, "state", "connecting")
        desk.report(name, "reconnecting", "", device, detail="", since=LOST)
    else:
        desk.report(name, "live", "", device, detail=detail, since=BEGAN)


def scan() -> object:
    """What libnvme finds on that host."""

    def controllers(first: int, second: int) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(name=f"nvme{one}", transport="tcp", traddr=address, trsvcid="4420", state=word)
            for one, address, word in zip((first, second), screen.ADDRESSES, ("live", "connecting"), strict=True)
        ]

    def subsystem(number: int, nqn: str, paths: list[SimpleNamespace]) -> SimpleNamespace:
        return SimpleNamespace(name=f"nvme-subsys{number}", subsysnqn=nqn, controllers=lambda: paths)

    # The kernel has a subsystem for each discovery controller.
    found = [subsystem(number, DISCOVERY_NQN, [one]) for number, one in enumerate(controllers(0, 1))]
    found += [subsystem(volume + 1, NQN.format(volume), controllers(first, first + 1)) for volume, first in connected()]
    host = SimpleNamespace(hostnqn="nqn.2024-08.com.example:host", subsystems=lambda: found)
    return SimpleNamespace(hosts=lambda: [host])


def connected() -> list[tuple[int, int]]:
    """The volumes that the kernel has, each with the number of the first of its two controllers."""
    left_out = (screen.STOPPED, screen.EXCLUDED, screen.REFUSED)
    return [(volume, 2 + 2 * at) for at, volume in enumerate(one for one in screen.VOLUMES if one not in left_out)]


@pytest.mark.parametrize("name", screen.NAMES)
def test_screen_is_as_expected(desk: Desk, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    what, _, width = name.partition("-")
    columns = screen.WIDTHS[width]
    if columns:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((columns, 24)))
        monkeypatch.setenv("NO_COLOR", "1")
    module = ModuleType("libnvme.nvme")
    monkeypatch.setattr(module, "root", scan, raising=False)
    monkeypatch.setitem(sys.modules, "libnvme3", None)
    monkeypatch.setitem(sys.modules, "libnvme", ModuleType("libnvme"))
    monkeypatch.setitem(sys.modules, "libnvme.nvme", module)
    monkeypatch.setattr(block, "ana_state", lambda *_: "optimized")
    spaces = {
        f"nvme{number}": [f"nvme{volume + 1}n1"] for volume, first in connected() for number in (first, first + 1)
    }
    monkeypatch.setattr(block, "namespaces", lambda device: spaces.get(device, []))
    known = {space.name: space for found in desk.volumes.values() for space in found}
    monkeypatch.setattr(namespaces, "named", lambda names: {one: known[one] for one in names})
    status, output, errors = desk.run(*screen.COMMANDS[what].split())
    assert (status, errors) == (0, "")
    assert not columns or max(map(len, output.splitlines())) <= columns
    path = screen.path(name)
    if os.environ.get("SCREENS") == "keep":
        path.write_text(output)
    assert output == path.read_text()


def test_every_file_is_a_screen() -> None:
    found = {path.stem for path in screen.FOLDER.glob("*.txt")}
    assert found == set(screen.NAMES)


def test_what_differs_from_one_boot_to_the_next_is_left_out() -> None:
    one = "  live  nvme3   tcp 192.0.2.1:4420  09:30  16M  nvme0n1,nvme12n1\n  9 entries in its log page (generation 7)"
    other = "live nvme12 tcp 192.0.2.1:4420 2026-11-21 10:31 16M nvme7n2\n10 entries in its log\n page (generation 18)"
    assert screen.common(one) == screen.common(other)
    assert screen.common(one) != screen.common(one.replace("live", "waiting"))
    assert screen.common(one) != screen.common(one.replace("192.0.2.1", "192.0.2.2"))
