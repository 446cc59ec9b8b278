# SPDX-License-Identifier: Apache-2.0
"""Which transports this host has, as its RDMA devices come and go."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from discoverd.config.settings import AUTO, Settings
from discoverd.sources import transports, udev
from discoverd.sources.transports import NO_RDMA, Transports

from . import virtual_time

LEFT_OUT = "follow-transports in discoverd.conf leaves it out"


class Machine:
    """A host whose RDMA devices are directories, and its udev. ``changes`` counts what the source tells."""

    def __init__(self, root: Path) -> None:
        self.devices = root / "infiniband"
        self.heard: Callable[[Mapping[str, str]], None] | None = None
        self.fails = False
        self.changes = 0

    @contextlib.asynccontextmanager
    async def listening(
        self, subsystem: str, heard: Callable[[Mapping[str, str]], None], _: Callable[[], None]
    ) -> AsyncIterator[None]:
        if self.fails:
            raise ImportError("No module named 'pyudev'")
        assert subsystem == "infiniband"
        self.heard = heard
        try:
            yield
        finally:
            self.heard = None

    def changed(self) -> None:
        self.changes += 1

    async def says(self, action: str) -> None:
        assert self.heard
        self.heard({"ACTION": action})
        await asyncio.sleep(transports.DEBOUNCE_SECONDS + 1)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(transports, "RDMA_DEVICES", str(made.devices))
    monkeypatch.setattr(udev, "listening", made.listening)
    return made


def play(machine: Machine, scenario: Callable[[Transports], Awaitable[None]]) -> None:
    async def main() -> None:
        source = Transports(machine.changed)
        running = asyncio.create_task(source.run())
        try:
            await scenario(source)
        finally:
            running.cancel()
            await asyncio.wait([running])

    virtual_time.run(main())


def test_device_comes_and_goes(machine: Machine) -> None:
    async def scenario(source: Transports) -> None:
        assert source.lacking == {"rdma": ""}
        await asyncio.sleep(1)
        assert source.lacking == {"rdma": NO_RDMA}
        before = source.lacking
        await machine.says("add")
        # Nothing new is the same object: log pages are gone through again for another one.
        assert source.lacking is before
        (machine.devices / "rxe0").mkdir(parents=True)
        await machine.says("change")
        assert source.lacking is before
        await machine.says("add")
        assert source.lacking == {}
        (machine.devices / "rxe0").rmdir()
        await machine.says("remove")
        assert source.lacking == {"rdma": NO_RDMA}
        assert machine.changes == 3

    play(machine, scenario)


def test_devices_count_without_udev(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.fails = True
    (machine.devices / "mlx5_0").mkdir(parents=True)

    async def scenario(source: Transports) -> None:
        await asyncio.sleep(1)
        assert source.lacking == {}

    play(machine, scenario)
    assert "an RDMA device that comes later is not noticed" in caplog.text


def test_what_cannot_be_seen_is_not_missing(machine: Machine) -> None:
    machine.devices.write_text("no directory")
    assert transports.has_rdma()


@pytest.mark.parametrize(
    ("followed", "lacking"),
    [
        ((), {"tcp": LEFT_OUT, "rdma": LEFT_OUT}),
        (("tcp",), {"rdma": LEFT_OUT}),
        (("rdma",), {"tcp": LEFT_OUT}),
        (("tcp", "rdma"), {}),
    ],
)
def test_setting_counts_whatever_the_devices(
    machine: Machine, followed: tuple[str, ...], lacking: dict[str, str]
) -> None:
    async def scenario(source: Transports) -> None:
        source.configure(Settings(follow_transports=followed))
        assert source.lacking == lacking
        await asyncio.sleep(1)
        source.configure(Settings(follow_transports=AUTO))
        await asyncio.sleep(1)
        assert source.lacking == {"rdma": NO_RDMA}
        assert machine.heard is not None
        source.configure(Settings(follow_transports=followed))
        await asyncio.sleep(1)
        assert source.lacking == lacking
        assert machine.heard is None

    play(machine, scenario)
