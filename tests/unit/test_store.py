# SPDX-License-Identifier: Apache-2.0
"""The files of the run-time state: what a supervisor finds when it starts, and what it writes."""

import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from discoverd import registry, state, store
from discoverd.config.errors import Diagnostic
from discoverd.config.last_good import Kept
from discoverd.config.model import Secrets
from discoverd.plan.candidate import (
    BOOT,
    CONFIGURATION,
    FIBRE_CHANNEL,
    MDNS,
    NBFT,
    Announcement,
    Candidate,
    Refusal,
    fabrics_options,
)
from discoverd.plan.evidence import Asked
from discoverd.plan.facts import Action, Decision, Known, Report
from discoverd.plan.log_page import LogPageError, PageRead, parse
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from .log_pages import entry, page
from .test_state import NO_NUMBERS

HOST = "nqn.2024-08.com.example:host"
OTHER = "nqn.2024-08.com.example:other"
HOSTID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
DC = f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}"
# No process has a number above the kernel's limit of 2^22.
DEAD = (1 << 22) + 1
# Seconds since the boot.
NOW = 5000.0


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "ROOT", str(tmp_path))
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path / "controllers"))
    monkeypatch.setattr(state, "WAKE_SOCKET", str(tmp_path / "wake"))
    monkeypatch.setattr(registry, "ROOT", str(tmp_path / "registry"))
    (tmp_path / "controllers").mkdir()
    return tmp_path


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Let every file have the mode that it is made with."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """The clocks, each with another time."""
    times = {time.CLOCK_BOOTTIME: NOW, time.CLOCK_MONOTONIC: 3000.0, time.CLOCK_REALTIME: 1_800_000_000.0}
    monkeypatch.setattr(time, "clock_gettime", times.__getitem__)
    return times


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def folder(instance: str = "a") -> Path:
    """Return a controller's directory, which is there."""
    made = Path(state.directory(instance))
    made.mkdir(exist_ok=True)
    return made


def leave(tid: TransportId, origin: str, role: str = DISCOVERY, give_up_after: int = 0, hostnqn: str = HOST) -> None:
    """Write the specification that an earlier supervisor wrote."""
    spec = state.Spec(role, list(fabrics_options(tid, role, {}, Secrets(), hostnqn, HOSTID)))
    spec.source, spec.origin, spec.give_up_after = f"asked for by {origin}", origin, give_up_after
    assert store.write_spec(tid.instance, spec)


def dc(address: str = "192.0.2.7", **hosts_side: str) -> TransportId:
    return TransportId.make(DISCOVERY, "tcp", address, "", DISCOVERY_NQN, **hosts_side)


# Prepared -------------------------------------------------------------------------------------------------


def test_directories_are_for_everybody(run: Path, no_umask: None) -> None:
    (run / "controllers").rmdir()
    run.chmod(0o700)
    store.prepare().close()
    assert (mode(run), mode(run / "controllers")) == (0o755, 0o755)


@pytest.mark.parametrize("temporary", [None, "socket", "dangling link"])
def test_wake_socket_takes_the_place_of_the_one_before(
    run: Path, monkeypatch: pytest.MonkeyPatch, temporary: str | None
) -> None:
    """Without a moment in which there is none, and whatever a killed supervisor has left."""
    store.prepare().close()
    before = (run / "wake").stat().st_ino
    if temporary == "socket":
        (run / "wake").rename(run / "wake.new")
        store.prepare().close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
            left.bind(str(run / "wake.new"))
    elif temporary == "dangling link":
        (run / "wake.new").symlink_to("nowhere")
    rename, unlink = os.rename, os.unlink
    replaced = []

    def checked_rename(old: str, new: str) -> None:
        replaced.append(os.path.exists(new))
        rename(old, new)

    def checked_unlink(path: str) -> None:
        assert path != state.WAKE_SOCKET
        unlink(path)

    monkeypatch.setattr(os, "rename", checked_rename)
    monkeypatch.setattr(os, "unlink", checked_unlink)
    with store.prepare() as wake, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as worker:
        assert replaced == [True]
        assert (run / "wake").stat().st_ino != before
        assert not os.path.lexists(run / "wake.new")
        assert not os.get_blocking(wake.fileno())
        worker.connect(state.WAKE_SOCKET)
        worker.send(b"a")
        worker.send(b"b")
        assert (wake.recv(100), wake.recv(100)) == (b"a", b"b")


