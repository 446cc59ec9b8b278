# SPDX-License-Identifier: Apache-2.0
"""A host for discovery controllers, as small as one can be: it sends what it is told to and believes nothing."""

import asyncio
import struct
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.cdc import pdu
from tests.cdc.controller import Reply
from tests.cdc.fabric import WELL_KNOWN, Entry, Fabric, Instance
from tests.cdc.pdu import NO_DIGESTS, Digests, Kind, Pdu, PduError
from tests.cdc.server import Server

HOST = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111"
PATIENCE = 10


@asynccontextmanager
async def serving(*instances: Instance, entries: int = 0) -> AsyncIterator[Fabric]:
    """A fabric on the loopback; without instances, one CDC called `cdc`."""
    fabric = Fabric(instances or [Instance("cdc")])
    for instance in fabric.instances.values():
        instance.port = 0
    fabric.entries = [Entry(f"nqn.2024-08.com.example:vol{number}", "192.0.2.1") for number in range(entries)]
    async with Server(fabric) as server:
        fabric.__dict__["server"] = server
        yield fabric


def server_of(fabric: Fabric) -> Server:
    server = fabric.__dict__["server"]
    assert isinstance(server, Server)
    return server


class Host:
    """One connection. Commands can be sent while others wait."""

    def __init__(
        self, port: int, *, digests: Digests = NO_DIGESTS, nqn: str = HOST, subsystem: str = WELL_KNOWN, hpda: int = 0
    ) -> None:
        self._port = port
        self._wanted = digests
        self._alignment = hpda
        self.nqn = nqn
        self.subsystem = subsystem
        self.agreed = Digests()
        self.max_data = 0
        self.connect_reply = Reply()
        # Corrupts the data digest of what it sends.
        self.liar = False
        # How each answer arrived: its kind and flags.
        self.arrivals: list[tuple[Kind, int]] = []
        self._next = 0
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._parts: dict[int, bytearray] = {}
        self._outgoing: dict[int, bytes] = {}

    async def __aenter__(self) -> "Host":
        await self.open()
        await self.connect()
        await self.enable()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        digest = self._wanted.header | self._wanted.data << 1
        self.writer.write(pdu.encode(Pdu(Kind.IC_REQ, struct.pack("<HBBI", 0, self._alignment, digest, 0))))
        try:
            answer = await asyncio.wait_for(pdu.receive(self.reader), PATIENCE)
        except (OSError, EOFError, PduError, TimeoutError):
            self.writer.close()
            raise
        assert answer.kind is Kind.IC_RESP
        _, _, digest, self.max_data = struct.unpack_from("<HBBI", answer.fields)
        self.agreed = Digests(bool(digest & 1), bool(digest & 2))
        self._task = asyncio.create_task(self._receive())

    async def connect(self, *, keep_alive_ms: int = 0, **changes: int) -> Reply:
        data = uuid.uuid5(uuid.NAMESPACE_URL, self.nqn).bytes + struct.pack("<H", changes.get("cntlid", 0xFFFF))
        data = data.ljust(256, b"\0") + self.subsystem.encode().ljust(256, b"\0") + self.nqn.encode().ljust(512, b"\0")
        words = struct.pack(
            "<HHHBxI",
            changes.get("form", 0),
            changes.get("queue", 0),
            changes.get("size", 31),
            changes.get("attributes", 0),
            keep_alive_ms,
        )
        self.connect_reply = await self.command(0x7F, send=data, fabrics=1, words=words)
        return self.connect_reply

    async def enable(self) -> None:
        await self.set_property(0x14, 0x460001)

    async def set_property(self, offset: int, value: int) -> Reply:
        return await self.command(0x7F, fabrics=0, words=struct.pack("<BxxxIQ", 0, offset, value))

    async def get_property(self, offset: int, *, wide: bool = False) -> Reply:
        return await self.command(0x7F, fabrics=4, words=struct.pack("<BxxxIQ", wide, offset, 0))

    async def log(self, page: int, offset: int, length: int, *, options: int = 0, retain: bool = False) -> Reply:
        count = length // 4 - 1
        first = page | options << 8 | retain << 15 | (count & 0xFFFF) << 16
        words = struct.pack("<6I", first, count >> 16, offset & 0xFFFFFFFF, offset >> 32, 0, 0)
        return await self.command(0x02, words=words, receive=length)

    async def discover(self, options: int = 0) -> tuple[int, int, bytes]:
        """Generation, number of records, and the bytes of as many entries as one reading got."""
        header = (await self.log(0x70, 0, 1024, options=options)).data
        generation, count = struct.unpack_from("<QQ", header)
        size = 1032 if options & 1 else 1024
        entries = b""
        while len(entries) < count * size:
            part = min(4096, count * size - len(entries))
            entries += (await self.log(0x70, 1024 + len(entries), part, options=options)).data
        return generation, count, entries

    async def dim(self, task: int, data: bytes, *, in_capsule: bool = True) -> Reply:
        return await self.command(0x21, words=struct.pack("<6I", task, 0, 0, 0, 0, 0), send=data, in_capsule=in_capsule)

    def event(self) -> "asyncio.Future[Reply]":
        """Asks for an event; the future has it when it comes."""
        return self._submit(0x0C, 0, b"", b"", 0, True)

    async def command(
        self,
        opcode: int,
        *,
        fabrics: int = 0,
        words: bytes = b"",
        send: bytes = b"",
        receive: int = 0,
        in_capsule: bool = True,
    ) -> Reply:
        """Raises EOFError when the connection ends before the answer, TimeoutError where none comes."""
        return await asyncio.wait_for(self._submit(opcode, fabrics, words, send, receive, in_capsule), PATIENCE)

    def _submit(
        self, opcode: int, fabrics: int, words: bytes, send: bytes, receive: int, in_capsule: bool
    ) -> "asyncio.Future[Reply]":
        identifier = self._next = self._next + 1
        kind = 0x01 if send and in_capsule else 0x5A
        entry = struct.pack("<BBHB19xQI3xB", opcode, 0x40, identifier, fabrics, 0, len(send) or receive, kind)
        entry = (entry + words).ljust(64, b"\0")
        if self._task.done():
            raise EOFError("the connection has ended")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[identifier] = future
        if not in_capsule:
            self._outgoing[identifier] = send
        self._send(Pdu(Kind.COMMAND, entry, send if in_capsule else b""))
        return future

    def _send(self, sent: Pdu) -> None:
        data = bytearray(pdu.encode(sent, self.agreed))
        if self.liar and sent.data and self.agreed.data:
            data[-1] ^= 1
        self.writer.write(data)

    async def _receive(self) -> None:
        try:
            while True:
                self._take(await pdu.receive(self.reader, self.agreed))
        except (OSError, EOFError, PduError) as error:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()

    def _take(self, received: Pdu) -> None:
        self.arrivals.append((received.kind, received.flags))
        assert received.intact or received.kind is Kind.C2H_DATA
        match received.kind:
            case Kind.RESPONSE:
                result, _, _, identifier, status = struct.unpack("<QHHHH", received.fields)
                self._finish(identifier, Reply(status >> 1, result, bytes(self._parts.pop(identifier, b""))))
            case Kind.C2H_DATA:
                identifier, _, offset, length = struct.unpack_from("<HHII", received.fields)
                assert len(received.data) == length
                if not received.intact:
                    raise EOFError("wrong data digest")
                self._parts.setdefault(identifier, bytearray())[offset : offset + length] = received.data
                if received.flags & pdu.SUCCESS:
                    self._finish(identifier, Reply(data=bytes(self._parts.pop(identifier))))
            case Kind.R2T:
                identifier, tag, offset, length = struct.unpack_from("<HHII", received.fields)
                data = self._outgoing.pop(identifier)[offset : offset + length]
                for at in range(0, length, 4096):
                    part = data[at : at + 4096]
                    fields = struct.pack("<HHII", identifier, tag, offset + at, len(part))
                    flags = pdu.LAST_PDU if at + len(part) == length else 0
                    self._send(Pdu(Kind.H2C_DATA, fields, part, flags))
            case _:
                raise EOFError(f"{received.kind.name}: {received.fields[:6].hex()}")

    def _finish(self, identifier: int, reply: Reply) -> None:
        future = self._waiting.pop(identifier)
        if not future.done():
            future.set_result(reply)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)
