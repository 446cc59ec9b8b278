# SPDX-License-Identifier: Apache-2.0
"""State files: what goes in comes out, and what is broken is refused."""

import errno
import os
import posix
import re
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd import state
from discoverd.state import Spec, StateError

keys = st.text(alphabet="abc-.", min_size=1, max_size=12)
values = st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=60)
printable = values.filter(str.isprintable)


@given(st.lists(st.tuples(keys, values), max_size=8))
def test_round_trip(fields: list[tuple[str, str]]) -> None:
    assert state.decode(state.REPORT, state.encode(state.REPORT, fields)) == fields


def test_bytes_that_are_no_text_survive() -> None:
    fields = [("a", b"\xff\xfe".decode("utf-8", "surrogateescape"))]
    assert state.decode(state.REPORT, state.encode(state.REPORT, fields)) == fields


@given(values, values, values, st.lists(st.tuples(keys, printable), max_size=5))
def test_spec_round_trip(source: str, origin: str, note: str, options: list[tuple[str, str]]) -> None:
    options = [(key, value.replace(",", "")) for key, value in options]
    spec = Spec("discovery", [("nqn", "nqn.x"), ("transport", "tcp"), *options])
    spec.source, spec.origin, spec.note = source, origin, note
    again = Spec.decode(spec.encode())
    assert (again.role, again.source, again.origin, again.note, again.options) == (
        "discovery",
        source,
        origin,
        note,
        spec.options,
    )


@pytest.mark.parametrize("give_up_after", [0, 1, 259200])
@pytest.mark.parametrize("source_optional", [False, True])
@pytest.mark.parametrize("withdrawn", [False, True])
def test_specification_survives_encoding(give_up_after: int, source_optional: bool, withdrawn: bool) -> None:
    spec = Spec("io", [("nqn", "nqn.x"), ("transport", "tcp")])
    spec.give_up_after, spec.source_optional, spec.withdrawn = give_up_after, source_optional, withdrawn
    again = Spec.decode(spec.encode())
    assert (again.give_up_after, again.source_optional, again.withdrawn) == (give_up_after, source_optional, withdrawn)


def test_parked_interval_survives_encoding_and_its_default_is_not_written() -> None:
    spec = Spec("discovery", [("nqn", "nqn.x"), ("transport", "tcp")])
    assert b"parked-interval" not in spec.encode()
    spec.parked_interval = 60
    assert Spec.decode(spec.encode()).parked_interval == 60


# What int() takes, or chokes on, and no state file has.
NO_NUMBERS = ["", "-1", "+1", " 1", "1_0", "x", "0x10", "1.5", "\u00b2", "\u0663", "9" * 21, "9" * 5000]


def test_specification_file_keeps_its_keys() -> None:
    """A worker reads what a supervisor of another release has written, and the other way round."""
    spec = Spec("io", [("nqn", "nqn.x"), ("transport", "tcp")])
    spec.give_up_after, spec.referrers = 60, "a b"
    written = dict(state.decode(state.SPEC, spec.encode()))
    assert (written["horizon"], written["witnesses"]) == ("60", "a b")
    read = Spec.decode(state.encode(state.SPEC, list(written.items())))
    assert (read.give_up_after, read.referrers) == (60, "a b")


def test_document_has_every_field_of_a_specification() -> None:
    text = (Path(__file__).parents[2] / "docs/design/architecture.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("| `spec` |"))
    spec = Spec("discovery", [])
    for name in Spec.__slots__:
        if name not in ("options", "role"):
            setattr(spec, name, "x" if isinstance(getattr(spec, name), str) else 1)
    spec.register = spec.trusted = False
    written = [key for key, _ in state.decode(state.SPEC, spec.encode())]
    assert len(written) == len(Spec.__slots__) - len(["options"])
    words = set(re.split(r"[\s,;:()|]+", row))
    assert [key for key in written if key not in words] == []


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize("field", ["horizon", "attempts"])
def test_a_number_that_makes_no_sense_is_damage(field: str, text: str) -> None:
    fields = [("role", "io"), (field, text), ("option.nqn", "nqn.x"), ("option.transport", "tcp")]
    with pytest.raises(StateError, match="is no number"):
        Spec.decode(state.encode(state.SPEC, fields))


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), (str((1 << 64) - 1), (1 << 64) - 1)])
def test_numbers(text: str, number: int) -> None:
    assert state.number(text) == number


def test_the_bytes_are_stable() -> None:
    spec = Spec("io", [("nqn", "nqn.x"), ("transport", "tcp"), ("hdr_digest", "")])
    assert spec.encode() == (
        b"discoverd-spec 1\nrole=io\nsource=\norigin=\nnote=\n"
        b"option.nqn=nqn.x\noption.transport=tcp\noption.hdr_digest=\nend\n"
    )


@pytest.mark.parametrize("value", ["a\nnote=yes", "a\rb", "a\0b", "\n", "a\x1b[2J", "a\x85b", "a\u2028b", "\x7f"])
@pytest.mark.parametrize("where", ["source", "origin", "note", "option"])
def test_no_value_forges_a_field(where: str, value: str) -> None:
    spec = Spec("io", [("nqn", "nqn.x"), ("transport", value if where == "option" else "tcp")])
    if where != "option":
        setattr(spec, where, value)
    with pytest.raises(StateError, match="line break or another control"):
        spec.encode()


def test_no_option_forges_another() -> None:
    with pytest.raises(StateError, match="option traddr has a comma"):
        Spec("io", [("nqn", "nqn.x"), ("transport", "tcp"), ("traddr", "192.0.2.1,hostid=x")]).encode()


WHOLE = Spec("io", [("nqn", "nqn.x"), ("transport", "tcp")]).encode()


