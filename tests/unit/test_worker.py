# SPDX-License-Identifier: Apache-2.0
"""The life of one controller, on a made-up kernel."""

import contextlib
import errno
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from discoverd import notify, registry, state, store
from discoverd.kernel import controllers, fabrics, locks
from discoverd.worker import loop, machine, main

from .dhchap_secrets import secret
from .fake_kernel import Kernel, Links, play, remove_tree, until
from .log_pages import entry, page

NQN = "nqn.2024-08.com.example:vol1"
INSTANCE = f"tcp:192.0.2.1:4420:{NQN}"
UNIT = f"nvme-ctrl@{INSTANCE}.service"
TEXT = f"nqn={NQN},transport=tcp,traddr=192.0.2.1,trsvcid=4420"


def leave_spec(role: str = "io", **changes: object) -> state.Spec:
    """Write the specification as the supervisor does."""
    options = [("nqn", NQN), ("transport", "tcp"), ("traddr", "192.0.2.1"), ("trsvcid", "4420")]
    spec = state.Spec(role, options)
    for name, value in changes.items():
        setattr(spec, name, value)
    os.makedirs(state.directory(INSTANCE), exist_ok=True)
    state.write(state.directory(INSTANCE) + "/spec", spec.encode())
    return spec


def hang_up() -> None:
    """Tell the worker that it has a new specification."""
    os.kill(os.getpid(), signal.SIGHUP)


def live(kernel: Kernel, act: Callable[[], None] = lambda: None, role: str = "io") -> int:
    return play(INSTANCE, kernel, act, leave_spec(role))


def report() -> dict[str, str]:
    return dict(state.decode(state.REPORT, state.read(state.directory(INSTANCE) + "/report")))


def owner(device: str = "nvme0") -> str | None:
    return registry.retrieve(device, "owner")


# Connect --------------------------------------------------------------------------------------------------


