# SPDX-License-Identifier: Apache-2.0
"""Whatever files hold: diagnostics, never a crash, never a secret shown; and what is written comes back."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discoverd.config import keys
from discoverd.config.fabrics import parse_fabrics
from discoverd.config.identity import parse_host_identity
from discoverd.config.model import FabricsConfig
from discoverd.config.settings import parse_settings
from discoverd.config.sources import SourceFile

Fabrics = Callable[..., FabricsConfig]

NQN = "nqn.2024-08.com.example:vol1"

_FRAGMENTS = st.sampled_from(
    [
        *(f"[{name}]" for name in keys.SECTIONS),
        *keys.KEYS,
        *keys.ADDRESS_KEYS,
        *keys.OLDER_NAMES,
        " = ",
        "=",
        ";",
        "\n",
        "\r\n",
        "controller = transport=tcp;traddr=10.0.0.1",
        f"nqn = {NQN}\n",
        "tcp",
        "fc",
        "fe80::1%eth0",
        "none",
        "true",
        "0x10",
        "\ufeff",
        "\0",
        "[",
        "]",
        "# ",
        "\x1b[2J",
    ]
)
_DATA = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(_FRAGMENTS, st.text(max_size=8)), max_size=40).map(lambda parts: "".join(parts).encode()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_DATA, min_size=1, max_size=3), st.booleans())
def test_no_input_crashes_the_loader(data: list[bytes], with_main: bool) -> None:
    sources = [
        SourceFile(f"f{number}", content, 0o644, drop_in=number > 0 or not with_main)
        for number, content in enumerate(data)
    ]
    config = parse_fabrics(sources)
    assert config.valid == all(diagnostic.severity == "warning" for diagnostic in config.diagnostics)
    assert all(str(diagnostic).isprintable() for diagnostic in config.diagnostics)
    for connection in config.connections:
        assert connection.problem.isprintable()
        if connection.role == "discovery":
            config.discovered(connection, "io")
    _, faults = parse_settings(sources)
    identity = parse_host_identity(sources[0], sources[-1])
    assert all(str(diagnostic).isprintable() for diagnostic in (*faults, *identity.diagnostics))


_VALUES = {
    "int": st.integers(-(2**31), 2**31 - 1).map(str),
    "bool": st.sampled_from(["true", "false"]),
}
_SETTINGS = st.fixed_dictionaries({}, optional={key.name: _VALUES[key.kind] for key in keys.TUNABLES})
_SPACE = st.text(" \t", max_size=3)


@given(_SETTINGS, st.ip_addresses(), st.integers(1, 65535), _SPACE, st.sampled_from(["\n", "\r\n", "\n\n#x\n"]))
def test_written_configuration_is_read_back(
    params: dict[str, str], address: object, port: int, space: str, end: str
) -> None:
    lines = [
        "[Subsystem]",
        f"nqn{space}={space}{NQN}",
        *(f"{space}{name}={space}{value}{space}" for name, value in params.items()),
        f"controller = transport=tcp{space};{space}traddr={address};trsvcid={port}",
    ]
    config = parse_fabrics([SourceFile("main", end.join(lines).encode())])
    (connection,) = config.connections
    assert config.diagnostics == ()
    assert connection.params == params
    assert (connection.traddr, connection.trsvcid, connection.subsysnqn) == (str(address), str(port), NQN)


SUBSYSTEM = f"[Subsystem]\nnqn = {NQN}\n"
TCP = "controller = transport=tcp;traddr=192.0.2.1"
SECRET = "DHHC-1:00:bm90YXJlYWxzZWNyZXRidXRsb25nZW5vdWdo=:"
BASE64 = "bm90YXJlYWxzZWNyZXRidXRsb25nZW5vdWdo"


@pytest.mark.parametrize(
    "text",
    [
        f"[Host]\nkxchap-secret = {SECRET}\n",
        f"[Host]\nkxchap-secret {SECRET}\n",
        f"[Host]\nkxchap-secret =\n{SECRET}\n",
        f"[Host]\nkxchap-secret =\n{BASE64}=\n",
        f"[Host]\nkxchap_secret = {SECRET}\n",
        f"[Host]\ntls = {SECRET}\n",
        f"[Host]\nhostnqn = {SECRET}\n",
        f"[Host]\nhostid = {SECRET}\n",
        f"[{SECRET}]\n",
        f"[Host] {SECRET}\n",
        f"{SECRET}\n",
        SUBSYSTEM + f"{TCP};kxchap-secret={SECRET}\n",
        SUBSYSTEM + f"{TCP};{SECRET}\n",
        SUBSYSTEM + f"{TCP};tos={SECRET}\n",
        SUBSYSTEM + f"kxchap-secret = {SECRET} # x\n{TCP}\n",
        SUBSYSTEM + f"kxchap-ctrl-secret = {SECRET}\n{TCP}\n",
        SUBSYSTEM + f"tls-key = pin:{BASE64},\n{TCP}\n",
        SUBSYSTEM + f"{TCP};host-traddr={SECRET}\n",
    ],
)
def test_secrets_are_never_shown(fabrics: Fabrics, text: str) -> None:
    config = fabrics(text, mode=0o644)
    shown = "\n".join(map(str, config.diagnostics)) + "\n".join(c.problem for c in config.connections)
    assert BASE64 not in shown
    if "host-traddr" not in text:
        assert BASE64 not in repr(config)
        assert BASE64 not in repr(config.discovered(None, "io"))


def test_a_large_configuration_is_read_in_moderate_time(fabrics: Fabrics) -> None:
    lines = (f"controller = transport=tcp;traddr=10.0.{i >> 8}.{i & 255}\n" for i in range(10_000))
    config = fabrics(f"[Subsystem]\nnqn = {NQN}\n" + "".join(lines))
    assert len(config.connections) == 10_000
    assert config.diagnostics == ()
