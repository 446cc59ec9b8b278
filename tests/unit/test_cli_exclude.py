# SPDX-License-Identifier: Apache-2.0
"""discoverctl's verbs for exclusions, how an excluded controller shows, and the editing of the lists."""

import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest

from discoverd import exclusions
from discoverd.cli import exclude, exclusion_lists
from discoverd.cli.exits import CliError, Exit
from discoverd.kernel import locks
from discoverd.tid import unit_name

from .fake_ctl import NQN, Desk, Unit, install, instance

ENTRY = "transport=tcp;traddr=192.0.2.1"
FULL = f"transport=tcp;traddr=192.0.2.1;trsvcid=4420;nqn={NQN.format(1)}"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    return made


@pytest.fixture
def main_list(desk: Desk) -> Path:
    return desk.root / "etc/nvme/exclusions.conf"


def put(path: Path, *entries: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[exclusions]\n" + "".join(f"exclusion = {entry}\n" for entry in entries))


def entries(path: Path) -> list[str]:
    return [text for _, kind, text in exclusions.scan(path.read_bytes()) if kind == exclusions.ENTRY]


def test_an_entry_is_written_and_what_it_hits_is_shown(desk: Desk, main_list: Path) -> None:
    one = desk.controller(1, "nvme0")
    two = desk.controller(2, "", report="waiting", status="waiting 8 s, attempt 4: connection refused")
    desk.controller(3, "nvme3", address="192.0.2.3")
    desk.kernel(4, "nvme4", owner="stas")
    status, output, errors = desk.run("exclude", ENTRY)
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        f"{main_list}:9: exclusion = {ENTRY}",
        "STATE    DEVICE  CONTROLLER" + " " * (len(one) - 8) + "EFFECT",
        f"live     nvme0   {one}  stays connected, and is not connected again once it is lost",
        f"waiting  -       {two}  is not tried any more",
        f"live     nvme4   {instance(4)}  stays connected; it is for stas to honour this",
        "3 controllers, 2 live",
        "To disconnect what is connected: discoverctl disconnect nvme0",
    ]
    assert main_list.read_text().startswith("# NVMe exclusion list: default\n#\n")
    assert main_list.stat().st_mode & 0o777 == 0o644
    assert entries(main_list) == [ENTRY]
    assert exclusions.load(exclusions.ROOT).problems == []
    assert os.listdir(main_list.parent) == ["exclusions.conf"]


def test_a_dry_run_writes_nothing(desk: Desk, main_list: Path) -> None:
    desk.controller(1, "nvme0")
    status, output, _ = desk.run("exclude", "--dry-run", ENTRY)
    assert status == 0
    assert output.splitlines()[0] == f"{main_list}: would be added: exclusion = {ENTRY}"
    assert output.splitlines()[-1] == "1 controller, 1 live"
    assert not main_list.parent.exists()


def test_a_dry_run_for_programs(desk: Desk, main_list: Path) -> None:
    name = desk.controller(1, "nvme0")
    status, output, _ = desk.run("exclude", "--dry-run", "--json", "nvme0", ENTRY)
    assert status == 0
    found = json.loads(output)
    assert found["version"] == 2
    assert found["written"] is False
    assert found["exclusions"] == [{"exclusion": one, "place": str(main_list), "new": True} for one in (FULL, ENTRY)]
    (controller,) = found["controllers"]
    assert (controller["controller"], controller["device"], controller["kernel_state"]) == (name, "nvme0", "live")
    assert controller["effect"] == "stays connected, and is not connected again once it is lost"


@pytest.mark.parametrize("word", ["nvme0", "/dev/nvme0", instance(1), unit_name(instance(1))])
def test_a_controller_becomes_an_entry(desk: Desk, main_list: Path, word: str) -> None:
    desk.controller(1, "nvme0")
    desk.controller(2, "nvme1")
    assert desk.run("exclude", word)[0] == 0
    assert entries(main_list) == [FULL]


def test_part_of_an_nqn_is_as_good_as_the_whole(desk: Desk, main_list: Path) -> None:
    desk.controller(1, "nvme0")
    desk.controller(10, "nvme1")
    assert desk.run("exclude", "vol1")[0] == 0
    assert entries(main_list) == [f"nqn={NQN.format(1)}"]
    assert desk.run("unexclude", "vol1")[0] == 0
    assert entries(main_list) == []
    # An address means what is there now; to exclude it by itself is an entry.
    assert desk.run("exclude", "192.0.2.1")[0] == 0
    assert len(entries(main_list)) == 2