def test_connect(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        until(lambda: kernel.ready)
        assert (owner(), registry.retrieve("nvme0", "unit")) == ("nvme-ctrl", UNIT)
        assert (report()["state"], report()["device"], report()["attempt"]) == ("live", "nvme0", "0")
        assert report()["kernel-instance"] != "0"

    assert live(kernel, act) == 0
    assert kernel.written == [TEXT]
    assert kernel.uevents.following == ["nvme0"]
    assert "connected nvme0" in capsys.readouterr().err


def test_stop(kernel: Kernel) -> None:
    assert live(kernel, lambda: until(lambda: kernel.status == "live nvme0")) == 0
    assert kernel.deleted == ["nvme0"]
    assert owner() is None
    assert os.listdir(registry.ROOT) == []
    assert report()["state"] == "stopped"
    assert "disconnecting nvme0" in "".join(kernel.hear())


def test_a_refused_connect_is_tried_until_it_works(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.failures = [errno.ECONNREFUSED] * 3

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        texts = [text for text in kernel.told if text.startswith("STATUS=waiting")]
        assert texts == [
            f"STATUS=waiting 1 s, attempt {attempt}: connection refused: nothing listens there" for attempt in (1, 2, 3)
        ]
        # An absent target does not hold up boot.
        assert kernel.told.index("READY=1") < kernel.told.index("STATUS=live nvme0")
        until(lambda: (report()["attempt"], report()["cause"]) == ("0", ""))
        assert (report()["errno"], report()["answer"], report()["detail"]) == ("0", "", "")
        # While the worker lives: in its end all are closed.
        assert Links.opened
        until(lambda: all(one.closed for one in Links.opened))

    assert live(kernel, act) == 0
    assert len(kernel.written) == 4
    # A cause is logged when it is news.
    assert capsys.readouterr().err.count("connection refused") == 1


def test_a_report_tells_why_it_waits(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LONGEST_WAIT", 3600)
    kernel.fails_always = errno.EHOSTUNREACH

    def act() -> None:
        # The report is written after the status.
        until(lambda: kernel.status.startswith("waiting") and report()["state"] == "waiting")
        given = report()
        assert (given["device"], given["kernel-instance"]) == ("", "0")
        assert given["cause"] == "no route to the target"
        assert (given["errno"], given["answer"]) == (str(errno.EHOSTUNREACH), "no")
        assert given["status"] == "waiting " + given["detail"]
        assert int(given["attempt"]) >= 1

    assert live(kernel, act) == 0


def test_waits_grow_within_bounds(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LONGEST_WAIT", 8)
    now = 1000.0
    worker = machine.Machine(leave_spec(), now, random.random)
    for most in (1, 2, 4, 8, 8, 8, *50 * [8]):
        worker.step(machine.Event(machine.DUE), now, now)
        worker.step(machine.Event(machine.NOT_FOUND), now, now)
        worker.step(machine.Event(machine.REFUSED, "refused"), now, now)
        assert 0.75 * most <= worker.due - now <= most
        now = worker.due


def test_a_link_that_comes_up_cuts_the_wait_short(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LONGEST_WAIT", 3600)
    monkeypatch.setattr(machine, "SHORTEST_WAIT", 3600)
    kernel.failures = [errno.ENETUNREACH]

    def act() -> None:
        until(lambda: kernel.status.startswith("waiting"))
        Links.opened[0].news()
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0


def test_no_fabrics_device(kernel: Kernel) -> None:
    kernel.missing = True

    def act() -> None:
        until(lambda: "/dev/nvme-fabrics is missing: load the module nvme-fabrics" in kernel.status)
        kernel.missing = False
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0


def test_silent_target_never_reaches_the_kernel(kernel: Kernel) -> None:
    kernel.probe_failures = [fabrics.ProbeError(errno.ETIMEDOUT, "no NVMe/TCP connection can be initialised")] * 2

    def act() -> None:
        until(lambda: "attempt 1: the target takes the TCP connection and does not answer" in kernel.status)
        until(lambda: "attempt 2" in kernel.status)
        assert kernel.written == []
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0
    assert len(kernel.probed) == 3


def test_slow_targets_go_one_at_a_time_behind_the_others(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SLOW_CONNECT_SECONDS", 0)
    monkeypatch.setattr(machine, "TURN_WAIT_SECONDS", 0.02)
    kernel.failures = [errno.EAGAIN, errno.EAGAIN]
    another = locks.take(loop.TURN, 0, "")

    def act() -> None:
        until(lambda: "attempt 1: others come first" in kernel.status)
        before = len(kernel.probed)
        until(lambda: len(kernel.probed) > before + 2)
        # The first was nobody's to wait for.
        assert len(kernel.written) == 1
        until(lambda: (report()["attempt"], report()["state"]) == ("1", "waiting"))
        os.close(another)
        until(lambda: kernel.status == "live nvme0")
        assert len(kernel.written) == 3
        # It is not kept any longer than the attempt takes.
        os.close(locks.take(loop.TURN, 0, ""))

    assert live(kernel, act) == 0


def test_turn_that_cannot_be_taken_at_all_is_told(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SLOW_CONNECT_SECONDS", 0)
    kernel.failures = [errno.EAGAIN]
    (kernel.root / "run/locks").write_text("a file where the directory belongs")

    def act() -> None:
        until(lambda: "cannot lock" in kernel.status)
        (kernel.root / "run/locks").unlink()
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0


def test_stop_does_not_wait_for_a_probe(kernel: Kernel) -> None:
    kernel.probe_gate.clear()
    ended = []

    def act() -> None:
        until(lambda: kernel.probed)
        kernel.worker.signal(signal.SIGTERM)
        until(lambda: kernel.worker._machine.ended)
        ended.append(kernel.probe_gate.is_set())

    assert live(kernel, act) == 0
    assert ended == [False]
    assert (report()["state"], kernel.written, kernel.deleted) == ("stopped", [], [])


def test_stop_waits_for_the_kernel_once_it_has_begun(kernel: Kernel) -> None:
    kernel.gate.clear()

    def act() -> None:
        until(lambda: kernel.written)
        kernel.worker.signal(signal.SIGTERM)
        until(lambda: kernel.status == "stopping: waiting for the kernel to end an attempt to connect")
        kernel.gate.set()

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]


@pytest.mark.parametrize("first", ["the kernel", "the stop"])
def test_attempt_begins_or_is_called_off(kernel: Kernel, first: str) -> None:
    one = loop.Attempt(leave_spec(), in_turn=False)
    if first == "the stop":
        assert one.call_off()
        with pytest.raises(OSError, match="called off"):
            one.run()
        assert (kernel.written, one.began) == ([], 0)
    else:
        assert one.run()[0] == "nvme0"
        assert not one.call_off()


def test_a_kernel_without_an_option(kernel: Kernel) -> None:
    kernel.known = {"nqn", "transport", "traddr", "trsvcid"}
    spec = leave_spec()
    spec.options.append(("tos", "3"))
    state.write(state.directory(INSTANCE) + "/spec", spec.encode())
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), spec) == 0
    assert kernel.written == [TEXT]


def test_a_first_attempt_without_an_end_does_not_hold_up_boot(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "READY_TIMEOUT_SECONDS", 0.05)
    kernel.gate.clear()

    def act() -> None:
        until(lambda: kernel.ready)
        assert kernel.status == "connecting"
        kernel.gate.set()
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0


def test_a_registry_that_cannot_be_written(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    os.rmdir(registry.ROOT)
    Path(registry.ROOT).write_text("a file")
    assert live(kernel, lambda: until(lambda: kernel.status == "live nvme0")) == 0
    assert "cannot enter nvme0 into" in capsys.readouterr().err


def test_no_secret_is_told(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    spec = leave_spec()
    spec.options.append(("dhchap_secret", secret("a")))
    state.write(state.directory(INSTANCE) + "/spec", spec.encode())
    kernel.known = {*(key for key, _ in spec.options)}
    kernel.failures = [errno.EKEYREJECTED]
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), spec) == 0
    assert secret("a") in kernel.written[0]
    told = capsys.readouterr().err + "".join(kernel.hear()) + repr(report())
    assert secret("a")[10:30] not in told


@pytest.mark.parametrize(
    ("value", "knows", "words"),
    [
        (secret("a"), False, "this kernel does not know the option dhchap_secret"),
        (secret("a")[:-12] + secret("b")[-12:], True, "its checksum (CRC-32) is wrong"),
        ("hunter2" * 8, True, "it has not the form"),
    ],
    ids=["option", "checksum", "form"],
)
def test_secret_that_the_kernel_would_log_is_not_written(
    kernel: Kernel, capsys: pytest.CaptureFixture[str], value: str, knows: bool, words: str
) -> None:
    spec = leave_spec()
    spec.options.append(("dhchap_secret", value))
    state.write(state.directory(INSTANCE) + "/spec", spec.encode())
    kernel.known = {"nqn", "transport", "traddr", "trsvcid", *(["dhchap_secret"] if knows else [])}
    play(INSTANCE, kernel, lambda: until(lambda: words in kernel.status), spec)
    assert kernel.written == []
    assert value[10:30] not in capsys.readouterr().err + "".join(kernel.hear()) + repr(report())


@pytest.mark.parametrize("found", [True, False], ids=["adopted", "connected"])
def test_secrets_in_sysfs_are_roots_alone(kernel: Kernel, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    add = kernel.add
    monkeypatch.setattr(kernel, "add", lambda *given, **attributes: add(*given, dhchap_secret="x", **attributes))
    if found:
        kernel.add()
    path = kernel.sysfs / "nvme0/dhchap_secret"

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        assert path.stat().st_mode & 0o777 == 0o600
        # Nothing else is touched.
        assert (kernel.sysfs / "nvme0/subsysnqn").stat().st_mode & 0o044

    assert live(kernel, act) == 0


def test_secrets_in_sysfs_of_somebody_elses_are_left_alone_until_it_is_ours(kernel: Kernel) -> None:
    kernel.add("nvme3", dhchap_secret="x")
    registry.claim("nvme3", "stas", "theirs")
    path = kernel.sysfs / "nvme3/dhchap_secret"

    def act() -> None:
        until(lambda: kernel.status.startswith("left alone"))
        assert path.stat().st_mode & 0o044
        registry.delete("nvme3")
        until(lambda: kernel.status == "live nvme3")
        assert path.stat().st_mode & 0o777 == 0o600

    assert live(kernel, act) == 0


def test_secrets_that_stay_readable_are_told_once(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "everybody can read dhchap_secret of nvme0 in sysfs: Operation not permitted"
    monkeypatch.setattr(controllers, "hide_secrets", lambda *_: said)

    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.remove()
        until(lambda: len(kernel.written) == 2 and kernel.status == "live nvme0")

    assert live(kernel, act) == 0
    assert capsys.readouterr().err.count(said) == 1


UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
AS_HOST = [("hostnqn", f"nqn.2014-08.org.nvmexpress:uuid:{UUID.upper()}"), ("hostid", UUID)]


def specify_host() -> state.Spec:
    spec = leave_spec()
    spec.options += AS_HOST
    state.write(state.directory(INSTANCE) + "/spec", spec.encode())
    return spec


def test_host_is_spelled_as_the_kernel_has_it(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    spelled = f"nqn.2014-08.org.nvmexpress:uuid:{UUID}"
    kernel.add("nvme7", subsysnqn="nqn.2024-08.com.example:vol7", hostnqn=spelled, hostid=UUID)
    kernel.failures = [errno.EINVAL]
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), specify_host()) == 0
    assert [dict(AS_HOST)["hostnqn"] in kernel.written[0], f"hostnqn={spelled}," in kernel.written[1]] == [True, True]
    assert f"connected as {spelled}, because nvme7 is" in capsys.readouterr().err


def test_another_host_with_this_hosts_id_is_named(kernel: Kernel) -> None:
    kernel.add("nvme7", subsysnqn="nqn.x", hostnqn="nqn.2024-08.com.example:other", hostid=UUID)
    kernel.fails_always = errno.EINVAL

    def act() -> None:
        until(lambda: f"nvme7 is connected with the host ID {UUID} as another host" in kernel.status)

    play(INSTANCE, kernel, act, specify_host())
    assert all(dict(AS_HOST)["hostnqn"] in one for one in kernel.written)


# Adopt ----------------------------------------------------------------------------------------------------


def test_a_controller_that_is_there_is_adopted(kernel: Kernel) -> None:
    kernel.add("nvme3")

    def act() -> None:
        until(lambda: kernel.status == "live nvme3")
        assert (owner("nvme3"), registry.retrieve("nvme3", "unit")) == ("nvme-ctrl", UNIT)

    assert live(kernel, act) == 0
    assert kernel.written == []


def test_an_entry_of_ours_is_left_as_it_is(kernel: Kernel) -> None:
    kernel.add("nvme3")
    registry.claim("nvme3", registry.OWNER, UNIT)
    before = (Path(registry.ROOT) / "nvme3").stat().st_ino

    def act() -> None:
        until(lambda: kernel.status == "live nvme3")
        assert (Path(registry.ROOT) / "nvme3").stat().st_ino == before

    assert live(kernel, act) == 0


@pytest.mark.parametrize("origin", ["configuration", "a discovery controller"])
def test_somebody_else_was_faster(kernel: Kernel, origin: str) -> None:
    kernel.gate.clear()
    kernel.failures = [errno.EALREADY]

    def act() -> None:
        until(lambda: kernel.written)
        kernel.add("nvme5")
        kernel.gate.set()
        until(lambda: kernel.status == "live nvme5")

    assert play(INSTANCE, kernel, act, leave_spec(origin=origin)) == 0
    # What others connected is ours to disconnect only if an administrator asked for it.
    assert kernel.deleted == (["nvme5"] if origin == "configuration" else [])


def test_an_adopted_controller_stays_adopted_after_a_restart(kernel: Kernel) -> None:
    kernel.add("nvme5")
    spec = leave_spec(origin="a discovery controller")
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme5"), spec) == 0
    assert (Path(registry.ROOT) / "nvme5" / "adopted").read_text() == "yes\n"
    assert kernel.deleted == []


def test_already_without_a_match_waits(kernel: Kernel) -> None:
    kernel.failures = [errno.EALREADY]

    def act() -> None:
        until(lambda: "attempt 1: the kernel has this controller already" in kernel.status)
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0


def test_foreign_controller_is_left_alone(kernel: Kernel) -> None:
    kernel.add("nvme3")
    registry.claim("nvme3", "stas", "theirs")

    def act() -> None:
        until(lambda: kernel.status == "left alone: nvme3 belongs to stas")
        until(lambda: kernel.ready)
        assert (report()["state"], report()["owner"]) == ("foreign", "stas")

    assert live(kernel, act) == 0
    assert kernel.deleted == []
    assert owner("nvme3") == "stas"


def test_foreign_controller_is_taken_back_at_a_hang_up(kernel: Kernel) -> None:
    kernel.add("nvme3")
    registry.claim("nvme3", "discoverd", "theirs")

    def act() -> None:
        until(lambda: kernel.status == "left alone: nvme3 belongs to discoverd")
        hang_up()
        store.take_back(INSTANCE, "nvme3", "discoverd")
        hang_up()
        until(lambda: kernel.status == "live nvme3")
        assert owner("nvme3") == registry.OWNER

    assert live(kernel, act) == 0


def test_removed_foreign_controller_is_connected(kernel: Kernel) -> None:
    kernel.add("nvme3")
    registry.claim("nvme3", "stas", "theirs")

    def act() -> None:
        until(lambda: kernel.status.startswith("left alone"))
        kernel.remove("nvme3")
        registry.delete("nvme3")
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]


def test_controller_of_another_unit_is_left_to_it(kernel: Kernel) -> None:
    kernel.add("nvme3")
    registry.claim("nvme3", registry.OWNER, "nvme-ctrl@other.service")
    os.makedirs(state.directory("other"))
    assert (
        live(kernel, lambda: until(lambda: kernel.status == "left alone: nvme3 belongs to nvme-ctrl@other.service"))
        == 0
    )
    assert kernel.deleted == []


def test_firmware_keeps_its_name(kernel: Kernel) -> None:
    kernel.add("nvme3")
    registry.claim("nvme3", registry.FIRMWARE_OWNER, "")

    def act() -> None:
        until(lambda: kernel.status == "live nvme3")
        assert (owner("nvme3"), registry.retrieve("nvme3", "unit")) == ("nbft", UNIT)

    assert live(kernel, act) == 0


# Lose and come back ---------------------------------------------------------------------------------------


def test_a_controller_that_the_kernel_gave_up_is_connected_again(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.remove()
        until(lambda: len(kernel.written) == 2)
        until(lambda: kernel.status == "live nvme0" and report()["state"] == "live")

    assert live(kernel, act) == 0
    assert kernel.uevents.following == ["nvme0", "", "nvme0"]


def test_a_controller_that_went_unheard_is_missed_at_the_next_look(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.remove(event=False)
        until(lambda: len(kernel.written) == 2)

    assert live(kernel, act) == 0


def test_a_name_that_is_used_again_is_another_controller(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.remove(event=False)
        kernel.add("nvme0", subsysnqn="nqn.2024-08.com.example:another")
        until(lambda: kernel.status == "live nvme1")

    assert live(kernel, act) == 0
    # What took its name is nobody's to disconnect.
    assert kernel.deleted == ["nvme1"]


def test_the_kernel_reconnects(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        kernel.set_state("nvme0", "connecting")
        until(lambda: kernel.status == "reconnecting nvme0: the kernel lost the connection and retries")
        until(lambda: report()["state"] == "reconnecting")
        kernel.set_state("nvme0", "live")
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0
    assert len(kernel.written) == 1
    said = capsys.readouterr().err
    assert "nvme0: lost the connection; the kernel reconnects" in said
    assert "nvme0: the connection is back" in said


# Stop -----------------------------------------------------------------------------------------------------


def test_stop_while_the_kernel_connects(kernel: Kernel) -> None:
    kernel.gate.clear()

    def act() -> None:
        until(lambda: kernel.written)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: kernel.status.startswith("stopping: waiting for the kernel"))
        kernel.gate.set()
        until(lambda: kernel.deleted)

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]
    assert report()["state"] == "stopped"


def test_stop_while_the_kernel_fails_to_connect(kernel: Kernel) -> None:
    kernel.gate.clear()
    kernel.fails_always = errno.ETIMEDOUT

    def act() -> None:
        until(lambda: kernel.written)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: kernel.status.startswith("stopping"))

    assert live(kernel, act) == 0
    assert (len(kernel.written), kernel.deleted) == (1, [])
    assert report()["state"] == "stopped"


def test_stop_while_waiting(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LONGEST_WAIT", 3600)
    kernel.fails_always = errno.ECONNREFUSED
    assert live(kernel, lambda: until(lambda: kernel.status.startswith("waiting"))) == 0
    assert (len(kernel.written), kernel.deleted) == (1, [])
    assert report()["state"] == "stopped"


def test_a_disconnect_that_fails(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.delete_fails = errno.EPERM
    assert live(kernel, lambda: until(lambda: kernel.status == "live nvme0")) == 1
    assert "cannot disconnect nvme0" in capsys.readouterr().err


def test_a_controller_that_goes_while_it_is_disconnected(kernel: Kernel) -> None:
    kernel.delete_fails = errno.ENOENT
    assert live(kernel, lambda: until(lambda: kernel.status == "live nvme0")) == 0


def test_a_connection_that_ends_at_once_each_time_is_made_ever_less_often(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target takes each connection and ends it, and the kernel was told not to reconnect by itself."""
    monkeypatch.setattr(machine, "LONGEST_WAIT", 60)

    def lose() -> float:
        until(lambda: kernel.hear() and kernel.uevents.following[-1:] == ["nvme0"])
        connects = len(kernel.written)
        kernel.remove()
        began = time.monotonic()
        until(lambda: kernel.hear() and len(kernel.written) > connects)
        return time.monotonic() - began

    def act() -> None:
        waits = [lose() for _ in range(3)]
        assert waits == sorted(waits)
        assert (waits[1] >= 1, waits[2] >= 2) == (True, True)
        monkeypatch.setattr(machine, "BRIEF_CONNECTION_SECONDS", 0)
        assert lose() < waits[2]

    live(kernel, act)


def test_a_withdrawn_controller_whose_directory_is_gone(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        # The report is written after the status.
        until(lambda: kernel.status == "live nvme0" and report()["state"] == "live")
        remove_tree(Path(state.directory(INSTANCE)))

    assert live(kernel, act) == 0
    assert kernel.deleted == ["nvme0"]
    assert "cannot report" not in capsys.readouterr().err


# Specification --------------------------------------------------------------------------------------------


def test_a_hang_up_brings_the_note_into_the_status(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        leave_spec(note="no longer listed anywhere")
        hang_up()
        until(lambda: kernel.status == "live nvme0; no longer listed anywhere")
        leave_spec()
        hang_up()
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0
    assert len(kernel.written) == 1


def test_a_broken_specification_keeps_the_one_from_before(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        state.write(state.directory(INSTANCE) + "/spec", b"discoverd-spec 99\nend\n")
        kernel.remove()
        until(lambda: len(kernel.written) == 2)

    assert live(kernel, act) == 0
    assert kernel.written == [TEXT, TEXT]
    assert "keeping the specification from before" in capsys.readouterr().err


def test_the_next_connect_uses_the_latest_specification(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        spec = leave_spec()
        spec.options.append(("tos", "3"))
        state.write(state.directory(INSTANCE) + "/spec", spec.encode())
        kernel.remove()
        until(lambda: len(kernel.written) == 2)

    assert live(kernel, act) == 0
    assert kernel.written == [TEXT, TEXT + ",tos=3"]


# What is not connected ------------------------------------------------------------------------------------

EXCLUSION = f"nqn={NQN}"


def ended(kernel: Kernel, worker_state: str, text: str, connects: int = 0) -> None:
    """Assert that the worker has ended by itself, with this last word, having connected so often."""
    assert (report()["state"], report()["status"]) == (worker_state, text)
    assert kernel.status == text
    assert kernel.ready
    assert (len(kernel.written), kernel.deleted) == (connects, [])


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are long from the first one on."""
    monkeypatch.setattr(machine, "LONGEST_WAIT", 3600)
    monkeypatch.setattr(machine, "SHORTEST_WAIT", 3600)


def attempts(kernel: Kernel, more: int = 3) -> None:
    """Wait for so many more attempts."""
    before = len(kernel.written)
    until(lambda: kernel.hear() and len(kernel.written) >= before + more)


def test_excluded_controller_is_not_connected(kernel: Kernel) -> None:
    kernel.exclude(EXCLUSION)
    assert live(kernel, lambda: until(lambda: kernel.ready)) == 0
    ended(kernel, "excluded", f"excluded by {kernel.etc}/exclusions.conf:2: not connected")


def test_existing_excluded_controller_is_adopted(kernel: Kernel) -> None:
    """A connection that is there needs somebody who looks after it."""
    kernel.exclude(EXCLUSION)
    kernel.add("nvme3")

    def act() -> None:
        until(lambda: kernel.status == "live nvme3")
        kernel.remove("nvme3")
        until(lambda: "excluded by" in kernel.status)

    assert live(kernel, act) == 0
    ended(kernel, "excluded", f"excluded by {kernel.etc}/exclusions.conf:2: not connected")


def test_an_exclusion_counts_at_the_moment_of_each_connect(kernel: Kernel) -> None:
    kernel.fails_always = errno.ECONNREFUSED

    def act() -> None:
        attempts(kernel)
        kernel.exclude("nqn=nqn.2024-08.com.example:another", EXCLUSION)
        until(lambda: "excluded by" in kernel.status)

    assert live(kernel, act) == 0
    ended(kernel, "excluded", f"excluded by {kernel.etc}/exclusions.conf:3: not connected", len(kernel.written))


def test_the_exclusion_of_something_else_excludes_nothing(kernel: Kernel) -> None:
    kernel.exclude(f"{EXCLUSION};trsvcid=4421", "transport=rdma", "nonsense")
    assert live(kernel, lambda: until(lambda: kernel.status == "live nvme0")) == 0


NOTE = "no longer listed in the log page of dc"


def test_withdrawn_controller_is_not_connected_again(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        leave_spec(note=NOTE, withdrawn=True)
        hang_up()
        until(lambda: kernel.status == f"live nvme0; {NOTE}")
        kernel.remove()
        until(lambda: "not connected again" in kernel.status)

    assert live(kernel, act) == 0
    ended(kernel, "withdrawn", f"{NOTE}: not connected again", 1)


def test_controller_asked_for_again_is_connected_again(kernel: Kernel) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        leave_spec(note=NOTE, withdrawn=True)
        hang_up()
        until(lambda: NOTE in kernel.status)
        # The worker reads it when it needs it, told or not.
        leave_spec()
        kernel.remove()
        until(lambda: len(kernel.written) == 2)

    assert live(kernel, act) == 0


@pytest.mark.usefixtures("slow")
def test_waiting_worker_ends_when_withdrawn(kernel: Kernel) -> None:
    kernel.fails_always = errno.ECONNREFUSED

    def act() -> None:
        until(lambda: kernel.status.startswith("waiting"))
        leave_spec(note=NOTE, withdrawn=True)
        hang_up()
        until(lambda: "not connected again" in kernel.status)

    assert live(kernel, act) == 0
    ended(kernel, "withdrawn", f"{NOTE}: not connected again", 1)


def test_a_worker_that_starts_for_what_nobody_asks_for_takes_over_what_is_there(kernel: Kernel) -> None:
    kernel.add("nvme3")
    assert (
        play(
            INSTANCE,
            kernel,
            lambda: until(lambda: kernel.status == f"live nvme3; {NOTE}"),
            leave_spec(note=NOTE, withdrawn=True),
        )
        == 0
    )
    assert kernel.written == []


def test_and_connects_nothing_that_is_not(kernel: Kernel) -> None:
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.ready), leave_spec(note=NOTE, withdrawn=True)) == 0
    ended(kernel, "withdrawn", f"{NOTE}: not connected again")


@pytest.mark.usefixtures("slow")
def test_a_hang_up_is_worth_an_attempt(kernel: Kernel) -> None:
    kernel.failures = [errno.ECONNREFUSED] * 2

    def act() -> None:
        until(lambda: "attempt 1:" in kernel.status)
        hang_up()
        until(lambda: "attempt 2:" in kernel.status)
        hang_up()
        until(lambda: kernel.status == "live nvme0")

    assert live(kernel, act) == 0
    assert len(kernel.written) == 3


# Giving up ------------------------------------------------------------------------------------------------


class Clock:
    """CLOCK_BOOTTIME, as the test moves it. The clock of waits goes by itself."""

    def __init__(self) -> None:
        self.now = 5000.0

    def clock_gettime(self, _: int) -> float:
        return self.now

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(loop, "time", made)
    monkeypatch.setattr("discoverd.notify.time", made)
    return made


GIVEN_UP = "given up after 60 min without a connection: connection refused: nothing listens there"


def test_controller_of_a_referral_only_is_given_up(kernel: Kernel, clock: Clock) -> None:
    kernel.fails_always = errno.ECONNREFUSED

    def act() -> None:
        clock.now += 3599
        attempts(kernel)
        clock.now += 2
        until(lambda: "given up" in kernel.status)

    assert play(INSTANCE, kernel, act, leave_spec(give_up_after=3600)) == 0
    ended(kernel, "given up", GIVEN_UP, len(kernel.written))
    # By this the planner tells whether it was asked for again since.
    assert report()["time"] == "8601"


def test_controller_without_give_up_after_is_tried_for_ever(kernel: Kernel, clock: Clock) -> None:
    kernel.fails_always = errno.ECONNREFUSED

    def act() -> None:
        clock.now += 10**9
        attempts(kernel)

    assert live(kernel, act) == 0
    assert report()["state"] == "stopped"


def test_the_time_without_a_connection_counts_from_its_loss(kernel: Kernel, clock: Clock) -> None:
    def act() -> None:
        until(lambda: kernel.status == "live nvme0")
        clock.now += 10000
        kernel.fails_always = errno.ECONNREFUSED
        kernel.remove()
        attempts(kernel)
        clock.now += 3601
        until(lambda: "given up" in kernel.status)

    assert play(INSTANCE, kernel, act, leave_spec(give_up_after=3600)) == 0
    ended(kernel, "given up", GIVEN_UP, len(kernel.written))


def test_controller_that_the_kernel_never_connects_is_given_up(
    kernel: Kernel, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Fibre Channel, a connect succeeds at once, and the kernel goes on trying until it removes the controller."""

    def connect(options: list[tuple[str, str]], known: set[str] | None) -> str:
        device = kernel.connect(options, known)
        kernel.set_state(device, "connecting")
        return device

    monkeypatch.setattr(fabrics, "connect", connect)

    def kernel_tries(count: int) -> bool:
        return len(kernel.written) == count and "reconnecting nvme0" in kernel.status

    def act() -> None:
        for count in (1, 2, 3):
            until(partial(kernel_tries, count))
            clock.now += 1500
            kernel.remove()
        until(lambda: "given up" in kernel.status)

    assert play(INSTANCE, kernel, act, leave_spec(give_up_after=3600)) == 0
    assert report()["status"].endswith("the kernel could not connect it")


def test_give_up_time_begins_when_the_announcement_ends(kernel: Kernel, clock: Clock) -> None:
    kernel.fails_always = errno.ECONNREFUSED

    def act() -> None:
        attempts(kernel, 1)
        clock.now += 10000
        leave_spec(give_up_after=3600)
        hang_up()
        attempts(kernel)
        clock.now += 3601
        until(lambda: "given up" in kernel.status)

    assert live(kernel, act) == 0
    ended(kernel, "given up", GIVEN_UP, len(kernel.written))


def test_and_for_ever_again_once_it_is_announced(kernel: Kernel, clock: Clock) -> None:
    kernel.fails_always = errno.ECONNREFUSED

    def act() -> None:
        attempts(kernel, 1)
        leave_spec()
        hang_up()
        # The time passes after it was read.
        attempts(kernel)
        clock.now += 10000
        attempts(kernel)

    assert play(INSTANCE, kernel, act, leave_spec(give_up_after=3600)) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (259200, "72 h")]
)
def test_a_span_in_words(seconds: int, text: str) -> None:
    assert machine._span(seconds) == text


# The source address ---------------------------------------------------------------------------------------

SOURCE = ("host_traddr", "192.0.2.77")


def leave_spec_with_source(optional: bool) -> state.Spec:
    spec = leave_spec(source_optional=optional)
    spec.options.append(SOURCE)
    state.write(state.directory(INSTANCE) + "/spec", spec.encode())
    return spec


def test_an_address_of_firmwares_that_this_host_has_not_is_left_out(kernel: Kernel) -> None:
    kernel.addresses = {"192.0.2.9"}
    spec = leave_spec_with_source(optional=True)
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), spec) == 0
    assert kernel.written == [TEXT + ",host_traddr=192.0.2.77", TEXT]


def test_optional_source_address_of_this_host_is_used(kernel: Kernel) -> None:
    kernel.addresses = {"192.0.2.77"}
    spec = leave_spec_with_source(optional=True)
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), spec) == 0
    assert kernel.written == [TEXT + ",host_traddr=192.0.2.77"]


def test_another_failure_is_no_reason_to_leave_it_out(kernel: Kernel) -> None:
    kernel.failures = [errno.ECONNREFUSED, errno.EHOSTUNREACH]
    spec = leave_spec_with_source(optional=True)
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), spec) == 0
    assert kernel.written == [TEXT + ",host_traddr=192.0.2.77"] * 3


def test_configured_source_address_is_waited_for(kernel: Kernel) -> None:
    kernel.addresses = set()
    spec = leave_spec_with_source(optional=False)

    def act() -> None:
        attempts(kernel)
        kernel.addresses = {"192.0.2.77"}
        until(lambda: kernel.status == "live nvme0")

    assert play(INSTANCE, kernel, act, spec) == 0
    assert set(kernel.written) == {TEXT + ",host_traddr=192.0.2.77"}


def test_connection_without_optional_source_address_is_adopted(kernel: Kernel) -> None:
    kernel.add("nvme3", address="traddr=192.0.2.1,trsvcid=4420,src_addr=192.0.2.9")
    spec = leave_spec_with_source(optional=True)
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme3"), spec) == 0
    assert kernel.written == []


# The supervisor -------------------------------------------------------------------------------------------


def test_a_supervisor_that_has_too_much_to_hear_is_told_again(kernel: Kernel) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as supervisor:
        supervisor.bind(state.WAKE_SOCKET)
        with contextlib.suppress(BlockingIOError):
            while True:
                notify._datagram(b"another", state.WAKE_SOCKET, socket.SOCK_NONBLOCK)

        def heard() -> bytes:
            with contextlib.suppress(BlockingIOError):
                return supervisor.recv(4096)
            return b""

        def act() -> None:
            until(lambda: kernel.status == "live nvme0" and report()["state"] == "live")
            until(lambda: heard() == INSTANCE.encode())
            # Once is enough.
            time.sleep(0.05)
            assert heard() == b""

        assert live(kernel, act) == 0


def test_a_supervisor_that_is_not_there_is_not_told_again(kernel: Kernel) -> None:
    Path(state.WAKE_SOCKET).touch()
    leave_spec()
    report = notify.Report(INSTANCE)
    report.show(notify.View("connecting"))
    assert report.retry_at == 0


# Discovery ------------------------------------------------------------------------------------------------


def log() -> bytes:
    path = Path(state.directory(INSTANCE)) / "log"
    return state.split(state.LOG, path.read_bytes())[1] if path.exists() else b""


def test_a_discovery_controllers_log_page_is_kept(kernel: Kernel) -> None:
    kernel.log_pages = [page(entry("nqn.a"), entry("nqn.b"), generation=7)]

    def act() -> None:
        until(lambda: kernel.status == "live nvme0, 2 entries in its log page (generation 7)")
        assert log() == kernel.log_pages[0]
        until(lambda: report()["log-read"])

    assert live(kernel, act, "discovery") == 0


@pytest.mark.parametrize(
    "event", [{"NVME_AEN": "0x70f002"}, {"NVME_EVENT": "rediscover"}, {"ACTION": "overflow"}], ids=str
)
def test_a_change_is_read(kernel: Kernel, event: dict[str, str]) -> None:
    kernel.log_pages = [page(generation=1), page(entry("nqn.a"), generation=2)]

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        kernel.uevents.send(**event)
        until(lambda: "1 entry in its log page (generation 2)" in kernel.status)

    assert live(kernel, act, "discovery") == 0


def test_another_event_reads_nothing(kernel: Kernel) -> None:
    kernel.log_pages = [page(generation=1)]

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        kernel.uevents.send(ACTION="change", NVME_AEN="0x000002")
        until(lambda: not kernel.uevents._events)

    assert live(kernel, act, "discovery") == 0
    assert kernel.log_reads == 1


def test_a_change_during_a_reading_is_read_after_it(kernel: Kernel) -> None:
    kernel.log_pages = [page(generation=1), page(generation=2)]
    kernel.log_gate.clear()

    def act() -> None:
        until(lambda: kernel.log_reads == 1)
        for _ in range(3):
            kernel.uevents.send(NVME_AEN="0x70f002")
        until(lambda: not kernel.uevents._events)
        kernel.log_gate.set()
        until(lambda: "generation 2" in kernel.status)

    assert live(kernel, act, "discovery") == 0
    assert kernel.log_reads == 2


def test_a_failed_reading_is_repeated(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discoverd.worker.discovery.RETRY_SECONDS", (0.02,))
    kernel.log_pages = [OSError(5, "Input/output error"), page(generation=2)]
    assert live(kernel, lambda: until(lambda: "generation 2" in kernel.status), "discovery") == 0


def test_a_failed_reading_takes_nothing_away(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discoverd.worker.discovery.RETRY_SECONDS", (3600,))
    good = page(entry("nqn.a"), generation=1)
    kernel.log_pages = [good, OSError(5, "Input/output error"), page(generation=2)]

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        kernel.uevents.send(NVME_AEN="0x70f002")
        until(lambda: "log page not read: Input/output error" in kernel.status)
        assert log() == good
        kernel.uevents.send(NVME_AEN="0x70f002")
        until(lambda: "generation 2" in kernel.status)

    assert live(kernel, act, "discovery") == 0


def test_a_log_page_is_read_again_when_the_connection_is_back(kernel: Kernel) -> None:
    kernel.log_pages = [page(generation=1), page(generation=2)]

    def act() -> None:
        until(lambda: "generation 1" in kernel.status)
        kernel.set_state("nvme0", "connecting")
        until(lambda: kernel.status.startswith("reconnecting"))
        kernel.set_state("nvme0", "live")
        until(lambda: "generation 2" in kernel.status)

    assert live(kernel, act, "discovery") == 0


def test_a_controller_that_goes_during_a_reading_is_connected_again(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discoverd.worker.discovery.RETRY_SECONDS", (0.02,))
    kernel.log_pages = [OSError(19, "No such device"), page(generation=2)]
    kernel.log_gate.clear()

    def act() -> None:
        until(lambda: kernel.log_reads == 1)
        kernel.remove()
        # The reading takes longer than the connect.
        until(lambda: len(kernel.written) == 2)
        kernel.log_gate.set()
        until(lambda: "generation 2" in kernel.status)

    assert live(kernel, act, "discovery") == 0


def test_stop_during_a_reading_does_not_wait_for_it(kernel: Kernel) -> None:
    kernel.log_gate.clear()

    def act() -> None:
        until(lambda: kernel.log_reads == 1)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: kernel.deleted == ["nvme0"])

    assert live(kernel, act, "discovery") == 0


def test_an_io_controllers_log_page_is_nobodys_business(kernel: Kernel) -> None:
    assert live(kernel, lambda: until(lambda: kernel.status == "live nvme0")) == 0
    assert kernel.log_reads == 0


# The entry ------------------------------------------------------------------------------------------------


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["nvme-ctrl-worker", *arguments])
        return main.main()

    return run


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("../etc",), ("a/b",)])
def test_usage(kernel: Kernel, run_main: Callable[..., int], arguments: tuple[str, ...]) -> None:
    assert run_main(*arguments) == main.EXIT_USAGE


@pytest.mark.parametrize("content", [None, b"", b"discoverd-spec 1\nrole=io\nend\n", b"discoverd-spec 2\nend\n"])
def test_no_specification(kernel: Kernel, run_main: Callable[..., int], content: bytes | None) -> None:
    if content is not None:
        leave_spec()
        state.write(state.directory(INSTANCE) + "/spec", content)
    assert run_main(INSTANCE) == main.EXIT_NO_SPEC
    assert "restart discoverd.service" in kernel.status
    assert kernel.written == []
