# SPDX-License-Identifier: Apache-2.0
"""What allows a disconnect is looked at again in its last moment: its turn may have been minutes away."""

import _thread
import errno
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from discoverd import registry, state
from discoverd.kernel import disconnect as kernel_disconnect
from discoverd.kernel import usage
from discoverd.kernel.disconnect import UnwrittenError
from discoverd.kernel.usage import User
from discoverd.worker import disconnect, loop, machine

from .fake_kernel import Kernel, play, until
from .worker_setting import (
    DISCOVERY,
    INSTANCE,
    WITHDRAWN,
    install_shutdown,
    install_users,
    specify,
    specify_discovery,
)


@pytest.fixture(autouse=True)
def users(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> list[User]:
    return install_users(kernel, monkeypatch)


@pytest.fixture
def system_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    install_shutdown(monkeypatch)


def operation(kernel: Kernel) -> loop.Call:
    """Return the disconnect that is under way, from its thread: the loop may not know it yet."""
    until(lambda: kernel.worker._operation)
    assert kernel.worker._operation is not None
    return kernel.worker._operation


def during_turn(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> Callable[[], None]:
    """Let something happen while the first disconnect waits for its turn; returns what waits until it has ended."""
    begun: list[object] = []

    def lock(*_: object) -> list[int]:
        if not begun:
            begun.append(operation(kernel))
            act()
        return []

    monkeypatch.setattr(kernel_disconnect, "_lock_subsystem", lock)
    return lambda: until(lambda: begun and kernel.worker._operation is not begun[0])


def hang_up(kernel: Kernel) -> None:
    kernel.worker.signal(signal.SIGHUP)


def withdrawn_in_vain(kernel: Kernel, wait_for_end: Callable[[], None]) -> Callable[[], None]:
    """Return a scenario in which the controller is withdrawn, and stays."""

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        specify(**WITHDRAWN)
        hang_up(kernel)
        wait_for_end()
        assert kernel.deleted == []

    return act


@pytest.mark.parametrize("told", [False, True])
def test_withdrawn_controller_asked_for_again_before_its_turn_stays(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    def ask_again() -> None:
        specify()
        if told:
            hang_up(kernel)

    wait_for_end = during_turn(kernel, monkeypatch, ask_again)

    play(INSTANCE, kernel, withdrawn_in_vain(kernel, wait_for_end), specify())


def test_withdrawn_controller_claimed_by_another_tool_before_its_turn_stays(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_end = during_turn(kernel, monkeypatch, lambda: registry.claim("nvme0", "stas", ""))

    play(INSTANCE, kernel, withdrawn_in_vain(kernel, wait_for_end), specify())


def test_stopped_controller_claimed_by_another_tool_before_its_turn_stays(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_turn(kernel, monkeypatch, lambda: registry.claim("nvme0", "stas", ""))
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), specify()) == 0
    assert kernel.deleted == []


def test_withdrawn_controller_without_readable_specification_stays(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_end = during_turn(
        kernel, monkeypatch, lambda: state.write(state.directory(INSTANCE) + "/spec", b"damaged")
    )

    play(INSTANCE, kernel, withdrawn_in_vain(kernel, wait_for_end), specify())


def test_polled_controller_to_be_kept_before_its_turn_stays(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep() -> None:
        specify_discovery(persistent="force")
        hang_up(kernel)

    wait_for_end = during_turn(kernel, monkeypatch, keep)

    def act() -> None:
        wait_for_end()
        assert kernel.deleted == []

    play(DISCOVERY, kernel, act, specify_discovery())


def test_withdrawal_without_a_thread_to_write_back_keeps_the_controller(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        monkeypatch.setattr(kernel_disconnect, "_thread", SimpleNamespace(start_new_thread=refuse))
        specify(**WITHDRAWN)
        hang_up(kernel)
        until(lambda: "it cannot be disconnected: can't start new thread" in kernel.status)
        monkeypatch.setattr(kernel_disconnect, "_thread", _thread)

    play(INSTANCE, kernel, act, specify())


# Given up -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("system_stops")
def test_silent_controller_live_again_during_its_last_look_is_not_given_up(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(loop, "RECONNECT_CHECK", 0.05)
    begun: list[object] = []

    def system_subsystems() -> set[str]:
        begun.append(operation(kernel))
        kernel.set_state("nvme0", "live")
        return set()

    monkeypatch.setattr(usage, "system_subsystems", system_subsystems)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.set_state("nvme0", "connecting")
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: begun and kernel.worker._operation is not begun[0])
        assert kernel.deleted == []
        until(lambda: kernel.status == "live nvme0")

    play(INSTANCE, kernel, act, specify())


@pytest.mark.usefixtures("system_stops")
def test_stop_that_waits_for_processes_no_longer_still_waits_for_what_is_unwritten(
    kernel: Kernel, users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is live: only one that is silent costs what was written to it."""
    users.append(User("process", "/dev/nvme0n1"))
    monkeypatch.setattr(disconnect, "PROCESSES_TIMEOUT_SECONDS", 0.05)
    attempts = 0

    def write_back(*_: object) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 4:
            assert kernel.deleted == []
            raise UnwrittenError(errno.ETIMEDOUT, "what was written cannot be written back; its target is silent")

    monkeypatch.setattr(kernel_disconnect, "_write_back", write_back)
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), specify()) == 0
    assert (attempts, kernel.deleted) == (4, ["nvme0"])


def test_silent_controller_is_given_up_though_systemd_did_not_answer_once(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer is no end of the shutdown."""
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.1)
    answers = [""]
    monkeypatch.setattr(disconnect, "system_state", lambda: answers.pop() if answers else "stopping")

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.set_state("nvme0", "connecting")
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: kernel.deleted)

    play(INSTANCE, kernel, act, specify())
    assert answers == []
