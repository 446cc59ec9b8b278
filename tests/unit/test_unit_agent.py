# SPDX-License-Identifier: Apache-2.0
"""The process that talks to systemd: what it sends, what its answers mean, and when it gives up."""

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pystemd.dbusexc import DBusBaseError, DBusUnknownPropertyError

from discoverd.systemd import failure, unit_agent
from discoverd.systemd.agent_process import AgentProcess
from discoverd.systemd.unit_agent import Agent, _native, main
from discoverd.systemd.unit_properties import unit_properties
from discoverd.tid import IO, TransportId

UNIT = "nvme-ctrl@tcp:a.service"


def refusal(number: int, message: bytes | None = b"No.", name: bytes = b"org.example.No") -> DBusBaseError:
    """Return an error as pystemd raises it: sd-bus returns negative numbers."""
    return DBusBaseError(-number, name, message)


class Connection:
    """A connection to systemd, and how often it was opened."""

    def __init__(self) -> None:
        self.is_open = False
        self.opened = 0
        # How often it refuses yet.
        self.refuses = 0

    def open(self) -> None:
        assert not self.is_open
        if self.refuses:
            self.refuses -= 1
            raise refusal(errno.ECONNREFUSED)
        self.is_open = True
        self.opened += 1

    def close(self) -> None:
        # The library does not survive a second time, nor a call after this.
        assert self.is_open
        self.is_open = False


