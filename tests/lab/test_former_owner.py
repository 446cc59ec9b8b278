# SPDX-License-Identifier: Apache-2.0
"""A daemon that has taken controllers over, and was stopped: as nvme-cli 3's nvme-discoverd leaves them.

The daemon itself is not in the machine; its service, the unit that holds a controller and its record are made here.
"""

from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, unit_name

SERVICE = "[Service]\nExecStart=sleep infinity\n"
HOLDER = "nvme-discoverd-0123456789ab.service"
RECORD = "/run/nvme/discoverd/controllers/nvme0"
# As nvme-cli 3 enters a controller that it takes over.
TAKE_OVER = """
cd /run/nvme/registry && mkdir .new && echo discoverd >.new/owner &&
cat /sys/kernel/uevent_seqnum >.new/seqnum && rm -r nvme0 && mv .new nvme0
"""
ONE_PATH = f"""\
[Subsystem]
nqn = {scenario.nqn(1)}
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
"""


@pytest.fixture
def taken_over(host: Machine) -> Iterator[Machine]:
    """A host whose only controller nvme-discoverd has, which was started and stopped again."""
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.put("/run/systemd/system/nvme-discoverd.service", SERVICE)
    host.run("systemctl daemon-reload")
    scenario.start(host, ONE_PATH)
    scenario.wait_unit(host, unit_name(1), "live nvme0")
    # They exclude each other.
    host.run("systemctl start nvme-discoverd.service", timeout=GENEROUS)
    host.run(TAKE_OVER)
    scenario.wait_unit(host, unit_name(1), "left alone: nvme0 belongs to discoverd")
    yield host
    host.run(f"systemctl stop {HOLDER} nvme-discoverd.service", check=False)
    host.run("rm -rf /run/nvme/discoverd /run/systemd/system/nvme-discoverd.service /run/stopped")
    host.run("systemctl daemon-reload")


def start_ours(host: Machine) -> None:
    host.run("systemctl start discoverd.service", timeout=GENEROUS)
    assert host.run("systemctl is-active nvme-discoverd.service", check=False).stdout.strip() != "active"


def wait_taken_back(host: Machine) -> None:
    # A minute without the daemon, looked at every 30 seconds.
    scenario.wait_unit(host, unit_name(1), "live nvme0", timeout=150 + GENEROUS)
    assert scenario.registry(host)["nvme0"]["owner"] == "nvme-ctrl"


def test_owner_that_does_not_run_any_more(taken_over: Machine) -> None:
    before = scenario.controllers(taken_over)
    start_ours(taken_over)
    text = taken_over.run("discoverctl doctor", check=False).stdout
    print(text)
    assert "nvme0 belongs to discoverd, and no daemon of nvme-cli's nvme-discoverd runs" in text
    wait_taken_back(taken_over)
    assert scenario.controllers(taken_over) == before
    assert "nvme-discoverd" not in taken_over.run("discoverctl doctor", check=False).stdout


@scenario.long
def test_owner_whose_unit_would_disconnect_it(taken_over: Machine) -> None:
    before = scenario.controllers(taken_over)
    taken_over.run(
        f"mkdir -p {RECORD} && echo {HOLDER} >{RECORD}/unit && "
        f"systemd-run --unit={HOLDER} -p Type=oneshot -p RemainAfterExit=yes "
        f"-p 'ExecStop=sh -c \"test ! -e {RECORD}/unit || nvme disconnect -d nvme0; touch /run/stopped\"' true"
    )
    start_ours(taken_over)
    taken_over.run("sleep 120", timeout=GENEROUS + 120)
    assert scenario.registry(taken_over)["nvme0"]["owner"] == "discoverd"
    text = taken_over.run("discoverctl doctor", check=False).stdout
    print(text)
    commands = f"rm -r {RECORD} && systemctl stop {HOLDER}"
    assert commands in text
    taken_over.run(commands, timeout=GENEROUS)
    taken_over.run("test -e /run/stopped")
    wait_taken_back(taken_over)
    assert scenario.controllers(taken_over) == before
