# SPDX-License-Identifier: Apache-2.0
"""Controllers that are configured by a host name."""

from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn, unit_name

NAME = "array.example.com"
# The resolver gives the one first that has more leading bits with this host's own address, 192.0.2.2, in common.
DEAD = "192.0.2.3"
ALIVE = "192.0.2.1"
BY_NAME = f"""\
[Subsystem]
nqn = {nqn(1)}
controller = transport=tcp;traddr={NAME};trsvcid=4420
"""


@pytest.fixture
def hosts(host: Machine) -> Iterator[list[str]]:
    """The addresses of the name, in a list to give to :func:`name`; /etc/hosts is as it was afterwards."""
    before = host.read("/etc/hosts")
    host.run("sysctl -q net.ipv4.tcp_syn_retries=1")
    host.run(f"ip neigh replace {DEAD} lladdr 02:00:00:00:00:99 dev path0 nud permanent")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    yield [before.decode()]
    host.put("/etc/hosts", before)
    host.run(f"ip neigh del {DEAD} dev path0; sysctl -q net.ipv4.tcp_syn_retries=6")


def name(host: Machine, hosts: list[str], *addresses: str) -> None:
    """Give the name these addresses."""
    host.put("/etc/hosts", hosts[0] + "".join(f"{address} {NAME}\n" for address in addresses))


def test_a_name_with_a_dead_address_is_connected_through_the_other(host: Machine, hosts: list[str]) -> None:
    name(host, hosts, ALIVE, DEAD)
    assert host.run(f"getent ahosts {NAME}").stdout.split()[0] == DEAD
    scenario.start(host, BY_NAME)
    seconds = scenario.wait_live(host, 1)
    print(f"from the start of discoverd to live, with a dead address first: {seconds:.1f} s")
    assert scenario.unit(host, unit_name(1)).status.startswith("live")
    dead = unit_name(1, DEAD)
    host.wait_until(lambda: scenario.unit(host, dead).active == "inactive", what="the dead address is left")
    # A restart begins where it was, and with DNS it never disconnects: not even when the name has no such address now.
    before = scenario.controllers(host)
    for addresses, tried in (((ALIVE, DEAD), "inactive"), ((DEAD,), "active"), ((), "active")):
        name(host, hosts, *addresses)
        host.run("systemctl restart discoverd.service", timeout=GENEROUS)
        scenario.wait_status(host, "1 live")
        assert scenario.controllers(host) == before, addresses
        assert scenario.unit(host, dead).active == tried, addresses


def test_a_name_that_appears_later(host: Machine, hosts: list[str]) -> None:
    scenario.start(host, BY_NAME)
    scenario.wait_status(host, f"the host name '{NAME}' has no address")
    assert scenario.units(host) == {}
    name(host, hosts, ALIVE)
    seconds = scenario.wait_live(host, 1)
    print(f"from the name's entry to live: {seconds:.1f} s")
    assert seconds < 40
    assert set(scenario.units(host)) == {unit_name(1)}