@pytest.mark.parametrize("size", range(len(WHOLE)))
def test_each_truncation_is_refused(size: int) -> None:
    with pytest.raises(StateError):
        Spec.decode(WHOLE[:size])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "begins with ''"),
        (WHOLE.replace(b"spec 1", b"spec 2"), "begins with 'discoverd-spec 2'"),
        (WHOLE.replace(b"spec 1", b"spec 10"), "begins with 'discoverd-spec 10'"),
        (WHOLE.replace(b"spec 1", b"report 1"), "begins with 'discoverd-report 1'"),
        (WHOLE + b"x=y\n", "truncated"),
        (WHOLE + b"\n", "truncated"),
        (WHOLE.replace(b"role=io", b"role"), "no field"),
        (WHOLE.replace(b"option.nqn=nqn.x\n", b""), "no NQN"),
        (WHOLE.replace(b"option.transport=tcp\n", b""), "no NQN or no transport"),
        (b"\xff\xfe\x00", "begins with"),
        (WHOLE.replace(b"note=", b"note=a\rb"), "'note' has a control character"),
        (WHOLE.replace(b"note=", "note=a\u2028b".encode()), "'note' has a control character"),
        (WHOLE.replace(b"note=", b"no\x1bte="), "has a control character"),
        (WHOLE.replace(b"tcp", b"tcp,hostid=x"), "'transport' has a comma"),
        (WHOLE.replace(b"option.nqn", b"option.tls,nqn=nqn.y\noption.nqn"), "'tls,nqn' has a comma"),
        (WHOLE.replace(b"=tcp", b"=tcp\xff"), "is not printable"),
        (WHOLE.replace(b"=io", b"=i\xc2\xado"), "'role' is not printable"),
        (WHOLE.replace(b"end", b"option.trsvcid=http\nend"), "'http' is no number"),
        (WHOLE.replace(b"end", b"option.trsvcid=65536\nend"), "trsvcid is no port"),
    ],
)
def test_refused(data: bytes, why: str) -> None:
    with pytest.raises(StateError, match=why):
        Spec.decode(data)


@given(st.binary(max_size=200))
def test_noise_is_a_state_error(data: bytes) -> None:
    for noise in (data, b"discoverd-spec 1\n" + data + b"\nend\n"):
        try:
            Spec.decode(noise)
        except StateError:
            pass


def test_an_unknown_field_of_a_later_supervisor_is_passed_over() -> None:
    assert Spec.decode(WHOLE.replace(b"role=io\n", b"role=io\nfuture=1\n")).role == "io"


# Files ----------------------------------------------------------------------------------------------------


def test_a_file_is_for_its_owner_only(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        state.write(f"{tmp_path}/spec", b"secret")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "spec").stat().st_mode) == 0o600


def test_write_replaces_in_one_step(tmp_path: Path) -> None:
    """Whoever reads meanwhile sees one of the written contents, whole."""
    path = tmp_path / "report"
    contents = [state.encode(state.REPORT, [("state", letter * 5000)]) for letter in "ab"]
    state.write(str(path), contents[0])
    done = threading.Event()

    def write() -> None:
        for number in range(400):
            state.write(str(path), contents[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            assert state.read(str(path)) in contents
    finally:
        writer.join()
    assert os.listdir(tmp_path) == ["report"]


def test_the_new_file_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "spec"
    state.write(str(path), b"one")
    with path.open("rb") as before:
        state.write(str(path), b"two")
        assert before.read() == b"one"
    assert path.read_bytes() == b"two"


def test_write_follows_no_link(tmp_path: Path) -> None:
    target = tmp_path / "shadow"
    target.write_bytes(b"precious")
    (tmp_path / f"spec.tmp.{os.getpid()}").symlink_to(target)
    with pytest.raises(StateError):
        state.write(f"{tmp_path}/spec", b"new")
    assert target.read_bytes() == b"precious"


def test_read_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "spec").symlink_to("/etc/passwd")
    with pytest.raises(StateError, match="symbolic links"):
        state.read(f"{tmp_path}/spec")


def test_read_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(1001))
    assert len(state.read(f"{tmp_path}/log", 1001)) == 1001
    with pytest.raises(StateError, match="more than 1000 bytes"):
        state.read(f"{tmp_path}/log", 1000)


def test_read_says_which_file_and_why(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=f"{tmp_path}/none: No such file"):
        state.read(f"{tmp_path}/none")
    with pytest.raises(StateError, match="Is a directory"):
        state.read(str(tmp_path))


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="No such file"):
        state.write(f"{tmp_path}/none/report", b"x")


@pytest.mark.parametrize("failing", ["write", "rename"])
def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "report"
    state.write(str(path), b"old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"discoverd.state.posix.{failing}", full)
    with pytest.raises(StateError, match=f"{path}: No space left on device"):
        state.write(str(path), b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["report"]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few pages."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no mounts for this user here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_file_system(tiny: Path) -> None:
    state.write(f"{tiny}/report", b"old")
    with pytest.raises(StateError, match="No space left on device"):
        state.write(f"{tiny}/report", bytes(200_000))
    assert (tiny / "report").read_bytes() == b"old"
    assert os.listdir(tiny) == ["report"]


def test_lasting_file_is_synced_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = posix.fsync, posix.rename

    def synced(fd: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(str(tmp_path)))
        fsync(fd)

    def renamed(old: str, new: str) -> None:
        done.append("renamed")
        rename(old, new)

    monkeypatch.setattr(posix, "fsync", synced)
    monkeypatch.setattr(posix, "rename", renamed)
    state.write(f"{tmp_path}/file", b"x", lasting=True)
    assert done == [f"/file.tmp.{os.getpid()}", "renamed", ""]
    state.write(f"{tmp_path}/file", b"y")
    assert done[3:] == ["renamed"]
