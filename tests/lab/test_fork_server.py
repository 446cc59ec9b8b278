# SPDX-License-Identifier: Apache-2.0
"""Workers that are forked: where they run, what they may, and what a kill of anything in between leaves."""

import os
import random
from collections.abc import Callable, Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, unit_name
from tests.lab.test_crash import assert_whole

SERVER, SOCKET = "discoverd-fork-server.service", "/run/discoverd-fork-server"
# A drop-in with which it cannot start.
BROKEN = f"/run/systemd/system/{SERVER}.d/broken.conf"
VOLUMES = 4
# LAB_ROUNDS=20 and LAB_STARTS=100 find what is rare.
ROUNDS, STARTS = int(os.environ.get("LAB_ROUNDS", "2")), int(os.environ.get("LAB_STARTS", "12"))
# What a process has got and would not lose, whatever its unit says.
RESTRICTIONS = r"""
process=/proc/%d
grep -E '^(Umask|Uid|Gid|Groups|Sig(Blk|Ign|Cgt)|Cap...|NoNewPrivs|Seccomp(_filters)?|Cpus_allowed):' $process/status
cat $process/limits $process/personality $process/timerslack_ns
cat $process/oom_score_adj
# Host name and domain are each process's own (ProtectHostname=).
for one in cgroup ipc mnt net pid user; do readlink $process/ns/$one; done
readlink $process/fd/0 $process/cwd $process/root
"""


def restrictions(host: Machine, unit: str) -> str:
    return host.run(RESTRICTIONS % scenario.unit(host, unit).main_pid).stdout


def is_forked(host: Machine, unit: str) -> bool:
    """Tell by its name: one that was executed has the interpreter's."""
    shown = host.run(f"cat /proc/{scenario.unit(host, unit).main_pid}/comm").stdout.strip()
    return shown == "nvme-ctrl-worke"


