# SPDX-License-Identifier: Apache-2.0
"""The last good configuration on the disk: for root only, of this machine only, and whole or not at all."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from discoverd import state
from discoverd.config import record
from discoverd.config.files import Files
from discoverd.config.identity import MISSING
from discoverd.config.record import Record
from discoverd.config.sources import SourceFile

MAIN = SourceFile("/etc/nvme/nvme-fabrics.conf", b"[Host]\nkxchap-secret = DHHC-1:00:x:\n", 0o600)
DROP_IN = SourceFile("/etc/nvme/nvme-fabrics.conf.d/a.conf", b"\xff\0=\nend\n", 0o644, drop_in=True)
NQN = SourceFile("/etc/nvme/hostnqn", b"nqn.2024-08.com.example:host\n")
NO_ID = SourceFile("/etc/nvme/hostid", fault=MISSING)
FILES = Files((), (MAIN, DROP_IN), (NQN, NO_ID))
RECORD = Record(FILES, {MAIN.path: 1000, DROP_IN.path: 2000, NQN.path: 3000})


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    machine = tmp_path / "machine-id"
    machine.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(record, "PATH", str(tmp_path / "lib/last-good"))
    monkeypatch.setattr(record, "MACHINE", machine)
    return tmp_path


def test_written_record_is_read() -> None:
    record.write(RECORD)
    assert record.read() == RECORD


def test_record_is_for_root_only_and_replaced_as_a_whole(place: Path) -> None:
    os.umask(os.umask(0o022))
    record.write(RECORD)
    (place / "lib/last-good.tmp.999999999").write_text("half of one")
    record.write(Record())
    assert (os.stat(place / "lib").st_mode & 0o777, os.stat(record.PATH).st_mode & 0o777) == (0o700, 0o600)
    assert os.listdir(place / "lib") == ["last-good"]
    assert record.read() == Record()


def test_record_of_another_machine_does_not_count(place: Path) -> None:
    record.write(RECORD)
    (place / "machine-id").write_text("fedcba9876543210fedcba9876543210\n")
    with pytest.raises(state.StateError, match="another machine"):
        record.read()
    (place / "machine-id").unlink()
    with pytest.raises(state.StateError, match="another machine"):
        record.read()


def test_nothing_is_there(place: Path) -> None:
    assert not record.exists()
    with pytest.raises(state.StateError, match="No such file"):
        record.read()


def test_place_that_cannot_be_written(place: Path) -> None:
    (place / "lib").write_text("in the way")
    with pytest.raises(state.StateError):
        record.write(RECORD)


def test_since_when_a_file_counts() -> None:
    changed = SourceFile(MAIN.path, b"[Host]\n")
    new = SourceFile("/etc/nvme/nvme-fabrics.conf.d/b.conf", b"", drop_in=True)
    after = record.renewed(RECORD, Files((), (changed, DROP_IN, new), (NQN, NO_ID)), 5000)
    assert after.since == {MAIN.path: 5000, DROP_IN.path: 2000, new.path: 5000, NQN.path: 3000}
    assert record.renewed(after, after.files, 6000) == after


@hypothesis_settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.integers(0, 400), st.binary(max_size=8))
def test_damaged_record_is_none_or_whole(start: int, end: int, put: bytes) -> None:
    whole = record.encode(RECORD, "m")
    data = whole[: min(start, end)] + put + whole[max(start, end) :]
    try:
        found = record.decode(data, "m")
    except state.StateError:
        return
    assert len(found.files.identity) in (0, 2)
    assert all(isinstance(source.data, bytes) and 0 <= source.mode <= 0o7777 for source in found.files.all)