def test_the_interface_is_part_of_it_and_this_hosts_identity_is_not(desk: Desk, main_list: Path) -> None:
    desk.kernel(1, "nvme0")
    desk.set(
        "nvme0", "address", "traddr=fe80::1%eth0,trsvcid=4420,host_traddr=fe80::2,host_iface=eth0,src_addr=fe80::2"
    )
    desk.set("nvme0", "hostnqn", NQN.format("host"))
    assert desk.run("exclude", "nvme0")[0] == 0
    assert entries(main_list) == [f"{FULL.replace('192.0.2.1', 'fe80::1%eth0')};host-iface=eth0"]


def test_an_nqn_excludes_all_its_paths_also_those_to_come(desk: Desk, main_list: Path) -> None:
    desk.controller(1, "nvme0")
    desk.controller(1, "nvme1", address="192.0.2.2")
    status, output, _ = desk.run("exclude", NQN.format(1), NQN.format(9))
    assert status == 0
    assert "2 controllers, 2 live" in output
    assert entries(main_list) == [f"nqn={NQN.format(1)}", f"nqn={NQN.format(9)}"]


def test_a_controller_that_was_never_started_is_hit_also_by_this_hosts_name(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from discoverd.cli import exclude
    from discoverd.config.identity import HostIdentity

    monkeypatch.setattr(exclude, "load_host_identity", lambda: HostIdentity("nqn.host", "id"))
    desk.planned(instance(1), "leave", "configured at a:1, but its unit is masked")
    desk.planned(instance(1) + ":::host-01234567", "start", "configured at a:1")
    status, output, _ = desk.run("exclude", "--dry-run", "hostnqn=nqn.host;hostid=id")
    assert status == 0
    assert "1 controller, 0 live" in output
    assert "is not connected" in output


def test_entry_that_exists_is_said_to_exist(desk: Desk, main_list: Path) -> None:
    put(main_list, "nqn=nqn.other", ENTRY)
    before = main_list.read_text()
    desk.controller(1, "nvme0")
    status, output, _ = desk.run("exclude", ENTRY)
    assert status == 0
    assert output.splitlines()[0] == f"{main_list}:3: is there already: exclusion = {ENTRY}"
    assert f"is excluded by {main_list}:3 already; stays connected" in output
    assert main_list.read_text() == before


def test_a_list_with_a_name(desk: Desk, main_list: Path) -> None:
    assert desk.run("exclude", "--list", "my-list_1", ENTRY)[0] == 0
    path = main_list.parent / "exclusions.conf.d" / "my-list_1.conf"
    assert entries(path) == [ENTRY]
    assert path.read_text().startswith("# NVMe exclusion list: my-list_1\n")
    assert not main_list.exists()


@pytest.mark.parametrize("name", ["../a", "a b", "a.conf", ".", "ä"])
def test_a_name_that_no_list_can_have(desk: Desk, name: str) -> None:
    for more in ([], ["--dry-run"]):
        status, _, errors = desk.run("exclude", "--list", name, *more, ENTRY)
        assert status == 2
        assert "is no name of a list; use letters" in errors


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("subsysnqn=nqn.a", "'subsysnqn' is no key of an exclusion; did you mean nqn?"),
        ("transport=tcp;traddr=array1", "names are not looked up, so give the address"),
        ("nqn=nqn.a # for now", "put the comment on a line of its own"),
        ("transport=", "transport has no value"),
        ("nqn=nqn.a\nexclusion=transport=tcp", "has a character that cannot be printed"),
        ("transport=tcp;=", "use transport, traddr"),
        ("nqn.2024-08.com.example:a;b", "cannot be an exclusion; exclude its address instead"),
        ("nqn.2024-08.com.example:a b", "the character ' ' is not allowed"),
    ],
)
def test_an_entry_that_excludes_nothing_is_refused(desk: Desk, main_list: Path, entry: str, sentence: str) -> None:
    status, output, errors = desk.run("exclude", ENTRY, entry)
    assert (status, output) == (2, "")
    assert sentence in errors
    assert not main_list.exists()


