# SPDX-License-Identifier: Apache-2.0
"""A worker that was killed finds what its unit has connected, whatever became of interfaces and names meanwhile."""

from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn

REGISTRY = "/run/nvme/registry"
HOSTNQN = "/etc/nvme/hostnqn"
# An address of this host that is on none of the links.
SOURCE = "203.0.113.9"
SUBSYSTEM = f"[Subsystem]\nnqn = {nqn(1)}\n"
# What is lost with the worker, if anything: the other record is enough.
LOST = {
    "nothing": "true",
    "the entry": f"rm -r {REGISTRY}/{{device}}",
    "the report": "rm '/run/discoverd/controllers/{instance}/report'",
}


def through(interface: str) -> str:
    """A configured path through an interface."""
    return f"controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420;host-iface={interface}\n"


def instance(interface: str = "") -> str:
    return f"tcp:192.0.2.1:4420:{nqn(1)}" + (f"::{interface}" if interface else "")


def address(host: Machine, device: str) -> dict[str, str]:
    """What sysfs shows of a connection."""
    text = host.run(f"cat /sys/class/nvme/{device}/address").stdout.strip()
    return dict(part.split("=", 1) for part in text.split(","))


def connect(host: Machine, *interfaces: str) -> dict[str, str]:
    """Configure a path through each interface, and return the device of each."""
    scenario.start(host, SUBSYSTEM + "".join(through(interface) for interface in interfaces))
    for interface in interfaces:
        scenario.wait_unit(host, f"nvme-ctrl@{instance(interface)}.service", "live nvme")
    # Which is whose, the kernel says, and the registry agrees.
    devices = {address(host, device)["host_iface"]: device for device in scenario.controllers(host)}
    entries = scenario.registry(host)
    for interface in interfaces:
        assert entries[devices[interface]]["unit"] == f"nvme-ctrl@{instance(interface)}.service"
    return devices


def kill_and_stop(host: Machine, name: str, device: str) -> None:
    """Kill the worker, each time with one record less: it adopts its connection. Then a stop ends that one only."""
    unit = f"nvme-ctrl@{name}.service"
    before = scenario.controllers(host)
    for what, lose in LOST.items():
        print(f"killed, and {what} lost")
        killed = scenario.unit(host, unit).main_pid
        command = lose.format(device=device, instance=name)
        host.run(f"systemctl kill -s KILL '{unit}' && {command}")

        def adopted(killed: int = killed) -> bool:
            shown = scenario.unit(host, unit)
            return shown.main_pid not in (0, killed) and shown.status.startswith(f"live {device}")

        seconds = host.wait_until(adopted, timeout=GENEROUS, what=f"{device} is adopted")
        print(f"adopted after {seconds:.1f} s")
        assert scenario.controllers(host) == before
        host.wait_until(lambda: scenario.registry(host).get(device, {}).get("unit") == unit, what="it is entered")
    host.run(f"systemctl stop '{unit}'", timeout=GENEROUS)
    assert scenario.controllers(host) == {key: value for key, value in before.items() if key != device}
    assert device not in scenario.registry(host)


@pytest.fixture
def target(host: Machine) -> Machine:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    return host


# Addresses and interfaces


