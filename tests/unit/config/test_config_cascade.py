# SPDX-License-Identifier: Apache-2.0
"""Who inherits what from whom, and which identities exclude each other."""

from collections.abc import Callable

import pytest

from discoverd.config.model import FabricsConfig
from discoverd.tid import DISCOVERY_NQN
from tests.unit.dhchap_secrets import secret

Fabrics = Callable[..., FabricsConfig]

ID1 = "46ba5037-7ce5-41fa-9452-48477bf00080"
UUID_NQN = "nqn.2014-08.org.nvmexpress:uuid:"
PERSONA = "nqn.2014-08.org.nvmexpress:prod-host"

MAIN = """\
[Discovery Controller Defaults]
ctrl-loss-tmo = 600
keep-alive-tmo = 30
persistent = AUTO
[I/O Controller Defaults]
ctrl-loss-tmo = 600
keep-alive-tmo = 5
[Discovery Controller]
reconnect-delay = 3
controller = transport=tcp;traddr=10.0.0.5;trsvcid=8009
[Subsystem]
nqn = nqn.2014-08.org.nvmexpress:main-vol
tls = true
data-digest = no
controller = transport=tcp;traddr=10.0.0.9;trsvcid=4420
"""

PROD = f"""\
[Host]
hostnqn = {PERSONA}
hostid = {ID1.upper()}
hostsymname = prod
kxchap-secret = {secret("prod")}
[Discovery Controller]
controller = transport=tcp;traddr=10.0.0.6
[Subsystem]
nqn = nqn.2014-08.org.nvmexpress:prod-vol
reconnect-delay =
controller = transport=tcp;traddr=10.0.0.7;trsvcid=4420;ctrl-loss-tmo=1800;keep-alive-tmo=
"""


def test_main_file(fabrics: Fabrics) -> None:
    config = fabrics(MAIN, PROD)
    assert config.valid
    assert config.diagnostics == ()
    dc, io, _, _ = config.connections
    assert (dc.role, dc.subsysnqn, dc.transport, dc.traddr, dc.trsvcid) == (
        "discovery",
        DISCOVERY_NQN,
        "tcp",
        "10.0.0.5",
        "8009",
    )
    assert dc.params == {"ctrl-loss-tmo": "600", "keep-alive-tmo": "30", "reconnect-delay": "3"}
    assert dc.persistent == "auto"
    assert (dc.file, dc.line, io.line) == ("main", 10, 15)
    assert io.params == {"ctrl-loss-tmo": "600", "keep-alive-tmo": "5", "data-digest": "false"}
    assert (io.role, io.persistent, io.secrets.tls) == ("io", "", True)
    assert (io.hostnqn, io.hostid, io.hostsymname) == ("", "", "")


def test_drop_in_inherits_defaults_and_a_path_overrides(fabrics: Fabrics) -> None:
    dc, io = fabrics(MAIN, PROD).connections[2:]
    assert dc.params == {"ctrl-loss-tmo": "600", "keep-alive-tmo": "30"}
    assert io.params == {"ctrl-loss-tmo": "1800"}
    assert (io.hostnqn, io.hostid, io.hostsymname) == (PERSONA, ID1, "prod")
    assert io.secrets.kxchap_secret == secret("prod")
    assert not io.secrets.tls


def test_host_beats_type_defaults_whatever_the_order(fabrics: Fabrics) -> None:
    text = (
        "[Subsystem]\nnqn = nqn.2014-08.org.nvmexpress:v\ncontroller = transport=tcp;traddr=10.0.0.1\n"
        "[Host]\ntos = 2\nqueue-size = 0x10\n[I/O Controller Defaults]\ntos = 1\n"
    )
    assert fabrics(text).connections[0].params == {"tos": "2", "queue-size": "16"}


def test_host_of_the_main_file_does_not_reach_drop_ins(fabrics: Fabrics) -> None:
    drop_in = "[Discovery Controller]\ncontroller = transport=tcp;traddr=10.0.0.1\n"
    (connection,) = fabrics(f"[Host]\nhostnqn = {PERSONA}\ntos = 2\n", drop_in).connections
    assert (connection.hostnqn, dict(connection.params)) == ("", {})


def test_drop_ins_do_not_leak_into_each_other(fabrics: Fabrics) -> None:
    first = "[Discovery Controller Defaults]\ntos = 7\n"
    second = "[Discovery Controller]\ncontroller = transport=tcp;traddr=10.0.0.1\n"
    config = fabrics("", first, second)
    assert config.connections[0].params == {}
    assert config.discovered(None, "discovery").params == {}


@pytest.mark.parametrize("value", ["", "none", "NONE"])
def test_a_secret_can_be_reset(fabrics: Fabrics, value: str) -> None:
    text = (
        f"[Host]\nkxchap-secret = {secret('x')}\ntls = true\n[Subsystem]\nnqn = nqn.2014-08.org.nvmexpress:v\n"
        f"kxchap-secret = {value}\ntls =\ncontroller = transport=tcp;traddr=10.0.0.1\n"
    )
    secrets = fabrics(text).connections[0].secrets
    assert (secrets.kxchap_secret, secrets.tls) == ("", False)