def test_wake_socket_of_somebody_else_is_told_from_our_own(run: Path) -> None:
    with pytest.raises(state.StateError):
        store.wake_sockets()
    with store.prepare():
        own, there = store.wake_sockets()
        assert own == there == (run / "wake").stat().st_ino
        (run / "other").touch()
        (run / "other").rename(run / "wake")
        assert store.wake_sockets() == (own, (run / "wake").stat().st_ino)
        (run / "wake").unlink()
        assert store.wake_sockets() == (own, 0)


def test_prepare_without_a_place_raises_os_error(run: Path) -> None:
    (run / "controllers").rmdir()
    (run / "controllers").write_text("a file")
    with pytest.raises(OSError, match="File exists"):
        store.prepare()


# Swept ----------------------------------------------------------------------------------------------------


def test_half_written_files_of_killed_processes_are_swept(run: Path) -> None:
    entries = run / "registry"
    (entries / f".nvme0.{DEAD}").mkdir(parents=True)
    (entries / "nvme0").mkdir()
    left = [run / f"plan.tmp.{DEAD}", folder("a") / f"spec.tmp.{DEAD}", folder("b") / f"report.tmp.{DEAD}"]
    kept = [run / f"plan.tmp.{os.getpid()}", folder("a") / "spec", folder("b") / f"log.tmp.{os.getpid()}"]
    for path in (*left, *kept):
        path.write_bytes(b"")
    store.sweep()
    assert [path for path in left if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []
    assert os.listdir(entries) == ["nvme0"]


@pytest.mark.parametrize("order", [False, True])
def test_sweep_passes_over_what_is_no_state(run: Path, monkeypatch: pytest.MonkeyPatch, order: bool) -> None:
    (run / f"directory.tmp.{DEAD}").mkdir()
    (run / "controllers" / "file").write_bytes(b"")
    (folder("e") / f"spec.tmp.{DEAD}").write_bytes(b"")
    (folder("g") / f"spec.tmp.{DEAD}").write_bytes(b"")
    (run / "registry").mkdir()
    (run / "registry" / f".nvme0.{DEAD}").mkdir()
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listed(path), reverse=order))
    store.sweep()
    assert [os.listdir(folder(name)) for name in "eg"] == [[], []]
    assert os.listdir(run / "registry") == []


def test_unit_kept_stopped_by_a_killed_supervisor_may_start() -> None:
    path = store.keep_stopped(folder("a").name)
    (folder("a") / "spec").write_bytes(b"")
    store.sweep()
    assert not os.path.exists(path)
    assert os.listdir(folder("a")) == ["spec"]


# Found ----------------------------------------------------------------------------------------------------


def test_nothing_is_there() -> None:
    assert store.find() == store.Found({}, {}, (), frozenset())


@pytest.mark.parametrize("origin", [MDNS, FIBRE_CHANNEL])
def test_announced_controller_is_a_wish_again(origin: str) -> None:
    """Whoever announced it will not do so for the sake of a new supervisor."""
    tid = dc(host_iface="eth0", host_traddr="192.0.2.9")
    leave(tid, origin, give_up_after=3600)
    found = store.find()
    target = ("tcp", "192.0.2.7", "8009", DISCOVERY_NQN)
    known = Known(f"asked for by {origin}", origin, target=target, role=DISCOVERY, trusted=origin != MDNS)
    assert found.known == {tid.instance: known}
    (wish,) = found.wishes
    assert (wish.tid, wish.role, wish.origin, wish.give_up_after) == (tid, DISCOVERY, origin, 3600)
    assert wish.source == f"asked for by {origin}"


