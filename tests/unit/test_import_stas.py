# SPDX-License-Identifier: Apache-2.0
"""discoverctl import-stas: what becomes of nvme-stas's files, and that nothing harmful or secret comes out."""

import configparser
import os
import re
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd import exclusions
from discoverd.cli import drop_ins, import_stas
from discoverd.config.finding import Findings
from discoverd.config.settings import Settings, load_settings
from discoverd.config.sources import SourceFile
from discoverd.stas import grammar
from discoverd.stas.host import KEYS
from discoverd.stas.service import TABLES
from discoverd.stas.values import BadValueError, seconds
from discoverd.tid import DISCOVERY_NQN

from . import dhchap_secrets
from .fake_import import HOST_NQN, OTHER_NQN, OTHER_UUID, UUID, ImportDesk

NQN = "nqn.2024-08.com.example:vol1"
SECRET = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:"
PADDED = dhchap_secrets.secret("padded", "02", 48)
DC = "controller = transport=tcp;traddr=192.0.2.1\n"
GLOBAL = "[Global]\n"
CONTROLLERS = "[Controllers]\n"
DC_MANAGEMENT = "[Discovery controller connection management]\n"
IO_MANAGEMENT = "[I/O controller connection management]\n"


class Desk(ImportDesk):
    """A host with nvme-stas's files."""

    def put(self, **files: str) -> None:
        for name, content in files.items():
            (self.source / f"{name}.conf").write_text(content)

    @property
    def fabrics_path(self) -> Path:
        return self.nvme / "nvme-fabrics.conf.d/50-nvme-stas.conf"

    @property
    def settings(self) -> Settings:
        settings, faults = load_settings(self.nvme / "discoverd.conf")
        assert faults == ()
        return settings

    @property
    def excluded(self) -> list[str]:
        lists = exclusions.load(str(self.nvme))
        assert lists.problems == []
        return [";".join(f"{key}={value}" for key, value in one.fields.items()) for one in lists.entries]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, import_stas, monkeypatch)


# As a whole


def test_all_three_files(desk: Desk) -> None:
    desk.put(
        sys="[Host]\nsymname = db one\n",
        stafd=f"{GLOBAL}kato=45\n[Service Discovery]\nzeroconf=disabled\n{CONTROLLERS}{DC}"
        "exclude = nqn=nqn.2024-08.com.example:dc\n",
        stacd=f"{GLOBAL}ctrl-loss-tmo = -1\nhdr-digest=TRUE\n{IO_MANAGEMENT}disconnect-scope = no-disconnect\n"
        f"{CONTROLLERS}controller = transport = rdma ; traddr = 192.0.2.9; nqn={NQN};nr-io-queues=4;;\n",
    )
    status, output, errors = desk.run()
    assert (status, errors) == (0, "")
    config = desk.fabrics
    assert (config.valid, config.diagnostics) == (True, ())
    finder, volume = config.connections
    assert (finder.role, finder.transport, finder.traddr, finder.trsvcid) == ("discovery", "tcp", "192.0.2.1", "8009")
    assert (finder.subsysnqn, dict(finder.params)) == (DISCOVERY_NQN, {"keep-alive-tmo": "45"})
    assert (finder.hostnqn, finder.hostid, finder.hostsymname) == (HOST_NQN, "", "db one")
    assert (volume.role, volume.transport, volume.trsvcid, volume.subsysnqn) == ("io", "rdma", "4420", NQN)
    assert dict(volume.params) == {"ctrl-loss-tmo": "-1", "hdr-digest": "true", "nr-io-queues": "4"}
    assert config.discovered(finder, "io").params == {"ctrl-loss-tmo": "-1", "hdr-digest": "true"}
    assert desk.settings == Settings(mdns=False, disconnect_scope="none")
    assert desk.excluded == ["nqn=nqn.2024-08.com.example:dc"]
    assert f"{desk.fabrics_path}: written" in output
    assert "2 controllers and 1 exclusion carried over; 0 not carried over" in output
    assert "systemctl disable --now stafd.service stacd.service" in output
    assert stat.S_IMODE(desk.fabrics_path.stat().st_mode) == 0o644


def test_the_files_as_they_are_shipped_ask_for_nothing(desk: Desk) -> None:
    desk.put(stafd="# a comment\n[Global]\n# kato=30\n[Controllers]\n#controller=\n", stacd="")
    status, output, _ = desk.run()
    assert status == 0
    assert "0 controllers and 0 exclusions carried over; 0 not carried over, 0 with a difference, 0 that" in output
    assert not desk.nvme.exists()


def test_no_files(desk: Desk) -> None:
    status, output, errors = desk.run()
    assert (status, output) == (1, "")
    assert "has none of sys.conf, stafd.conf, stacd.conf; say where they are: discoverctl import-stas --from" in errors


def test_a_file_that_cannot_be_read(desk: Desk) -> None:
    (desk.source / "stafd.conf").mkdir()
    status, _, errors = desk.run()
    assert status == 1
    assert "stafd.conf is not a regular file; mend that" in errors


