# SPDX-License-Identifier: Apache-2.0
"""Discovery controllers that announce themselves: a real Avahi on the target's side and on ours."""

from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY, GENEROUS

# The target of the lab listens on IPv4 only, unless a scenario says otherwise.
SETTINGS = "[Global]\nmdns-families = ipv4\n"
# From here on a service that has said goodbye counts as no longer announced.
GRACE = 8
UNIQUE = "nqn.2024-08.com.example:dc"


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    """The shared machine with an mDNS responder beside the target, and Avahi on the host."""
    host.run("lab-mdns up && systemctl start avahi-daemon.service", timeout=GENEROUS)
    host.put("/etc/nvme/discoverd.conf", SETTINGS)
    yield host
    host.run("lab-mdns down", check=False)


def unit(address: str, path: str, name: str = DISCOVERY, port: int = 8009) -> str:
    return f"nvme-ctrl@tcp:{address}:{port}:{name}::{path}.service"


def source(host: Machine, unit: str) -> str:
    """What the unit's specification says about where the wish comes from, and about its horizon."""
    instance = unit.removeprefix("nvme-ctrl@").removesuffix(".service")
    keys = "^source=|^horizon="
    return host.run(["grep", "-E", keys, f"/run/discoverd/controllers/{instance}/spec"], check=False).stdout


def wait_source(host: Machine, unit: str, text: str) -> None:
    host.wait_until(lambda: text in source(host, unit), timeout=GENEROUS, what=f"the source of {unit} has {text!r}")


def name_discovery_controllers(host: Machine, nqn: str) -> None:
    # The kernel takes a line feed for another write, of nothing, and refuses it.
    host.run(f"printf %s {nqn} >/sys/kernel/config/nvmet/discovery_nqn")


def test_announced_on_two_links_and_silent_again(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:8009 198.51.100.1:8009")
    host.run("lab-mdns announce dc-one 8009 p=tcp")
    scenario.start(host, "")
    seconds = scenario.wait_live(host, 6)
    print(f"from the start to two discovery and four I/O controllers: {seconds:.1f} s")
    one, two = unit("192.0.2.1", "path0"), unit("198.51.100.1", "path1")
    expected = {one, two}
    for volume in (1, 2):
        expected |= {unit("192.0.2.1", "path0", scenario.nqn(volume))}
        expected |= {unit("198.51.100.1", "path1", scenario.nqn(volume))}
    assert set(scenario.units(host)) == expected
    assert "announced by mDNS on path1 as 'dc-one'\n" in source(host, two)
    addresses = host.run("cat /sys/class/nvme/nvme*/address").stdout
    assert addresses.count("traddr=192.0.2.1,trsvcid=8009,host_iface=path0") == 3
    before = scenario.controllers(host)

    # Avahi is restarted: no change at all.
    spec = "stat -c %i /run/discoverd/controllers/*::path*/spec"
    specs = host.run(spec).stdout
    host.run("systemctl restart avahi-daemon.service", timeout=GENEROUS)
    host.run(f"sleep {GRACE}", timeout=GENEROUS)
    assert host.run(spec).stdout == specs

    # A goodbye, and a supervisor that never heard the announcement.
    host.run("lab-mdns withdraw dc-one")
    wait_source(host, one, "' until 2")
    wait_source(host, one, "horizon=300")
    host.run(
        "systemctl stop avahi-daemon.service avahi-daemon.socket && systemctl restart discoverd.service",
        timeout=GENEROUS,
    )
    host.run(f"sleep {GRACE}", timeout=GENEROUS)
    assert "' until 2" in source(host, two)
    assert scenario.controllers(host) == before

    # Announced again, and Avahi is there again.
    host.run("lab-mdns announce dc-one 8009 p=tcp && systemctl start avahi-daemon.service", timeout=GENEROUS)
    wait_source(host, one, "as 'dc-one'\n")
    assert "horizon=300" not in source(host, one)

    # Switched off.
    host.put("/etc/nvme/discoverd.conf", "[Global]\nmdns = no\n")
    host.run("systemctl reload discoverd.service")
    wait_source(host, two, "' until 2")
    assert scenario.controllers(host) == before
    assert {one.active for one in scenario.units(host).values()} == {"active"}


@scenario.long
def test_announced_before_it_listens_and_given_up(host: Machine) -> None:
    host.put("/etc/nvme/discoverd.conf", "[Global]\nmdns-interfaces = path0\nmdns-persistence = 15s\n")
    scenario.start(host, "")
    # A name of its own, on the IPv6 address too, and a TXT record that changes while it is announced.
    host.run(f"lab-mdns announce early 8010 p=tcp nqn={UNIQUE}")
    gone = unit("192.0.2.1", "path0", UNIQUE, 8010)
    scenario.wait_unit(host, gone, "connection refused")
    host.run(f"lab-mdns announce early 8009 P=TCP nqn={UNIQUE} p=rdma flag")
    four, six = unit("192.0.2.1", "path0", UNIQUE), unit("2001:db8:1::1", "path0", UNIQUE)
    scenario.wait_unit(host, four, "connection refused")
    scenario.wait_unit(host, six, "connection refused")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:8009 [2001:db8:1::1]:8009")
    name_discovery_controllers(host, UNIQUE)
    seconds = scenario.wait_live(host, 4)
    print(f"from the start of the target to live: {seconds:.1f} s")
    # Nobody announces the old port any more.
    host.wait_until(lambda: gone not in scenario.units(host), timeout=GENEROUS, what=f"{gone} has given up")
    assert set(scenario.units(host)) >= {four, six}
    name_discovery_controllers(host, DISCOVERY)


def test_hostile_announcements(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:8009 198.51.100.1:8009")
    scenario.start(host, "")
    long = "nqn.2024-08.com.example:" + "x" * 220
    host.run(
        "lab-mdns announce quic 8009 p=quic\n"
        "lab-mdns announce nothing 8009\n"
        f"lab-mdns announce inject 8009 p=tcp nqn={UNIQUE},transport=loop\n"
        f"lab-mdns announce long 8009 p=tcp nqn={long}\n"
        "lab-mdns announce bytes 8009 p=tcp hex:nqn=fffe00\n"
        "lab-mdns announce line 8009 p=tcp hex:nqn=6e716e2e0a6f7074696f6e3d78\n"
        "lab-mdns announce \"$(printf 'bell\\033[2J')\" 8009 p=tcp nqn=evil\n"
        "TYPE=_nvme-disc._udp lab-mdns announce udp 8009 p=tcp\n"
        "lab-mdns announce zz-good 8009 p=tcp hex:other=ff00 =x\n"
    )
    scenario.wait_live(host, 4)
    good = {unit(address, path) for address, path in (("192.0.2.1", "path0"), ("198.51.100.1", "path1"))}
    assert {name for name in scenario.units(host) if DISCOVERY in name} == good
    scenario.wait_status(host, "announced by mDNS on path")
    said = host.run("journalctl -b -u discoverd.service -o cat").stdout
    for name in ("quic", "nothing", "inject", "long", "bytes", "line", "udp"):
        assert f"discovery controller '{name}'" in said, name
    assert "\033" not in said
    # They end, and nothing is left of them.
    host.run("lab-mdns withdraw quic && lab-mdns down")
    host.wait_until(lambda: "mDNS" not in scenario.status(host), timeout=GENEROUS, what="no refusal in the status")
    assert len(scenario.live(host)) == 4
