# SPDX-License-Identifier: Apache-2.0
"""When a discovery controller's worker reads its log page, what else it asks, and whether the connection is
persistent."""

import copy
import errno
import os
import random
from pathlib import Path

import pytest

from discoverd import state
from discoverd.kernel import admin, controllers
from discoverd.worker import discovery, interrogation, registration
from discoverd.worker.discovery import (
    CONFIRM_INTERVAL_SECONDS,
    EVENT_INTERVAL_SECONDS,
    REREAD_INTERVAL_SECONDS,
    RETRY_SECONDS,
    Discovery,
)
from discoverd.worker.interrogation import Interrogation

from .fake_kernel import Session, identity
from .log_pages import entry, page

NONE, DDC, CDC = 0, 1, 2
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
ADDRESS = [("traddr", "192.0.2.1"), ("trsvcid", "8009")]
SELF = entry("nqn.2014-08.org.nvmexpress.discovery", subtype=3)
HELD_SELF = entry("nqn.2014-08.org.nvmexpress.discovery", trsvcid="8009", subtype=3, eflags=2)


class Registration(registration.Registration):
    """The host's registration: the test says when an attempt ends."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed: list[bool] = []

    def renew(self, now: float, fresh: bool = False) -> None:  # noqa: ARG002
        self.renewed.append(fresh)
        self.under_way = True


class Reader:
    """A loop that reads when it is asked to, whose clock the test moves, and the controller that it asks."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.directory = str(directory)
        self.live = True
        self.spec = state.Spec("discovery", [("transport", "tcp"), ("nqn", DISCOVERY_NQN), *ADDRESS])
        self.asking: Interrogation | None = None
        self.reads: list[float] = []
        # The controller.
        self.asked: list[str] = []
        self.dctype = ""
        self.identity: admin.Identity | Exception = identity()
        self.takes_keep_alive: bool | Exception = False
        self.options: int | Exception = admin.RefusedError(0x4109)
        self.page: bytes | Exception = page()
        self.refuses_port_local = False
        self.discovery = Discovery(self.spec, random.random)
        self.registration = Registration()
        self.discovery.registration = self.registration

    def again(self, fresh: bool = False) -> None:
        """There is news."""
        self.discovery.request(self.now, fresh)
        self.begin()

    def begin(self) -> None:
        """Begin the reading that is due."""
        if (asking := self.discovery.begin(self.now)) is not None:
            assert self.asking is None
            self.asking = asking
            self.reads.append(self.now)

    def specify(self, **changes: object) -> None:
        """The worker has a new specification."""
        self.spec = copy.copy(self.spec)
        for name, value in changes.items():
            setattr(self.spec, name, value)
        self.discovery.respecify(self.now, self.spec)
        self.begin()

    def lost(self, seconds: float) -> None:
        self.discovery.persistence.lost(self.spec, seconds)

    def registered(self) -> None:
        """An attempt to register has ended."""
        self.registration.under_way = False

    @property
    def log_read(self) -> str:
        return self.discovery.log_read

    @property
    def verdict(self) -> tuple[bool | None, str]:
        """Whether it is persistent, and why not; None as long as that is not decided."""
        persistence = self.discovery.persistence
        decided = self.discovery.verdict() is not None
        return (persistence.persistent, persistence.why_not) if decided else (None, "")

    def identify(self, _: object) -> admin.Identity:
        self.asked.append("identify")
        if isinstance(self.identity, Exception):
            raise self.identity
        return self.identity

    def try_keep_alive(self, _: object) -> bool:
        self.asked.append("keep-alive")
        if isinstance(self.takes_keep_alive, Exception):
            raise self.takes_keep_alive
        return self.takes_keep_alive

    def discovery_options(self, _: object) -> int:
        self.asked.append("options")
        if isinstance(self.options, Exception):
            raise self.options
        return self.options

    def read_discovery_log(self, _: object, specific: int = 0, most: int = admin.READ_ENTRIES) -> admin.Log:  # noqa: ARG002
        self.asked.append("port" if specific == admin.PORT_LOCAL else "page")
        if specific and self.refuses_port_local:
            raise admin.RefusedError(0x4002)
        if isinstance(self.page, Exception):
            raise self.page
        return admin.Log(int.from_bytes(self.page[:8], "little"), int.from_bytes(self.page[8:16], "little"), self.page)

    def end(self, error: Exception | None = None, generation: int | None = None) -> None:
        """The reading that is under way ends, with this error or with what the controller answers."""
        asking, self.asking = self.asking, None
        assert asking is not None
        if generation is not None:
            self.page = page(generation=generation)
        if error is None:
            try:
                asking.run("nvme0", 7)
            except (OSError, admin.AdminError) as failed:
                error = failed
        kept = self.discovery.to_keep(self.now) if error is None else None
        not_kept = ""
        if kept is not None:
            try:
                state.write(self.directory + "/log", kept)
            except state.StateError as full:
                not_kept = f"cannot keep it: {full}"
        self.discovery.ended(self.now, error, not_kept)
        self.begin()

    def visited(self, fresh: bool = False) -> list[str]:
        """Have the controller asked, and return what it was asked."""
        self.asked = []
        self.now += EVENT_INTERVAL_SECONDS
        self.again(fresh)
        self.end()
        return self.asked

    def tick(self) -> None:
        """What the worker's loop does at a deadline."""
        self.discovery.tick(self.now, self.live)
        self.begin()

    def pass_time(self, seconds: float, event_every: float = 0) -> None:
        """Let time go by in steps; readings take one of them."""
        for step in range(round(seconds / 0.01)):
            self.now += 0.01
            if event_every and step % round(event_every / 0.01) == 0:
                self.again()
            if self.asking is not None:
                self.end()
            self.tick()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    made = Reader(tmp_path)
    for module, name, value in (
        (admin, "Session", Session),
        (admin, "identify", made.identify),
        (admin, "takes_keep_alive", made.try_keep_alive),
        (admin, "discovery_options", made.discovery_options),
        (admin, "read_discovery_log", made.read_discovery_log),
        (controllers, "attribute", lambda _, name: made.dctype if name == "dctype" else ""),
        (controllers, "sysfs_inode", lambda _: 7),
    ):
        monkeypatch.setattr(module, name, value)
    return made


