# SPDX-License-Identifier: Apache-2.0
"""The process that workers are forked from, with the placeholder's real command, and a stand-in for systemd."""

import array
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import discoverd

INSTANCE = "tcp:192.0.2.1:4420:nqn.2024-08.com.example:a"
GROUP = f"/system.slice/nvme-ctrl@{INSTANCE}.service"
# With other paths. What takes the place of the worker proper says who it is, and stays.
SERVER = """
import sys, time
sys.path.insert(0, {package!r})
import posix
from discoverd.worker import fork_server
def group(pid):
    while posix.access("{root}/wait", posix.F_OK):
        time.sleep(0.01)
    return open(f"{root}/group-{{pid}}").read()
def worker():
    with open("{root}/worker.new", "w") as file:
        file.write(f"{{sys.argv[1]}} {{posix.getpid()}} {{posix.getppid()}}")
    posix.rename("{root}/worker.new", "{root}/worker")
    sys.stderr.write("a line\\n")
    sys.stderr.flush()
    time.sleep(60)
    return 0
fork_server._CGROUPS = "{root}/cgroups"
fork_server._SCORE = "{root}/score-{{}}"
fork_server._JOURNAL = "{root}/journal"
fork_server._control_group = group
fork_server.main.main = worker
if posix.geteuid():
    # Only root may speak for another process.
    speak = fork_server.notify.become_main_process
    fork_server.notify.become_main_process = lambda predecessor: speak(posix.getpid())
{more}
sys.exit(fork_server.serve())
"""
TIMEOUT_SECONDS = 60.0


def wait_for(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


class Manager:
    """Stands for systemd and the journal: it hears notifications, holds barriers, and takes what is said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.heard: list[str] = []
        self.pass_barriers = threading.Event()
        self.pass_barriers.set()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(root / "notify"))
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # Who has said each of these.
        self.senders: list[int] = []
        self._journal = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._journal.bind(str(root / "journal"))
        self._journal.listen()
        self.journal = ""
        self._threads = [threading.Thread(target=function) for function in (self._hear, self._read)]
        for thread in self._threads:
            thread.start()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(root / "server"))
        self._listener.listen(16)
        (root / "cgroups" / GROUP[1:]).mkdir(parents=True)
        (root / "cgroups" / GROUP[1:] / "cgroup.procs").touch()
        (root / "score-self").touch()
        self._server = 0
        self._worker = 0
        self._placeholders: list[subprocess.Popen[str]] = []
        self._install()

    def _install(self) -> None:
        """Put the placeholder there, with what says that it was executed in place of the worker."""
        template = (Path(discoverd.__file__).parent / "launchers/placeholder.in").read_text()
        alone = '#!/bin/sh\nread -r line; echo "alone: $4, read: $line"\n'
        program = template.replace("@PYTHON@", str(self.root / "alone")).replace("@LIBEXEC_DIR@", str(self.root))
        for name, text in ("placeholder", program), ("alone", alone):
            (self.root / name).write_text(text)
            (self.root / name).chmod(0o755)

    def close(self) -> None:
        """End all that was started."""
        self.pass_barriers.set()
        self._listener.close()
        for placeholder in self._placeholders:
            placeholder.kill()
            placeholder.communicate(timeout=TIMEOUT_SECONDS)
        if self._server:
            self.kill_server()
        if self._worker:
            os.kill(self._worker, signal.SIGKILL)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"END", str(self.root / "notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self.root / "journal"))
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)
        self._notify.close()
        self._journal.close()

    def kill_server(self) -> None:
        os.kill(self._server, signal.SIGKILL)
        os.waitpid(self._server, 0)
        self._server = 0

    def ended(self) -> None:
        """Take it that the server has ended by itself."""
        self._server = 0

    def descendants(self) -> list[int]:
        """Return the processes that the server has forked, and that live."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            mine = str(self.root).encode() in command and b"fork_server" in command
            if mine and state != "Z" and int(folder.name) != self._server:
                found.append(int(folder.name))
        return found

    def _hear(self) -> None:
        while True:
            data, passed, _, _ = self._notify.recvmsg(4096, socket.CMSG_SPACE(4) + socket.CMSG_SPACE(12))
            if data == b"END":
                return
            contents = {kind: array.array("i", content) for _, kind, content in passed}
            self.senders.append(contents[socket.SCM_CREDENTIALS][0])
            self.heard.append(data.decode())
            if descriptors := contents.get(socket.SCM_RIGHTS):
                self.pass_barriers.wait(TIMEOUT_SECONDS)
                for descriptor in descriptors:
                    os.close(descriptor)

    def _read(self) -> None:
        connection, _ = self._journal.accept()
        with connection:
            while data := connection.recv(4096):
                self.journal += data.decode()

    def serve(self, more: str = "", **environment: str) -> int:
        """Start a fork server, with our listening socket as its descriptor 3; return its number.

        ``more`` is executed in it before it serves.
        """
        code = SERVER.format(package=str(Path(discoverd.__file__).parent.parent), root=self.root, more=more)
        self._server = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", code],
            {"NOTIFY_SOCKET": str(self.root / "notify"), "LISTEN_FDS": "1", **environment},
            file_actions=[(os.POSIX_SPAWN_DUP2, self._listener.fileno(), 3)],
        )
        ready = self.heard.count("READY=1")
        wait_for(lambda: self.heard.count("READY=1") > ready, "the fork server is not ready")
        return self._server

    def place(self, group: str = GROUP) -> "subprocess.Popen[str]":
        """Start a placeholder as the unit has it; what it becomes without a server says so on standard error."""
        # With systemd it is the placeholder's process that connects.
        (self.root / f"score-{os.getpid()}").write_text("-900\n")
        (self.root / f"group-{os.getpid()}").write_text(group)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self.root / "server"))
        process = subprocess.Popen(
            [str(self.root / "placeholder"), "the instance"],
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            stderr=subprocess.PIPE,
            # As under systemd, SIGPIPE is ignored.
            restore_signals=False,
            text=True,
        )
        connection.close()
        self._placeholders.append(process)
        return process

    def place_and_hold(self) -> "subprocess.Popen[str]":
        """Start a placeholder whose worker is forked, and enters nothing while the file ``wait`` is there."""
        (self.root / "wait").touch()
        placeholder = self.place()
        wait_for(lambda: len(self.descendants()) == 1, "no worker was forked")
        return placeholder

    def worker(self) -> tuple[str, int, int]:
        """Return instance, number and parent of the worker."""
        wait_for((self.root / "worker").exists, "no worker was forked")
        instance, pid, parent = (self.root / "worker").read_text().rsplit(" ", 2)
        self._worker = int(pid)
        return instance, int(pid), int(parent)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