def test_a_dry_run_shows_all_but_the_secrets_and_writes_nothing(desk: Desk) -> None:
    odd = dhchap_secrets.secret("odd", "03", 64)
    desk.put(
        sys=f"[Host]\nkey = {SECRET}\n",
        stafd=f"{CONTROLLERS}controller=transport=tcp;traddr=192.0.2.1;dhchap-secret={odd};"
        f"dhchap-ctrl-secret={PADDED}\n",
    )
    status, output, errors = desk.run("--dry-run")
    assert (status, errors) == (0, "")
    assert output.count("= <secret>") == 3
    assert "(mode 0600) would be:" in output
    assert "    controller = transport=tcp;traddr=192.0.2.1;trsvcid=8009\n" in output
    assert "Nothing was written" in output
    for secret in (SECRET, odd, PADDED):
        assert secret.removeprefix("DHHC-1:")[3:9] not in output
    assert not desk.nvme.exists()


def test_secret_of_another_form_is_lost_with_the_reason_and_not_shown(desk: Desk) -> None:
    odd = "not-even-a-real-one"
    desk.put(stafd=f"{CONTROLLERS}controller=transport=tcp;traddr=192.0.2.1;dhchap-secret={odd}\n")
    status, output, errors = desk.run()
    assert status == 1
    assert "it has not the form" in desk.finding(output, "stafd.conf", 2)
    assert odd not in output + errors


def test_second_import_does_not_overwrite_edited_files(desk: Desk) -> None:
    desk.put(stafd=CONTROLLERS + DC)
    assert desk.run()[0] == 0
    written = desk.fabrics_path.read_text()
    status, output, _ = desk.run()
    assert status == 0
    assert f"{desk.fabrics_path}: as it was" in output
    desk.put(stafd=f"{CONTROLLERS}{DC}exclude=nqn={NQN}\ncontroller=transport=tcp;traddr=192.0.2.2\n")
    status, _, errors = desk.run()
    assert status == 5
    assert f"nothing was written: {desk.fabrics_path} is there and says something else" in errors
    assert desk.fabrics_path.read_text() == written
    assert desk.excluded == []
    assert desk.run("--force")[0] == 0
    assert len(desk.fabrics.connections) == 2
    assert desk.fabrics_path.with_name("50-nvme-stas.conf.bak").read_text() == written
    desk.put(stafd="")
    assert desk.run()[0] == 5
    status, output, _ = desk.run("--force")
    assert status == 0
    assert f"{desk.fabrics_path}: removed" in output
    assert not desk.fabrics_path.exists()
    assert len(desk.fabrics.connections) == 0


def test_import_that_conflicts_with_existing_files_is_refused(desk: Desk) -> None:
    desk.nvme.mkdir()
    (desk.nvme / "nvme-fabrics.conf").write_text(f"[Host]\nhostnqn = {HOST_NQN}\n")
    desk.put(sys="[Host]\nsymname = a\n", stafd=CONTROLLERS + DC)
    status, output, errors = desk.run()
    assert (status, output) == (1, "")
    assert "nothing was written, because this does not go with the files in" in errors
    assert "is already that of" in errors
    assert sorted(os.listdir(desk.nvme)) == ["nvme-fabrics.conf"]


def test_a_path_that_is_configured_already_stays_as_it_is(desk: Desk) -> None:
    desk.nvme.mkdir()
    main_file = desk.nvme / "nvme-fabrics.conf"
    main_file.write_text("[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.1;trsvcid=8009\n")
    desk.put(sys="[Host]\nsymname = a\n", stafd=f"{CONTROLLERS}{DC}{DC}controller=transport=tcp;traddr=192.0.2.2\n")
    _, output, _ = desk.run()
    assert f"the same path stands in {main_file}:2" in desk.finding(output, "stafd.conf", 2)
    assert [one.traddr for one in desk.fabrics.connections] == ["192.0.2.1", "192.0.2.2"]