@pytest.fixture
def running(host: Machine) -> Iterator[Machine]:
    host.run(f"lab-target up --subsystems {VOLUMES} --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, VOLUMES + 1)
    scenario.wait_status(host, f"{VOLUMES + 1} controllers: {VOLUMES + 1} live")
    yield host
    host.run(f"systemctl unmask --runtime {SERVER}; [ -S {SOCKET} ] || mv {SOCKET}.away {SOCKET}", check=False)
    host.run(f"[ ! -e {BROKEN} ] || rm -r $(dirname {BROKEN}); systemctl daemon-reload; systemctl reset-failed")
    # A socket is not started while its service runs, and starts that again while it is there itself.
    socket = SERVER.replace("service", "socket")
    host.run(f"systemctl stop {socket} {SERVER}; systemctl start {socket}", timeout=GENEROUS)


def test_forked_worker_is_its_units_main_process(running: Machine) -> None:
    name = unit_name(1)
    shown = scenario.unit(running, name)
    assert is_forked(running, name)
    assert running.run(f"cat /proc/{shown.main_pid}/cgroup").stdout.strip().endswith(f"/{name}")
    assert running.run(f"awk '/^PPid/ {{print $2}}' /proc/{shown.main_pid}/status").stdout.strip() == "1"
    assert running.run(f"pgrep -fc 'nvme-ctrl-worker {name[10:-8]}'").stdout.strip() == "1"
    assert running.run(f"systemctl show -P TasksCurrent '{name}'").stdout.strip() == "1"
    # Its lines are its unit's, with the fields of the controller.
    lines = running.run(
        f"journalctl --no-pager -o json --output-fields=NVME_CTRL,_PID -u '{name}' _PID={shown.main_pid}"
    )
    assert name[10:-8] in lines.stdout


def test_forked_worker_may_no_more_than_one_that_its_unit_executes(running: Machine) -> None:
    name = unit_name(1)
    forked = restrictions(running, name)
    running.run(f"mv {SOCKET} {SOCKET}.away")
    running.run(f"systemctl stop '{name}'", timeout=GENEROUS)
    # Made anew: the unit that there is asks for a worker where nobody listens.
    running.run("systemctl stop discoverd.service && rm -r /run/discoverd/controllers/*vol1", timeout=GENEROUS)
    running.run("systemctl start discoverd.service", timeout=GENEROUS)
    scenario.wait_live(running, VOLUMES + 1)
    assert not is_forked(running, name)
    assert restrictions(running, name) == forked


def test_killed_worker_is_forked_again_and_a_killed_server_is_missed_by_nobody(running: Machine) -> None:
    name = unit_name(1)
    before = scenario.controllers(running)
    workers = {unit: shown.main_pid for unit, shown in scenario.units(running).items()}
    running.run(f"systemctl kill --signal=KILL {SERVER} && kill -KILL {workers[name]}")
    running.wait_until(
        lambda: scenario.unit(running, name).main_pid not in (0, workers[name]), timeout=GENEROUS, what="it is back"
    )
    scenario.wait_unit(running, name, "live ")
    assert is_forked(running, name)
    assert scenario.controllers(running) == before, "the connections never ended"
    now = {unit: shown.main_pid for unit, shown in scenario.units(running).items()}
    assert {unit for unit in now if now[unit] != workers[unit]} == {name}


def test_controller_does_not_wait_for_a_server_that_cannot_be(running: Machine) -> None:
    name = unit_name(1)
    # In this order: workers that it looks for have their socket start it again.
    running.run(f"systemctl mask --runtime {SERVER} && systemctl stop '{name}' {SERVER}", timeout=GENEROUS)
    running.run(f"systemctl start '{name}'", timeout=GENEROUS)
    scenario.wait_unit(running, name, "live ")
    assert not is_forked(running, name)


def test_controller_does_not_wait_for_a_server_that_cannot_start(
    running: Machine, allow_journal: Callable[[str], None]
) -> None:
    allow_journal("Failed|fail")
    name = unit_name(1)
    running.put(BROKEN, "[Service]\nExecStart=\nExecStart=/bin/false\n")
    running.run(f"systemctl daemon-reload; systemctl stop '{name}' {SERVER}", timeout=GENEROUS)
    # After 50 tries.
    running.run(f"systemctl start '{name}'", timeout=5 * GENEROUS)
    scenario.wait_unit(running, name, "live ")
    assert not is_forked(running, name)
    # With a start of discoverd there is one again.
    running.run(f"rm {BROKEN}; systemctl daemon-reload; systemctl reset-failed {SERVER}", timeout=GENEROUS)
    running.run("systemctl restart discoverd.service", timeout=GENEROUS)
    running.run(f"systemctl stop '{name}'; systemctl start '{name}'", timeout=GENEROUS)
    scenario.wait_unit(running, name, "live ")
    assert is_forked(running, name)


def lose_and_come_back(host: Machine, unit: str) -> None:
    host.cut_link("path0")
    try:
        scenario.wait_unit(host, unit, "reconnecting ", timeout=120)
    finally:
        host.restore_link("path0")
    scenario.wait_unit(host, unit, "live ", timeout=120)


def test_lost_connection_is_seen_while_the_worker_sleeps(running: Machine) -> None:
    """The fork server looks for it; after that is gone, the worker looks itself."""
    name = unit_name(1)
    process = scenario.unit(running, name).main_pid
    watching = f"ls -l /proc/{process}/fd | grep -c socket:"
    before = running.run(watching).stdout
    running.wait_until(lambda: running.run(watching).stdout != before, timeout=60, what="somebody looks for it")
    lose_and_come_back(running, name)
    running.run(f"systemctl stop {SERVER.replace('service', 'socket')} {SERVER}")
    lose_and_come_back(running, name)


def test_stop_in_the_moment_of_a_start_leaves_nothing(running: Machine) -> None:
    name = unit_name(1)
    running.run(f"systemctl stop '{name}'", timeout=GENEROUS)
    for _ in range(ROUNDS * 3):
        running.run(f"systemctl start --no-block '{name}'; sleep 0.{random.randrange(10)}; systemctl stop '{name}'")
        shown = scenario.unit(running, name)
        assert (shown.active, shown.main_pid) in (("inactive", 0), ("failed", 0))
        assert running.run(f"pgrep -f '{name[10:-8]}'", check=False).stdout == ""
        assert name not in {entry["unit"] for entry in scenario.registry(running).values()}
    running.run(f"systemctl start '{name}'", timeout=GENEROUS)
    scenario.wait_live(running, VOLUMES + 1)


def test_kills_at_random_during_starts_and_stops_leave_nothing(
    host: Machine, allow_journal: Callable[[str], None]
) -> None:
    """Of the fork server, of placeholders, and of workers while they connect or disconnect."""
    allow_journal("Failed|fail|killed")
    any_process = r"cat /sys/fs/cgroup/system.slice/system-nvme*ctrl.slice/*/cgroup.procs | shuf -n 1"
    kills = f"systemctl kill --signal=KILL {SERVER}; {any_process} | xargs -r kill -KILL"
    host.run(f"lab-target up --subsystems {STARTS} --ports 192.0.2.1:4420", timeout=GENEROUS)
    scenario.start(host)
    scenario.wait_live(host, STARTS + 1, timeout=600)
    units = " ".join(f"'{unit_name(number)}'" for number in range(1, STARTS + 1))
    for _ in range(ROUNDS):
        host.run(
            f"for pause in $(shuf -i 0-9 -n 5 -r); do sleep 0.$pause; {kills}; done & "
            f"systemctl stop {units}; systemctl start {units}; wait",
            # A start of what is killed meanwhile fails, and systemd starts it again.
            check=False,
            timeout=600,
        )
        scenario.wait_live(host, STARTS + 1, timeout=600)
        scenario.wait_status(host, f"{STARTS + 1} controllers: {STARTS + 1} live", timeout=600)
        host.wait_until(
            lambda: {unit.active for unit in scenario.units(host).values()} == {"active"},
            timeout=GENEROUS,
            what="a unit whose worker was killed last is started again, after a second",
        )
        assert_whole(host, STARTS + 1)
        workers = host.run("pgrep -fc '^nvme-ctrl-worker |libexec/discoverd/nvme-ctrl-worker'").stdout.strip()
        assert workers == str(STARTS + 1), "a worker without a unit"
