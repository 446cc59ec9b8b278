# SPDX-License-Identifier: Apache-2.0
"""discoverctl confirm, and what why says of what waits for it."""

import socket
import threading
from pathlib import Path

import pytest

from discoverd import state, store

from .fake_ctl import Desk, install


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    monkeypatch.setattr(state, "WAKE_SOCKET", str(tmp_path / "wake"))
    return made


def waiting(desk: Desk) -> tuple[str, str]:
    """A discovery controller that no longer lists a volume which stays; returns their instances."""
    parent, volume = desk.controller(1, "nvme0"), desk.controller(2, "nvme1")
    desk.plan["controllers"][0]["held_back"] = "10 of 20 controllers that its log page listed are missing from it"
    desk.plan["pending"] = [{"origin": parent, "instances": [volume]}]
    return parent, volume


def test_the_daemon_takes_what_was_confirmed(desk: Desk) -> None:
    parent, volume = waiting(desk)
    heard: list[tuple[str, list[str]]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
        wake.bind(state.WAKE_SOCKET)

        def daemon() -> None:
            instance = wake.recv(4096).decode()
            heard.append((instance, store.take_confirmation(instance)))

        thread = threading.Thread(target=daemon)
        thread.start()
        status, output, errors = desk.run("confirm", "nvme0")
        thread.join()
    assert (status, errors) == (0, "")
    assert output == f"{volume}: no longer listed, is disconnected unless it is in use\n"
    assert heard == [(parent, [volume])]


def test_a_dry_run_only_shows(desk: Desk) -> None:
    parent, volume = waiting(desk)
    status, output, _ = desk.run("confirm", "--dry-run", parent)
    assert (status, output) == (0, f"{volume}: no longer listed, would be disconnected unless it is in use\n")
    assert store.take_confirmation(parent) == []


@pytest.mark.parametrize("listens", [True, False])
def test_without_the_daemon_nothing_is_confirmed(desk: Desk, monkeypatch: pytest.MonkeyPatch, listens: bool) -> None:
    monkeypatch.setattr("discoverd.cli.wake.TIMEOUT_SECONDS", 0.1)
    parent, _ = waiting(desk)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wake:
        if listens:
            wake.bind(state.WAKE_SOCKET)
        status, _, errors = desk.run("confirm", parent)
    assert status == 1
    assert errors == (
        "discoverctl: discoverd does not answer, so nothing is confirmed; see: systemctl status discoverd\n"
    )
    assert store.take_confirmation(parent) == []


def test_controller_without_anything_held_back_is_refused(desk: Desk) -> None:
    parent, volume = waiting(desk)
    status, _, errors = desk.run("confirm", volume)
    assert (status, f"discoverctl confirm {parent}" in errors) == (2, True)
    desk.plan["pending"] = []
    status, _, errors = desk.run("confirm", parent)
    assert (status, "waits to be confirmed" in errors) == (1, True)


def test_why_says_what_confirms_it(desk: Desk) -> None:
    parent, volume = waiting(desk)
    _, output, _ = desk.run("why", volume)
    assert f"To disconnect it now, with all that waits for the same: discoverctl confirm {parent}" in output
    _, output, _ = desk.run("why", parent)
    assert "Of what it lists, 10 of 20 controllers that its log page listed are missing from it." in output
    assert f"To confirm what its log page says now: discoverctl confirm {parent}" in output


def test_a_confirmation_that_makes_no_sense_confirms_nothing(desk: Desk) -> None:
    parent, _ = waiting(desk)
    Path(state.directory(parent), "confirm").write_bytes(b"discoverd-confirm 1\nunit=x\n")
    assert store.take_confirmation(parent) == []
    assert not Path(state.directory(parent), "confirm").exists()
