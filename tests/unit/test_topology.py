# SPDX-License-Identifier: Apache-2.0
"""discoverctl topology, with a made-up libnvme: in its child, and when it is missing or crashes."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from discoverd.cli import libnvme, terminal
from discoverd.cli.libnvme import Subsystem
from discoverd.cli.main import main

from .fake_storage import Storage, install

NQN = "nqn.2024-08.com.example:vol{}"
Scan = Callable[[], object]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Two subsystems on a network, and a drive of this host."""
    made = Storage(tmp_path)
    install(made, monkeypatch)
    for device in ("nvme1", "nvme2", "nvme3"):
        made.controller(device, 1)
    made.controller("nvme0", 9, "pcie")
    made.namespace("nvme1n1", "nvme1", "nvme2", ana="optimized", subsystem=1)
    made.partition("nvme1n1p1", "nvme1n1")
    made.device("dm-0", "nvme1n1p1")
    made.mapped("dm-0", "LVM-x")
    (made.sys / "class/block/dm-0/dm/name").write_text("vg-data\n")
    (made.sys / "class/block/nvme1n1/size").write_text("32768\n")
    made.mount("dm-0", "/srv/data")
    made.swap()
    return made


def controller(name: str, address: str | None = "192.0.2.1", transport: str = "tcp") -> SimpleNamespace:
    where = {"transport": transport, "traddr": address, "trsvcid": "4420" if address else None, "state": "live"}
    return SimpleNamespace(name=name, **where)


def subsystem(number: int, controllers: list[SimpleNamespace]) -> SimpleNamespace:
    return SimpleNamespace(
        name=f"nvme-subsys{number}",
        subsysnqn=NQN.format(number),
        controllers=lambda: iter(controllers),
    )


def scan() -> object:
    host = SimpleNamespace(
        hostnqn="nqn.2024-08.com.example:host",
        subsystems=lambda: iter(
            [
                subsystem(10, [controller("nvme3", "2001:db8::1")]),
                subsystem(1, [controller("nvme2", "198.51.100.1"), controller("nvme1")]),
                subsystem(0, [controller("nvme0", None, "pcie")]),
            ]
        ),
    )
    return SimpleNamespace(hosts=lambda: iter([host]))


def provide(monkeypatch: pytest.MonkeyPatch, package: str, scan: Scan | None) -> None:
    """Let a package be there, whose first object scans; None: it is not there."""
    module = None
    if scan is not None:
        module = ModuleType(f"{package}.nvme")
        setattr(module, {"libnvme": "root", "libnvme3": "GlobalCtx"}[package], scan)
    monkeypatch.setitem(sys.modules, package, module and ModuleType(package))
    monkeypatch.setitem(sys.modules, f"{package}.nvme", module)


@pytest.fixture(params=["libnvme", "libnvme3"])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for one in ("libnvme", "libnvme3"):
        provide(monkeypatch, one, None)
    return str(request.param)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["topology", *words])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_subsystems_with_paths_namespaces_and_what_is_on_them(
    storage: Storage, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    provide(monkeypatch, package, scan)
    assert run(capsys) == (
        0,
        f"{NQN.format(1)}\n"
        "  nvme1    tcp 192.0.2.1:4420     live, optimized\n"
        "  nvme2    tcp 198.51.100.1:4420  live, optimized\n"
        "  nvme1n1  16M                    nvme1n1p1, vg-data: /srv/data\n"
        f"{NQN.format(10)}\n"
        "  nvme3  tcp [2001:db8::1]:4420  live\n"
        "2 subsystems, 3 paths\n",
        "",
    )


def test_discovery_controllers_are_ordered_by_address(
    storage: Storage, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As the kernel has it where the second address was connected first: each is a subsystem of the same name.
    found = [subsystem(1, [controller("nvme1", "198.51.100.10")]), subsystem(2, [controller("nvme2", "198.51.100.9")])]
    for one in found:
        one.subsysnqn = "nqn.2014-08.org.nvmexpress.discovery"
    host = SimpleNamespace(hostnqn="", subsystems=lambda: iter(found))
    provide(monkeypatch, package, lambda: SimpleNamespace(hosts=lambda: iter([host])))
    text = run(capsys)[1]
    assert text.index("198.51.100.9:") < text.index("198.51.100.10:")
    paths = [one["paths"][0]["address"] for one in json.loads(run(capsys, "--json")[1])["subsystems"]]
    assert paths == ["198.51.100.9", "198.51.100.10"]


def test_ana_states_that_differ_are_told_by_namespace(
    storage: Storage, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.namespace("nvme1n2", "nvme1", "nvme2", ana="inaccessible", subsystem=1)
    host = SimpleNamespace(hostnqn="", subsystems=lambda: iter([subsystem(1, [controller("nvme1")])]))
    provide(monkeypatch, package, lambda: SimpleNamespace(hosts=lambda: iter([host])))
    assert "live, optimized for nvme1n1, inaccessible for nvme1n2" in run(capsys)[1]


def test_topology_for_programs(
    storage: Storage, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    provide(monkeypatch, package, scan)
    found = json.loads(run(capsys, "--json")[1])["subsystems"]
    assert [one["subsysnqn"] for one in found] == [NQN.format(1), NQN.format(10)]
    assert found[0]["paths"][0]["ana_states"] == {"nvme1n1": "optimized"}
    devices = {"devices": ["nvme1n1p1", "vg-data"], "users": ["/srv/data"]}
    assert found[0]["namespaces"] == [{"name": "nvme1n1", "size": 16 << 20, **devices}]


@pytest.mark.parametrize("width", [12, 20, 40, 80])
def test_topology_fits_the_terminal(
    storage: Storage,
    package: str,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    provide(monkeypatch, package, scan)
    monkeypatch.setattr(terminal, "columns", lambda: width)
    lines = run(capsys)[1].splitlines()
    assert max(map(len, lines)) <= width
    assert "/srv/data" in "".join(line.strip() for line in lines)


def test_without_libnvme_it_says_what_to_install(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, output, errors = run(capsys)
    assert (status, output) == (1, "")
    assert "apt install python3-libnvme" in errors
    assert errors.count("\n") == 1


def crash() -> object:
    # Not SIGSEGV, which pytest has something to say about.
    os.kill(os.getpid(), signal.SIGKILL)
    return scan()


def fail() -> object:
    raise RuntimeError("unrecognized")


@pytest.mark.parametrize(("broken", "said"), [(crash, "was ended by signal 9"), (fail, "failed")])
def test_crash_of_libnvme_is_one_sentence(
    package: str,
    broken: Scan,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    provide(monkeypatch, package, broken)
    status, output, errors = run(capsys)
    assert (status, output) == (1, "")
    assert errors == f"discoverctl: libnvme {said} while it scanned this host; see instead: nvme list-subsys\n"


def test_what_libnvme_writes_is_not_taken_for_its_answer(
    package: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def chatter() -> object:
        os.write(1, b"scanning\n")
        os.write(2, b"no such file\n")
        return SimpleNamespace(hosts=lambda: iter([]))

    provide(monkeypatch, package, chatter)
    found: list[Subsystem] = libnvme.subsystems()
    assert found == []
    assert capfd.readouterr() == ("", "")