def test_unreadable_stas_file_needs_root(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.put(stafd=CONTROLLERS + DC)
    fault = SourceFile("stafd.conf", fault="cannot be opened: Permission denied", denied=True)
    monkeypatch.setattr(drop_ins, "read_file", lambda _: fault)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status, _, errors = desk.run()
    assert status == 77
    assert "run it as root" in errors


# Options


@pytest.mark.parametrize(
    ("daemon", "text", "expected"),
    [
        ("stafd", f"{GLOBAL}tron=true", Settings(log_level="debug")),
        ("stacd", f"{GLOBAL}tron=TRUE", Settings(log_level="debug")),
        ("stafd", f"{GLOBAL}tron=true\ntron=false", Settings()),
        ("stafd", f"{GLOBAL}PLEO=Disabled", Settings(pleo=False)),
        ("stafd", f"{GLOBAL}pleo=enabled", Settings()),
        ("stafd", f"{GLOBAL}ip-family=ipv6", Settings(mdns_families=("ipv6",))),
        ("stafd", f"{GLOBAL}ip-family=ipv6+ipv4", Settings()),
        ("stafd", "[Service Discovery]\nzeroconf=DISABLED", Settings(mdns=False)),
        ("stafd", f"{DC_MANAGEMENT}zeroconf-connections-persistence=-1", Settings(mdns_persistence=0)),
        ("stafd", f"{DC_MANAGEMENT}zeroconf-connections-persistence=0", Settings(mdns_persistence=1)),
        ("stafd", f"{DC_MANAGEMENT}zeroconf-connections-persistence=0.5", Settings(mdns_persistence=1)),
        ("stafd", f"{DC_MANAGEMENT}zeroconf-connections-persistence=3 days 5 hours", Settings(mdns_persistence=277200)),
        ("stafd", f"{DC_MANAGEMENT}zeroconf-connections-persistence=20000 days", Settings(mdns_persistence=0)),
        ("stacd", f"{IO_MANAGEMENT}disconnect-scope=only-stas-connections", Settings()),
        (
            "stacd",
            f"{IO_MANAGEMENT}disconnect-scope=all-connections-matching-disconnect-trtypes",
            Settings(disconnect_scope="all"),
        ),
        ("stacd", f"{IO_MANAGEMENT}disconnect-scope=no-disconnect", Settings(disconnect_scope="none")),
        ("stacd", f"{IO_MANAGEMENT}disconnect-trtypes=fc+tcp", Settings(disconnect_transports=("tcp", "fc"))),
        ("stacd", f"{IO_MANAGEMENT}disconnect-trtypes=rdma+x", Settings(disconnect_transports=("rdma",))),
        ("stacd", f"{IO_MANAGEMENT}connect-attempts-on-ncc=0", Settings()),
        ("stacd", f"{IO_MANAGEMENT}connect-attempts-on-ncc=1", Settings(connect_attempts_on_ncc=2)),
        ("stacd", f"{IO_MANAGEMENT}connect-attempts-on-ncc=7", Settings(connect_attempts_on_ncc=7)),
        ("stacd", f"{IO_MANAGEMENT}connect-attempts-on-ncc=-3", Settings(connect_attempts_on_ncc=1)),
        ("stacd", f"{IO_MANAGEMENT}connect-attempts-on-ncc=5000", Settings(connect_attempts_on_ncc=1000)),
    ],
)
def test_settings(desk: Desk, daemon: str, text: str, expected: Settings) -> None:
    desk.put(**{daemon: text + "\n"})
    desk.run()
    assert desk.settings == expected


def test_either_daemon_traces(desk: Desk) -> None:
    desk.put(stafd=f"{GLOBAL}tron=true\n", stacd=f"{GLOBAL}tron=false\n")
    desk.run()
    assert desk.settings.log_level == "debug"


@pytest.mark.parametrize(
    ("daemon", "text", "expected"),
    [
        ("stafd", "kato=\n", 'kato: nvme-stas ignores it: "" is not a whole number'),
        ("stafd", "kato=NaN\n", 'kato: nvme-stas ignores it: "NaN" is not a whole number'),
        ("stafd", "kato=-5\n", "kato: nvme-stas ignores it: -5 is refused by the kernel"),
        ("stafd", "kato=0\n", "kato: nvme-stas ignores it: 0 leaves it to the kernel"),
        ("stafd", "kato=99999999999\n", "is not a number that the kernel can take"),
        ("stacd", "queue-size=5\n", 'queue-size: nvme-stas ignores it: "5" is not a number from 16 to 1024'),
        ("stacd", "queue-size=2000000\n", "is not a number from 16 to 1024"),
        ("stafd", "queue-size=128\n", "queue-size: nvme-stas ignores it: a discovery controller has no such queues"),
        ("stafd", "hdr-digest=yes\n", 'hdr-digest: nvme-stas ignores it: "yes" is not true or false'),
        ("stafd", "hdr-digest\n", "hdr-digest: nvme-stas ignores it: it has no '=', on which nvme-stas fails"),
        ("stafd", "ip-family=IPv4\n", '"IPv4" is not ipv4 or ipv6 or'),
        (
            "stafd",
            "ip-family=ipv4\n",
            "ip-family: not carried over: it counts for the controllers in this file and for",
        ),
        (
            "stacd",
            "ip-family=ipv6\n",
            "ip-family: not carried over: it counts for the controllers in this file; what a log",
        ),
        (
            "stacd",
            "ignore-iface=true\n",
            "ignore-iface: not carried over: it counts for the controllers in this file; what is",
        ),
        ("stacd", "pleo=enabled\n", "pleo: nvme-stas ignores it: stacd knows no such option in [Global]"),
        ("stacd", "katoo=5\n", "stacd knows no such option in [Global]; did you mean kato?"),
        ("stafd", "persistent-connections=false\n", "it is of an older release; remove it"),
        ("stafd", "[Globale]\nkato=5\n", "stafd knows no section [Globale]; did you mean Global?"),
        ("stafd", f"{DC_MANAGEMENT}persistent-connections=false\n", "nothing is disconnected when discoverd.service"),
        ("stafd", f"{DC_MANAGEMENT}zeroconf-connections-persistence=0\n", "nothing is given up at once"),
        ("stafd", f"{DC_MANAGEMENT}zeroconf-connections-persistence=\n", "is not a time such as"),
        ("stafd", f"{DC_MANAGEMENT}zeroconf-connections-persistence=3 weeks\n", "is not a time such as"),
        ("stacd", f"{IO_MANAGEMENT}connect-attempts-on-ncc=1\n", "differs: 1 counts as 2 there"),
        (
            "stacd",
            f"{IO_MANAGEMENT}disconnect-scope=No-Disconnect\n",
            '"No-Disconnect" is not only-stas-connections or',
        ),
        ("stacd", f"{IO_MANAGEMENT}disconnect-trtypes=tcp + fc\n", "is none of tcp, rdma and fc"),
    ],
)
def test_option_is_reported_as_carried_over_or_not(desk: Desk, daemon: str, text: str, expected: str) -> None:
    desk.put(**{daemon: GLOBAL + text})
    status, output, _ = desk.run()
    lines = [line for line in output.splitlines() if line.startswith(f"{desk.source}/{daemon}.conf:")]
    assert any(expected in line for line in lines)
    assert status == (1 if any("not carried over" in line for line in lines) else 0)


def test_defaults_do_not_reach_what_is_announced(desk: Desk) -> None:
    desk.put(stafd="", stacd=f"{GLOBAL}ctrl-loss-tmo=1800\n")
    status, output, _ = desk.run()
    assert status == 1
    assert "[I/O Controller Defaults]: not carried over: it counts for" in desk.finding(output, "stacd.conf", 2)
    desk.put(stafd=CONTROLLERS + DC)
    status, output, _ = desk.run("--force")
    assert status == 0
    assert "[I/O Controller Defaults]: differs: it counts for" in desk.finding(output, "stacd.conf", 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("+1.5", 2),
        ("-1", -1),
        ("1:01", 61),
        (":30", 30),
        ("1:30:00", 5400),
        ("2:00:00:01", 172801),
        ("2 days, 1:00:00", 176400),
        ("72hours", 259200),
        ("72 Hours", 259200),
        ("3d5h", 277200),
        ("1 day / 30 min", 88200),
        ("2hrs 10secs", 7210),
        ("", None),
        ("5h 3d", None),
        ("1 week", None),
        ("ten", None),
        ("1 day 2:00:00:00", None),
        ("9" * 4000, None),
    ],
)
def test_spans_of_time(text: str, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(BadValueError, match="is not a time"):
            seconds(text)
    else:
        assert seconds(text) == expected


# Controllers


@pytest.mark.parametrize(
    ("daemon", "line", "expected"),
    [
        ("stafd", "transport=tcp;traddr=192.0.2.1", ("tcp", "192.0.2.1", "8009", DISCOVERY_NQN, "", "")),
        ("stafd", "transport=rdma;traddr=192.0.2.1", ("rdma", "192.0.2.1", "4420", DISCOVERY_NQN, "", "")),
        ("stafd", "transport=tcp;traddr=dc.example;trsvcid=9", ("tcp", "dc.example", "9", DISCOVERY_NQN, "", "")),
        ("stafd", f"transport=tcp;traddr=::1;nqn={NQN}", ("tcp", "::1", "8009", NQN, "", "")),
        ("stacd", f"transport=tcp;traddr=192.0.2.1;subsysnqn={NQN}", ("tcp", "192.0.2.1", "8009", NQN, "", "")),
        ("stafd", "transport=TCP;traddr=192.0.2.1", ("tcp", "192.0.2.1", "8009", DISCOVERY_NQN, "", "")),
        (
            "stafd",
            "traddr=192.0.2.1;traddr=192.0.2.2; transport = tcp ;;host-iface=eth0;host-traddr=192.0.2.9;junk;x=y",
            ("tcp", "192.0.2.2", "8009", DISCOVERY_NQN, "192.0.2.9", "eth0"),
        ),
        (
            "stafd",
            "transport=rdma;traddr=192.0.2.1;host-iface=eth0",
            ("rdma", "192.0.2.1", "4420", DISCOVERY_NQN, "", ""),
        ),
        (
            "stacd",
            f"transport=fc;traddr=nn-0x1:pn-0x2;host-traddr=nn-0x3:pn-0x4;trsvcid=5;nqn={NQN}",
            ("fc", "nn-0x1:pn-0x2", "", NQN, "nn-0x3:pn-0x4", ""),
        ),
        ("stacd", f"transport=loop;traddr=a;nqn={NQN}", ("loop", "a", "", NQN, "", "")),
    ],
)
def test_a_controller(desk: Desk, daemon: str, line: str, expected: tuple[str, ...]) -> None:
    desk.put(**{daemon: f"{CONTROLLERS}controller={line}\n"})
    assert desk.run()[0] == 0
    one = desk.connection
    assert (one.transport, one.traddr, one.trsvcid, one.subsysnqn, one.host_traddr, one.host_iface) == expected
    assert one.problem == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("controller=", "controller: nvme-stas ignores it: it is empty"),
        ("controller", "controller: nvme-stas ignores it: it has no '='"),
        ("controller=trsvcid", "it is empty"),
        ("controller=traddr=192.0.2.1", "it has no transport"),
        ("controller=transport=tcp", "it has no traddr"),
        ("controller=transport=tpc;traddr=192.0.2.1", 'the transport "tpc" is unknown; did you mean tcp?'),
        ("controller=transport=tcp;traddr=192.0.2.1", "a controller of stacd.conf needs nqn="),
        (f"controller=transport=tcp;traddr=192.0.2.300;nqn={NQN}", "neither an IP address nor a host name"),
        (f"controller=transport=tcp;traddr=192.0.2.1 # one;nqn={NQN}", "comments go on a line of their own"),
        (f"controller=transport=tcp;traddr=192.0.2.1;trsvcid=x;nqn={NQN}", "is not a port number"),
        (f"controller=transport=fc;traddr=nn-0x1:pn-0x2;nqn={NQN}", "a controller over fc needs host-traddr"),
        ("controller=transport=tcp;traddr=192.0.2.1;nqn=vol1", "does not begin with 'nqn.'"),
        (f"controller=transport=tcp;traddr=192.0.2.1;nqn={DISCOVERY_NQN}", "stands in a [Subsystem]"),
    ],
)
def test_malformed_controller_is_reported(desk: Desk, line: str, expected: str) -> None:
    desk.put(stacd=f"{CONTROLLERS}{line}\n")
    status, output, _ = desk.run()
    told = [text for text in output.splitlines() if text.startswith(f"{desk.source}/stacd.conf:2: ")]
    assert any(expected in text for text in told)
    assert status == int("not carried over" in "".join(told))
    assert not desk.fabrics_path.exists()


