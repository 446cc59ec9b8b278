# SPDX-License-Identifier: Apache-2.0
"""What a worker says to a discovery controller besides reading its log page, on a real kernel."""

from typing import Any

import pytest

from tests.lab import scenario
from tests.lab.cdc import ADDRESS, Cdc, entry
from tests.lab.machine import Machine
from tests.lab.scenario import nqn

UNIT = f"nvme-ctrl@tcp:{ADDRESS}:8009:{scenario.DISCOVERY}.service"
ANONYMOUS = f"""\
[Discovery Controller Defaults]
reconnect-delay = 1
keep-alive-tmo = 5
[Discovery Controller]
controller = transport=tcp;traddr={ADDRESS};trsvcid=8009
"""
REGISTERED = ", registered"


def named(symname: str) -> str:
    return f"[Host]\nhostsymname = {symname}\n{ANONYMOUS}"


@pytest.fixture
def target(host: Machine) -> Machine:
    """Two subsystems of the Linux target, at the address where the discovery controller is as well."""
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    return host


def inode(host: Machine) -> str:
    """What tells the controller of the first subsystem from a later one."""
    (found,) = [row[2] for row in scenario.controllers(host).values() if row[0] == nqn(1)]
    return found


def reload(host: Machine, text: str) -> None:
    scenario.configure(host, text)
    host.run("systemctl reload discoverd.service")


def lost(host: Machine) -> None:
    """Returns when the kernel has lost the discovery controller."""
    device = scenario.unit(host, UNIT).status.split()[1].rstrip(",:")
    host.wait_until(f"grep -q connecting /sys/class/nvme/{device}/state", what=f"the kernel has lost {device}")


def said(cdc: Cdc, task: str) -> list[dict[str, Any]]:
    """Every registration, or leave, that the controller has accepted."""
    return [note for note in cdc.history("dim") if note["task"] == task]


def test_a_host_is_on_record_as_long_as_its_unit_runs(target: Machine) -> None:
    who = target.run("cat /etc/nvme/hostnqn").stdout.strip()
    with Cdc(target, entries=[entry(nqn(1))]) as cdc:

        def known_as(name: str | None) -> bool:
            return who in cdc.registered() and cdc.registered()[who]["symbolic_name"] == name

        scenario.start(target, ANONYMOUS)
        scenario.wait_unit(target, UNIT, REGISTERED)
        scenario.wait_live(target, 2)
        assert list(cdc.registered()) == [who]
        told = cdc.registered()[who]
        assert told["host_id"] == target.run("cat /etc/nvme/hostid").stdout.strip()
        assert told["version"].startswith("Linux 6.")
        assert told["name"] == target.run("uname -n").stdout.strip()
        # nvme-cli says the same, byte for byte.
        device = scenario.unit(target, UNIT).status.split()[1].rstrip(",")
        ours = cdc.order("record", raw=True)["registered"][0]["raw"]
        target.run(["nvme", "dim", "-d", device, "--task", "register"])
        assert cdc.order("record", raw=True)["registered"][0]["raw"] == ours

        # An event is no reason to register again; a name is, and another name.
        count = len(said(cdc, "register"))
        cdc.order("add", **entry(nqn(2)))
        seconds = scenario.wait_live(target, 3)
        print(f"from the event to the new controller: {seconds:.1f} s")
        assert len(said(cdc, "register")) == count
        for name in ("rack 4, upper half", "rack 5"):
            reload(target, named(name))
            target.wait_until(lambda name=name: known_as(name), what=f"it is known as {name}")  # type: ignore[misc]

        # A cut link; then a controller that dies and comes back with nothing on record.
        count = len(said(cdc, "register"))
        target.cut_link("path0")
        lost(target)
        target.restore_link("path0")
        target.wait_until(lambda: len(said(cdc, "register")) > count, timeout=90, what="it registers after a cut link")
        scenario.wait_unit(target, UNIT, REGISTERED)
        cdc.kill()
        lost(target)
        cdc.start()
        target.wait_until(lambda: known_as("rack 5"), timeout=90, what="it registers with one that was started anew")
        scenario.wait_unit(target, UNIT, REGISTERED)

        # The supervisor's restart is nothing to tell; a worker's is, because a new one does not know what was said.
        count = len(said(cdc, "register"))
        target.run("systemctl restart discoverd.service", timeout=scenario.GENEROUS)
        assert len(said(cdc, "register")) == count
        target.run(["systemctl", "stop", UNIT])
        assert not cdc.registered()
        assert len(said(cdc, "deregister")) == 1
        target.run(["systemctl", "start", UNIT])
        scenario.wait_unit(target, UNIT, REGISTERED)
        assert known_as("rack 5")

        # One that no longer answers holds up the stop for three seconds.
        cdc.order("misbehave", step="dim", action="ignore")
        seconds = float(target.run(f"TIMEFORMAT=%R; time systemctl stop '{UNIT}'").stderr)
        print(f"stopped, and had no answer: {seconds:.1f} s")
        warnings = [line.message for line in target.journal(UNIT, priority=4)]
        assert any("left without deregistering" in line for line in warnings), warnings


