# SPDX-License-Identifier: Apache-2.0
"""`make demo`: discoverd at work in a virtual machine. Status 1 when a step does not show what it claims."""

import argparse
import contextlib
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

from tests.lab import evidence
from tests.lab.image import ImageError, build
from tests.lab.machine import LabError, Machine

WIDTH = 100
PATHS = ("192.0.2.1", "198.51.100.1")
SUBSYSTEMS = 4
# The status of discoverctl when something is in use.
REFUSED = 5
UNITS = len(PATHS) * (1 + SUBSYSTEMS)
VOL1 = "nqn.2024-08.com.example:vol1"
VOL5 = "nqn.2024-08.com.example:vol5"
CONFIG = "/etc/nvme/nvme-fabrics.conf"
# The kernel gives up a lost connection after ctrl-loss-tmo; the default of ten minutes is too long to watch.
CONTENT = f"""\
[I/O Controller Defaults]
ctrl-loss-tmo = 6
reconnect-delay = 2

[Discovery Controller]
controller = transport=tcp;traddr={PATHS[0]};trsvcid=4420
controller = transport=tcp;traddr={PATHS[1]};trsvcid=4420
"""
TRY = f"""\
systemctl list-units 'nvme-ctrl@*'
systemctl status discoverd
systemctl restart 'nvme-ctrl@*:{VOL1}.service'
journalctl -f -u discoverd -u 'nvme-ctrl@*'
lab-target add-subsystem vol5; lab-target link vol5 1
ip -netns tgt link set path0 down"""


class DemoError(Exception):
    """A step did not show what the narration says."""


