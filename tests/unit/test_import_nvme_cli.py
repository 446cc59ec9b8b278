# SPDX-License-Identifier: Apache-2.0
"""discoverctl import-nvme-cli: what becomes of nvme-cli 2's files, and that nothing of them is lost without a word."""

import json
import re
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.cli import import_nvme_cli
from discoverd.config.finding import Findings
from discoverd.config.sources import SourceFile
from discoverd.nvme_cli import config_json, discovery_conf, located_json
from discoverd.nvme_cli.options import OPTIONS
from discoverd.tid import DISCOVERY_NQN

from . import dhchap_secrets
from .fake_import import HOST_NQN, OTHER_NQN, OTHER_UUID, UUID, ImportDesk

NQN = "nqn.2024-08.com.example:vol1"
SECRET = dhchap_secrets.secret("host")
PADDED = dhchap_secrets.secret("padded", "02", 48)


class Desk(ImportDesk):
    """A host with nvme-cli's files."""

    def lines(self, *lines: str) -> None:
        (self.source / "discovery.conf").write_text("".join(f"{line}\n" for line in lines))

    def json(self, value: object) -> None:
        (self.source / "config.json").write_text(json.dumps(value, indent=2))

    def ports(self, *ports: dict[str, Any], nqn: str = NQN, **host: object) -> None:
        """Write a host with one subsystem."""
        self.json([{"hostnqn": HOST_NQN, "subsystems": [{"nqn": nqn, "ports": list(ports)}], **host}])

    def path(self, name: str = "50-nvme-cli.conf") -> Path:
        return self.nvme / "nvme-fabrics.conf.d" / name


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, import_nvme_cli, monkeypatch)


PORT = {"transport": "tcp", "traddr": "192.0.2.10", "trsvcid": "4420"}


# As a whole


def test_both_files(desk: Desk) -> None:
    desk.lines("# ours", "", "--transport=tcp --traddr=192.0.2.1 --trsvcid=8009", "-t rdma -a 192.0.2.2 -s 4420 -p")
    desk.ports({**PORT, "ctrl_loss_tmo": 1800, "hdr_digest": True}, {**PORT, "traddr": "198.51.100.10"})
    status, output, errors = desk.run()
    assert (status, errors) == (0, "")
    config = desk.fabrics
    assert (config.valid, config.diagnostics) == (True, ())
    volume, other, finder, second = config.connections
    assert (volume.role, volume.traddr, volume.trsvcid, volume.subsysnqn) == ("io", "192.0.2.10", "4420", NQN)
    assert (dict(volume.params), dict(other.params)) == ({"ctrl-loss-tmo": "1800", "hdr-digest": "true"}, {})
    assert (finder.role, finder.transport, finder.traddr, finder.trsvcid) == ("discovery", "tcp", "192.0.2.1", "8009")
    assert (second.transport, second.trsvcid, second.persistent) == ("rdma", "4420", "force")
    assert finder.subsysnqn == DISCOVERY_NQN
    assert {one.hostnqn for one in config.connections} == {""}
    assert f"{desk.path()}: written" in output
    assert "4 controllers carried over; 0 not carried over, 1 with a difference, 0 that nvme-cli ignores" in output
    assert "asks each address here for a log page, too" in desk.finding(output, "config.json", 10)
    assert "systemctl enable --now discoverd.service" in output
    assert stat.S_IMODE(desk.path().stat().st_mode) == 0o644


def test_no_files(desk: Desk) -> None:
    status, output, errors = desk.run()
    assert (status, output) == (1, "")
    assert "has none of config.json, discovery.conf; say where they are: discoverctl import-nvme-cli --from" in errors


def test_file_as_it_is_shipped_asks_for_nothing(desk: Desk) -> None:
    desk.lines("# Used for extracting default parameters for discovery", "#", "# --transport=<trtype>", "", "   ")
    status, output, _ = desk.run()
    assert status == 0
    assert "0 controllers carried over; 0 not carried over, 0 with a difference, 0 that" in output
    assert "Next" not in output
    assert not desk.nvme.exists()


