# SPDX-License-Identifier: Apache-2.0
"""What a worker does whose controller no log page lists any more."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from discoverd import registry, state
from discoverd.kernel import block, paths, usage
from discoverd.kernel.usage import User
from discoverd.worker import disconnect, discovery, loop, machine

from .fake_kernel import Kernel, leave_spec, play, until

NQN = "nqn.2024-08.com.example:vol1"
INSTANCE = f"tcp:192.0.2.1:4420:{NQN}"
NOTE = "no longer listed in the log page of tcp:192.0.2.1:8009:nqn.2014-08.org.nvmexpress.discovery (generation 7)"
WITHDRAWN = {"withdrawn": True, "note": NOTE, "disconnect": "ours"}


@pytest.fixture(autouse=True)
def users(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> list[User]:
    """Who uses the only namespace; there is no other path to it."""
    found: list[User] = []
    monkeypatch.setattr(usage, "users", lambda *_: {"nvme0n1": list(found)} if found else {})
    monkeypatch.setattr(usage, "processes", lambda _: [])
    monkeypatch.setattr(paths, "_answering", lambda others: set().union(*others))
    monkeypatch.setattr(block, "namespaces", lambda _: ["nvme0n1"])
    monkeypatch.setattr(block, "usable_paths", lambda _: ["nvme0"])
    monkeypatch.setattr(machine, "WITHDRAW_DEBOUNCE_SECONDS", 0.05)
    monkeypatch.setattr(
        machine, "DISCONNECT_RETRY_SECONDS", {**machine.DISCONNECT_RETRY_SECONDS, machine.WITHDRAW: 0.05}
    )
    return found


def specify(**changes: object) -> state.Spec:
    return leave_spec(INSTANCE, NQN, **changes)


def tell(**changes: object) -> None:
    specify(**changes)
    os.kill(os.getpid(), signal.SIGHUP)


def last_word() -> str:
    return dict(state.decode(state.REPORT, state.read(state.directory(INSTANCE) + "/report")))["state"]


def test_withdrawn_controller_is_disconnected_and_the_worker_ends(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**WITHDRAWN)
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert kernel.deleted == ["nvme0"]
    assert last_word() == "withdrawn"
    assert f"disconnected nvme0: it is {NOTE}\n" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"withdrawn": True, "note": NOTE}, {}])
def test_without_the_policy_or_listed_again_it_stays(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    # On a busy machine the second word comes a little later.
    monkeypatch.setattr(machine, "WITHDRAW_DEBOUNCE_SECONDS", 1)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**WITHDRAWN)
        tell(**changes)
        until(lambda: kernel.status == (f"live nvme0; {NOTE}" if changes else "live nvme0"))
        time.sleep(1.3)
        assert kernel.deleted == []

    play(INSTANCE, kernel, act, specify())
    assert last_word() == "stopped"


@pytest.mark.parametrize(("withdrawn", "deleted"), [(True, []), (False, ["nvme0"])])
def test_in_use_only_a_path_that_stays_is_another_one(
    kernel: Kernel, users: list[User], monkeypatch: pytest.MonkeyPatch, withdrawn: bool, deleted: list[str]
) -> None:
    """A page without the subsystem drops all its paths, and would leave one."""
    users.append(User("mount", "/data"))
    monkeypatch.setattr(disconnect, "system_state", lambda: "running")
    monkeypatch.setattr(block, "usable_paths", lambda _: ["nvme0", "nvme1"])
    other = specify(withdrawn=withdrawn, disconnect="ours" if withdrawn else "")
    os.makedirs(state.directory("other"))
    state.write(state.directory("other") + "/spec", other.encode())

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        registry.claim("nvme1", registry.OWNER, "nvme-ctrl@other.service")
        tell(**WITHDRAWN)
        until(lambda: kernel.deleted or kernel.status.endswith("and stays: in use by /data"))
        assert kernel.deleted == deleted

    play(INSTANCE, kernel, act, specify())


def test_withdrawn_controller_stays_while_a_process_has_it_open(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = [User("process", "/dev/nvme0n1", 4711, "postgres")]
    monkeypatch.setattr(usage, "processes", lambda _: list(processes))
    monkeypatch.setattr(block, "nodes", lambda name: [(0, "259:0", f"/dev/{name}")])

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**WITHDRAWN)
        until(lambda: kernel.status.endswith("and stays: in use by postgres (PID 4711) on /dev/nvme0n1"))
        assert kernel.deleted == []
        processes.clear()
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0


def test_a_path_that_does_not_answer_is_none(
    kernel: Kernel, users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    users.append(User("mount", "/data"))
    silent = {"nvme1"}
    monkeypatch.setattr(block, "usable_paths", lambda _: ["nvme0", "nvme1"])
    monkeypatch.setattr(paths, "_answering", lambda others: set().union(*others) - silent)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**WITHDRAWN)
        until(lambda: kernel.status.endswith("in use by /data, and its other path nvme1 does not answer"))
        assert kernel.deleted == []
        silent.clear()
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0


def test_a_shutdown_is_waited_for_without_a_busy_loop(
    kernel: Kernel, users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was due about the withdrawal when the stop came is due no more."""
    users.append(User("mount", "/data"))
    monkeypatch.setattr(disconnect, "system_state", lambda: "stopping")
    monkeypatch.setattr(disconnect, "_urge", lambda _: None)
    rounds = 0
    tick = loop.Loop._tick

    def counted(worker: loop.Loop) -> None:
        nonlocal rounds
        rounds += 1
        tick(worker)

    monkeypatch.setattr(loop.Loop, "_tick", counted)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**WITHDRAWN)
        until(lambda: "and stays: in use by /data" in kernel.status)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: kernel.status == "waiting to disconnect nvme0: in use by /data")
        before = rounds
        time.sleep(0.5)
        assert rounds - before < 10
        users.clear()
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0