@pytest.mark.parametrize("origin", [CONFIGURATION, NBFT, BOOT, DC])
def test_controller_whose_source_answers_again_is_no_wish(origin: str) -> None:
    leave(dc(), origin)
    found = store.find()
    assert (found.wishes, list(found.known)) == ((), [dc().instance])
    assert found.addresses == ({"192.0.2.7"} if origin == CONFIGURATION else set())


def test_the_host_nqn_is_the_configurations_and_not_the_announcements() -> None:
    leave(dc(hostnqn=OTHER), MDNS, hostnqn=OTHER)
    assert [wish.tid for wish in store.find().wishes] == [dc()]


def test_given_up_controller_is_not_tried_anew() -> None:
    leave(dc(), MDNS, give_up_after=60)
    path = Path(state.directory(dc().instance)) / "report"
    path.write_bytes(state.encode(state.REPORT, [("state", "given up"), ("status", "given up")]))
    found = store.find()
    assert (found.wishes, list(found.known), list(found.reports)) == ((), [dc().instance], [dc().instance])


def test_an_identity_that_is_refused_by_now_is_no_wish() -> None:
    tid = dc()
    leave(tid, MDNS)
    path = Path(state.directory(tid.instance)) / "spec"
    path.write_bytes(path.read_bytes().replace(b"option.traddr=192.0.2.7", b"option.traddr=array.example.com"))
    found = store.find()
    assert (found.wishes, list(found.known)) == ((), [tid.instance])


@pytest.mark.parametrize("content", [b"", b"discoverd-spec 9\nend\n", b"discoverd-spec 1\nrole=io\n", b"\xff\xfe"])
def test_damaged_file_counts_as_missing(content: bytes) -> None:
    for name in ("spec", "report"):
        (folder() / name).write_bytes(content)
    (Path(state.CONTROLLERS) / "file").write_bytes(b"")
    assert store.find() == store.Found({}, {}, (), frozenset())


@pytest.mark.parametrize("said", [one for one in state.STATES if one != state.GIVEN_UP])
def test_controller_that_was_not_given_up_is_a_wish_again(said: str) -> None:
    leave(dc(), MDNS, give_up_after=60)
    (folder(dc().instance) / "report").write_bytes(state.encode(state.REPORT, [("state", said)]))
    found = store.find()
    assert ([wish.tid for wish in found.wishes], found.reports) == ([dc()], {dc().instance: Report(said)})


@pytest.mark.parametrize(("transport", "interface"), [("tcp", "eth0"), ("rdma", "")])
def test_wish_has_every_part_of_its_identity(transport: str, interface: str) -> None:
    tid = TransportId.make(IO, transport, "192.0.2.7", "4421", "nqn.a", host_iface=interface, host_traddr="192.0.2.9")
    leave(tid, FIBRE_CHANNEL, IO)
    (wish,) = store.find().wishes
    assert (wish.tid, wish.role, wish.announcement) == (tid, IO, None)


def test_addresses_are_those_of_configured_controllers() -> None:
    for number, (origin, withdrawn) in enumerate([(CONFIGURATION, False), (CONFIGURATION, True), (NBFT, False)]):
        spec = state.Spec(IO, [("transport", "tcp"), ("traddr", f"192.0.2.{number}"), ("nqn", "nqn.a")])
        spec.options.append(("host_traddr", "192.0.2.99"))
        spec.origin, spec.withdrawn = origin, withdrawn
        assert store.write_spec(f"unit{number}", spec)
    assert store.find().addresses == {"192.0.2.0"}