def test_dry_run_shows_all_but_the_secrets_and_writes_nothing(desk: Desk) -> None:
    desk.ports({**PORT, "dhchap_key": SECRET, "dhchap_ctrl_key": PADDED})
    status, output, errors = desk.run("--dry-run")
    assert (status, errors) == (0, "")
    assert output.count("= <secret>") == 2
    assert "(mode 0600) would be:" in output
    assert "    controller = transport=tcp;traddr=192.0.2.10;trsvcid=4420\n" in output
    for secret in (SECRET, PADDED):
        assert secret[10:20] not in output
    assert not desk.nvme.exists()


def test_second_import_does_not_overwrite_edited_files(desk: Desk) -> None:
    desk.lines("-t tcp -a 192.0.2.1", "-t tcp -a 192.0.2.2 --keep-alive-tmo=7")
    assert desk.run()[0] == 0
    first, second = desk.path(), desk.path("50-nvme-cli-2.conf")
    written = first.read_text()
    status, output, _ = desk.run()
    assert (status, output.count("as it was")) == (0, 2)
    desk.lines("-t tcp -a 192.0.2.3")
    status, _, errors = desk.run()
    assert status == 5
    assert f"nothing was written: {second}, {first} is there and says something else" in errors
    assert first.read_text() == written
    assert desk.run("--force")[0] == 0
    assert [one.traddr for one in desk.fabrics.connections] == ["192.0.2.3"]
    assert not second.exists()
    assert first.with_name("50-nvme-cli.conf.bak").read_text() == written


def test_path_that_is_configured_already_stays_as_it_is(desk: Desk) -> None:
    desk.nvme.mkdir()
    main_file = desk.nvme / "nvme-fabrics.conf"
    main_file.write_text(
        f"[Host]\nhostnqn = {HOST_NQN}\n[Discovery Controller]\ncontroller = transport=tcp;traddr=::1\n"
    )
    desk.lines("-t tcp -a ::1 -s 8009", "-t tcp -a ::1 -f eth0 -s 8009", "-t tcp -a 192.0.2.1 -s 8009", "-t tcp -a ::1")
    _, output, _ = desk.run()
    assert f"the same path stands in {main_file}:4" in desk.finding(output, "discovery.conf", 1)
    assert [(one.traddr, one.host_iface) for one in desk.fabrics.connections] == [
        ("::1", ""),
        ("::1", "eth0"),
        ("192.0.2.1", ""),
    ]


def test_import_that_conflicts_with_existing_files_is_refused(desk: Desk) -> None:
    desk.nvme.mkdir()
    (desk.nvme / "nvme-fabrics.conf").write_text(f"[Host]\nhostnqn = {HOST_NQN}\n")
    desk.ports(PORT, hostsymname="db one")
    status, output, errors = desk.run()
    assert (status, output) == (1, "")
    assert "nothing was written, because this does not go with the files in" in errors


# discovery.conf


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-t tcp -a 192.0.2.1", ("tcp", "192.0.2.1", "", DISCOVERY_NQN, "", "")),
        ("-ttcp -a192.0.2.1 -s4420", ("tcp", "192.0.2.1", "4420", DISCOVERY_NQN, "", "")),
        ("-t=tcp -a=dc.example", ("tcp", "dc.example", "", DISCOVERY_NQN, "", "")),
        ("--transport rdma --traddr=::1 --host-traddr ::2", ("rdma", "::1", "", DISCOVERY_NQN, "::2", "")),
        ("-t tcp -a 192.0.2.1 -w 192.0.2.9 -f eth0", ("tcp", "192.0.2.1", "", DISCOVERY_NQN, "192.0.2.9", "eth0")),
        (f"--transp tcp --trad 192.0.2.1 -n {NQN}", ("tcp", "192.0.2.1", "", NQN, "", "")),
        ("-transport tcp -traddr 192.0.2.1", ("tcp", "192.0.2.1", "", DISCOVERY_NQN, "", "")),
        ("-t tcp -a 192.0.2.1 # -s 17", ("tcp", "192.0.2.1", "", DISCOVERY_NQN, "", "")),
        ("-t tcp -a 192.0.2.1 -a 192.0.2.2", ("tcp", "192.0.2.2", "", DISCOVERY_NQN, "", "")),
        ("--transport = tcp  --traddr  192.0.2.1", ("tcp", "192.0.2.1", "", DISCOVERY_NQN, "", "")),
        ("-t tcp\t-a 192.0.2.1\r", ("tcp", "192.0.2.1", "", DISCOVERY_NQN, "", "")),
        ("-t TCP -a 192.0.2.1", ("tcp", "192.0.2.1", "", DISCOVERY_NQN, "", "")),
        (
            "-t fc -a nn-0x1:pn-0x2 -w nn-0x3:pn-0x4 -s none",
            ("fc", "nn-0x1:pn-0x2", "", DISCOVERY_NQN, "nn-0x3:pn-0x4", ""),
        ),
    ],
)
def test_a_line(desk: Desk, line: str, expected: tuple[str, ...]) -> None:
    desk.lines(line)
    assert desk.run()[0] == 0
    one = desk.connection
    assert (one.transport, one.traddr, one.trsvcid, one.subsysnqn, one.host_traddr, one.host_iface) == expected