def test_each_continuation_is_a_controller(desk: Desk) -> None:
    desk.put(stafd=f"{CONTROLLERS}{DC}\n# a comment\n  transport=tcp;traddr=192.0.2.2\n{DC.replace('2.1', '2.3')}")
    desk.run()
    assert [one.traddr for one in desk.fabrics.connections] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest.mark.parametrize("secret", [SECRET, PADDED], ids=["plain", "padded"])
def test_secrets(desk: Desk, secret: str) -> None:
    line = f"controller=transport=tcp;traddr=192.0.2.1;dhchap-secret={secret};dhchap-ctrl-secret={SECRET}\n"
    desk.put(stafd=CONTROLLERS + line)
    status, output, errors = desk.run()
    assert (status, errors) == (0, "")
    assert desk.connection.secrets.kxchap_secret == secret
    assert desk.connection.secrets.kxchap_ctrl_secret == SECRET
    assert desk.fabrics.diagnostics == ()
    assert stat.S_IMODE(desk.fabrics_path.stat().st_mode) == 0o600
    assert "DHHC" not in output
    assert ("it drops a secret with a '=' in it" in output) is (secret == PADDED)


def test_the_secret_of_a_controller_needs_one_of_the_host(desk: Desk) -> None:
    desk.put(stafd=f"{CONTROLLERS}controller=transport=tcp;traddr=192.0.2.1;dhchap-ctrl-secret={SECRET}\n")
    status, output, _ = desk.run()
    assert status == 1
    assert "does nothing without the host's" in desk.finding(output, "stafd.conf", 2)
    assert desk.connection.secrets.kxchap_ctrl_secret == ""
    desk.put(sys=f"[Host]\nkey={SECRET}\n")
    assert desk.run("--force")[0] == 0
    assert desk.connection.secrets.kxchap_secret == desk.connection.secrets.kxchap_ctrl_secret == SECRET


