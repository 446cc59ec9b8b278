# SPDX-License-Identifier: Apache-2.0
"""What a worker reports: since when its controller is in its state, and the parts of its status line."""

import time
from pathlib import Path

import pytest

from discoverd import notify, state
from discoverd.notify import Report, View

INSTANCE = "tcp:192.0.2.1:4420:nqn.2024-08.com.example:vol1"


class Clock:
    """CLOCK_BOOTTIME, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.5

    def read(self, _: int) -> float:
        return self.now


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path))
    monkeypatch.setattr(state, "WAKE_SOCKET", str(tmp_path / "wake"))
    monkeypatch.setattr(time, "clock_gettime", made.read)
    monkeypatch.setattr(notify, "status", lambda _: None)
    (tmp_path / INSTANCE).mkdir()
    return made


def view(name: str, inode: int = 0, **fields: object) -> View:
    made = View(name)
    made.device, made.sysfs_inode = ("nvme3" if inode else ""), inode
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def told() -> dict[str, str]:
    return dict(state.decode(state.REPORT, state.read(state.directory(INSTANCE) + "/report")))


def test_attempts_and_the_waits_between_them_are_one_state(clock: Clock) -> None:
    report = Report(INSTANCE)
    for name in (state.CONNECTING, state.WAITING, state.CONNECTING):
        report.show(view(name))
        assert (told()["state"], told()["since"]) == (name, "1000")
        clock.now += 10
    report.show(view(state.LIVE, 7))
    assert told()["since"] == "1030"


def test_news_of_the_same_state_do_not_begin_it_anew(clock: Clock) -> None:
    report = Report(INSTANCE)
    report.show(view(state.LIVE, 7))
    clock.now += 60
    report.show(view(state.LIVE, 7, discovery=", 4 entries in its log page (generation 8)"))
    assert (told()["since"], told()["time"]) == ("1000", "1060")


def test_worker_that_is_started_again_goes_on_with_what_it_finds(clock: Clock) -> None:
    Report(INSTANCE).show(view(state.LIVE, 7))
    clock.now += 60
    Report(INSTANCE).show(view(state.LIVE, 7))
    assert told()["since"] == "1000"
    # Another controller that has got the name is another connection.
    clock.now += 60
    Report(INSTANCE).show(view(state.LIVE, 8))
    assert told()["since"] == "1120"


@pytest.mark.parametrize("data", [b"", b"discoverd-report 1\nstate=live\nend\n", b"\xff"])
def test_report_that_makes_no_sense_is_none_to_go_on_with(clock: Clock, data: bytes) -> None:
    Path(state.directory(INSTANCE), "report").write_bytes(data)
    Report(INSTANCE).show(view(state.LIVE, 7))
    assert told()["since"] == "1000"


def test_since_that_is_no_number_is_told_anew(clock: Clock) -> None:
    fields = [("state", "live"), ("kernel-instance", "7"), ("since", "yesterday")]
    Path(state.directory(INSTANCE), "report").write_bytes(state.encode(state.REPORT, fields))
    Report(INSTANCE).show(view(state.LIVE, 7))
    assert told()["since"] == "1000"


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        (view(state.LIVE, 7), ""),
        (view(state.LIVE, 7, discovery=", 4 entries, registered"), "4 entries, registered"),
        (view(state.LIVE, 7, note="excluded by f:3"), "excluded by f:3"),
        (view(state.LIVE, 7, note="no longer listed", kept="in use"), "no longer listed, and stays: in use"),
        (view(state.LIVE, 7, foreign="stas"), "nvme3 belongs to stas"),
        (view(state.WAITING, wait=8, attempt=4, cause="timed out"), "8 s, attempt 4: timed out"),
        (view(state.PARKED, poll="14:05: why", page=", 4 entries"), "until 14:05: why, 4 entries"),
        (view(state.RECONNECTING, 7), ""),
        (view(state.RECONNECTING, 7, note="excluded by f:3"), "excluded by f:3"),
        (view(state.CONNECTING), ""),
        (view(state.STOPPING, 7), ""),
        (view(state.STOPPING, 7, kept="/data"), "in use by /data"),
    ],
)
def test_detail_is_what_the_status_says_beside_state_and_device(clock: Clock, given: View, detail: str) -> None:
    assert given.detail() == detail
    assert given.text().endswith(detail)
    Report(INSTANCE).show(given)
    assert told()["detail"] == detail


@pytest.mark.parametrize(
    ("name", "text", "detail"),
    [
        (state.STOPPED, "stopped", ""),
        (state.STOPPED, "stopped; nvme3 stays: it was there before", "nvme3 stays: it was there before"),
        (state.EXCLUDED, "excluded by f:3: not connected", "by f:3: not connected"),
        (state.GIVEN_UP, "given up after 3 attempts: timed out", "after 3 attempts: timed out"),
        (state.REFUSED, "in use by /data: nvme3 stays connected", "in use by /data: nvme3 stays connected"),
    ],
)
def test_last_word_has_a_detail_too(clock: Clock, name: str, text: str, detail: str) -> None:
    report = Report(INSTANCE)
    report.end(view(state.STOPPING), name, text, "")
    assert (told()["state"], told()["status"], told()["detail"]) == (name, text, detail)
