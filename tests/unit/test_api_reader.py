# SPDX-License-Identifier: Apache-2.0
"""The reader: what it tells of /run/discoverd, what it keeps to itself, and to whom it does not listen."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd import state, store
from discoverd.api import reader
from discoverd.api.reader import OPTIONS, Reader, public
from discoverd.kernel.admin import HEADER_SIZE

from .private_bus import DC, SECRET, instance, make, page, patch, plan, report, spec

ONE = instance(1)
GENEROUS = 30


class Client:
    """The other end of a reader's connection."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.settimeout(GENEROUS)
        self._file = end.makefile("rb")

    def fact(self) -> tuple[str, str, bytes]:
        """Return kind, instance and content of the next fact; ('', '', b'') at the end."""
        line = self._file.readline().decode()
        if not line:
            return "", "", b""
        kind, size, name = line.rstrip("\n").split(" ", 2)
        return kind, name, self._file.read(int(size))

    def until(self, kind: str, name: str = "") -> list[tuple[str, str, bytes]]:
        """Return the facts up to one of a kind about a controller."""
        found = [self.fact()]
        while found[-1][:2] != (kind, name):
            assert found[-1][0], f"it has ended before {kind} {name}"
            found.append(self.fact())
        return found

    def ask(self, request: bytes) -> None:
        self.end.sendall(request)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    make(tmp_path)
    patch(tmp_path, monkeypatch)
    ours, theirs = socket.socketpair()
    one = Reader(theirs.fileno())

    def run() -> None:
        one.run()
        one.close()
        theirs.close()

    thread = threading.Thread(target=run)
    client = Client(ours)
    client.start = thread.start  # type: ignore[attr-defined]
    yield client
    ours.shutdown(socket.SHUT_RDWR)
    client._file.close()
    ours.close()
    if thread.ident:
        thread.join()
    else:
        one.close()
        theirs.close()


def start(client: Client) -> list[tuple[str, str, bytes]]:
    client.start()  # type: ignore[attr-defined]
    return client.until("whole")


def test_all_that_there_is_and_what_comes_of_it(client: Client) -> None:
    plan({ONE: "keep"})
    spec(ONE)
    report(ONE)
    told = start(client)
    assert {(kind, name) for kind, name, _ in told} == {
        *(("plan", ""), ("whole", "")),
        *((kind, ONE) for kind in ("report", "spec", "log")),
    }
    report(ONE, "live")
    (*_, (_, _, content)) = client.until("report", ONE)
    assert b"state=live" in content
    plan({ONE: "leave"})
    (*_, (_, _, content)) = client.until("plan")
    assert b'"leave"' in content
    spec(DC)
    client.until("spec", DC)
    store.forget(ONE)
    client.until("gone", ONE)


def test_directory_that_comes_later_or_again(client: Client) -> None:
    root = Path(state.ROOT)
    (root / "controllers").rmdir()
    root.rmdir()
    assert start(client) == [("plan", "", b""), ("whole", "", b"")]
    (root / "controllers").mkdir(parents=True)
    spec(ONE)
    client.until("spec", ONE)
    store.forget(ONE)
    (root / "controllers").rmdir()
    client.until("gone", ONE)
    (root / "controllers").mkdir()
    spec(ONE)
    client.until("spec", ONE)


def test_whole_page_is_told_only_when_asked_for(client: Client) -> None:
    spec(DC)
    page(b"g" * 100_000)
    told = {kind: content for kind, _, content in start(client)}
    assert len(told["log"]) == reader.HEAD_BYTES_MAX + HEADER_SIZE
    client.ask(f"page {DC}\n".encode())
    (*_, (_, _, content)) = client.until("page", DC)
    assert content.endswith(b"g" * 100_000)
    client.ask(f"page {ONE}\n".encode())
    assert client.until("page", ONE)[-1][2] == b""


@pytest.mark.parametrize(
    "request_",
    [b"page ../../etc\n", b"page /etc/shadow\n", b"page .\n", b"spec x\n", b"\n", b"page " + b"x" * 10_000],
    ids=lambda request: request[:20].decode().strip() or "nothing",
)
def test_any_other_request_ends_it(client: Client, request_: bytes) -> None:
    spec(ONE)
    start(client)
    client.ask(request_)
    # What it did not read is a reset.
    with contextlib.suppress(ConnectionResetError):
        while client.fact()[0]:
            pass


def test_client_that_does_not_read_costs_one_file(client: Client) -> None:
    """It hears what there is when it reads again, and not of all that there was meanwhile."""
    for number in range(100):
        spec(instance(number))
    client.start()  # type: ignore[attr-defined]
    for _ in range(10):
        for number in range(100):
            report(instance(number), note="x" * 2000)
    told = client.until("whole")
    report(ONE, "live")
    while b"state=live" not in client.until("report", ONE)[-1][2]:
        pass
    assert sum(kind == "report" for kind, _, _ in told) < 100 * 3


def test_no_secret_of_a_specification(client: Client) -> None:
    spec(ONE)
    assert SECRET in Path(state.directory(ONE), "spec").read_text()
    told = start(client)
    assert any(kind == "spec" and content for kind, _, content in told)
    assert all(SECRET.encode() not in content and b"dhchap" not in content for _, _, content in told)


TEXTS = st.text("abcdefghijklmnop:._-0123456789", max_size=20)


@given(
    st.lists(st.tuples(TEXTS.map("key{}".format), TEXTS), max_size=6),
    st.lists(st.tuples(st.sampled_from(OPTIONS), TEXTS), max_size=6),
)
def test_of_a_specification_only_what_is_listed(others: list[tuple[str, str]], listed: list[tuple[str, str]]) -> None:
    one = state.Spec("io", [*others, *listed])
    told = public(one)
    assert told.options == listed
    assert {key for key, _ in told.options} <= set(OPTIONS)


def test_public_options_are_no_secrets() -> None:
    """Whoever adds one has to think."""
    assert not [key for key in OPTIONS if "secret" in key or "key" in key or "tls" in key]


def run(module: str, requests: bytes, *options: str) -> bytes:
    """Return what a process says on the connection that is its standard input, as systemd starts it."""
    program = f"import sys; sys.path.insert(0, sys.argv[1]); from discoverd.api.{module} import main; sys.exit(main())"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-I", *options, "-c", program, str(Path(state.__file__).parents[1])]
        process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
        theirs.close()
        ours.sendall(requests)
        ours.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := ours.recv(1 << 16):
                said += data
        assert process.wait(GENEROUS) == 0
    return said


def test_process_without_site_packages() -> None:
    """It ends with the connection, whatever it has said of this host by then."""
    assert run("reader", b"", "-S")[:5] in (b"", b"plan ")


def test_files_that_are_no_state(client: Client) -> None:
    folder = Path(state.CONTROLLERS)
    (folder / "file").write_text("x")
    spec(ONE)
    (folder / ONE / "report").symlink_to("/etc/passwd")
    os.mkfifo(folder / ONE / "log")
    (folder / "é\n").mkdir()
    told = start(client)
    assert {name for _, name, _ in told} == {"", ONE, "file"}
    assert all(not content for kind, _, content in told if kind in ("report", "log"))