def test_options_hold_for_what_the_discovery_controller_lists(desk: Desk) -> None:
    desk.lines(
        "-t tcp -a 192.0.2.1 -k 11 -c 5 -l -1 --fast_io_fail_tmo=3 -i 4 -W 2 -P 1 -Q 64 -T 7 -gG -D --disable-sqflow",
        "-t tcp -a 192.0.2.2 -s 8009",
    )
    status, output, _ = desk.run()
    assert status == 0
    first, second = sorted(desk.fabrics.connections, key=lambda one: one.traddr)
    shared = {"keep-alive-tmo": "11", "reconnect-delay": "5", "ctrl-loss-tmo": "-1", "fast-io-fail-tmo": "3"}
    shared |= {"tos": "7", "hdr-digest": "true", "data-digest": "true", "duplicate-connect": "true"}
    shared |= {"disable-sqflow": "true"}
    queues = {"nr-io-queues": "4", "nr-write-queues": "2", "nr-poll-queues": "1", "queue-size": "64"}
    assert (first.traddr, dict(first.params)) == ("192.0.2.1", shared)
    assert dict(desk.fabrics.discovered(first, "io").params) == shared | queues
    assert (second.traddr, dict(second.params)) == ("192.0.2.2", {})
    assert dict(desk.fabrics.discovered(second, "io").params) == {}
    assert [Path(one.file).name for one in (first, second)] == ["50-nvme-cli.conf", "50-nvme-cli-2.conf"]
    assert "2 controllers carried over; 0 not carried over, 0 with a difference, 0 that" in output


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-t tcp", "it has no --traddr"),
        ("-a 192.0.2.1", "it has no --transport"),
        ("-p", "it has no --transport and no --traddr"),
        ("-t tcp -a 192.0.2.1 junk", "the line: nvme-cli ignores it: a part of it is no option"),
        ("-t tcp -a 192.0.2.1 --katoo 5", "has no such option"),
        ("-t tcp -a 192.0.2.1 --tr 5", "has no such option"),
        ("-t tcp -a 192.0.2.1 -x", "has no such option"),
        ("-t tcp -a 192.0.2.1 --device none", "has no such option"),
        ("-t tcp -a 192.0.2.1 -s", "trsvcid: nvme-cli ignores it: it has no value"),
        ("-t tcp -a 192.0.2.1 --host-iface=", "host-iface: nvme-cli ignores it: it is empty"),
        ("-t tcp -a 192.0.2.1 --quiet", "quiet: differs: it is about what nvme-cli does by itself"),
        ("-t tcp -a 192.0.2.1 -o json", "output-format: differs"),
        ("-t tcp -a 192.0.2.1 --tls=1", "tls: nvme-cli ignores it: it takes no value"),
        ("-t tcp -a 192.0.2.1 --tls", "TLS is not supported yet: it is written, and not connected rather than"),
        ("-t tcp -a 192.0.2.1 -k 0", "keep-alive-tmo: nvme-cli ignores it: it leaves the value to the kernel"),
        ("-t tcp -a 192.0.2.1 -k soon", 'keep-alive-tmo: not carried over: "soon" is not a whole number'),
        ("-t tcp -a 192.0.2.1 -k 99999999999", "keep-alive-tmo: not carried over"),
        (f"-t tcp -a 192.0.2.1 -q {OTHER_NQN}", "hostnqn: nvme-cli ignores it: nvme-cli 2 connects as this host"),
        (f"-t tcp -a 192.0.2.1 -I {OTHER_UUID}", "hostid: nvme-cli ignores it"),
        (f"-t tcp -a 192.0.2.1 -S {SECRET}", "dhchap-secret: nvme-cli ignores it: nvme-cli 2 does not use it here"),
        ("-t tcp  -a  192.0.2.1", "traddr: nvme-cli ignores it: more than a blank or a '=' stands before its value"),
        ("-t\ttcp -a 192.0.2.1", "to nvme-cli a tab is a part of a value"),
        ("-t tcp -a 192.0.2.1\r", "takes the CR at its end"),
        ("-t tcp -a 192.0.2.1 -n nqn.2024-08.com.example:a=b", "nqn: nvme-cli ignores it: to nvme-cli the value ends"),
        ("-t tcp -a 192.0.2.1 -a 192.0.2.2", "traddr: differs: it is given twice"),
        (" # -t tcp -a 192.0.2.1", "#: differs: nvme-cli takes options behind a '#' for options"),
        ("-t tcp -a 192.0.2.1 -s http", 'trsvcid "http" is not a port number'),
        ("-t tpc -a 192.0.2.1", 'the transport "tpc" is unknown'),
        ("-t tcp -a 192.0.2.1;trsvcid=1", "traddr: nvme-cli ignores it: to nvme-cli the value ends at the '='"),
        ("-t tcp -a a;b", "traddr: not carried over: it holds a semicolon"),
        ("-t rdma -a 192.0.2.1 -f eth0", "host-iface works over tcp only"),
        ("-t tcp -a 192.0.2.1 -n host", "does not begin with 'nqn.'"),
        ("-t tcp -a 192.0.2.1 -n \x07", "a control character stands in it"),
        ("-t tcp -a 192.0.2.1 " + "-v " * 1400, "it is longer than 4094 bytes"),
        ("-t fc -a nn-0x1:pn-0x2 -w nn-0x3:pn-0x4 -s 1", "trsvcid: nvme-cli ignores it: fc has none"),
    ],
)
def test_option_is_reported_as_carried_over_or_not(desk: Desk, line: str, expected: str) -> None:
    desk.lines("# first", line)
    status, output, _ = desk.run()
    prefix = f"{desk.source}/discovery.conf:2: "
    lines = [text.removeprefix(prefix) for text in output.splitlines() if text.startswith(prefix)]
    assert any(expected in text for text in lines), lines
    assert status == (1 if any("not carried over" in text for text in lines) else 0)