def test_a_word_that_means_nothing(desk: Desk) -> None:
    for verb in ("exclude", "unexclude"):
        status, _, errors = desk.run(verb, "nvme7")
        assert status == 4
        assert "there is no controller nvme7" in errors


def test_unexclude_takes_a_controllers_entry_out_of_all_lists(desk: Desk, main_list: Path) -> None:
    name = desk.controller(1, "nvme0")
    drop_in, draft = main_list.parent / "exclusions.conf.d/a.conf", main_list.parent / "exclusions/a"
    spelled = f" nqn={NQN.format(1)} ; transport=tcp;traddr=192.0.2.1;trsvcid=4420"
    for path in (main_list, drop_in, draft):
        put(path, FULL, "nqn=nqn.other", spelled)
    (main_list.parent / "exclusions" / ".hidden").write_text("not a list")
    status, output, errors = desk.run("unexclude", "nvme0")
    assert (status, errors) == (0, "")
    for path in (main_list, drop_in, draft):
        assert entries(path) == ["nqn=nqn.other"]
        assert f"{path}:2: removed: exclusion = {FULL}\n{path}:4: removed" in output
    assert output.splitlines()[-1] == f"{name} is not excluded"


def test_unexclude_says_what_still_excludes(desk: Desk, main_list: Path) -> None:
    name = desk.controller(1, "nvme0")
    put(main_list, ENTRY, FULL, f"nqn={NQN.format(1)}")
    status, output, _ = desk.run("unexclude", "nvme0")
    assert status == 1
    assert output.splitlines() == [
        f"{main_list}:3: removed: exclusion = {FULL}",
        f"{name} is still excluded by {main_list}:2; to remove that: discoverctl unexclude '{ENTRY}'",
        f"{name} is still excluded by {main_list}:3; to remove that: discoverctl unexclude nqn={NQN.format(1)}",
    ]
    assert desk.run("unexclude", ENTRY, NQN.format(1))[0] == 0
    assert entries(main_list) == []


def test_unexclude_of_an_nqn_that_no_controller_has_now(desk: Desk, main_list: Path) -> None:
    put(main_list, "nqn=nqn.a", "nqn=nqn.a;transport=fc")
    status, output, _ = desk.run("unexclude", "nqn.a")
    assert status == 1
    assert output.splitlines() == [
        f"{main_list}:2: removed: exclusion = nqn=nqn.a",
        f"nqn.a is still excluded by {main_list}:2; to remove that: discoverctl unexclude 'nqn=nqn.a;transport=fc'",
    ]
    assert desk.run("unexclude", "nqn=nqn.a;transport=fc", "nqn.a")[1].endswith("nqn.a is not excluded\n")


def test_unexclude_removes_a_malformed_entry_by_its_text(desk: Desk, main_list: Path) -> None:
    put(main_list, "subsysnqn=x", ENTRY, "subsysnqn=x")
    assert desk.run("unexclude", "subsysnqn=x")[0] == 0
    assert entries(main_list) == [ENTRY]


def test_unexclude_of_an_entry_that_is_nowhere(desk: Desk, main_list: Path) -> None:
    put(main_list, ENTRY)
    status, _, errors = desk.run("unexclude", "transport=fc")
    assert status == 4
    assert "no list has the exclusion transport=fc" in errors
    assert entries(main_list) == [ENTRY]


def test_unexclude_passes_by_what_cannot_be_read(desk: Desk, main_list: Path) -> None:
    put(main_list, ENTRY)
    os.mkdir(main_list.parent / "exclusions.conf.d")
    os.mkfifo(main_list.parent / "exclusions.conf.d/a.conf")
    assert desk.run("unexclude", ENTRY)[0] == 0


def test_the_rest_of_a_list_stays_as_it_is(desk: Desk, main_list: Path) -> None:
    content = b"\xef\xbb\xbf# \xff a comment\r\n[exclusions]\r\n\r\nexclusion = nqn=nqn.a\r\nexclusion=nqn=nqn.b\n"
    content += b"[other]\nx=y"
    main_list.parent.mkdir(parents=True)
    main_list.write_bytes(content)
    assert desk.run("exclude", ENTRY)[0] == 0
    assert main_list.read_bytes() == content + b"\n\n[exclusions]\nexclusion = " + ENTRY.encode() + b"\n"
    assert desk.run("unexclude", ENTRY, "nqn=nqn.a")[0] == 0
    assert main_list.read_bytes() == content.replace(b"exclusion = nqn=nqn.a\r\n", b"") + b"\n\n[exclusions]\n"


