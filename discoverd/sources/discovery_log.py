# SPDX-License-Identifier: Apache-2.0
"""Discovery log pages: what a discovery controller sent, checked as the hostile input it may be.

Layout: NVMe-oF 1.1 §5.3, NVMe Base Specification 2.0 figure 295 (1024-byte header, 1024-byte entries).
"""

import ipaddress
import struct
from dataclasses import dataclass

from discoverd.candidate import Candidate, Refusal, fabrics_options
from discoverd.config.model import DiscoveredScope
from discoverd.kernel.admin import ENTRY_SIZE, HEADER_SIZE
from discoverd.tid import DISCOVERY_NQN, IO, TidError, TransportId

_HEADER = struct.Struct("<QQH")

TRTYPES = {1: "rdma", 2: "fc", 3: "tcp", 254: "loop"}
REFERRAL, NVM, SELF = 1, 2, 3
DUPLICATE_RETURNED_INFORMATION = 0x1


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: numbers as sent, texts without their padding. ``number`` counts from 0."""

    number: int
    trtype: int
    subtype: int
    treq: int
    portid: int
    eflags: int
    trsvcid: str
    subnqn: str
    traddr: str


@dataclass(frozen=True, slots=True)
class LogPage:
    """A complete log page, and what in it could not be read."""

    generation: int
    entries: tuple[Entry, ...]
    refused: tuple[tuple[int, str], ...]


class LogPageError(Exception):
    """A log page that is no log page; the text says why."""


def parse(data: bytes) -> LogPage:
    """Take a log page apart. An entry that cannot be right is refused by itself. Raises LogPageError."""
    if len(data) < HEADER_SIZE:
        raise LogPageError(f"{len(data)} bytes are no log page")
    generation, records, form = _HEADER.unpack_from(data)
    if form != 0:
        raise LogPageError(f"the record format {form} is unknown")
    if len(data) != HEADER_SIZE + records * ENTRY_SIZE:
        raise LogPageError(f"it claims {records} entries and has {len(data)} bytes")
    entries = []
    refused = []
    for number in range(records):
        start = HEADER_SIZE + number * ENTRY_SIZE
        raw = data[start : start + ENTRY_SIZE]
        try:
            entries.append(
                Entry(
                    number,
                    trtype=raw[0],
                    subtype=raw[2],
                    treq=raw[3],
                    portid=int.from_bytes(raw[4:6], "little"),
                    eflags=int.from_bytes(raw[10:12], "little"),
                    trsvcid=_text(raw[32:64]),
                    subnqn=_text(raw[256:512]),
                    traddr=_text(raw[512:768]),
                )
            )
        except UnicodeDecodeError:
            refused.append((number, "a text in it is not valid UTF-8"))
    return LogPage(generation, tuple(entries), tuple(refused))


def _text(raw: bytes) -> str:
    # Padded with NULs by the specification, with blanks by some controllers.
    return raw.partition(b"\0")[0].decode().strip(" ")


def candidates(
    page: LogPage, parent: TransportId, instance: str, scope: DiscoveredScope, hostnqn: str, hostid: str
) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
    """Return what the page of the discovery controller ``parent`` (unit instance ``instance``) asks for.

    A controller takes the host's side of the connection from the discovery controller only where the
    transport is the same.
    """
    where = f"in the log page of {instance}"
    wanted = []
    refused = [Refusal(f"entry {number}", where, reason) for number, reason in page.refused]
    for entry in page.entries:
        if entry.subtype == SELF or entry.eflags & DUPLICATE_RETURNED_INFORMATION:
            continue
        try:
            tid = _identify(entry, parent)
        except TidError as error:
            refused.append(Refusal(f"entry {entry.number}, {entry.subnqn[:80]!r}", where, str(error)))
            continue
        options = fabrics_options(tid, IO, scope.params, scope.secrets, hostnqn, hostid)
        wanted.append(Candidate(tid, IO, f"listed in the log page of {instance}", instance, options))
    return tuple(wanted), tuple(refused)


def _identify(entry: Entry, parent: TransportId) -> TransportId:
    if entry.subtype == REFERRAL:
        raise TidError("it is a referral, and referrals are not followed")
    if entry.subtype != NVM:
        raise TidError(f"its subsystem type {entry.subtype} is unknown")
    if entry.subnqn == DISCOVERY_NQN:
        raise TidError("it is an I/O controller with the NQN of discovery controllers")
    transport = TRTYPES.get(entry.trtype, "")
    if not transport:
        raise TidError(f"its transport type {entry.trtype} is unknown")
    same = transport == parent.transport
    if not same and transport in ("fc", "loop"):
        # An FC controller needs a port of this host, and loop would attach the host's own disks a second time.
        raise TidError(f"a discovery controller on {parent.transport} cannot refer to {transport}")
    tid = TransportId.make(
        IO,
        transport,
        entry.traddr,
        entry.trsvcid if transport in ("tcp", "rdma") else "",
        entry.subnqn,
        host_traddr=parent.host_traddr if same else "",
        host_iface=parent.host_iface if same else "",
        hostnqn=parent.hostnqn,
    )
    if transport in ("tcp", "rdma"):
        address = ipaddress.ip_address(tid.traddr)
        if address.is_unspecified or address.is_multicast:
            raise TidError(f"{tid.traddr} is no address to connect to")
        if address.is_loopback and not ipaddress.ip_address(parent.traddr).is_loopback:
            raise TidError(f"{tid.traddr} is this host, and the discovery controller is not")
    return tid
