# SPDX-License-Identifier: Apache-2.0
"""What firmware boots from: the controllers of the NVMe Boot Firmware Tables (docs/design/nbft.md)."""

import asyncio
import ipaddress
import re
import uuid
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from discoverd.config.identity import derived_hostid
from discoverd.config.settings import Settings
from discoverd.kernel import interfaces, nbft
from discoverd.kernel.controllers import canonical_nqn
from discoverd.kernel.interfaces import Link
from discoverd.kernel.nbft import Discovery, Namespace, NbftError, Table
from discoverd.plan.candidate import NBFT, Refusal, Target, Wish
from discoverd.sources.ways import ALL_WAYS, Ways
from discoverd.tid import (
    DISCOVERY,
    DISCOVERY_NQN,
    IO,
    TidError,
    TransportId,
    canonical_address,
    check_nqn,
)

DIRECTORY = Path("/sys/firmware/acpi/tables")
# Firmware numbers its tables NBFT1, NBFT2 and so on; there is one for each adapter that has boot firmware.
TABLES_MAX = 16
# So many controllers and refusals, of all tables together.
LIMIT = 1024

_URI = re.compile(r"nvme\+tcp://(\[[0-9a-f:.]+\]|[^\[\]:/@?#%\s]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table by its name, and what it says, or why it cannot be used."""

    name: str
    table: Table | None
    error: str = ""


@dataclass(slots=True)
class Found:
    """What tables ask for, what of it is refused, and the host ID of each host NQN that is not the host's own."""

    wishes: dict[TransportId, Wish] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    identities: dict[str, str] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Tell whether there are so many that the rest is not looked at."""
        return len(self.wishes) + len(self.refusals) >= LIMIT


class Nbft:
    """The source for the supervisor. It reads the tables once, because firmware writes them before the system starts.

    A wish waits, as a refusal, until there is the interface that it is for. One that had its interface stays when that
    goes: then the worker waits.
    """

    def __init__(self, changed: Callable[[], None], directory: Path = DIRECTORY, known: Container[str] = ()) -> None:
        self._changed = changed
        self._known = known
        self._directory = directory
        self._enabled = asyncio.Event()
        self._on = False
        self._hostnqn = ""
        self._ways = ALL_WAYS
        self._files: tuple[TableFile, ...] = ()
        self._interfaces: dict[tuple[bytes, int], str] = {}
        self.wishes: tuple[Wish, ...] = ()
        self.refusals: tuple[Refusal, ...] = ()
        self.identities: Mapping[str, str] = {}

    def configure(self, settings: Settings, hostnqn: str) -> None:
        """Take the settings, and the host's own NQN ('' for none)."""
        self._on = settings.nbft
        self._hostnqn = hostnqn
        self._ways = Ways.of(settings)
        if self._on:
            self._enabled.set()
        self._update()

    async def run(self) -> None:
        """Read the tables once they are wanted, and follow their interfaces for ever."""
        await self._enabled.wait()
        files = await asyncio.to_thread(read, self._directory)
        if not any(any(hfi.mac) for one in files if one.table for hfi in one.table.hfis.values()):
            self._linked(files, ())
            await asyncio.Event().wait()
        await interfaces.follow(lambda links: self._linked(files, links))

    def _linked(self, files: tuple[TableFile, ...], links: tuple[Link, ...]) -> None:
        # Only now: nothing is refused for an interface that nobody has looked for.
        self._files = files
        for one in files:
            for hfi in one.table.hfis.values() if one.table else ():
                if any(hfi.mac) and (name := interfaces.find(links, hfi.mac, hfi.vlan)):
                    self._interfaces[hfi.mac, hfi.vlan] = name
        self._update()

    def _update(self) -> None:
        found = wanted(self._files if self._on else (), self._interfaces, self._hostnqn, self._ways, self._known)
        news = tuple(found.wishes.values()), tuple(found.refusals), found.identities
        if news != (self.wishes, self.refusals, self.identities):
            self.wishes, self.refusals, self.identities = news
            self._changed()


def read(directory: Path) -> tuple[TableFile, ...]:
    """Read all tables in a directory. Blocks; raises nothing: what cannot be read says so."""
    try:
        paths = sorted(directory.glob("NBFT*"))
    except OSError:
        paths = []
    return tuple(_read(path) for path in paths[:TABLES_MAX])


def _read(path: Path) -> TableFile:
    try:
        with path.open("rb") as file:
            return TableFile(path.name, nbft.parse(file.read(nbft.SIZE_MAX)))
    except OSError as error:
        return TableFile(path.name, None, f"it cannot be read: {error.strerror}")
    except NbftError as error:
        return TableFile(path.name, None, str(error))


def wanted(
    files: Iterable[TableFile],
    names: Mapping[tuple[bytes, int], str],
    hostnqn: str,
    ways: Ways = ALL_WAYS,
    known: Container[str] = (),
) -> Found:
    """Return what the tables ask for, as far as ``ways`` lead there. Pure.

    ``names`` has the interface of each MAC address and VLAN that there is, ``hostnqn`` is the host's own NQN, and
    ``known`` are the instances that have a unit.
    """
    found = Found()
    for file in files:
        where = f"in the NBFT table {file.name}"
        if file.table is None:
            reason = f"{file.error}; it asks for nothing as it is, and an update of the firmware may mend it"
            found.refusals.append(Refusal("the table", where, reason))
            continue
        found.refusals += [Refusal(what, where, why) for what, why in file.table.faults]
        reader = _Reader(file.table, where, names, _persona(file.table, where, hostnqn, found), found, ways, known)
        # What a discovery controller is known to lead to stands in the table itself.
        followed = {one.discovery for one in file.table.namespaces if one.subsysnqn != DISCOVERY_NQN}
        for namespace in file.table.namespaces:
            reader.namespace(namespace)
        for discovery in file.table.discoveries:
            if discovery.index not in followed:
                reader.discovery(discovery)
    if found.full:
        del found.refusals[LIMIT:]
        reason = f"{LIMIT} controllers and faults are looked at, and no more"
        found.refusals.append(Refusal("the rest", "in the NBFT tables", reason))
    return found


def _persona(table: Table, where: str, own: str, found: Found) -> str:
    """Return the host NQN that the table wants connections to be made with, '' for the host's own."""
    if not table.hostnqn:
        return ""
    try:
        hostnqn = check_nqn(table.hostnqn)
        if canonical_nqn(hostnqn) == canonical_nqn(own):
            return ""
        # The bytes that firmware sends to the target, and nvme-cli in an initial RAM disk too, though they may be the
        # UUID in the NQN with its first fields turned round. The kernel takes one ID only for an NQN.
        hostid = str(uuid.UUID(bytes=table.hostid)) if any(table.hostid) else derived_hostid(hostnqn)
        if not hostid:
            raise TidError(f"no host ID goes with {hostnqn!r}")
    except TidError as error:
        found.refusals.append(Refusal("the host NQN", where, f"{error}; this host's own NQN is used instead"))
        return ""
    found.identities.setdefault(hostnqn, hostid)
    return hostnqn


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns descriptors of one table into wishes and refusals."""

    table: Table
    where: str
    names: Mapping[tuple[bytes, int], str]
    hostnqn: str
    found: Found
    ways: Ways
    known: Container[str]

    def namespace(self, one: Namespace) -> None:
        where = f"{self.where}, namespace {one.index}"
        what = f"{one.subsysnqn[:80]!r} at {one.traddr or 'no address'}"
        role = DISCOVERY if one.subsysnqn == DISCOVERY_NQN else IO
        if one.security:
            self._refuse_security(what, where, ("tcp", one.traddr, one.trsvcid, one.subsysnqn))
            return
        flags = {"hdr-digest": one.header_digest, "data-digest": one.data_digest}
        params = tuple((name, "true") for name, given in flags.items() if given)
        # It may be reachable by now, and its interfaces more than those that firmware tried.
        source = where + (", which firmware could not reach" if one.unavailable else "")
        for index in one.hfis:
            self._wish(what, where, source, role, one.traddr, one.trsvcid, one.subsysnqn, index, params)

    def discovery(self, one: Discovery) -> None:
        where = f"{self.where}, discovery descriptor {one.index}"
        what = repr(one.uri[:80])
        uri = _URI.fullmatch(one.uri)
        if one.security:
            nqn = one.subsysnqn or DISCOVERY_NQN
            self._refuse_security(what, where, ("tcp", uri[1], uri[2] or "", nqn) if uri else ("tcp", "", "", nqn))
        elif not uri:
            self._refuse(what, where, "it has not the form nvme+tcp://ADDRESS[:PORT]/")
        else:
            nqn = one.subsysnqn or DISCOVERY_NQN
            self._wish(what, where, where, DISCOVERY, uri[1], uri[2] or "", nqn, one.hfi, ())

    def _wish(
        self,
        what: str,
        where: str,
        source: str,
        role: str,
        traddr: str,
        trsvcid: str,
        nqn: str,
        index: int,
        params: tuple[tuple[str, str], ...],
    ) -> None:
        if self.found.full:
            return
        target = ("tcp", traddr, trsvcid, nqn)
        hfi = self.table.hfis.get(index)
        if hfi is None:
            missing = f"the interface {index} that it names is not in the table, or cannot be used"
            self._refuse(what, where, missing, target)
            return
        interface = self.names.get((hfi.mac, hfi.vlan), "")
        if any(hfi.mac) and not interface:
            tagged = f" and the VLAN {hfi.vlan}" if hfi.vlan else ""
            missing = f"no interface has the MAC address {hfi.mac.hex(':')}{tagged}; it is connected once there is one"
            self._refuse(what, where, missing, target)
            return
        try:
            tid = TransportId.make(
                role,
                "tcp",
                _zoned(_target(traddr), interface),
                trsvcid,
                nqn,
                host_traddr=_zoned(hfi.address, interface),
                host_iface=interface,
                hostnqn=self.hostnqn,
            )
            if why := self.ways.refusal(tid.transport, tid.traddr):
                raise TidError(why)
            tid = self.ways.identity(tid, self.known)
        except TidError as error:
            self._refuse(what, where, str(error), target)
            return
        self.found.wishes.setdefault(
            tid, Wish(tid, role, source, NBFT, params, source_optional=hfi.dynamic and bool(hfi.address))
        )

    def _refuse_security(self, what: str, where: str, target: Target) -> None:
        reason = (
            "a security profile belongs to it, and these are not supported yet, so it is not connected in the clear"
        )
        self._refuse(what, where, reason, target)

    def _refuse(self, what: str, where: str, reason: str, target: Target = ("", "", "", "")) -> None:
        if not self.found.full:
            self.found.refusals.append(Refusal(what, where, reason, target=target))


def _target(traddr: str) -> str:
    if not traddr:
        raise TidError("its address is all zero")
    address = ipaddress.ip_address(canonical_address("tcp", traddr))
    if address.is_unspecified or address.is_multicast:
        raise TidError(f"{address} is no address to connect to")
    return str(address)


def _zoned(address: str, interface: str) -> str:
    """Return the address, a link-local one with the interface, without which the kernel does not know what it means."""
    if address and interface:
        parsed = ipaddress.ip_address(address)
        if parsed.version == 6 and parsed.is_link_local and parsed.scope_id is None:
            return f"{address}%{interface}"
    return address
