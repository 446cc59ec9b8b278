# SPDX-License-Identifier: Apache-2.0
"""What an administrator wrote, as candidates or as refusals that say why."""

from dataclasses import replace

import pytest

from discoverd.config.errors import ConfigError
from discoverd.config.identity import HostIdentity
from discoverd.config.model import Connection, DiscoveredScope, FabricsConfig, Secrets
from discoverd.plan.candidate import CONFIGURATION, refuse_tls
from discoverd.sources.configured import Configured, configured, host_names
from discoverd.sources.ways import Ways
from discoverd.tid import DISCOVERY_NQN

NQN = "nqn.2024-08.com.example:vol1"
HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
OTHER_HOST = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555"

CONNECTION = Connection(
    role="io",
    transport="tcp",
    traddr="192.0.2.1",
    trsvcid="",
    subsysnqn=NQN,
    host_traddr="",
    host_iface="",
    hostnqn="",
    hostid="",
    hostsymname="",
    params={},
    persistent="",
    secrets=Secrets(),
    file="/etc/nvme/nvme-fabrics.conf",
    line=7,
)


def turn(*connections: Connection, host: HostIdentity = HOST, **addresses: str) -> Configured:
    return configured(FabricsConfig(connections), host, lambda _, name, __: addresses.get(name))


def test_a_candidate() -> None:
    made = turn(CONNECTION)
    (one,) = made.candidates
    assert one.tid.instance == f"tcp:192.0.2.1:4420:{NQN}"
    assert (one.role, one.origin) == ("io", CONFIGURATION)
    assert one.configured
    assert one.source == "configured at /etc/nvme/nvme-fabrics.conf:7"
    assert ("hostnqn", HOST.hostnqn) in one.options
    assert ("hostid", HOST.hostid) in one.options
    assert (made.refusals, made.whole, made.discovery) == ((), True, {})


def test_the_connection_behind_a_discovery_controller() -> None:
    one = replace(CONNECTION, role="discovery", subsysnqn=DISCOVERY_NQN)
    made = turn(one, replace(one, line=9))
    assert made.discovery == {f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}": one}


def test_another_host_nqn_is_in_the_name_and_the_hosts_own_is_not() -> None:
    other, own = turn(
        replace(CONNECTION, hostnqn=OTHER_HOST), replace(CONNECTION, hostnqn=HOST.hostnqn, hostid=HOST.hostid)
    ).candidates
    assert other.tid.hostnqn == OTHER_HOST
    assert ("hostid", OTHER_HOST[-36:]) in other.options
    assert own.tid.hostnqn == ""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"secrets": Secrets(tls=True)}, "TLS is not supported"),
        ({"secrets": Secrets(concat=True)}, "TLS is not supported"),
        ({"secrets": Secrets(tls_key="NVMeTLSkey-1:01:x:")}, "TLS is not supported"),
        ({"hostnqn": "nqn.2024-08.com.example:persona"}, "no host ID of its own"),
        ({"hostnqn": "nqn.2024-08.com.example:persona", "hostid": HOST.hostid}, "must not share"),
        ({"traddr": "array.example.com"}, "'array.example.com' has no address"),
        ({"host_traddr": "2001:db8::9"}, "different families"),
        ({"trsvcid": "http"}, "not a port number"),
        ({"subsysnqn": "nqn.a,b"}, "not allowed"),
        ({"transport": "fc"}, "not a Fibre Channel address"),
        ({"transport": "pcie"}, "is not one of"),
        ({"host_iface": "a,b"}, "not the name of a network interface"),
        ({"problem": "a problem and its remedy"}, "a problem and its remedy"),
    ],
)
def test_connection_that_cannot_be_served_is_refused_alone(change: dict[str, str | Secrets], why: str) -> None:
    made = turn(replace(CONNECTION, **change), replace(CONNECTION, traddr="192.0.2.2", line=8))  # type: ignore[arg-type]
    assert [one.tid.traddr for one in made.candidates] == ["192.0.2.2"]
    (refusal,) = made.refusals
    assert why in refusal.reason
    assert refusal.source == "/etc/nvme/nvme-fabrics.conf:7"
    # What is missing must not look as if it had been taken out of the configuration.
    assert not made.whole


def test_a_refusal_shows_no_secret() -> None:
    made = turn(replace(CONNECTION, secrets=Secrets(tls_key="NVMeTLSkey-1:01:secret:")))
    assert "secret:" not in repr(made)


def test_files_with_errors_are_not_whole() -> None:
    assert not configured(FabricsConfig((CONNECTION,), valid=False), HOST, lambda *_: None).whole


@pytest.mark.parametrize(
    ("host", "why"), [(HostIdentity("", ""), "no NQN"), (HostIdentity(HOST.hostnqn, ""), "no host ID")]
)
def test_a_host_without_an_identity(host: HostIdentity, why: str) -> None:
    made = turn(CONNECTION, host=host)
    assert made.candidates == ()
    assert why in made.refusals[0].reason
    assert not made.whole


def test_a_host_name_that_is_known() -> None:
    named = replace(CONNECTION, traddr="array", trsvcid="4421", host_iface="eth0")
    made = turn(named, CONNECTION, array="2001:db8::1")
    assert [one.tid.traddr for one in made.candidates] == ["2001:db8::1", "192.0.2.1"]
    instance = made.candidates[0].tid.instance
    assert made.named == {instance: (f"tcp 4421 {NQN} eth0", "array", "2001:db8::1")}


