# SPDX-License-Identifier: Apache-2.0
"""One process looks at the controllers of all workers, which sleep meanwhile."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discoverd import registry, state
from discoverd.worker import loop
from discoverd.worker.watch import Looks, Watch

from .fake_kernel import Kernel, play, until
from .worker_setting import INSTANCE, specify

PATIENCE = 20.0


class Server:
    """The end that looks, played by the test."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen()
        self.listener.settimeout(PATIENCE)

    def accept(self) -> tuple[socket.socket, bytes]:
        """Return the next connection, and what it says."""
        connection, _ = self.listener.accept()
        connection.settimeout(PATIENCE)
        return connection, connection.recv(100)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    monkeypatch.setattr(state, "FORK_SERVER", str(tmp_path / "server"))
    yield made
    made.listener.close()


def told(connection: socket.socket) -> bool:
    """Tell whether something has come."""
    try:
        return bool(connection.recv(100, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


# Who looks ------------------------------------------------------------------------------------------------


def test_who_looks_tells_of_what_has_changed(kernel: Kernel) -> None:
    kernel.add("nvme3")
    ours, theirs = socket.socketpair()
    looks = Looks()
    assert looks.add(ours, b"nvme3\n")
    assert told(theirs), "for what happened before"
    looks.look()
    assert not told(theirs)
    changes: list[Callable[[], object]] = [
        lambda: kernel.set_state("nvme3", "connecting"),
        lambda: registry.claim("nvme3", "stas", ""),
        lambda: registry.delete("nvme3"),
        lambda: kernel.remove("nvme3"),
        lambda: kernel.add("nvme3"),
    ]
    for change in changes:
        change()
        looks.look()
        assert told(theirs)
        looks.look()
        assert not told(theirs)
    looks.remove(ours.fileno())
    assert (len(looks), theirs.recv(1)) == (0, b"")
    theirs.close()


@pytest.mark.parametrize("line", [b"", b"nvme\n", b"nvme0n1\n", b"../nvme0\n", b"nvme0/..\n", b"\xff\n", b"nvme0 1\n"])
def test_who_looks_is_told_of_controllers_only(line: bytes) -> None:
    ours, theirs = socket.socketpair()
    looks = Looks()
    assert not looks.add(ours, line)
    assert (len(looks), told(theirs)) == (0, False)
    ours.close()
    theirs.close()


def test_who_does_not_listen_keeps_nobody_waiting(kernel: Kernel) -> None:
    kernel.add("nvme3")
    ours, theirs = socket.socketpair()
    looks = Looks()
    looks.add(ours, b"nvme3\n")
    for number in range(5000):
        kernel.set_state("nvme3", "live" if number % 2 else "connecting")
        looks.look()
    theirs.close()
    kernel.set_state("nvme3", "resetting")
    looks.look()
    looks.remove(ours.fileno())


def test_without_anybody_there_is_no_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "FORK_SERVER", str(tmp_path / "nobody"))
    with pytest.raises(FileNotFoundError):
        Watch("nvme0")


# Who is looked for ----------------------------------------------------------------------------------------


def test_live_worker_sleeps_while_somebody_looks(kernel: Kernel, server: Server) -> None:
    def act() -> None:
        connection, line = server.accept()
        assert line == b"nvme0\n"
        connection.send(b"\n")
        time.sleep(4 * loop.LIVE_CHECK)
        kernel.set_state("nvme0", "connecting")
        time.sleep(4 * loop.LIVE_CHECK)
        assert kernel.status == "live nvme0"
        connection.send(b"\n")
        until(lambda: kernel.status.startswith("reconnecting"))
        # It looks itself until the connection is back, and sleeps then.
        kernel.set_state("nvme0", "live")
        until(lambda: kernel.status == "live nvme0")
        kernel.set_state("nvme0", "connecting")
        time.sleep(4 * loop.LIVE_CHECK)
        assert kernel.status == "live nvme0"
        connection.close()
        until(lambda: kernel.status.startswith("reconnecting"))

    assert play(INSTANCE, kernel, act, specify()) == 0


def test_live_worker_looks_itself_until_somebody_has_begun_to(kernel: Kernel, server: Server) -> None:
    """Whoever has connected may wait for long until he is heard, and in vain."""

    def act() -> None:
        connection, _ = server.accept()
        kernel.set_state("nvme0", "connecting")
        until(lambda: kernel.status.startswith("reconnecting"))
        connection.close()

    assert play(INSTANCE, kernel, act, specify()) == 0


def test_live_worker_looks_itself_until_somebody_does_again(kernel: Kernel, server: Server) -> None:
    def act() -> None:
        connection, _ = server.accept()
        connection.close()
        again, line = server.accept()
        assert line == b"nvme0\n"
        server.listener.close()
        again.close()
        time.sleep(2 * loop.LIVE_CHECK)
        kernel.set_state("nvme0", "connecting")
        until(lambda: kernel.status.startswith("reconnecting"))

    assert play(INSTANCE, kernel, act, specify()) == 0


def test_watch_ends_with_the_controller(kernel: Kernel, server: Server) -> None:
    """The next one has another name, or is another of the same."""

    def act() -> None:
        connection, _ = server.accept()
        kernel.remove()
        assert connection.recv(1) == b""
        connection.close()
        again, line = server.accept()
        assert line.startswith(b"nvme")
        again.close()

    assert play(INSTANCE, kernel, act, specify()) == 0