@pytest.mark.parametrize("withdrawn", [False, True])
def test_known_controller_is_what_its_specification_says(withdrawn: bool) -> None:
    spec = state.Spec(IO, [("nqn", "nqn.a"), ("trsvcid", "4421"), ("traddr", "192.0.2.1"), ("transport", "rdma")])
    spec.source, spec.origin, spec.note, spec.withdrawn = "listed", DC, "no longer listed", withdrawn
    spec.referrers = f"{DC} tcp:192.0.2.2:8009:b"
    assert store.known(spec) == Known(
        "listed",
        DC,
        "no longer listed" if withdrawn else "",
        frozenset((DC, "tcp:192.0.2.2:8009:b")),
        ("rdma", "192.0.2.1", "4421", "nqn.a"),
        IO,
        trusted=True,
    )


def test_what_only_announcements_led_to_is_still_known_as_that() -> None:
    spec = state.Spec(IO, [("nqn", "nqn.a"), ("transport", "tcp")])
    spec.trusted = spec.register = False
    again = state.Spec.decode(spec.encode())
    assert (again.trusted, again.register, store.known(again).trusted) == (False, False, False)


# Booted anew ----------------------------------------------------------------------------------------------


def leave_reports() -> list[Path]:
    """Leave a controller with a report, and return its files; and one that has none yet."""
    files = [folder("a") / "spec", folder("b") / "spec", folder("a") / "report"]
    for path in files:
        path.write_bytes(b"x")
    return files


def test_first_boot_takes_no_report_away(run: Path) -> None:
    files = leave_reports()
    assert not store.new_boot(0)
    assert not store.new_boot(0)
    assert all(path.exists() for path in files)
    assert mode(run / "boot") == 0o600


def test_soft_reboot_takes_reports_away_once() -> None:
    *specs, report = leave_reports()
    assert not store.new_boot(0)
    assert store.new_boot(1)
    assert not report.exists()
    assert all(path.exists() for path in specs)
    leave_reports()
    assert not store.new_boot(1)
    assert report.exists()
    assert store.new_boot(2)
    assert not report.exists()


@pytest.mark.parametrize("content", [None, b"", b"noise"])
def test_soft_reboot_without_a_usable_record_takes_reports_away(run: Path, content: bytes | None) -> None:
    if content is not None:
        (run / "boot").write_bytes(content)
    report = leave_reports()[-1]
    assert store.new_boot(3)
    assert not report.exists()


def test_boot_that_cannot_be_recorded_is_new_each_time(run: Path) -> None:
    (run / "boot").mkdir()
    for _ in range(2):
        report = leave_reports()[-1]
        assert store.new_boot(1)
        assert not report.exists()


def test_soft_reboot_passes_over_what_is_no_state(run: Path) -> None:
    (run / "controllers" / "file").write_bytes(b"")
    (folder("directory") / "report").mkdir()
    report = leave_reports()[-1]
    assert store.new_boot(1)
    assert not report.exists()
    assert not store.new_boot(1)


# Reports --------------------------------------------------------------------------------------------------


def report(**fields: str) -> Report | None:
    Path(state.directory("a")).mkdir(exist_ok=True)
    given = [(name.replace("_", "-"), value) for name, value in fields.items()]
    (Path(state.directory("a")) / "report").write_bytes(state.encode(state.REPORT, given))
    return store.read_report("a")


def test_a_report_is_read_whole() -> None:
    given = report(
        state="live",
        status="live nvme3",
        device="nvme3",
        log_read="7",
        attempt="4",
        time="4711",
        kernel_instance="51",
        cause="x",
        owner="stas",
        kept="in use",
        errno="111",
        since="4700",
        detail="4 entries",
        answer="yes",
    )
    assert given == Report(
        state="live",
        status="live nvme3",
        device="nvme3",
        log_read="7",
        attempt=4,
        time=4711,
        sysfs_inode=51,
        cause="x",
        kept="in use",
        owner="stas",
        errno=111,
        since=4700,
        detail="4 entries",
        answer="yes",
    )


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("field", ["attempt", "time", "kernel_instance", "errno", "since"])
def test_a_report_with_a_number_that_makes_no_sense_is_none(field: str, number: str) -> None:
    assert report(state="live", **{field: number}) is None


