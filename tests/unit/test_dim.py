# SPDX-License-Identifier: Apache-2.0
"""The bytes with which this host registers, field by field and as another program writes them."""

import posix
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.kernel import admin, dim
from tests.cdc import registration

HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:c6f3e2a0-5a4d-4d7b-8f55-0123456789ab"
HOSTID = "c6f3e2a0-5a4d-4d7b-8f55-0123456789ab"
HOST = dim.Host(HOSTNQN, HOSTID, "rack 4, upper half", "192.0.2.1")


def expected(host: dim.Host, family: int, attributes: bytes, count: int) -> bytes:
    """Return the data after libnvme's struct nvmf_dim_data, nvmf_ext_die and nvmf_ext_attr, field by field."""
    nqn = host.hostnqn.encode()
    tel = 1032 + len(attributes)
    header = struct.pack(
        "<I4sQHHBBH256s256s64s424s", 1024 + tel, b"", 1, 2, 1, 0, 0, 0x5F, nqn, b"host7", b"Linux 6.12 Debian 13", b""
    )
    die = struct.pack(
        "<BBBBHHH22s32s192s256s256s256sIH2s", 3, family, 0, 0, 0, 0, 0, b"", b"", b"", nqn, b"", b"", tel, count, b""
    )
    assert (len(header), len(die)) == (1024, 1032)
    return header + die + attributes


@pytest.mark.parametrize(("traddr", "family"), [("192.0.2.1", 1), ("2001:db8::1", 2), ("fe80::1%eth0", 2)])
def test_a_registration(traddr: str, family: int) -> None:
    host = dim.Host(HOSTNQN, HOSTID, "rack 4, upper half", traddr)
    identifier = struct.pack("<HH16s", 1, 16, bytes.fromhex("c6f3e2a05a4d4d7b8f550123456789ab"))
    symname = struct.pack("<HH20s", 2, 20, b"rack 4, upper half  ")
    whole = expected(host, family, identifier + symname, 2)
    assert bytes(dim.payload(host, "host7", "Linux 6.12 Debian 13")) == whole
    assert len(whole) == 1024 + 1032 + 20 + 24


def test_a_discovery_controller_understands_it() -> None:
    told = registration.parse(dim.REGISTER, bytes(dim.payload(HOST, "host7", "Linux 6.12 Debian 13")))
    assert (told.task, told.entity, told.nqn, told.port_local) == ("register", "host", HOSTNQN, False)
    assert (told.name, told.version) == ("host7", "Linux 6.12 Debian 13")
    (entry,) = told.entries
    assert entry == registration.Information(3, 1, HOSTNQN, "", "", HOSTID, "rack 4, upper half")


def test_a_host_without_a_symbolic_name() -> None:
    host = dim.Host(HOSTNQN, HOSTID, "", "192.0.2.1")
    identifier = struct.pack("<HH16s", 1, 16, bytes.fromhex(HOSTID.replace("-", "")))
    assert bytes(dim.payload(host, "host7", "Linux 6.12 Debian 13")) == expected(host, 1, identifier, 1)


@pytest.mark.parametrize(
    ("symname", "sent"),
    [("a", b"a   "), ("abcd", b"abcd"), ("Köln\x07", b"K?ln?   "), ("x" * 300, b"x" * 256), (" ", b"    ")],
)
def test_a_symbolic_name_is_ascii_padded_with_blanks_and_bounded(symname: str, sent: bytes) -> None:
    data = dim.payload(dim.Host(HOSTNQN, HOSTID, symname, "192.0.2.1"), "h", "v")
    assert data[1024 + 1032 + 20 :] == struct.pack("<HH", 2, len(sent)) + sent


def test_long_names_end_in_a_nul() -> None:
    data = dim.payload(HOST, "h" * 400, "v" * 400)
    assert data[280:536] == b"h" * 255 + b"\0"
    assert data[536:600] == b"v" * 63 + b"\0"
    assert not any(data[600:1024])


@pytest.mark.parametrize(
    ("hostnqn", "hostid", "why"),
    [
        ("", HOSTID, "host NQN"),
        ("n" * 256, HOSTID, "host NQN"),
        (HOSTNQN, "", "host ID"),
        (HOSTNQN, "no-uuid", "host ID"),
        (HOSTNQN, HOSTID + "00", "host ID"),
    ],
)
def test_a_host_that_cannot_be_registered(hostnqn: str, hostid: str, why: str) -> None:
    with pytest.raises(admin.AdminError, match=why):
        dim.payload(dim.Host(hostnqn, hostid, "", "192.0.2.1"), "h", "v")


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
def test_lengths_agree_whatever_the_texts(symname: str, name: str, version: str) -> None:
    data = dim.payload(dim.Host(HOSTNQN, HOSTID, symname, "::1"), name, version)
    total, tel = struct.unpack_from("<I", data)[0], struct.unpack_from("<I", data, 2048)[0]
    assert (total, tel) == (len(data), len(data) - 1024)
    assert tel % 4 == 0
    at = 1024 + 1032
    for _ in range(struct.unpack_from("<H", data, 2052)[0]):
        at += 4 + struct.unpack_from("<H", data, at + 2)[0]
    assert at == len(data)
    assert max(data[280:600]) < 0x7F


class Session:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes, tuple[int, ...], float]] = []

    def send(self, opcode: int, data: bytearray, *cdw: int, timeout: float) -> int:
        self.sent.append((opcode, bytes(data), cdw, timeout))
        return 0


@pytest.mark.parametrize(("task", "cdw10"), [(dim.REGISTER, 0), (dim.DEREGISTER, 1)])
@pytest.mark.parametrize(
    ("release", "version"),
    [
        ('PRETTY_NAME="x"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\n', b"Linux 6.12 Debian GNU/Linux 13"),
        ("NAME=Arch\n", b"Linux 6.12 Arch"),
        ("nothing", b"Linux 6.12"),
        (None, b"Linux 6.12"),
    ],
)
def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: int, cdw10: int, release: str | None, version: bytes
) -> None:
    system: Any = SimpleNamespace(sysname="Linux", release="6.12", nodename="host7")
    monkeypatch.setattr(posix, "uname", lambda: system)
    monkeypatch.setattr(dim, "_OS_RELEASE", str(tmp_path / "os-release"))
    if release is not None:
        (tmp_path / "os-release").write_text(release)
    session = Session()
    dim.send(cast(admin.Session, session), task, HOST, 4)
    assert session.sent == [(0x21, bytes(dim.payload(HOST, "host7", version.decode())), (cdw10,), 4)]
    assert session.sent[0][1][536:600].rstrip(b"\0") == version
