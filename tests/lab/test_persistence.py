# SPDX-License-Identifier: Apache-2.0
"""Which discovery controllers have a persistent connection, and which are parked, on a real kernel."""

import re

from tests.lab import scenario
from tests.lab.cdc import ADDRESS, Cdc, entry
from tests.lab.machine import Machine
from tests.lab.scenario import nqn

# What they say of themselves: an entry that promises persistent connections (EPCSD), whether they know Keep Alive, and
# whether they announce events. The Linux target is as the second one.
SAY = {
    "promises": {"epcsd": True, "kas": 0, "events": False},
    "linux": {"epcsd": False, "kas": 10, "events": True},
    "silent": {"epcsd": False, "kas": 10, "events": False},
    "restless": {"epcsd": False, "kas": 0, "events": True},
    "liar": {"epcsd": True, "kas": 10, "events": True, "drop_after": 3},
}
PORTS = {name: 8009 + number for number, name in enumerate(SAY)}
HELD = ", registered"
PARKED = {
    "silent": "it announces no changes",
    "restless": "it takes no keep-alive",
    "liar": "it ends each connection within a minute",
}
DEFAULTS = "[Discovery Controller Defaults]\nreconnect-delay = 1\n"


def configuration(persistent: str = "") -> str:
    return (
        DEFAULTS
        + (f"persistent = {persistent}\n" if persistent else "")
        + "[Discovery Controller]\n"
        + "".join(f"controller = transport=tcp;traddr={ADDRESS};trsvcid={port}\n" for port in PORTS.values())
    )


def status(host: Machine, name: str) -> str:
    return scenario.unit(host, f"nvme-ctrl@tcp:{ADDRESS}:{PORTS[name]}:{scenario.DISCOVERY}.service").status


def wait_parked(host: Machine, name: str, why: str) -> None:
    pattern = rf"parked until \d\d:\d\d: {re.escape(why)}, \d entr.* in its log page \(generation \d+\)"
    host.wait_until(lambda: re.match(pattern, status(host, name)), what=f"{name} is parked: {status(host, name)}")


def wait_held(host: Machine, name: str) -> None:
    host.wait_until(
        lambda: status(host, name).startswith("live") and HELD in status(host, name),
        what=f"{name} is held: {status(host, name)}",
    )


def test_controllers_are_persistent_or_parked_by_what_they_say(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    instances = {name: {"port": PORTS[name], **says} for name, says in SAY.items()}
    # Only one that is parked lists the first volume.
    entries = [entry(nqn(1), instances=["silent"])]
    with Cdc(host, instances=instances, entries=entries) as cdc:
        scenario.start(host, configuration())
        for name, why in PARKED.items():
            wait_parked(host, name, why)
            assert cdc.registered(name), f"{name} was left before it knew this host"
        wait_held(host, "promises")
        wait_held(host, "linux")
        host.wait_until(lambda: nqn(1) in scenario.live(host), what="what a parked one lists is connected")
        assert len(scenario.live(host)) == 3
        # The liar is tried again from time to time.
        scenario.wait_status(host, "3 parked", timeout=200)
        host.run(f"discoverctl status tcp:{ADDRESS}:{PORTS['silent']}:{scenario.DISCOVERY}")

        # What it lists now is heard of at the next reading, for which a reload does not wait.
        before = scenario.controllers(host)
        cdc.order("add", **entry(nqn(2), instances=["silent"]))
        host.run("systemctl reload discoverd.service")
        host.wait_until(lambda: nqn(2) in scenario.live(host), what="the new one is connected")
        wait_parked(host, "silent", PARKED["silent"])
        kept = {device: row for device, row in before.items() if row[0] != scenario.DISCOVERY}
        assert kept.items() <= scenario.controllers(host).items()

        scenario.configure(host, configuration("force"))
        host.run("systemctl reload discoverd.service")
        for name in SAY:
            if name != "liar":
                wait_held(host, name)
        host.wait_until(lambda: "parked" not in status(host, "liar"), what="it is held, as far as it lets itself")

        scenario.configure(host, configuration("no"))
        host.run("systemctl reload discoverd.service")
        for name in SAY:
            wait_parked(host, name, "persistent = no")
        assert sorted(scenario.live(host)) == [nqn(1), nqn(2)]
        assert kept.items() <= scenario.controllers(host).items()