def test_a_list_that_is_a_link_stays_one(desk: Desk, main_list: Path) -> None:
    put(desk.root / "managed", "nqn=nqn.a")
    main_list.parent.mkdir(parents=True)
    main_list.symlink_to(desk.root / "managed")
    assert desk.run("exclude", ENTRY)[0] == 0
    assert main_list.is_symlink()
    assert entries(desk.root / "managed") == ["nqn=nqn.a", ENTRY]


def test_an_empty_list_gets_its_section(desk: Desk, main_list: Path) -> None:
    main_list.parent.mkdir(parents=True)
    main_list.write_bytes(b"")
    assert desk.run("exclude", ENTRY)[0] == 0
    assert entries(main_list) == [ENTRY]


def test_no_edit_is_lost_among_many_writers(desk: Desk, main_list: Path) -> None:
    writers = [
        threading.Thread(target=exclusion_lists.add, args=(exclusions.ROOT, "", [f"nqn=nqn.{number}"]))
        for number in range(20)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(entries(main_list)) == sorted(f"nqn=nqn.{number}" for number in range(20))


def test_a_lock_that_is_held_for_ever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusion_lists, "_LOCK_TIMEOUT_SECONDS", 0.1)
    fd = locks.take("exclusions", 0, "")
    try:
        began = time.monotonic()
        status, _, errors = desk.run("exclude", ENTRY)
        assert status == 1
        assert f"see who: fuser {locks.DIRECTORY}/exclusions" in errors
        assert time.monotonic() - began < 5
    finally:
        os.close(fd)


