# SPDX-License-Identifier: Apache-2.0
"""A discovery controller as one host sees it: Fabrics and admin commands, without the transport.

Base Specification 2.0 §3.1.3.3 (discovery controllers), §5 (admin commands), §6 (Fabrics commands).
"""

import random
import struct
import uuid
from collections import deque
from dataclasses import dataclass

from . import identify, log_page, registration, status
from .fabric import WELL_KNOWN, Fabric, Instance
from .status import Refusal

FABRICS, CONNECT, PROPERTY_GET, PROPERTY_SET = 0x7F, 0x01, 0x04, 0x00
GET_LOG_PAGE, IDENTIFY, ABORT, SET_FEATURES, GET_FEATURES = 0x02, 0x06, 0x08, 0x09, 0x0A
ASYNC_EVENT, KEEP_ALIVE, DIM = 0x0C, 0x18, 0x21
OPCODES = {
    IDENTIFY: "identify",
    ABORT: "abort",
    SET_FEATURES: "features-set",
    GET_FEATURES: "features-get",
    ASYNC_EVENT: "async-event",
    KEEP_ALIVE: "keep-alive",
    DIM: "dim",
}
FABRICS_TYPES = {CONNECT: "connect", PROPERTY_GET: "property-get", PROPERTY_SET: "property-set"}
NUMBER_OF_QUEUES, ASYNC_EVENT_CONFIGURATION, KEEP_ALIVE_TIMER = 0x07, 0x0B, 0x0F
# Queue entries, contiguous queues, 7.5 s to become ready, NVM command set.
CAPABILITIES = 127 | 1 << 16 | 15 << 24 | 1 << 37
CAP, VS, CC, CSTS = 0x00, 0x08, 0x14, 0x1C
# Notice, "discovery log page change", log page 70h: how a host is told.
DISCOVERY_CHANGED = 0x70F002


@dataclass(frozen=True)
class Command:
    """A submission queue entry."""

    raw: bytes

    @property
    def opcode(self) -> int:
        return self.raw[0]

    @property
    def identifier(self) -> int:
        return int.from_bytes(self.raw[2:4], "little")

    @property
    def fabrics_type(self) -> int:
        return self.raw[4]

    def dword(self, number: int) -> int:
        return int.from_bytes(self.raw[4 * number : 4 * number + 4], "little")

    @property
    def step(self) -> str:
        """What it is called in rules, counters and records."""
        if self.opcode == FABRICS:
            return FABRICS_TYPES.get(self.fabrics_type, "other")
        if self.opcode == GET_LOG_PAGE:
            page = self.dword(10) & 0xFF
            if page != log_page.DISCOVERY:
                return "log-supported" if page == log_page.SUPPORTED else "log-other"
            return "log-entries" if self.dword(12) or self.dword(13) else "log-header"
        return OPCODES.get(self.opcode, "other")

    @property
    def data_length(self) -> int:
        return self.dword(8)

    @property
    def data_in_capsule(self) -> bool:
        return self.raw[39] == 0x01

    @property
    def sends_data(self) -> bool:
        """Data goes from host to controller."""
        kind = self.fabrics_type if self.opcode == FABRICS else self.opcode
        return kind & 3 == 1


@dataclass(frozen=True)
class Reply:
    """A completion, and data in front of it. A property's value may take DW1 as well."""

    status: int = status.SUCCESS
    result: int = 0
    data: bytes = b""


