# SPDX-License-Identifier: Apache-2.0
"""What our processes could do to the host, as systemd judges it, and what a worker really may."""

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, unit_name

# In tenths. A worker has 0.5 for the two capabilities that it takes to see who has a device open, and 0.1 for a
# namespace that it has no use for (discoverd/systemd/unit_properties.py).
LIMITS = {
    "discoverd.service": 40,
    "discoverd-api.service": 40,
    "discoverd-api-action@1.service": 40,
    "discoverd-boot.service": 40,
    "discoverd-fork-server.service": 40,
    "discoverd-identity.service": 40,
    "discoverd-metrics.service": 40,
    "discoverd-mounts.service": 40,
    "discoverd-wait-online.service": 40,
    "nvme-drop@1.service": 40,
    DISCOVERY_UNIT: 42,
    unit_name(1): 42,
}


@pytest.fixture
def running(host: Machine) -> Machine:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 2)
    return host


def test_exposure_is_low(running: Machine) -> None:
    for unit, limit in LIMITS.items():
        # Beyond the threshold the status is 1.
        judged = running.run(["systemd-analyze", "security", "--no-pager", f"--threshold={limit}", unit], check=False)
        told = [line for line in judged.stdout.splitlines() if "✗" in line or "→" in line]
        assert judged.returncode == 0, "\n".join(told)


def test_a_worker_has_three_capabilities_and_its_devices_only(running: Machine) -> None:
    shown = scenario.unit(running, unit_name(1))
    process = f"/proc/{shown.main_pid}"
    effective = running.run(f"grep CapEff {process}/status").stdout.split()[1]
    assert int(effective, 16) == 1 << 21 | 1 << 19 | 1 << 2, "CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH"
    assert running.run(f"readlink {process}/ns/mnt").stdout == running.run("readlink /proc/1/ns/mnt").stdout
    inside = f"cd '/sys/fs/cgroup'\"$(cut -d: -f3- {process}/cgroup)\" && echo $$ >cgroup.procs"
    denied = running.run(f"{inside} && : </dev/mem", check=False)
    assert "Operation not permitted" in denied.stderr
    running.run(f"{inside} && : </dev/nvme0 && : <>/dev/nvme-fabrics")
