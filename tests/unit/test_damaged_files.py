# SPDX-License-Identifier: Apache-2.0
"""What may stand in the files that discoverd's processes leave for each other: anything.

Root's files they are, but a full or broken file system, another version and a hand with an editor write them as well.
Whatever is in one, its reader raises nothing but what it says it raises, and nothing that it returns ends a line,
forges a field or an option, or leads to another file.
"""

import json
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from discoverd import boot_record, registry, state, store
from discoverd.cli import plan_file
from discoverd.kernel import controllers
from discoverd.plan.evidence import Asked
from discoverd.plan.facts import Action, Decision
from discoverd.plan.log_page import LogPageError
from discoverd.state import Spec, StateError

from .log_pages import entry, page

# The directories are made once for all examples, each of which writes its file anew.
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)

FIELDS = [("state", "live"), ("status", "live nvme3"), ("device", "nvme3"), ("log-read", "7"), ("attempt", "4")]
REPORT = state.encode(state.REPORT, [*FIELDS, ("time", "4711")])
LOG_HEAD = [("milliseconds", "4711"), ("connection", "1"), ("asked", "one-port")]
LOG = state.encode(state.LOG, LOG_HEAD) + page(entry("nqn.x"))
CONFIRMATION = state.encode(store.CONFIRMATION, [("unit", "tcp:192.0.2.1:4420:nqn.x")])
RECORD = state.encode(boot_record.KIND, [("nvme0", "1234")])
ROWS = [
    {"instance": f"tcp:192.0.2.1:4420:nqn.x{number}", "action": "keep", "reason": "configured at x.conf:3"}
    for number in range(2)
]
PLAN = json.dumps(
    {
        "version": 1,
        "controllers": ROWS,
        "refusals": [{"what": "x", "source": "x.conf:3", "reason": "it has no address"}],
        "complaints": ["x.conf:3: a mistake"],
        "kept": [{"file": "x.conf", "since": "2026-11-21 14:05", "mistake": "x.conf:3: a mistake"}],
        "pending": [{"origin": "tcp:192.0.2.1:4420:nqn.x0", "instances": ["tcp:192.0.2.1:4420:nqn.x1"]}],
    }
).encode()


def specification() -> bytes:
    spec = Spec("io", [("nqn", "nqn.x"), ("transport", "tcp"), ("traddr", "192.0.2.1"), ("trsvcid", "4420")])
    spec.source, spec.note, spec.give_up_after, spec.attempts, spec.symname = "configured", "a note", 60, 3, "host"
    return spec.encode()