def test_line_takes_what_it_does_not_say_from_those_above_as_with_nvme_cli(desk: Desk) -> None:
    desk.lines("-t tcp -a 192.0.2.1 -s 4420", "-a 192.0.2.2", "-t tcp -a 192.0.2.3 -s 8009")
    status, output, _ = desk.run()
    assert status == 0
    assert [(one.transport, one.traddr, one.trsvcid) for one in desk.fabrics.connections] == [
        ("tcp", "192.0.2.1", "4420"),
        ("tcp", "192.0.2.2", "4420"),
        ("tcp", "192.0.2.3", "8009"),
    ]
    assert "discovery.conf:2: transport: differs: it is not given, so nvme-cli takes that of line 1" in output
    assert "discovery.conf:2: trsvcid: differs" in output


def test_secret_with_padding_counts_as_a_whole(desk: Desk) -> None:
    desk.lines(f"-t tcp -a 192.0.2.1 --dhchap-secret={PADDED}")
    assert desk.run()[0] == 0
    assert desk.connection.secrets.kxchap_secret == PADDED
    assert stat.S_IMODE(desk.path().stat().st_mode) == 0o600


def test_bad_line_costs_itself_only(desk: Desk) -> None:
    (desk.source / "discovery.conf").write_bytes(b"-t tcp -a \xff\n-t tcp -a 192.0.2.1")
    status, output, _ = desk.run()
    assert status == 1
    assert "it is not valid UTF-8" in desk.finding(output, "discovery.conf", 1)
    assert desk.connection.traddr == "192.0.2.1"


