# SPDX-License-Identifier: Apache-2.0
"""Message IDs: each event that one would search the journal for has one, and an entry in the catalogue."""

import itertools
import re
import socket
from pathlib import Path

import pytest

from discoverd import notify, state
from discoverd.supervisor.fields import about
from discoverd.worker import machine
from discoverd.worker.machine import Event, Machine

CATALOGUE = Path(__file__).parents[2] / "packaging/discoverd.catalog"
IDS = {name: value for name, value in vars(notify).items() if re.fullmatch("[0-9a-f]{32}", str(value))}


def spec() -> state.Spec:
    return state.Spec("io", [("nqn", "nqn.2024-08.com.example:vol1"), ("transport", "tcp"), ("traddr", "192.0.2.1")])


def test_each_has_an_entry_and_each_entry_is_one() -> None:
    text = CATALOGUE.read_text()
    found = re.findall(r"^-- ([0-9a-f]{32})$", text, re.MULTILINE)
    assert sorted(found) == sorted(IDS.values())
    assert len(set(found)) == 10
    for entry in text.split("\n-- ")[1:]:
        lines = entry.splitlines()
        assert lines[1].startswith("Subject: ")
        assert lines[2] == "Defined-By: discoverd"
        assert lines[3].startswith("Documentation: man:")
        assert lines[4] == ""
        # journalctl fills in fields of the entry, and these are all that each one has.
        assert set(re.findall("@([A-Z_]+)@", entry)) <= {"NVME_CTRL"}


CLOCK = itertools.count(100, 20)


def events(made: Machine, *given: Event) -> list[str]:
    said = []
    for event in given:
        now = float(next(CLOCK))
        said += [one.event for one in made.step(event, now, now) if one.kind == machine.LOG and one.event]
    return said


def test_machine_says_what_has_happened() -> None:
    made = Machine(spec(), 0.0, lambda: 0.5)
    found = events(
        made,
        Event(machine.DUE),
        Event(machine.NOT_FOUND),
        Event(machine.REFUSED, "connection refused", errno=111),
        Event(machine.DUE),
        Event(machine.NOT_FOUND),
        Event(machine.CONNECTED, "nvme0"),
        Event(machine.DOWN),
        Event(machine.UP),
        Event(machine.DOWN),
        Event(machine.REMOVED),
    )
    assert found == [notify.CANNOT_CONNECT, notify.LOST, notify.RESTORED, notify.LOST, notify.REMOVED]


def test_line_goes_to_the_journal_with_its_id_and_its_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notify, "JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setattr(notify, "subject", "tcp:192.0.2.1:4420:nqn.x:y")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(notify.JOURNAL)
        notify.log(notify.WARNING, "nvme0: lost the connection", notify.LOST)
        fields = dict(line.split("=", 1) for line in journal.recv(8192).decode().splitlines())
    assert fields == {
        "MESSAGE": "tcp:192.0.2.1:4420:nqn.x:y: nvme0: lost the connection",
        "PRIORITY": "4",
        "MESSAGE_ID": notify.LOST,
        "SYSLOG_IDENTIFIER": "nvme-ctrl",
        "NVME_CTRL": "tcp:192.0.2.1:4420:nqn.x:y",
        "OBJECT_SYSTEMD_UNIT": "nvme-ctrl@tcp:192.0.2.1:4420:nqn.x:y.service",
    }
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["lost", "lost\nMESSAGE=forged"])
def test_line_is_said_without_a_journal_or_with_a_line_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setattr(notify, "JOURNAL", str(tmp_path / "none"))
    monkeypatch.setattr(notify, "subject", "x")
    notify.log(notify.WARNING, text, notify.LOST)
    assert capsys.readouterr().err == f"<4>x: {text}\n"


def test_supervisors_lines_have_theirs() -> None:
    assert about("x", event=notify.HELD_BACK) == {"fields": {"NVME_CTRL": "x", "MESSAGE_ID": notify.HELD_BACK}}
    assert about("x") == {"fields": {"NVME_CTRL": "x"}}
