# SPDX-License-Identifier: Apache-2.0
"""What the doctor finds on a host that runs: paths, refusals, code and the wake socket."""

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn

TWO_PATHS = f"""\
[I/O Controller Defaults]
ctrl-loss-tmo = 600
keep-alive-tmo = 5
[Subsystem]
nqn = {nqn(1)}
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
controller = transport=tcp;traddr=198.51.100.1;trsvcid=4420
"""
REFUSED = f"""\
[Subsystem]
nqn = {nqn(2)}
tls = true
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
"""
# Nothing listens there.
DEAD = f"""\
[Subsystem]
nqn = {nqn(3)}
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4999
"""


def doctor(machine: Machine, status: int) -> str:
    ended = machine.run("discoverctl doctor", check=False)
    print(ended.stdout)
    assert ended.returncode == status
    return ended.stdout


def start(host: Machine, text: str, live: int) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420 198.51.100.1:4420")
    scenario.start(host, text)
    scenario.wait_live(host, live)


def test_paths_and_what_is_refused(host: Machine) -> None:
    start(host, TWO_PATHS + REFUSED + DEAD, 2)
    text = doctor(host, 1)
    assert "is not connected: TLS is not supported yet" in text
    assert "one path left" not in text
    host.cut_link("path1")
    try:
        host.wait_until(
            lambda: f"{nqn(1)} has one path left" in host.run("discoverctl doctor", check=False).stdout,
            timeout=GENEROUS,
            what="the doctor tells of the path",
        )
        if scenario.LONG:
            host.wait_until(
                lambda: "4999:" in host.run("discoverctl doctor", check=False).stdout,
                timeout=3 * GENEROUS,
                what="the doctor tells what has not been connected for minutes",
            )
    finally:
        host.restore_link("path1")
    scenario.wait_live(host, 2)
    assert "one path left" not in doctor(host, 1)


def test_wake_socket_and_code(host: Machine) -> None:
    start(host, TWO_PATHS, 2)
    doctor(host, 0)
    host.run("cd /run/discoverd && cp wake.inode kept && mv wake wake.own && touch wake")
    try:
        assert "the socket /run/discoverd/wake is another's" in doctor(host, 1)
    finally:
        host.run("cd /run/discoverd && mv wake.own wake && rm kept")
    doctor(host, 0)

    before = scenario.controllers(host)
    host.run('sleep 3; touch "$(python3 -c "import discoverd; print(discoverd.__file__)")"')
    text = doctor(host, 0)
    assert "discoverd.service runs code from before the last installation" in text
    assert "2 workers of 2 run code from before the last installation" in text
    host.run("systemctl restart discoverd.service discoverd-mounts.service", timeout=GENEROUS)
    host.run("systemctl kill -s KILL 'nvme-ctrl@*'")
    host.wait_until(
        lambda: "before the last installation" not in host.run("discoverctl doctor", check=False).stdout,
        timeout=GENEROUS,
        what="everything runs what is installed",
    )
    assert scenario.controllers(host) == before