def test_the_first_event_is_read_at_once(reader: Reader) -> None:
    reader.again()
    assert reader.reads == [1000.0]
    assert reader.discovery.deadline == 0


def test_an_event_after_a_quiet_time_is_read_at_once(reader: Reader) -> None:
    reader.again()
    reader.end()
    reader.now += EVENT_INTERVAL_SECONDS
    reader.again()
    assert reader.reads == [1000.0, 1000.0 + EVENT_INTERVAL_SECONDS]


@pytest.mark.parametrize("events", [1, 100])
def test_events_right_after_a_reading_cost_one_at_the_end_of_the_interval(reader: Reader, events: int) -> None:
    reader.again()
    reader.end()
    for _ in range(events):
        reader.now += 0.001
        reader.again()
    assert len(reader.reads) == 1
    assert reader.discovery.deadline == 1000.0 + EVENT_INTERVAL_SECONDS
    reader.pass_time(3 * EVENT_INTERVAL_SECONDS)
    assert len(reader.reads) == 2
    assert reader.reads[1] == pytest.approx(1000.0 + EVENT_INTERVAL_SECONDS, abs=0.02)
    assert reader.discovery.deadline > reader.now + REREAD_INTERVAL_SECONDS / 2


def test_events_during_a_reading_cost_one_after_it(reader: Reader) -> None:
    """What the reading missed is read, but not before the interval is over."""
    reader.again()
    for _ in range(100):
        reader.now += 0.01
        reader.again()
    reader.end()
    ended = reader.now
    assert len(reader.reads) == 1
    reader.pass_time(3 * EVENT_INTERVAL_SECONDS)
    assert len(reader.reads) == 2
    assert reader.reads[1] == pytest.approx(ended + EVENT_INTERVAL_SECONDS, abs=0.02)