def test_in_use_it_stays_until_it_is_not(kernel: Kernel, users: list[User], capsys: pytest.CaptureFixture[str]) -> None:
    users.append(User("mount", "/data"))

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**WITHDRAWN)
        until(lambda: kernel.status == f"live nvme0; {NOTE}, and stays: in use by /data")
        assert kernel.deleted == []
        users.clear()
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert last_word() == "withdrawn"
    # Said once, however often it is looked at.
    assert capsys.readouterr().err.count("and stays: in use by /data") == 1


def test_withdrawn_controller_taken_over_meanwhile_is_left(
    kernel: Kernel, users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LIVE_CHECK", 60)
    users.append(User("mount", "/data"))

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**WITHDRAWN)
        until(lambda: "and stays: in use by /data" in kernel.status)
        # In one step: what is gone for a moment is entered again.
        theirs = kernel.root / "theirs"
        theirs.write_text("stas\n")
        theirs.rename(Path(registry.ROOT, "nvme0", "owner"))
        users.clear()
        until(lambda: kernel.deleted or kernel.status.startswith("left alone: nvme0 belongs to stas"))
        time.sleep(0.2)
        assert kernel.deleted == []

    play(INSTANCE, kernel, act, specify())
    assert kernel.deleted == []


def test_withdrawn_controller_left_by_another_tool_is_disconnected(kernel: Kernel) -> None:
    kernel.add()
    registry.claim("nvme0", "stas", "")

    def act() -> None:
        until(lambda: kernel.status.startswith("left alone: nvme0 belongs to stas"))
        tell(**{**WITHDRAWN, "disconnect": "all"})
        time.sleep(0.2)
        assert kernel.deleted == []
        registry.delete("nvme0")
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0
    assert last_word() == "withdrawn"


def test_a_page_that_was_being_read_is_read_again_if_it_stays(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A withdrawal does not wait for a reading, which has taken with it the event that it was for."""
    monkeypatch.setattr(discovery, "EVENT_INTERVAL_SECONDS", 0.01)
    kernel.add()
    kernel.log_gate.clear()

    def act() -> None:
        until(lambda: kernel.log_reads)
        tell(**{**WITHDRAWN, "role": "discovery"})
        until(lambda: "and stays: others connected it" in kernel.status)
        tell(role="discovery")
        until(lambda: kernel.status == "live nvme0")
        kernel.log_gate.set()
        until(lambda: "in its log page" in kernel.status)

    play(INSTANCE, kernel, act, specify(role="discovery"))


@pytest.mark.parametrize(("scope", "deleted"), [("ours", []), ("all", ["nvme0"])])
def test_withdrawn_controller_that_others_connected_stays_unless_all(
    kernel: Kernel, scope: str, deleted: list[str]
) -> None:
    kernel.add()

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**{**WITHDRAWN, "disconnect": scope})
        until(lambda: kernel.deleted or "and stays: others connected it" in kernel.status)

    play(INSTANCE, kernel, act, specify(origin="tcp:192.0.2.1:8009:nqn.2014-08.org.nvmexpress.discovery"))
    assert kernel.deleted == deleted


def test_withdrawn_controller_of_another_tool_stays(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if that was a moment ago."""
    kernel.add()

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        registry.claim("nvme0", "stas", "")
        tell(**{**WITHDRAWN, "disconnect": "all"})
        until(lambda: "left alone: nvme0 belongs to stas" in kernel.status)
        time.sleep(0.2)

    play(INSTANCE, kernel, act, specify())
    assert kernel.deleted == []


def test_withdrawn_controller_of_the_boot_stays(kernel: Kernel) -> None:
    kernel.add()

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**{**WITHDRAWN, "disconnect": "all", "origin": "boot"})
        until(lambda: "and stays: it was connected before the boot" in kernel.status)

    play(INSTANCE, kernel, act, specify(origin="boot"))
    assert kernel.deleted == []


def test_a_kernel_that_does_not_let_go_is_asked_again(kernel: Kernel) -> None:
    kernel.delete_fails = errno.EIO

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        tell(**WITHDRAWN)
        until(lambda: "and stays: it cannot be disconnected: Input/output error" in kernel.status)
        kernel.delete_fails = 0
        until(lambda: kernel.deleted)

    assert play(INSTANCE, kernel, act, specify()) == 0


def test_worker_gives_up_after_its_attempts(kernel: Kernel) -> None:
    kernel.fails_always = errno.ECONNREFUSED
    assert play(INSTANCE, kernel, lambda: until(lambda: "given up" in kernel.status), specify(attempts=1)) == 0
    assert len(kernel.written) == 1
    assert last_word() == "given up"
    assert kernel.status == (
        "given up after one attempt: connection refused: nothing listens there; "
        "its subsystem is not connected to the central discovery controller (NCC)"
    )


def test_worker_of_an_announced_controller_ends_after_its_attempt(kernel: Kernel) -> None:
    kernel.fails_always = errno.ECONNREFUSED
    given = specify(attempts=1, trusted=False)
    assert play(INSTANCE, kernel, lambda: until(lambda: "given up" in kernel.status), given) == 0
    assert kernel.status.endswith("; only an announcement leads to it, so it is tried again later")