def test_a_controllers_own_secret_counts_beside_one_of_the_host(desk: Desk) -> None:
    own = dhchap_secrets.secret("own")
    desk.put(sys=f"[Host]\nkey={SECRET}\n", stafd=f"{CONTROLLERS}{DC.strip()};dhchap-secret={own}\n")
    status, output, _ = desk.run()
    assert status == 0
    assert "dhchap-secret: differs: the host's key in sys.conf" in desk.finding(output, "stafd.conf", 2)
    assert desk.connection.secrets.kxchap_secret == own


def test_families(desk: Desk) -> None:
    desk.put(
        stafd=f"{GLOBAL}ip-family=ipv6\n{CONTROLLERS}{DC}controller=transport=tcp;traddr=dc.example\n"
        "controller=transport=tcp;traddr=2001:db8::1\n"
    )
    _, output, _ = desk.run()
    assert [one.traddr for one in desk.fabrics.connections] == ["dc.example", "2001:db8::1"]
    assert "leaves out IPv4" in desk.finding(output, "stafd.conf", 4)
    assert "does not hold for host names" in desk.finding(output, "stafd.conf", 5)


def test_families_and_interfaces_of_both_daemons_hold_for_everything(desk: Desk) -> None:
    both = f"{GLOBAL}ip-family=ipv4\nignore-iface=true\n{CONTROLLERS}"
    desk.put(stafd=f"{both}controller=transport=tcp;traddr=dc.example\n", stacd=both)
    status, output, _ = desk.run()
    assert status == 0
    assert desk.settings == Settings(address_families=("ipv4",), ignore_iface=True)
    assert "0 not carried over, 0 with a difference, 0 that" in output