def test_a_storm_costs_one_reading_per_interval_and_its_last_event_is_read(reader: Reader) -> None:
    reader.again()
    reader.end()
    reader.pass_time(20 * EVENT_INTERVAL_SECONDS, event_every=0.01)
    assert 18 <= len(reader.reads) <= 21
    assert all(
        later - earlier >= EVENT_INTERVAL_SECONDS
        for earlier, later in zip(reader.reads, reader.reads[1:], strict=False)
    )
    # The last event falls where it may: a reading starts after it.
    reader.again()
    last = reader.now
    reader.pass_time(3 * EVENT_INTERVAL_SECONDS)
    assert last <= reader.reads[-1] <= last + EVENT_INTERVAL_SECONDS + 0.02
    read = len(reader.reads)
    reader.pass_time(10 * EVENT_INTERVAL_SECONDS)
    assert len(reader.reads) == read


def test_events_without_end_are_read_about_ever_less_often(reader: Reader) -> None:
    """Each reading may have hundreds of controllers connected or disconnected, and costs a line in the journal."""
    reader.pass_time(300, event_every=0.5)
    assert len(reader.reads) <= discovery.BURST * 1.2 + 300 / discovery.STORM_INTERVAL_SECONDS
    reader.again()
    last = reader.now
    reader.pass_time(discovery.STORM_INTERVAL_SECONDS + 1)
    assert last <= reader.reads[-1]
    # Quiet for a while, it is read at once again.
    reader.now += discovery.BURST * discovery.STORM_INTERVAL_SECONDS
    before = len(reader.reads)
    reader.pass_time(10, event_every=0.01)
    assert len(reader.reads) >= before + 9


def test_a_storm_does_not_shorten_the_way_to_a_reading(reader: Reader) -> None:
    """Each event within the interval leaves the deadline where it is; else a storm would put it off for ever."""
    reader.again()
    reader.end()
    deadlines = set()
    for _ in range(9):
        reader.now += EVENT_INTERVAL_SECONDS / 10
        reader.again()
        deadlines.add(reader.discovery.deadline)
    assert deadlines == {1000.0 + EVENT_INTERVAL_SECONDS}


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), OSError("no number")])
def test_a_failed_reading_counts_for_the_interval_too(reader: Reader, error: OSError) -> None:
    reader.again()
    reader.end(error)
    assert reader.discovery.deadline == reader.now + RETRY_SECONDS[0]
    for _ in range(5):
        reader.again()
    assert len(reader.reads) == 1
    assert reader.discovery.deadline == reader.now + EVENT_INTERVAL_SECONDS
    reader.pass_time(2 * EVENT_INTERVAL_SECONDS)
    assert len(reader.reads) == 2
    assert reader.discovery.text() == ", 0 entries in its log page (generation 1)"


def test_failures_are_tried_again_ever_less_often(reader: Reader) -> None:
    reader.again()
    waits = []
    for _ in range(7):
        reader.end(OSError(errno.EIO, "Input/output error"))
        waits.append(reader.discovery.deadline - reader.now)
        reader.now = reader.discovery.deadline
        reader.tick()
    assert waits == [*RETRY_SECONDS, RETRY_SECONDS[-1], RETRY_SECONDS[-1]]


def test_each_reading_has_another_stamp(reader: Reader) -> None:
    """A target that starts anew repeats its generations."""
    stamps = []
    for _ in range(3):
        reader.again()
        reader.end(generation=1)
        stamps.append(reader.log_read)
        reader.now += EVENT_INTERVAL_SECONDS
    assert len(set(stamps)) == 3
    assert state.split(state.LOG, Path(reader.directory, "log").read_bytes())[1] == page(generation=1)


