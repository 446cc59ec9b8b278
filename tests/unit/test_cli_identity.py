# SPDX-License-Identifier: Apache-2.0
"""discoverctl identity: who this host is, made where nobody has said so, and its symbolic name."""

import json
import stat
import uuid
from pathlib import Path

import pytest

from discoverd.cli import identity
from discoverd.cli.exits import CliError, Exit
from discoverd.config.fabrics import load_fabrics
from discoverd.config.identity import load_host_identity
from discoverd.config.placeholders import PLACEHOLDERS
from discoverd.config.sources import SourceFile

from .fake_ctl import Desk, install

PREFIX = "nqn.2014-08.org.nvmexpress:uuid:"
MACHINE = "1f0e3c5a-6f0b-4d5e-9b57-3c2f1d7a9e10"
OTHER = "2f0e3c5a-6f0b-4d5e-9b57-3c2f1d7a9e10"


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(identity, "MACHINE_UUID", tmp_path / "product_uuid")
    (tmp_path / "product_uuid").write_text(MACHINE.upper() + "\n")
    return tmp_path / "nvme"


def words(etc: Path) -> tuple[str, str]:
    return (etc / "hostnqn").read_text(), (etc / "hostid").read_text()


def test_identity_is_made_of_the_machines_uuid(etc: Path) -> None:
    assert identity.init(etc) is Exit.OK
    assert words(etc) == (f"{PREFIX}{MACHINE}\n", f"{MACHINE}\n")
    assert load_host_identity(etc).diagnostics == ()
    for name in ("hostnqn", "hostid"):
        assert stat.S_IMODE((etc / name).stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "uuid_of_the_machine", [*sorted(PLACEHOLDERS), "0" * 8 + "-0000-0000-0000-" + "0" * 12, "Not Present"]
)
def test_identity_is_made_up_where_firmware_has_none(etc: Path, uuid_of_the_machine: str) -> None:
    identity.MACHINE_UUID.write_text(uuid_of_the_machine)
    identity.init(etc)
    nqn, hostid = words(etc)
    assert nqn == PREFIX + hostid
    assert uuid.UUID(hostid.strip()).version == 4


def test_what_is_there_stays(etc: Path) -> None:
    etc.mkdir()
    (etc / "hostnqn").write_text(f"{PREFIX}{OTHER}\n")
    identity.init(etc)
    assert words(etc) == (f"{PREFIX}{OTHER}\n", f"{OTHER}\n")
    (etc / "hostnqn").unlink()
    identity.init(etc)
    # The host ID is known to targets, and the NQN goes with it.
    assert words(etc) == (f"{PREFIX}{OTHER}\n", f"{OTHER}\n")
    before = words(etc)
    assert identity.init(etc) is Exit.OK
    assert words(etc) == before


@pytest.mark.parametrize("blank", ["", "\n", " \n\n"])
def test_empty_files_are_filled(etc: Path, blank: str) -> None:
    """So an image is made to give each of its hosts an identity of its own."""
    etc.mkdir()
    for name in ("hostnqn", "hostid"):
        (etc / name).write_text(blank)
    assert identity.init(etc) is Exit.OK
    nqn, hostid = words(etc)
    assert nqn == PREFIX + hostid != PREFIX


def test_malformed_host_id_beside_a_host_nqn_is_told(etc: Path) -> None:
    etc.mkdir()
    (etc / "hostnqn").write_text(f"{PREFIX}{OTHER}\n")
    (etc / "hostid").write_text("garbage\n")
    with pytest.raises(CliError, match="hostid:1"):
        identity.init(etc)
    assert (etc / "hostid").read_text() == "garbage\n"


def test_malformed_file_is_never_replaced(etc: Path) -> None:
    etc.mkdir()
    (etc / "hostnqn").write_text("garbage\n")
    with pytest.raises(CliError, match="mend that"):
        identity.init(etc)
    assert (etc / "hostnqn").read_text() == "garbage\n"
    assert not (etc / "hostid").exists()


def test_show(tmp_path: Path, etc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk(tmp_path, capsys)
    install(desk, monkeypatch)
    etc.mkdir()
    (etc / "hostnqn").write_text(f"{PREFIX}{OTHER}\n")
    (etc / "nvme-fabrics.conf").write_text("[Host]\n\nhostsymname = db server 1\n")
    assert identity.show(etc, json=False) is Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"host NQN:      {PREFIX}{OTHER}  ({etc}/hostnqn)",
        f"host ID:       {OTHER}  (of {etc}/hostnqn)",
        f"symbolic name: db server 1  ({etc}/nvme-fabrics.conf:3)",
    ]
    (etc / "hostnqn").unlink()
    assert identity.show(etc, json=True) is Exit.FAILED
    shown = json.loads(capsys.readouterr().out)
    assert (shown["hostnqn"], shown["hostsymname"]) == ("", "db server 1")
    assert shown["faults"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[Host]\nhostsymname = new\n"),
        ("# remark\n[Host]\nhostid = x\n", "# remark\n[Host]\nhostsymname = new\nhostid = x\n"),
        ("[Host]\nhostsymname=old\n# end\n", "[Host]\nhostsymname = new\n# end\n"),
        ("[Subsystem]\nnqn = n\n\n", "[Subsystem]\nnqn = n\n\n[Host]\nhostsymname = new\n"),
        ("[Subsystem]\nnqn = n", "[Subsystem]\nnqn = n\n\n[Host]\nhostsymname = new\n"),
        # That key of another section is another thing.
        ("[Subsystem]\nhostsymname = no\n", "[Subsystem]\nhostsymname = no\n\n[Host]\nhostsymname = new\n"),
    ],
)
def test_edit_changes_one_line(before: str, after: str) -> None:
    source = SourceFile("f", before.encode()) if before else None
    assert identity.edited(source, "f", "new").decode() == after
    again = identity.edited(SourceFile("f", after.encode()), "f", "new")
    assert again.decode() == after
    taken = identity.edited(SourceFile("f", after.encode()), "f", "").decode()
    assert "hostsymname = new" not in taken


def test_symbolic_name_is_written(etc: Path) -> None:
    etc.mkdir()
    main = etc / "nvme-fabrics.conf"
    main.write_text("[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.1\n")
    main.chmod(0o600)
    assert identity.set_symname(etc, "rack 3, upper half") is Exit.OK
    (one,) = load_fabrics(main, etc / "none").connections
    assert one.hostsymname == "rack 3, upper half"
    assert stat.S_IMODE(main.stat().st_mode) == 0o600
    identity.set_symname(etc, "")
    (one,) = load_fabrics(main, etc / "none").connections
    assert one.hostsymname == ""


@pytest.mark.parametrize("name", ["x" * 257, "ä", "a\nb", " a", "a\x1b"])
def test_symbolic_name_that_is_none(etc: Path, name: str) -> None:
    with pytest.raises(CliError) as raised:
        identity.set_symname(etc, name)
    assert raised.value.exit_status is Exit.USAGE