class Manager:
    """systemd's manager. ``raises`` has, by method, what the next calls raise."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.calls: list[tuple[Any, ...]] = []
        self.raises: dict[str, list[DBusBaseError]] = {}
        self.active = b"inactive"
        self.properties: dict[str, int] = {}

    def call(self, method: str, *arguments: Any) -> Any:
        assert self._connection.is_open
        self.calls.append((method, *arguments))
        if errors := self.raises.get(method):
            raise errors.pop(0)
        if method.startswith("ListUnits"):
            return [(UNIT.encode(), b"text", b"loaded", self.active, b"dead", b"", b"/u", 7, b"start", b"/j")]
        return b"/job"

    def start_transient_unit(self, *arguments: Any) -> Any:
        return self.call("StartTransientUnit", *arguments)

    def get_property(self, name: str, signature: str) -> int:
        assert signature == "u"
        if name not in self.properties:
            raise DBusUnknownPropertyError(-errno.EBADR, b"", b"Unknown interface or property.")
        return self.properties[name]

    @property
    def called(self) -> list[str]:
        return [method for method, *_ in self.calls]


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    made = Connection()

    def connect(address: bytes, peer_to_peer: bool) -> Connection:
        assert (address, peer_to_peer) == (unit_agent.PRIVATE, True)
        return made

    monkeypatch.setattr(unit_agent, "DBusAddress", connect)
    return made


@pytest.fixture
def manager(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Manager:
    made = Manager(connection)

    def connect(bus: Connection) -> Manager:
        assert bus is connection
        return made

    monkeypatch.setattr(unit_agent, "Manager", connect)
    return made


@pytest.fixture
def agent(manager: Manager) -> Iterator[Agent]:
    with Agent() as made:
        yield made


@pytest.fixture
def serve(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[Any]]]:
    def run(*requests: tuple[str, list[object]]) -> tuple[int, list[Any]]:
        lines = [
            json.dumps({"id": number, "operation": operation, "arguments": arguments})
            for number, (operation, arguments) in enumerate(requests, 1)
        ]
        reader, writer = os.pipe()
        os.write(writer, "".join(line + "\n" for line in lines).encode())
        os.close(writer)
        with os.fdopen(reader) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            status = main()
        return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


# Types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "value", "packed"),
    [
        ("s", "é", "é".encode()),
        ("b", True, True),
        ("t", 2**64 - 1, 2**64 - 1),
        ("i", -900, -900),
        ("as", [], []),
        ("as", ["a", "b"], [b"a", b"b"]),
        ("aay", ["A=b", "C=d"], [b"A=b", b"C=d"]),
        ("a(sasb)", [["/x", ["/x", "-I"], False]], [(b"/x", [b"/x", b"-I"], False)]),
        ("a(sasb)", [["/x", [], True], ["/y", ["y"], False]], [(b"/x", [], True), (b"/y", [b"y"], False)]),
        ("(st)", ["a", 1], (b"a", 1)),
    ],
)
def test_native(signature: str, value: object, packed: object) -> None:
    given = _native(signature, value)
    assert given == packed
    assert type(given) is type(packed)


def texts(value: object) -> list[object]:
    """Return the innermost values."""
    return [one for item in value for one in texts(item)] if isinstance(value, (list, tuple)) else [value]


def test_no_text_is_left_in_what_is_packed() -> None:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn.a")
    # As it arrives: through JSON.
    for name, signature, value in json.loads(json.dumps(unit_properties(tid, IO, "/worker"))):
        assert not any(isinstance(one, str) for one in texts(_native(signature, value))), name


# Errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (refusal(errno.EPERM, b"Access denied"), "Access denied"),
        (refusal(errno.EPERM, b"\xff"), "\ufffd"),
        (refusal(errno.EPERM, None), "org.example.No"),
    ],
)
def test_sentence(error: DBusBaseError, text: str) -> None:
    assert failure.sentence(error) == text


def test_an_error_without_a_word_has_its_number() -> None:
    assert f"-{errno.EPERM}" in failure.sentence(DBusBaseError(-errno.EPERM))


# Start ----------------------------------------------------------------------------------------------------

PROPERTIES: list[tuple[str, str, Any]] = [("Description", "s", "x"), ("ExecStart", "a(sasb)", [["/x", ["/x"], False]])]


def test_start(manager: Manager, agent: Agent) -> None:
    assert agent.start(UNIT, PROPERTIES) == "started"
    values = [("Description", "s", b"x"), ("ExecStart", "a(sasb)", [(b"/x", [b"/x"], False)])]
    assert manager.calls == [("StartTransientUnit", UNIT.encode(), b"fail", values)]


@pytest.mark.parametrize(
    ("active", "result"),
    [
        (b"active", "running"),
        (b"activating", "running"),
        (b"reloading", "running"),
        (b"inactive", "started"),
        (b"failed", "started"),
        # The start waits for the stop.
        (b"deactivating", "started"),
    ],
)
def test_a_unit_that_is_loaded_is_started_unless_it_runs(
    manager: Manager, agent: Agent, active: bytes, result: str
) -> None:
    manager.raises["StartTransientUnit"] = [refusal(errno.EEXIST)]
    manager.active = active
    assert agent.start(UNIT, PROPERTIES) == result
    assert manager.calls[1:] == [
        ("ListUnitsByNames", [UNIT.encode()]),
        *([("StartUnit", UNIT.encode(), b"replace")] if result == "started" else []),
    ]


@pytest.mark.parametrize("loaded", [False, True])
def test_masked_either_way(manager: Manager, agent: Agent, loaded: bool) -> None:
    """A masked unit refuses to be made; one that was masked while it is loaded refuses to be started."""
    masked = refusal(errno.ERFKILL, b"Unit is masked.")
    if loaded:
        manager.raises = {"StartTransientUnit": [refusal(errno.EEXIST)], "StartUnit": [masked]}
    else:
        manager.raises = {"StartTransientUnit": [masked]}
    assert agent.start(UNIT, PROPERTIES) == "masked"


@pytest.mark.parametrize("loaded", [False, True])
def test_any_other_refusal_is_one(manager: Manager, agent: Agent, loaded: bool) -> None:
    other = refusal(errno.EPERM)
    if loaded:
        manager.raises = {"StartTransientUnit": [refusal(errno.EEXIST)], "StartUnit": [other]}
    else:
        manager.raises = {"StartTransientUnit": [other]}
    with pytest.raises(DBusBaseError) as raised:
        agent.start(UNIT, PROPERTIES)
    assert raised.value is other


# List -----------------------------------------------------------------------------------------------------


def test_a_list_is_of_all_controllers_or_of_those_that_are_named(manager: Manager, agent: Agent) -> None:
    expected = {UNIT: {"load": "loaded", "active": "inactive", "job": True}}
    assert agent.list() == agent.list([]) == agent.list([UNIT]) == expected
    everything: tuple[Any, ...] = ("ListUnitsByPatterns", [], [b"nvme-ctrl@*.service"])
    assert manager.calls == [everything, everything, ("ListUnitsByNames", [UNIT.encode()])]


def test_other_tools_units_are_listed_by_name_and_by_pattern(manager: Manager, agent: Agent) -> None:
    expected = {UNIT: {"load": "loaded", "active": "inactive", "job": True}}
    assert agent.others(["a.service"], []) == agent.others(["a.service"], ["b-*.service"]) == expected
    by_name: tuple[Any, ...] = ("ListUnitsByNames", [b"a.service"])
    # No pattern at all would stand for all units.
    assert manager.calls == [by_name, by_name, ("ListUnitsByPatterns", [], [b"b-*.service"])]


# The connection -------------------------------------------------------------------------------------------


class Pipe:
    """Standard input to which a test writes while the agent runs in a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, self._writer = os.pipe()
        self._stdin = os.fdopen(reader)
        monkeypatch.setattr(sys, "stdin", self._stdin)
        self._agent = threading.Thread(target=main)
        self._agent.start()

    def write(self, data: str) -> None:
        os.write(self._writer, data.encode())

    def close(self) -> None:
        os.close(self._writer)
        self._agent.join()
        self._stdin.close()


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def request(number: int) -> str:
    return json.dumps({"id": number, "operation": "list", "arguments": []}) + "\n"