def test_a_page_that_may_be_another_one_by_now_has_no_stamp(reader: Reader) -> None:
    reader.again()
    reader.end()
    assert reader.log_read
    reader.now += EVENT_INTERVAL_SECONDS
    reader.again()
    reader.end(OSError(5, "Input/output error"))
    assert reader.log_read == ""
    reader.pass_time(2)
    assert reader.log_read
    # On a new connection nothing was read yet.
    reader.now += EVENT_INTERVAL_SECONDS
    reader.again(fresh=True)
    assert reader.log_read == ""
    reader.end()
    assert reader.log_read


def test_a_page_that_cannot_be_kept_is_read_again(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise state.StateError("No space left on device")

    reader.again()
    with monkeypatch.context() as patch:
        patch.setattr(state, "write", full)
        reader.end()
    assert reader.log_read == ""
    assert reader.discovery.text() == ", log page not read: cannot keep it: No space left on device"
    reader.pass_time(2)
    assert len(reader.reads) == 2
    assert reader.log_read


# The safety net -------------------------------------------------------------------------------------------


def test_a_page_is_read_again_from_time_to_time(reader: Reader) -> None:
    """Whether or not there were events; and hosts that booted together do not come in step."""
    spans = set()
    reader.again()
    for _ in range(30):
        reader.end()
        span = reader.discovery.deadline - reader.now
        assert REREAD_INTERVAL_SECONDS * 7 / 8 <= span <= REREAD_INTERVAL_SECONDS
        spans.add(span)
        reader.now = reader.discovery.deadline
        reader.tick()
    assert len(spans) > 5


# What is asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dctype", "persistent", "listed", "asked"),
    [
        # The kernel knows what it is, and its entry says that it can be persistent.
        ("cdc", "auto", HELD_SELF, ["page"]),
        ("ddc", "auto", HELD_SELF, ["page"]),
        ("ddc", "force", SELF, ["page"]),
        ("cdc", "no", SELF, ["page"]),
        ("ddc", "auto", SELF, ["page", "identify"]),
        # It says none, as the Linux target, or the kernel is too old.
        ("", "auto", SELF, ["identify", "page"]),
        ("", "force", HELD_SELF, ["identify", "page"]),
    ],
)
def test_no_more_is_asked_than_is_needed(
    reader: Reader, dctype: str, persistent: str, listed: bytes, asked: list[str]
) -> None:
    reader.dctype, reader.spec.persistent, reader.page = dctype, persistent, page(listed)
    assert reader.visited(fresh=True) == asked
    # And once for each connection.
    assert reader.visited() == ["page"]
    assert reader.visited(fresh=True) == asked


@pytest.mark.parametrize(
    ("sysfs", "identified", "asked"),
    [
        ("ddc", DDC, ["options", "port"]),
        ("", DDC, ["identify", "options", "port"]),
        ("", NONE, ["identify", "options", "port"]),
        ("cdc", CDC, ["page"]),
        ("", CDC, ["identify", "page"]),
        ("", 77, ["identify", "page"]),
    ],
)
def test_entries_of_its_own_port_are_asked_for_if_it_is_no_cdc(
    reader: Reader, sysfs: str, identified: int, asked: list[str]
) -> None:
    reader.dctype, reader.identity = sysfs, identity(identified)
    reader.spec.pleo, reader.options, reader.page = True, 7, page(HELD_SELF)
    assert reader.visited(fresh=True) == asked
    assert reader.visited() == asked[-1:]


@pytest.mark.parametrize("options", [0, admin.EXTENDED, admin.ALL_SUBSYSTEMS, admin.RefusedError(0x4109)])
def test_pleo_that_is_not_announced_is_not_asked_for(reader: Reader, options: int | Exception) -> None:
    reader.dctype, reader.spec.pleo, reader.options, reader.page = "ddc", True, options, page(HELD_SELF)
    assert reader.visited(fresh=True) == ["options", "page"]


def test_pleo_that_is_announced_and_refused_is_asked_for_once(reader: Reader) -> None:
    reader.dctype, reader.spec.pleo, reader.options, reader.page = "ddc", True, 2, page(HELD_SELF)
    reader.refuses_port_local = True
    assert reader.visited(fresh=True) == ["options", "port", "page"]
    assert reader.visited() == ["page"]