class Controller:
    """What one association knows. `completed` collects answers to event requests for the transport to send."""

    def __init__(self, fabric: Fabric, instance: Instance, address: str = "") -> None:
        self.fabric = fabric
        self.instance = instance
        self.address = address
        self.host = ""
        self.host_id = ""
        self.cntlid = 0
        self.keep_alive_ms = 0
        self.queue_size = 0
        self.flow_control = True
        self.shut_down = False
        self.completed: deque[tuple[int, Reply]] = deque()
        self._configuration = 0
        self._state = 0
        self._event_mask = 0
        self._requests: deque[int] = deque()
        self._masked = False
        self._pending = 0
        self._reading = False

    @property
    def connected(self) -> bool:
        return self.cntlid != 0

    def execute(self, command: Command, data: bytes) -> Reply | None:
        """Return the answer, or None for an event request that waits. Raises Refusal."""
        step = command.step
        if not self.connected and step != "connect":
            raise Refusal(status.COMMAND_SEQUENCE, f"{step} before Connect")
        match step:
            case "connect":
                return self._connect(command, data)
            case "property-get":
                return self._property_get(command)
            case "property-set":
                return self._property_set(command)
        if not self._state & 1:
            raise Refusal(status.COMMAND_SEQUENCE, f"{step} before the controller is enabled")
        match step:
            case "identify":
                return self._identify(command)
            case "features-set" | "features-get":
                return self._feature(command)
            case "keep-alive":
                if not self.instance.kas:
                    raise Refusal(status.INVALID_OPCODE, "no keep-alive here")
                return Reply()
            case "async-event":
                return self._await_event(command)
            case "abort":
                return self._abort(command)
            case "dim":
                return self._register(command, data)
            case "log-supported" | "log-header" | "log-entries" | "log-other":
                return self._log_page(command)
        raise Refusal(status.INVALID_OPCODE, f"opcode {command.opcode:#04x}")

    # Fabrics commands

    def _connect(self, command: Command, data: bytes) -> Reply:
        form, queue, size, attributes, keep_alive = struct.unpack_from("<HHHBxI", command.raw, 40)
        if self.connected:
            raise Refusal(status.COMMAND_SEQUENCE, "a second Connect")
        if form:
            raise Refusal(status.CONNECT_FORMAT, f"record format {form}")
        if queue:
            raise _invalid(42, f"queue {queue} of a controller that has an admin queue only")
        if not size:
            raise _invalid(44, "a queue of one entry")
        if len(data) != 1024:
            raise Refusal(status.INVALID_FIELD, f"{len(data)} bytes of Connect data")
        host_id, cntlid = data[:16], int.from_bytes(data[16:18], "little")
        subsystem, host = (data[at : at + 256].partition(b"\0")[0].decode(errors="replace") for at in (256, 512))
        if not any(host_id):
            raise _invalid(0, "no host ID", in_data=True)
        if cntlid != 0xFFFF:
            raise _invalid(16, f"controller ID {cntlid} where they are dynamic", in_data=True)
        if subsystem not in (WELL_KNOWN, self.instance.nqn):
            raise _invalid(256, f"no subsystem {subsystem!r} here", in_data=True)
        if not host.startswith("nqn.") or len(host) > 223:
            raise _invalid(512, f"host NQN {host!r}", in_data=True)
        if self.instance.hosts is not None and host not in self.instance.hosts:
            raise Refusal(status.CONNECT_INVALID_HOST, f"{host} may not connect")
        self.host, self.host_id = host, str(uuid.UUID(bytes=host_id))
        self.cntlid = self.fabric.next_cntlid()
        self.keep_alive_ms, self.queue_size, self.flow_control = keep_alive, size + 1, not attributes & 4
        return Reply(result=self.cntlid)

    def _property_get(self, command: Command) -> Reply:
        offset, wide = command.dword(11), command.raw[40] & 7 == 1
        values = {CAP: CAPABILITIES, VS: identify.VERSION, CC: self._configuration, CSTS: self._state}
        if offset not in values or wide != (offset == CAP):
            raise Refusal(status.INVALID_FIELD, f"property {offset:#x}")
        return Reply(result=values[offset])

    def _property_set(self, command: Command) -> Reply:
        offset, value = command.dword(11), command.dword(12)
        if offset != CC:
            raise Refusal(status.INVALID_FIELD, f"property {offset:#x} cannot be set")
        if value & 0xC000 and not self._configuration & 0xC000:
            self.shut_down = True
        self._configuration = value
        self._state = value & 1 | (0x8 if value & 0xC000 else 0)
        return Reply()

    # Admin commands

    def _identify(self, command: Command) -> Reply:
        structure = command.dword(10) & 0xFF
        if structure != 1:
            raise Refusal(status.INVALID_FIELD, f"Identify with CNS {structure:#x}")
        return Reply(data=identify.controller(self.instance, self.cntlid)[: command.data_length])

    def _feature(self, command: Command) -> Reply:
        feature, value = command.dword(10) & 0xFF, command.dword(11)
        write = command.opcode == SET_FEATURES
        if write and command.dword(10) >> 31:
            raise Refusal(status.FEATURE_NOT_SAVEABLE, f"feature {feature:#x} is not saveable")
        if feature == ASYNC_EVENT_CONFIGURATION:
            if write:
                self._event_mask = value
            return Reply(result=0 if write else self._event_mask)
        if feature == KEEP_ALIVE_TIMER and self.instance.kas:
            if write:
                self.keep_alive_ms = value
            return Reply(result=0 if write else self.keep_alive_ms)
        if feature == NUMBER_OF_QUEUES:
            return Reply()
        raise Refusal(status.INVALID_FIELD, f"feature {feature:#x}")

    def _abort(self, command: Command) -> Reply:
        identifier = command.dword(10) >> 16
        if identifier not in self._requests:
            return Reply(result=1)
        self._requests.remove(identifier)
        self.completed.append((identifier, Reply(status.ABORTED)))
        return Reply()

    def _register(self, command: Command, data: bytes) -> Reply:
        facts: dict[str, object] = {"host": self.host, "task": command.dword(10) & 0xF}
        if self.instance.dctype == "none" or not self.instance.dim:
            raise Refusal(status.INVALID_OPCODE, "no registration here")
        try:
            told = registration.parse(command.dword(10) & 0xF, data)
            if told.entity == "host" and told.nqn != self.host:
                raise registration.RegistrationError(f"{self.host} registers {told.nqn}")
        except registration.RegistrationError as error:
            self.fabric.record.note("dim-invalid", self.instance.name, **facts, error=str(error), raw=data.hex())
            raise Refusal(status.INVALID_FIELD, str(error)) from None
        if told.task == "deregister":
            self.fabric.record.deregister(self.instance.name, told.nqn)
        else:
            self.fabric.record.register(self.instance.name, told)
        facts |= {
            "task": told.task,
            "nqn": told.nqn,
            "name": told.name,
            "version": told.version,
            "host_id": told.host_id,
            "symbolic_name": told.symbolic_name,
        }
        self.fabric.record.note("dim", self.instance.name, **facts)
        return Reply()

    def _log_page(self, command: Command) -> Reply:
        page, options = command.dword(10) & 0xFF, command.dword(10) >> 8 & 0x7F
        length = ((command.dword(11) & 0xFFFF) << 16 | command.dword(10) >> 16) * 4 + 4
        offset = command.dword(13) << 32 | command.dword(12)
        if length > command.data_length or offset % 4:
            raise Refusal(status.INVALID_FIELD, f"{length} bytes at {offset} into {command.data_length}")
        if page == log_page.SUPPORTED:
            content = log_page.supported(self.instance)
        elif page == log_page.DISCOVERY:
            if not offset:
                # A host reads the header before and after the entries; that is one reading.
                self._reading = not self._reading
                self.instance.counters["log-reads"] += self._reading
            content = log_page.discovery(self.fabric, self.instance, self.host, options)
            # Retain Asynchronous Event.
            if not command.dword(10) >> 15 & 1:
                self._masked = False
        else:
            raise Refusal(status.INVALID_LOG_PAGE, f"log page {page:#04x}")
        if offset > content.size:
            raise Refusal(status.INVALID_FIELD, f"offset {offset} in a log page of {content.size} bytes")
        return Reply(data=content.read(offset, length))

    # Events

    def _await_event(self, command: Command) -> Reply | None:
        if len(self._requests) > identify.AER_LIMIT:
            raise Refusal(status.AER_LIMIT, "too many event requests")
        self._requests.append(command.identifier)
        self._deliver()
        return None

    def notify(self, *, force: bool = False) -> None:
        """The log page changed. Told once until the host reads it, or, with force, each time."""
        if not self.instance.events or not self._event_mask & identify.DISCOVERY_CHANGE:
            return
        if force or not self._masked:
            self._masked = True
            self._pending += 1
            self._deliver()

    def _deliver(self) -> None:
        while self._pending and self._requests:
            self._pending -= 1
            self.instance.counters["events"] += 1
            self.completed.append((self._requests.popleft(), Reply(result=DISCOVERY_CHANGED)))


def garbage(reply: Reply, seed: int) -> Reply:
    """The reply with other data, or without any with another result."""
    source = random.Random(seed)
    return Reply(
        reply.status, reply.result if reply.data else source.getrandbits(32), source.randbytes(len(reply.data))
    )


def _invalid(offset: int, text: str, *, in_data: bool = False) -> Refusal:
    return Refusal(status.CONNECT_INVALID_PARAMETERS, text, offset | in_data << 16)