def test_controller_that_fails_over_a_question_is_read_all_the_same(target: Machine) -> None:
    """What it does not answer costs the connection, so it is not asked for ever."""
    entries = [entry(nqn(1))]
    with Cdc(target, instances={"cdc": {"dctype": "ddc", "epcsd": False, "dim": False}}, entries=entries) as cdc:
        scenario.start(target, named("rack 4"))
        scenario.wait_unit(target, UNIT, "not registered: the controller answered with NVMe status 0x4001 (invalid op")
        scenario.wait_live(target, 2)
        assert not cdc.registered()
        cdc.order("add", **entry(nqn(2)))
        scenario.wait_live(target, 3)
        cdc.order("instance", name="cdc", dim=True)
        seconds = scenario.wait_unit(target, UNIT, REGISTERED)
        print(f"refused, then accepted after {seconds:.1f} s")
        before = inode(target)

        for step, action, after, times in (
            ("dim", "drop", 0, None),
            ("dim", "ignore", 0, 1),
            ("log-supported", "drop", 0, None),
            # The first is the kernel's own.
            ("identify", "drop", 1, 1),
        ):
            target.run(["systemctl", "stop", UNIT])
            cdc.order("forget")
            cdc.order("load", entries=entries, rules=[{"step": step, "action": action, "after": after, "times": times}])
            target.run(["systemctl", "start", UNIT])
            scenario.wait_unit(target, UNIT, "2 entries in its log page")
            cdc.order("add", **entry(nqn(2)))
            seconds = scenario.wait_unit(target, UNIT, "3 entries in its log page")
            print(f"{step} {action}: {seconds:.1f} s, connected {len(cdc.history('connected'))} times")
            if step != "dim" or times:
                scenario.wait_unit(target, UNIT, REGISTERED)
            cdc.order("behave")
        assert inode(target) == before


def test_entries_of_the_port_that_was_asked(target: Machine) -> None:
    entries = [entry(nqn(1)), entry(nqn(1), "192.0.2.77")]
    with Cdc(target, entries=entries) as cdc:

        def settings(pleo: str) -> None:
            target.put("/etc/nvme/discoverd.conf", f"[Global]\npleo = {pleo}\n")

        def become(dctype: str) -> None:
            # The kernel asks for the type once in a controller's life.
            cdc.order("instance", name="cdc", dctype=dctype)
            target.run(f"systemctl stop '{UNIT}' && systemctl reload discoverd.service && systemctl start '{UNIT}'")

        def listed(count: int) -> None:
            scenario.wait_unit(target, UNIT, f"{count} entries in its log page")

        settings("yes")
        scenario.start(target, ANONYMOUS)
        listed(3)
        become("ddc")
        listed(2)
        cdc.order("instance", name="cdc", log_options=0)
        cdc.order("disconnect")
        listed(3)
        cdc.order("instance", name="cdc", log_options=2)
        cdc.order("disconnect")
        listed(2)
        settings("no")
        target.run("systemctl reload discoverd.service")
        listed(3)
        scenario.wait_unit(target, UNIT, REGISTERED)
        settings("yes")
        become("none")
        listed(2)
        assert REGISTERED not in scenario.unit(target, UNIT).status
