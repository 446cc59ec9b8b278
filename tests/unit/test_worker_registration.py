# SPDX-License-Identifier: Apache-2.0
"""A host that registers: when, again after which failure, and never after it has taken its leave."""

import errno
import os
import posix
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from discoverd import notify, state
from discoverd.kernel import admin, controllers, dim
from discoverd.worker import disconnect, machine, registration
from discoverd.worker.loop import Call
from discoverd.worker.registration import LONGEST_WAIT, SHORTEST_WAIT, Record, Registration

from .fake_kernel import Kernel, Session, identity, play, until
from .worker_setting import DISCOVERY, WITHDRAWN, specify_discovery

HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:c6f3e2a0-5a4d-4d7b-8f55-0123456789ab"
OTHER = "nqn.2014-08.org.nvmexpress:uuid:c6f3e2a0-5a4d-4d7b-8f55-0123456789ac"
INTERRUPTED = OSError(errno.EINTR, os.strerror(errno.EINTR))
REFUSED = admin.RefusedError(0x4001)


class Host:
    """A worker's loop, its controller, and the clock."""

    def __init__(self) -> None:
        self.device = "nvme0"
        self.sysfs_inode = 7
        self.stopping = False
        self.read, self.wake_write = posix.pipe()
        self.spec = state.Spec(
            "discovery",
            [
                ("transport", "tcp"),
                ("traddr", "192.0.2.1"),
                ("hostnqn", HOSTNQN),
                ("hostid", "c6f3e2a0-5a4d-4d7b-8f55-0123456789ab"),
            ],
        )
        self.spec.symname = "rack 4"
        self.now = 1000.0
        self.journal: list[tuple[int, str]] = []
        self.live = "live"
        # What the controller was told: the task, the host NQN, the symbolic name.
        self.told: list[tuple[int, str, str]] = []
        self.answers: list[Exception | None] = []
        self.gate = threading.Event()
        self.gate.set()
        self.registration = Registration()
        self.record = Record()
        self.call: Call | None = None

    def send(self, _: object, task: int, host: dim.Host, timeout: float) -> None:
        assert 0 < timeout <= registration.ANSWER_TIMEOUT_SECONDS
        self.told.append((task, host.hostnqn, host.symname))
        self.gate.wait(5)
        if self.answers and (answer := self.answers.pop(0)):
            raise answer

    def renew(self, fresh: bool = False) -> None:
        """Have the host registered, as the loop does."""
        self.registration.renew(self.now, fresh)
        self.begin()

    def begin(self) -> None:
        """Begin what is to be begun with a controller that is there."""
        device, instance, record = self.device, self.sysfs_inode, self.record
        if not device or self.stopping or (host := self.registration.begin(self.spec)) is None:
            return
        record.expect()
        self.call = Call(lambda: record.register(device, instance, host), self.wake_write)

    def end(self) -> None:
        """Wait for the attempt that is under way, and have its end heard."""
        call, self.call = self.call, None
        if call is not None:
            until(lambda: call.done)
            assert call.error is None or isinstance(call.error, (OSError, admin.AdminError))
            priority, text = self.registration.ended(self.now, call.error)
            if text:
                self.journal.append((priority, text))
            self.begin()

    def deregister(self) -> None:
        self.record.deregister(self.device, self.sysfs_inode)

    def register(self, *answers: Exception | None, fresh: bool = False) -> None:
        self.answers = list(answers)
        self.renew(fresh)
        self.end()

    def option(self, key: str, value: str) -> None:
        self.spec.options = [(name, value if name == key else old) for name, old in self.spec.options]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host()
    for module, name, value in (
        (admin, "Session", Session),
        (dim, "send", made.send),
        (controllers, "sysfs_inode", lambda _: made.sysfs_inode),
        (controllers, "attribute", lambda *_: made.live),
        (notify, "log", lambda priority, text: made.journal.append((priority, text))),
        (registration, "time", SimpleNamespace(monotonic=lambda: made.now)),
    ):
        monkeypatch.setattr(module, name, value)
    yield made
    made.gate.set()
    until(lambda: not made.record._speaking.locked())
    posix.close(made.read)
    posix.close(made.wake_write)


def test_a_registration_that_is_accepted(host: Host) -> None:
    assert host.registration.text() == ""
    host.register()
    assert host.told == [(dim.REGISTER, HOSTNQN, "rack 4")]
    assert host.registration.registered
    assert host.registration.text() == ", registered"
    assert host.registration.retry_at == 0
    assert host.journal == [(notify.INFO, "registered with the discovery controller")]


def test_registration_is_made_again_on_a_new_connection(host: Host) -> None:
    host.register()
    host.sysfs_inode = 8
    host.gate.clear()
    host.renew(fresh=True)
    assert host.registration.text() == ""
    host.gate.set()
    host.end()
    assert host.registration.text() == ", registered"
    assert len(host.told) == len(host.journal) == 2