def test_a_setting_that_changes_is_a_reason_to_ask_anew(reader: Reader) -> None:
    reader.dctype, reader.options, reader.page = "ddc", 2, page(HELD_SELF)
    reader.visited(fresh=True)
    reader.specify()
    assert reader.asking is None
    reader.now += EVENT_INTERVAL_SECONDS
    reader.specify(pleo=True)
    reader.asked = []
    reader.end()
    assert reader.asked == ["options", "port"]
    reader.now += EVENT_INTERVAL_SECONDS
    reader.specify(pleo=False)
    reader.asked = []
    reader.end()
    assert reader.asked == ["page"]


@pytest.mark.parametrize("question", ["identity", "options"])
def test_controller_that_hangs_over_a_question_is_not_asked_again(reader: Reader, question: str) -> None:
    """Each such question costs the connection, and the page must be read all the same."""
    reader.spec.pleo = True
    setattr(reader, question, OSError(errno.EINTR, os.strerror(errno.EINTR)))
    reader.page = OSError(errno.EIO, "the connection is gone")
    for _ in range(2):
        assert len(reader.visited(fresh=True)) > 1
        assert reader.discovery.text() == ", log page not read: the connection is gone"
    reader.page = page()
    for _ in range(5):
        assert reader.visited(fresh=True) == ["page"]
        assert reader.discovery.persistence.persistent


def test_one_lost_connection_does_not_count(reader: Reader) -> None:
    reader.identity = OSError(errno.EINTR, os.strerror(errno.EINTR))
    reader.visited(fresh=True)
    reader.identity = identity()
    for _ in range(3):
        assert reader.visited(fresh=True) == ["identify", "page"]


def test_a_new_connection_that_fails_at_once_is_still_new_to_the_next_reading(reader: Reader) -> None:
    reader.dctype, reader.page = "cdc", OSError(errno.EIO, "x")
    reader.visited(fresh=True)
    assert reader.registration.renewed == []
    reader.page = page(HELD_SELF)
    reader.visited()
    assert reader.registration.renewed == [True]


# Registration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dctype", "renewed"), [("ddc", [True]), ("cdc", [True]), ("", [])])
def test_registration_follows_each_new_connection(reader: Reader, dctype: str, renewed: list[bool]) -> None:
    reader.dctype = dctype
    reader.visited(fresh=True)
    assert reader.registration.renewed == renewed
    reader.visited()
    assert reader.registration.renewed == renewed
    reader.visited(fresh=True)
    assert reader.registration.renewed == 2 * renewed


def test_controller_type_is_identified_on_old_kernels(reader: Reader) -> None:
    reader.identity = identity(CDC)
    reader.visited(fresh=True)
    assert reader.registration.renewed == [True]


def test_a_broken_log_page_does_not_keep_the_host_from_registering(reader: Reader) -> None:
    reader.dctype, reader.page = "cdc", admin.AdminError("garbage")
    reader.visited(fresh=True)
    assert reader.registration.renewed == [True]


def test_the_page_of_another_of_the_same_name_is_not_read(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "sysfs_inode", lambda _: 8)
    assert reader.visited() == []
    assert reader.discovery.text() == ", log page not read: the controller is gone"
    assert not (Path(reader.directory) / "log").exists()


def test_only_tcp_registers(reader: Reader) -> None:
    reader.spec.options[0] = ("transport", "rdma")
    reader.dctype = "cdc"
    reader.visited(fresh=True)
    assert reader.registration.renewed == []


def test_discovery_controller_that_is_not_to_know_the_host_is_told_nothing(reader: Reader) -> None:
    reader.dctype = "cdc"
    reader.specify(register=False)
    reader.visited(fresh=True)
    reader.specify(symname="another")
    assert (reader.registration.renewed, reader.discovery.verdict()) == ([], "")


