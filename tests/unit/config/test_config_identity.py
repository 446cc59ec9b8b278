# SPDX-License-Identifier: Apache-2.0
"""Host NQN and host ID from their files, and which pair a connection gets."""

from pathlib import Path

import pytest

from discoverd.config.errors import ConfigError
from discoverd.config.identity import HostIdentity, identity_for, load_host_identity
from discoverd.config.model import DiscoveredScope, Secrets

UUID1 = "46ba5037-7ce5-41fa-9452-48477bf00080"
UUID2 = "1f0e3c5a-6f0b-4d5e-9b57-3c2f1d7a9e10"
UUID_NQN = "nqn.2014-08.org.nvmexpress:uuid:"
NAMED = "nqn.2024-08.com.example:host"


def load(tmp_path: Path, nqn: bytes | None, hostid: bytes | None) -> HostIdentity:
    if nqn is not None:
        (tmp_path / "hostnqn").write_bytes(nqn)
    if hostid is not None:
        (tmp_path / "hostid").write_bytes(hostid)
    return load_host_identity(tmp_path)


@pytest.mark.parametrize(
    ("nqn", "hostid", "expected"),
    [
        (f"{NAMED}\n", f"{UUID1}\n", (NAMED, UUID1)),
        (f"  {NAMED} \r\nrest", UUID1.upper(), (NAMED, UUID1)),
        (f"{UUID_NQN}{UUID1.upper()}\n", None, (UUID_NQN + UUID1.upper(), UUID1)),
        (f"{UUID_NQN}{UUID1}\n", UUID2, (UUID_NQN + UUID1, UUID2)),
    ],
)
def test_good_files(tmp_path: Path, nqn: str, hostid: str | None, expected: tuple[str, str]) -> None:
    identity = load(tmp_path, nqn.encode(), hostid.encode() if hostid else None)
    assert (identity.hostnqn, identity.hostid, identity.diagnostics) == (*expected, ())


@pytest.mark.parametrize(
    ("nqn", "hostid", "expected", "message"),
    [
        (None, None, ("", ""), "nvme gen-hostnqn > "),
        (None, UUID1.encode(), ("", UUID1), "nvme gen-hostnqn > "),
        (b"", UUID1.encode(), ("", UUID1), "first line is empty"),
        (b"\xff\xfe", UUID1.encode(), ("", UUID1), "does not begin with 'nqn.'"),
        (b"nqn.2024-13.com.example:x", UUID1.encode(), ("", UUID1), "month 13"),
        (NAMED.encode(), None, (NAMED, ""), "uuidgen > "),
        (NAMED.encode(), b"12", (NAMED, ""), "not a UUID"),
        (f"{UUID_NQN}{UUID1}".encode(), b"", (UUID_NQN + UUID1, ""), "first line is empty"),
    ],
)
def test_bad_files(
    tmp_path: Path, nqn: bytes | None, hostid: bytes | None, expected: tuple[str, str], message: str
) -> None:
    identity = load(tmp_path, nqn, hostid)
    assert (identity.hostnqn, identity.hostid) == expected
    (diagnostic,) = identity.diagnostics
    assert message in str(diagnostic)
    assert diagnostic.severity == "error"


def scope(hostnqn: str = "", hostid: str = "") -> DiscoveredScope:
    return DiscoveredScope({}, Secrets(), "", hostnqn, hostid, "")


HOST = HostIdentity(NAMED, UUID1)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (scope(), (NAMED, UUID1)),
        (scope(NAMED), (NAMED, UUID1)),
        (scope("", UUID2), (NAMED, UUID2)),
        (scope(NAMED + "2", UUID2), (NAMED + "2", UUID2)),
        (scope(UUID_NQN + UUID2), (UUID_NQN + UUID2, UUID2)),
        (scope(UUID_NQN + UUID2.upper()), (UUID_NQN + UUID2.upper(), UUID2)),
    ],
)
def test_identity_for(wanted: DiscoveredScope, expected: tuple[str, str]) -> None:
    assert identity_for(wanted, HOST) == expected


@pytest.mark.parametrize("own", [UUID_NQN + UUID1, UUID_NQN + UUID1.upper()])
@pytest.mark.parametrize("named", ["", UUID_NQN + UUID1, UUID_NQN + UUID1.upper()])
def test_hosts_own_nqn_is_spelled_as_its_file_does(own: str, named: str) -> None:
    assert identity_for(scope(named), HostIdentity(own, UUID2)) == (own, UUID2)


@pytest.mark.parametrize(
    ("wanted", "host", "message"),
    [
        (scope(), HostIdentity("", UUID1), "gen-hostnqn"),
        (scope(), HostIdentity(NAMED, ""), "uuidgen"),
        (scope(NAMED + "2"), HOST, "no host ID of its own"),
        (scope(NAMED + "2", UUID1), HOST, "must not share"),
        (scope(UUID_NQN + UUID1), HOST, "must not share"),
    ],
)
def test_no_identity(wanted: DiscoveredScope, host: HostIdentity, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        identity_for(wanted, host)
