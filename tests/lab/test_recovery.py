# SPDX-License-Identifier: Apache-2.0
"""What is lost comes back by itself; what is killed changes no connection."""

from collections.abc import Callable

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, GENEROUS, unit_name

IMPATIENT = """\
[Discovery Controller Defaults]
ctrl-loss-tmo = 5
reconnect-delay = 1
keep-alive-tmo = 5
[I/O Controller Defaults]
ctrl-loss-tmo = 5
reconnect-delay = 1
keep-alive-tmo = 5
"""


@scenario.long
def test_a_link_that_is_cut_for_longer_than_ctrl_loss_tmo(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host, IMPATIENT + scenario.ONE_DISCOVERY_CONTROLLER)
    scenario.wait_live(host, 3)
    for silent in (False, True):
        print("packets lost" if silent else "carrier lost")
        cut_and_restore(host, silent)


def cut_and_restore(host: Machine, silent: bool) -> None:
    host.cut_link("path0", silent=silent)
    scenario.wait_unit(host, unit_name(1), "waiting")
    scenario.wait_status(host, "waiting")
    host.wait_until(
        lambda: not any(state == "live" for _, state, _ in scenario.controllers(host).values()),
        timeout=GENEROUS,
        what="the kernel has given up",
    )
    host.wait_until(
        lambda: "attempt 3: " in scenario.unit(host, unit_name(1)).status, timeout=GENEROUS, what="a third attempt"
    )
    shown = scenario.unit(host, unit_name(1))
    print(shown.status)
    assert shown.active == "active"
    host.restore_link("path0")
    seconds = scenario.wait_live(host, 3)
    print(f"from the link's return to live: {seconds:.1f} s")
    scenario.wait_status(host, "3 controllers: 3 live")
    host.wait_until(lambda: len(scenario.registry(host)) == 3, what="three registry entries")


def kill_supervisor(host: Machine) -> None:
    host.run("systemctl kill -s KILL discoverd.service")


def kill_worker(host: Machine) -> None:
    host.run(f"systemctl kill -s KILL '{unit_name(1)}' '{DISCOVERY_UNIT}'")


def kill_unit_agent(host: Machine) -> None:
    host.run("pkill -KILL -f libexec/discoverd/unit-agent")


def reexec(host: Machine) -> None:
    host.run("systemctl daemon-reexec", timeout=GENEROUS)


def reload(host: Machine) -> None:
    host.run("systemctl daemon-reload", timeout=GENEROUS)


def restart_bus(host: Machine) -> None:
    host.run("systemctl restart dbus.service", timeout=GENEROUS)


def test_nothing_is_disconnected_by_what_happens_to_processes(host: Machine) -> None:
    host.run("lab-target up --subsystems 3 --ports 192.0.2.1:4420")
    scenario.start(host)
    blows = (kill_supervisor, kill_worker, kill_unit_agent, reexec, reload, restart_bus)
    for count, blow in enumerate(blows, 4):
        scenario.wait_live(host, count)
        scenario.wait_status(host, f"{count} controllers: {count} live")
        print(blow.__name__)
        strike(host, blow, count)


def strike(host: Machine, blow: Callable[[Machine], None], count: int) -> None:
    """So many controllers are live before, and one more afterwards."""
    host.run(f"systemctl stop '{unit_name(2)}'", timeout=GENEROUS)
    scenario.wait_status(host, f"{count - 1} live, 1 stopped")
    before = scenario.controllers(host)

    blow(host)

    def supervised() -> bool:
        units = scenario.units(host)
        running = [unit for unit in units.values() if unit.active == "active" and unit.main_pid]
        return len(running) == count - 1 and unit_name(2) in units

    host.wait_until(supervised, timeout=GENEROUS, what="all is supervised again")
    scenario.wait_status(host, f"{count - 1} live, 1 stopped")
    assert scenario.controllers(host) == before
    # It is not only shown but works: the stopped one starts, an event arrives.
    host.run(f"systemctl start '{unit_name(2)}'", timeout=GENEROUS)
    scenario.wait_live(host, count)
    host.run(f"lab-target add-subsystem vol{count} && lab-target link vol{count} 1")
    scenario.wait_live(host, count + 1)
    scenario.wait_status(host, f"{count + 1} controllers: {count + 1} live")


def test_a_target_that_comes_late(host: Machine) -> None:
    scenario.start(host)
    scenario.wait_unit(host, DISCOVERY_UNIT, "connection refused")
    assert host.run("systemctl is-active discoverd.service").stdout == "active\n"
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    seconds = scenario.wait_live(host, 3)
    print(f"from the target's start to live: {seconds:.1f} s")
