# SPDX-License-Identifier: Apache-2.0
"""The properties of a unit: the ordering that mounts and shutdown depend on, and nothing that is secret."""

import errno
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from discoverd.systemd.unit_properties import _SANDBOX, Property, journal_fields, unit_properties
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from .strategies import tids

NQN = "nqn.2024-08.com.example:vol1"
PLACEHOLDER = "/libexec/placeholder"
ADDRESSES = {"tcp": "192.0.2.1", "rdma": "192.0.2.1", "fc": "nn-0x1:pn-0x2", "loop": ""}
LISTS = ("as", "aay", "a(sasb)", "a(ss)", "(bas)")
ORDERING = ("DefaultDependencies", "After", "Before", "Wants", "Requires", "Conflicts", "BindsTo", "PartOf", "Slice")


def properties(transport: str = "tcp", role: str = IO, nqn: str = NQN) -> list[Property]:
    return unit_properties(TransportId.make(role, transport, ADDRESSES[transport], "", nqn), role, PLACEHOLDER)


def values(given: list[Property]) -> dict[str, object]:
    return {name: value for name, _, value in given}


def ordering(transport: str) -> list[Property]:
    return [one for one in properties(transport) if one[0] in ORDERING]


@pytest.mark.parametrize("transport", ["tcp", "rdma"])
def test_over_the_network_it_goes_between_network_and_remote_mounts(transport: str) -> None:
    assert ordering(transport) == [
        ("After", "as", ["network.target"]),
        ("Before", "as", ["remote-fs-pre.target"]),
        ("Wants", "as", ["remote-fs-pre.target"]),
    ]


def test_over_fibre_channel_it_goes_before_local_mounts_and_stops_at_shutdown() -> None:
    assert ordering("fc") == [
        ("DefaultDependencies", "b", False),
        ("After", "as", ["systemd-udevd.service"]),
        ("Before", "as", ["local-fs-pre.target", "shutdown.target"]),
        ("Wants", "as", ["local-fs-pre.target"]),
        ("Conflicts", "as", ["shutdown.target"]),
    ]


@pytest.mark.parametrize("transport", ADDRESSES)
def test_controller_of_the_system_is_stopped_by_nothing_at_shutdown(transport: str) -> None:
    tid = TransportId.make(IO, transport, ADDRESSES[transport], "", NQN)
    given = unit_properties(tid, IO, PLACEHOLDER, system=True)
    assert [one for one in given if one[0] in ORDERING] == [
        ("DefaultDependencies", "b", False),
        ("After", "as", ["systemd-udevd.service"]),
        ("Slice", "s", "system.slice"),
    ]
    rest = [one for one in properties(transport) if one[0] not in ORDERING]
    assert [one for one in given if one[0] not in ORDERING] == rest


@pytest.mark.parametrize("role", [IO, DISCOVERY])
def test_the_role_changes_no_more_than_the_description(role: str) -> None:
    nqn = "nqn.2024-08.com.example:both"
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "8009", nqn)
    given = values(unit_properties(tid, role, PLACEHOLDER))
    kind = "discovery" if role == DISCOVERY else "I/O"
    assert given.pop("Description") == f"both 192.0.2.1, NVMe/TCP {kind} controller"
    other = values(unit_properties(tid, IO, PLACEHOLDER))
    del other["Description"]
    assert given == other


# What `systemctl list-units` has for a description at 80 columns, beside units that are "active" and "running".
ROOM = 27


@pytest.mark.parametrize(
    ("nqn", "traddr", "begins"),
    [
        (NQN, "192.0.2.1", "vol1 192.0.2.1, "),
        (NQN, "198.51.100.100", "vol1 198.51.100.100, "),
        (NQN, "2001:db8:0:1:f0e1:d2c3:b4a5:9687", "vol1 ..2c3:b4a5:9687, "),
        ("nqn.1992-08.com.example:sn.0a:b:c1", "192.0.2.1", "sn.0a:b:c1 192.0.2.1, "),
        ("nqn.1992-08.com.example:serial.0a1b2c3d:subsystem.17", "192.0.2.1", "..system.17 192.0.2.1, "),
        (
            "nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdef",
            "192.0.2.1",
            "..789abcdef 192.0.2.1, ",
        ),
        (DISCOVERY_NQN, "192.0.2.1", "discovery 192.0.2.1, "),
    ],
)
def test_description_begins_with_what_tells_two_controllers_apart(nqn: str, traddr: str, begins: str) -> None:
    tid = TransportId.make(IO, "tcp", traddr, "", nqn)
    described = str(values(unit_properties(tid, IO, PLACEHOLDER))["Description"])
    assert described.startswith(begins)
    assert len(begins) - 2 <= ROOM


@given(tids())
def test_description_of_any_controller_says_address_and_name_in_the_room_there_is(tid: TransportId) -> None:
    begins, _, rest = str(values(unit_properties(tid, IO, PLACEHOLDER))["Description"]).partition(", NVMe/")
    assert len(begins) <= ROOM
    assert rest.startswith(f"{tid.transport.upper()} I/O controller")


def test_a_name_that_was_cut_is_whole_in_the_description() -> None:
    nqn = "nqn.2024-08.com.example:" + "x" * 190
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", nqn)
    assert nqn not in tid.instance
    assert nqn in str(values(unit_properties(tid, IO, PLACEHOLDER))["Description"])


