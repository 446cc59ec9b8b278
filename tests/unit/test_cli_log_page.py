# SPDX-License-Identifier: Apache-2.0
"""discoverctl log-page: each entry of a discovery log page, and what became of it."""

import json
import time
from pathlib import Path

import pytest

from discoverd import state
from discoverd.cli.exits import Exit
from discoverd.tid import DISCOVERY_NQN, unit_name

from .fake_ctl import NQN, Desk, Unit, install, instance
from .log_pages import RDMA, entry, page

DC = f"tcp:192.0.2.9:8009:{DISCOVERY_NQN}"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    made.bus.units[unit_name(DC)] = Unit(status="live nvme9")
    made.plan["controllers"].append(
        {
            "instance": DC,
            "action": "keep",
            "reason": "configured",
            "sources": "configured",
            "role": "discovery",
            "transport": "tcp",
            "traddr": "192.0.2.9",
            "trsvcid": "8009",
            "subsysnqn": DISCOVERY_NQN,
        }
    )
    Path(state.directory(DC)).mkdir()
    return made


def leave(*entries: bytes, generation: int = 7) -> None:
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)
    head = state.encode(state.LOG, [("milliseconds", str(now - 5000)), ("connection", "1"), ("asked", "all-ports")])
    (Path(state.directory(DC)) / "log").write_bytes(head + page(*entries, generation=generation))


def locate(desk: Desk, name: str, volume: int, **fields: str) -> None:
    """Say in the plan where a controller is, as discoverd does."""
    for row in desk.plan["controllers"]:
        if row["instance"] == name:
            row |= {"transport": "tcp", "traddr": "192.0.2.1", "trsvcid": "4420", "role": "io", **fields}


def test_each_entry_tells_what_became_of_it(desk: Desk) -> None:
    for volume, device in ((1, "nvme0"), (2, ""), (3, "nvme3")):
        report = "live" if device else "waiting"
        status = f"live {device}" if device else "waiting 8 s, attempt 4: connection refused"
        name = desk.controller(volume, device, report=report, status=status)
        locate(desk, name, volume, **({"excluded_by": "/etc/nvme/exclusions.conf:3"} if volume == 3 else {}))
    reason = "its address is one of this host's"
    refusal = {"what": f"entry 3, {NQN.format(4)!r}", "source": f"in the log page of {DC}", "reason": reason}
    desk.plan["refusals"] = [refusal]
    leave(
        *(entry(NQN.format(volume)) for volume in (1, 2, 3, 4)),
        entry(NQN.format(5), trtype=RDMA),
        entry("nqn with blanks"),
        entry(DISCOVERY_NQN, "192.0.2.9", "8009", subtype=3),
    )
    ended, output, errors = desk.run("log-page", DC)
    assert (ended, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"{DC}: generation 7, 7 entries, read 5 s ago"
    found = {line.split()[4]: line.split(None, 5)[5] for line in lines[2:] if line.startswith("subsystem  ")}
    assert found[NQN.format(1)].split() == ["connected", "nvme0"]
    assert found[NQN.format(2)].split(None, 1) == ["waiting", "waiting 8 s, attempt 4: connection refused"]
    stays = "nvme3 stays connected, excluded by /etc/nvme/exclusions.conf:3"
    assert found[NQN.format(3)].split(None, 1) == ["excluded", stays]
    assert found[NQN.format(4)].split(None, 1) == ["refused", reason]
    assert found[NQN.format(5)].startswith("left out")
    assert any("refused" in line and "nqn with blanks" in line for line in lines)
    assert "the discovery controller that was asked" in lines[-1]


def test_log_page_for_programs(desk: Desk) -> None:
    locate(desk, desk.controller(1, "nvme0"), 1)
    leave(entry(NQN.format(1)))
    _, output, _ = desk.run("log-page", "--json", DC)
    (found,) = json.loads(output)["log_pages"]
    assert (found["controller"], found["generation"], found["records"]) == (DC, 7, 1)
    assert 4 < found["age_seconds"] < 60
    (one,) = found["entries"]
    assert (one["result"], one["detail"], one["controller"]) == ("connected", "nvme0", instance(1))


@pytest.mark.parametrize("live", [1, 2])
def test_of_several_paths_to_one_target_the_live_one_tells_the_result(desk: Desk, live: int) -> None:
    """Through two interfaces, whichever comes last."""
    names = []
    for number in (1, 2):
        device = f"nvme{number}" if number == live else ""
        name = desk.controller(1, device, address=f"198.51.100.{number}", report="live" if device else "waiting")
        locate(desk, name, 1, subsysnqn=NQN.format(1))
        names.append(name)
        if device:
            desk.set(device, "address", f"traddr=198.51.100.{number},trsvcid=4420")
    leave(entry(NQN.format(1)))
    (one,) = json.loads(desk.run("log-page", "--json", DC)[1])["log_pages"][0]["entries"]
    other = names[2 - live]
    assert (one["result"], one["controller"]) == ("connected", names[live - 1])
    assert one["detail"] == f"nvme{live}; {other}: waiting"
    assert sorted(one["controllers"]) == names


def test_control_characters_of_a_peer_move_no_cursor(desk: Desk) -> None:
    leave(entry("nqn.2024-08.com.example:\x1b[2J"))
    output = desk.run("log-page", DC)[1]
    assert "\x1b" not in output
    assert "refused" in output


def test_log_page_that_is_not_there(desk: Desk) -> None:
    status, _, errors = desk.run("log-page", DC)
    assert status == Exit.FAILED
    assert "no log page" in errors
    desk.controller(1, "nvme0")
    status, _, errors = desk.run("log-page", "nvme0")
    assert status == Exit.USAGE
    assert "is no discovery controller" in errors


def test_log_page_that_makes_no_sense(desk: Desk) -> None:
    (Path(state.directory(DC)) / "log").write_bytes(b"garbage")
    status, _, errors = desk.run("log-page", DC)
    assert status == Exit.FAILED
    assert "makes no sense" in errors