def test_a_lock_on_what_everybody_can_read_keeps_nobody(desk: Desk, main_list: Path) -> None:
    main_list.parent.mkdir(parents=True)
    fd = os.open(main_list.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert desk.run("exclude", ENTRY)[0] == 0
    assert entries(main_list) == [ENTRY]
    os.close(fd)


def test_a_list_that_would_be_too_large(desk: Desk, main_list: Path) -> None:
    main_list.parent.mkdir(parents=True)
    main_list.write_bytes(b"[exclusions]\n" + b"#" * (exclusions.MAX_SIZE - 20))
    with pytest.raises(CliError, match="would be larger than 1 MiB"):
        exclusion_lists.add(exclusions.ROOT, "", [ENTRY])
    assert len(main_list.read_bytes()) == exclusions.MAX_SIZE - 7


def test_a_failed_write_leaves_the_list_as_it_was(desk: Desk, main_list: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(main_list, "nqn=nqn.a")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, _, errors = desk.run("exclude", ENTRY)
    assert status == 1
    assert "No space left on device" in errors
    assert entries(main_list) == ["nqn=nqn.a"]
    assert os.listdir(main_list.parent) == ["exclusions.conf"]


# How an excluded controller shows --------------------------------------------------------------------------


WHERE = "/etc/nvme/exclusions.conf:3"


def excluded(desk: Desk) -> tuple[str, str]:
    """One that is live, and one that is not."""
    reason = f"configured at /etc/nvme/nvme-fabrics.conf:3, but excluded by {WHERE}"
    live = desk.controller(1, "nvme0", reason=reason)
    ended = desk.controller(2, "", action="leave", reason=reason, report="excluded", unit=Unit("inactive", sub="dead"))
    for entry in desk.plan["controllers"]:
        entry["excluded_by"] = WHERE
    return live, ended


def test_the_list_and_the_status(desk: Desk) -> None:
    live, ended = excluded(desk)
    _, output, _ = desk.run("list")
    rows = [line.split(maxsplit=4) for line in output.splitlines()[1:3]]
    assert rows[0][0] == "live"
    assert (rows[1][0], rows[1][4]) == ("excluded", f"by {WHERE}")
    _, output, _ = desk.run("status", "--json", ended)
    (found,) = json.loads(output)["controllers"]
    assert (found["state"], found["excluded_by"]) == ("excluded", WHERE)
    _, output, _ = desk.run("status", live)
    assert f"keep: it is configured at /etc/nvme/nvme-fabrics.conf:3, but excluded by {WHERE}" in output


def test_why(desk: Desk) -> None:
    live, ended = excluded(desk)
    reason = f"configured at /etc/nvme/nvme-fabrics.conf:3, but excluded by {WHERE}"
    _, output, _ = desk.run("why", live)
    lines = [line.strip() for line in output.splitlines()]
    assert lines[1] == f"It is {reason}. It stays connected, and is not connected again once it is lost."
    assert lines[-2:] == [
        f"To have it connected again: discoverctl unexclude {live}",
        f"To disconnect it: discoverctl disconnect {live}",
    ]
    _, output, _ = desk.run("why", ended)
    lines = [line.strip() for line in output.splitlines()]
    assert lines[1] == f"discoverd leaves it as it is: it is {reason}."
    assert lines[-1] == f"To have it connected again: discoverctl unexclude {ended}"


def test_the_doctor_names_lines_that_exclude_nothing_and_lists_that_others_do_not_read(
    desk: Desk, main_list: Path
) -> None:
    put(main_list, "subsysnqn=x", ENTRY)
    drop_ins = main_list.parent / "exclusions.conf.d"
    drop_ins.mkdir()
    os.mkfifo(drop_ins / "a.conf")
    draft = main_list.parent / "exclusions/old"
    put(draft, ENTRY, ENTRY)
    status, output, _ = desk.run("doctor", "--json")
    assert status == 1
    (check,) = [one for one in json.loads(output)["checks"] if one["check"] == "the exclusion lists are sound"]
    assert [(one["severity"], one["text"]) for one in check["findings"]] == [
        (
            "problem",
            f"{drop_ins}/a.conf: it is not a regular file, so nothing in it counts; mend that",
        ),
        ("problem", f"{main_list}:2: 'subsysnqn' is no key of an exclusion; did you mean nqn?"),
        ("hint", f"{draft} is of an earlier form of the lists, which nvme-cli and nvme-stas do not read"),
    ]


@pytest.mark.parametrize("word", ["nvme0", NQN.format(1), NQN.format(7), ENTRY])
def test_nothing_was_there_to_take_out(desk: Desk, word: str) -> None:
    desk.controller(1, "nvme0")
    status, _, errors = desk.run("unexclude", word)
    assert status == Exit.UNKNOWN
    assert f"no list has {'an exclusion of' if word != ENTRY else 'the exclusion'} {word}" in errors


def test_what_is_excluded_by_something_else_stays_so(desk: Desk, main_list: Path) -> None:
    put(main_list, "traddr=192.0.2.1")
    desk.controller(1, "nvme0")
    status, output, _ = desk.run("unexclude", "nvme0")
    assert (status, "is still excluded by" in output) == (Exit.FAILED, True)


def test_it_returns_when_the_daemon_goes_by_it(desk: Desk, main_list: Path) -> None:
    put(main_list, ENTRY)
    desk.controller(1, "", action="leave", unit=Unit("inactive"))
    (row,) = desk.plan["controllers"]
    row |= {"excluded_by": f"{main_list}:2", "traddr": "192.0.2.1", "trsvcid": "4420"}
    ended: list[float] = []

    def daemon() -> None:
        time.sleep(0.3)
        row["excluded_by"] = ""
        ended.append(time.monotonic())
        desk.write_plan()

    thread = threading.Thread(target=daemon)
    desk.write_plan()
    thread.start()
    status, _, errors = desk.run_as_it_is("unexclude", ENTRY)
    assert (status, errors) == (0, "")
    assert ended
    thread.join()


def test_daemon_that_does_not_take_it_up(desk: Desk, main_list: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclude, "_TAKE_UP_SECONDS", 0.1)
    put(main_list, ENTRY)
    name = desk.controller(1, "", action="leave", unit=Unit("inactive"))
    desk.plan["controllers"][0] |= {"excluded_by": f"{main_list}:2", "traddr": "192.0.2.1", "trsvcid": "4420"}
    status, _, errors = desk.run("unexclude", ENTRY)
    assert status == Exit.TIMED_OUT
    assert f"discoverd does not take that up, {name} among others" in errors
