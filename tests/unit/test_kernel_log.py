# SPDX-License-Identifier: Apache-2.0
"""What is quoted from the kernel's log, and what is not because it may be about something else."""

import time
from pathlib import Path

import pytest

from discoverd import state
from discoverd.cli import advice, kernel_log
from discoverd.cli.kernel_log import Line
from discoverd.cli.overview import Controller
from discoverd.worker import cause

NQN = "nqn.2024-08.com.example:vol1"


def lines(*texts: str) -> list[Line]:
    return [Line(float(number), text) for number, text in enumerate(texts)]


def test_records_are_read_without_what_is_not_about_nvme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kmsg"
    path.write_bytes(
        b"6,339,5140900,-;nvme nvme0: Connect \x1b[2Jcommand failed\n SUBSYSTEM=nvme\n DEVICE=+nvme:nvme0\n"
        b"4,340,5690716,-,caller=T7;usb 1-1: reset nothing\n30,1,2\n;\ngarbage\n6,x,y,-;nvme without a time\n"
    )
    monkeypatch.setattr(kernel_log, "PATH", str(path))
    assert kernel_log.read() == [Line(5.1409, r"nvme nvme0: Connect \x1b[2Jcommand failed")]


def test_last_lines_of_a_device_are_its_own() -> None:
    log = lines(
        "nvme nvme1: an earlier controller",
        'nvme nvme1: new ctrl: NQN "x", addr 192.0.2.1:4420',
        "nvme nvme10: another one",
        "nvme nvme1: starting error recovery",
        "nvme nvme1: failed to connect socket: -113",
        "nvme nvme1: Failed reconnect attempt 1/60",
        "nvme nvme1: Reconnecting in 10 seconds...",
    )
    assert kernel_log.about_device(log, "nvme1") == [line.text for line in log[-3:]]
    assert kernel_log.about_device(log[:3], "nvme1") == [log[1].text]
    assert kernel_log.socket_error(kernel_log.about_device(log, "nvme1")) == 113


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f'nvme nvme0: Connect Invalid Data Parameter, subsysnqn "{NQN}"', True),
        (f"nvme nvme0: Connect for subsystem {NQN} is not allowed, hostnqn: nqn.x", True),
        (f"nvme nvme0: {NQN}.", True),
        (f"nvme nvme0: {NQN}0 is not allowed", False),
        (f"nvme nvme0: {NQN}:b is not allowed", False),
        (f"nvme nvme0: x{NQN} is not allowed", False),
        (f'nvme nvme0: new ctrl: NQN "{NQN}", addr 192.0.2.1:4420', False),
        (f'nvme nvme0: Removing ctrl: NQN "{NQN}"', False),
    ],
)
def test_subsystem_is_named_by_its_whole_nqn(text: str, named: bool) -> None:
    assert kernel_log.about_subsystem(lines(text), NQN, 0) == ([text] if named else [])


def test_what_was_said_before_the_state_began_is_not_quoted() -> None:
    now, slept = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    log = [Line(now - 600, f"nvme nvme0: {NQN} earlier"), Line(now - 60, f"nvme nvme0: {NQN} now")]
    assert kernel_log.about_subsystem(log, NQN, now + slept - 61) == [log[1].text]


def test_lines_of_an_attempt_are_not_those_of_a_controller_that_is_there() -> None:
    now, reported = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    log = [Line(now - 9, "nvme nvme3: before"), Line(now - 1, "nvme nvme1: other"), Line(now - 1, "nvme nvme3: own")]
    assert kernel_log.in_attempt(log, reported, {"nvme1"}) == ["nvme nvme3: own"]


def test_each_errno_that_has_a_sentence_has_advice() -> None:
    assert cause._SENTENCES.keys() <= advice.ERRNOS


@pytest.mark.parametrize("errno", [*sorted(advice.ERRNOS), 4711])
def test_advice_names_the_controller_whatever_it_is_called(errno: int) -> None:
    text = advice.help_for(Controller("tcp:{0}:4420:nqn.{x}"), errno)
    assert text
    assert "{" not in text
    assert not text.endswith(".")


def test_no_errno_has_no_advice() -> None:
    assert advice.help_for(Controller("tcp:192.0.2.1:4420:nqn.x"), 0) == ""
    assert advice.answer(Controller("tcp:192.0.2.1:4420:nqn.x"), 22, "") == ""


def test_silence_is_told_from_an_answer() -> None:
    one = Controller("tcp:192.0.2.1:4420:nqn.x")
    assert "does not answer" in advice.answer(one, 110, state.SILENT)
    assert "answers, and refuses" in advice.answer(one, 5, state.ANSWERED)