def test_connection_lasts_no_longer_than_requests(
    manager: Manager, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one that is kept, the signals about all units of the host would gather."""
    pipe = Pipe(monkeypatch)
    try:
        time.sleep(0.05)
        assert not connection.is_open
        for number in (1, 2):
            pipe.write(request(number))
            eventually(lambda number=number: len(manager.calls) == number)  # type: ignore[misc]
            eventually(lambda: not connection.is_open)
        assert connection.opened == 2
    finally:
        pipe.close()


def test_requests_that_are_there_together_share_a_connection(
    connection: Connection, serve: Callable[..., tuple[int, list[Any]]]
) -> None:
    assert len(serve(*([("list", [])] * 30))[1]) == 30
    assert connection.opened == 1


def test_connection_is_made_anew_in_requests_without_end(
    manager: Manager, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_agent, "KEPT_SECONDS", 0)
    pipe = Pipe(monkeypatch)
    try:
        for number in range(1, 5):
            pipe.write(request(number))
            eventually(lambda number=number: len(manager.calls) == number)  # type: ignore[misc]
        eventually(lambda: connection.opened == 4)
    finally:
        pipe.close()


def test_request_that_comes_in_pieces_is_one(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = Pipe(monkeypatch)
    try:
        for piece in (request(1)[:5], request(1)[5:]):
            pipe.write(piece)
            time.sleep(0.05)
        eventually(lambda: len(manager.calls) == 1)
    finally:
        pipe.close()
    assert json.loads(capsys.readouterr().out)["id"] == 1


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE])
@pytest.mark.parametrize("refuses", [0, 3])
def test_systemd_that_is_executed_anew_is_asked_again(
    manager: Manager,
    connection: Connection,
    serve: Callable[..., tuple[int, list[Any]]],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    refuses: int,
) -> None:
    monkeypatch.setattr(unit_agent, "REOPEN_PAUSE_SECONDS", 0)

    call = manager.call

    def lose(*arguments: Any) -> Any:
        monkeypatch.setattr(manager, "call", call)
        connection.refuses = refuses
        raise refusal(number)

    monkeypatch.setattr(manager, "call", lose)
    status, answers = serve(("stop", [UNIT]), ("list", []))
    assert status == 0
    assert answers[0] == {"id": 1, "result": None}
    assert manager.called == ["StopUnit", "ListUnitsByPatterns"]
    assert connection.opened == 2


def test_systemd_that_takes_no_connection_ends_it(
    connection: Connection, serve: Callable[..., tuple[int, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_agent, "REOPEN_SECONDS", 0.05)
    monkeypatch.setattr(unit_agent, "REOPEN_PAUSE_SECONDS", 0.01)
    connection.refuses = 10**9
    assert serve(("list", [])) == (1, [])


# Requests -------------------------------------------------------------------------------------------------


def test_requests_and_answers(manager: Manager, serve: Callable[..., tuple[int, list[Any]]]) -> None:
    status, answers = serve(("start", [UNIT, PROPERTIES]), ("list", []), ("signal", [UNIT, 1]), ("stop", [UNIT]))
    assert status == 0
    assert answers == [
        {"id": 1, "result": "started"},
        {"id": 2, "result": {UNIT: {"load": "loaded", "active": "inactive", "job": True}}},
        {"id": 3, "result": None},
        {"id": 4, "result": None},
    ]
    assert manager.calls[2:] == [("KillUnit", UNIT.encode(), b"main", 1), ("StopUnit", UNIT.encode(), b"replace")]


@pytest.mark.parametrize(("property_", "count"), [({"SoftRebootsCount": 2}, 2), ({}, 0)])
def test_soft_reboots(manager: Manager, agent: Agent, property_: dict[str, int], count: int) -> None:
    """A systemd that cannot (before 254) has no such property."""
    manager.properties = property_
    assert agent.soft_reboots() == count


def test_a_property_that_is_given_twice_goes_out_twice(manager: Manager, agent: Agent) -> None:
    twice: list[tuple[str, str, Any]] = [("F", "(bas)", [True, ["a"]]), ("F", "(bas)", [False, ["b"]])]
    assert agent.start(UNIT, twice) == "started"
    values = [("F", "(bas)", (True, [b"a"])), ("F", "(bas)", (False, [b"b"]))]
    assert manager.calls == [("StartTransientUnit", UNIT.encode(), b"fail", values)]


def test_stop(manager: Manager, serve: Callable[..., tuple[int, list[Any]]]) -> None:
    assert serve(("stop", [UNIT]))[0] == 0
    assert manager.calls == [("StopUnit", UNIT.encode(), b"replace")]


def test_a_refusal_is_an_answer_and_the_next_request_is_served(
    manager: Manager, serve: Callable[..., tuple[int, list[Any]]]
) -> None:
    manager.raises["StopUnit"] = [refusal(errno.EPERM, b"Access denied")]
    status, answers = serve(("stop", [UNIT]), ("stop", [UNIT]))
    assert (status, answers) == (0, [{"id": 1, "error": "Access denied"}, {"id": 2, "result": None}])


def test_connection_that_is_lost_each_time_ends_it(
    manager: Manager, serve: Callable[..., tuple[int, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have more luck."""
    monkeypatch.setattr(unit_agent, "REOPEN_SECONDS", 0.05)
    monkeypatch.setattr(unit_agent, "REOPEN_PAUSE_SECONDS", 0.01)
    manager.raises["StopUnit"] = [refusal(errno.ECONNRESET) for _ in range(1000)]
    assert serve(("stop", [UNIT]), ("list", [])) == (1, [])
    assert set(manager.called) == {"StopUnit"}


# Its process ----------------------------------------------------------------------------------------------


def test_process_is_there_before_anybody_speaks_with_it(tmp_path: Path) -> None:
    """It hears of the end of its requests, so it has no other end of its own standard input."""
    launcher = tmp_path / "unit-agent"
    launcher.write_text("import sys\nprint(input(), flush=True)\nprint(sys.stdin.read() + 'the end', flush=True)\n")
    process = AgentProcess(str(launcher))
    try:
        process.requests.write(b"a request\n")
        assert process.answers.readline() == b"a request\n"
        process.requests.close()
        assert process.answers.readline() == b"the end\n"
    finally:
        process.end()
        process.requests.close()
        process.answers.close()


def test_process_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(sys, "executable", "/no/such/python3")
    with pytest.raises(FileNotFoundError):
        AgentProcess("/unit-agent")
    assert os.listdir("/proc/self/fd") == before
