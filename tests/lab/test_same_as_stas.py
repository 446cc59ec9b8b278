# SPDX-License-Identifier: Apache-2.0
"""The real nvme-stas with its files, and discoverd with what import-stas makes of them, connect the same."""

from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.cdc import Cdc, entry
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn

FAR = "198.51.100.1"
SYS = """\
[Host]
symname = lab host
"""
# The target is a discovery controller at port 4420 of its address, the CDC at 8009.
STAFD = """\
[Global]
kato = 25
ctrl-loss-tmo = 1200
[Service Discovery]
zeroconf = disabled
[Controllers]
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
controller = transport = tcp ; traddr = 192.0.2.1
exclude = transport=tcp;traddr=203.0.113.9
"""
STACD = f"""\
[Global]
kato = 12
ctrl-loss-tmo = 1800
reconnect-delay = 7
nr-io-queues = 1
[I/O controller connection management]
disconnect-scope = no-disconnect
[Controllers]
# Nobody lists this path.
controller = transport=tcp;traddr={FAR};trsvcid=4420;nqn={nqn(1)};ctrl-loss-tmo=900
exclude = transport=tcp;traddr=192.0.2.1;trsvcid=4420;nqn={nqn(2)}
exclude = nqn={nqn(4)}
"""
ATTRIBUTES = ("transport", "address", "subsysnqn", "hostnqn", "hostid", "kato", "ctrl_loss_tmo", "reconnect_delay")


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    yield host
    host.run("systemctl stop stacd.service stafd.service", check=False, timeout=GENEROUS)
    host.run(
        "rm -rf /etc/stas/*.conf /run/stafd /run/stacd /var/cache/stafd /var/cache/stacd "
        "/etc/nvme/*.conf.d/50-nvme-stas.conf"
    )


def connected(host: Machine) -> list[list[str]]:
    """What the kernel knows of each live fabrics controller, but for what differs from one connect to the next."""
    script = (
        f"for c in /sys/class/nvme/nvme*; do [ -e $c ] && [ $(cat $c/state) = live ] && "
        f"(cd $c && cat {' '.join(ATTRIBUTES)} queue_count | tr '\\n' ' ' && echo); done; true"
    )
    rows = (line.split() for line in host.run(script).stdout.splitlines())
    return sorted([part.partition(",src_addr=")[0] for part in row] for row in rows)


def test_the_same_controllers_with_the_same_parameters(host: Machine) -> None:
    host.run(f"lab-target up --subsystems 5 --ports 192.0.2.1:4420 {FAR}:4420")
    host.run("lab-target unlink vol3 1 && modprobe nvme-tcp")
    for name, text in (("sys", SYS), ("stafd", STAFD), ("stacd", STACD)):
        host.put(f"/etc/stas/{name}.conf", text)
    # Of the target vol1 and vol5, of the CDC vol3 on the other path, vol1 by itself, and both discovery controllers.
    expected = sorted([nqn(1), nqn(1), nqn(3), nqn(5), scenario.DISCOVERY, scenario.DISCOVERY])
    listed = [entry(nqn(3), FAR), entry(nqn(4), FAR), entry(nqn(5))]
    with Cdc(host, entries=listed):
        host.run("systemctl start stafd.service stacd.service", timeout=GENEROUS)
        scenario.wait_live(host, len(expected))
        assert scenario.live(host) == expected
        theirs = connected(host)
        print(theirs)

        host.run("systemctl stop stacd.service stafd.service && nvme disconnect-all", timeout=GENEROUS)
        scenario.wait_live(host, 0)
        told = host.run("discoverctl import-stas").stdout
        print(told)
        assert "3 controllers and 4 exclusions carried over; 0 not carried over" in told
        host.run("discoverd --check && systemctl start discoverd.service", timeout=GENEROUS)
        scenario.wait_live(host, len(expected))
        scenario.wait_status(host, f"{len(expected)} live")
        assert connected(host) == theirs
        # Both may be asked again, and nothing changes.
        before = scenario.controllers(host)
        assert "as it was" in host.run("discoverctl import-stas").stdout
        host.run("systemctl reload discoverd.service", timeout=GENEROUS)
        scenario.wait_status(host, f"{len(expected)} live")
        assert scenario.controllers(host) == before
