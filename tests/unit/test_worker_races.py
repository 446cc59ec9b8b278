# SPDX-License-Identifier: Apache-2.0
"""What a worker does when two things happen at once, and that it waits for them without a busy loop."""

import _thread
import errno
import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from discoverd import registry, state
from discoverd.kernel import usage
from discoverd.kernel.usage import User
from discoverd.worker import disconnect, discovery, loop, machine

from .fake_kernel import Kernel, identity, play, until
from .worker_setting import (
    CHANGED,
    DATA,
    DISCOVERY,
    DISCOVERY_NQN,
    INSTANCE,
    NOTE,
    WITHDRAWN,
    during_delete,
    install_shutdown,
    install_users,
    report,
    specify,
    specify_discovery,
)

# Rounds of a worker that waits: it looks at its controller every 0.05 s.
FEW = 40


@pytest.fixture(autouse=True)
def users(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> list[User]:
    return install_users(kernel, monkeypatch)


@pytest.fixture
def system_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    install_shutdown(monkeypatch)


def rounds_of_a_quiet_time(kernel: Kernel) -> int:
    before = kernel.worker.rounds
    time.sleep(0.2)
    return kernel.worker.rounds - before


def claim_for_another_tool(kernel: Kernel) -> None:
    registry.claim("nvme0", "stas", "")
    kernel.uevents.send(ACTION="change")
    until(lambda: kernel.status.startswith("left alone"))


# Waiting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["others connected it", "going down"])
def test_change_at_a_polled_controller_that_stays_is_read_without_a_busy_loop(kernel: Kernel, why: str) -> None:
    if why == "others connected it":
        kernel.add(subsysnqn=DISCOVERY_NQN, address="traddr=192.0.2.1,trsvcid=8009")
    kernel.log_gate.clear()

    def act() -> None:
        until(lambda: kernel.log_reads)
        if why == "going down":
            kernel.worker.signal(signal.SIGUSR1)
        kernel.log_gate.set()
        until(lambda: "generation 1" in kernel.status)
        kernel.uevents.send(NVME_AEN=CHANGED)
        until(lambda: "generation 2" in kernel.status)
        assert rounds_of_a_quiet_time(kernel) < FEW
        assert kernel.log_reads == 2

    play(DISCOVERY, kernel, act, specify_discovery())


def test_withdrawal_that_takes_long_is_waited_for_without_a_busy_loop(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []

    def wait_for_the_next_look() -> None:
        time.sleep(2 * loop.LIVE_CHECK)
        rounds.append(rounds_of_a_quiet_time(kernel))

    during_delete(monkeypatch, wait_for_the_next_look)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        specify(**WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert rounds[0] < FEW


@pytest.mark.usefixtures("system_stops")
def test_stop_during_a_connect_waits_for_users_without_a_busy_loop(kernel: Kernel, users: list[User]) -> None:
    users.append(DATA)
    kernel.gate.clear()

    def act() -> None:
        until(lambda: kernel.written)
        kernel.worker.signal(signal.SIGTERM)
        kernel.gate.set()
        until(lambda: kernel.status == "waiting to disconnect nvme0: in use by /data")
        time.sleep(2 * loop.LIVE_CHECK)
        assert rounds_of_a_quiet_time(kernel) < FEW
        users.clear()
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0


@pytest.mark.usefixtures("system_stops")
def test_stop_during_the_look_of_a_withdrawal_waits_for_users_without_a_busy_loop(
    kernel: Kernel, users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    users.append(DATA)
    find, looks = usage.users, 0

    def find_slowly(*arguments: object) -> dict[str, list[User]]:
        nonlocal looks
        looks += 1
        if looks == 1:
            kernel.worker.signal(signal.SIGTERM)
        return find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(usage, "users", find_slowly)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        specify(**WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: kernel.status == "waiting to disconnect nvme0: in use by /data")
        assert rounds_of_a_quiet_time(kernel) < FEW
        users.clear()
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0


def test_readiness_of_a_worker_that_never_connects_is_told_once(kernel: Kernel) -> None:
    kernel.fails_always = errno.ECONNREFUSED
    play(INSTANCE, kernel, lambda: until(lambda: kernel.ready and len(kernel.written) > 2), specify())
    assert kernel.hear().count("READY=1") == 1


def test_report_that_cannot_be_written_is_tried_again_and_said_once(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, attempts = state.write, 0

    def fail(path: str, data: bytes, mode: int = 0o600) -> None:
        nonlocal attempts
        if path.endswith("/report") and attempts < 5:
            attempts += 1
            raise state.StateError("no space left")
        write(path, data, mode)

    spec = specify()
    monkeypatch.setattr(state, "write", fail)
    path = state.directory(INSTANCE) + "/report"
    play(INSTANCE, kernel, lambda: until(lambda: state.exists(path) and report()["state"] == "live"), spec)
    assert capsys.readouterr().err.count("cannot report") == 1


# Connect --------------------------------------------------------------------------------------------------


def test_change_during_a_connect_that_fails_is_worth_an_attempt_at_once(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "LONGEST_WAIT", 60)
    monkeypatch.setattr(machine, "SHORTEST_WAIT", 60)
    kernel.gate.clear()
    kernel.failures = [errno.ECONNREFUSED]

    def act() -> None:
        until(lambda: kernel.written)
        specify(symname="new")
        kernel.worker.signal(signal.SIGHUP)
        kernel.gate.set()
        until(lambda: kernel.status == "live nvme0")

    play(INSTANCE, kernel, act, specify())


def test_connected_controller_whose_name_is_anothers_at_once_is_left_to_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, connected = loop.Attempt.run, 0

    def connect_and_lose(attempt: loop.Attempt) -> tuple[str, int]:
        nonlocal connected
        connected += 1
        result = connect(attempt)
        if connected == 1:
            kernel.remove(event=False)
            kernel.add(subsysnqn="nqn.2024-08.com.example:vol2", address="traddr=192.0.2.9,trsvcid=4420")
        return result

    monkeypatch.setattr(loop.Attempt, "run", connect_and_lose)

    def act() -> None:
        until(lambda: kernel.status.startswith("live"))
        assert kernel.status == "live nvme1"
        assert registry.retrieve("nvme0", "unit") is None

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert kernel.deleted == ["nvme1"]


def test_controller_that_another_unit_had_adopted_stays_theirs(kernel: Kernel) -> None:
    kernel.add()
    registry.claim("nvme0", registry.OWNER, "nvme-ctrl@tcp:gone.service", adopted=True)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        assert registry.retrieve("nvme0", "adopted")
        specify(origin="mdns", **WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: "stays: others connected it" in kernel.status)

    play(INSTANCE, kernel, act, specify(origin="mdns"))
    assert kernel.deleted == []


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (1, "cannot connect, errno 0: no thread can be started"),
        (2, "no thread can be started"),
        (3, "cannot be disconnected: no thread can be started"),
    ],
    ids=["connect", "reading", "disconnect"],
)
def test_call_that_gets_no_thread_is_made_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: int, said: str
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(machine, "DISCONNECT_RETRY_SECONDS", dict.fromkeys(machine.DISCONNECT_RETRY_SECONDS, 0.05))
    monkeypatch.setattr(discovery, "RETRY_SECONDS", (0.05,))

    def start_new_thread(function: Callable[[], None], arguments: tuple[()]) -> int:
        calls.append(function)
        if len(calls) == refused:
            raise RuntimeError("can't start new thread")
        return _thread.start_new_thread(function, arguments)

    monkeypatch.setattr(loop, "_thread", SimpleNamespace(**{**vars(_thread), "start_new_thread": start_new_thread}))

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        specify_discovery(persistent="force", **WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: kernel.deleted)
        until(lambda: report(DISCOVERY)["state"] == "withdrawn")

    assert play(DISCOVERY, kernel, act, specify_discovery(persistent="force")) == 0
    assert (len(kernel.written), kernel.log_reads, kernel.deleted) == (1, 1, ["nvme0"])
    assert len(calls) == 4
    assert capsys.readouterr().err.count(said) == 1


# Stop -----------------------------------------------------------------------------------------------------


def test_stop_during_a_connect_that_others_won_leaves_their_controller(kernel: Kernel) -> None:
    kernel.gate.clear()
    kernel.failures = [errno.EALREADY]

    def act() -> None:
        until(lambda: kernel.written)
        kernel.add("nvme5")
        kernel.worker.signal(signal.SIGTERM)
        kernel.gate.set()

    assert play(INSTANCE, kernel, act, specify(origin="a discovery controller")) == 0
    assert kernel.deleted == []


def test_stop_during_a_connect_for_firmware_leaves_the_controller(kernel: Kernel) -> None:
    kernel.gate.clear()

    def act() -> None:
        until(lambda: kernel.written)
        kernel.worker.signal(signal.SIGTERM)
        kernel.gate.set()

    assert play(INSTANCE, kernel, act, specify(origin="nbft")) == 0
    assert kernel.deleted == []


def test_stop_right_after_another_tool_left_the_controller_to_us_disconnects_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LIVE_CHECK", 60)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        claim_for_another_tool(kernel)
        registry.delete("nvme0")

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert kernel.deleted == ["nvme0"]


def test_stop_that_comes_with_a_hang_up_connects_nothing(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LONGEST_WAIT", 60)
    monkeypatch.setattr(machine, "SHORTEST_WAIT", 60)
    kernel.fails_always = errno.ECONNREFUSED

    def act() -> None:
        until(lambda: kernel.status.startswith("waiting"))
        kernel.worker.signal(signal.SIGHUP, signal.SIGTERM)

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert len(kernel.written) == 1


def test_stop_during_the_withdrawal_of_what_is_asked_for_again_counts_as_a_stop(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_again_and_stop() -> None:
        specify()
        kernel.worker.signal(signal.SIGHUP)
        kernel.worker.signal(signal.SIGTERM)

    during_delete(monkeypatch, ask_again_and_stop)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        specify(**WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert (report()["state"], report()["status"]) == ("stopped", "stopped")


def test_stop_that_is_refused_reports_no_device(kernel: Kernel, users: list[User]) -> None:
    """Nobody looks after it any more."""
    users.append(DATA)
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), specify()) == 1
    assert (report()["state"], report()["device"]) == ("refused", "")


def test_stop_after_the_name_has_become_anothers_enters_nothing(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.remove(event=False)
        registry.delete("nvme0")
        kernel.add()
        kernel.worker.signal(signal.SIGTERM)

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert kernel.deleted == []
    assert registry.retrieve("nvme0", "unit") is None


# Going down -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("system_stops")
def test_silent_controller_of_another_tool_is_given_up(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.1)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        claim_for_another_tool(kernel)
        kernel.set_state("nvme0", "connecting")
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: kernel.deleted)

    play(INSTANCE, kernel, act, specify())


@pytest.mark.usefixtures("system_stops")
def test_silent_controller_of_which_nothing_can_be_told_is_looked_at_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SILENCE_TIMEOUT_SECONDS", 0.1)
    looks = 0

    def system_subsystems() -> set[str]:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return set()

    monkeypatch.setattr(usage, "system_subsystems", system_subsystems)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.set_state("nvme0", "connecting")
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0


def test_lost_controller_stays_lost_when_a_hang_up_comes_with_the_news_of_a_shutdown(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.worker.signal(signal.SIGUSR1)
        kernel.remove()
        until(lambda: kernel.status.startswith("lost while"))
        kernel.worker.signal(signal.SIGHUP, signal.SIGUSR1)
        assert kernel.status == "lost while the system goes down"

    play(INSTANCE, kernel, act, specify())
    assert len(kernel.written) == 1


def test_lost_controller_is_connected_again_when_a_change_comes_with_the_end_of_a_shutdown(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.worker.signal(signal.SIGUSR1)
        kernel.remove()
        until(lambda: kernel.status.startswith("lost while"))
        specify(symname="new")
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: kernel.status == "live nvme0")

    play(INSTANCE, kernel, act, specify())


@pytest.mark.parametrize("answer", ["stopping", ""])
def test_lost_controller_stays_lost_when_a_change_comes_during_a_shutdown(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(disconnect, "system_state", lambda: answer)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.worker.signal(signal.SIGUSR1)
        kernel.remove()
        until(lambda: kernel.status.startswith("lost while"))
        specify(symname="new")
        kernel.worker.signal(signal.SIGHUP)
        assert kernel.status == "lost while the system goes down"

    play(INSTANCE, kernel, act, specify())
    assert len(kernel.written) == 1


# Withdrawal -----------------------------------------------------------------------------------------------


def test_withdrawal_whose_policy_comes_later_is_held_back_from_then(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "WITHDRAW_DEBOUNCE_SECONDS", 0.2)
    waited = 0.0

    def act() -> None:
        nonlocal waited
        until(lambda: kernel.status == "live nvme0")
        specify(**{**WITHDRAWN, "disconnect": ""})
        kernel.worker.signal(signal.SIGHUP)
        time.sleep(0.25)
        asked = time.monotonic()
        specify(**WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: kernel.deleted)
        waited = time.monotonic() - asked

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert waited >= 0.2


def test_withdrawal_without_policy_by_now_says_nothing_of_users(kernel: Kernel, users: list[User]) -> None:
    users.append(DATA)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        specify(**WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: kernel.status == f"live nvme0; {NOTE}, and stays: in use by /data")
        specify(**{**WITHDRAWN, "disconnect": ""})
        kernel.worker.signal(signal.SIGHUP)
        assert kernel.status == f"live nvme0; {NOTE}"

    play(INSTANCE, kernel, act, specify())


def test_withdrawal_of_a_controller_that_is_being_parked_ends_the_worker(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def withdraw() -> None:
        specify_discovery(withdrawn=True, note=NOTE)
        kernel.worker.signal(signal.SIGHUP)

    during_delete(monkeypatch, withdraw)

    def act() -> None:
        until(lambda: kernel.deleted)
        until(lambda: report(DISCOVERY)["state"] == "withdrawn")

    assert play(DISCOVERY, kernel, act, specify_discovery()) == 0


def test_change_during_a_withdrawal_that_fails_is_read(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.delete_fails = errno.EIO

    def change() -> None:
        kernel.uevents.send(NVME_AEN=CHANGED)
        until(lambda: kernel.uevents.heard)

    during_delete(monkeypatch, change)

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        specify_discovery(persistent="force", **WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: "cannot be disconnected" in kernel.status)
        until(lambda: "generation 2" in kernel.status)

    play(DISCOVERY, kernel, act, specify_discovery(persistent="force"))
    assert kernel.log_reads == 2


def test_withdrawal_that_fails_after_deregistering_does_not_say_registered(kernel: Kernel) -> None:
    kernel.delete_fails = errno.EIO
    kernel.identity = identity(dctype=1)

    def act() -> None:
        until(lambda: ", registered" in kernel.status)
        specify_discovery(persistent="force", **WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: "cannot be disconnected" in kernel.status)
        assert ", registered" not in kernel.status

    play(DISCOVERY, kernel, act, specify_discovery(persistent="force"))


def test_withdrawal_in_use_by_a_mount_with_a_newline_in_its_name_is_told_in_one_line(
    kernel: Kernel, users: list[User]
) -> None:
    users.append(User("mount", "/mnt/a\nREADY=1"))

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        specify(**WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: kernel.status == f"live nvme0; {NOTE}, and stays: in use by /mnt/a?READY=1")

    play(INSTANCE, kernel, act, specify())


# Discovery ------------------------------------------------------------------------------------------------


def test_adopted_discovery_controller_goes_by_the_latest_specification(kernel: Kernel) -> None:
    """Also if no signal has told of it yet."""
    kernel.add(subsysnqn=DISCOVERY_NQN, address="traddr=192.0.2.1,trsvcid=8009")
    kernel.identity = identity(dctype=1)
    before = specify_discovery(persistent="auto", origin="a discovery controller")
    specify_discovery(persistent="auto", origin="configuration", symname="new")

    def act() -> None:
        until(lambda: kernel.registrations)
        assert kernel.registrations[0][1].symname == "new"
        # An administrator asks for it.
        assert registry.retrieve("nvme0", "adopted") is None

    play(DISCOVERY, kernel, act, before)


def test_polled_controller_that_another_tool_left_to_us_is_read_before_it_is_parked(kernel: Kernel) -> None:
    kernel.log_gate.clear()

    def act() -> None:
        until(lambda: kernel.log_reads)
        claim_for_another_tool(kernel)
        kernel.log_gate.set()
        until(lambda: report(DISCOVERY)["log-read"])
        time.sleep(2 * discovery.EVENT_INTERVAL_SECONDS)
        registry.delete("nvme0")
        until(lambda: kernel.status.startswith("parked") and "generation 2" in kernel.status)
        assert (kernel.log_reads, len(kernel.written), kernel.deleted) == (2, 1, ["nvme0"])

    play(DISCOVERY, kernel, act, specify_discovery())


def test_polled_controller_in_use_says_so_once_however_often_it_reconnects(
    kernel: Kernel, users: list[User], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    users.append(DATA)
    find, looks = usage.users, 0

    def counted(*arguments: object) -> dict[str, list[User]]:
        nonlocal looks
        looks += 1
        return find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(usage, "users", counted)
    # Long enough for a look that finds nothing decided yet.
    monkeypatch.setattr(discovery, "EVENT_INTERVAL_SECONDS", 0.15)
    monkeypatch.setattr(machine, "DISCONNECT_RETRY_SECONDS", dict.fromkeys(machine.DISCONNECT_RETRY_SECONDS, 0.05))

    def look_again() -> None:
        before = looks
        until(lambda: looks > before + 1)

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        look_again()
        for generation in ("generation 2", "generation 3"):
            kernel.set_state("nvme0", "connecting")
            until(lambda: kernel.status.startswith("reconnecting"))
            kernel.set_state("nvme0", "live")
            until(lambda text=generation: text in kernel.status)  # type: ignore[misc]
            look_again()

    play(DISCOVERY, kernel, act, specify_discovery())
    assert capsys.readouterr().err.count("and stays connected") == 1


def test_host_that_changed_while_its_controller_was_parked_registers_after_the_reading(kernel: Kernel) -> None:
    kernel.identity = identity(dctype=1)

    def act() -> None:
        until(lambda: "parked" in kernel.status)
        assert len(kernel.registrations) == 1
        kernel.log_gate.clear()
        specify_discovery(symname="new")
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: kernel.log_reads == 2)
        time.sleep(0.1)
        assert len(kernel.registrations) == 1
        kernel.log_gate.set()
        until(lambda: len(kernel.deleted) == 2)
        assert [host.symname for _, host in kernel.registrations] == ["", "new"]

    play(DISCOVERY, kernel, act, specify_discovery())


def test_change_during_the_look_that_keeps_a_polled_controller_is_read(
    kernel: Kernel, users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    users.append(DATA)
    find, looks = usage.users, 0

    def find_slowly(*arguments: object) -> dict[str, list[User]]:
        nonlocal looks
        looks += 1
        if looks == 1:
            kernel.uevents.send(NVME_AEN=CHANGED)
            until(lambda: kernel.uevents.heard)
            # Until the worker waits again, it is not done with it.
            before = kernel.worker.rounds
            until(lambda: kernel.worker.rounds > before)
        return find(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(usage, "users", find_slowly)

    def act() -> None:
        until(lambda: looks)
        until(lambda: "generation 2" in kernel.status)

    play(DISCOVERY, kernel, act, specify_discovery())
