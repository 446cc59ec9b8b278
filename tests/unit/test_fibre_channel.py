# SPDX-License-Identifier: Apache-2.0
"""What the kernel announces on Fibre Channel becomes a wish, and the kernel is asked for announcements in time."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from discoverd.config.settings import Settings
from discoverd.plan.candidate import FIBRE_CHANNEL, Wish
from discoverd.sources import fibre_channel, udev
from discoverd.sources.fibre_channel import FibreChannel
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, TransportId

from . import virtual_time

HOST = "nn-0x2000000000000001:pn-0x2000000000000002"
PORT = "nn-0x10000000000000{0:02x}:pn-0x20000000000000{0:02x}"
ON = Settings(give_up=60)


class Device:
    """One event, as pyudev gives it."""

    def __init__(self, properties: dict[str, str]) -> None:
        self.properties = properties


class Monitor:
    """Stands for pyudev's: the test says which events arrive."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK)
        self._events: list[Device | OSError] = []

    def fileno(self) -> int:
        return self._read

    def send(self, event: Device | OSError) -> None:
        self._events.append(event)
        os.write(self._write, b"\0")

    def poll(self, timeout: float) -> Device | None:
        assert timeout == 0, "the loop must not wait for udev"
        os.read(self._read, 1)
        event = self._events.pop(0)
        if isinstance(event, OSError):
            raise event
        return event

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Fabric:
    """The kernel's side, and how often the source has told of a change. ``fails``: udev or the kernel cannot."""

    def __init__(self) -> None:
        self.monitors: list[Monitor] = []
        self.fails: Exception | None = None
        self.refuses: OSError | None = None
        self.changes = 0
        self._asked = 0
        self.source = FibreChannel(self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def open(self, subsystem: str) -> Monitor:
        assert subsystem == "fc"
        if self.fails:
            raise self.fails
        self.monitors.append(Monitor())
        return self.monitors[-1]

    def announce(self, traddr: str, host_traddr: str = HOST, event: str = "nvmediscovery") -> None:
        properties = {"ACTION": "change", "SUBSYSTEM": "fc", "FC_EVENT": event}
        self.monitors[-1].send(Device(properties | {"NVMEFC_TRADDR": traddr, "NVMEFC_HOST_TRADDR": host_traddr}))

    def write_text(self, text: str) -> None:
        """Take what is written to fc_udev_device/nvme_discovery."""
        assert text == "add"
        self._asked += 1
        if self.refuses:
            raise self.refuses

    def ports(self) -> list[str]:
        """Return the addresses of the ports that are wanted."""
        return [wish.tid.traddr for wish in self.source.wishes]

    def asked(self) -> int:
        """Tell how often announcements were asked for since the last look."""
        count, self._asked = self._asked, 0
        return count

    @asynccontextmanager
    async def running(self, settings: Settings = ON) -> AsyncIterator[None]:
        self.source.configure(settings)
        task = asyncio.create_task(self.source.run())
        await self.until(lambda: self.monitors or not settings.fibre_channel or self.fails)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@pytest.fixture
def fabric(monkeypatch: pytest.MonkeyPatch) -> Fabric:
    made = Fabric()
    monkeypatch.setattr(fibre_channel, "ANNOUNCE_AGAIN", made)
    monkeypatch.setattr(fibre_channel, "REQUEST_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(udev, "_open", made.open)
    return made


def run(coroutine: Awaitable[None]) -> None:
    async def main() -> None:
        await coroutine

    virtual_time.run(main())


def test_an_announcement_is_a_wish(fabric: Fabric) -> None:
    async def act() -> None:
        async with fabric.running():
            fabric.announce("nn-0x1000000000000001:PN-0x20000000000000AB")
            await fabric.until(lambda: fabric.source.wishes)

    run(act())
    (wish,) = fabric.source.wishes
    address = "nn-0x1000000000000001:pn-0x20000000000000ab"
    assert wish.tid == TransportId("fc", address, "", DISCOVERY_NQN, host_traddr=HOST)
    assert (wish.role, wish.origin, wish.give_up_after) == (DISCOVERY, FIBRE_CHANNEL, 60)
    assert wish.source == f"announced by Fibre Channel port {address}"
    assert wish.asked > 0
    assert fabric.source.refusals == ()


def test_a_repeated_announcement_asks_anew(fabric: Fabric) -> None:
    async def act() -> None:
        async with fabric.running():
            fabric.announce(PORT.format(1))
            fabric.announce(PORT.format(2))
            await fabric.until(lambda: len(fabric.source.wishes) == 2)
            before, changes = fabric.source.wishes, fabric.changes
            fabric.announce(PORT.format(1))
            await fabric.until(lambda: fabric.changes > changes)
            after = fabric.source.wishes
            assert [wish.tid for wish in after] == [wish.tid for wish in before]
            assert after[0].asked > before[0].asked
            assert after[1].asked == before[1].asked

    run(act())


@pytest.mark.parametrize(
    ("traddr", "host_traddr", "reason"),
    [
        ("", HOST, "not a Fibre Channel address"),
        ("nn-0x10:pn-0x11,host_iface=eth0", HOST, "not a Fibre Channel address"),
        ("192.0.2.1", HOST, "not a Fibre Channel address"),
        (PORT.format(1), "", "NVMEFC_HOST_TRADDR is missing"),
        (PORT.format(1), "nn-0x1", "not a Fibre Channel address"),
        ("nn-0x1:pn-0x2\x1b[2J" * 100, HOST, "not a Fibre Channel address"),
    ],
)
def test_a_malformed_announcement_is_refused(fabric: Fabric, traddr: str, host_traddr: str, reason: str) -> None:
    async def act() -> None:
        async with fabric.running():
            fabric.announce(traddr, host_traddr)
            await fabric.until(lambda: fabric.source.refusals)

    run(act())
    (refusal,) = fabric.source.refusals
    assert reason in refusal.reason
    assert len(refusal.what) < 250
    assert refusal.what.isprintable()
    assert fabric.source.wishes == ()


def test_refusals_and_wishes_are_bounded(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fibre_channel, "MOST_WISHES", 3)

    async def act() -> None:
        async with fabric.running():
            for number in range(40):
                fabric.announce(PORT.format(number))
            await fabric.until(lambda: PORT.format(39) in str(fabric.source.refusals))
            # One that is known may always repeat itself.
            before = fabric.source.wishes[0].asked
            fabric.announce(PORT.format(0))
            await fabric.until(lambda: fabric.source.wishes[0].asked > before)

    run(act())
    assert len(fabric.source.wishes) == 3
    assert len(fabric.source.refusals) == fibre_channel.MOST_REFUSALS
    assert "no more are taken" in fabric.source.refusals[0].reason


def test_other_events_are_nothing(fabric: Fabric) -> None:
    async def act() -> None:
        async with fabric.running():
            fabric.monitors[0].send(Device({"ACTION": "add", "SUBSYSTEM": "fc"}))
            fabric.announce(PORT.format(1), event="fcportchange")
            fabric.announce(PORT.format(2))
            await fabric.until(lambda: fabric.source.wishes)

    run(act())
    assert fabric.ports() == [PORT.format(2)]
    assert fabric.source.refusals == ()


def test_announcements_are_asked_for_once_it_listens(fabric: Fabric) -> None:
    async def act() -> None:
        async with fabric.running():
            await fabric.until(fabric.asked)
            assert fabric.monitors
            await asyncio.sleep(0.2)
            assert fabric.asked() == 0, "without an interval nothing happens by itself"

    run(act())


def test_losses_ask_again_but_not_all_at_once(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fibre_channel, "REQUEST_INTERVAL_SECONDS", 1)

    async def act() -> None:
        async with fabric.running():
            await fabric.until(fabric.asked)
            for _ in range(10):
                fabric.source.lost()
                await asyncio.sleep(0)
            await fabric.until(lambda: fabric._asked)
            assert fabric.asked() == 1, "one for all losses in the pause after the first"
            fabric.source.lost()
            await fabric.until(fabric.asked)

    run(act())


def test_missed_events_are_asked_for_again(fabric: Fabric) -> None:
    async def act() -> None:
        async with fabric.running():
            await fabric.until(fabric.asked)
            fabric.monitors[0].send(OSError(105, "No buffer space available"))
            await fabric.until(fabric.asked)
            fabric.announce(PORT.format(1))
            await fabric.until(lambda: fabric.source.wishes)

    run(act())


def test_the_interval(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        async with fabric.running(Settings(fc_kick_start_interval=1)):
            await fabric.until(fabric.asked)
            await fabric.until(fabric.asked)

    run(act())


def test_no_adapter_is_no_news(fabric: Fabric, caplog: pytest.LogCaptureFixture) -> None:
    fabric.refuses = FileNotFoundError(2, "No such file or directory")

    async def act() -> None:
        async with fabric.running():
            await asyncio.sleep(0.1)
            fabric.announce(PORT.format(1))
            await fabric.until(lambda: fabric.source.wishes)

    run(act())
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_kernel_that_cannot_be_asked_is_told_of_once(fabric: Fabric, caplog: pytest.LogCaptureFixture) -> None:
    fabric.refuses = OSError(30, "Read-only file system")

    async def act() -> None:
        async with fabric.running():
            await fabric.until(lambda: caplog.records)
            fabric.source.lost()
            await asyncio.sleep(0.2)
            fabric.announce(PORT.format(1))
            await fabric.until(lambda: fabric.source.wishes)

    run(act())
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "Read-only file system" in warning


@pytest.mark.parametrize("error", [ImportError("no module named pyudev"), OSError(97, "no netlink")])
def test_without_udev_the_rest_goes_on(fabric: Fabric, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    fabric.fails = error

    async def act() -> None:
        async with fabric.running():
            await fabric.until(lambda: caplog.records)
            fabric.fails = None
            fabric.source.configure(Settings(fibre_channel=False))
            fabric.source.configure(ON)
            await fabric.until(lambda: fabric.monitors)

    run(act())
    assert "udev cannot be listened to" in caplog.text


def test_the_switch(fabric: Fabric) -> None:
    async def act() -> None:
        async with fabric.running(Settings(fibre_channel=False)):
            await asyncio.sleep(0.05)
            assert not fabric.monitors
            assert not fabric.asked()
            fabric.source.configure(ON)
            await fabric.until(fabric.asked)
            fabric.announce(PORT.format(1))
            await fabric.until(lambda: fabric.source.wishes)
            changes = fabric.changes
            fabric.source.configure(Settings(fibre_channel=False))
            assert fabric.changes > changes
            assert fabric.ports() == []
            await asyncio.sleep(0.05)
            fabric.announce(PORT.format(2))
            await asyncio.sleep(0.05)
            fabric.source.configure(ON)
            assert fabric.ports() == [PORT.format(1)]
            await fabric.until(lambda: len(fabric.monitors) == 2 and fabric.asked())

    run(act())


def test_another_give_up_time_holds_for_all(fabric: Fabric) -> None:
    async def act() -> None:
        async with fabric.running():
            fabric.announce(PORT.format(1))
            await fabric.until(lambda: fabric.source.wishes)
            changes = fabric.changes
            fabric.source.configure(Settings(give_up=7))
            assert fabric.source.wishes[0].give_up_after == 7
            assert fabric.changes > changes
            await asyncio.sleep(0.05)
            assert len(fabric.monitors) == 1, "the kernel is listened to as before"

    run(act())


def test_wishes_of_an_earlier_supervisor_are_taken_over(fabric: Fabric) -> None:
    tids = [TransportId("fc", PORT.format(number), "", DISCOVERY_NQN, host_traddr=HOST) for number in (1, 2)]
    old = [Wish(tid, DISCOVERY, "announced", FIBRE_CHANNEL, give_up_after=5, asked=1) for tid in tids]

    async def act() -> None:
        async with fabric.running():
            fabric.announce(PORT.format(1))
            await fabric.until(lambda: fabric.source.wishes)
            fabric.source.remember(old)

    run(act())
    first, second = fabric.source.wishes
    assert first.asked > 1
    assert (second.tid, second.asked, second.give_up_after) == (tids[1], 1, 60)