class Demo:
    """The steps, in their order."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def play(self) -> None:
        self._start()
        self._look()
        self._stop_one()
        self._stop_in_use()
        self._cut_a_path()
        self._refer_and_exclude()
        self._journal()

    def _start(self) -> None:
        say(
            "An NVMe/TCP target with four subsystems, reachable on two paths. It lives in the network namespace "
            "tgt of the same machine."
        )
        self._show(f"lab-target up --subsystems {SUBSYSTEMS} --ports {PATHS[0]}:4420 {PATHS[1]}:4420")
        say("The whole configuration: where to ask, once for each path. What to connect, the target tells.")
        self._machine.put(CONFIG, CONTENT)
        self._show(f"cat {CONFIG}")
        self._show("discoverd --check")
        self._show("systemctl start discoverd")
        with waiting(f"{UNITS} controllers"):
            self._until(f"{UNITS} live controllers", lambda: self._live() == UNITS, timeout=120)

    def _look(self) -> None:
        say("One unit for each controller: two discovery controllers, and four subsystems on two paths each.")
        output = self._show("systemctl list-units --plain --no-legend 'nvme-ctrl@*'")
        expect(output.count(" active ") == UNITS, f"{UNITS} active units")
        say("The status of a unit says where its controller is.")
        output = self._show(f"systemctl status {unit(PATHS[0])}")
        expect('Status: "live nvme' in output, "the status 'live nvmeN'")
        output = self._show("systemctl show -P StatusText discoverd")
        expect(f"{UNITS} live" in output, f"'{UNITS} live' in the status of discoverd")
        say("The ownership registry tells other tools on this host which controllers are taken care of.")
        output = self._show(f"grep . /run/nvme/registry/{self._device(PATHS[0])}/*")
        expect("/owner:nvme-ctrl\n" in output, "the owner nvme-ctrl")
        output = self._show("grep -lx nvme-ctrl /run/nvme/registry/*/owner | wc -l")
        expect(output.strip() == str(UNITS), f"{UNITS} entries")

    def _stop_one(self) -> None:
        device = self._device(PATHS[0])
        say(f"Stop one unit: that controller, {device}, goes, its registry entry too, and nothing else.")
        self._show(f"systemctl stop {unit(PATHS[0])}")
        output = self._show("nvme list-subsys | grep -A 3 :vol1")
        expect(PATHS[0] not in output and PATHS[1] in output, f"one path to vol1, through {PATHS[1]}")
        self._show(f"ls -d /run/nvme/registry/{device}", status=2)
        expect(self._live() == UNITS - 1, f"{UNITS - 1} live controllers")
        say("It stays stopped until somebody starts it.")
        self._show(f"systemctl start {unit(PATHS[0])}")
        output = self._show(f"systemctl show -P StatusText {unit(PATHS[0])}")
        expect(output.startswith("live nvme"), "the status 'live nvmeN'")

    def _stop_in_use(self) -> None:
        disk = self._machine.run("ls -d /dev/disk/by-id/nvme-uuid.* | head -n 1").stdout.strip()
        nqn = self._machine.run(f"cat /sys/class/block/$(basename $(readlink {disk}))/device/subsysnqn").stdout.strip()
        say("A mounted file system is safe. discoverd has systemd unmount it before the network goes, without _netdev:")
        self._show(f"mkfs.ext4 -q {disk} && mount {disk} /mnt")
        entered = "grep -q TARGET=/mnt /run/mount/utab"
        self._until("the entry in utab", lambda: not self._machine.run(entered, check=False).returncode, timeout=30)
        output = self._show("systemctl show -p After mnt.mount | grep -o remote-fs-pre.target")
        expect("remote-fs-pre.target" in output, "an order after remote-fs-pre.target")
        say("Both paths to it are asked to stop. One may go. The last one refuses, and says why.")
        self._show(f"discoverctl stop {nqn}", status=REFUSED)
        output = self._show(f"discoverctl list | grep {nqn}")
        expect("in use by /mnt" in output, "'in use by /mnt' in the list")
        self._show("touch /mnt/still-there && sync /mnt && umount /mnt")
        self._show(f"discoverctl start {nqn}")
        self._until(f"{UNITS} live controllers", lambda: self._live() == UNITS, timeout=60)

    def _cut_a_path(self) -> None:
        say(
            "Cut the second path and watch a controller on it. The kernel tries for ctrl-loss-tmo, here 6 s, and "
            "gives up; then its worker takes over, for ever."
        )
        self._show("ip -netns tgt link set path1 down")
        before = self._status(PATHS[1])
        print(f"# watch systemctl show -P StatusText {unit(PATHS[1])}")
        cut = time.monotonic()
        self._watch(before, lambda text: text.startswith("waiting") and "attempt 2" in text, timeout=120)
        say("The first path carries on.")
        output = self._show(f"systemctl show -P StatusText {unit(PATHS[0])}")
        expect(output.startswith("live nvme"), "the status 'live nvmeN'")
        say("Heal it. The worker hears that the link is back, and does not wait for the end of its pause.")
        self._show("ip -netns tgt link set path1 up")
        healed = time.monotonic()
        self._watch(self._status(PATHS[1]), lambda text: text.startswith("live"), timeout=60)
        took = f"{time.monotonic() - healed:.0f} s after the link came back"
        with waiting("the other controllers of that path"):
            self._until(f"{UNITS} live controllers", lambda: self._live() == UNITS, timeout=60)
        say(f"Live {took}, without anybody's help; it was away for {time.monotonic() - cut:.0f} s in all.")

    def _refer_and_exclude(self) -> None:
        say("One more discovery controller, with a fifth subsystem; the first one's log page gets a referral to it.")
        self._show("lab-target add-port 3 192.0.2.1:4430 && lab-target add-subsystem vol5 && lab-target link vol5 3")
        self._show("lab-target refer 1 192.0.2.1:4430")
        with waiting("the discovery controller and what it lists"):
            self._until(f"{UNITS + 2} live controllers", lambda: self._live() == UNITS + 2, timeout=60)
        output = self._show(f"discoverctl why {VOL5}")
        expect("listed in the log page of tcp:192.0.2.1:4430:" in output, "who lists it")
        say("Keep it away: what an exclusion would hit, the exclusion, and the end of the connection.")
        output = self._show(f"discoverctl exclude --dry-run {VOL5}")
        expect("stays connected" in output, "that it stays connected")
        self._show(f"discoverctl exclude {VOL5} && discoverctl disconnect {VOL5}")
        output = self._show(f"discoverctl list | grep {VOL5}")
        expect(output.startswith("excluded"), "the state 'excluded'")
        self._show(f"discoverctl unexclude {VOL5} && discoverctl start {VOL5}")
        with waiting("it to come back"):
            self._until(f"{UNITS + 2} live controllers", lambda: self._live() == UNITS + 2, timeout=60)

    def _journal(self) -> None:
        say("Each line in the journal carries its controller: here everything about one subsystem, on all paths.")
        output = self._show(f"journalctl -q -o cat NVME_SUBSYSNQN={VOL1} | tail -n 12", whole=True)
        expect("lost the connection" in output and "connected nvme" in output, "the loss and the new connection")
        self._show("journalctl -q -o cat -n 3 -u discoverd", whole=True)

    def _show(self, command: str, *, status: int = 0, whole: bool = False) -> str:
        """Prints a command and what it printed, with `whole` also what is beyond the right edge of the terminal.

        Raises DemoError if the command ends with another status.
        """
        print(f"# {command}", flush=True)
        result = self._machine.run(f"export COLUMNS={WIDTH}; {command}", check=False)
        text = result.stdout + result.stderr
        for line in text.rstrip().splitlines():
            if whole:
                print(textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False))
            else:
                print(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…")
        print(flush=True)
        expect(result.returncode == status, f"the status {status} of '{command}', but {result.returncode}")
        return text

    def _watch(self, text: str, enough: Callable[[str], bool], timeout: float) -> None:
        """Prints each new status of vol1's unit on the second path until it is enough."""
        started = time.monotonic()
        print(f"  0 s  {text}", flush=True)
        while not enough(text):
            expect(time.monotonic() - started < timeout, f"another status than '{text}' within {timeout:.0f} s")
            time.sleep(0.3)
            before, text = text, self._status(PATHS[1])
            if text != before:
                print(f"{time.monotonic() - started:3.0f} s  {text}"[:WIDTH], flush=True)
        print()

    def _status(self, path: str) -> str:
        return self._machine.run(f"systemctl show -P StatusText {unit(path)}").stdout.strip()

    def _device(self, path: str) -> str:
        return self._status(path).partition(" ")[2]

    def _live(self) -> int:
        return int(self._machine.run("cat /sys/class/nvme/*/state | grep -cx live", check=False).stdout)

    def _until(self, what: str, condition: Callable[[], object], timeout: float) -> None:
        try:
            self._machine.wait_until(condition, timeout=timeout, what=what)
        except LabError as error:
            raise DemoError(str(error)) from error