def test_registration_asked_for_during_an_attempt_follows_it(host: Host) -> None:
    host.gate.clear()
    host.renew()
    host.spec.symname = "rack 5"
    for _ in range(3):
        host.renew()
    host.gate.set()
    host.end()
    host.end()
    assert [name for _, _, name in host.told] == ["rack 4", "rack 5"]


@pytest.mark.parametrize("error", [REFUSED, INTERRUPTED], ids=["refused", "silent"])
def test_a_failure_is_told_once_and_tried_again_ever_less_often(host: Host, error: Exception) -> None:
    why = "the controller answered with NVMe status 0x4001 (invalid opcode)" if error is REFUSED else error.strerror  # type: ignore[attr-defined]
    waits = []
    for _ in range(9):
        host.register(error)
        assert host.registration.text() == f", not registered: {why}"
        waits.append(host.registration.retry_at - host.now)
        host.now = host.registration.retry_at
    assert waits == [SHORTEST_WAIT * 2**number for number in range(6)] + 3 * [LONGEST_WAIT]
    text = f"cannot register with the discovery controller: {why}; trying again"
    assert host.journal == [(notify.WARNING, text)]
    host.register(None)
    assert host.registration.text() == ", registered"
    host.register(error)
    assert host.registration.retry_at == host.now + SHORTEST_WAIT
    assert host.journal[2:] == [(notify.WARNING, text)]


def test_a_refusal_of_one_connection_does_not_hold_up_the_next(host: Host) -> None:
    """The controller may have been started anew."""
    for _ in range(5):
        host.register(REFUSED)
    host.register(fresh=True)
    assert host.registration.registered


def test_registration_without_answer_waits_on_the_next_connection_too(host: Host) -> None:
    """Its silence has cost the connection, and would cost the next one."""
    for _ in range(3):
        host.register(INTERRUPTED)
        host.now = host.registration.retry_at
    host.register(INTERRUPTED)
    said = len(host.told)
    retry_at = host.registration.retry_at
    host.renew(fresh=True)
    assert len(host.told) == said
    assert host.registration.retry_at == retry_at == host.now + 40
    host.now += 40
    host.register()
    assert host.registration.registered


def test_nothing_is_said_to_a_controller_that_is_gone_or_going(host: Host) -> None:
    for change in ({"stopping": True}, {"stopping": False, "device": ""}):
        vars(host).update(change)
        host.renew()
        assert host.call is None


def test_nothing_is_said_to_another_of_the_same_name(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "sysfs_inode", lambda _: 8)
    host.register()
    assert host.told == []
    assert host.registration.text() == ", not registered: the controller is gone"


def test_a_host_that_changes_its_name_registers_as_that(host: Host) -> None:
    host.register()
    assert not host.registration.outdated(host.spec)
    host.spec.symname = "rack 5"
    assert host.registration.outdated(host.spec)
    host.register()
    assert host.told[1:] == [(dim.REGISTER, HOSTNQN, "rack 5")]
    assert not host.registration.outdated(host.spec)


@pytest.mark.parametrize("answer", [None, REFUSED])
def test_a_host_that_changes_its_nqn_does_not_stay_as_the_other(host: Host, answer: Exception | None) -> None:
    host.register()
    host.option("hostnqn", OTHER)
    assert host.registration.outdated(host.spec)
    host.register(answer)
    assert [(task, nqn) for task, nqn, _ in host.told[1:]] == [(dim.DEREGISTER, HOSTNQN), (dim.REGISTER, OTHER)]
    assert host.registration.registered


# Taking leave ---------------------------------------------------------------------------------------------


def test_a_host_that_leaves_takes_itself_off_the_record(host: Host) -> None:
    host.register()
    host.deregister()
    assert host.told[1:] == [(dim.DEREGISTER, HOSTNQN, "rack 4")]
    assert not host.record.possible
    assert host.journal[1:] == [(notify.INFO, "deregistered from the discovery controller")]


def test_controller_never_registered_with_is_not_deregistered(host: Host) -> None:
    host.deregister()
    assert (host.told, host.journal) == ([], [])


@pytest.mark.parametrize(("error", "said"), [(REFUSED, 0), (INTERRUPTED, 1)], ids=["refused", "silent"])
def test_registration_that_may_have_succeeded_is_deregistered(host: Host, error: Exception, said: int) -> None:
    """Who did not answer may have taken it in; who refused has not."""
    host.register(error)
    host.deregister()
    assert host.told[1:] == said * [(dim.DEREGISTER, HOSTNQN, "rack 4")]


def test_a_refused_change_leaves_what_was_registered_before(host: Host) -> None:
    host.register()
    host.spec.symname = "rack 5"
    host.register(REFUSED)
    host.deregister()
    assert host.told[2:] == [(dim.DEREGISTER, HOSTNQN, "rack 4")]


