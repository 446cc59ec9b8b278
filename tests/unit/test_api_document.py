# SPDX-License-Identifier: Apache-2.0
"""docs/design/dbus.md: it has all that the API has, and nothing else, and all that nvme-stas has on D-Bus."""

import re
from pathlib import Path

import pytest

from discoverd.api import action, actions, budget, callers, connection, frames, interfaces, service

from . import named_tests

PROJECT = Path(__file__).parents[2]
TEXT = (named_tests.DESIGN / "dbus.md").read_text()
OURS, STAS = TEXT.split("## From nvme-stas")
# Methods, properties and signals of org.nvmexpress.staf and org.nvmexpress.stac, with what their answers have in them.
THEIRS = (
    *("list_controllers", "get_log_pages", "get_all_log_pages", "log_pages_changed", "dc_removed", "controller_info"),
    *("process_info", "tron", "log_level", "transport", "traddr", "trsvcid", "subsysnqn", "host-traddr", "host-iface"),
    *("host-nqn", "device", "connect attempts", "retry connect timer", "origin", "unresponsive timer", "hostid"),
    *("running operations", "model", "serial", "dctype", "cntrltype", "connected", "dlpe", "symbolic name", "Avahi"),
)


def members() -> set[str]:
    found = set()
    for one in interfaces.OURS.values():
        names = [method.name for method in one.methods] + [signal.name for signal in one.signals]
        names += [name for name, _ in one.properties]
        found |= {f"{one.name.rpartition('.')[2]}.{name}" for name in names}
    return found


def named(text: str) -> set[str]:
    return set(re.findall(r"`((?:Manager|Controller|Discovery|Subsystem)\.\w+)`", text))


def test_document_has_every_member_and_no_other() -> None:
    assert named(OURS) == members()
    assert named(STAS) <= members()


@pytest.mark.parametrize("fact", THEIRS)
def test_each_fact_of_nvme_stas_has_a_place(fact: str) -> None:
    rows = [line.split(" | ") for line in STAS.splitlines() if line.startswith("| ")]
    answered = [row[1] for row in rows if re.search(rf"\b{re.escape(fact)}\b", row[0])]
    assert answered
    places = r"`\w+\.\w+`|GetManagedObjects|GetAll|InterfacesRemoved|nothing: "
    assert all(re.search(places, cell) for cell in answered)


def test_units_sockets_and_user_are_those_of_the_code() -> None:
    """What is written in two places is the same in both."""
    units = PROJECT / "units"
    assert f"ListenStream={actions.SOCKET}\n" in (units / actions.SOCKET_UNIT).read_text()
    assert (units / (action.DISCONNECT_UNIT.format("") + ".in")).is_file()
    service = (units / "discoverd-api.service.in").read_text()
    assert f"BusName={interfaces.NAME}\n" in service
    user = re.findall(r"^User=(.*)$", service, re.MULTILINE)[0]
    for file in ("org.nvmexpress.discoverd1.conf", "org.nvmexpress.discoverd1.service", "discoverd-api.sysusers.conf"):
        assert user in (PROJECT / "units/dbus" / file).read_text()
    text = (units / actions.SOCKET_UNIT).read_text()
    assert f"SocketUser={user}\n" in text
    assert "SocketMode=0600\n" in text
    assert actions.SOCKET_UNIT in service


def test_limits_are_those_of_the_code() -> None:
    text = " ".join(TEXT.split())
    assert f"{connection.READ_BYTES >> 10} KiB in a turn" in text
    assert f"more than {frames.CALL_BYTES_MAX >> 10} KiB" in text
    assert f"{callers.CALLS_MAX:,} wait, of all together {callers.BYTES_MAX >> 20} MiB" in text
    assert f"{service.UNDER_WAY_MAX} wait at most" in text
    assert actions.AT_ONCE == 4
    assert f"for {actions.PAUSE_SECONDS:.0f} s, and up to {actions.PAUSE_SECONDS_MAX:.0f} s" in text
    assert f"larger than {budget.LARGE_BYTES >> 10} KiB" in text
    assert f"{budget.BYTES_MAX >> 20} MiB at once and {budget.BYTES_PER_SECOND >> 10} KiB in a second" in text
    assert f"{connection.TEXT_BYTES_MAX >> 10} KiB of text" in text
    assert f"less than {connection.ROOM_BYTES >> 20} MiB waits for the bus" in text
