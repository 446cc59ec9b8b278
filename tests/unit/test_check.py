# SPDX-License-Identifier: Apache-2.0
"""discoverd --check: what the daemon would find in a file, its neighbours, and what its sources refuse."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discoverd import state
from discoverd.check import check
from discoverd.config import record
from discoverd.config.files import read_files
from discoverd.kernel import fabrics

from .dhchap_secrets import secret

HOST_UUID = "46ba5037-7ce5-41fa-9452-48477bf00080"
HOSTNQN = f"nqn.2014-08.org.nvmexpress:uuid:{HOST_UUID}"
PERSONA = "nqn.2024-08.com.example:other"
NQN = "nqn.2024-08.com.example:vol1"
DC = "[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.{}\n"
SECTION = f"[Subsystem]\nnqn = {NQN}\n"
PATH = "controller = transport=tcp;traddr={}\n"
EXCLUSION = "[exclusions]\nexclusion = transport=tcp;traddr=192.0.2.1\n"

Write = Callable[[str, str], Path]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    return tmp_path / "nvme"


@pytest.fixture
def write(etc: Path) -> Write:
    """Write a file below the directory of the configuration."""

    def made(name: str, text: str) -> Path:
        path = etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return path

    return made


@pytest.fixture(autouse=True)
def _nothing_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PATH", str(tmp_path / "last-good"))
    monkeypatch.setattr("discoverd.check.RUNTIME_DROP_INS", Path("/nonexistent"))
    monkeypatch.setattr(fabrics, "DEVICE", str(tmp_path / "nvme-fabrics"))
    monkeypatch.setattr(fabrics, "ABILITIES", str(tmp_path / "abilities"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", forbidden)


def found(etc: Path, *paths: Path) -> list[str]:
    """Return the faults, their paths relative to the directory."""
    text, code = check(paths, etc)
    *faults, summary = text.replace(f"{etc}/", "").splitlines()
    assert code == any(one.startswith("error: ") for one in faults)
    assert summary.split()[0] == str(sum(one.startswith("error: ") for one in faults))
    return faults


def identity(write: Write) -> None:
    write("hostnqn", HOSTNQN + "\n")
    write("hostid", HOST_UUID + "\n")


# Neighbours -----------------------------------------------------------------------------------------------


def test_each_file_is_checked_with_all_others(etc: Path, write: Write) -> None:
    files = [
        write("nvme-fabrics.conf", DC.format(1) + "bogus = 1\n"),
        write("nvme-fabrics.conf.d/a.conf", "junk\n"),
        write("discoverd.conf", "[Global]\nmdns = perhaps\n"),
        write("discoverd.conf.d/b.conf", "[Global]\nnbft = perhaps\n"),
        write("exclusions.conf", "[exclusions]\nexclusion = x\n"),
        write("exclusions.conf.d/c.conf", "[exclusions]\nexclusion = y=1\n"),
        write("exclusions/d", "[exclusions]\nexclusion = z=1\n"),
        write("hostnqn", "nonsense\n"),
        write("hostid", HOST_UUID + "\n"),
    ]
    everything = found(etc)
    assert [one.split(": ")[1] for one in everything] == [
        "discoverd.conf:2:8",
        "discoverd.conf.d/b.conf:2:8",
        "hostnqn:1:1",
        "exclusions.conf:2:1",
        "exclusions.conf.d/c.conf:2:1",
        "exclusions/d:2:1",
        "nvme-fabrics.conf:3:1",
        "nvme-fabrics.conf.d/a.conf:1:1",
    ]
    for path in files:
        assert found(etc, path) == everything
    assert found(etc, *files) == everything


def test_drop_in_is_checked_in_its_place(etc: Path, write: Write) -> None:
    """What it inherits, and whom it contradicts, depends on the others."""
    identity(write)
    write("nvme-fabrics.conf", "[I/O Controller Defaults]\nkxchap-ctrl-secret = DHHC-1:00:x:\n")
    write("nvme-fabrics.conf.d/10-a.conf", SECTION + PATH.format("192.0.2.1"))
    second = write("nvme-fabrics.conf.d/20-b.conf", SECTION + PATH.format("192.0.2.1"))
    faults = "\n".join(found(etc, second))
    assert "10-a.conf:3:14: this connection cannot work: kxchap-ctrl-secret has no effect" in faults
    write("nvme-fabrics.conf", "")
    (duplicate,) = found(etc, second)
    assert duplicate.startswith("warning: nvme-fabrics.conf.d/20-b.conf:3:")
    assert "already configured in nvme-fabrics.conf.d/10-a.conf:3" in duplicate


def test_main_file_of_another_name_has_its_own_drop_ins(etc: Path, write: Write) -> None:
    identity(write)
    write("nvme-fabrics.conf", "junk\n")
    new = write("new", DC.format(1))
    write("new.d/a.conf", "[Host]\ntos = 1\n")
    (fault,) = found(etc, new)
    assert fault.startswith("error: new.d/a.conf:1:1: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nvme-fabrics.conf.d/a.conf.bak", DC.format(1) + "bogus = 1\n"),
        ("discoverd.conf.d/README", "[Global]\nbogus = 1\n"),
        ("exclusions.conf.d/list", EXCLUSION + "bogus\n"),
        ("my-exclusions", EXCLUSION + "bogus\n"),
    ],
)
def test_file_that_the_daemon_does_not_read_is_checked_and_told(etc: Path, write: Write, name: str, text: str) -> None:
    identity(write)
    told, fault = found(etc, write(name, text))
    assert told.startswith(f"warning: {name}: the daemon does not read a file of this name (")
    assert f": {name}:{text.count(chr(10))}:1: " in fault
    assert "bogus" in fault


def test_exclusion_list_is_no_file_of_connections(etc: Path, write: Write) -> None:
    identity(write)
    assert found(etc, write("exclusions.conf", EXCLUSION)) == []
    (fault,) = found(etc, write("exclusions.conf", "[exclusions]\nexclusion = transport=tpc\n"))
    assert fault.startswith("error: exclusions.conf:2:1: transport=tpc matches nothing")


def test_host_without_an_identity_is_a_fault_of_its_own_configuration_only(etc: Path, write: Write) -> None:
    path = write("nvme-fabrics.conf", DC.format(1))
    (fault,) = found(etc)
    assert fault.startswith("error: hostnqn: does not exist")
    assert found(etc, path) == [fault]
    # Elsewhere, it is to be the configuration of another host.
    assert check([path], etc.parent / "other") == ("0 errors, 0 warnings in 1 file; 1 connection\n", 0)


# What sources refuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        (SECTION + "tls = true\n" + PATH.format("192.0.2.1"), "4:1", "TLS is not supported yet"),
        (SECTION + "tls = true\n" + PATH.format("array.example.com"), "4:1", "TLS is not supported yet"),
        (SECTION + "tls = true\n", "1:1", "paths that are found cannot be connected: TLS is not supported yet"),
        (f"[Host]\nhostnqn = {PERSONA}\n" + DC.format(1), "4:1", "no host ID of its own"),
        (f"[Host]\nhostnqn = {PERSONA}\nhostid = {HOST_UUID}\n" + DC.format(1), "5:1", "this host's own"),
        (
            "[I/O Controller Defaults]\ntls = true\n" + DC.format(1),
            "4:1",
            "what it lists cannot be connected: TLS is not supported yet",
        ),
        (
            "[I/O Controller Defaults]\nkxchap-ctrl-secret = DHHC-1:00:x:\n" + DC.format(1),
            "4:1",
            "what it lists cannot be connected: kxchap-ctrl-secret has no effect without kxchap-secret",
        ),
    ],
)
def test_what_the_sources_refuse_is_told(etc: Path, write: Write, text: str, place: str, why: str) -> None:
    identity(write)
    faults = found(etc, write("nvme-fabrics.conf", text))
    assert faults
    assert all(one.startswith("warning: ") for one in faults)
    assert any(one.startswith(f"warning: nvme-fabrics.conf:{place}: ") and why in one for one in faults), faults
    assert "DHHC" not in "".join(faults)


def test_address_of_a_family_that_is_left_out_is_told(etc: Path, write: Write) -> None:
    identity(write)
    write("discoverd.conf", "[Global]\naddress-families = ipv6\n")
    write("nvme-fabrics.conf", DC.format(1) + PATH.format("2001:db8::1") + PATH.format("array.example.com"))
    (fault,) = found(etc)
    assert fault.startswith("warning: nvme-fabrics.conf:2:1: address-families in discoverd.conf leaves out IPv4")


def test_one_path_by_two_spellings_of_the_hosts_nqn_is_told(etc: Path, write: Write) -> None:
    identity(write)
    write("nvme-fabrics.conf", f"[Host]\nhostnqn = {HOSTNQN}\n" + DC.format(1))
    write("nvme-fabrics.conf.d/a.conf", DC.format(1) + PATH.format("array.example.com") + PATH.format("b.example.com"))
    (fault,) = found(etc)
    assert fault.startswith("warning: nvme-fabrics.conf.d/a.conf:2:1: the same path stands in nvme-fabrics.conf:4")


def test_identity_of_a_persona_is_told_once(etc: Path, write: Write) -> None:
    identity(write)
    write("nvme-fabrics.conf", f"[Host]\nhostnqn = {PERSONA}\n" + DC.format(1) + DC.format(2))
    (fault,) = found(etc)
    assert fault.startswith("warning: nvme-fabrics.conf:4:1: ")


def test_found_path_of_a_persona_is_judged_by_its_own_files(etc: Path, write: Write) -> None:
    identity(write)
    write("nvme-fabrics.conf", DC.format(1))
    other = f"[Host]\nhostnqn = {PERSONA}\nhostid = 11111111-2222-3333-4444-555555555555\n"
    write(
        "nvme-fabrics.conf.d/a.conf", other + DC.format(2) + SECTION + f"concat = true\nkxchap-secret = {secret('x')}\n"
    )
    (fault,) = found(etc)
    assert fault.startswith("warning: nvme-fabrics.conf.d/a.conf:6:1: paths that are found cannot be connected: TLS")


# What is known of this host ---------------------------------------------------------------------------------


def test_what_is_missing_since_it_was_good_last_is_an_error(etc: Path, write: Write) -> None:
    identity(write)
    write("nvme-fabrics.conf", DC.format(1))
    record.write(record.Record(read_files(etc)))
    assert found(etc) == []
    misspelt = write("nvme-fabrics.conf", DC.format(1).replace("controller =", "controler ="))
    (error,) = [one for one in found(etc) if one.startswith("error: ")]
    assert error.startswith('error: nvme-fabrics.conf:2:1: the unknown key "controler" is ignored, and the path to')
    assert found(etc, misspelt) == found(etc)
    # Elsewhere it is a warning, and so it is where it was never good.
    text, code = check([misspelt], etc.parent / "other")
    assert (code, "warning: " in text) == (0, True)


def test_connections_until_the_next_boot_belong_to_this_host(
    etc: Path, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discoverd.check.RUNTIME_DROP_INS", tmp_path / "run/nvme-fabrics.conf.d")
    identity(write)
    main = write("nvme-fabrics.conf", DC.format(1))
    assert found(etc) == []
    drop_in = tmp_path / "run/nvme-fabrics.conf.d/late.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("junk\n")
    drop_in.chmod(0o600)
    for paths in ([], [main]):
        (error,) = found(etc, *paths)
        assert error.startswith(f"error: {drop_in}:1:")
    # Of another host nothing is known.
    assert check([main], etc.parent / "other")[1] == 0


def test_option_that_the_kernel_does_not_know_is_told(etc: Path, write: Write, tmp_path: Path) -> None:
    identity(write)
    write("nvme-fabrics.conf", SECTION + f"tos = 3\nkxchap-secret = {secret('x')}\n" + PATH.format("192.0.2.1"))
    assert found(etc) == []
    (tmp_path / "nvme-fabrics").touch()
    known = ["nqn", "transport", "traddr", "trsvcid", "hostnqn", "hostid", "ctrl_loss_tmo"]
    fields = [("module", str(fabrics.module())), *(("option", name) for name in known)]
    (tmp_path / "abilities").write_bytes(state.encode(fabrics.ABILITIES_KIND, fields))
    told = found(etc)
    where = "warning: nvme-fabrics.conf:5:1: this kernel does not know the option"
    assert f"{where} tos: connected without (use a later kernel)" in told
    assert f"{where} dhchap_secret: not connected (use a later kernel)" in told


# Rights ---------------------------------------------------------------------------------------------------


def as_nobody(etc: Path) -> list[str]:
    """Return the exit code and the lines that a user without rights gets."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            text, code = check((), etc)
            os.write(writer, f"{code}\n{text}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said.replace(f"{etc}/", "").splitlines()


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody reaches."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name) / "nvme"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_a_user_may_not_read_is_told_and_the_rest_is_checked(public: Path) -> None:
    def write(name: str, text: str) -> Path:
        path = public / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return path

    identity(write)
    write("nvme-fabrics.conf", "[I/O Controller Defaults]\ntos = 1\n")
    write("discoverd.conf", "[Global]\nmdns = perhaps\n").chmod(0o644)
    write("exclusions.conf", EXCLUSION)
    write("nvme-fabrics.conf.d/a.conf", DC.format(1) + "bogus = 1\n").chmod(0o644)
    write("nvme-fabrics.conf.d/b.conf", DC.format(2))
    code, *lines, summary = as_nobody(public)
    denied = "this user may not read it: it is not checked (check it as root)"
    assert code == "1"
    assert lines[0].startswith("error: discoverd.conf:2:8: ")
    assert lines[1:] == [
        f"error: hostnqn: {denied}",
        f"error: hostid: {denied}",
        f"error: exclusions.conf: {denied}",
        f"error: nvme-fabrics.conf: {denied}",
        f"error: nvme-fabrics.conf.d/b.conf: {denied}",
        'warning: nvme-fabrics.conf.d/a.conf:3:1: the unknown key "bogus" is ignored',
    ]
    assert summary == "6 errors, 1 warning in 4 files; 1 connection"
