# SPDX-License-Identifier: Apache-2.0
"""A hostile announcer on the link, beside an array that is configured: it keeps nobody waiting, and leaves nothing."""

import pytest

from tests.lab import scenario
from tests.lab.announcer import ADDRESSES, Announcer, Measured, measure
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, GENEROUS, ONE_DISCOVERY_CONTROLLER, nqn, unit_name

SUBSYSTEMS = 16
# The target of the lab and the announcer listen on IPv4 only.
SETTINGS = "[Global]\nmdns-families = ipv4\n"
# Seconds. What is printed is the measurement.
BESIDE, END = 90, 600
# KiB of the supervisor's proportional set size (PSS), and milliseconds of a turn of its loop: 50, and four times that
# where others have the processors as well.
MEMORY, TURN = 64 * 1024, 4 * 50
# Where a host must not go because somebody on a link says so: itself, and what a broadcast reaches.
TRAPS = ("192.0.2.2", "198.51.100.2", "127.0.0.1", "192.0.2.255", "0.0.0.0")  # noqa: S104
VOLUMES = {unit_name(number) for number in range(1, SUBSYSTEMS + 1)}


@pytest.fixture
def host(host: Machine) -> Machine:
    """The shared machine with an array, configured, and with Avahi."""
    host.run(f"lab-target up --subsystems {SUBSYSTEMS} --ports 192.0.2.1:4420")
    host.run("modprobe nvme-tcp && systemctl start avahi-daemon.service", timeout=GENEROUS)
    host.put("/etc/nvme/discoverd.conf", SETTINGS)
    scenario.configure(host, ONE_DISCOVERY_CONTROLLER)
    return host


def strangers(host: Machine) -> list[str]:
    """All that is there because of the announcer: units, state, workers, controllers, registry entries."""
    return host.run(
        "systemctl list-units --all --plain --no-legend 'nvme-ctrl@*' | grep -vF nvme-ctrl@tcp:192.0.2.1:4420:\n"
        f"grep -rlE '{'|'.join(ADDRESSES)}' /run/discoverd\n"
        "ls /run/discoverd/controllers | grep -vF tcp:192.0.2.1:4420:\n"
        "pgrep -fa nvme-ctrl-worker | grep -vF tcp:192.0.2.1:4420:\n"
        "grep -LF traddr=192.0.2.1, /sys/class/nvme/nvme*/address\n"
        f"grep -lE '{'|'.join(ADDRESSES)}' /run/nvme/registry/*/unit",
        check=False,
    ).stdout.splitlines()


def report(what: str, measured: Measured) -> None:
    print(
        f"{what}: {SUBSYSTEMS} live after {measured.live_seconds} s; supervisor PSS {measured.pss} KiB, "
        f"peak RSS {measured.peak_rss} KiB; {measured.workers} units; {measured.turns} turns, the longest "
        f"{measured.longest[:3]}, on a machine {measured.slowness:.1f} times as slow as what it stands for"
    )


# The measurement takes minutes, and what is announced has ten to end.
@pytest.mark.timeout(2400)
def test_an_array_beside_a_hostile_announcer(host: Machine) -> None:
    since = host.journal_end()
    with Announcer(host) as announcer:
        beside = measure(host, nqn(""), SUBSYSTEMS, BESIDE)
        report("beside the announcer", beside)
        seen = announcer.seen()
        print("the announcer has seen:", seen)
        names = host.run("ls /run/discoverd/controllers").stdout.splitlines()
    assert seen["reached"] > 0, "it was not heard, so nothing was shown"
    assert beside.live_seconds is not None
    assert beside.pss < MEMORY
    assert not beside.lost_events, "the longest turn may be among what was lost"
    assert beside.turns > 100
    assert beside.longest[0]["ms"] <= TURN * beside.slowness, beside.longest
    # It is told nothing of the host, is no path of the array, and has nobody connect to the host itself.
    assert seen["dim"] == 0
    foreign = [one for one in names if any(f":{address}:" in one for address in (*ADDRESSES, *TRAPS))]
    assert not [one for one in foreign if any(f":{address}:" in one for address in TRAPS)]
    assert not [one for one in foreign if ":nqn.2024-08.com.example:vol" in one]
    tried = [entry.message for entry in host.journal(since=since) if entry.message.startswith("starting ")]
    assert not [one for one in tried if any(f" tcp:{address}:" in one for address in TRAPS)]

    before = scenario.controllers(host)
    # Five minutes and more.
    if scenario.LONG:
        seconds = host.wait_until(
            lambda: not strangers(host), timeout=END, interval=5, what="nothing is left of the announcer"
        )
        print(f"nothing is left of it {seconds:.0f} s after its end")
    ours = {name: one for name, one in before.items() if one[0] in {nqn(n) for n in range(1, SUBSYSTEMS + 1)}}
    assert len(ours) == SUBSYSTEMS
    assert {name: scenario.controllers(host).get(name) for name in ours} == ours
    assert set(scenario.units(host)) >= VOLUMES | {DISCOVERY_UNIT}
    assert not scenario.LONG or set(scenario.units(host)) == VOLUMES | {DISCOVERY_UNIT}