def test_interfaces_that_are_ignored(desk: Desk) -> None:
    desk.put(
        stafd=f"{GLOBAL}ignore-iface=true\n{CONTROLLERS}controller=transport=tcp;traddr=192.0.2.1;host-iface=eth0\n"
        "exclude=host-iface=eth1\n"
    )
    _, output, _ = desk.run()
    assert desk.connection.host_iface == ""
    assert desk.excluded == []
    assert "no controller has an interface" in desk.finding(output, "stafd.conf", 5)


# Exclusions


@pytest.mark.parametrize(
    ("daemon", "line", "expected"),
    [
        ("stacd", "transport=tcp;traddr=192.0.2.1", ["transport=tcp;traddr=192.0.2.1"]),
        ("stacd", f"subsysnqn={NQN}", [f"nqn={NQN}"]),
        ("stacd", f"nqn={NQN};host-traddr=192.0.2.9", [f"nqn={NQN};host-traddr=192.0.2.9"]),
        ("stacd", f"nqn={NQN};host-nqn={HOST_NQN}", [f"nqn={NQN};hostnqn={HOST_NQN}"]),
        ("stafd", "traddr=192.0.2.1;trsvcid=8009", ["traddr=192.0.2.1;trsvcid=8009"]),
        ("stafd", "transport=rdma;traddr=192.0.2.1", [f"transport=rdma;traddr=192.0.2.1;nqn={DISCOVERY_NQN}"]),
        ("stafd", "traddr=192.0.2.1;trsvcid=4420", [f"traddr=192.0.2.1;trsvcid=4420;nqn={DISCOVERY_NQN}"]),
        (
            "stafd",
            "traddr=192.0.2.1",
            [f"traddr=192.0.2.1;nqn={DISCOVERY_NQN}", "traddr=192.0.2.1;trsvcid=8009"],
        ),
    ],
)
def test_an_exclusion(desk: Desk, daemon: str, line: str, expected: list[str]) -> None:
    desk.put(**{daemon: f"{CONTROLLERS}exclude={line}\n"})
    assert desk.run()[0] == 0
    assert desk.excluded == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("exclude=", "not carried over: without a field it keeps nvme-stas from connecting anything"),
        ("exclude=;;", "a part of it is not key=value"),
        ("exclude=192.0.2.1", "a part of it is not key=value"),
        ("exclude=kato=5", 'exclusions have no "kato"'),
        ("exclude=traddr=", "traddr has no value"),
        ("exclude=transport=tcp;traddr=dc.example", "names are not looked up"),
        ("exclude=host-iface=enp0s8 # never", "put the comment on a line of its own"),
        ("exclude=transport=TCP", "matches nothing"),
    ],
)
def test_malformed_exclusion_is_reported(desk: Desk, line: str, expected: str) -> None:
    desk.put(stafd=f"{CONTROLLERS}{line}\n")
    status, output, _ = desk.run()
    assert status == 1
    assert expected in desk.finding(output, "stafd.conf", 2)
    assert desk.excluded == []


def test_exclusion_of_everything_by_accident_excludes_what_it_says(desk: Desk) -> None:
    desk.put(stacd=f"{CONTROLLERS}exclude=host-traddr=192.0.2.9\nexclude=nqn=nqn.2024-08.com.example:a=b\n")
    status, output, _ = desk.run()
    assert status == 0
    assert desk.excluded == ["host-traddr=192.0.2.9", "nqn=nqn.2024-08.com.example:a=b"]
    assert "it leaves nqn out of the comparison" in desk.finding(output, "stacd.conf", 3)


def test_exclusion_of_both_daemons_is_written_once(desk: Desk) -> None:
    both = f"{CONTROLLERS}exclude=transport=tcp;traddr=192.0.2.1\n"
    desk.put(stafd=both + DC, stacd=both)
    status, output, _ = desk.run()
    assert status == 0
    assert desk.excluded == ["transport=tcp;traddr=192.0.2.1"]
    assert "0 with a difference" in output


def test_an_exclusion_of_subsystems_that_would_take_a_discovery_controller_away(desk: Desk) -> None:
    desk.put(stafd=CONTROLLERS + DC, stacd=f"{CONTROLLERS}exclude=traddr=192.0.2.1\n")
    status, output, _ = desk.run()
    assert status == 1
    assert f"the exclude in {desk.source}/stacd.conf:2 keeps it away" in desk.finding(output, "stafd.conf", 2)


