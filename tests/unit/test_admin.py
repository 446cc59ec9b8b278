# SPDX-License-Identifier: Apache-2.0
"""What a discovery controller is asked, and answers that change meanwhile or cannot be."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.kernel import admin
from discoverd.plan import log_page

from .log_pages import entry, extended, extended_page, page

NQN = "nqn.2024-08.com.example:vol{}"


class Target:
    """A controller with these log pages, one after the other: the next one counts when a header has been read."""

    def __init__(self, *pages: bytes) -> None:
        self.pages = list(pages)
        self.reads: list[tuple[int, int]] = []
        self.specific: set[int] = set()
        self.timeouts: list[int] = []
        # An answer for each opcode, or log page identifier, other than the discovery log page.
        self.identity = bytes(4096)
        self.supported = bytes(1024)
        self.keep_alive = 0

    def command(self, fd: int, opcode: int, data: bytearray, cdw: tuple[int, ...], timeout_ms: int) -> int:
        os.fstat(fd)
        assert 0 < timeout_ms <= 30_000
        self.timeouts.append(timeout_ms)
        if opcode == 0x06:
            assert (cdw, len(data)) == ((1,), 4096)
            data[:] = self.identity
            return 0
        if opcode == 0x18:
            assert (cdw, len(data)) == ((), 0)
            if self.keep_alive:
                raise admin.RefusedError(self.keep_alive)
            return 0
        assert opcode == 0x02
        assert not cdw[0] & 0x8000, "the event would be retained, and no other one sent"
        size = ((cdw[0] >> 16 | cdw[1] << 16) + 1) * 4
        offset = cdw[2] | cdw[3] << 32
        assert size == len(data) <= 4096
        assert offset % 4 == 0
        if cdw[0] & 0xFF == 0:
            assert (offset, size) == (0, 1024)
            data[:] = self.supported
            return 0
        assert cdw[0] & 0xFF == 0x70
        self.specific.add(cdw[0] >> 8 & 0x7F)
        self.reads.append((offset, size))
        part = self.pages[0][offset : offset + size]
        data[: len(part)] = part
        if offset == 0 and len(self.pages) > 1:
            self.pages.pop(0)
        return 0


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Target], admin.Session]:
    """Open a target."""
    (tmp_path / "nvme3").touch()
    opened = os.open
    monkeypatch.setattr(admin, "CHANGED_RETRY_SECONDS", (0,) * 5)
    monkeypatch.setattr("posix.open", lambda path, flags: opened(tmp_path / path.rpartition("/")[2], flags))

    def connect(target: Target) -> admin.Session:
        monkeypatch.setattr(admin, "command", target.command)
        return admin.Session("nvme3", 60)

    return connect


Connect = Callable[[Target], admin.Session]


def entries(count: int) -> list[bytes]:
    return [entry(NQN.format(number)) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_a_page_is_read_whole(device: Connect, count: int) -> None:
    whole = page(*entries(count), generation=7)
    target = Target(whole)
    with device(target) as session:
        log = admin.read_discovery_log(session)
    assert (log.generation, log.records, log.data) == (7, count, whole)
    assert target.reads[0] == target.reads[-1] == (0, 1024)
    assert target.specific == {0}


def test_entries_of_the_port_alone_are_asked_for_in_each_command(device: Connect) -> None:
    target = Target(page(*entries(9)))
    with device(target) as session:
        admin.read_discovery_log(session, admin.PORT_LOCAL)
    assert target.specific == {2}


def test_a_page_that_changes_while_it_is_read_is_read_again(device: Connect) -> None:
    before, after = page(*entries(2), generation=1), page(*entries(5), generation=2)
    with device(Target(before, after)) as session:
        assert admin.read_discovery_log(session).data == after


def test_a_page_that_always_changes_is_read_now_and_then_and_given_up(
    device: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(*(page(*entries(1), generation=number) for number in range(50)))
    slept: list[float] = []
    with device(target) as session:
        monkeypatch.setattr(admin, "CHANGED_RETRY_SECONDS", (1, 2, 2, 2, 2))
        monkeypatch.setattr("time.sleep", slept.append)
        with pytest.raises(admin.AdminError, match="changed during each of 6 readings"):
            admin.read_discovery_log(session)
    assert slept == [0, 1, 2, 2, 2, 2]
    assert target.reads.count((0, 1024)) == 12


@pytest.mark.parametrize(
    ("header", "why"), [(page(form=1), "record format 1"), (page(records=16_385), "claims 16385 entries")]
)
def test_a_page_that_cannot_be(device: Connect, header: bytes, why: str) -> None:
    target = Target(header)
    with device(target) as session, pytest.raises(admin.AdminError, match=why):
        admin.read_discovery_log(session)
    assert target.reads == [(0, 1024)]


def test_no_more_entries_are_read_than_are_looked_at(device: Connect) -> None:
    target = Target(page(*entries(2), records=10_000))
    with device(target) as session:
        log = admin.read_discovery_log(session)
    assert (log.records, len(log.data)) == (10_000, 1024 + 2048 * 1024)
    assert log_page.parse(log.data).beyond == 10_000 - 2048


@pytest.mark.parametrize("length", [1, 1024, 1024 + 2 * 1024 - 4])
def test_a_page_that_is_shorter_than_its_entries(device: Connect, length: int) -> None:
    """Controllers that do not know the field leave it 0."""
    whole = bytearray(page(*entries(2)))
    struct.pack_into("<I", whole, 20, length)
    with device(Target(bytes(whole))) as session, pytest.raises(admin.AdminError, match=f"2 entries in {length} bytes"):
        admin.read_discovery_log(session)


@pytest.mark.parametrize("length", [1024 + 2 * 1024, 0xFFFFFFFF])
def test_a_page_that_tells_its_length(device: Connect, length: int) -> None:
    whole = bytearray(page(*entries(2)))
    struct.pack_into("<I", whole, 20, length)
    with device(Target(bytes(whole))) as session:
        assert admin.read_discovery_log(session).data == whole


# Extended entries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attributes", [(), (b"label",), (b"a", b"b" * 60), (b"x" * 4000,)], ids=len)
def test_extended_entries_lose_their_attributes(device: Connect, attributes: tuple[bytes, ...]) -> None:
    plain = entries(5)
    target = Target(extended_page(*(extended(one, *attributes) for one in plain), generation=9))
    with device(target) as session:
        log = admin.read_discovery_log(session)
    assert log.data == page(*plain, generation=9)
    assert max(size for _, size in target.reads) <= 1032


@pytest.mark.parametrize("size", [0, 1, 1024, 1028, 1033, 1034, 1035, 0x7FFFFFFC, 0xFFFFFFFC, 0xFFFFFFFF])
def test_an_extended_entry_with_a_length_that_cannot_be(device: Connect, size: int) -> None:
    bad = extended_page(extended(entry(NQN), length=size), extended(entry(NQN)))
    with device(Target(bad)) as session, pytest.raises(admin.AdminError, match=f"entry 0 .* claims to have {size} b"):
        admin.read_discovery_log(session)


@pytest.mark.parametrize("length", [0, 1024, 1024 + 1031, 1024 + 2 * 1032 - 1])
def test_extended_entries_beyond_the_end_of_their_page(device: Connect, length: int) -> None:
    bad = extended_page(extended(entry(NQN)), extended(entry(NQN)), length=length)
    with device(Target(bad)) as session, pytest.raises(admin.AdminError, match=f"of {length} bytes ends before entry"):
        admin.read_discovery_log(session)


def test_more_behind_the_last_extended_entry_is_odd(device: Connect) -> None:
    """As with basic ones, where it may be that the number of entries is wrong."""
    sent = extended_page(extended(entry(NQN)), length=1024 + 2 * 1032)
    with device(Target(sent)) as session:
        assert not log_page.parse(admin.read_discovery_log(session).data).consistent


def test_half_of_an_old_and_half_of_a_new_page_is_read_again(device: Connect) -> None:
    """Its lengths may be impossible, and that is nobody's fault."""
    before = extended_page(extended(entry(NQN), b"long" * 20), extended(entry(NQN)), generation=1)
    after = extended_page(extended(entry(NQN)), generation=2)
    with device(Target(before, after)) as session:
        assert admin.read_discovery_log(session).data == page(entry(NQN), generation=2)