# config.json


def test_secrets_of_host_and_ports(desk: Desk) -> None:
    own = dhchap_secrets.secret("own")
    desk.ports({**PORT, "dhchap_key": own, "dhchap_ctrl_key": PADDED}, {**PORT, "traddr": "192.0.2.11"})
    assert desk.run()[0] == 0
    first, second = desk.fabrics.connections
    assert (first.secrets.kxchap_secret, first.secrets.kxchap_ctrl_secret) == (own, PADDED)
    assert second.secrets.kxchap_secret == ""
    assert stat.S_IMODE(desk.path().stat().st_mode) == 0o600
    # The host's counts for what discovery.conf leads to as well.
    desk.ports({**PORT, "dhchap_key": own, "dhchap_ctrl_key": PADDED}, dhchap_key=SECRET)
    desk.lines("-t tcp -a 192.0.2.1 -k 7")
    status, output, _ = desk.run("--force")
    assert status == 0
    assert "dhchap_key: nvme-cli ignores it: the host's, line 3 and below, beats it" in output
    config = desk.fabrics
    assert [(one.traddr, one.secrets.kxchap_secret) for one in config.connections] == [
        ("192.0.2.1", SECRET),
        ("192.0.2.10", SECRET),
    ]
    assert config.connections[1].secrets.kxchap_ctrl_secret == PADDED
    assert config.discovered(config.connections[0], "io").secrets.kxchap_secret == SECRET


def test_lone_secret_of_a_controller_does_nothing(desk: Desk) -> None:
    desk.ports({**PORT, "dhchap_ctrl_key": SECRET})
    status, output, _ = desk.run()
    assert status == 0
    assert "nvme-cli does not send a controller's secret without the host's" in output
    assert desk.connection.secrets.kxchap_ctrl_secret == ""


def test_discovery_controllers(desk: Desk) -> None:
    port = {"transport": "tcp", "traddr": "192.0.2.1", "persistent": True}
    desk.json(
        [
            {
                "hostnqn": HOST_NQN.replace(UUID, UUID.upper()),
                "hostid": UUID,
                "subsystems": [
                    {"nqn": DISCOVERY_NQN, "ports": [port]},
                    {
                        "nqn": "nqn.2024-08.com.example:dc",
                        "ports": [{**port, "traddr": "192.0.2.2", "discovery": True}],
                    },
                ],
            }
        ]
    )
    status, output, _ = desk.run()
    assert status == 0
    assert "2 controllers carried over; 0 not carried over, 0 with a difference" in output
    known, own = desk.fabrics.connections
    assert (known.role, known.subsysnqn, known.trsvcid, known.persistent) == (
        "discovery",
        DISCOVERY_NQN,
        "8009",
        "force",
    )
    assert (own.role, own.subsysnqn) == ("discovery", "nqn.2024-08.com.example:dc")