def test_a_connection_by_name_is_the_same_one_wherever_it_stands_and_not_another_one() -> None:
    asked = []

    def address(connection: str, name: str, version: int) -> None:
        asked.append((connection, name, version))

    named = replace(CONNECTION, traddr="array")
    others = [
        replace(named, **{part: "192.0.2.9"})  # type: ignore[arg-type]
        for part in ("trsvcid", "subsysnqn", "host_iface", "host_traddr")
    ]
    configured(FabricsConfig((named, replace(named, line=8, file="/other"), *others)), HOST, address)
    assert asked[0] == asked[1]
    assert len(set(asked)) == 5


@pytest.mark.parametrize(("source", "version"), [("192.0.2.9", 4), ("2001:db8::9", 6), ("none", 0)])
def test_a_host_name_and_an_address_of_the_hosts_own(source: str, version: int) -> None:
    asked = []

    def address(connection: str, name: str, version: int) -> None:
        asked.append(version)

    made = configured(FabricsConfig((replace(CONNECTION, traddr="array", host_traddr=source),)), HOST, address)
    assert asked == [version]
    kind = f"no IPv{version} address, as host-traddr is one" if version else "no address"
    assert f"'array' has {kind}; check" in made.refusals[0].reason
    assert not made.whole


def test_a_host_name_and_no_address_of_the_hosts_own() -> None:
    made = turn(replace(CONNECTION, traddr="array", host_traddr="eth0"), array="192.0.2.1")
    assert "'eth0' is not an IP address" in made.refusals[0].reason


def test_host_names() -> None:
    config = FabricsConfig(
        (
            CONNECTION,
            replace(CONNECTION, traddr="array.example.com"),
            replace(CONNECTION, traddr="array.example.com", line=8),
            replace(CONNECTION, transport="rdma", traddr="other"),
            replace(CONNECTION, transport="fc", traddr="nonsense"),
            replace(CONNECTION, traddr="broken", problem="it cannot work"),
            replace(CONNECTION, traddr="[2001:db8::1]"),
        )
    )
    assert host_names(config) == {"array.example.com", "other"}


def test_tls_for_what_is_discovered_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="TLS"):
        refuse_tls(DiscoveredScope({}, Secrets(tls=True), "", "", "", ""))
    refuse_tls(DiscoveredScope({}, Secrets(kxchap_secret="DHHC-1:00:x:"), "", "", "", ""))


@pytest.mark.parametrize(
    ("change", "ways", "traddr", "why"),
    [
        ({}, Ways(("ipv4",)), "192.0.2.1", ""),
        ({}, Ways(("ipv6",)), "", "address-families in discoverd.conf leaves out IPv4; change one of the two"),
        ({"traddr": "2001:db8::1"}, Ways(("ipv4",)), "", "leaves out IPv6"),
        ({"traddr": "::ffff:192.0.2.1"}, Ways(("ipv4",)), "192.0.2.1", ""),
        ({"traddr": "array"}, Ways(("ipv6",)), "2001:db8::1", ""),
        ({"traddr": "array"}, Ways(("ipv4",)), "192.0.2.1", ""),
        ({"traddr": "array", "host_traddr": "192.0.2.9"}, Ways(("ipv6",)), "", "leaves out IPv4"),
        (
            {"traddr": "other"},
            Ways(("ipv6",)),
            "",
            "'other' has no IPv6 address, which address-families in discoverd.conf",
        ),
        (
            {"transport": "fc", "traddr": "nn-0x1:pn-0x2", "host_traddr": "nn-0x3:pn-0x4"},
            Ways(("ipv6",)),
            "nn-0x0000000000000001:pn-0x0000000000000002",
            "",
        ),
    ],
)
def test_families_that_are_left_out(change: dict[str, str], ways: Ways, traddr: str, why: str) -> None:
    addresses = {("array", 0): "192.0.2.1", ("array", 4): "192.0.2.1", ("array", 6): "2001:db8::1"}

    def address(_: str, name: str, version: int) -> str | None:
        return addresses.get((name, version))

    made = configured(FabricsConfig((replace(CONNECTION, **change),)), HOST, address, ways)  # type: ignore[arg-type]
    assert [one.tid.traddr for one in made.candidates] == ([traddr] if traddr else [])
    assert [why in one.reason for one in made.refusals] == ([True] if why else [])


def test_interface_that_is_ignored_is_bound_to_by_nothing() -> None:
    made = configured(
        FabricsConfig((replace(CONNECTION, host_iface="eth0"),)), HOST, lambda *_: None, Ways(ignore_iface=True)
    )
    (one,) = made.candidates
    assert one.tid.instance == f"tcp:192.0.2.1:4420:{NQN}"
    assert "host_iface" not in dict(one.options)


def test_unit_that_is_there_keeps_its_name_when_interfaces_are_ignored() -> None:
    name = f"tcp:192.0.2.1:4420:{NQN}::eth0"
    config = FabricsConfig((replace(CONNECTION, host_iface="eth0"),))
    (one,) = configured(config, HOST, lambda *_: None, Ways(ignore_iface=True), {name}).candidates
    assert (one.tid.instance, dict(one.options)["host_iface"]) == (name, "eth0")