@pytest.mark.parametrize("said", state.STATES)
def test_report_has_one_of_the_states(said: str) -> None:
    assert report(state=said) == Report(said)


def test_report_with_another_state_or_none_is_none() -> None:
    assert report(state="levitating") is None
    assert report(status="live nvme3") is None


def test_a_report_of_an_earlier_version_without_them() -> None:
    assert report(state="waiting") == Report("waiting")
    assert store.read_report("b") is None


# Log pages ------------------------------------------------------------------------------------------------

PAGE = page(entry("nqn.a"), generation=7)


def leave_log(data: bytes = PAGE, **fields: str) -> Path:
    """Write a log page as a worker does, without a head if there are no fields."""
    path = folder() / "log"
    path.write_bytes((state.encode(state.LOG, list(fields.items())) if fields else b"") + data)
    return path


@pytest.mark.parametrize("asked", [Asked.ALL_PORTS, Asked.ONE_PORT])
def test_log_page_is_read_with_its_head(clock: dict[int, float], asked: Asked) -> None:
    leave_log(milliseconds="4000500", connection="nvme3 51", asked=asked.value)
    assert store.read_log("a") == PageRead(parse(PAGE), 4000.5, "nvme3 51", asked)


@pytest.mark.parametrize("fields", [{"milliseconds": "0"}, {"milliseconds": "0", "asked": "every-second-port"}])
def test_log_page_whose_head_says_little_is_read(fields: dict[str, str]) -> None:
    leave_log(PAGE, **fields)
    assert store.read_log("a") == PageRead(parse(PAGE), 0.0, "", Asked.UNKNOWN)


def test_log_page_may_be_as_long_as_a_worker_reads() -> None:
    data = page(*(entry(f"nqn.{number}") for number in range(2048)))
    leave_log(data, milliseconds="1")
    read = store.read_log("a")
    assert read
    assert len(read.page.entries) == 2048


def test_log_page_over_the_limit_makes_no_sense() -> None:
    path = leave_log()
    os.truncate(path, (1 << 25) + 1)
    with pytest.raises(LogPageError, match="more than 33554432 bytes"):
        store.read_log("a")


def test_missing_log_page_is_none() -> None:
    assert store.read_log("never-there") is None
    folder()
    assert store.read_log("a") is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes are no log page"),
        (b"noise", "5 bytes are no log page"),
        (b"discoverd-log 1\nmilliseconds=1\nend\n", "0 bytes are no log page"),
        (b"discoverd-log 1\nmilliseconds=1\nend\n" + PAGE[:-1], "it claims 1 entries"),
        (b"discoverd-log 1\nmilliseconds=-1\nend\n" + PAGE, "is no number"),
        (b"discoverd-log 1\nmilliseconds=1\n" + PAGE, "truncated|control character|no field"),
        (b"discoverd-log 9\nmilliseconds=1\nend\n" + PAGE, "begins with 'discoverd-log 9'"),
        (b"discoverd-log 1\nmilliseconds=5000001\nend\n" + PAGE, "read in the future"),
    ],
)
def test_damaged_log_page_makes_no_sense(clock: dict[int, float], data: bytes, why: str) -> None:
    (folder() / "log").write_bytes(data)
    with pytest.raises(LogPageError, match=why):
        store.read_log("a")


def test_log_page_of_this_moment_is_read(clock: dict[int, float]) -> None:
    leave_log(milliseconds="5000000")
    read = store.read_log("a")
    assert read
    assert read.time == NOW


