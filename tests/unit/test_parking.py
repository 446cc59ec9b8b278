# SPDX-License-Identifier: Apache-2.0
"""What a worker does whose discovery controller has no persistent connection."""

import errno
import os
import re
import signal
import time

import pytest

from discoverd import registry, state
from discoverd.kernel import block, usage
from discoverd.kernel.usage import User
from discoverd.worker import discovery, loop, machine

from .fake_kernel import Kernel, Links, identity, leave_spec, play, until
from .log_pages import entry, page

NQN = "nqn.2014-08.org.nvmexpress.discovery"
INSTANCE = f"tcp:192.0.2.1:8009:{NQN}"
PARKED = re.compile(r"parked until \d\d:\d\d: (.*), 1 entry in its log page \(generation \d+\)")


@pytest.fixture(autouse=True)
def host(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "users", lambda *_: {})
    monkeypatch.setattr(usage, "processes", lambda _: [])
    monkeypatch.setattr(block, "namespaces", lambda _: [])
    kernel.log_pages = [page(entry("nqn.2024-08.com.example:vol1"), generation=number) for number in (1, 2, 3)]


def specify(**changes: object) -> state.Spec:
    return leave_spec(INSTANCE, NQN, role="discovery", **changes)


def tell(**changes: object) -> None:
    specify(**changes)
    os.kill(os.getpid(), signal.SIGHUP)


def report() -> dict[str, str]:
    return dict(state.decode(state.REPORT, state.read(state.directory(INSTANCE) + "/report")))


def is_parked(kernel: Kernel, why: str = "persistent = no") -> bool:
    found = PARKED.fullmatch(kernel.status)
    return found is not None and found[1] == why


def test_parked_controller_is_read_and_disconnected(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        until(lambda: is_parked(kernel))
        assert kernel.deleted == ["nvme0"]
        # The status comes first.
        until(lambda: (report()["state"], report()["device"]) == ("parked", ""))
        assert registry.retrieve("nvme0", "owner") is None
        assert kernel.ready
        time.sleep(0.3)
        assert len(kernel.written) == 1

    assert play(INSTANCE, kernel, act, specify(persistent="no")) == 0
    assert kernel.deleted == ["nvme0"]
    assert "nvme0: disconnected until it is read again in 15 min: persistent = no\n" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "often"), [(3600, "60 min"), (90, "90 s")])
def test_interval_of_the_configuration_counts(
    kernel: Kernel, capsys: pytest.CaptureFixture[str], seconds: int, often: str
) -> None:
    def act() -> None:
        until(lambda: is_parked(kernel))

    assert play(INSTANCE, kernel, act, specify(persistent="no", parked_interval=seconds)) == 0
    assert f"disconnected until it is read again in {often}: persistent = no\n" in capsys.readouterr().err


def test_parked_controller_is_read_again_and_again(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "PARKED_INTERVAL_SECONDS", 0.05)

    def act() -> None:
        until(lambda: "generation 3" in kernel.status)
        until(lambda: len(kernel.deleted) > 3)

    assert play(INSTANCE, kernel, act, specify(persistent="no")) == 0


@pytest.mark.parametrize("oaes", [0, 1 << 31])
def test_controller_that_takes_back_persistence_is_parked(kernel: Kernel, oaes: int) -> None:
    kernel.identity = identity(oaes=oaes)

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        if not oaes:
            until(lambda: is_parked(kernel, "it announces no changes"))
        time.sleep(0.2)
        assert kernel.deleted == ([] if oaes else ["nvme0"])

    play(INSTANCE, kernel, act, specify())


def test_changed_specification_ends_parking(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: is_parked(kernel))
        tell(persistent="no", note="a new note")
        until(lambda: "generation 2" in kernel.status and "parked" in kernel.status)
        tell(persistent="force")
        until(lambda: kernel.status == "live nvme0, 1 entry in its log page (generation 3)")
        time.sleep(0.2)
        assert kernel.status.startswith("live")

    play(INSTANCE, kernel, act, specify(persistent="no"))


