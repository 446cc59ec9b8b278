# SPDX-License-Identifier: Apache-2.0
"""A virtual machine with the image of `image.py`: boot it, run commands in it, cut its links, reboot it, end it."""

import contextlib
import dataclasses
import itertools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lab import accel, journal
from tests.lab.channel import Channel, ChannelError
from tests.lab.image import CACHE, Image

# Software emulation on a busy machine is slow; a bound ends a wait that would never end, and nothing else.
BOOT_SECONDS = 300
RESTORE_SECONDS = 60
COMMAND_SECONDS = 60
MEMORY_MIB = 2048
KERNEL_ARGUMENTS = (
    "root=/dev/vda rw console=ttyS0 quiet loglevel=4 mitigations=off net.ifnames=0 audit=0 apparmor=0 "
    "random.trust_cpu=on tsc=reliable nokaslr panic=5 systemd.show_status=yes sysrq_always_enabled"
)

# What the kernel dies of when one emulated CPU runs into code that another one has just patched. Nothing that is tested
# has a part in it.
EMULATION_FAILED = "Oops: int3"
# And what it says at a boot where the timer of an emulated processor never fires: nothing goes on then.
TIMER_FAILED = "rcu_preempt kthread timer wakeup didn't happen"
# As many lines as the kernel prints from there to its end, with a margin.
_OOPS_LINES = 120


class LabError(Exception):
    """The machine did not do what was asked of it; the message says what, and what it printed."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command in the guest left: its status (negative: killed by that signal) and output."""

    command: str
    returncode: int
    output: bytes
    errors: bytes

    @property
    def stdout(self) -> str:
        return self.output.decode(errors="surrogateescape")

    @property
    def stderr(self) -> str:
        return self.errors.decode(errors="surrogateescape")