def test_none_is_unset_in_addresses(fabrics: Fabrics) -> None:
    line = "controller = transport=tcp;traddr=10.0.0.1;trsvcid=none;host-traddr=none;host-iface=none"
    (connection,) = fabrics("[Discovery Controller]\n" + line).connections
    assert (connection.trsvcid, connection.host_traddr, connection.host_iface) == ("", "", "")
    assert connection.problem == ""


def test_older_names_of_secrets(fabrics: Fabrics) -> None:
    text = (
        f"[Discovery Controller]\ndhchap-secret = {secret('a')}\ndhchap-ctrl-secret = {secret('b')}\n"
        "controller = transport=tcp;traddr=10.0.0.1\n"
    )
    config = fabrics(text)
    secrets = config.connections[0].secrets
    assert (secrets.kxchap_secret, secrets.kxchap_ctrl_secret) == (secret("a"), secret("b"))
    assert [d.severity for d in config.diagnostics] == ["warning", "warning"]


def test_discovered_through_a_configured_controller(fabrics: Fabrics) -> None:
    config = fabrics(MAIN, PROD)
    main_dc, _, prod_dc, _ = config.connections
    io = config.discovered(main_dc, "io")
    assert io.params == {"ctrl-loss-tmo": "600", "keep-alive-tmo": "5"}
    assert not io.secrets.tls
    referral = config.discovered(main_dc, "discovery")
    # Not the reconnect-delay of the section through which it was found.
    assert referral.params == {"ctrl-loss-tmo": "600", "keep-alive-tmo": "30"}
    assert referral.persistent == "auto"
    prod = config.discovered(prod_dc, "io")
    assert (prod.hostnqn, prod.hostid, prod.hostsymname) == (PERSONA, ID1, "prod")
    assert prod.secrets.kxchap_secret == secret("prod")


def test_discovered_without_origin_uses_the_main_file(fabrics: Fabrics) -> None:
    config = fabrics(f"[Host]\nhostnqn = {PERSONA}\ntos = 1\n" + MAIN)
    scope = config.discovered(None, "io")
    assert scope.params == {"ctrl-loss-tmo": "600", "keep-alive-tmo": "5", "tos": "1"}
    assert scope.hostnqn == PERSONA
    assert fabrics(None).discovered(None, "io").params == {}


def test_an_io_controller_discovers_nothing(fabrics: Fabrics) -> None:
    config = fabrics(MAIN)
    with pytest.raises(ValueError, match="discovers nothing"):
        config.discovered(config.connections[1], "io")


def host(hostnqn: str, hostid: str = "", more: str = "") -> str:
    text = f"[Host]\nhostnqn = {hostnqn}\n" + (f"hostid = {hostid}\n" if hostid else "")
    return text + more + "[Discovery Controller]\ncontroller = transport=tcp;traddr=10.0.0.1\n"


@pytest.mark.parametrize(
    ("files", "at_fault", "message"),
    [
        (["", "[Host]\ntos = 1\n"], "d0:1:1", "without a hostnqn"),
        (["", "[Host]\nhostnqn =\n"], "d0:1:1", "without a hostnqn"),
        ([host(PERSONA), host(PERSONA)], "d0:2:11", "already that of main"),
        (["", host(PERSONA, ID1), host(PERSONA, ID1)], "d1:2:11", "already that of d0"),
        (["", host(UUID_NQN + ID1), host(UUID_NQN + ID1.upper())], "d1:2:11", "already that of d0"),
        (["", host(PERSONA, ID1), host(PERSONA + "2", ID1.upper())], "d1:3:10", "already that of d0"),
    ],
)
def test_contradicting_personas(fabrics: Fabrics, files: list[str], at_fault: str, message: str) -> None:
    config = fabrics(*files)
    assert not config.valid
    (diagnostic,) = config.diagnostics
    assert str(diagnostic).startswith(at_fault)
    assert message in diagnostic.message
    # The first to use an identity keeps it.
    assert all(connection.file != diagnostic.path for connection in config.connections)


def test_different_personas_and_a_main_host_without_nqn(fabrics: Fabrics) -> None:
    config = fabrics("[Host]\nhostid = " + ID1, host(PERSONA), host(PERSONA + "2"))
    assert config.valid
    assert [connection.hostnqn for connection in config.connections] == [PERSONA, PERSONA + "2"]


def test_a_broken_drop_in_takes_nothing_with_it(fabrics: Fabrics) -> None:
    config = fabrics(MAIN, "junk", PROD)
    assert not config.valid
    assert [connection.file for connection in config.connections] == ["main", "main", "d1", "d1"]


@pytest.mark.parametrize(
    "main",
    [
        "[I/O Controller Defaults]\ntls = true\n[Host]\njunk\n",
        "[I/O Controller Defaults] # all\n",
        "[Discovery Controller Defaults\n",
        "[Host]\n\0",
    ],
)
def test_broken_defaults_take_the_drop_ins_with_them(fabrics: Fabrics, main: str) -> None:
    config = fabrics(main, PROD)
    assert config.connections == ()
    assert "defaults" in config.diagnostics[-1].message
    assert config.diagnostics[-1].path == "d0"
    assert config.discovered(None, "io").problem


def test_a_broken_main_file_without_defaults_spares_the_drop_ins(fabrics: Fabrics) -> None:
    config = fabrics("[Host]\njunk\n", PROD)
    assert [connection.file for connection in config.connections] == ["d0", "d0"]
    assert not config.valid
