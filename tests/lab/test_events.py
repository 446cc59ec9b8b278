# SPDX-License-Identifier: Apache-2.0
"""What a change costs on a host with many controllers and long log pages: from the event to the new controller.

Seconds are printed and not judged: machines differ. How often the log page is read is judged.
"""

import re
import statistics
from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.cdc import Cdc, entry
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn, unit_name

CONFIGURATION = """\
[Discovery Controller]
controller = transport=tcp;traddr=192.0.2.1;trsvcid=8009

[I/O Controller Defaults]
nr-io-queues = 1
"""
DISCOVERY_UNIT = f"nvme-ctrl@tcp:192.0.2.1:8009:{scenario.DISCOVERY}.service"
CONNECTED = 16
LISTED = 512
EVENTS = 3
SUBSYSTEMS = CONNECTED + 2 * EVENTS
# A storm, and the most that it may cost.
STORM, STORM_SECONDS, READINGS = 1000, 10, 12
MONITOR = "/run/lab-events"
# What is seen of a change, in this order.
STEPS = ("page read", "decided", "unit begun", "connected", "told")


@pytest.fixture
def monitor(host: Machine) -> Iterator[Machine]:
    """A host on which each uevent of a controller is on record, with the time of its arrival."""
    host.run("modprobe nvme-tcp")
    host.run(f"udevadm monitor -k -p -s nvme >>{MONITOR} 2>&1 & sleep 0.5", check=False)
    yield host
    host.run("pkill -x udevadm; true")


@scenario.long
def test_an_event_among_many_controllers_and_entries(monitor: Machine) -> None:
    """With 16 controllers connected; then with 512 entries in the log page besides.

    Most of the 512 are for subsystems that an exclusion keeps from being connected: each is read, understood,
    decided about and shown by discoverctl like the others, and there is a limit to what one emulated machine connects.
    """
    host = monitor
    host.run(f"lab-target up --subsystems {SUBSYSTEMS} --ports 192.0.2.1:4420", timeout=300)
    host.put("/etc/nvme/exclusions.conf", "[exclusions]\nexclusion = transport=tcp;traddr=192.0.2.1;trsvcid=4499\n")
    volumes = iter(range(1, SUBSYSTEMS + 1))
    entries = [entry(nqn(next(volumes))) for _ in range(CONNECTED)]
    with Cdc(host, entries=entries) as cdc:
        scenario.start(host, CONFIGURATION)
        # Not the kernel's view: to read so many files so often would slow it down.
        seconds = scenario.wait_status(host, f"{CONNECTED + 1} live", timeout=3 * GENEROUS)
        print(f"{CONNECTED} controllers live after {seconds:.1f} s")
        measure(host, cdc, f"{CONNECTED} connected", [next(volumes) for _ in range(EVENTS)])

        there = CONNECTED + EVENTS
        more = [entry(nqn(f"other{number}"), trsvcid="4499") for number in range(LISTED - there)]
        cdc.order("load", entries=[entry(nqn(volume)) for volume in range(1, there + 1)] + more)
        scenario.wait_unit(host, DISCOVERY_UNIT, f"{LISTED + 1} entries")
        scenario.wait_status(host, f"{len(more)} excluded")
        measure(host, cdc, f"{LISTED} listed", [next(volumes) for _ in range(EVENTS)])


def test_a_storm_of_events(host: Machine) -> None:
    """Each with a new generation, and sent although the page was not read since the last one.

    The page is short, so that it could be read often, and changes during each reading all the same.
    """
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    with Cdc(host, entries=[entry(nqn(1))]) as cdc:
        scenario.start(host, CONFIGURATION)
        scenario.wait_live(host, 2)
        before = cdc.counter("log-reads")
        cdc.order("event", count=STORM, seconds=STORM_SECONDS, force=True, change=True)
        host.wait_until(lambda: not cdc.order("status")["storms"], timeout=GENEROUS, what="the storm is over")
        cdc.order("add", **entry(nqn(2)))
        seconds = scenario.wait_unit(host, unit_name(2), "live nvme")
        scenario.wait_unit(host, DISCOVERY_UNIT, f"3 entries in its log page (generation {STORM + 2})")
        readings, events = cdc.counter("log-reads") - before, cdc.counter("events")
        print(f"{events} events, {readings} readings; what changed last was live after {seconds:.1f} s")
        # What was added after it is announced by one more only where the page was read in between.
        assert events >= STORM
        assert readings <= READINGS


def measure(host: Machine, cdc: Cdc, title: str, volumes: list[int]) -> None:
    """Add subsystems one by one, and print how long after the event each step was seen."""
    rows = []
    for volume in volumes:
        # The next one finds a host that has nothing else to do, and no reading of less than a second ago.
        host.run("udevadm settle; sleep 2")
        start = host.journal_end()
        host.run(f": >{MONITOR}")
        cdc.order("add", **entry(nqn(volume)))
        scenario.wait_unit(host, unit_name(volume), "live nvme")
        rows.append(steps(host, volume, start))
    for row in rows:
        print(f"{title}: " + ", ".join(f"{step} {row[step]:.2f}" for step in STEPS))
    middle = {step: statistics.median(row[step] for row in rows) for step in STEPS}
    print(f"{title}, median: " + ", ".join(f"{step} {seconds:.2f}" for step, seconds in middle.items()))


def steps(host: Machine, volume: int, since: int) -> dict[str, float]:
    """Seconds from the kernel's announcement of the event to each step, by this machine's clock."""
    announced = re.search(r"^KERNEL\[([\d.]+)\][^\n]*\n(?:[^\n]+\n)*?NVME_AEN=0x70f002$", seen(host), re.MULTILINE)
    assert announced
    found: dict[str, float] = {}
    for line in host.journal(since=since):
        name, text = unit_name(volume), line.message
        if line.unit == DISCOVERY_UNIT and ": discovery log page: " in text:
            step = "page read"
        elif line.unit == "discoverd.service" and text.startswith(f"starting {name[10:-8]}:"):
            step = "decided"
        elif line.identifier == "systemd" and line.unit == name and text.startswith("Starting "):
            step = "unit begun"
        elif line.identifier == "kernel" and f'new ctrl: NQN "{nqn(volume)}"' in text:
            step = "connected"
        elif line.identifier != "systemd" and line.unit == name and ": connected nvme" in text:
            step = "told"
        else:
            continue
        stamp = line.fields.get("_SOURCE_MONOTONIC_TIMESTAMP") or line.fields["__MONOTONIC_TIMESTAMP"]
        found.setdefault(step, int(str(stamp)) / 1e6 - float(announced[1]))
    assert found.keys() == set(STEPS), found
    return found


def seen(host: Machine) -> str:
    return host.read(MONITOR).decode(errors="replace")