def test_discovery_controller_is_told_when_it_is_to_know_the_host(reader: Reader) -> None:
    reader.dctype = "cdc"
    reader.specify(register=False)
    reader.visited(fresh=True)
    reader.now += EVENT_INTERVAL_SECONDS
    reader.specify(register=True)
    reader.end()
    assert reader.registration.renewed == [True]
    reader.registered()
    reader.registration.retry_at = reader.now + 1
    reader.specify(register=False)
    reader.now += 2
    reader.tick()
    assert reader.registration.renewed == [True], "an attempt that failed is not made again"


@pytest.mark.parametrize("answer", [page(), admin.AdminError("garbage")])
def test_reading_of_an_earlier_connection_registers_nobody(reader: Reader, answer: bytes | Exception) -> None:
    """Else the host would be registered twice on the new one: for this reading, and for that of its own."""
    reader.dctype = "cdc"
    reader.again(fresh=True)
    reader.again(fresh=True)
    reader.now += 1
    reader.page = answer
    reader.end()
    assert reader.registration.renewed == []
    reader.page = page()
    reader.now += 10
    reader.tick()
    reader.end()
    assert reader.registration.renewed == [True]


def test_a_failed_registration_is_tried_again_while_there_is_a_connection(reader: Reader) -> None:
    reader.dctype = "cdc"
    reader.visited(fresh=True)
    reader.registered()
    for now_state, renewed in (("live", [True, False]), ("reconnecting", [True, False])):
        reader.registration.retry_at = reader.now + 5
        assert reader.discovery.deadline == reader.now + 5
        reader.now += 5
        reader.live = now_state == "live"
        reader.tick()
        assert reader.registration.renewed == renewed
        assert reader.registration.retry_at == 0
    assert len(reader.reads) == 1


# Whether it is persistent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("persistent", "listed", "what", "is_persistent", "why_not"),
    [
        ("force", SELF, identity(kas=0, oaes=0), True, ""),
        ("no", HELD_SELF, identity(), False, "persistent = no"),
        ("auto", HELD_SELF, identity(kas=0, oaes=0), True, ""),
        ("auto", SELF, identity(), True, ""),
        ("auto", SELF, identity(kas=0), False, "it takes no keep-alive"),
        ("auto", SELF, identity(oaes=0), False, "it announces no changes"),
        ("auto", SELF, identity(oaes=0x7FFFFFFF), False, "it announces no changes"),
        ("auto", SELF, admin.RefusedError(0x4002), True, ""),
        ("auto", entry("nqn.2024-08.com.example:vol1", eflags=2), identity(kas=0), False, "it takes no keep-alive"),
    ],
)
@pytest.mark.parametrize("dctype", ["", "ddc"])
def test_connection_is_persistent_by_these_rules(
    reader: Reader,
    dctype: str,
    persistent: str,
    listed: bytes,
    what: admin.Identity | Exception,
    is_persistent: bool,
    why_not: str,
) -> None:
    reader.dctype, reader.spec.persistent, reader.page, reader.identity = dctype, persistent, page(listed), what
    reader.visited(fresh=True)
    reader.registered()
    assert reader.verdict == (is_persistent, why_not)
    assert (reader.discovery.persistence.persistent, reader.discovery.persistence.why_not) == (is_persistent, why_not)


@pytest.mark.parametrize(
    ("answer", "is_persistent", "why_not"),
    [
        (True, True, ""),
        (False, False, "it takes no keep-alive"),
        (OSError(errno.EINTR, "lost"), True, ""),
        (admin.AdminError("no time left"), True, ""),
    ],
)
def test_keep_alive_is_tried_though_it_is_denied(
    reader: Reader, answer: bool | Exception, is_persistent: bool, why_not: str
) -> None:
    """The Linux target takes it, and says that it does not."""
    reader.dctype, reader.page, reader.identity, reader.takes_keep_alive = "ddc", page(SELF), identity(kas=0), answer
    assert reader.visited(fresh=True) == ["page", "identify", "keep-alive"]
    reader.registered()
    assert reader.verdict == (is_persistent, why_not)