@pytest.mark.parametrize(
    ("answer", "live", "why"),
    [
        (REFUSED, "live", "the controller answered with NVMe status 0x4001 (invalid opcode)"),
        (INTERRUPTED, "live", "Interrupted system call"),
        (None, "connecting", "it has no connection"),
    ],
)
def test_a_leave_that_fails_is_told_and_stops_nothing(
    host: Host, answer: Exception | None, live: str, why: str
) -> None:
    host.register()
    host.answers, host.live = [answer], live
    host.deregister()
    text = f"left without deregistering from the discovery controller: {why}"
    assert host.journal[1:] == [(notify.WARNING, text)]


def test_a_leave_is_over_in_time_whatever_the_kernel_does(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "DEREGISTER_TIMEOUT_SECONDS", 0.05)
    host.register()
    host.gate.clear()
    began = time.perf_counter()
    host.deregister()
    assert time.perf_counter() < began + 1
    assert host.journal[1][1].endswith(": no answer within 0.05 s")


def test_no_registration_follows_the_leave(host: Host) -> None:
    """One that is under way is waited for, and one that has not begun does not begin."""
    host.gate.clear()
    host.renew()
    until(lambda: host.told)
    leaving = threading.Thread(target=host.deregister)
    leaving.start()
    until(lambda: host.record._left)
    host.gate.set()
    leaving.join(5)
    host.end()
    assert [task for task, _, _ in host.told] == [dim.REGISTER, dim.DEREGISTER]
    host.renew()
    host.end()
    assert len(host.told) == 2


def test_a_registration_that_had_not_begun_does_not_begin(host: Host) -> None:
    with host.record._speaking:
        host.renew()
        host.record._left = host.sysfs_inode
    host.end()
    assert host.told == []
    assert host.record._host is None


def test_the_next_controller_is_registered_with_again(host: Host) -> None:
    host.register()
    host.deregister()
    host.sysfs_inode = 8
    host.register(fresh=True)
    assert [task for task, _, _ in host.told] == [dim.REGISTER, dim.DEREGISTER, dim.REGISTER]


# The whole worker -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reconnected", [False, True])
def test_a_stop_takes_leave_also_of_a_controller_that_is_just_being_told(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, reconnected: bool
) -> None:
    """It has the host on record as soon as it was told, whether the worker has heard its answer or not."""
    nqn = "nqn.2014-08.org.nvmexpress.discovery"
    instance = f"tcp:192.0.2.1:8009:{nqn}"
    options = [("nqn", nqn), ("transport", "tcp"), ("traddr", "192.0.2.1"), ("trsvcid", "8009")]
    spec = state.Spec("discovery", [*options, ("hostnqn", HOSTNQN)])
    os.makedirs(state.directory(instance))
    state.write(state.directory(instance) + "/spec", spec.encode())
    kernel.identity = identity(dctype=1)
    monkeypatch.setattr(disconnect, "system_state", lambda: "running")
    under_way = 0

    def send(*arguments: Any) -> None:
        nonlocal under_way
        under_way += 1
        kernel.dim(*arguments)

    monkeypatch.setattr(dim, "send", send)

    def act() -> None:
        if reconnected:
            until(lambda: kernel.status.endswith(", registered"))
            kernel.dim_gate.clear()
            kernel.uevents.send(ACTION="change", NVME_EVENT="connected")
            until(lambda: under_way == 2)
        else:
            kernel.dim_gate.clear()
            until(lambda: under_way == 1)
        # What follows is the stop, and then the answer.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)

    assert play(instance, kernel, act, spec) == 0
    assert [task for task, _ in kernel.registrations] == (1 + reconnected) * [dim.REGISTER] + [dim.DEREGISTER]
    assert kernel.deleted == ["nvme0"]


@pytest.mark.parametrize("rediscovered", [False, True])
def test_host_that_left_a_controller_asked_for_again_registers_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, rediscovered: bool
) -> None:
    """The withdrawal has failed after the host was taken off the record."""
    monkeypatch.setattr(disconnect, "system_state", lambda: "running")
    monkeypatch.setattr(machine, "WITHDRAW_DEBOUNCE_SECONDS", 0.05)
    kernel.delete_fails = errno.EIO
    kernel.identity = identity(dctype=1)

    def act() -> None:
        until(lambda: ", registered" in kernel.status)
        specify_discovery(persistent="force", **WITHDRAWN)
        kernel.worker.signal(signal.SIGHUP)
        until(lambda: "cannot be disconnected" in kernel.status)
        specify_discovery(persistent="force")
        kernel.worker.signal(signal.SIGHUP)
        if rediscovered:
            kernel.uevents.send(NVME_EVENT="rediscover")
        until(lambda: ", registered" in kernel.status, kernel.status)

    play(DISCOVERY, kernel, act, specify_discovery(persistent="force"))
    assert [task for task, _ in kernel.registrations[:3]] == [dim.REGISTER, dim.DEREGISTER, dim.REGISTER]