SPEC = specification()
ODD = [
    b"\n",
    b"\r",
    b"\0",
    b"\x1b[2J",
    b"\x85",
    "\x85\u2028\u0663".encode(),
    b"9" * 5000,
    b"=",
    b",",
    b'"',
    b"\\u000a",
    b"../",
]
odd = st.sampled_from(ODD) | st.binary(max_size=8)


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Anything, and a whole file with something put into it or in place of a part of it."""
    place = st.integers(0, len(whole))
    cut = st.builds(
        lambda start, end, put: whole[: min(start, end)] + put + whole[max(start, end) :], place, place, odd
    )
    put = st.builds(lambda start, put: whole[:start] + put + whole[start:], place, odd)
    return st.binary(max_size=200) | cut | put


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(state, "ROOT", str(tmp_path))
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path / "controllers"))
    monkeypatch.setattr(boot_record, "PATH", str(tmp_path / "boot-controllers"))
    monkeypatch.setattr(plan_file, "PATH", str(tmp_path / "plan"))
    monkeypatch.setattr(registry, "ROOT", str(tmp_path / "registry"))
    monkeypatch.setattr(controllers, "CLASS", str(tmp_path / "nvme"))
    for folder in ("controllers/a", "registry/nvme3", "nvme/nvme0", "nvme/nvme3"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def is_one_line(text: str) -> bool:
    return "\0" not in text and text.splitlines() in ([text], [])


@many
@given(damaged(REPORT))
@example(REPORT)
def test_fields(data: bytes) -> None:
    try:
        fields = state.decode(state.REPORT, data)
    except StateError:
        return
    assert all(is_one_line(key) and is_one_line(value) and "=" not in key for key, value in fields)
    # Nothing comes out that could not be written again.
    assert state.decode(state.REPORT, state.encode(state.REPORT, fields)) == fields


@many
@given(damaged(SPEC))
@example(SPEC)
def test_a_specification(run: Path, data: bytes) -> None:
    (run / "controllers/a/spec").write_bytes(data)
    spec = store.read_spec("a")
    if spec is None:
        with pytest.raises(StateError):
            Spec.decode(data)
        return
    assert all(is_one_line(text) for text in (spec.source, spec.origin, spec.note, spec.referrers))
    assert all(text.isprintable() for text in (spec.role, spec.persistent, spec.symname, spec.disconnect))
    assert all((key + value).isprintable() and "," not in key + value for key, value in spec.options)
    assert 0 <= spec.give_up_after < 10**20
    assert 0 <= spec.attempts < 10**20
    assert 0 <= int(spec.option("trsvcid") or "0") < 1 << 16
    assert Spec.decode(spec.encode()).options == spec.options


@many
@given(damaged(REPORT))
@example(REPORT)
def test_a_report(run: Path, data: bytes) -> None:
    (run / "controllers/a/report").write_bytes(data)
    report = store.read_report("a")
    if report is not None:
        assert all(is_one_line(text) for text in (report.state, report.status, report.device, report.log_read))
        assert 0 <= report.attempt < 10**20
        assert 0 <= report.time < 10**20


@many
@given(damaged(LOG))
@example(LOG)
@example(LOG.replace(b"4711", b"9" * 5000))
def test_a_log_page(run: Path, data: bytes) -> None:
    (run / "controllers/a/log").write_bytes(data)
    try:
        read = store.read_log("a")
    except LogPageError:
        return
    assert read is not None
    assert 0 <= read.time < 10**20
    assert read.asked in Asked


@many
@given(damaged(CONFIRMATION))
@example(CONFIRMATION)
def test_a_confirmation(run: Path, data: bytes) -> None:
    (run / "controllers/a/confirm").write_bytes(data)
    assert all(state.valid_instance(unit) for unit in store.take_confirmation("a"))
    assert not (run / "controllers/a/confirm").exists()


@many
@given(data=damaged(RECORD))
@example(data=RECORD)
def test_the_record_of_the_boot(run: Path, data: bytes) -> None:
    there = controllers.sysfs_inode("nvme0")
    (run / "boot-controllers").write_bytes(data.replace(b"1234", str(there).encode()))
    assert boot_record.recorded() in ({}, {"nvme0": there})


def test_the_record_names_controllers_only(run: Path) -> None:
    there = controllers.sysfs_inode("nvme0")
    fields = [(name, str(there)) for name in ("nvme0", "../nvme/nvme0", "nvme3/../nvme0", ".", "")]
    (run / "boot-controllers").write_bytes(state.encode(boot_record.KIND, fields))
    assert boot_record.recorded() == {"nvme0": there}


@many
@given(
    damaged(b"nvme-ctrl@tcp:192.0.2.1:4420:nqn.x.service\n"), st.sampled_from(["owner", "unit", "seqnum", "adopted"])
)
def test_an_attribute_in_the_registry(run: Path, data: bytes, attribute: str) -> None:
    (run / "registry/nvme3" / attribute).write_bytes(data)
    if attribute == "owner" and not data.decode(errors="replace").rstrip("\r\n").isprintable():
        with pytest.raises(OSError, match="unprintable characters"):
            registry.retrieve("nvme3", attribute)
        return
    value = registry.retrieve("nvme3", attribute)
    assert value is None or value.isprintable()
    instance = state.instance_of(value or "")
    assert instance == "" or (run / "controllers" / instance).parent == run / "controllers"


def assert_plan_is_harmless(found: plan_file.PlanFile) -> None:
    named = [name for origin, pending in found.pending.items() for name in (origin, *pending)]
    texts = [found.fault, *found.complaints, *found.controllers, *named]
    for planned in found.controllers.values():
        texts += astuple(planned)
    for refused in found.refusals:
        texts += astuple(refused)
    for earlier in found.kept:
        texts += astuple(earlier)
    assert all(text.isprintable() for text in texts)
    assert all("/" not in name and name[0] != "." for name in (*found.controllers, *named))


@many
@given(damaged(PLAN))
@example(PLAN)
@example(PLAN.replace(b"1,", b"1e999,", 1))
@example(PLAN.replace(b"1,", b"true,", 1))
@example(PLAN.replace(b"1,", b"9" * 5000 + b",", 1))
@example(PLAN.replace(b'"tcp:', b'"\\ud800tcp:', 1))
@example(PLAN.replace(b'"tcp:', b'"../', 1))
def test_the_plan(run: Path, data: bytes) -> None:
    (run / "plan").write_bytes(data)
    found = plan_file.read()
    assert_plan_is_harmless(found)
    assert found.fault or len(found.controllers) <= len(ROWS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
row = st.dictionaries(st.sampled_from(["instance", "action", "reason", "note", "what", "source"]), json_values)


@many
@given(
    st.fixed_dictionaries(
        {"version": st.just(1) | json_values},
        optional={
            name: json_values | st.lists(row, max_size=3)
            for name in ("controllers", "refusals", "complaints", "pending", "kept")
        },
    )
)
def test_a_plan_of_anything(run: Path, plan: object) -> None:
    (run / "plan").write_text(json.dumps(plan))
    assert_plan_is_harmless(plan_file.read())


def test_written_file_is_read(run: Path) -> None:
    store.write_plan([store.plan_row(Decision("tcp:192.0.2.1:nqn.x", Action.LEAVE, "odd\n\x1b.conf:3"))], [], [], {})
    found = plan_file.read()
    assert (found.fault, found.controllers["tcp:192.0.2.1:nqn.x"].reason) == ("", "odd\\n\\x1b.conf:3")
