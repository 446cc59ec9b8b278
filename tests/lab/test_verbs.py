# SPDX-License-Identifier: Apache-2.0
"""discoverctl's verbs that wait, connect and tell, on a real host; what an ordinary user sees; the units beside it."""

from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import nqn
from tests.lab.test_discoverctl import NOT_PERMITTED

TIMED_OUT = 6
NOBODY = "runuser -u nobody --"
LOST, CANNOT_CONNECT = "c9a43174fa9447658f97317ee1ca89f1", "2839e690efc3498b8b345dc2ca8ddbe0"
SECRET = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:"
PROM = "/var/lib/prometheus/node-exporter"


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    host.run("cp -a /etc/nvme/hostnqn /etc/nvme/hostid /root/")
    yield host
    host.run(f"cp -a /root/hostnqn /root/hostid /etc/nvme/; rm -rf {PROM}; systemctl stop discoverd-metrics.timer")


def test_what_an_ordinary_user_sees_and_may_not_do(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host, scenario.ONE_DISCOVERY_CONTROLLER + f"[Subsystem]\nnqn = {nqn(9)}\nkxchap-secret = {SECRET}\n")
    scenario.wait_live(host, 2)
    for verb in ("list", "status", f"why {nqn(1)}", "status nvme0"):
        shown = host.run(f"{NOBODY} discoverctl {verb}")
        assert shown.stderr == ""
    assert "live" in host.run(f"{NOBODY} discoverctl list").stdout
    ended = host.run(f"{NOBODY} discoverctl doctor", check=False)
    assert "only root can tell whether the configuration is sound" in ended.stdout
    for verb in (f"stop {nqn(1)}", f"exclude {nqn(1)}", "disconnect nvme0"):
        ended = host.run(f"{NOBODY} discoverctl {verb}", check=False)
        assert (ended.returncode, "Traceback" in ended.stderr) == (NOT_PERMITTED, False), verb
    assert len(scenario.live(host)) == 2
    key = SECRET.split(":")[2]
    assert host.run(f"{NOBODY} grep -rl '{key}' /run /etc/nvme 2>/dev/null || true").stdout == ""
    assert host.run(f"grep -rl '{key}' /run/discoverd || true").stdout.endswith("/spec\n")
