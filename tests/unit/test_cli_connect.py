# SPDX-License-Identifier: Apache-2.0
"""discoverctl connect: a drop-in below /run, which discoverd reads as those in /etc."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from discoverd import state
from discoverd.cli import connect, runtime_drop_in
from discoverd.cli.connect import Request
from discoverd.cli.exits import CliError, Exit
from discoverd.config import fabrics, settings
from discoverd.config.errors import Diagnostic
from discoverd.config.fabrics import load_fabrics
from discoverd.supervisor import reload
from discoverd.tid import unit_name

from .fake_ctl import NQN, Desk, Unit, install, instance
from .fake_host import FIRST, ONE, Host, until


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    monkeypatch.setattr(state, "ROOT", str(tmp_path / "run"))
    monkeypatch.setattr(fabrics, "RUNTIME_DROP_INS", tmp_path / "run/nvme-fabrics.conf.d")
    monkeypatch.setattr(connect, "FIRST_ATTEMPT_TIMEOUT_SECONDS", 0.2)
    return made


def drop_ins(desk: Desk) -> list[Path]:
    return sorted((desk.root / "run/nvme-fabrics.conf.d").glob("*"))


def daemon(desk: Desk, act: Callable[[], object]) -> None:
    """Have the daemon do something at a reload, and write its plan."""

    def take_up(_: str) -> None:
        began = reload.now()
        act()
        desk.write_plan()
        reload.answer(began, ())

    desk.bus.on_reload = take_up


def test_it_is_configured_reloaded_and_waited_for(desk: Desk) -> None:
    daemon(desk, lambda: desk.controller(1, "nvme0"))
    status, output, errors = desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert (status, output, errors) == (0, f"{instance(1)}: live nvme0\n", "")
    assert ("ReloadUnit", "discoverd.service", "replace") in desk.bus.called
    (path,) = drop_ins(desk)
    # Nothing in it is a secret, and the doctor of an ordinary user reads the configuration.
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o644, 0o755]
    found = load_fabrics(desk.root / "none.conf", path.parent)
    (one,) = found.connections
    assert found.diagnostics == ()
    assert (one.role, one.transport, one.traddr, one.trsvcid) == ("io", "tcp", "192.0.2.1", "4420")
    assert one.subsysnqn == NQN.format(1)


def test_it_is_not_live(desk: Desk) -> None:
    status = "waiting 1 s, attempt 1: connection refused"
    daemon(desk, lambda: desk.controller(1, "", report="waiting", status=status))
    ended = desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert ended == (Exit.NOT_LIVE, f"{instance(1)}: {status}\n", "")


def test_another_unit_stands_for_it(desk: Desk) -> None:
    """One that is asked for through an interface, by a log page perhaps: two units would take it from each other."""
    name = f"{instance(1)}::eth0"

    def fold() -> None:
        desk.controller(1, "nvme0")
        desk.plan["controllers"][0]["instance"] = name
        desk.bus.units[unit_name(name)] = desk.bus.units.pop(unit_name(instance(1)))
        Path(state.directory(instance(1))).rename(state.directory(name))
        (desk.root / "registry/nvme0/unit").write_text(unit_name(name) + "\n")

    daemon(desk, fold)
    assert desk.run("connect", "192.0.2.1:4420", NQN.format(1))[:2] == (0, f"{name}: live nvme0\n")


def test_nothing_comes_of_it(desk: Desk) -> None:
    daemon(desk, lambda: None)
    status, _, errors = desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert status == Exit.TIMED_OUT
    assert "journalctl -u discoverd.service" in errors


def test_without_the_daemon_nothing_is_left(desk: Desk) -> None:
    desk.bus.units["discoverd.service"].active = "inactive"
    status, _, errors = desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert status == Exit.FAILED
    assert "systemctl start discoverd" in errors
    assert drop_ins(desk) == []


def test_nothing_is_left_of_what_discoverd_has_not_taken_up(desk: Desk) -> None:
    mistake = Diagnostic("/etc/nvme/nvme-fabrics.conf", 3, 1, "error", "no such key", "remove it")
    desk.bus.on_reload = lambda _: reload.answer(reload.now(), [mistake])
    status, _, errors = desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert (status, drop_ins(desk)) == (Exit.FAILED, [])
    assert "/etc/nvme/nvme-fabrics.conf:3" in errors
    desk.bus.on_reload = lambda _: None
    Path(reload.path()).unlink()
    status, _, errors = desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert (status, drop_ins(desk)) == (Exit.FAILED, [])
    assert "systemctl status discoverd" in errors


@pytest.mark.parametrize("taken_up", [False, True])
def test_an_interrupt_leaves_only_what_discoverd_has_taken_up(desk: Desk, taken_up: bool) -> None:
    def interrupted(_: str) -> None:
        if taken_up:
            reload.answer(reload.now(), ())
        raise KeyboardInterrupt

    desk.bus.on_reload = interrupted
    assert desk.run("connect", "192.0.2.1:4420", NQN.format(1))[0] == 130
    assert len(drop_ins(desk)) == taken_up


def test_an_exclusion_of_what_is_not_known_yet_counts_before_anything_is_written(desk: Desk) -> None:
    lists = desk.root / "etc/nvme"
    lists.mkdir(parents=True)
    (lists / "exclusions.conf").write_text("[exclusions]\nexclusion = transport=tcp;traddr=192.0.2.1\n")
    status, _, errors = desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert (status, "exclusions.conf:2" in errors) == (Exit.REFUSED, True)
    assert drop_ins(desk) == []
    assert desk.bus.called == []


def test_waiting_for_an_attempt_asks_systemd_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def none(pattern: str) -> list[object]:
        asked.append(pattern)
        return []

    monkeypatch.setattr(desk.bus, "_ListUnitsByPatterns", none)
    daemon(desk, lambda: desk.controller(1, "nvme0", report="connecting", status="connecting"))
    assert desk.run("connect", "192.0.2.1:4420", NQN.format(1))[0] == Exit.TIMED_OUT
    # Before it is written, to see what is there.
    assert len(asked) == 1


CONFIGURED = "configured at /etc/nvme/nvme-fabrics.conf:3"
LISTED = "listed in the log page of tcp:192.0.2.1:8009:nqn.2014-08.org.nvmexpress.discovery"


def test_what_is_configured_is_shown_or_started(desk: Desk) -> None:
    name = desk.controller(1, "nvme0")
    desk.plan["controllers"][0]["sources"] = CONFIGURED
    assert desk.run("connect", "192.0.2.1:4420", NQN.format(1))[:2] == (0, f"{name}: live nvme0\n")
    assert drop_ins(desk) == []
    desk.bus.units[unit_name(name)].active = "inactive"
    desk.bus.on_start = lambda unit: setattr(desk.bus.units[unit], "active", "active")
    assert desk.run("connect", "192.0.2.1:4420", NQN.format(1))[0] == 0
    assert desk.bus.called == [("StartUnit", unit_name(name), "replace")]


@pytest.mark.parametrize("sources", ["", LISTED, "announced by mDNS as 'x' on eth0"])
def test_what_others_ask_for_or_nobody_any_more_is_asked_for_and_started(desk: Desk, sources: str) -> None:
    name = desk.controller(1, "nvme0", unit=Unit("inactive"))
    desk.plan["controllers"][0]["sources"] = sources
    daemon(desk, lambda: None)
    desk.bus.on_start = lambda unit: setattr(desk.bus.units[unit], "active", "active")
    assert desk.run("connect", "192.0.2.1:4420", NQN.format(1))[:2] == (0, f"{name}: live nvme0\n")
    assert [one[0] for one in desk.bus.called] == ["ReloadUnit", "StartUnit"]
    assert len(drop_ins(desk)) == 1


def test_what_has_a_unit_through_an_interface_is_asked_for_through_it(desk: Desk) -> None:
    """Else it would get a second unit, and the two would take it from each other."""
    desk.controller(1, "nvme0")
    name = f"{instance(1)}::eth0"
    desk.plan["controllers"][0] |= {"instance": name, "sources": LISTED, "host_iface": "eth0"}
    desk.bus.units[unit_name(name)] = desk.bus.units.pop(unit_name(instance(1)))
    folder = Path(state.directory(instance(1))).rename(state.directory(name))
    spec = state.Spec.decode((folder / "spec").read_bytes())
    spec.options.append(("host_iface", "eth0"))
    (folder / "spec").write_bytes(spec.encode())
    (desk.root / "registry/nvme0/unit").write_text(unit_name(name) + "\n")
    daemon(desk, lambda: None)
    assert desk.run("connect", "192.0.2.1:4420", NQN.format(1))[:2] == (0, f"{name}: live nvme0\n")
    (path,) = drop_ins(desk)
    assert path == runtime_drop_in.path(name)
    assert path.read_text().endswith("traddr=192.0.2.1;trsvcid=4420;host-iface=eth0\n")


def test_disconnect_removes_what_connect_has_written(desk: Desk) -> None:
    daemon(desk, lambda: desk.controller(1, "nvme0"))
    assert desk.run("connect", "192.0.2.1:4420", NQN.format(1))[0] == 0
    (path,) = drop_ins(desk)
    desk.plan["controllers"][0]["sources"] = f"configured at {path}:5"
    desk.bus.on_stop = lambda unit: setattr(desk.bus.units[unit], "active", "inactive")
    assert desk.run("disconnect", "nvme0")[0] == 0
    assert drop_ins(desk) == []
    # The daemon has not been reloaded yet: to connect it again takes the file all the same.
    desk.bus.on_start = lambda unit: setattr(desk.bus.units[unit], "active", "active")
    daemon(desk, lambda: None)
    desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert drop_ins(desk) == [path]


def test_families_and_interfaces_that_are_left_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = desk.root / "discoverd.conf"
    monkeypatch.setattr(settings, "SETTINGS_CONF", conf)
    conf.write_text("[Global]\naddress-families = ipv6\n")
    status, _, errors = desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert (status, drop_ins(desk), desk.bus.called) == (Exit.REFUSED, [], [])
    assert "address-families in discoverd.conf leaves out IPv4" in errors
    conf.write_text("[Global]\nignore-iface = yes\n")
    daemon(desk, lambda: desk.controller(1, "nvme0"))
    ended = desk.run("connect", "--host-iface", "eth0", "192.0.2.1:4420", NQN.format(1))
    assert ended[:2] == (0, f"{instance(1)}: live nvme0\n")


def test_what_is_excluded_or_anothers_is_not_connected(desk: Desk) -> None:
    desk.controller(1, "", action="leave", unit=Unit("inactive"))
    desk.plan["controllers"][0]["excluded_by"] = "/etc/nvme/exclusions.conf:3"
    status, _, errors = desk.run("connect", "192.0.2.1:4420", NQN.format(1))
    assert (status, "discoverctl unexclude" in errors) == (Exit.REFUSED, True)
    desk.kernel(2, "nvme2", owner="stas")
    status, _, errors = desk.run("connect", "192.0.2.1:4420", NQN.format(2))
    assert (status, "belongs to stas" in errors) == (Exit.REFUSED, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["192.0.2.1"], ("192.0.2.1", "")),
        (["[2001:db8::1]:4420"], ("2001:db8::1", "4420")),
        (["[2001:db8::1]"], ("2001:db8::1", "")),
        (["2001:db8::1"], ("2001:db8::1", "")),
    ],
)
def test_addresses(words: list[str], expected: tuple[str, str]) -> None:
    assert Request("tcp", words[0], "").target() == expected


@pytest.mark.parametrize(
    "request_",
    [
        Request("tcp", "192.0.2.1:x", NQN.format(1)),
        Request("tcp", "192.0.2.1:4420", "nqn.x"),
        Request("tcp", "192.0.2.1;tos=3", NQN.format(1)),
        Request("tcp", "192.0.2.1\n[Host]", NQN.format(1)),
        Request("tcp", "192.0.2.1", NQN.format(1) + "\ncontroller = transport=tcp;traddr=192.0.2.9"),
        Request("tcp", "192.0.2.1", NQN.format(1), host_iface="eth0;tos=1"),
        Request("tcp", "host.example", NQN.format(1)),
        Request("fc", "192.0.2.1", NQN.format(1)),
        Request("tcp", "[192.0.2.1]x", NQN.format(1)),
    ],
)
def test_what_makes_no_sense_is_not_written(desk: Desk, request_: Request) -> None:
    def write() -> None:
        connect._write(request_, runtime_drop_in.path(connect._identity(request_).instance))

    with pytest.raises(CliError) as raised:
        write()
    assert raised.value.exit_status is Exit.USAGE
    assert drop_ins(desk) == []


def test_discovery_controller_needs_no_nqn() -> None:
    text = connect.content(Request("tcp", "192.0.2.1", "", host_iface="eth0"))
    assert text.endswith("\n[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.1;host-iface=eth0\n")


def test_the_daemon_serves_it_and_takes_it_up_again_after_a_restart(host: Host) -> None:
    directory = host.root / "run/nvme-fabrics.conf.d"
    directory.mkdir(parents=True)
    (directory / "x.conf").write_text(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)

    host.play(scenario)
    assert host.systemd.started == [ONE]
    assert host.decisions[ONE].reason == f"configured at {directory}/x.conf:3"
