# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest: a responder that announces discovery controllers by mDNS, and needs no rights and no Avahi.

`guest_mdns.py SOURCE ADDRESS PORT COUNT`: so many services at ADDRESS, from PORT on, on the link of the own address
SOURCE. It never says goodbye: what it announced ends with the lifetime of its records.
"""

import asyncio
import contextlib
import socket
import struct
import sys

GROUP, MDNS_PORT = "224.0.0.251", 5353
TYPE = "_nvme-disc._tcp.local"
# Seconds: how long a record lives, and how often it is sent.
LIFETIME, AGAIN = 120, 15
PTR, TXT, SRV, A, IN, UNIQUE = 12, 16, 33, 1, 1, 0x8001
SERVICES_PER_PACKET = 5


class Announcer:
    """Sends all records again and again, and whenever somebody asks."""

    def __init__(self, source: str, packets: list[bytes]) -> None:
        self._source = source
        self._packets = packets
        self._asked = asyncio.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("", MDNS_PORT))
        link = socket.inet_aton(source)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, link)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + link)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                question, (address, _) = self._socket.recvfrom(9000)
                # A query has its highest bit clear.
                if address != self._source and len(question) > 2 and not question[2] & 0x80:
                    self._asked.set()

    async def run(self) -> None:
        """Announce for ever."""
        while True:
            for packet in self._packets:
                self._socket.sendto(packet, (GROUP, MDNS_PORT))
                await asyncio.sleep(0.02)
            await asyncio.sleep(1)
            self._asked.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN):
                    await self._asked.wait()


def packets(prefix: str, address: str, port: int, count: int) -> list[bytes]:
    """Return the announcements of discovery controllers (RFC 6762 §8.3), one for each port from ``port`` on."""
    made = []
    host = dns_name(f"{prefix}.local")
    text = b"".join(bytes([len(one)]) + one for one in (b"p=tcp", b"nqn=nqn.2014-08.org.nvmexpress.discovery"))
    for first in range(0, count, SERVICES_PER_PACKET):
        answers = [record(host, A, UNIQUE, socket.inet_aton(address))]
        for number in range(first, min(first + SERVICES_PER_PACKET, count)):
            name = dns_name(f"{prefix}-{number}.{TYPE}")
            answers += [
                record(dns_name(TYPE), PTR, IN, name),
                record(name, SRV, UNIQUE, struct.pack(">HHH", 0, 0, port + number) + host),
                record(name, TXT, UNIQUE, text),
            ]
        made.append(struct.pack(">HHHHHH", 0, 0x8400, 0, len(answers), 0, 0) + b"".join(answers))
    return made


def dns_name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def record(name: bytes, kind: int, group: int, data: bytes) -> bytes:
    return name + struct.pack(">HHIH", kind, group, LIFETIME, len(data)) + data


async def main() -> None:
    source, address, port, count = sys.argv[1:]
    await Announcer(source, packets("user", address, int(port), int(count))).run()


if __name__ == "__main__":
    asyncio.run(main())