def test_worker_takes_the_place_of_a_placeholder(manager: Manager) -> None:
    server = manager.serve()
    placeholder = manager.place()
    instance, pid, parent = manager.worker()
    assert placeholder.communicate(timeout=TIMEOUT_SECONDS)[1] == ""
    assert placeholder.returncode == 0
    assert instance == INSTANCE
    assert parent not in (server, os.getpid()), "PID 1 hears of its own children only how they end"
    assert Path(f"/proc/{parent}").exists(), "it was adopted before it did anything"
    assert manager.heard[:3] == ["READY=1", f"MAINPID={pid}", "BARRIER=1"]
    if os.geteuid() == 0:
        assert manager.senders[1] == os.getpid(), "systemd hears the main process only, which is the placeholder's"
    assert (manager.root / "cgroups" / GROUP[1:] / "cgroup.procs").read_text() == "0"
    assert (manager.root / "score-self").read_text() == "-900\n"
    wait_for(lambda: "a line\n" in manager.journal, "nothing in the journal")
    assert manager.journal == f"nvme-ctrl\nnvme-ctrl@{INSTANCE}.service\n30\n1\n0\n0\n0\na line\n"
    title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    assert f"nvme-ctrl-worker {INSTANCE}".startswith(title)
    assert len(title) > len("nvme-ctrl-worker ")
    assert (os.getsid(pid), os.getpgid(pid)) == (pid, pid), "no signal to the server's group is one to the workers"
    # From Linux 5.0 on.
    assert "THP_enabled:\t0" in Path(f"/proc/{pid}/status").read_text(), "memory that is shared stays so"


def test_placeholder_whose_server_is_killed_becomes_the_worker(manager: Manager) -> None:
    manager.serve()
    placeholder = manager.place_and_hold()
    manager.kill_server()
    for worker in manager.descendants():
        os.kill(worker, signal.SIGKILL)
    assert placeholder.communicate(timeout=TIMEOUT_SECONDS)[1] == "alone: the instance, read: \n"


def test_placeholder_where_nobody_listens_any_more_becomes_the_worker(manager: Manager) -> None:
    server = manager.serve()
    os.kill(server, signal.SIGSTOP)
    placeholder = manager.place()
    manager._listener.close()
    manager.kill_server()
    assert placeholder.communicate(timeout=TIMEOUT_SECONDS)[1] == "alone: the instance, read: \n"


def test_placeholder_that_waits_is_served_by_the_next_server(manager: Manager) -> None:
    """systemd keeps the socket."""
    server = manager.serve()
    os.kill(server, signal.SIGSTOP)
    placeholder = manager.place()
    manager.kill_server()
    manager.serve()
    assert manager.worker()[0] == INSTANCE
    assert placeholder.communicate(timeout=TIMEOUT_SECONDS)[1] == ""


def test_placeholder_whose_worker_is_killed_before_systemd_knows_it_becomes_the_worker(manager: Manager) -> None:
    manager.serve()
    manager.pass_barriers.clear()
    placeholder = manager.place()
    wait_for(lambda: "BARRIER=1" in manager.heard, "no barrier")
    os.kill(int(manager.heard[1].removeprefix("MAINPID=")), signal.SIGKILL)
    assert placeholder.communicate(timeout=TIMEOUT_SECONDS)[1].startswith("alone")
    manager.pass_barriers.set()


