# SPDX-License-Identifier: Apache-2.0
"""Connections that the format accepts and that cannot work, and those that can."""

from collections.abc import Callable

import pytest

from discoverd.config.model import FabricsConfig
from discoverd.config.usable import is_host_name
from discoverd.tid import DISCOVERY_NQN
from tests.unit.dhchap_secrets import secret

Fabrics = Callable[..., FabricsConfig]

SECRET = secret("x")
NQN = "nqn.2024-08.com.example:vol1"
WWN1 = "nn-0x200000109b1234ab:pn-0x100000109b1234ab"
WWN2 = "nn-0x200000109b5678cd:pn-0x100000109b5678cd"


def config_of(fabrics: Fabrics, address: str, settings: str = "", nqn: str = NQN) -> FabricsConfig:
    return fabrics(f"[Subsystem]\nnqn = {nqn}\ncontroller = {address}\n{settings}")


@pytest.mark.parametrize(
    ("address", "column", "problem"),
    [
        ("transport=foo;traddr=10.0.0.1", 24, 'transport "foo" is unknown'),
        ("transport=tpc;traddr=10.0.0.1", 24, "did you mean tcp?"),
        ("transport=tcp;traddr=10.0.0.300", 35, "neither an IP address nor a host name"),
        ("transport=tcp;traddr=a b", 35, "neither an IP address nor a host name"),
        ("transport=tcp;traddr=10.0.0.1,host_iface=lo", 35, "neither an IP address nor a host name"),
        ("transport=tcp;traddr=10.0.0.1 # here", 35, "comments go on a line of their own"),
        ("transport=tcp;traddr=10.0.0.1;trsvcid=99999x", 52, "not a port number"),
        ("transport=tcp;traddr=10.0.0.1;trsvcid=0", 52, "not a port number"),
        ("transport=tcp;traddr=10.0.0.1;trsvcid=65536", 52, "not a port number"),
        ("transport=rdma;traddr=10.0.0.1;trsvcid=nfs", 53, "not a port number"),
        ("transport=tcp;traddr=10.0.0.1;host-traddr=myself", 56, "host names cannot be used here"),
        ("transport=tcp;traddr=10.0.0.1;host-traddr=::1", 56, "different address families"),
        ("transport=tcp;traddr=::1;host-traddr=10.0.0.1", 51, "different address families"),
        ("transport=tcp;traddr=10.0.0.1;host-iface=../../x", 55, "not the name of a network interface"),
        ("transport=tcp;traddr=10.0.0.1;host-iface=averyveryverylong", 55, "not the name of a network"),
        ("transport=rdma;traddr=10.0.0.1;host-iface=eth0", 56, "over tcp only"),
        (f"transport=fc;traddr={WWN1}", 14, "needs host-traddr"),
        (f"transport=fc;traddr=10.0.0.1;host-traddr={WWN2}", 34, "not a Fibre Channel address"),
        (f"transport=fc;traddr={WWN1};host-traddr={WWN2};trsvcid=1", 142, "no trsvcid"),
    ],
)
def test_address_that_cannot_work(fabrics: Fabrics, address: str, column: int, problem: str) -> None:
    config = config_of(fabrics, address)
    assert config.valid
    assert problem in config.connections[0].problem
    (warning,) = config.diagnostics
    assert (warning.severity, warning.line, warning.column) == ("warning", 3, column)


@pytest.mark.parametrize(
    "address",
    [
        "transport=TCP;traddr=10.0.0.1",
        "transport=tcp;traddr=storage.example.com.;host-traddr=::1",
        "transport=tcp;traddr=fe80::1%eth0;host-iface=eth0",
        "transport=tcp;traddr=[2001:db8::1];trsvcid=8009;host-traddr=2001:db8::2",
        "transport=tcp;traddr=::ffff:10.0.0.1;host-traddr=10.0.0.2",
        "transport=tcp;traddr=name;host-traddr=::ffff:10.0.0.1",
        "transport=rdma;traddr=10.0.0.1;host-traddr=10.0.0.2",
        f"transport=fc;traddr={WWN1.upper().replace('X', 'x')};host-traddr={WWN2};trsvcid=none",
        "transport=loop;traddr=none",
    ],
)
def test_address_that_works(fabrics: Fabrics, address: str) -> None:
    config = config_of(fabrics, address)
    assert config.diagnostics == ()
    assert config.connections[0].problem == ""


@pytest.mark.parametrize(
    ("transport", "settings", "problem"),
    [
        ("tcp", "tls = 1\nconcat = 1\nkxchap-secret = DHHC-1:00:x:", "exclude each other"),
        ("tcp", "concat = 1", "needs a kxchap-secret"),
        ("tcp", "kxchap-ctrl-secret = DHHC-1:00:x:", "no effect without kxchap-secret"),
        ("rdma", "tls = 1", "over tcp only"),
        ("tcp", "kxchap-secret = DHHC-1:00:x:,host_iface=lo", "comma"),
        ("tcp", "kxchap-secret = DHHC-1:00:x: # old", "comments go on a line of their own"),
        ("tcp", "keyring = .nvme # ours", "comments go on a line of their own"),
    ],
)
def test_security_that_cannot_work(fabrics: Fabrics, transport: str, settings: str, problem: str) -> None:
    config = config_of(fabrics, f"transport={transport};traddr=10.0.0.1", settings)
    assert config.valid
    assert problem in config.connections[0].problem