def test_another_host_gets_a_file_of_its_own(desk: Desk) -> None:
    subsystems = [{"nqn": NQN, "ports": [PORT]}]
    desk.json(
        [
            {"hostnqn": HOST_NQN, "hostsymname": "db one", "subsystems": subsystems},
            {
                "hostnqn": OTHER_NQN,
                "hostsymname": "db two",
                "dhchap_key": SECRET,
                "subsystems": subsystems,
            },
            {"hostnqn": "nqn.2024-08.com.example:host", "subsystems": subsystems},
            {"hostnqn": "nqn.2024-08.com.example:host3", "hostid": UUID, "subsystems": subsystems},
        ]
    )
    status, output, _ = desk.run()
    assert status == 1
    assert output.count("nothing of this host is carried over: nvme-cli connects as it with this host's ID") == 2
    own, other = sorted(desk.fabrics.connections, key=lambda one: one.hostsymname)
    assert (own.hostnqn, own.hostsymname, own.secrets.kxchap_secret) == (HOST_NQN, "db one", "")
    assert (other.hostnqn, other.hostid, other.hostsymname) == (OTHER_NQN, OTHER_UUID, "db two")
    assert other.secrets.kxchap_secret == SECRET
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in desk.path().parent.iterdir()}
    assert modes == {"50-nvme-cli.conf": 0o644, "50-nvme-cli-2.conf": 0o600}


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('{"hosts": []}', 1, "reads nothing of a file that is not an array of hosts"),
        ("7", 1, "it is not an array"),
        ("[7]", 1, "there is something in it that is no object"),
        ('[\n {"hostnqn": "",\n "subsystems": []}]', 2, "a host without one is not looked at"),
        ('[{\n"hostnqm": "x"}]', 2, "it is no key of a host; did you mean hostnqn?"),
        ('[{"hostnqn": 7,\n"subsystems":\n[{"ports": []}]}]', 3, "a subsystem without one is not looked at"),
        ("[{]", 1, "it is no JSON (Expecting property name"),
        ('[\n"a"\n"b"]', 3, "it is no JSON"),
        ("[" * 100000, 1, "nested too deeply"),
        (f"[{'9' * 5000}]", 1, "a number in it is too long"),
        ("", 1, "it is no JSON"),
    ],
)
def test_file_that_is_not_as_it_should_be(desk: Desk, text: str, line: int, expected: str) -> None:
    (desk.source / "config.json").write_text(text)
    desk.lines("-t tcp -a 192.0.2.1")
    _, output, _ = desk.run()
    prefix = f"{desk.source}/config.json:{line}: "
    assert any(one.startswith(prefix) and expected in one for one in output.splitlines()), output
    assert desk.connection.traddr == "192.0.2.1"


@pytest.mark.parametrize(
    ("port", "expected", "connected"),
    [
        ({"traddr": "192.0.2.1"}, "a port without one is not looked at", False),
        ({"transport": "tcp"}, "a port without one cannot be connected", False),
        ({**PORT, "transport": "pcie"}, "it is none that nvme-cli connects over", False),
        ({**PORT, "transport": "TCP"}, "did you mean tcp?", False),
        ({"transport": "tcp", "traddr": "192.0.2.1"}, "nvme-cli connects to port 8009 without one", True),
        ({**PORT, "trsvcid": 4420}, "", True),
        ({**PORT, "trsvcid": [4420]}, "trsvcid: not carried over: it is not a text", False),
        ({**PORT, "traddr": "192.0.2.1\n[Host]"}, "traddr: not carried over: it holds a semicolon, white space", False),
        ({**PORT, "nr_io_queues": "4"}, "", True),
        ({**PORT, "nr_io_queues": 4.5}, "nr_io_queues: not carried over: it is not a whole number", True),
        ({**PORT, "nr_io_queues": 0}, "nr_io_queues: nvme-cli ignores it: it leaves the value to the kernel", True),
        ({**PORT, "hdr_digest": "yes"}, "hdr_digest: not carried over: it is not true or false", True),
        ({**PORT, "hdr_digest": False}, "", True),
        ({**PORT, "tls": True}, "TLS is not supported yet", True),
        ({**PORT, "persistent": True}, "persistent: differs: it is about the discovery controller", True),
        ({**PORT, "discovery": False}, "discovery: differs: nvme-cli takes any value for true", True),
        ({**PORT, "katoo": 5}, "katoo: nvme-cli ignores it: it is no key of a port", True),
        ({**PORT, "dhchap_key": "DHHC-1:00:x:"}, "kxchap-secret is not usable", False),
        ({**PORT, "transport": "rdma", "host_iface": "eth0"}, "nvme-cli and the kernel take none over rdma", True),
        (
            {"transport": "fc", "traddr": "nn-0x1:pn-0x2", "host_traddr": "nn-0x3:pn-0x4", "trsvcid": "x"},
            "",
            True,
        ),
    ],
)
def test_port_is_reported_as_carried_over_or_not(
    desk: Desk, port: dict[str, Any], expected: str, connected: bool
) -> None:
    desk.ports(port)
    status, output, _ = desk.run()
    assert expected in output
    assert len(desk.fabrics.connections) == connected
    assert status == int("not carried over:" in output)