def test_worker_whose_placeholder_was_stopped_enters_nothing(manager: Manager) -> None:
    """Another process may have its number by now, and the unit may have been started again."""
    manager.serve()
    placeholder = manager.place_and_hold()
    placeholder.terminate()
    placeholder.communicate(timeout=TIMEOUT_SECONDS)
    (manager.root / "wait").unlink()
    wait_for(lambda: not manager.descendants(), "the worker goes on")
    assert (manager.root / "cgroups" / GROUP[1:] / "cgroup.procs").read_text() == ""
    assert manager.heard == ["READY=1"]


def test_placeholder_becomes_the_worker_where_none_can_be_forked(manager: Manager) -> None:
    manager.serve("def fork():\n    raise OSError(11, 'Resource temporarily unavailable')\nposix.fork = fork")
    assert manager.place().communicate(timeout=TIMEOUT_SECONDS)[1].startswith("alone")


def test_server_of_another_version_makes_no_worker(manager: Manager) -> None:
    """What is installed may be half of an upgrade; the placeholder executes it when systemd starts a new server."""
    (manager.root / "file").touch()
    server = manager.serve(f"sys.argv = [{str(manager.root / 'file')!r}]")
    (manager.root / "new").touch()
    (manager.root / "new").rename(manager.root / "file")
    placeholder = manager.place()
    assert placeholder.communicate(timeout=TIMEOUT_SECONDS)[1].startswith("alone")
    assert os.waitpid(server, 0)[1] == 0
    manager.ended()


def test_server_that_can_open_no_more_waits_and_goes_on(manager: Manager) -> None:
    server = manager.serve("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))")
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(20)]
    for one in silent:
        one.connect(str(manager.root / "server"))
    time.sleep(2.5)
    with open(f"/proc/{server}/stat") as file:
        ticks = sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    assert ticks < os.sysconf("SC_CLK_TCK"), "it spins"
    for one in silent:
        one.close()
    manager.place()
    assert manager.worker()[0] == INSTANCE


def test_who_says_nothing_is_not_kept(manager: Manager) -> None:
    manager.serve("fork_server._SILENCE_SECONDS = 0.2")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(str(manager.root / "server"))
        silent.settimeout(TIMEOUT_SECONDS)
        assert silent.recv(1) == b""


def test_placeholder_of_who_is_refused_becomes_the_worker(manager: Manager) -> None:
    manager.serve()
    for group in ("/user.slice/user-1000.slice", "/system.slice/nvme-ctrl@.service", "/nvme-ctrl@..service"):
        placeholder = manager.place(group)
        assert placeholder.communicate(timeout=TIMEOUT_SECONDS)[1].startswith("alone"), group
    assert manager.heard == ["READY=1"]


def test_placeholder_of_a_unit_whose_control_group_is_gone_becomes_the_worker(manager: Manager) -> None:
    manager.serve()
    (manager.root / "cgroups" / GROUP[1:] / "cgroup.procs").unlink()
    assert manager.place().communicate(timeout=TIMEOUT_SECONDS)[1].startswith("alone")
    assert manager.heard == ["READY=1"]


def test_stop_before_systemd_knows_the_worker_ends_both(manager: Manager) -> None:
    """The signal went to the placeholder, which was the main process then."""
    manager.serve()
    manager.pass_barriers.clear()
    placeholder = manager.place()
    wait_for(lambda: "BARRIER=1" in manager.heard, "no barrier")
    worker = int(manager.heard[1].removeprefix("MAINPID="))
    placeholder.terminate()
    assert placeholder.wait(TIMEOUT_SECONDS) == -signal.SIGTERM
    manager.pass_barriers.set()
    wait_for(lambda: not Path(f"/proc/{worker}/cwd").exists(), "the worker goes on")
    assert not (manager.root / "worker").exists()


def test_worker_holds_nothing_that_is_its_servers(manager: Manager) -> None:
    """Neither the socket, nor the connections of others."""
    manager.serve()
    watching = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
    for number, one in enumerate(watching):
        one.connect(str(manager.root / "server"))
        if number:
            one.send(b"nvme0\n")
            one.settimeout(TIMEOUT_SECONDS)
            assert one.recv(1) == b"\n"
    manager.place()
    _, pid, _ = manager.worker()
    manager.kill_server()
    for one in watching:
        one.settimeout(TIMEOUT_SECONDS)
        assert one.recv(1) == b"", "the worker holds the connection of another"
        one.close()
    opened = [os.readlink(f"/proc/{pid}/fd/{one}") for one in os.listdir(f"/proc/{pid}/fd")]
    # Standard output and error.
    assert len([one for one in opened if one.startswith("socket:")]) <= 2, opened


def test_worker_outlives_its_server(manager: Manager) -> None:
    manager.serve()
    manager.place()
    _, pid, _ = manager.worker()
    manager.kill_server()
    assert Path(f"/proc/{pid}/cwd").exists()


def test_server_says_that_it_does_not_hang(manager: Manager) -> None:
    manager.serve(WATCHDOG_USEC="100000")
    wait_for(lambda: manager.heard.count("WATCHDOG=1") > 1, "nothing was said")