def test_security_that_works(fabrics: Fabrics) -> None:
    settings = f"concat = 1\nkxchap-secret = {SECRET}\ntls-key-identity = NVMe1R02 a b\n"
    assert config_of(fabrics, "transport=tcp;traddr=10.0.0.1", settings).connections[0].problem == ""


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (SECRET[:-6] + secret("y")[-6:], "checksum"),
        (SECRET[:10] + SECRET[14:], "29 bytes"),
        (SECRET.replace(":00:", ":04:"), "none of 00, 01, 02 and 03"),
        (SECRET.replace(":00:", ":03:"), "instead of 64"),
        (SECRET.removeprefix("DHHC-1:"), "has not the form"),
    ],
)
@pytest.mark.parametrize("key", ["kxchap-secret", "dhchap-secret"])
def test_secret_of_another_form_is_told_with_its_line_and_never_shown(
    fabrics: Fabrics, key: str, value: str, problem: str
) -> None:
    config = config_of(fabrics, "transport=tcp;traddr=10.0.0.1", f"{key} = {value}\n")
    assert config.valid
    (said,) = (one for one in config.diagnostics if "older name" not in one.message)
    assert (said.severity, said.line) == ("warning", 4)
    assert problem in said.message
    assert problem in config.connections[0].problem
    assert value[12:40] not in "".join(map(str, config.diagnostics)) + config.connections[0].problem


def test_secret_of_another_form_in_defaults_spoils_what_is_discovered(fabrics: Fabrics) -> None:
    config = fabrics("[I/O Controller Defaults]\nkxchap-secret = DHHC-1:00:x:\n")
    assert "no base64" in config.discovered(None, "io").problem
    assert config.discovered(None, "discovery").problem == ""


def test_discovery_nqn_in_a_subsystem(fabrics: Fabrics) -> None:
    config = config_of(fabrics, "transport=tcp;traddr=10.0.0.1", nqn=DISCOVERY_NQN)
    assert "[Discovery Controller]" in config.connections[0].problem
    assert (config.diagnostics[0].line, config.diagnostics[0].column) == (2, 7)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("traddr=10.0.0.1", "traddr=10.0.0.1;trsvcid=4420", True),
        ("traddr=10.0.0.1", "traddr=::ffff:10.0.0.1;tos=3", True),
        ("traddr=::1", "traddr=0:0::1", True),
        ("traddr=Storage.example", "traddr=storage.example.", True),
        ("traddr=10.0.0.1", "traddr=10.0.0.1;trsvcid=8009", False),
        ("traddr=10.0.0.1", "traddr=10.0.0.1;host-iface=eth0", False),
        ("traddr=storage.example", "traddr=storage2.example", False),
    ],
)
def test_duplicates(fabrics: Fabrics, first: str, second: str, same: bool) -> None:
    config = config_of(fabrics, "transport=tcp;" + first, f"controller = transport=tcp;{second}\n")
    assert config.connections[0].problem == ""
    assert ("already configured in main:3" in config.connections[1].problem) is same
    assert len(config.diagnostics) == same


def test_the_same_path_under_two_personas_is_no_duplicate(fabrics: Fabrics) -> None:
    text = f"[Subsystem]\nnqn = {NQN}\ncontroller = transport=tcp;traddr=10.0.0.1\n"
    config = fabrics(text, "[Host]\nhostnqn = nqn.2014-08.org.nvmexpress:h\n" + text)
    assert config.diagnostics == ()


@pytest.mark.parametrize("name", ["a", "a.b", "a.b.", "storage-1.example.com", "x_y", "1a.2b"])
def test_host_names(name: str) -> None:
    assert is_host_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "-a", "a-", "1.2.3", "10.0.0.256", "a b", "a,b", "a/b", "x" * 64, "é", "a." * 130],
)
def test_malformed_host_name_is_unusable(name: str) -> None:
    assert not is_host_name(name)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True), (0o400, False)])
def test_readable_secret(fabrics: Fabrics, mode: int, warned: bool) -> None:
    config = fabrics(f"[Host]\nkxchap-secret = {SECRET}\n", mode=mode)
    assert [d.hint for d in config.diagnostics] == (["chmod 600 main"] if warned else [])


def test_a_key_serial_is_no_secret(fabrics: Fabrics) -> None:
    assert fabrics("[Host]\ntls-key = 0x1234abcd\nkxchap-secret =\n", mode=0o644).diagnostics == ()
