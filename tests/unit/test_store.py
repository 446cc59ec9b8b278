# SPDX-License-Identifier: Apache-2.0
"""What a supervisor finds when it starts, and the plan that it writes."""

import json
from pathlib import Path

import pytest

from discoverd import state, store
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
from discoverd.plan.facts import Action, Decision, Known, Report
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from .test_state import NO_NUMBERS

HOST = "nqn.2024-08.com.example:host"
OTHER = "nqn.2024-08.com.example:other"
HOSTID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
DC = f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}"


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "ROOT", str(tmp_path))
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path / "controllers"))
    (tmp_path / "controllers").mkdir()
    return tmp_path


def leave(tid: TransportId, origin: str, role: str = DISCOVERY, give_up_after: int = 0, hostnqn: str = HOST) -> None:
    """Write the specification that an earlier supervisor wrote."""
    spec = state.Spec(role, list(fabrics_options(tid, role, {}, Secrets(), hostnqn, HOSTID)))
    spec.source, spec.origin, spec.give_up_after = f"asked for by {origin}", origin, give_up_after
    assert store.write_spec(tid.instance, spec)


def dc(address: str = "192.0.2.7", **hosts_side: str) -> TransportId:
    return TransportId.make(DISCOVERY, "tcp", address, "", DISCOVERY_NQN, **hosts_side)


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
    assert found.known == {tid.instance: Known(f"asked for by {origin}", origin, target=target)}
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
    folder = Path(state.directory("a"))
    folder.mkdir()
    for name in ("spec", "report"):
        (folder / name).write_bytes(content)
    (Path(state.CONTROLLERS) / "file").write_bytes(b"")
    assert store.find() == store.Found({}, {}, (), frozenset())


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
    )
    assert given == Report("live", "live nvme3", "nvme3", "7", 4, 4711, 51, "x", "in use")


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("field", ["attempt", "time", "kernel_instance"])
def test_a_report_with_a_number_that_makes_no_sense_is_none(field: str, number: str) -> None:
    assert report(state="live", **{field: number}) is None


def test_a_report_of_an_earlier_version_without_them() -> None:
    assert report(state="waiting") == Report("waiting")
    assert store.read_report("b") is None


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
        "transport": "tcp",
        "traddr": "192.0.2.1",
        "trsvcid": "4420",
        "subsysnqn": "nqn.a",
        "host_iface": "eth0",
        "host_traddr": "",
        "role": "io",
        "sources": "configured at f:1",
    }


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_file_is_json_whatever_stands_in_it(run: Path, count: int) -> None:
    odd = 'é "x", \\ \u2028 ]}'
    rows = [store.plan_row(Decision(f"{odd}{number}", Action.LEAVE, odd)) for number in range(count)]
    store.write_plan(rows, [Refusal(odd, odd, odd)] * count, [], {odd: [odd]})
    plan = json.loads((run / "plan").read_bytes())
    assert plan["version"] == 1
    assert [row["instance"] for row in plan["controllers"]] == [f"{odd}{number}" for number in range(count)]
    assert plan["refusals"] == [{"what": odd, "source": odd, "reason": odd}] * count
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


def test_a_state_that_cannot_be_written(run: Path) -> None:
    (run / "controllers").rmdir()
    (run / "controllers").write_text("a file")
    with pytest.raises(state.StateError, match="Not a directory"):
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
