# SPDX-License-Identifier: Apache-2.0
"""What a section says about an NQN holds for each path to it, and settings of the daemon for each source."""

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY, GENEROUS, ONE_DISCOVERY_CONTROLLER, nqn
from tests.lab.test_authentication import make_key

PORTS = (4420, 4421)
RDMA_UNIT = f"nvme-ctrl@rdma:203.0.113.9:4420:{DISCOVERY}.service"


def path(port: int) -> str:
    return f"nvme-ctrl@tcp:192.0.2.1:{port}:{nqn(1)}.service"


def section(key: str, more: str = "") -> str:
    return f"[Subsystem]\nnqn = {nqn(1)}\nkxchap-secret = {key}\n{more}"


def target(host: Machine, key: str) -> None:
    """One subsystem on two ports that lets this host in with this key; the first port refers to the second."""
    hostnqn = host.read("/etc/nvme/hostnqn").decode().strip()
    host.run("lab-target up --subsystems 1 --ports " + " ".join(f"192.0.2.1:{port}" for port in PORTS))
    host.run(["lab-target", "host-key", "vol1", hostnqn, key])
    host.run("lab-target refer 1 192.0.2.1:4421")


def reload(host: Machine, text: str) -> None:
    scenario.configure(host, text)
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)


def test_key_of_a_section_holds_for_each_path(host: Machine) -> None:
    key = make_key()
    target(host, key)
    # The section names no path.
    scenario.start(host, ONE_DISCOVERY_CONTROLLER + section(key))
    scenario.wait_live(host, 4)
    for port in PORTS:
        scenario.wait_unit(host, path(port), "live")
    assert scenario.live(host).count(nqn(1)) == 2


def test_key_beside_one_path_holds_for_the_other(host: Machine) -> None:
    key = make_key()
    target(host, key)
    configured = "controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n"
    scenario.start(host, ONE_DISCOVERY_CONTROLLER + section(key, configured))
    scenario.wait_live(host, 4)
    for port in PORTS:
        scenario.wait_unit(host, path(port), "live")


def test_key_that_comes_later_reaches_waiting_paths_and_disconnects_none(host: Machine) -> None:
    key = make_key()
    target(host, key)
    scenario.start(host, ONE_DISCOVERY_CONTROLLER)
    for port in PORTS:
        scenario.wait_unit(host, path(port), "waiting")
    reload(host, ONE_DISCOVERY_CONTROLLER + section(key))
    scenario.wait_live(host, 4)

    # Another key counts for the next connect: what is connected stays.
    before = scenario.controllers(host)
    other = make_key()
    reload(host, ONE_DISCOVERY_CONTROLLER + section(other))
    for port in PORTS:
        host.wait_until(
            f"grep -qF 'dhchap_secret={other}' '/run/discoverd/controllers/{path(port)[10:-8]}/spec'",
            what="the worker is told of the other key",
        )
    assert scenario.controllers(host) == before
    hostnqn = host.read("/etc/nvme/hostnqn").decode().strip()
    host.run(["lab-target", "host-key", "vol1", hostnqn, other])
    host.run(["systemctl", "restart", path(4421)], timeout=GENEROUS)
    scenario.wait_unit(host, path(4421), "live")
    assert scenario.live(host).count(nqn(1)) == 2


def test_entry_over_rdma_waits_for_a_device(host: Machine) -> None:
    """One that this host cannot try is left out; that is no fault, and it is tried as soon as it can be."""
    if host.run("ls -A /sys/class/infiniband 2>/dev/null || true").stdout:
        pytest.skip("the machine has an RDMA device already")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420 && lab-target refer 1 203.0.113.9:4420")
    referral = "/sys/kernel/config/nvmet/ports/1/referrals/203.0.113.9:4420"
    host.run(f"echo 0 >{referral}/enable && echo rdma >{referral}/addr_trtype && echo 1 >{referral}/enable")
    scenario.start(host)
    scenario.wait_live(host, 2)
    scenario.wait_status(host, "2 controllers: 2 live")
    assert scenario.status(host) == "2 controllers: 2 live"
    assert RDMA_UNIT not in scenario.units(host)
    shown = host.run("discoverctl status").stdout
    assert "1 entry over rdma" in shown
    assert "this host has no RDMA device" in shown

    host.run("lab-network rdma")
    host.wait_until(lambda: RDMA_UNIT in scenario.units(host), timeout=GENEROUS, what="it is tried over RDMA")
    scenario.wait_live(host, 2)


def test_family_that_is_left_out_and_interface_that_is_ignored(host: Machine) -> None:
    """The discovery controller at IPv4 refers to one at IPv6, and nothing is bound to the interface in between."""
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420 '[2001:db8:1::1]:4420'")
    host.run("lab-target refer 1 '[2001:db8:1::1]:4420'")
    host.put("/etc/nvme/discoverd.conf", "[Global]\naddress-families = ipv4\nignore-iface = yes\n")
    text = "[Discovery Controller]\ncontroller = transport=tcp;traddr={};trsvcid=4420;host-iface=path0\n"
    scenario.start(host, text.format("192.0.2.1"))
    scenario.wait_live(host, 2)
    scenario.wait_status(host, "2 controllers: 2 live")
    assert set(scenario.units(host)) == {scenario.DISCOVERY_UNIT, scenario.unit_name(1)}
    assert "host_iface" not in host.run("cat /sys/class/nvme/nvme*/address").stdout
    shown = host.run("discoverctl status").stdout
    assert "1 entry over IPv6" in shown
    assert "address-families in discoverd.conf leaves out IPv4" not in shown

    # What comes back is connected; what is left out again goes on.
    host.put("/etc/nvme/discoverd.conf", "[Global]\nignore-iface = yes\n")
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)
    scenario.wait_live(host, 4)
    before = scenario.controllers(host)
    host.put("/etc/nvme/discoverd.conf", "[Global]\naddress-families = ipv4\nignore-iface = yes\n")
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)
    scenario.wait_status(host, "4 controllers: 4 live")
    assert scenario.controllers(host) == before
