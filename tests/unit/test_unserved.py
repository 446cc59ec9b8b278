# SPDX-License-Identifier: Apache-2.0
"""Entries of nvme-cli 2's files that nobody connects: what counts as served, and what is said of the rest."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.config.fabrics import load_fabrics, parse_fabrics
from discoverd.config.identity import HostIdentity
from discoverd.config.sources import SourceFile
from discoverd.exclusions import Exclusions, parse
from discoverd.nvme_cli import files
from discoverd.nvme_cli.unserved import look, unserved

NQN = "nqn.2024-08.com.example:vol1"
UUID = "1f0e3c5a-6f0b-4d5e-9b57-3c2f1d7a9e10"
OWN = HostIdentity(f"nqn.2014-08.org.nvmexpress:uuid:{UUID}", UUID)
OTHER = "nqn.2014-08.org.nvmexpress:uuid:2a9d3c5a-6f0b-4d5e-9b57-3c2f1d7a9e11"
NOTHING = Exclusions([], [])
DC = "[Discovery Controller]\ncontroller = "
VOLUME = f"[Subsystem]\nnqn = {NQN}\ncontroller = "
VOLUME_WITH_TLS = f"[Subsystem]\nnqn = {NQN}\ntls = true\ncontroller = "


def subsystem(hostnqn: str = OWN.hostnqn, **port: str) -> str:
    port = {"transport": "tcp", "traddr": "192.0.2.1", "trsvcid": "4420", **port}
    return json.dumps([{"hostnqn": hostnqn, "subsystems": [{"nqn": NQN, "ports": [port]}]}])


@pytest.mark.parametrize(
    ("theirs", "ours", "excluded", "served"),
    [
        ("-t tcp -a 192.0.2.1", "", "", False),
        ("-t tcp -a 192.0.2.1", f"{DC}transport=tcp;traddr=192.0.2.1", "", True),
        ("-t tcp -a 192.0.2.1 -s 8009", f"{DC}transport=tcp;traddr=::ffff:192.0.2.1", "", True),
        ("-t tcp -a 192.0.2.1 -s 4420", f"{DC}transport=tcp;traddr=192.0.2.1", "", False),
        ("-t rdma -a 192.0.2.1", f"{DC}transport=tcp;traddr=192.0.2.1", "", False),
        (f"-t tcp -a 192.0.2.1 -n {NQN}", f"{DC}transport=tcp;traddr=192.0.2.1", "", True),
        ("-t tcp -a 192.0.2.1 -f eth0", f"{DC}transport=tcp;traddr=192.0.2.1", "", True),
        ("-t tcp -a 192.0.2.1", f"{DC}transport=tcp;traddr=192.0.2.1;host-iface=eth0", "", True),
        ("-t tcp -a 192.0.2.1 -f eth1", f"{DC}transport=tcp;traddr=192.0.2.1;host-iface=eth0", "", False),
        ("-t tcp -a DC.example.", f"{DC}transport=tcp;traddr=dc.example", "", True),
        ("-t tcp -a dc.example", f"{DC}transport=tcp;traddr=dc2.example", "", False),
        ("-t tcp -a 192.0.2.1", f"[Host]\nhostnqn = {OWN.hostnqn}\n{DC}transport=tcp;traddr=192.0.2.1", "", True),
        ("-t tcp -a 192.0.2.1", f"[Host]\nhostnqn = {OTHER}\n{DC}transport=tcp;traddr=192.0.2.1", "", False),
        ("-t tcp -a 192.0.2.1", "", "traddr=192.0.2.1", True),
        ("-t tcp -a 192.0.2.1", "", "transport=rdma", False),
        (subsystem(), "", "", False),
        (subsystem(), f"{VOLUME}transport=tcp;traddr=192.0.2.1", "", True),
        (subsystem(), f"{VOLUME}transport=tcp;traddr=192.0.2.2", "", False),
        (subsystem(), f"{VOLUME.replace('vol1', 'vol2')}transport=tcp;traddr=192.0.2.1", "", False),
        # What a log page will list nobody knows from the files.
        (subsystem(), f"{DC}transport=tcp;traddr=192.0.2.1;trsvcid=4420", "", False),
        (subsystem(OTHER), f"{VOLUME}transport=tcp;traddr=192.0.2.1", "", False),
        (subsystem(OTHER), f"[Host]\nhostnqn = {OTHER}\n{VOLUME}transport=tcp;traddr=192.0.2.1", "", True),
        (subsystem(), "", f"nqn={NQN}", True),
        # That it cannot work is told elsewhere.
        (subsystem(), f"{VOLUME_WITH_TLS}transport=tcp;traddr=192.0.2.1", "", True),
    ],
)
def test_what_is_served(theirs: str, ours: str, excluded: str, served: bool) -> None:
    name = "config.json" if theirs.startswith("[") else "discovery.conf"
    entries, _ = files.entries({name: SourceFile(f"/etc/nvme/{name}", theirs.encode())})
    assert len(entries) == 1
    config = parse_fabrics([SourceFile("ours", ours.encode())])
    lists = parse([("e", f"[exclusions]\nexclusion = {excluded}\n".encode())]) if excluded else NOTHING
    found = unserved(entries, config, OWN, lists)
    assert not found if served else len(found) == 1


def test_warning_names_file_line_and_what_to_do() -> None:
    sources = {
        "discovery.conf": SourceFile("/etc/nvme/discovery.conf", b"# ours\n-t tcp -a 2001:db8::1 -s 8009\n"),
        "config.json": SourceFile("/etc/nvme/config.json", subsystem().encode()),
    }
    entries, _ = files.entries(sources)
    why = "nvme-cli's units stand back while discoverd runs (take it over with discoverctl import-nvme-cli, or take it "
    why += "out of the file)"
    texts = [str(one) for one in unserved(entries, parse_fabrics([]), OWN, NOTHING)]
    assert texts == [
        f"/etc/nvme/config.json:1:1: nobody connects the subsystem {NQN} at tcp 192.0.2.1:4420: {why}",
        f"/etc/nvme/discovery.conf:2:1: nobody connects the discovery controller at tcp [2001:db8::1]:8009: {why}",
    ]


def test_thousand_entries_are_a_hundred_warnings() -> None:
    lines = "".join(f"-t tcp -a 10.0.{number // 250}.{number % 250 + 1}\n" for number in range(1000))
    entries, _ = files.entries({"discovery.conf": SourceFile("f", lines.encode())})
    assert len(unserved(entries, parse_fabrics([]), OWN, NOTHING)) == 101


def test_file_that_nvme_cli_3_has_converted_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "discovery.conf").write_text("-t tcp -a 192.0.2.1\n")
    assert len(look(parse_fabrics([]), OWN, tmp_path)) == 1
    (tmp_path / "discovery.conf.converted").symlink_to(tmp_path / "discovery.conf")
    assert look(parse_fabrics([]), OWN, tmp_path) == ()


def test_files_that_are_not_there_say_nothing_and_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert look(load_fabrics(tmp_path / "nvme-fabrics.conf"), OWN, tmp_path) == ()
    (tmp_path / "config.json").mkdir()
    (tmp_path / "discovery.conf").write_text("-t tcp -a 192.0.2.1\n")
    unreadable, entry = look(load_fabrics(tmp_path / "nvme-fabrics.conf"), OWN, tmp_path)
    assert str(unreadable).startswith(f"{tmp_path}/config.json: is not a regular file, so it is not known")
    assert "192.0.2.1" in entry.message


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_whatever_the_files_hold(conf: bytes, text: bytes) -> None:
    sources = {"discovery.conf": SourceFile("a", conf), "config.json": SourceFile("b", text)}
    entries, _ = files.entries(sources)
    assert len(unserved(entries, parse_fabrics([]), OWN, NOTHING)) <= len(entries)