@pytest.mark.parametrize(("kas", "oaes"), [(10, 1 << 31), (10, 0), (0, 0)])
def test_keep_alive_is_tried_where_it_matters_only(reader: Reader, kas: int, oaes: int) -> None:
    reader.dctype, reader.page, reader.identity = "ddc", page(SELF), identity(kas=kas, oaes=oaes)
    assert reader.visited(fresh=True) == ["page", "identify"]


@pytest.mark.parametrize(
    ("persistent", "held_for", "is_persistent"),
    [
        ("auto", [1, 59, 1], False),
        ("auto", [1, 1, 61], None),
        ("auto", [1, 1, 61, 1, 1], None),
        ("auto", [1, 1], None),
        ("auto", [61, 1, 1, 1], False),
        ("force", [1, 1, 1, 1], None),
    ],
)
def test_controller_that_ends_each_connection_is_not_persistent(
    reader: Reader, persistent: str, held_for: list[float], is_persistent: bool | None
) -> None:
    reader.spec.persistent = persistent
    for seconds in held_for:
        reader.lost(seconds)
    assert reader.discovery.persistence.persistent is is_persistent
    assert reader.verdict == (
        is_persistent,
        "it ends each connection within a minute" if is_persistent is False else "",
    )


def test_another_short_connection_is_enough_after_a_reading(reader: Reader) -> None:
    """When it was read again, one more is enough; until then it may have been mended."""
    reader.page = page(HELD_SELF)
    for _ in range(3):
        reader.lost(1)
    reader.discovery.forget()
    reader.visited(fresh=True)
    assert reader.discovery.persistence.persistent
    reader.lost(1)
    assert reader.discovery.persistence.persistent is False


@pytest.mark.parametrize("ends", ["after", "before"])
def test_reading_of_an_earlier_connection_does_not_keep_one_that_ends_them(reader: Reader, ends: str) -> None:
    """The kernel connects it again within one reading; what it says of itself is what it said each time."""
    reader.page = page(HELD_SELF)
    reader.again(fresh=True)
    for _ in range(3):
        reader.lost(1)
    if ends == "after":
        reader.again(fresh=True)
    reader.end()
    reader.now += 1
    reader.visited(fresh=True)
    assert reader.verdict == (False, "it ends each connection within a minute")
    assert reader.discovery.persistence.away == 60


@pytest.mark.parametrize("change", ["kept for an hour", "persistent = force"])
def test_one_that_ended_its_connections_stays_when_that_is_no_more(reader: Reader, change: str) -> None:
    """As long as it could not be disconnected: somebody uses it, or the kernel refuses."""
    reader.page = page(HELD_SELF)
    for _ in range(3):
        reader.lost(1)
    if change == "kept for an hour":
        reader.lost(3600)
    else:
        reader.specify(persistent="force")
        reader.end()
    reader.now += 1
    reader.visited(fresh=True)
    assert reader.verdict == (True, "")


def test_a_failed_reading_decides_nothing(reader: Reader) -> None:
    reader.spec.persistent, reader.page = "no", admin.AdminError("garbage")
    reader.visited(fresh=True)
    assert reader.verdict[0] is None
    assert reader.discovery.persistence.persistent is None