def test_an_excluded_interface_is_not_listened_on(desk: Desk) -> None:
    desk.put(stafd=f"{CONTROLLERS}exclude=host-iface=eth1\nexclude=host-iface=eth2\nexclude=host-iface=eth1\n")
    desk.run()
    assert desk.settings.mdns_ignore_interfaces == ("eth1", "eth2")
    assert len(desk.excluded) == 4


# The host


def test_the_hosts_own_identity_needs_no_words(desk: Desk) -> None:
    desk.put(sys=f"[Host]\nnqn=file://{desk.root}/host/hostnqn\nid={UUID.upper()}\n", stafd=CONTROLLERS + DC)
    status, output, _ = desk.run()
    assert (status, desk.connection.hostnqn) == (0, "")
    assert "0 not carried over, 0 with a difference, 0 that" in output


def test_own_identity_in_another_case_needs_no_words(desk: Desk) -> None:
    desk.put(sys=f"[Host]\nnqn={HOST_NQN.replace(UUID, UUID.upper())}\n", stafd=CONTROLLERS + DC)
    status, output, _ = desk.run()
    assert (status, desk.connection.hostnqn) == (0, "")
    assert "0 not carried over, 0 with a difference, 0 that" in output


def test_another_identity(desk: Desk) -> None:
    desk.put(sys=f"[Host]\nnqn={OTHER_NQN}\nid={OTHER_UUID}\n", stafd=CONTROLLERS + DC)
    status, output, _ = desk.run()
    assert status == 0
    assert (desk.connection.hostnqn, desk.connection.hostid) == (OTHER_NQN, OTHER_UUID)
    assert "it is not what /etc/nvme/hostnqn says" in desk.finding(output, "sys.conf", 2)


@pytest.mark.parametrize(
    ("text", "expected", "lost"),
    [
        ("nqn=nqn.2024-08.com.example:host", "two host NQNs must not share one", True),
        (f"nqn={OTHER_NQN}", f"it goes with the host ID in it ({OTHER_UUID})", False),
        ("nqn=host", "does not begin with 'nqn.'", True),
        ("id=17", "is not a UUID", True),
        (f"id={OTHER_UUID}", "the kernel takes one host ID for one host NQN", False),
        ("nqn=", "nqn: nvme-stas ignores it: it is empty", False),
        ("id=file:///does/not/exist", "/does/not/exist does not exist", False),
        ("key=a, b", "key: not carried over: kxchap-secret holds a comma", True),
        ("symname=" + "x" * 257, "it is longer than 256 bytes", True),
        ("name=x", "sys.conf has [Host] with nqn, id, symname, key", False),
        ("[host]\nnqn=x", "[host]: nvme-stas ignores it", False),
    ],
)
def test_host_setting_is_reported_as_carried_over_or_not(desk: Desk, text: str, expected: str, lost: bool) -> None:
    desk.put(sys=f"[Host]\n{text}\n", stafd=CONTROLLERS + DC)
    status, output, _ = desk.run()
    assert expected in output
    assert status == int(lost)
    assert desk.connection.problem == ""


def test_values_in_files_of_their_own(desk: Desk) -> None:
    (desk.root / "name").write_text("db one\nsecond line\n")
    (desk.root / "host/hostkey").write_text(SECRET + "\n")
    desk.put(sys=f"[Host]\nsymname=file://{desk.root}/name\n", stafd=CONTROLLERS + DC)
    assert desk.run()[0] == 0
    assert desk.connection.hostsymname == "db"
    assert desk.connection.secrets.kxchap_secret == SECRET
    assert stat.S_IMODE(desk.fabrics_path.stat().st_mode) == 0o600


def test_a_host_without_a_name(desk: Desk) -> None:
    (desk.root / "host/hostnqn").unlink()
    desk.put(sys="[Host]\nsymname=a\n", stafd=CONTROLLERS + DC)
    status, output, _ = desk.run()
    assert status == 1
    assert "create one: nvme gen-hostnqn" in output
    assert desk.connection.hostnqn == ""


# Whatever the files hold

