# SPDX-License-Identifier: Apache-2.0
"""A user of the host without rights, who is in the way wherever he can: controllers go on as if he was not there."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import journal, scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn, unit_name

NOBODY = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
# The unit in which he works, and what that has said.
USER, SAID = "lab-user.service", "/run/lab-user"
# Seconds that a restart, a stop and a start may take longer than without him.
# What is printed is the measurement; this is for a busy machine.
LATER = 60
WARNING = 4
MOUNTS = 10_000
PROCESSES = "cat /sys/fs/cgroup/system.slice/discoverd.service/cgroup.procs"
PORT = 8009
LISTENER = f"""
import socket
listening = socket.create_server(("", {PORT}))
while True:
    print(listening.accept()[1], flush=True)
"""


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    """The shared machine with two volumes, live."""
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    host.run("modprobe nvme-tcp && systemctl start avahi-daemon.service", timeout=GENEROUS)
    scenario.start(host)
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    yield host
    host.run(f"systemctl stop '{USER}' 'lab-user-*.service'; rm -f {SAID}*", check=False)


def guest(host: Machine, name: str) -> str:
    """Put a program into the machine, for everybody to read; return its path."""
    path = f"/tmp/{name}"
    host.put(path, Path(__file__).with_name(name).read_text())
    return path


def run_as_nobody(host: Machine, command: str, unit: str = USER, said: str = SAID) -> None:
    """Have a command run as a user without rights, in the background."""
    host.run(f"systemd-run --quiet --unit={unit} --collect sh -c 'exec {NOBODY} {command} >{said} 2>&1'")


def cycle(host: Machine) -> float:
    """Restart, stop and start a controller; return the seconds."""
    began = time.monotonic()
    host.run(f"systemctl restart '{unit_name(1)}'", timeout=GENEROUS)
    scenario.wait_live(host, 3)
    host.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
    assert nqn(1) not in scenario.live(host)
    host.run(f"systemctl start '{unit_name(1)}'", timeout=GENEROUS)
    scenario.wait_live(host, 3)
    return time.monotonic() - began


class Watch:
    """What may not change while the user is at work. Made before he begins."""

    def __init__(self, host: Machine) -> None:
        self._host = host
        # The second time: the first one may load what nobody has needed yet.
        cycle(host)
        self._alone = cycle(host)
        scenario.wait_status(host, "3 controllers: 3 live")
        self._processes = host.run(PROCESSES).stdout
        self._units = set(scenario.units(host))
        self._since = host.journal_end()

    def check(self) -> None:
        """Controllers start, stop and disconnect in time, nobody was replaced, and no more than one thing is said."""
        beside = cycle(self._host)
        print(f"restart, stop and start: {self._alone:.1f} s alone, {beside:.1f} s beside the user")
        assert beside <= self._alone + LATER
        scenario.wait_status(self._host, "3 controllers: 3 live")
        assert set(scenario.units(self._host)) == self._units
        assert self._host.run(PROCESSES).stdout == self._processes, "supervisor and agent are those from before"
        said = {
            entry.message
            for entry in self._host.journal(since=self._since)
            if entry.priority <= WARNING
            and (journal.OUR_UNITS.fullmatch(entry.unit) or entry.unit == "discoverd-mounts.service")
        }
        print("said meanwhile:", said)
        assert len(said) <= 1, said


def listen(host: Machine) -> None:
    """Have him listen on this host's addresses, and note who connects."""
    host.put(f"{SAID}.py", LISTENER)
    run_as_nobody(host, f"python3 {SAID}.py", "lab-user-listener.service", f"{SAID}.connections")
    host.wait_until(f"ss -Htln 'sport = :{PORT}' | grep -q .", what="he listens")


def check_nobody_connects(host: Machine, watch: Watch) -> None:
    # As long as an announcement would take to become a unit, several times over.
    time.sleep(20)
    watch.check()
    assert host.read(f"{SAID}.connections") == b"", "nobody has connected to what a user listens on"


def test_discovery_controllers_published_on_this_host(host: Machine) -> None:
    listen(host)
    watch = Watch(host)
    # One at this host, one at an address that he makes up, which may be anybody's.
    published = {
        "lab-user-mine.service": f"avahi-publish -s mine _nvme-disc._tcp {PORT} p=tcp",
        "lab-user-name.service": "avahi-publish -a -R foreign.local 192.0.2.77",
        "lab-user-far.service": f"avahi-publish -s -H foreign.local far _nvme-disc._tcp {PORT} p=tcp",
    }
    for unit, command in published.items():
        run_as_nobody(host, command, unit, f"{SAID}.{unit}")
    browse = "avahi-browse --parsable --terminate _nvme-disc._tcp"
    host.wait_until(
        f"{browse} | grep -q ';mine;' && {browse} | grep -q ';far;'", timeout=GENEROUS, what="both are published"
    )
    check_nobody_connects(host, watch)


def test_a_responder_of_his_own(host: Machine) -> None:
    """What he says with it Avahi hears as if it came over the link."""
    listen(host)
    watch = Watch(host)
    run_as_nobody(host, f"python3 {guest(host, 'guest_mdns.py')} 192.0.2.2 192.0.2.2 {PORT} 1")
    browse = "avahi-browse --parsable --terminate _nvme-disc._tcp"
    host.wait_until(f"{browse} | grep -q ';user-0;'", timeout=GENEROUS, what="Avahi hears him")
    check_nobody_connects(host, watch)


def test_locks_on_all_that_he_can_open(host: Machine) -> None:
    program = guest(host, "guest_locks.py")
    watch = Watch(host)
    run_as_nobody(host, f"python3 {program}")
    host.wait_until(f"test -s {SAID}", what="he has his locks")
    print("locks:", host.read(SAID).decode().strip())
    watch.check()
    host.run("discoverctl exclude nqn=nqn.2024-08.com.example:vol7", timeout=GENEROUS)
    host.run("systemctl restart discoverd.service", timeout=GENEROUS)
    scenario.wait_status(host, "3 controllers: 3 live")


def test_ten_thousand_mounts_of_his_own(host: Machine) -> None:
    program = guest(host, "guest_many_mounts.py")
    watch = Watch(host)
    disk = scenario.unit(host, unit_name(1)).status.split()[1] + "n1"
    run_as_nobody(host, f"unshare --user --map-root-user --mount python3 {program} {MOUNTS} /dev/{disk}")
    host.wait_until(f"grep -qx {MOUNTS + 1} {SAID}", timeout=300, what="all are mounted")
    watch.check()
