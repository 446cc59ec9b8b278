# SPDX-License-Identifier: Apache-2.0
"""Which signals count: systemd's, and the bus's about systemd, whatever else arrives."""

import pytest

from discoverd.bus import Message, MessageType
from discoverd.systemd.unit_signals import JobRemoved, ManagerChanged, Receiver, Shutdown, Signal

SYSTEMD = ":1.1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "nvme-ctrl@tcp:a.service"


def receive(
    member: str, signature: str, body: list[object], sender: str = SYSTEMD, interface: str = MANAGER
) -> list[Signal]:
    seen: list[Signal] = []
    receiver = Receiver(seen.append)
    receiver.owner = SYSTEMD
    message = Message(
        message_type=MessageType.SIGNAL,
        path="/org/freedesktop/systemd1",
        interface=interface,
        member=member,
        signature=signature,
        body=body,
    )
    message.sender = sender
    receiver.receive(message)
    return seen


def test_systemds_signals() -> None:
    assert receive("JobRemoved", "uoss", [1, "/j", UNIT, "done"]) == [JobRemoved("tcp:a", "done")]
    assert receive("JobRemoved", "uoss", [1, "/j", "cron.service", "done"]) == []
    assert receive("Reloading", "b", [True]) == []
    assert receive("Reloading", "b", [False]) == [ManagerChanged()]


def test_a_shutdown_begins_or_is_called_off() -> None:
    assert receive("JobNew", "uos", [7, "/j", "shutdown.target"]) == [Shutdown(True)]
    assert receive("JobRemoved", "uoss", [7, "/j", "shutdown.target", "canceled"]) == [Shutdown(False)]
    assert receive("JobNew", "uos", [7, "/j", UNIT]) == []
    assert receive("JobNew", "uos", [7, "/j", "shutdown.target.wants"]) == []


@pytest.mark.parametrize("sender", [":1.66", "org.freedesktop.DBus"])
def test_nobody_elses(sender: str) -> None:
    assert receive("JobRemoved", "uoss", [1, "/j", UNIT, "done"], sender) == []
    assert receive("Reloading", "b", [False], sender) == []
    assert receive("JobNew", "uos", [7, "/j", "shutdown.target"], sender) == []
    assert receive("JobRemoved", "uoss", [7, "/j", "shutdown.target", "done"], sender) == []


@pytest.mark.parametrize("member", ["JobNew", "JobRemoved", "Reloading"])
def test_nobody_counts_before_systemd_is_known(member: str) -> None:
    seen: list[Signal] = []
    message = Message(message_type=MessageType.SIGNAL, path="/o", interface=MANAGER, member=member)
    message.sender = ""
    Receiver(seen.append).receive(message)
    assert seen == []


def test_no_other_form() -> None:
    assert receive("Reloading", "", []) == []
    assert receive("JobRemoved", "u", [5]) == []
    assert receive("JobNew", "uoss", [7, "/j", "shutdown.target", "done"]) == []
    assert receive("JobRemoved", "uoss", [1, "/j", UNIT, "done"], interface="a.b") == []


def test_systemd_takes_its_name_again() -> None:
    seen: list[Signal] = []
    receiver = Receiver(seen.append)
    message = Message(
        message_type=MessageType.SIGNAL,
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member="NameOwnerChanged",
        signature="sss",
        body=["org.freedesktop.systemd1", SYSTEMD, ":1.99"],
    )
    message.sender = "org.freedesktop.DBus"
    receiver.receive(message)
    assert (seen, receiver.owner) == ([ManagerChanged()], ":1.99")
