# SPDX-License-Identifier: Apache-2.0
"""One discovery controller with one set of answers, from its worker's questions to what is planned because of them."""

import os
import re
import time
from unittest import mock

from discoverd import state
from discoverd.config.identity import HostIdentity
from discoverd.config.model import DiscoveredScope, Secrets
from discoverd.kernel import admin, controllers, dim
from discoverd.plan import log_page
from discoverd.plan.candidate import Candidate
from discoverd.sources import discovery_log
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, UNIT_NAME_MAX, TransportId, unit_instance
from discoverd.worker import interrogation

from .mutations import Answers

# Seconds of processor time for one controller. A page has 2048 entries at most, and a slow machine is slow.
LIMIT = 3
_INSTANCE = re.compile(r"[A-Za-z0-9:\-_.@\\]+")
_HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
_SCOPE = DiscoveredScope({"ctrl-loss-tmo": "600"}, Secrets(), "", "", "", "")
_PARENTS = tuple(
    TransportId.make(DISCOVERY, "tcp", address, "8009", DISCOVERY_NQN, host_iface=interface)
    for address, interface in (("192.0.2.1", ""), ("fe80::1%eth0", ""), ("2001:db8::1", "eth1"), ("127.0.0.1", ""))
)


class Controller:
    """Answers admin commands in the kernel's place."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._pages = list(answers.pages)
        self._number = -1

    def command(self, fd: int, opcode: int, data: bytearray, cdw: tuple[int, ...], timeout_ms: int) -> int:
        """Stands for admin.command."""
        os.fstat(fd)
        assert 0 < timeout_ms <= 60_000
        self._number += 1
        status = self._answers.statuses.get(self._number, 0)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        if status:
            raise admin.RefusedError(status)
        if opcode == 0x21:
            return 0
        source, offset = self._answers.identity, 0
        if opcode == 0x02:
            offset = cdw[2] | cdw[3] << 32
            assert offset % 4 == 0
            assert len(data) == ((cdw[0] >> 16 | cdw[1] << 16) + 1) * 4 <= 4096
            source = self._answers.supported
        if opcode == 0x02 and cdw[0] & 0xFF == 0x70:
            source = self._pages[0]
            if offset == 0 and len(self._pages) > 1:
                self._pages.pop(0)
        part = source[offset : offset + len(data)]
        data[: len(part)] = part
        return 0


def run(answers: Answers) -> str:
    """Return what became of it: ``read``, ``refused`` or ``failed``. Raises AssertionError for what must never be."""
    started = time.process_time()
    spec = state.Spec("discovery", [("nqn", DISCOVERY_NQN), ("transport", "tcp")])
    spec.persistent, spec.pleo = answers.persistent, answers.pleo
    visit = interrogation.Interrogation(spec, None, fresh=True, connection="1", ask=True)
    controller = Controller(answers)
    outcome = "read"
    with (
        mock.patch.object(admin, "command", controller.command),
        mock.patch.object(admin, "CHANGED_RETRY_SECONDS", (0,) * len(admin.CHANGED_RETRY_SECONDS)),
        mock.patch.object(controllers, "attribute", return_value=answers.dctype),
        mock.patch.object(controllers, "sysfs_inode", return_value=1),
    ):
        try:
            visit.run("null", 1)
        except admin.AdminError:
            outcome = "refused"
        except OSError:
            outcome = "failed"
        _register(spec)
    assert visit.dctype in ("", "none", "ddc", "cdc", "nonsense")
    assert visit.specific in (0, admin.PORT_LOCAL)
    if outcome == "read":
        assert visit.log is not None
        _understand(visit.log)
    assert time.process_time() - started < LIMIT, "it took too long"
    return outcome


def _register(spec: state.Spec) -> None:
    host = dim.Host(_HOST.hostnqn, _HOST.hostid, spec.symname, "192.0.2.1")
    try:
        with admin.Session("null", 60) as session:
            dim.send(session, dim.REGISTER, host, 10)
    except (admin.AdminError, OSError):
        pass


def _understand(log: admin.Log) -> None:
    assert len(log.data) == admin.HEADER_SIZE + min(log.records, admin.READ_ENTRIES) * admin.ENTRY_SIZE
    assert isinstance(log.persistent("tcp", "192.0.2.1", "8009"), bool)
    page = log_page.parse(log.data)
    for tid in _PARENTS:
        parent = discovery_log.Parent(tid, tid.instance, _SCOPE, _SCOPE, give_up_after=3600, asked=17.5)
        listing = discovery_log.candidates(page, parent, _HOST)
        for candidate in listing.candidates:
            check(candidate)
        for refusal in listing.refusals:
            _harmless(refusal.what)
            _harmless(refusal.reason)
        _harmless(listing.inconclusive)


def check(candidate: Candidate) -> None:
    """Raise AssertionError for a candidate that could do harm under its name or with its options."""
    name = candidate.tid.instance
    assert _INSTANCE.fullmatch(name), name
    assert name not in (".", "..")
    assert "/" not in name
    assert len(candidate.tid.unit.encode()) <= UNIT_NAME_MAX
    assert unit_instance(candidate.tid.unit) == name
    keys = [key for key, _ in candidate.options]
    assert len(keys) == len(set(keys)), keys
    assert set(keys) <= {
        "nqn",
        "transport",
        "traddr",
        "trsvcid",
        "host_traddr",
        "host_iface",
        "hostnqn",
        "hostid",
        "ctrl_loss_tmo",
        "keep_alive_tmo",
        "discovery",
        "duplicate_connect",
    }, keys
    for key, value in candidate.options:
        assert not any(one in value for one in ",\n\r\0"), (key, value)
        assert not any(ord(one) <= 32 or ord(one) == 127 for one in value), (key, value)
        if key != "nqn":
            # A subsystem may have a path in its name; it becomes one nowhere.
            assert "/" not in value, (key, value)
            assert ".." not in value, (key, value)
    written = dict(candidate.options)
    assert written["hostnqn"] == _HOST.hostnqn
    assert written["hostid"] == _HOST.hostid
    spec = state.Spec(candidate.role, list(candidate.options))
    spec.source = candidate.source
    assert state.Spec.decode(spec.encode()).options == list(candidate.options)


def _harmless(text: str) -> None:
    """What is shown on a terminal and written to the journal."""
    assert text.isprintable(), text