# Time ------------------------------------------------------------------------------------------------------


def test_a_controller_that_takes_its_time_over_each_command_is_given_up(
    device: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(page(*entries(2000)))
    clock = [100.0]

    def slow(*arguments: object) -> int:
        clock[0] += 25
        return target.command(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("discoverd.kernel.admin.time.monotonic", lambda: clock[0])
    session = device(target)
    monkeypatch.setattr(admin, "command", slow)
    with session, pytest.raises(admin.AdminError, match="took more than 60 s"):
        admin.read_discovery_log(session)
    assert target.timeouts == [30_000, 30_000, 10_000]


# Identify and Supported Log Pages --------------------------------------------------------------------------


@pytest.mark.parametrize(("dctype", "name"), [(0, "none"), (1, "ddc"), (2, "cdc"), (3, ""), (255, "")])
@pytest.mark.parametrize("kas", [0, 10])
@pytest.mark.parametrize("oaes", [0, 1 << 31, 0x7FFFFFFF])
def test_identify_reads_what_a_controller_says_about_itself(
    device: Connect, dctype: int, name: str, kas: int, oaes: int
) -> None:
    target = Target()
    data = bytearray(4096)
    struct.pack_into("<I", data, 92, oaes)
    struct.pack_into("<H", data, 320, kas)
    data[1806] = dctype
    target.identity = bytes(data)
    with device(target) as session:
        identity = admin.identify(session)
    assert (identity.dctype, identity.keep_alive, identity.announces) == (name, kas > 0, oaes == 1 << 31)
    assert target.timeouts == [10_000]


@pytest.mark.parametrize(("status", "takes"), [(0, True), (0x4001, False)])
def test_whether_a_controller_takes_keep_alive(device: Connect, status: int, takes: bool) -> None:
    target = Target()
    target.keep_alive = status
    with device(target) as session:
        assert admin.takes_keep_alive(session) == takes


@pytest.mark.parametrize(
    ("word", "options"), [(0, 0), (1, 0), (0x20001, 2), (0x70001, 7), (0x20000, 0), (0xFFFFFFFF, 7), (0xFFF80001, 0)]
)
def test_how_a_controller_can_be_asked_for_its_log_page(device: Connect, word: int, options: int) -> None:
    target = Target()
    data = bytearray(b"\xff" * 1024)
    struct.pack_into("<I", data, 0x70 * 4, word)
    target.supported = bytes(data)
    with device(target) as session:
        assert admin.discovery_options(session) == options


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0x4001, "NVMe status 0x4001 (invalid opcode)"),
        (0x0002, "NVMe status 0x0002 (invalid field)"),
        (0x4109, "NVMe status 0x4109 (invalid log page)"),
        (0x07FF, "NVMe status 0x07ff"),
    ],
)
def test_a_refusal_says_what_the_controller_has_answered(
    device: Connect, monkeypatch: pytest.MonkeyPatch, status: int, text: str
) -> None:
    session = device(Target())
    monkeypatch.undo()
    monkeypatch.setattr("fcntl.ioctl", lambda *_: status)
    with pytest.raises(admin.RefusedError) as error:
        admin.command(0, 0x21, bytearray(8), (0,), 1000)
    assert str(error.value) == f"the controller answered with {text}"
    assert error.value.status == status
    session.__exit__()