def unit(path: str) -> str:
    """The unit of vol1 on one path."""
    return f"nvme-ctrl@tcp:{path}:4420:{VOL1}"


def expect(so: bool, what: str) -> None:
    """Raises DemoError with `what` if it is not so."""
    if not so:
        raise DemoError(f"expected {what}")


def say(text: str) -> None:
    print(textwrap.fill(text, WIDTH - 2, initial_indent="-- ", subsequent_indent="   "), flush=True)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says what is being waited for, and how long it took."""
    started = time.monotonic()
    print(f"... {what} ...", end="", flush=True)
    try:
        yield
    finally:
        print(f" {time.monotonic() - started:.1f} s\n", flush=True)


def leave_shell_open(machine: Machine) -> None:
    say("The machine's console is yours: you are root. Ctrl-] ends the shell and the machine. Try:")
    print(textwrap.indent(TRY, "   "), flush=True)
    machine.shell()
    print()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--shell", action="store_true", help="leave a shell in the machine open at the end")
    shell_wanted = parser.parse_args().shell
    if shell_wanted and not sys.stdin.isatty():
        print("demo: SHELL=1 needs a terminal as standard input", file=sys.stderr)
        return 2
    try:
        image = build()
    except ImageError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    machine = Machine(image)
    try:
        with waiting("booting a Debian with this discoverd installed"):
            machine.boot()
        Demo(machine).play()
        if shell_wanted:
            leave_shell_open(machine)
        else:
            say("That is all. 'make demo SHELL=1' leaves you a shell in this machine.")
    except (DemoError, LabError) as error:
        print(f"\ndemo: {error}\ndemo: logs are kept in {evidence.keep('demo', machine)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    finally:
        machine.discard()
    return 0


if __name__ == "__main__":
    sys.exit(main())