def test_subsystems_keys(desk: Desk) -> None:
    one = {"nqn": NQN, "ports": [PORT], "dhchap_key": SECRET}
    other = {"nqn": f"{NQN}x", "ports": [PORT], "application": "nbft"}
    third = {"nqn": f"{NQN}y", "ports": [{**PORT, "traddr": "192.0.2.11"}], "application": "autoconnect"}
    desk.json([{"hostnqn": HOST_NQN, "persistent_discovery_ctrl": True, "subsystems": [one, other, third]}])
    status, output, _ = desk.run()
    assert status == 0
    assert [(one.subsysnqn, one.secrets.kxchap_secret) for one in desk.fabrics.connections] == [
        (NQN, SECRET),
        (f"{NQN}y", ""),
    ]
    assert "application: nvme-cli ignores it: the subsystem is another application's" in output
    assert "persistent_discovery_ctrl: differs" in output


def test_ports_with_secrets_of_their_own_are_written_with_a_remark(desk: Desk) -> None:
    desk.ports({**PORT, "dhchap_key": SECRET}, {**PORT, "traddr": "192.0.2.11", "dhchap_key": PADDED})
    status, output, _ = desk.run()
    assert status == 0
    assert "warning: " in output
    assert [one.secrets.kxchap_secret for one in desk.fabrics.connections] == [SECRET, PADDED]


def test_own_host_id_that_is_another_is_told(desk: Desk) -> None:
    desk.ports(PORT, hostid=OTHER_UUID)
    status, output, _ = desk.run()
    assert status == 1
    assert "hostid: not carried over: /etc/nvme/hostid says something else" in output
    assert desk.connection.hostid == ""


# JSON with lines

