# SPDX-License-Identifier: Apache-2.0
"""discoverctl config show: each value with its place, and never a secret."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.cli import config_show
from discoverd.cli.config_show import values
from discoverd.cli.exits import Exit
from discoverd.config import fabrics, identity, keys
from discoverd.config.sources import SourceFile

from .fake_ctl import Desk, install

SECRET = "c2VjcmV0LXNlY3JldA"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    (tmp_path / "etc/nvme/nvme-fabrics.conf.d").mkdir(parents=True)
    return made


def put(desk: Desk, name: str, text: str) -> str:
    path = desk.root / "etc/nvme" / name
    path.write_text(text)
    return str(path)


def test_each_value_has_its_place(desk: Desk) -> None:
    main = put(desk, "nvme-fabrics.conf", "# a remark\n[Host]\nhostsymname = db1\n\n[Subsystem]\nnqn = nqn.x:y\n")
    drop_in = put(
        desk, "nvme-fabrics.conf.d/a.conf", "[Subsystem]\ncontroller = transport=tcp; traddr=192.0.2.1;tos=3\n"
    )
    settings = put(desk, "discoverd.conf", "[Global]\nmdns = no\nmdns = yes\ngive-up = 3d\n")
    lists = put(desk, "exclusions.conf", "[exclusions]\nexclusion = transport=tcp;traddr=192.0.2.7\n")
    nqn = put(desk, "hostnqn", "nqn.2024-08.com.example:host\n")
    status, output, errors = desk.run("config", "show", "--json", "--config", str(desk.root / "etc/nvme"))
    assert (status, errors) == (0, "")
    rows = json.loads(output)["values"]
    found = {(one["section"], one["key"]): (one["value"], one["place"]) for one in rows}
    assert found["", "hostnqn"] == ("nqn.2024-08.com.example:host", f"{nqn}:1")
    assert found["Global", "mdns"] == ("yes", f"{settings}:3")
    assert found["Global", "give-up"] == ("72h", f"{settings}:4")
    assert found["Global", "pleo"] == ("yes", "default")
    assert found["Host", "hostsymname"] == ("db1", f"{main}:3")
    assert found["Subsystem", "nqn"] == ("nqn.x:y", f"{main}:6")
    assert found["Subsystem", "controller"] == ("transport=tcp;traddr=192.0.2.1;tos=3", f"{drop_in}:2")
    assert found["exclusions", "exclusion"] == ("transport=tcp;traddr=192.0.2.7", f"{lists}:2")
    table = desk.run("config", "show", "--config", str(desk.root / "etc/nvme"))[1]
    assert f"{settings}:3" in table


def test_what_connect_wrote_counts_with_the_configuration_in_force(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = desk.root / "run/nvme-fabrics.conf.d"
    runtime.mkdir()
    (runtime / "1.conf").write_text("[Subsystem]\ncontroller = transport=tcp;traddr=192.0.2.1\n")
    monkeypatch.setattr(fabrics, "RUNTIME_DROP_INS", runtime)
    monkeypatch.setattr(identity, "DIRECTORY", desk.root / "etc/nvme")
    assert f"{runtime}/1.conf:2" in desk.run("config", "show")[1]
    (desk.root / "draft").mkdir()
    assert f"{runtime}/1.conf:2" not in desk.run("config", "show", "--config", str(desk.root / "draft"))[1]


def test_file_that_may_not_be_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = SourceFile("/etc/x", fault="cannot be opened: Permission denied", denied=True)
    monkeypatch.setattr(config_show, "read_tree", lambda _: (denied,))
    status, _, errors = desk.run("config", "show")
    assert status == Exit.NOT_PERMITTED
    assert "run it as root" in errors


# Where somebody could put a secret: under its key, under that key with a mistake in it, and on a controller line.
LINES = st.one_of(
    st.sampled_from([key.name for key in keys.KEYS.values() if key.secret]).map(lambda name: f"{name} = {SECRET}"),
    st.sampled_from(["dhchap-secret", "kxchap-secrett", "Secret", "kxchap_secret", "tls-kye", "x"]).map(
        lambda name: f"{name} = {SECRET}"
    ),
    st.sampled_from([f"{SECRET} = 1", f"controller = transport=tcp;{SECRET}", f"controller = {SECRET}"]),
    st.sampled_from(["kxchap-secret", "tls-key", "psk"]).map(
        lambda name: f"controller = transport=tcp;traddr=192.0.2.1;{name}={SECRET}"
    ),
)


@given(st.lists(st.tuples(st.sampled_from([*keys.SECTIONS, "Hots"]), LINES), max_size=6))
def test_no_secret_is_ever_shown(tmp_path_factory: pytest.TempPathFactory, written: list[tuple[str, str]]) -> None:
    directory = tmp_path_factory.mktemp("nvme")
    text = "".join(f"[{section}]\n{line}\n" for section, line in written)
    (directory / "nvme-fabrics.conf").write_text(text)
    shown = [one for one in values(directory) if one.section != "Global"]
    assert len(shown) == len(written)
    assert SECRET not in repr(shown)