@pytest.mark.parametrize("status", [0x370, 0x4370, 0x371, 0x4371])
def test_status_made_by_the_kernel_is_no_answer_of_the_controller(
    device: Connect, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """It would be parked for taking no keep-alive because the connection was lost in that moment."""
    session = device(Target())
    monkeypatch.undo()
    monkeypatch.setattr("fcntl.ioctl", lambda *_: status)
    for ask in (admin.takes_keep_alive, admin.discovery_options, admin.identify, admin.read_discovery_log):
        with pytest.raises(OSError, match=r"no connection|aborted by this host"):
            ask(session)
    session.__exit__()


def test_the_command_as_the_kernel_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """struct nvme_admin_cmd of linux/nvme_ioctl.h."""
    seen = []

    def ioctl(fd: int, request: int, frame: bytearray, mutate: bool) -> int:
        seen.append((fd, request, bytes(frame), mutate))
        frame[68:72] = b"\x2a\0\0\0"
        return 0

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    assert admin.command(7, 0x21, bytearray(2092), (1, 2, 3, 4, 5, 6), 3000) == 42
    fd, request, frame, mutate = seen[0]
    assert (fd, request, mutate, len(frame)) == (7, 0xC0484E41, True, 72)
    fields = struct.unpack("=BBHIIIQQII6III", frame)
    assert fields[0] == 0x21
    assert fields[7] != 0
    assert fields[9:16] == (2092, 1, 2, 3, 4, 5, 6)
    assert fields[16] == 3000


# The entry of the discovery subsystem itself ---------------------------------------------------------------

OWN_PORT = entry(NQN, trsvcid="8009", subtype=3)


@pytest.mark.parametrize(
    ("listed", "persistent"),
    [
        ([], False),
        # Those of other ports speak for themselves.
        ([entry(NQN, "192.0.2.2", "8009", subtype=3, eflags=2)], False),
        ([entry(NQN, "192.0.2.1", "4420", subtype=3, eflags=2)], False),
        ([entry(NQN, "192.0.2.1", "8009", subtype=3, eflags=2, trtype=1)], False),
        ([OWN_PORT, entry(NQN, "192.0.2.2", "8009", subtype=3, eflags=2)], False),
        ([entry(NQN, "::ffff:192.0.2.1", "8009 ", subtype=3, eflags=2)], True),
        ([entry(NQN)], False),
        ([entry(NQN, eflags=2)], False),
        ([entry(NQN, trsvcid="8009", subtype=1, eflags=2)], False),
        ([OWN_PORT], False),
        ([entry(NQN, trsvcid="8009", subtype=3, eflags=1)], False),
        ([entry(NQN, trsvcid="8009", subtype=3, eflags=2)], True),
        ([entry(NQN), entry(NQN, trsvcid="8009", subtype=3, eflags=3)], True),
        ([OWN_PORT, entry(NQN, trsvcid="8009", subtype=3, eflags=2)], True),
    ],
)
def test_an_explicit_persistent_connection_is_offered_by_its_own_entry(listed: list[bytes], persistent: bool) -> None:
    log = admin.Log(1, len(listed), page(*listed))
    assert log.persistent("tcp", "192.0.2.1", "8009") is persistent


@given(st.binary(max_size=6000))
def test_whatever_a_controller_sends_as_its_log_page_is_read_or_refused(data: bytes) -> None:
    """And what was read has the size that it says it has."""
    target = Target(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admin, "command", target.command)
        session = admin.Session("null", 60)
        try:
            with session:
                log = admin.read_discovery_log(session)
        except admin.AdminError:
            return
    assert len(log.data) == 1024 + min(log.records, 2048) * 1024
    log_page.parse(log.data)
    log.persistent("tcp", "192.0.2.1", "8009")