_WORD = st.sampled_from(
    [
        *("[Global]", "[Controllers]", "[Host]", "[controllers]", DC_MANAGEMENT.strip(), IO_MANAGEMENT.strip(), "["),
        *("controller", "exclude", "=", ";", "\n", "\n", "\n ", "\r\n", " ", "#", "\t", "\0", "\x85", "\u2028", ","),
        *("transport=tcp", "traddr=192.0.2.1", "traddr=::1", f"nqn={NQN}", "host-traddr=192.0.2.9", "trsvcid=8009"),
        *("host-iface=eth0", "kato=5", "ignore-iface=true", "ip-family=ipv4", "zeroconf=disabled", "none", "file://"),
        *("id", "key", "symname", "nqn", "dhchap-secret=DHHC-1:00:a=", "dhchap-ctrl-secret=x", "disconnect-scope"),
    ]
)
_LINE = st.builds(
    lambda key, parts: f"{key}={';'.join(parts)}\n",
    st.sampled_from(["controller", "exclude", "controller", "exclude", "  "]),
    st.lists(_WORD, max_size=6),
)
_TEXT = st.builds(
    lambda head, parts: (head + "".join(parts)).encode(),
    st.sampled_from(["[Controllers]\n", "[Global]\n", "[Host]\n", ""]),
    st.lists(st.one_of(_LINE, _WORD, st.text(max_size=8)), max_size=25),
)
_FILE = st.one_of(_TEXT, st.binary(max_size=200))


@given(sys=_FILE, stafd=_FILE, stacd=_FILE)
def test_no_file_does_harm(sys: bytes, stafd: bytes, stacd: bytes) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        desk = Desk(Path(name), import_stas, monkeypatch)
        for daemon, content in (("sys", sys), ("stafd", stafd), ("stacd", stacd)):
            (desk.source / f"{daemon}.conf").write_bytes(content)
        assert desk.run()[0] in (0, 1)
        config = desk.fabrics
        assert config.diagnostics == ()
        assert desk.settings
        assert len(desk.excluded) >= 0
        lists = exclusions.load(str(desk.nvme))
        one = {"transport": "tcp", "traddr": "192.0.2.1", "trsvcid": "8009", "nqn": NQN, "host_iface": "eth0"}
        other = {"transport": "rdma", "traddr": "::2", "trsvcid": "1", "nqn": "nqn.2024-08.com.example:z"}
        for entry in lists.entries:
            alone = exclusions.Exclusions([entry], [])
            assert not (alone.match(one) and alone.match(other))


@given(token=st.text("abcdefGHIJ0123456789+/", min_size=12, max_size=40), where=st.integers(0, 5), dry=st.booleans())
def test_secrets_are_never_shown(token: str, where: int, dry: bool) -> None:
    token = f"9{token}"
    text = [
        f"{CONTROLLERS}controller=transport=tcp;traddr=192.0.2.1;dhchap-secret={token}=\n",
        f"{CONTROLLERS}controller=transport=tcp;traddr=192.0.2.1;dhchap-secret=a;dhchap-ctrl-secret={token}, b\n",
        f"{CONTROLLERS}controller=transport=tcp;dhchap-secret={token}\n",
        f"{CONTROLLERS}controller=transport=tcp;traddr=192.0.2.1;dhchap-secret=DHHC-1:00:\n{token}==\n",
        f"{CONTROLLERS}controller=transport=tcp;traddr=192.0.2.1;dhchap-secret=DHHC-1:00:\n  {token}==\n",
        f"{CONTROLLERS}exclude=traddr=192.0.2.1;dhchap-secret={token}\n",
    ][where]
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        desk = Desk(Path(name), import_stas, monkeypatch)
        desk.put(sys=f"[Host]\nkey={token} {'' if where % 2 else ','}\n", stafd=text)
        _, output, errors = desk.run(*(["--dry-run"] if dry else []))
        assert token not in output + errors
        assert "carried over" in output


class _Multiple(dict[Any, Any]):
    def __setitem__(self, key: object, value: object) -> None:
        if key in self and isinstance(value, list):
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


@given(_FILE)
def test_files_are_read_as_configparser_reads_them(data: bytes) -> None:
    options: dict[str, Any] = {"default_section": None, "allow_no_value": True, "strict": False}
    oracle = configparser.ConfigParser(delimiters=("=",), interpolation=None, dict_type=_Multiple, **options)
    try:
        text = data.decode()
        oracle.read_string(text.replace("\r\n", "\n").replace("\r", "\n"))
    except (UnicodeDecodeError, configparser.Error, AttributeError, TypeError):
        return
    theirs = {
        (section, key): [line for line in value.split("\n") if line]
        for section in oracle.sections()
        for key, value in oracle.items(section)
        if value
    }
    ours: dict[tuple[str, str], list[str]] = {}
    for option in grammar.read(SourceFile("f", data), Findings("f", "nvme-stas")):
        if option.value:
            ours.setdefault((option.section, option.key), []).append(option.value)
    # A key without '=' takes the values before it away, and nvme-stas fails on it then.
    bare = {(section, key) for section in oracle.sections() for key, value in oracle.items(section) if value is None}
    assert {place: lines for place, lines in ours.items() if place not in bare} == {
        place: lines for place, lines in theirs.items() if lines
    }


def test_the_table_has_every_option() -> None:
    page = (Path(__file__).parents[2] / "docs/design/nvme-stas.md").read_text()
    cells = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", page, re.MULTILINE)
    assert {key for cell in cells for key in re.findall(r"[a-z-]+", cell)} >= {
        key for table in TABLES.values() for _, key in table
    } | set(KEYS) | {"controller", "exclude"}