def test_a_page_that_nobody_will_see_decides_nothing(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise state.StateError("No space left on device")

    monkeypatch.setattr(state, "write", full)
    reader.spec.persistent = "no"
    reader.visited(fresh=True)
    assert reader.verdict[0] is None
    assert reader.discovery.persistence.persistent is None


def test_polled_controller_is_registered_with_before_it_is_left(reader: Reader) -> None:
    reader.spec.persistent, reader.dctype = "no", "cdc"
    reader.visited(fresh=True)
    assert reader.verdict[0] is None
    reader.registered()
    assert reader.verdict == (False, "persistent = no")


def test_a_controller_may_change_its_mind(reader: Reader) -> None:
    reader.dctype, reader.page, reader.identity = "ddc", page(HELD_SELF), identity(oaes=0)
    reader.visited(fresh=True)
    reader.registered()
    reader.page = page(SELF)
    reader.visited()
    assert reader.verdict == (False, "it announces no changes")
    assert registration.ANSWER_TIMEOUT_SECONDS < interrogation.VISIT_TIMEOUT_SECONDS


# How a page was read --------------------------------------------------------------------------------------


def head(reader: Reader) -> dict[str, str]:
    """What is kept with the page."""
    return dict(state.split(state.LOG, Path(reader.directory, "log").read_bytes())[0])


def test_when_and_how_it_was_asked_is_kept_with_the_page(reader: Reader) -> None:
    reader.visited(fresh=True)
    assert (head(reader)["asked"], head(reader)["milliseconds"]) == ("all-ports", str(int(reader.now * 1000)))
    reader.dctype, reader.spec.pleo, reader.options = "ddc", True, admin.PORT_LOCAL
    reader.visited(fresh=True)
    assert head(reader)["asked"] == "one-port"


def test_each_connection_has_a_name_of_its_own(reader: Reader) -> None:
    reader.visited(fresh=True)
    first = head(reader)["connection"]
    reader.visited()
    assert head(reader)["connection"] == first
    reader.visited(fresh=True)
    assert head(reader)["connection"] != first


def test_after_a_failed_reading_the_connection_may_be_another(reader: Reader) -> None:
    """The kernel may have made it anew before anybody has told us so."""
    reader.visited(fresh=True)
    first, good = head(reader)["connection"], reader.page
    reader.page = OSError(errno.EINTR, "lost")
    reader.visited()
    reader.page = good
    reader.visited()
    assert head(reader)["connection"] != first


def test_page_that_was_read_while_the_connection_was_made_anew_is_read_again(reader: Reader) -> None:
    reader.visited(fresh=True)
    reader.now += EVENT_INTERVAL_SECONDS
    reader.again()
    # The event of the new connection arrives before the reading has been looked at.
    reader.again(fresh=True)
    reader.end(generation=2)
    assert state.split(state.LOG, Path(reader.directory, "log").read_bytes())[1] == page()
    reader.pass_time(2 * EVENT_INTERVAL_SECONDS)
    assert len(reader.reads) == 3
    assert state.split(state.LOG, Path(reader.directory, "log").read_bytes())[1] == page(generation=2)


def test_page_is_read_every_minute_while_it_has_to_be_confirmed(reader: Reader) -> None:
    reader.visited(fresh=True)
    reader.specify(confirm=True)
    reader.pass_time(3 * CONFIRM_INTERVAL_SECONDS + 1)
    assert len(reader.reads) == 4
    reader.specify(confirm=False)
    reader.pass_time(3 * CONFIRM_INTERVAL_SECONDS)
    assert len(reader.reads) == 5


def test_controller_that_ends_its_connections_is_left_longer_each_time(reader: Reader) -> None:
    for _ in range(2):
        reader.lost(1)
        assert reader.discovery.persistence.away == 0
    pauses = []
    for _ in range(4):
        reader.lost(1)
        pauses.append(reader.discovery.persistence.away)
        reader.discovery.forget()
        reader.visited(fresh=True)
    assert pauses == [60, 120, 240, 480]
    # It is persistent again, and a connection that lasts ends the series.
    assert reader.discovery.persistence.away == 0
    reader.lost(61)
    for _ in range(3):
        reader.lost(1)
    assert reader.discovery.persistence.away == 60


def test_controller_that_keeps_a_connection_after_short_ones_is_read_as_any_other(reader: Reader) -> None:
    """Also if the reading on it is the first that succeeds: nothing is left to be waited for."""
    for _ in range(3):
        reader.lost(5)
    reader.again(fresh=True)
    reader.now += 60
    reader.end(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
    reader.lost(65)
    assert reader.discovery.persistence.away == 0
    reader.page = page(HELD_SELF)
    reader.visited(fresh=True)
    assert reader.discovery.persistence.persistent