@pytest.mark.parametrize(("age", "at"), [(0, NOW), (60, NOW - 60), (-3600, NOW)])
def test_log_page_of_an_earlier_version_is_as_old_as_its_file(
    clock: dict[int, float], monkeypatch: pytest.MonkeyPatch, age: int, at: float
) -> None:
    """A wall clock that was set back does not take it into the future."""
    path = leave_log()
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    os.utime(path, (0, 1_800_000_000 - age))
    assert store.read_log("a") == PageRead(parse(PAGE), at, "", Asked.UNKNOWN)


def test_log_page_that_goes_while_it_is_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    path = leave_log()
    read = state.read

    def last_read(name: str, limit: int) -> bytes:
        data = read(name, limit)
        path.unlink()
        return data

    monkeypatch.setattr(state, "read", last_read)
    assert store.read_log("a") is None


# Confirmations --------------------------------------------------------------------------------------------


def test_confirmation_is_taken_once(clock: dict[int, float]) -> None:
    path = Path(store.confirm(folder().name, iter(["b", "c"])))
    assert (path.parent, mode(path)) == (folder(), 0o600)
    assert store.take_confirmation("other") == []
    assert store.take_confirmation("a") == ["b", "c"]
    assert not path.exists()
    assert store.take_confirmation("a") == []


@pytest.mark.parametrize(("age", "heard"), [(0, True), (15, True), (15.01, False), (16, False), (-0.01, False)])
def test_confirmation_counts_for_fifteen_seconds(clock: dict[int, float], age: float, heard: bool) -> None:
    path = store.confirm(folder().name, ["b"])
    clock[time.CLOCK_BOOTTIME] += age
    assert store.take_confirmation("a") == (["b"] if heard else [])
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"noise",
        b"discoverd-confirm 1\nmilliseconds=5000000\nunit=b\n",
        b"discoverd-confirm 2\nmilliseconds=5000000\nunit=b\nend\n",
        b"discoverd-confirm 1\nmilliseconds=x\nunit=b\nend\n",
        b"discoverd-confirm 1\nunit=b\nend\n",
        # No names of units.
        b"discoverd-confirm 1\nmilliseconds=5000000\nunit=../b\nunit=\nunit=.b\nother=b\nend\n",
    ],
)
def test_confirmation_that_makes_no_sense_is_removed(clock: dict[int, float], content: bytes) -> None:
    (folder() / "confirm").write_bytes(content)
    assert store.take_confirmation("a") == []
    assert os.listdir(folder()) == []


def test_confirmation_without_a_place_is_an_error() -> None:
    with pytest.raises(state.StateError, match="No such file or directory"):
        store.confirm("never-there", ["b"])
    assert store.take_confirmation("never-there") == []


# Kept stopped ---------------------------------------------------------------------------------------------


def test_unit_is_kept_stopped_until_it_may_start() -> None:
    path = Path(store.keep_stopped(folder().name))
    # An administrator reads the name in the unit's status.
    assert path == folder() / "stopped-by-an-administrator"
    assert path.read_bytes() == b""
    store.allow_start("a")
    assert os.listdir(folder()) == []
    store.allow_start("a")


def test_unit_that_cannot_be_kept_stopped_is_an_error() -> None:
    with pytest.raises(state.StateError, match="No such file or directory"):
        store.keep_stopped("never-there")


def test_unit_that_cannot_be_allowed_to_start_is_an_error() -> None:
    (folder() / "stopped-by-an-administrator").mkdir()
    with pytest.raises(IsADirectoryError):
        store.allow_start("a")


# Forgotten ------------------------------------------------------------------------------------------------


def test_forgotten_controller_leaves_the_others(run: Path) -> None:
    for name in ("a", "b"):
        (folder(name) / "spec").write_bytes(b"")
        (folder(name) / "log").write_bytes(b"")
    store.forget("a")
    store.forget("a")
    assert os.listdir(run / "controllers") == ["b"]
    assert sorted(os.listdir(folder("b"))) == ["log", "spec"]


# The plan -------------------------------------------------------------------------------------------------