class Machine:
    """One virtual machine with a disk of its own, thrown away with it. Every method blocks until what it says is so.

    ``extra`` are QEMU's options beyond the usual ones; where both name one, such as ``-append``, these count.
    ``saved`` is a folder of `save` by a machine of the same image and options: the first boot only goes on from there.
    """

    _numbers = itertools.count(1)

    def __init__(self, image: Image, extra: Sequence[str] = (), saved: Path | None = None) -> None:
        self._image = image
        self._extra = tuple(extra)
        self._saved = saved
        (CACHE / "run").mkdir(parents=True, exist_ok=True)
        self.folder = CACHE / "run" / f"{os.getpid()}-{next(self._numbers)}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        _drop_leftovers(self.folder.parent)
        # The path of a socket may have 107 bytes, and that of a work tree more.
        self._sockets = Path(tempfile.mkdtemp(prefix="lab-"))
        self._qemu: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._marks = itertools.count(1)

    # Life

    def boot(self) -> None:
        """Starts the machine and waits until systemd has finished its first transaction."""
        overlay = self.folder / "disk.qcow2"
        if not overlay.exists():
            if self._saved is not None and self._restore(self._saved):
                return
            self._add_disk(self._image.disk, "raw")
        self._start()
        try:
            self._await_boot()
        except LabError:
            if EMULATION_FAILED in self.console():
                print("lab: the emulation broke the kernel; booting once more", file=sys.stderr)
            elif TIMER_FAILED in self.console():
                print("lab: a timer of the emulation does not fire; booting once more", file=sys.stderr)
            elif self._crashed:
                print("lab: the emulator crashed; booting once more", file=sys.stderr)
            else:
                raise
            self.kill()
            self._start()
            self._await_boot()

    def _restore(self, saved: Path) -> bool:
        """Goes on from a saved state; False, and no trace of it, where that fails."""
        self._add_disk(saved / "disk.qcow2", "qcow2")
        for name in ("journal.json", "console.log"):
            shutil.copy(saved / name, self.folder / name)
        self._start("-incoming", f"exec:cat {shlex.quote(str(saved / 'state'))}")
        try:
            self._await_agent(RESTORE_SECONDS)
            # The guest's clock stood still meanwhile.
            self.run(["date", f"--set=@{time.time():.3f}"])
        except LabError as error:
            print(f"lab: not restored from {saved}, so it boots: {error}", file=sys.stderr)
            self.kill()
            for name in ("disk.qcow2", "journal.json", "console.log"):
                (self.folder / name).unlink()
            return False
        return True

    def save(self, folder: Path) -> None:
        """Ends the machine and writes all there is of it to a new folder, for `saved` of others."""
        self.run("udevadm settle; sync")
        self.journal_end()
        self._close()
        folder.mkdir()
        target = shlex.quote(str(folder / "state"))
        answer = self._monitor(
            "migrate_set_parameter max-bandwidth 100G", f'migrate "exec:cat >{target}"', "info migrate", "quit"
        )
        self.kill()
        if "Migration status: completed" not in answer:
            raise LabError(f"the state of the machine was not saved:\n{answer}")
        for name in ("disk.qcow2", "journal.json", "console.log"):
            shutil.copy(self.folder / name, folder / name)

    def _monitor(self, *commands: str) -> str:
        """What QEMU's monitor prints for commands of which the last one is `quit`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor:
            monitor.settimeout(COMMAND_SECONDS)
            monitor.connect(str(self._sockets / "monitor"))
            monitor.sendall("".join(f"{command}\n" for command in commands).encode())
            with monitor.makefile("rb") as answer:
                return answer.read().decode(errors="replace")

    def _add_disk(self, backing: Path, kind: str) -> None:
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", str(backing)]
        subprocess.run([*create, str(self.folder / "disk.qcow2")], check=True)

    def _start(self, *arguments: str) -> None:
        server = "server=on,wait=off,logappend=on"
        command = [
            # A test run that is killed takes its machine along.
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
            *accel.options(self._image.kernel),
            *("-machine", "q35", "-smp", "2", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none", "-no-reboot"),
            *("-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd)),
            *("-append", KERNEL_ARGUMENTS),
            *("-drive", f"file={self.folder}/disk.qcow2,format=qcow2,if=virtio,cache=unsafe,discard=unmap"),
            *("-chardev", f"socket,id=console,path={self._sockets}/console,{server},logfile={self.folder}/console.log"),
            *("-chardev", f"socket,id=agent,path={self._sockets}/agent,{server}"),
            *("-chardev", f"file,id=journal,path={self.folder}/journal.json,append=on"),
            *("-monitor", f"unix:{self._sockets}/monitor,server=on,wait=off"),
            *("-serial", "chardev:console", "-device", "virtio-serial"),
            *("-device", "virtserialport,chardev=agent,name=lab.agent"),
            *("-device", "virtserialport,chardev=journal,name=lab.journal"),
            *("-device", "virtio-rng-pci"),
            *self._extra,
            *arguments,
        ]
        with (self.folder / "qemu.log").open("ab") as log:
            self._qemu = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def reboot(self) -> None:
        """`systemctl reboot`, then waits until the new boot is complete. The disk stays as it is.

        QEMU ends with the old boot: an emulated machine boots twice as fast in a process that has translated nothing.
        """
        self.run("systemctl reboot --no-block")
        self.wait_off()
        self.boot()

    def soft_reboot(self) -> None:
        """`systemctl soft-reboot`, then waits until the new user space is up. The kernel and /run stay as they are."""
        argv = ["systemctl", "show", "-P", "SoftRebootsCount"]
        before = self.run(argv).output
        self.run("systemctl soft-reboot --no-block")
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            self._close()
            # Neither the agent's process nor the kernel's boot tells the new user space from the old one.
            with contextlib.suppress(OSError, ChannelError):
                self._channel = Channel(self._sockets / "agent")
                header, body = self._channel.ask({"op": "run", "argv": argv, "timeout": 5}, timeout=5)
                if header.get("returncode") == 0 and body != before:
                    break
            if time.monotonic() > deadline:
                raise LabError(f"no new user space after {BOOT_SECONDS} s; console:\n{self._console_end()}")
            time.sleep(0.2)
        self.run("systemctl is-system-running --wait", timeout=BOOT_SECONDS, check=False)

    def poweroff(self, timeout: float = BOOT_SECONDS) -> float:
        """`systemctl poweroff`; waits for the end of the machine and returns how many seconds it took."""
        self.run("systemctl poweroff --no-block")
        return self.wait_off(timeout)

    def wait_off(self, timeout: float = BOOT_SECONDS) -> float:
        """Waits for the machine to end by itself; returns the seconds.

        Raises LabError with the console's end, and where in the kernel tasks wait.
        """
        started = time.monotonic()
        assert self._qemu is not None
        try:
            self._qemu.wait(timeout)
        except subprocess.TimeoutExpired:
            said = f"not powered off after {timeout:.0f} s; console:\n{self._console_end()}"
            raise LabError(f"{said}\n{self._blocked_tasks()}") from None
        self._close()
        return time.monotonic() - started

    def _blocked_tasks(self) -> str:
        """What the kernel prints of the tasks that nothing can end (SysRq w), also where nobody else answers."""
        before = len(self.console())
        with contextlib.suppress(OSError):
            # 7: the console gets all messages from now on.
            for key in ("7", "w"):
                with (
                    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console,
                    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor,
                ):
                    console.connect(str(self._sockets / "console"))
                    monitor.connect(str(self._sockets / "monitor"))
                    monitor.sendall(b"chardev-send-break console\n")
                    time.sleep(1)
                    console.sendall(key.encode())
                    time.sleep(5)
        return self.console()[before:]

    def kill(self) -> None:
        """Ends the machine as a power cut would. Does nothing to one that has ended."""
        if self._qemu is not None and self._qemu.poll() is None:
            self._qemu.send_signal(signal.SIGKILL)
            self._qemu.wait()
        self._close()

    def renew(self) -> None:
        """Boots anew what has broken down, as a machine that has never run."""
        self.kill()
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.boot()

    def discard(self) -> None:
        """Kills the machine and deletes its disk and logs."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    @property
    def broken_by_emulation(self) -> bool:
        """Whether the kernel has died, as the last thing it did, of what EMULATION_FAILED says."""
        end = "\n".join(self.console().splitlines()[-_OOPS_LINES:])
        return EMULATION_FAILED in end and "Kernel panic" in end

    @property
    def _crashed(self) -> bool:
        """Whether QEMU has died of a signal: it has had segmentation faults at a boot."""
        return self._qemu is not None and (self._qemu.poll() or 0) < 0

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _await_boot(self) -> None:
        self._await_agent(BOOT_SECONDS)
        # "degraded" is for a scenario to judge: what it does may well leave a unit failed.
        self.run("systemctl is-system-running --wait", timeout=BOOT_SECONDS, check=False)
        # The first TCP packet has the kernel patch its code (see EMULATION_FAILED): one now, before there are many.
        self.run("(</dev/tcp/127.0.0.1/9) 2>/dev/null; (</dev/tcp/::1/9) 2>/dev/null; sleep 1", check=False)

    def _await_agent(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            self._close()
            if not self.running:
                raise LabError(f"QEMU ended: {(self.folder / 'qemu.log').read_text()}\n{self._console_end()}")
            if time.monotonic() > deadline:
                raise LabError(f"no answer from inside after {timeout:.0f} s; console:\n{self._console_end()}")
            with contextlib.suppress(OSError, ChannelError):
                self._channel = Channel(self._sockets / "agent")
                self._channel.ask({"op": "ping"}, timeout=2)
                return
            time.sleep(0.2)

    # Commands and files

    def _ask(self, request: dict[str, object], body: bytes = b"", *, timeout: float) -> tuple[dict[str, object], bytes]:
        if self._channel is None:
            raise LabError("the machine is not running")
        try:
            header, answer = self._channel.ask(request, body, timeout=timeout)
        except ChannelError as error:
            raise LabError(f"{error}; console:\n{self._console_end()}") from error
        if "error" in header:
            raise LabError(f"{request['op']} {request.get('path', '')}: {header['error']}")
        return header, answer

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = COMMAND_SECONDS,
        check: bool = True,
        data: bytes = b"",
    ) -> Result:
        """Runs a bash line, or a program with arguments, as root. `data` is its standard input.

        Raises LabError when it takes longer than `timeout` seconds, and with `check` when its status is not 0.
        """
        argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
        shown = command if isinstance(command, str) else shlex.join(command)
        request = {"op": "run", "argv": argv, "timeout": timeout}
        header, body = self._ask(request, data, timeout=timeout + 30)
        size = header["output"]
        assert isinstance(size, int)
        if header["timed_out"]:
            raise LabError(f"still running after {timeout:.0f} s: {shown}\n{body.decode(errors='replace')}")
        returncode = header["returncode"]
        assert isinstance(returncode, int)
        result = Result(shown, returncode, body[:size], body[size:])
        if check and returncode != 0:
            raise LabError(f"status {returncode}: {shown}\n{result.stdout}{result.stderr}")
        return result

    def put(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Writes a file, and the folders above it."""
        content = data.encode() if isinstance(data, str) else data
        self._ask({"op": "put", "path": path, "mode": mode}, content, timeout=COMMAND_SECONDS)

    def read(self, path: str) -> bytes:
        """Raises LabError where the file cannot be read."""
        return self._ask({"op": "read", "path": path}, timeout=COMMAND_SECONDS)[1]

    def wait_until(
        self,
        condition: str | Callable[[], object],
        *,
        timeout: float = 30,
        what: str = "",
        interval: float = 0.2,
    ) -> float:
        """Waits until the command has status 0 or the function returns something true; returns the seconds.

        Raises LabError with `what` did not come about, and what the last try gave.
        """
        started = time.monotonic()
        while True:
            tried = time.monotonic()
            last: object
            if callable(condition):
                last = condition()
                if last:
                    break
            else:
                result = self.run(condition, check=False)
                last = f"status {result.returncode}: {result.stdout}{result.stderr}"
                if result.returncode == 0:
                    break
            if time.monotonic() - started > timeout:
                raise LabError(f"after {timeout:.0f} s still not so: {what or condition}; the last try gave {last}")
            # On a busy machine the question must not take the time that the answer needs.
            time.sleep(max(interval, time.monotonic() - tried))
        return time.monotonic() - started

    # Links

    def cut_link(self, path: str, *, silent: bool = False) -> None:
        """Takes the target's end of "path0" or "path1" down; silent: packets vanish and the carrier stays."""
        if silent:
            self.run(f"tc -netns tgt qdisc replace dev {path} root netem loss 100%")
            self.run(f"tc qdisc replace dev {path} root netem loss 100%")
        else:
            self.run(f"ip -netns tgt link set {path} down")

    def restore_link(self, path: str) -> None:
        """Undoes either cut."""
        self.run(["lab-network", "restore", path])

    # What it says

    def journal_end(self) -> int:
        """A position in the journal for `journal(since=...)`; everything logged before is in front of it."""
        if self._channel is not None and self.running:
            mark = f"{os.getpid()}-{next(self._marks)}"
            with contextlib.suppress(LabError):
                self._ask({"op": "mark"}, mark.encode(), timeout=COMMAND_SECONDS)
                deadline = time.monotonic() + COMMAND_SECONDS
                while mark.encode() not in self._journal_tail() and time.monotonic() < deadline:
                    time.sleep(0.05)
        with contextlib.suppress(FileNotFoundError):
            return self._journal_path.stat().st_size
        return 0

    def journal(self, unit: str | None = None, priority: int | None = None, *, since: int = 0) -> list[journal.Entry]:
        """Entries of all boots of this machine, of one unit, at this priority or worse; also after its end."""
        self.journal_end()
        return [
            entry
            for entry in journal.read(self._journal_path, since)
            if (unit is None or entry.unit == unit)
            and (priority is None or entry.priority <= priority)
            and entry.identifier != "lab-mark"
        ]

    def console(self) -> str:
        """Everything that came out of the first serial port, from all boots."""
        path = self.folder / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def shell(self) -> None:
        """Joins this process's terminal with the machine's console until Ctrl-] or the machine's end."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
            console.connect(str(self._sockets / "console"))
            saved = termios.tcgetattr(sys.stdin)
            try:
                tty.setraw(sys.stdin)
                reader = threading.Thread(target=_copy_to_terminal, args=(console,), daemon=True)
                reader.start()
                console.sendall(b"\n")
                while reader.is_alive():
                    typed = os.read(sys.stdin.fileno(), 1024)
                    if not typed or b"\x1d" in typed:
                        break
                    console.sendall(typed)
            finally:
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)

    @property
    def _journal_path(self) -> Path:
        return self.folder / "journal.json"

    def _journal_tail(self) -> bytes:
        with contextlib.suppress(FileNotFoundError), self._journal_path.open("rb") as file:
            file.seek(max(0, self._journal_path.stat().st_size - 65536))
            return file.read()
        return b""

    def _console_end(self) -> str:
        return "\n".join(self.console().splitlines()[-25:])


def _drop_leftovers(folder: Path) -> None:
    """Deletes the disks of machines whose process was killed before it could."""
    for left in folder.iterdir():
        process = left.name.partition("-")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            shutil.rmtree(left, ignore_errors=True)


def _copy_to_terminal(console: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := console.recv(4096):
            os.write(sys.stdout.fileno(), data)