@pytest.mark.parametrize("transport", ADDRESSES)
def test_each_property_is_given_once_in_a_known_form(transport: str) -> None:
    given = properties(transport)
    names = [name for name, _, _ in given]
    assert [name for name in names if names.count(name) > 1] == []
    kinds = {"s": str, "b": bool, "t": int, "u": int, "i": int} | dict.fromkeys(LISTS, list)
    for name, signature, value in given:
        assert type(value) is kinds[signature], name


def test_how_it_is_run() -> None:
    given = values(properties())
    assert given["ExecStart"] == [[PLACEHOLDER, [PLACEHOLDER, f"tcp:192.0.2.1:4420:{NQN}"], False]]
    assert given["StandardInputFile"] == given["StandardOutputFile"], "one connection, to read and to write"
    assert (given["Type"], given["NotifyAccess"], given["KillMode"]) == ("notify", "main", "mixed")
    assert (given["Restart"], given["RestartUSec"], given["StartLimitIntervalUSec"]) == ("on-failure", 1_000_000, 0)
    # No start is cut off, and a stop has five minutes.
    assert (given["TimeoutStartUSec"], given["TimeoutStopUSec"]) == (2**64 - 1, 300_000_000)


# Secrets --------------------------------------------------------------------------------------------------


def test_no_secret_is_within_reach() -> None:
    """Any user can read a unit's properties: what they are made from is an identity, a role, a path and a yes or no."""
    assert list(inspect.signature(unit_properties).parameters) == ["tid", "role", "placeholder", "system", "trusted"]
    assert list(inspect.signature(journal_fields).parameters) == ["tid"]
    assert {field.name for field in fields(TransportId)} == {
        "transport",
        "traddr",
        "trsvcid",
        "subsysnqn",
        "host_traddr",
        "host_iface",
        "hostnqn",
    }


@given(tids())
def test_the_command_carries_the_name_of_the_unit_and_nothing_else(tid: TransportId) -> None:
    command = [PLACEHOLDER, tid.instance]
    assert values(unit_properties(tid, IO, PLACEHOLDER))["ExecStart"] == [[PLACEHOLDER, command, False]]


@given(tids())
def test_a_reload_reads_the_command_back_as_it_was_given(tid: TransportId) -> None:
    """systemd 252 writes what needs quotes into the unit's file in another way than it reads it."""
    commands: Any = values(unit_properties(tid, IO, PLACEHOLDER))["ExecStart"]
    [[path, arguments, _]] = commands
    assert all(re.fullmatch(r"[A-Za-z0-9:_./@\\-]+", one) for one in (path, *arguments))


# The journal ----------------------------------------------------------------------------------------------


def test_journal_fields() -> None:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "4421", NQN, host_traddr="192.0.2.9", host_iface="eth0")
    assert journal_fields(tid) == [
        f"NVME_CTRL={tid.instance}",
        "NVME_TRANSPORT=tcp",
        "NVME_TRADDR=192.0.2.1",
        "NVME_TRSVCID=4421",
        f"NVME_SUBSYSNQN={NQN}",
        "NVME_HOST_IFACE=eth0",
        "NVME_HOST_TRADDR=192.0.2.9",
    ]
    assert values(unit_properties(tid, IO, PLACEHOLDER))["LogExtraFields"] == journal_fields(tid)


def test_a_discovery_controllers_journal_fields() -> None:
    tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN)
    assert f"NVME_SUBSYSNQN={DISCOVERY_NQN}" in journal_fields(tid)
    assert "NVME_TRSVCID=8009" in journal_fields(tid)


@given(tids())
def test_a_journal_field_has_a_value_in_one_line(tid: TransportId) -> None:
    for field in journal_fields(tid):
        name, _, value = field.partition("=")
        assert name.startswith("NVME_")
        assert value
        assert "\n" not in value


def test_an_nqn_that_ends_in_an_equals_sign_is_kept() -> None:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn.2024-08.com.example:a=")
    assert "NVME_SUBSYSNQN=nqn.2024-08.com.example:a=" in journal_fields(tid)


# How a unit file says what goes over the bus in numbers.
IN_WORDS = {
    ("CapabilityBoundingSet", 1 << 21 | 1 << 19 | 1 << 2): "CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_DAC_READ_SEARCH",
    # A transient unit cannot say it: systemd writes that none is allowed as it writes that there is no restriction.
    ("RestrictNamespaces", 0x04000000): "yes",
    ("SystemCallErrorNumber", errno.EPERM): "EPERM",
    ("UMask", 0o077): "0077",
}


def words(name: str, signature: str, value: Any) -> list[str]:
    """Return the words of a property in a unit file."""
    if signature == "a(ss)":
        return [word for pair in value for word in pair]
    if signature == "(bas)":
        return [("" if value[0] else "~") + word for word in value[1]]
    if signature == "as":
        return list(value)
    return IN_WORDS.get((name, value), "yes" if value is True else str(value)).split()


def test_what_the_fork_server_lives_with_is_what_its_workers_are_to_live_with() -> None:
    """A worker that was forked keeps what a process inherits; the rest is its unit's."""
    text = (Path(__file__).parents[2] / "units/discoverd-fork-server.service.in").read_text()
    written: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        sign = "~" if value.startswith("~") else ""
        written.setdefault(name, []).extend(sign + word for word in value.removeprefix("~").split())
    expected = {name: words(name, kind, value) for name, kind, value in _SANDBOX if not name.endswith("Soft")}
    assert {name: written.get(name) for name in expected} == expected
