# SPDX-License-Identifier: Apache-2.0
"""A user without rights sends discoverd whatever he likes over the system bus, and nothing waits for that."""

from pathlib import Path

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, GENEROUS, unit_name

SECONDS = 30
# One connection hears systemd's signals, one talks to Avahi.
NAMES = 2


def processes(host: Machine) -> dict[str, int]:
    """The supervisor's process and the unit agent's."""
    supervisor = int(host.run("systemctl show -P MainPID discoverd.service").stdout)
    agent = int(host.run("pgrep -f libexec/discoverd/unit-agent").stdout)
    return {"supervisor": supervisor, "unit agent": agent}


def names(host: Machine, process: int) -> list[str]:
    """The names that a process has on the system bus, as any user sees them."""
    rows = host.run("runuser -u nobody -- busctl --system --no-legend --no-pager list").stdout.splitlines()
    return [row.split()[0] for row in rows if row.split()[1] == str(process)]


def begin(host: Machine, unit: str, script: str, user: str, *arguments: str) -> None:
    """Run a script in the background, with its output in a file."""
    text = Path(__file__).with_name(script).read_text()
    host.put(f"/var/tmp/{script}", text)
    host.run(f"rm -f /var/tmp/{unit}.out")
    output = f"-p StandardOutput=file:/var/tmp/{unit}.out"
    host.run(f"systemd-run -q --unit={unit} --uid={user} {output} python3 /var/tmp/{script} {' '.join(arguments)}")


def result(host: Machine, unit: str) -> list[int]:
    host.wait_until(f"! systemctl is-active -q {unit}.service", timeout=SECONDS + GENEROUS, what=f"{unit} has ended")
    return [int(word) for word in host.read(f"/var/tmp/{unit}.out").split()]


def test_flood_of_signals_delays_nothing(host: Machine) -> None:
    host.run("lab-target up --subsystems 4 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 5)
    scenario.wait_status(host, "5 controllers: 5 live")
    before = processes(host)
    assert names(host, before["unit agent"]) == [], "it uses a socket that only root can use"
    host.wait_until(lambda: len(names(host, before["supervisor"])) == NAMES, what="both connections are there")
    targets = names(host, before["supervisor"])

    begin(host, "turns", "guest_turns.py", "root", "5")
    quiet = result(host, "turns")
    begin(host, "flood", "guest_flood.py", "nobody", str(SECONDS), *targets)
    begin(host, "turns", "guest_turns.py", "root", str(SECONDS))
    rounds = 0
    while host.run("systemctl is-active -q flood.service", check=False).returncode == 0:
        rounds += 1
        host.run(["systemctl", "stop", unit_name(1)], timeout=GENEROUS)
        stopped = scenario.wait_status(host, "4 live, 1 stopped")
        host.run(["systemctl", "start", unit_name(1)], timeout=GENEROUS)
        # Its page is read again, and what it does not list any more is made a unit for again.
        host.run(["systemctl", "restart", DISCOVERY_UNIT, unit_name(2)], timeout=GENEROUS)
        started = scenario.wait_status(host, "5 controllers: 5 live")
        print(f"the supervisor saw the stop after {stopped:.1f} s, and the starts after {started:.1f} s")
    assert rounds
    sent, flooded = result(host, "flood")[0], result(host, "turns")
    print(f"{sent} signals; the loop's longest turn: {flooded[0]} ms of {flooded[1]}, when quiet {quiet[0]} ms")
    assert sent > 1000
    assert processes(host) == before, "nobody was started anew"
    assert names(host, before["supervisor"]) == targets, "and no connection made anew"
    lines = [one for one in host.journal("discoverd.service", priority=4) if "nobody asked for" in one.message]
    assert 0 < len(lines) <= NAMES


def test_unit_that_was_stopped_during_flood_stays_loaded(host: Machine) -> None:
    """What keeps it loaded is asked for over the bus, and is made up for."""
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    supervisor = processes(host)["supervisor"]
    begin(host, "flood", "guest_flood.py", "nobody", "10", *names(host, supervisor))
    host.run(["systemctl", "stop", unit_name(1)], timeout=GENEROUS)
    scenario.wait_status(host, "2 live, 1 stopped")
    result(host, "flood")

    def loaded() -> bool:
        shown = scenario.unit(host, unit_name(1))
        return (shown.load, shown.active) == ("loaded", "inactive")

    host.wait_until(loaded, timeout=GENEROUS, what="the stopped unit is loaded")
    host.run("systemctl restart discoverd.service", timeout=GENEROUS)
    host.wait_until(loaded, timeout=GENEROUS, what="the stopped unit is loaded after a restart")
    host.run(["systemctl", "start", unit_name(1)], timeout=GENEROUS)
    scenario.wait_status(host, "3 controllers: 3 live")
