# SPDX-License-Identifier: Apache-2.0
"""Exclusion lists on a real host: what is not connected, what stays, and what edits cost."""

from collections.abc import Callable, Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, nqn, unit_name

MAIN = "/etc/nvme/exclusions.conf"
DROP_IN = "/etc/nvme/exclusions.conf.d/lab.conf"
DRAFT = "/etc/nvme/exclusions/lab"
# One by the configuration, through the other path; nothing listens at the last one.
CONFIGURED = f"""\
{scenario.ONE_DISCOVERY_CONTROLLER}
[Subsystem]
nqn = {nqn(1)}
controller = transport=tcp;traddr=198.51.100.1;trsvcid=4420

[Subsystem]
nqn = {nqn(9)}
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4499
"""
NOWHERE_UNIT = f"nvme-ctrl@tcp:192.0.2.1:4499:{nqn(9)}.service"


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    queue = host.run("cat /proc/sys/fs/inotify/max_queued_events").stdout.strip()
    yield host
    host.run(f"systemctl kill -s CONT discoverd.service; sysctl -q fs.inotify.max_queued_events={queue}", check=False)


def put(host: Machine, path: str, *entries: str) -> None:
    text = "[exclusions]\n" + "".join(f"exclusion = {entry}\n" for entry in entries)
    host.run(f"mkdir -p {path.rpartition('/')[0]}")
    host.put(path, text)


def readings(host: Machine, since: int) -> list[str]:
    """What discoverd has said about reading the lists."""
    entries = host.journal(unit="discoverd.service", since=since)
    return [entry.message for entry in entries if entry.message.startswith("exclusions read")]


def why(host: Machine, unit: str) -> str:
    return host.run(f"discoverctl why '{unit}'").stdout


def test_excluded_controller_is_not_connected(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal(rf"{DROP_IN}:2: 'subsysnqn' is no key of an exclusion; did you mean nqn\?")
    host.run("lab-target up --subsystems 3")
    put(host, MAIN, f"nqn={nqn(3)}")
    put(host, DROP_IN, f"subsysnqn={nqn(2)}", "transport=tcp;traddr=::ffff:198.51.100.1;host-iface=none")
    put(host, DRAFT, "transport=tcp;traddr=198.51.100.1", f"trsvcid=4499;nqn={nqn(9)}")
    scenario.start(host, CONFIGURED)
    scenario.wait_live(host, 3)
    # Listed in the log page, and configured.
    for unit, where in ((unit_name(3), f"{MAIN}:2"), (unit_name(1, "198.51.100.1"), f"{DRAFT}:2")):
        assert f"but excluded by {where}." in why(host, unit)
        assert scenario.unit(host, unit).load == "not-found"
    assert sorted(scenario.live(host)) == sorted([scenario.DISCOVERY, nqn(1), nqn(2)])
    listing = host.run("discoverctl list").stdout
    print(listing)
    assert listing.count("  by /etc/nvme/exclusions") == 3
    assert f"{DROP_IN}:2: 'subsysnqn'" in scenario.status(host)
    before = scenario.controllers(host)

    # One that is live stays, and is shown.
    device = next(name for name, (subsystem, _, _) in before.items() if subsystem == nqn(2))
    print(host.run(f"discoverctl exclude --dry-run {device}").stdout)
    print(host.run(f"discoverctl exclude {device}").stdout)
    scenario.wait_unit(host, unit_name(2), f"excluded by {MAIN}:3")
    assert "It stays connected" in why(host, device)
    # An exclusion that is gone lets it be connected.
    print(host.run(f"discoverctl unexclude {nqn(3)}").stdout)
    seconds = scenario.wait_live(host, 4)
    print(f"from the edit to live: {seconds:.1f} s")
    after = scenario.controllers(host)
    assert all(after[name] == row for name, row in before.items())

    # The one that stayed is not connected again.
    host.run(f"echo 1 >/sys/class/nvme/{device}/delete_controller")
    host.wait_until(
        lambda: scenario.unit(host, unit_name(2)).active == "inactive", timeout=60, what="its worker has ended"
    )
    assert f"  by {MAIN}:2" in host.run(f"discoverctl list | grep {nqn(2)}").stdout
    assert nqn(2) not in scenario.live(host)
    host.run("rm -r /etc/nvme/exclusions*")
    scenario.wait_live(host, 5)
    scenario.wait_unit(host, NOWHERE_UNIT, "connection refused")
    assert scenario.unit(host, DISCOVERY_UNIT).active == "active"


def test_a_pending_attempt_ends(host: Machine) -> None:
    host.run("lab-target up --subsystems 1")
    scenario.start(host, CONFIGURED)
    scenario.wait_unit(host, NOWHERE_UNIT, "connection refused")
    host.run("discoverctl exclude trsvcid=4499 --list lab")
    seconds = host.wait_until(
        lambda: scenario.unit(host, NOWHERE_UNIT).active == "inactive", timeout=60, what="the worker has ended"
    )
    print(f"from the edit to the end of the attempts: {seconds:.1f} s")
    assert f"  by {DROP_IN}:9" in host.run(f"discoverctl list | grep {nqn(9)}").stdout
    # A unit that is started by hand looks for itself.
    host.run(f"systemctl start '{NOWHERE_UNIT}'", check=False)
    host.wait_until(
        lambda: scenario.unit(host, NOWHERE_UNIT).active == "inactive", timeout=60, what="the worker has ended again"
    )
    host.run("discoverctl unexclude trsvcid=4499")
    scenario.wait_unit(host, NOWHERE_UNIT, "connection refused")


def test_a_burst_is_read_once_and_a_lost_event_is_made_up_for(host: Machine) -> None:
    # It counts for what is watched from now on.
    host.run("sysctl -q fs.inotify.max_queued_events=16")
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)

    since = host.journal_end()
    entry = f"[exclusions]\\nexclusion = nqn={nqn('$i')}\\n"
    host.run(f'for i in $(seq 30); do printf "{entry}" >{MAIN}.new; mv {MAIN}.new {MAIN}; sleep 0.02; done')
    host.wait_until(lambda: readings(host, since), what="the lists were read")
    host.run("sleep 3")
    assert readings(host, since) == ["exclusions read: 1 in force"]

    since = host.journal_end()
    host.run("systemctl kill -s STOP discoverd.service")
    host.run(f"for i in $(seq 50); do touch /etc/nvme/unrelated$i; done; rm /etc/nvme/unrelated*; echo '#' >>{MAIN}")
    put(host, MAIN, f"nqn={nqn(2)}", f"nqn={nqn(7)}")
    host.run("systemctl kill -s CONT discoverd.service")
    scenario.wait_unit(host, unit_name(2), f"excluded by {MAIN}:2")
    assert readings(host, since) == ["exclusions read: 2 in force"]
    assert len(scenario.live(host)) == 3