@pytest.fixture
def routed(target: Machine, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The host reaches the target through path0, from an address that another interface has."""
    target.run(
        f"ip address add {SOURCE}/32 dev {request.param} && ip route add 192.0.2.1/32 dev path0 src {SOURCE} && "
        f"ip -netns tgt route add {SOURCE}/32 via 192.0.2.2"
    )
    yield target
    target.run(f"ip route del 192.0.2.1/32 dev path0; ip address del {SOURCE}/32 dev {request.param}", check=False)
    target.run(f"ip -netns tgt route del {SOURCE}/32", check=False)


@pytest.mark.parametrize("routed", [pytest.param("lo", marks=scenario.long), "path1"], indirect=True)
def test_address_on_another_interface(routed: Machine) -> None:
    devices = connect(routed, "path0")
    assert address(routed, devices["path0"])["src_addr"] == SOURCE
    kill_and_stop(routed, instance("path0"), devices["path0"])


@pytest.fixture
def renaming(target: Machine) -> Iterator[Machine]:
    """The link path0 has its name again afterwards, and no second one."""
    yield target
    target.run("ip link set lan0 name path0 || { ip link set lan0 down && ip link set lan0 name path0; }", check=False)
    target.run("ip link property del dev path0 altname storage0", check=False)
    target.run("lab-network restore path0")


def test_interface_renamed_while_connected(renaming: Machine) -> None:
    devices = connect(renaming, "path0")
    # Before kernel 6.2 only one that is down can be renamed; the connection outlives that moment.
    renaming.run(
        "ip link set path0 name lan0 || "
        "{ ip link set path0 down && ip link set path0 name lan0 && ip link set lan0 up; }"
    )
    kill_and_stop(renaming, instance("path0"), devices["path0"])


def test_interface_by_its_second_name(renaming: Machine) -> None:
    renaming.run("ip link property add dev path0 altname storage0")
    devices = connect(renaming, "storage0")
    kill_and_stop(renaming, instance("storage0"), devices["storage0"])


@pytest.fixture
def anycast(target: Machine) -> Iterator[Machine]:
    """Both links lead to the target's one address, and on both the host has the same one.

    The target answers on the link on which it was asked: the mark of a connection's first packet is that of its socket.
    Neither side minds (rp_filter 2) that its best route leads through the other link.
    """
    target.run(
        f"ip address add {SOURCE}/32 dev path0 && ip address add {SOURCE}/32 dev path1 && "
        f"ip route add 192.0.2.1/32 dev path0 src {SOURCE} metric 10 && "
        f"ip route add 192.0.2.1/32 dev path1 src {SOURCE} metric 20"
    )
    target.run(
        f"ip -netns tgt route add {SOURCE}/32 dev path0 && "
        f"ip -netns tgt route add {SOURCE}/32 dev path1 table 200 && "
        "ip -netns tgt rule add fwmark 2 lookup 200 && "
        "sysctl -q net.ipv4.conf.path1.rp_filter=2 && "
        "nsenter --net=/run/netns/tgt sysctl -q net.ipv4.tcp_fwmark_accept=1 net.ipv4.conf.path1.rp_filter=2 && "
        "nsenter --net=/run/netns/tgt nft 'add table ip lab; "
        "add chain ip lab marks { type filter hook prerouting priority -150; }; "
        'add rule ip lab marks iifname "path1" meta mark set 2\''
    )
    yield target
    target.run(
        "ip route del 192.0.2.1/32 dev path0 metric 10; ip route del 192.0.2.1/32 dev path1 metric 20; "
        f"ip address del {SOURCE}/32 dev path0; ip address del {SOURCE}/32 dev path1; "
        "nsenter --net=/run/netns/tgt nft delete table ip lab; ip -netns tgt rule del fwmark 2 lookup 200; "
        f"ip -netns tgt route del {SOURCE}/32 dev path1 table 200; ip -netns tgt route del {SOURCE}/32 dev path0; "
        "nsenter --net=/run/netns/tgt sysctl -q net.ipv4.tcp_fwmark_accept=0",
        check=False,
    )


def test_two_interfaces_with_one_address(anycast: Machine) -> None:
    devices = connect(anycast, "path0", "path1")
    assert len(set(devices.values())) == 2
    assert {address(anycast, device)["src_addr"] for device in devices.values()} == {SOURCE}
    for interface in ("path0", "path1"):
        kill_and_stop(anycast, instance(interface), devices[interface])


# The host's name


@pytest.fixture
def named(target: Machine) -> Iterator[Machine]:
    """The host has its own NQN again afterwards."""
    before = target.read(HOSTNQN)
    yield target
    target.put(HOSTNQN, before)


def connected_as(host: Machine, device: str) -> str:
    return host.run(f"cat /sys/class/nvme/{device}/hostnqn").stdout.strip()


def test_host_nqn_changed_while_connected(named: Machine) -> None:
    old, new = named.read(HOSTNQN).decode().strip(), "nqn.2024-08.com.example:renamed"
    name = instance()
    unit = f"nvme-ctrl@{name}.service"
    scenario.start(named, SUBSYSTEM + "controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n")
    scenario.wait_unit(named, unit, "live nvme")
    (device,) = scenario.controllers(named)
    named.put(HOSTNQN, new + "\n")
    named.run("systemctl reload discoverd.service", timeout=GENEROUS)
    spec = f"/run/discoverd/controllers/{name}/spec"
    named.wait_until(f"grep -q '^option.hostnqn={new}$' '{spec}'", what="the specification has the new NQN")
    assert connected_as(named, device) == old
    kill_and_stop(named, name, device)
    named.run(f"systemctl start '{unit}'", timeout=GENEROUS)
    scenario.wait_unit(named, unit, "live nvme")
    (device,) = scenario.controllers(named)
    assert connected_as(named, device) == new


def test_host_nqn_goes_to_the_target_as_its_file_has_it(named: Machine) -> None:
    prefix, colon, uuid = named.read(HOSTNQN).decode().strip().rpartition(":")
    spelled = prefix + colon + uuid.upper()
    assert spelled != prefix + colon + uuid
    named.put(HOSTNQN, spelled + "\n")
    # The target knows no other host.
    nvmet = "/sys/kernel/config/nvmet"
    subsystem = f"{nvmet}/subsystems/{nqn(1)}"
    named.run(
        f"mkdir '{nvmet}/hosts/{spelled}' && echo 0 >{subsystem}/attr_allow_any_host && "
        f"ln -s '{nvmet}/hosts/{spelled}' {subsystem}/allowed_hosts/"
    )
    scenario.start(named, SUBSYSTEM + "controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n")
    scenario.wait_unit(named, f"nvme-ctrl@{instance()}.service", "live nvme")
    (device,) = scenario.controllers(named)
    assert connected_as(named, device) == spelled
    kill_and_stop(named, instance(), device)