def test_a_row_tells_what_the_controller_is() -> None:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn.a", host_iface="eth0")
    candidate = Candidate(tid, IO, "configured at f:1", CONFIGURATION, (("dhchap_secret", "DHHC-1:00:do-not-tell:"),))
    row = store.plan_row(Decision(tid.instance, Action.KEEP, "configured at f:1 and listed", candidate))
    assert "do-not-tell" not in row
    assert json.loads(row) == {
        "instance": tid.instance,
        "action": "keep",
        "reason": "configured at f:1 and listed",
        "note": "",
        "held_back": "",
        "excluded_by": "",
        "withdrawn_by": "",
        "blocked_by": "",
        "trust": "trusted",
        "transport": "tcp",
        "traddr": "192.0.2.1",
        "trsvcid": "4420",
        "subsysnqn": "nqn.a",
        "host_iface": "eth0",
        "host_traddr": "",
        "role": "io",
        "sources": "configured at f:1",
    }


def test_row_has_each_field_in_its_place() -> None:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "4421", "nqn.a", host_iface="eth0", host_traddr="192.0.2.9")
    decision = Decision(
        tid.instance,
        Action.LEAVE,
        "the reason",
        Candidate(tid, IO, "the source", DC, ()),
        note="the note",
        held_back="what is held back",
        excluded_by="f:3",
        withdrawn_by=DC,
        blocked_by="/etc/a.service",
    )
    assert json.loads(store.plan_row(decision)) == {
        "instance": tid.instance,
        "action": "leave",
        "reason": "the reason",
        "note": "the note",
        "held_back": "what is held back",
        "excluded_by": "f:3",
        "withdrawn_by": DC,
        "blocked_by": "/etc/a.service",
        "trust": "announced",
        "transport": "tcp",
        "traddr": "192.0.2.1",
        "trsvcid": "4421",
        "subsysnqn": "nqn.a",
        "host_iface": "eth0",
        "host_traddr": "192.0.2.9",
        "role": "io",
        "sources": "the source",
    }


def test_row_without_a_candidate_says_nothing_of_it() -> None:
    row = json.loads(store.plan_row(Decision("a", Action.KEEP, "the reason")))
    told = {"instance": "a", "action": "keep", "reason": "the reason"}
    assert row == {**dict.fromkeys(row, ""), **told}
    assert len(row) == 17


def test_plan_has_each_field_in_its_place(run: Path, no_umask: None) -> None:
    complaint = Diagnostic("f", 3, 1, "error", "no such key")
    refusal = Refusal("what", "where", "why", True, target=("tcp", "192.0.2.1", "4420", "nqn.a"))
    kept = [(Kept("f", complaint), "2026-11-21 14:05")]
    store.write_plan([], [refusal], [complaint], {DC: iter(["a", "b"]), "x": ()}, kept)
    assert json.loads((run / "plan").read_bytes()) == {
        "version": 1,
        "controllers": [],
        "pending": [{"origin": DC, "instances": ["a", "b"]}, {"origin": "x", "instances": []}],
        "refusals": [
            {
                "what": "what",
                "source": "where",
                "reason": "why",
                "expected": "yes",
                "transport": "tcp",
                "traddr": "192.0.2.1",
                "trsvcid": "4420",
                "subsysnqn": "nqn.a",
                "trust": "",
            }
        ],
        "complaints": ["f:3:1: no such key"],
        "errors": 1,
        "kept": [{"file": "f", "since": "2026-11-21 14:05", "mistake": "f:3:1: no such key"}],
    }
    assert mode(run / "plan") == 0o644


def test_plan_tells_refusals_that_are_expected_or_only_announced(run: Path) -> None:
    refusals = [Refusal("a", "b", "c", expected=True), Refusal("a", "b", "c", trusted=False)]
    store.write_plan([], refusals, [], {})
    told = json.loads((run / "plan").read_bytes())["refusals"]
    assert [(one["expected"], one["trust"]) for one in told] == [("yes", ""), ("", "announced")]