_VALUE = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=6), st.sampled_from(['"', ":", '\\":', "a\nb"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=12,
)


def plain(value: Any) -> Any:
    if isinstance(value, located_json.Object):
        return {one.key: plain(one.value) for one in value.members}
    return [plain(one) for one in value] if isinstance(value, list) else value


def keys(value: Any) -> list[tuple[str, int]]:
    if isinstance(value, located_json.Object):
        return [found for one in value.members for found in ((one.key, one.line), *keys(one.value))]
    return [found for one in value for found in keys(one)] if isinstance(value, list) else []


@given(value=_VALUE, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_lines_of_keys(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    found = located_json.load(text)
    assert plain(found) == json.loads(text)
    lines = text.split("\n")
    for key, line in keys(found):
        assert json.dumps(key, ensure_ascii=ascii_only) + ":" in lines[line - 1]


@given(st.text(max_size=60))
def test_text_that_is_no_json_is_an_error_with_a_line(text: str) -> None:
    try:
        json.loads(text)
    except ValueError:
        with pytest.raises(located_json.JsonError) as caught:
            located_json.load(text)
        assert 1 <= caught.value.line <= text.count("\n") + 1
    else:
        located_json.load(text)


# Whatever the files hold

_WORD = st.one_of(
    st.sampled_from(
        [
            *(
                "-t",
                "tcp",
                "-a",
                "192.0.2.1",
                "::1",
                "-s",
                "8009",
                "--traddr=192.0.2.2",
                "--transport=rdma",
                "-f",
                "eth0",
            ),
            *(
                "-w",
                "192.0.2.9",
                "-n",
                NQN,
                "-k",
                "7",
                "-l",
                "-1",
                "-p",
                "--tls",
                "--concat",
                "-S",
                SECRET,
                "#",
                "=",
                "--",
            ),
            *(
                "-",
                "-gG",
                "--hdr-digest",
                "--persistent",
                "-q",
                OTHER_NQN,
                "-t=fc",
                "none",
                "\t",
                "\0",
                "\u2028",
                ";",
                "[Host]",
            ),
        ]
    ),
    st.sampled_from([f"--{option.name}" for option in OPTIONS]),
    st.text(max_size=6),
)
_LINES = st.lists(st.lists(_WORD, max_size=9).map(" ".join), max_size=6).map("\n".join)
_CONF = st.one_of(_LINES.map(str.encode), st.binary(max_size=120))
_SCALAR = st.one_of(
    st.sampled_from(
        ["tcp", "rdma", "192.0.2.1", "::1", "4420", 4420, NQN, DISCOVERY_NQN, SECRET, True, False, 0, -1, None]
    ),
    st.sampled_from(["none", "", "a;b", "\n", "\ud800", OTHER_NQN, HOST_NQN, 1.5, [], {}]),
    st.text(max_size=5),
)
_PORT = st.dictionaries(
    st.one_of(st.sampled_from(config_json._PORT_KEYS), st.sampled_from(["transport", "traddr"]), st.text(max_size=4)),
    _SCALAR,
    max_size=8,
)
_GOOD_PORT = st.builds(lambda more: {**PORT, **more}, _PORT)
_SUBSYSTEM = st.fixed_dictionaries(
    {
        "nqn": st.one_of(st.just(NQN), _SCALAR),
        "ports": st.one_of(st.lists(st.one_of(_PORT, _GOOD_PORT), max_size=3), _SCALAR),
    },
    optional={"application": _SCALAR, "dhchap_key": _SCALAR},
)
_HOST = st.fixed_dictionaries(
    {"hostnqn": st.one_of(st.sampled_from([HOST_NQN, OTHER_NQN]), _SCALAR)},
    optional={
        "subsystems": st.one_of(st.lists(_SUBSYSTEM, max_size=3), _SCALAR),
        "hostid": st.one_of(st.just(OTHER_UUID), _SCALAR),
        "hostsymname": _SCALAR,
        "dhchap_key": st.one_of(st.just(SECRET), _SCALAR),
    },
)
_JSON = st.one_of(
    st.lists(st.one_of(_HOST, _SCALAR), max_size=3).map(lambda value: json.dumps(value, indent=1).encode()),
    st.binary(max_size=80),
)


@given(conf=_CONF, text=_JSON)
def test_no_file_does_harm(conf: bytes, text: bytes) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        desk = Desk(Path(name), import_nvme_cli, monkeypatch)
        (desk.source / "discovery.conf").write_bytes(conf)
        (desk.source / "config.json").write_bytes(text)
        status, output, errors = desk.run()
        assert status in (0, 1)
        assert "carried over; " in output, output + errors
        config = desk.fabrics
        assert config.valid
        assert not [one.problem for one in config.connections if one.problem]
        count = re.search(r"^([0-9]+) controllers? carried over", output, re.MULTILINE)
        assert count
        assert int(count[1]) == len(config.connections)
        assert SECRET[10:30] not in output + errors


@given(_CONF)
def test_no_line_is_lost(data: bytes) -> None:
    """Each line is a comment, or empty, or something is carried over or said of it."""
    findings = Findings("f", "nvme-cli")
    entries = discovery_conf.read(SourceFile("f", data), findings)
    spoken_of = {one.line for one in findings.found} | {one.line for one in entries}
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.strip(b" \t\r\v\f")
        assert number in spoken_of or not text or text.startswith(b"#"), line


@given(_JSON)
def test_no_port_is_lost(data: bytes) -> None:
    """Each port of a host that counts becomes an entry, or something is said of it, or of what it is in."""
    findings = Findings("f", "nvme-cli")
    entries = config_json.read(SourceFile("f", data), findings)
    spoken_of = {one.line for one in findings.found} | {one.line for one in entries}
    try:
        value = located_json.load(data.decode())
    except ValueError:
        assert findings.found
        return
    for host in value if isinstance(value, list) else []:
        ports = keys(host)
        assert not ports or not any(key == "traddr" for key, _ in ports) or {line for _, line in ports} & spoken_of
