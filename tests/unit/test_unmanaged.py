# SPDX-License-Identifier: Apache-2.0
"""What others connected, and that no discovery controller lists: with ``disconnect-scope = all`` it goes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from discoverd import boot_record, registry, state
from discoverd.config.settings import Settings
from discoverd.kernel import controllers
from discoverd.plan import evidence
from discoverd.plan.candidate import UNMANAGED
from discoverd.plan.facts import UnitFact
from discoverd.sources import udev, unmanaged
from discoverd.sources.unmanaged import Unmanaged, connected

from . import virtual_time
from .fake_host import DC, DISCOVERY, NQN, ONE, TWO, Host, leave_log, quiet, report, spec_of, until
from .log_pages import RDMA, entry

HOSTNQN = "nqn.2024-08.com.example:host"
THREE = f"tcp:192.0.2.1:4420:{NQN.format(3)}"
NOTE = f"connected by others, and in no log page (generation 1 of {DC})"
ALL = "[Global]\ndisconnect-scope = all\n"


def connect(host: Host, device: str = "nvme1", **attributes: str) -> None:
    """Somebody connects a controller by hand."""
    folder = host.sysfs / device
    folder.mkdir(parents=True)
    given = {
        "transport": "tcp",
        "address": "traddr=192.0.2.1,trsvcid=4420",
        "subsysnqn": NQN.format(2),
        "cntrltype": "io",
        "state": "live",
        "hostnqn": HOSTNQN,
        **attributes,
    }
    for name, value in given.items():
        (folder / name).write_text(value + "\n")


def own(host: Host, device: str, owner: str) -> None:
    (host.registry / device).mkdir(parents=True)
    (host.registry / device / "owner").write_text(owner + "\n")


# Who is one -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({}, True),
        ({"transport": "rdma"}, False),
        ({"transport": "pcie", "address": "0000:01:00.0"}, False),
        ({"cntrltype": "discovery"}, False),
        ({"cntrltype": "admin"}, False),
        # A kernel that does not tell.
        ({"cntrltype": ""}, False),
        ({"state": "connecting"}, False),
        ({"state": "deleting"}, False),
        # It is going away while it is looked at.
        ({"subsysnqn": ""}, False),
        ({"address": ""}, False),
    ],
)
def test_a_live_io_controller_over_the_transports(host: Host, attributes: dict[str, str], found: bool) -> None:
    connect(host, **attributes)
    assert len(connected(("tcp",), HOSTNQN)) == found


@pytest.mark.parametrize(
    ("owner", "found"), [(registry.OWNER, True), (registry.FIRMWARE_OWNER, False), ("stas", False)]
)
def test_nothing_that_another_tool_owns(host: Host, owner: str, found: bool) -> None:
    connect(host)
    own(host, "nvme1", owner)
    assert len(connected(("tcp",), HOSTNQN)) == found


def test_nothing_whose_owner_cannot_be_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(device: str, attribute: str) -> str | None:
        raise OSError(5, f"Input/output error of {device}/{attribute}")

    connect(host)
    monkeypatch.setattr(registry, "retrieve", unreadable)
    assert connected(("tcp",), HOSTNQN) == ()


def test_nothing_of_the_boot(host: Host) -> None:
    connect(host)
    connect(host, "nvme2", subsysnqn=NQN.format(3))
    (host.root / "run").mkdir()
    fields = [("nvme1", str(controllers.sysfs_inode("nvme1")))]
    state.write(boot_record.PATH, state.encode(boot_record.KIND, fields))
    (one,) = connected(("tcp",), HOSTNQN)
    assert (one.tid.instance, one.source, one.origin) == (THREE, "connected by others", UNMANAGED)


@pytest.mark.parametrize(
    ("settings", "transports"),
    [
        (Settings(), ()),
        (Settings(disconnect_scope="none", disconnect_transports=("tcp", "rdma")), ()),
        (Settings(disconnect_scope="all"), ("tcp",)),
        (Settings(disconnect_scope="all", disconnect_transports=("rdma", "fc", "tcp")), ("rdma", "tcp")),
        (Settings(disconnect_scope="all", disconnect_transports=("fc",)), ()),
    ],
)
def test_where_is_looked(settings: Settings, transports: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmanaged, "FIRST_LOOK_DELAY_SECONDS", 0)
    looked: list[tuple[object, ...]] = []

    def look(*basis: object) -> tuple[()]:
        looked.append(basis)
        return ()

    monkeypatch.setattr(unmanaged, "connected", look)
    monkeypatch.setattr(udev, "listening", Udev().listening)

    async def scenario() -> None:
        source = Unmanaged(lambda: None)
        running = asyncio.create_task(source.run())
        source.configure(settings, HOSTNQN)
        await asyncio.sleep(0.05)
        assert looked == ([(transports, HOSTNQN)] if transports else [])
        assert source.found == (() if transports else None)
        source.configure(Settings(), HOSTNQN)
        await asyncio.sleep(0.01)
        assert source.found is None
        running.cancel()
        await asyncio.wait([running])

    virtual_time.run(scenario())


# What becomes of it ---------------------------------------------------------------------------------------


class Udev:
    """The made-up udev; None for one that cannot be listened to."""

    def __init__(self) -> None:
        self.heard: Callable[[Mapping[str, str]], None] | None = None
        self.missing = False

    @contextlib.asynccontextmanager
    async def listening(
        self, subsystem: str, heard: Callable[[Mapping[str, str]], None], _: Callable[[], None]
    ) -> AsyncIterator[None]:
        if self.missing:
            raise ImportError("No module named 'pyudev'")
        if subsystem != "nvme":
            yield
            return
        self.heard = heard
        try:
            yield
        finally:
            self.heard = None

    def says(self, **event: str) -> None:
        assert self.heard
        self.heard(event)


@pytest.fixture
def watched(host: Host, monkeypatch: pytest.MonkeyPatch) -> Udev:
    """A host with a discovery controller that lists the first volume, where all others are to go."""
    made = Udev()
    monkeypatch.setattr(udev, "listening", made.listening)
    # One reading is enough.
    monkeypatch.setattr(evidence, "CONFIRM_READINGS", 1)
    monkeypatch.setattr(evidence, "CONFIRM_SECONDS", 0)
    monkeypatch.setattr(unmanaged, "FIRST_LOOK_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(unmanaged, "DEBOUNCE_SECONDS", 0.01)
    host.configure(DISCOVERY)
    host.set(ALL)
    return made


def runs(host: Host, instance: str) -> bool:
    return host.systemd.units.get(instance) == UnitFact("loaded", "active")


async def listing(host: Host, *numbers: int, generation: int = 1) -> None:
    await until(lambda: runs(host, DC))
    leave_log(*(entry(NQN.format(number)) for number in numbers), generation=generation)


def reason(host: Host, instance: str) -> str:
    decision = host.decisions.get(instance)
    return decision.reason if decision else ""


def test_unmanaged_controller_gets_a_unit_that_disconnects_it(host: Host, watched: Udev) -> None:
    connect(host)

    async def scenario() -> None:
        await listing(host, 1)
        await until(lambda: TWO in host.systemd.started)
        spec = spec_of(TWO)
        assert (spec.withdrawn, spec.disconnect, spec.origin, spec.note) == (True, "all", UNMANAGED, NOTE)
        await until(lambda: reason(host, TWO) == f"{NOTE}; it is disconnected unless it is in use")
        # Another page without it is no other reason.
        await listing(host, 1, 4, generation=2)
        await until(lambda: host.status == "4 controllers: 4 live")
        assert spec_of(TWO).note == NOTE
        # Its worker has disconnected it, and ends.
        await until(lambda: runs(host, TWO))
        (host.sysfs / "nvme1").rename(host.root / "gone")
        report(TWO, "withdrawn")
        host.systemd.units[TWO] = UnitFact("loaded", "inactive")
        await until(lambda: not Path(state.directory(TWO)).exists())
        await until(lambda: host.status == "3 controllers: 3 live")

    assert host.play(scenario) == 0
    assert host.systemd.started.count(TWO) == 1
    assert host.systemd.units.keys() == {DC, ONE, f"tcp:192.0.2.1:4420:{NQN.format(4)}"}


def test_later_unmanaged_controller_is_found(host: Host, watched: Udev) -> None:
    async def scenario() -> None:
        await listing(host, 1)
        await until(lambda: "2 live" in host.status)
        await until(lambda: watched.heard)
        connect(host)
        watched.says(ACTION="change", NVME_AEN="0x70f002")
        await quiet()
        assert TWO not in host.systemd.started
        watched.says(ACTION="add")
        await until(lambda: TWO in host.systemd.started)

    assert host.play(scenario) == 0


@pytest.mark.parametrize(
    "settings", ["", "[Global]\ndisconnect-scope = none\n", f"{ALL}disconnect-transports = rdma\n"]
)
def test_with_another_scope_it_stays(host: Host, watched: Udev, settings: str) -> None:
    host.set(settings)
    connect(host)

    async def scenario() -> None:
        await listing(host, 1)
        await until(lambda: host.status == "2 controllers: 2 live")
        await quiet()

    assert host.play(scenario) == 0
    assert TWO not in host.systemd.started


@pytest.mark.parametrize("address", ["traddr=192.0.2.1,trsvcid=4420,host_iface=eth7", "traddr=192.0.2.1,trsvcid=4420"])
def test_listed_controller_stays_however_it_is_connected(host: Host, watched: Udev, address: str) -> None:
    connect(host, subsysnqn=NQN.format(1), address=address, hostnqn="nqn.2024-08.com.example:another")

    async def scenario() -> None:
        await listing(host, 1)
        await until(lambda: host.status == "2 controllers: 2 live")
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.started == [DC, ONE]


def test_controller_listed_over_a_transport_that_is_not_followed_stays(host: Host, watched: Udev) -> None:
    """And that it is not connected is nothing to be mended."""
    host.set(f"{ALL}disconnect-transports = tcp rdma\nfollow-transports = none\n")
    connect(host, transport="rdma")
    connect(host, "nvme2", transport="rdma", subsysnqn=NQN.format(3))

    async def scenario() -> None:
        await until(lambda: runs(host, DC))
        leave_log(entry(NQN.format(1)), entry(NQN.format(2), trtype=RDMA))
        await until(lambda: THREE.replace("tcp", "rdma") in host.systemd.started)
        await until(lambda: host.status == "3 controllers: 3 live")
        await quiet()

    assert host.play(scenario) == 0
    assert TWO.replace("tcp", "rdma") not in host.systemd.started


def test_stopped_unit_is_not_unmanaged(host: Host, watched: Udev) -> None:
    connect(host)

    async def scenario() -> None:
        await listing(host, 1, 2)
        await until(lambda: runs(host, TWO))
        host.systemd.stop(TWO)
        await listing(host, 1, generation=2)
        await until(lambda: "no longer listed" in reason(host, TWO))
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.started.count(TWO) == 1


async def no_page(host: Host) -> None:
    pass


async def empty_page(host: Host) -> None:
    leave_log()


async def lost(host: Host) -> None:
    leave_log(entry(NQN.format(1)))
    report(DC, "reconnecting", log_read="1")


async def page_that_could_not_be_read_again(host: Host) -> None:
    leave_log(entry(NQN.format(1)))
    await quiet()
    report(DC, "live")


async def another_without_a_page(host: Host) -> None:
    leave_log(entry(NQN.format(1)), entry("nqn.2014-08.org.nvmexpress.discovery", "192.0.2.7", "8009", subtype=1))


async def garbled_page(host: Host) -> None:
    leave_log(entry(NQN.format(1)), entry("nqn.a,b"))


OTHER_DC = "tcp:192.0.2.7:8009:nqn.2014-08.org.nvmexpress.discovery"


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (no_page, f"nothing is known from {DC}"),
        (empty_page, "its log page lists nothing"),
        (lost, f"the log page of {DC} may be another one by now"),
        (page_that_could_not_be_read_again, f"the log page of {DC} may be another one by now"),
        (another_without_a_page, f"nothing is known from {OTHER_DC}"),
        (garbled_page, "1 entry of its log page cannot be read"),
    ],
)
def test_missing_answer_is_no_reason_to_disconnect(
    host: Host, watched: Udev, happens: Callable[[Host], Awaitable[None]], why: str
) -> None:
    async def scenario() -> None:
        await until(lambda: runs(host, DC))
        await happens(host)
        await quiet()
        connect(host)
        watched.says(ACTION="add")
        await until(lambda: reason(host, TWO) == f"connected by others, and {why}")
        await quiet()

    assert host.play(scenario) == 0
    assert TWO not in host.systemd.started


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there is no discovery controller that could list it"),
        (
            DISCOVERY + "[Subsystem]\nnqn = nqn.2024-08.com.example:x\ncontroller = transport=tcp;traddr=192.0.2.9\n"
            "tls = true\n",
            "not all of the configuration can be used",
        ),
    ],
)
def test_nor_is_what_the_configuration_does_not_say(host: Host, watched: Udev, text: str, why: str) -> None:
    host.configure(text)
    connect(host)

    async def scenario() -> None:
        await until(lambda: why in reason(host, TWO))

    assert host.play(scenario) == 0


def test_controller_in_use_is_protected_again_when_a_discovery_controller_is_lost(host: Host, watched: Udev) -> None:
    connect(host)

    async def scenario() -> None:
        await listing(host, 1)
        await until(lambda: TWO in host.systemd.started)
        await until(lambda: reason(host, TWO).endswith("it is disconnected unless it is in use"))
        report(DC, "parked", log_read="1")
        await quiet()
        assert spec_of(TWO).disconnect == "all"
        report(DC, "waiting", log_read="1")
        await until(lambda: spec_of(TWO).disconnect == "")
        assert (spec_of(TWO).withdrawn, spec_of(TWO).note) == (True, NOTE)
        await until(lambda: TWO in host.systemd.hung_up)
        report(DC, "live", log_read="1")
        await until(lambda: spec_of(TWO).disconnect == "all")
        # Listed, it is one like others.
        await listing(host, 1, 2, generation=2)
        await until(lambda: spec_of(TWO).origin == DC)
        assert (spec_of(TWO).withdrawn, spec_of(TWO).disconnect) == (False, "")

    assert host.play(scenario) == 0


def test_with_the_scope_it_came_with_goes_the_order(host: Host, watched: Udev) -> None:
    connect(host)

    async def scenario() -> None:
        assert host.daemon
        await listing(host, 1)
        await until(lambda: TWO in host.systemd.started)
        await until(lambda: reason(host, TWO).endswith("it is disconnected unless it is in use"))
        host.set("")
        await host.daemon._reload()
        await until(lambda: spec_of(TWO).disconnect == "")
        assert "disconnect-scope is not all" in reason(host, TWO)

    assert host.play(scenario) == 0


def test_a_unit_of_it_that_an_administrator_stopped_stays_stopped(host: Host, watched: Udev) -> None:
    connect(host)

    async def scenario() -> None:
        await listing(host, 1)
        await until(lambda: runs(host, TWO))
        host.systemd.stop(TWO)
        await until(lambda: reason(host, TWO).endswith("but an administrator stopped its unit"))
        watched.says(ACTION="add")
        await quiet()

    assert host.play(scenario) == 0
    assert host.systemd.started.count(TWO) == 1
    # The next supervisor knows it as well.
    assert host.play(quiet) == 0
    assert host.systemd.started.count(TWO) == 1


def test_excluded_unmanaged_controller_is_kept(host: Host, watched: Udev) -> None:
    host.exclude(f"nqn={NQN.format(2)}")
    connect(host)

    async def scenario() -> None:
        await listing(host, 1)
        await until(lambda: "but excluded by" in reason(host, TWO))
        await until(lambda: host.status == "3 controllers: 2 live, 1 excluded")
        host.exclude()
        await until(lambda: TWO in host.systemd.started)
        await until(lambda: reason(host, TWO).endswith("it is disconnected unless it is in use"))
        host.exclude(f"nqn={NQN.format(2)}")
        await until(lambda: spec_of(TWO).disconnect == "")

    assert host.play(scenario) == 0


def test_without_udev_what_is_there_is_found(host: Host, watched: Udev, caplog: pytest.LogCaptureFixture) -> None:
    watched.missing = True
    connect(host)

    async def scenario() -> None:
        await listing(host, 1)
        await until(lambda: TWO in host.systemd.started)

    assert host.play(scenario) == 0
    assert "udev cannot be listened to: No module named 'pyudev'; check that pyudev is there" in caplog.text