def test_plan_is_replaced_in_one_step(run: Path) -> None:
    store.write_plan([], [], [], {})
    with (run / "plan").open("rb") as reader:
        store.write_plan(['{"instance": "a"}'], [], [], {})
        assert json.load(reader)["controllers"] == []
    assert json.loads((run / "plan").read_bytes())["controllers"] == [{"instance": "a"}]


def test_plan_that_cannot_be_written_is_an_error(run: Path) -> None:
    (run / "plan").mkdir()
    with pytest.raises(state.StateError, match="plan: Is a directory"):
        store.write_plan([], [], [], {})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_file_is_json_whatever_stands_in_it(run: Path, count: int) -> None:
    odd = 'é "x", \\ \u2028 ]}'
    rows = [store.plan_row(Decision(f"{odd}{number}", Action.LEAVE, odd)) for number in range(count)]
    store.write_plan(rows, [Refusal(odd, odd, odd)] * count, [], {odd: [odd]})
    plan = json.loads((run / "plan").read_bytes())
    assert plan["version"] == 1
    assert [row["instance"] for row in plan["controllers"]] == [f"{odd}{number}" for number in range(count)]
    refusal = {"what": odd, "source": odd, "reason": odd}
    assert (
        plan["refusals"] == [{**dict.fromkeys(plan["refusals"][0], ""), **refusal} for _ in range(count)]
        if count
        else True
    )
    assert plan["complaints"] == []
    assert plan["pending"] == [{"origin": odd, "instances": [odd]}]


# Specifications -------------------------------------------------------------------------------------------


def test_the_same_is_not_written_again() -> None:
    leave(dc(), MDNS)
    path = Path(state.directory(dc().instance)) / "spec"
    before = path.stat().st_ino
    spec = store.read_spec(dc().instance)
    assert spec
    assert not store.write_spec(dc().instance, spec)
    assert path.stat().st_ino == before
    spec.give_up_after = 60
    assert store.write_spec(dc().instance, spec)
    read = store.read_spec(dc().instance)
    assert read
    assert read.give_up_after == 60


def test_specification_is_for_root_only(no_umask: None) -> None:
    leave(dc(), MDNS)
    made = Path(state.directory(dc().instance))
    assert (mode(made), mode(made / "spec")) == (0o755, 0o600)


@pytest.mark.parametrize("content", [None, b"", b"discoverd-spec 9\nend\n", bytes((1 << 20) + 1)])
def test_unusable_specification_is_replaced(content: bytes | None) -> None:
    """The directory may be there already, with what the worker has written."""
    path = folder(dc().instance) / "spec"
    if content is not None:
        path.write_bytes(content)
    leave(dc(), MDNS)
    assert store.read_spec(dc().instance)


def test_missing_specification_is_none() -> None:
    assert store.read_spec("never-there") is None


def test_a_state_that_cannot_be_written(run: Path) -> None:
    (run / "controllers").rmdir()
    (run / "controllers").write_text("a file")
    with pytest.raises(state.StateError, match=f"{dc().instance}: Not a directory"):
        leave(dc(), MDNS)
    store.forget("never-there")


def test_announcement_of_a_wish_outlives_a_restart() -> None:
    """When it was announced last, and on which interface, are facts beside the sentence."""
    spec = state.Spec(
        "discovery", [("transport", "rdma"), ("traddr", "192.0.2.1"), ("trsvcid", "8009"), ("nqn", "nqn.a")]
    )
    spec.origin, spec.source = MDNS, "announced by mDNS on ib0 as 'array' until 2026-11-27 22:00"
    spec.announced_on, spec.announced_until = "ib0", "2026-11-27 22:00"
    store.write_spec("a", spec)
    (wish,) = store.find().wishes
    assert wish.announcement == Announcement("ib0", "2026-11-27 22:00")
