# SPDX-License-Identifier: Apache-2.0
"""One host's connection: the transport's half of a controller, and every way in which it goes wrong on order."""

import asyncio
import contextlib
import dataclasses
import struct

from . import pdu, status
from .controller import Command, Controller, Reply, garbage
from .fabric import Fabric, Instance
from .misbehaviour import Rule
from .pdu import Digests, Fault, Kind, Pdu, PduError
from .status import Refusal

# A host that connects and then says nothing.
SILENCE = 30
# A timer of the host's may be late.
GRACE = 1.0


class _Over(Exception):  # noqa: N818 - it is an end, and none that surprises
    """The connection has come to its end; the text says by whom."""


@dataclasses.dataclass
class _Transfer:
    """Data that was asked for with R2T and comes in parts."""

    command: Command
    rule: Rule | None
    data: bytearray
    arrived: int = 0
    intact: bool = True


class Session:
    """Serves one TCP connection from its first byte to its last."""

    def __init__(
        self, fabric: Fabric, instance: Instance, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        address = writer.get_extra_info("peername") or ("", 0)
        self.instance = instance
        self.address = f"{address[0]}:{address[1]}"
        self.controller = Controller(fabric, instance, self.address)
        self._fabric = fabric
        self._reader = reader
        self._writer = writer
        self._digests = Digests()
        self._alignment = 0
        self._head = 0
        self._transfers: dict[int, _Transfer] = {}
        self._tag = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = 0.0
        self._silence: asyncio.TimerHandle | None = None
        self._drop: asyncio.TimerHandle | None = None
        self._end = ""

    @property
    def host(self) -> str:
        return self.controller.host

    def describe(self) -> dict[str, object]:
        """For the record and the status."""
        return {
            "host": self.host,
            "host_id": self.controller.host_id,
            "address": self.address,
            "cntlid": self.controller.cntlid,
            "kato": self.controller.keep_alive_ms,
            "header_digest": self._digests.header,
            "data_digest": self._digests.data,
        }

    def notify(self, *, force: bool = False) -> None:
        self.controller.notify(force=force)
        self._complete_events()

    def drop(self, why: str) -> None:
        """Resets the connection."""
        self._end = self._end or why
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Returns when the connection has ended. Raises nothing for what a host or network does."""
        why = "closed by the host"
        try:
            await self._handshake()
            while True:
                await self._serve_one()
        except PduError as error:
            why = f"protocol error: {error}"
            self.instance.counters["protocol-errors"] += 1
            self._terminate(error)
        except _Over as error:
            why = str(error)
        except (OSError, EOFError):
            pass
        finally:
            await self._close(self._end or why)

    async def _close(self, why: str) -> None:
        self._fabric.sessions.discard(self)
        for timer in (self._silence, self._drop):
            if timer is not None:
                timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self.controller.connected:
            what = "shutdown" if self.controller.shut_down else "lost"
            self.instance.counters[what] += 1
            self._fabric.record.note(what, self.instance.name, why=why, **self.describe())
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    # Receiving

    async def _handshake(self) -> None:
        await self._apply_early("accept")
        async with asyncio.timeout(SILENCE):
            request = await pdu.receive(self._reader)
        rule = await self._apply_early("icreq")
        if request.kind is not Kind.IC_REQ:
            raise PduError(Fault.SEQUENCE, f"{request.kind.name} before ICReq")
        form, alignment, digest, _ = struct.unpack_from("<HBBI", request.fields)
        if form:
            raise PduError(Fault.UNSUPPORTED, f"PDU format {form}")
        agreed = Digests(
            bool(digest & 1) and self.instance.header_digest, bool(digest & 2) and self.instance.data_digest
        )
        self._alignment = 4 * (alignment + 1) if alignment else 0
        fields = struct.pack("<HBBI", 0, 0, agreed.header | agreed.data << 1, self.instance.max_h2c_data)
        self._send(Pdu(Kind.IC_RESP, fields), rule)
        self._digests = agreed

    async def _apply_early(self, step: str) -> Rule | None:
        """What a rule does before there is a command to answer."""
        self.instance.counters[step] += 1
        rule = self._fabric.behaviour.take(step, self.instance.name, self.host)
        if rule is None:
            return None
        match rule.action:
            case "drop":
                self._break(f"dropped at {step} on order")
            case "delay":
                await asyncio.sleep(rule.value)
            case "ignore":
                await self._reader.read()
                self._break(f"ignored at {step} on order")
        return rule

    async def _serve_one(self) -> None:
        received = await pdu.receive(self._reader, self._digests)
        self._heard = asyncio.get_running_loop().time()
        match received.kind:
            case Kind.COMMAND:
                self._accept(Command(received.fields), received)
            case Kind.H2C_DATA:
                self._continue(received)
            case Kind.H2C_TERM:
                raise _Over(f"terminated by the host: {received.fields[:6].hex()}")
            case _:
                raise PduError(Fault.SEQUENCE, f"{received.kind.name} from a host")
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def _accept(self, command: Command, received: Pdu) -> None:
        step = command.step
        self.instance.counters[step] += 1
        rule = self._fabric.behaviour.take(step, self.instance.name, self._host_of(command, received.data))
        if command.sends_data and command.data_length and not command.data_in_capsule:
            self._tag = self._tag % 0xFFFF + 1
            self._transfers[self._tag] = _Transfer(command, rule, bytearray(command.data_length))
            fields = struct.pack("<HHII", command.identifier, self._tag, 0, command.data_length)
            self._send(Pdu(Kind.R2T, fields), None)
            return
        if command.sends_data and len(received.data) != command.data_length:
            self._respond(command, Reply(status.INVALID_SGL_DESCRIPTOR), rule)
            return
        self._run(command, received.data, rule, intact=received.intact)

    def _host_of(self, command: Command, data: bytes) -> str:
        """Whom rules are to judge: Connect itself says it."""
        if command.step == "connect" and len(data) == 1024:
            return data[512:768].partition(b"\0")[0].decode(errors="replace")
        return self.host

    def _continue(self, received: Pdu) -> None:
        _, tag, offset, length = struct.unpack_from("<HHII", received.fields)
        transfer = self._transfers.get(tag)
        if transfer is None:
            raise PduError(Fault.INVALID_HEADER, f"data for transfer {tag}, which is none")
        if offset != transfer.arrived or length != len(received.data) or offset + length > len(transfer.data):
            raise PduError(Fault.OUT_OF_RANGE, f"{length} bytes at {offset} of {len(transfer.data)}")
        if length > self.instance.max_h2c_data:
            raise PduError(Fault.LIMIT, f"{length} bytes where {self.instance.max_h2c_data} are the limit")
        transfer.data[offset : offset + length] = received.data
        transfer.arrived += length
        transfer.intact = transfer.intact and received.intact
        if transfer.arrived == len(transfer.data):
            del self._transfers[tag]
            self._run(transfer.command, bytes(transfer.data), transfer.rule, intact=transfer.intact)

    # Carrying out

    def _run(self, command: Command, data: bytes, rule: Rule | None, *, intact: bool) -> None:
        match rule.action if rule else "":
            case "drop":
                self._break(f"dropped at {command.step} on order")
            case "ignore":
                return
            case "delay":
                assert rule is not None
                self._later(rule.value, command, data, intact)
                return
            case "status":
                assert rule is not None
                self._refused(command, Refusal(int(rule.value), "on order"))
                return
            case "generation":
                self._fabric.advance(self.instance, self.host)
        self._carry_out(command, data, rule, intact)

    def _later(self, seconds: float, command: Command, data: bytes, intact: bool) -> None:
        async def answer() -> None:
            await asyncio.sleep(seconds)
            self._carry_out(command, data, None, intact)

        task = asyncio.create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _carry_out(self, command: Command, data: bytes, rule: Rule | None, intact: bool) -> None:
        if not intact:
            self._refused(command, Refusal(status.TRANSIENT_TRANSPORT, "wrong data digest"))
            return
        try:
            reply = self.controller.execute(command, data)
        except Refusal as refusal:
            self._refused(command, refusal)
            return
        if reply is not None:
            self._respond(command, reply, rule)
        if command.step == "connect":
            self._connected()
        elif command.step == "features-set":
            self._watch()
        self._complete_events()

    def _refused(self, command: Command, refusal: Refusal) -> None:
        self.instance.counters["refused"] += 1
        facts = {"step": command.step, "status": refusal.status, "why": str(refusal), "host": self.host}
        self._fabric.record.note("refused", self.instance.name, **facts)
        self._respond(command, Reply(refusal.status, refusal.result), None)

    def _connected(self) -> None:
        self._fabric.sessions.add(self)
        self._fabric.view(self.instance, self.host)
        self._fabric.record.note("connected", self.instance.name, **self.describe())
        self._watch()
        if self.instance.drop_after is not None:
            loop = asyncio.get_running_loop()
            self._drop = loop.call_later(self.instance.drop_after, self.drop, "dropped as it is set to")

    def _watch(self) -> None:
        """Ends the connection of a host that is silent longer than it said it would be."""
        if self._silence is not None:
            self._silence.cancel()
        seconds = self.controller.keep_alive_ms / 1000
        if not seconds or not self.instance.kas:
            return
        loop = asyncio.get_running_loop()
        left = self._heard + seconds + GRACE - loop.time()
        if left > 0:
            self._silence = loop.call_later(left, self._watch)
            return
        self.instance.counters["timeouts"] += 1
        self.drop(f"no keep-alive within {seconds:.1f} s")

    # Sending

    def _complete_events(self) -> None:
        completed = self.controller.completed
        while completed:
            identifier, reply = completed.popleft()
            self._complete(identifier, reply, None)

    def _respond(self, command: Command, reply: Reply, rule: Rule | None) -> None:
        if rule and rule.action == "garbage":
            reply = garbage(reply, int(rule.value))
        if reply.data:
            data = reply.data[: len(reply.data) // 2] if rule and rule.action == "short" else reply.data
            alone = self.instance.success_flag or not self.controller.flow_control
            flags = pdu.LAST_PDU | pdu.SUCCESS * alone
            fields = struct.pack("<HHII", command.identifier, 0, 0, len(data))
            self._send(Pdu(Kind.C2H_DATA, fields, data, flags), rule)
            if alone:
                return
            rule = None
        self._complete(command.identifier, reply, rule)

    def _complete(self, identifier: int, reply: Reply, rule: Rule | None) -> None:
        self._head = (self._head + 1) % max(self.controller.queue_size, 1)
        head = self._head if self.controller.flow_control else 0xFFFF
        fields = struct.pack("<QHHHH", reply.result, head, 0, identifier, reply.status << 1)
        self._send(Pdu(Kind.RESPONSE, fields), rule)

    def _send(self, sent: Pdu, rule: Rule | None) -> None:
        data = bytearray(pdu.encode(sent, self._digests, self._alignment))
        match rule.action if rule else "":
            case "cut":
                self._writer.write(data[: len(data) // 2])
                self._over("cut on order")
            case "digest" if sent.data and self._digests.data:
                data[-1] ^= 0xFF
            case "digest" if self._digests.header:
                data[data[2]] ^= 0xFF
            case "length":
                assert rule is not None
                data[4:8] = int(rule.value).to_bytes(4, "little")
            case "type":
                assert rule is not None
                data[0] = int(rule.value)
        if not self._writer.is_closing():
            self._writer.write(data)

    def _break(self, why: str) -> None:
        self.drop(why)
        raise _Over(why)

    def _over(self, why: str) -> None:
        self._end = why
        self._writer.close()
        raise _Over(why)

    def _terminate(self, error: PduError) -> None:
        fields = struct.pack("<HI10x", error.fault, 0)
        self._send(Pdu(Kind.C2H_TERM, fields, error.header[:128]), None)