def test_a_setting_that_changes_while_it_is_disconnected_is_heard(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = kernel.delete

    def slow(device: str, sysfs_inode: int) -> None:
        tell(persistent="force")
        time.sleep(0.2)
        delete(device, sysfs_inode)

    monkeypatch.setattr("discoverd.kernel.fabrics.delete", slow)

    def act() -> None:
        until(lambda: kernel.deleted)
        monkeypatch.setattr("discoverd.kernel.fabrics.delete", delete)
        until(lambda: kernel.status.startswith("live nvme0, 1 entry"))

    play(INSTANCE, kernel, act, specify(persistent="no"))


def test_a_stop_while_it_is_disconnected(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    delete = kernel.delete

    def slow(device: str, sysfs_inode: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        delete(device, sysfs_inode)

    monkeypatch.setattr("discoverd.kernel.fabrics.delete", slow)
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.deleted), specify(persistent="no")) == 0
    assert kernel.deleted == ["nvme0"]
    assert report()["state"] == "stopped"
    assert not any("parked" in text for text in kernel.told)


def test_a_link_that_comes_up_wakes_it(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that failed three times looks like a controller that ends each connection."""
    monkeypatch.setattr(machine, "PARKED_LINK_INTERVAL_SECONDS", 0.3)

    def act() -> None:
        until(lambda: is_parked(kernel))
        Links.opened[-1].news()
        time.sleep(0.1)
        # Routers renew addresses all the time.
        assert len(kernel.written) == 1
        Links.opened[-1].news()
        until(lambda: is_parked(kernel) and "generation 2" in kernel.status)
        assert len(kernel.written) == 2

    play(INSTANCE, kernel, act, specify(persistent="no"))


def test_nobody_asks_for_it_any_more(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: is_parked(kernel))
        tell(persistent="no", withdrawn=True, note="no longer announced")
        until(lambda: report()["state"] == "withdrawn")

    assert play(INSTANCE, kernel, act, specify(persistent="no")) == 0
    assert len(kernel.written) == 1


def test_unmanaged_controller_is_not_parked(kernel: Kernel) -> None:
    kernel.add(subsysnqn=NQN, address="traddr=192.0.2.1,trsvcid=8009")

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        time.sleep(0.3)
        assert kernel.status.startswith("live nvme0")

    play(INSTANCE, kernel, act, specify(persistent="no"))
    assert kernel.deleted == []


def test_controller_taken_over_by_another_tool_is_not_parked(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LIVE_CHECK", 60)
    kernel.log_gate.clear()

    def act() -> None:
        until(lambda: kernel.log_reads)
        registry.claim("nvme0", "stas", "")
        kernel.log_gate.set()
        until(lambda: kernel.deleted or kernel.status.startswith("left alone: nvme0 belongs to stas"))

    play(INSTANCE, kernel, act, specify(persistent="no"))
    assert kernel.deleted == []


def test_controller_is_not_parked_while_the_system_goes_down(kernel: Kernel) -> None:
    kernel.log_gate.clear()

    def act() -> None:
        until(lambda: kernel.log_reads)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.2)
        kernel.log_gate.set()
        until(lambda: "generation 1" in kernel.status)
        time.sleep(0.3)
        assert kernel.deleted == []

    play(INSTANCE, kernel, act, specify(persistent="no"))


def test_false_discovery_controller_in_use_is_not_parked(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    users = [User("mount", "/data")]
    monkeypatch.setattr(machine, "DISCONNECT_RETRY_SECONDS", dict.fromkeys(machine.DISCONNECT_RETRY_SECONDS, 0.05))
    monkeypatch.setattr(usage, "users", lambda *_: {"nvme0n1": users} if users else {})
    monkeypatch.setattr(block, "namespaces", lambda _: ["nvme0n1"])

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        time.sleep(0.3)
        assert kernel.deleted == []
        users.clear()
        until(lambda: is_parked(kernel))

    play(INSTANCE, kernel, act, specify(persistent="no"))
    said = "nvme0: persistent = no, and stays connected: in use by /data\n"
    assert capsys.readouterr().err.count(said) == 1


def test_a_kernel_that_refuses_is_asked_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "DISCONNECT_RETRY_SECONDS", dict.fromkeys(machine.DISCONNECT_RETRY_SECONDS, 0.05))
    kernel.delete_fails = errno.EPERM

    def act() -> None:
        until(lambda: len(kernel.deleted) > 1)
        kernel.delete_fails = 0
        until(lambda: is_parked(kernel))

    play(INSTANCE, kernel, act, specify(persistent="no"))
    assert capsys.readouterr().err.count("persistent = no, and stays connected: it cannot be disconnected: ") == 1


@pytest.mark.parametrize(("persistent", "ends"), [("auto", "parked"), ("force", "live")])
def test_controller_that_ends_each_connection_is_parked(
    kernel: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    persistent: str,
    ends: str,
) -> None:
    monkeypatch.setattr(machine, "SAME_EVENT_SECONDS", 0)
    # A minute may pass on a busy host.
    monkeypatch.setattr(discovery, "SHORT_LIVED_SECONDS", 3600)

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        # Seen by a look.
        for _ in range(2):
            kernel.set_state("nvme0", "connecting")
            until(lambda: kernel.status.startswith("reconnecting"))
            kernel.set_state("nvme0", "live")
            until(lambda: kernel.status.startswith("live"))
        # Between two looks.
        kernel.uevents.send(NVME_EVENT="rediscover")
        if ends == "parked":
            until(lambda: PARKED.fullmatch(kernel.status))
            assert "it ends each connection within a minute" in kernel.status
            # As one may that fails over: not for a quarter of an hour at once.
            until(lambda: "read again in 1 min" in capsys.readouterr().err)
        else:
            time.sleep(0.3)
            assert kernel.deleted == []

    play(INSTANCE, kernel, act, specify(persistent=persistent))
