# SPDX-License-Identifier: Apache-2.0
"""The network interfaces of this host by their hardware, and news of them (rtnetlink(7)). For the supervisor."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import TypeVar

log = logging.getLogger("discoverd.interfaces")
T = TypeVar("T")

# News come in bursts (seconds).
DEBOUNCE_SECONDS = 0.5
RETRY_SECONDS = 30

_GROUP_LINK = 1
_RTM_NEWLINK = 16
_RTM_GETLINK = 18
# NLM_F_REQUEST and NLM_F_DUMP
REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_EXT_MASK = 29
_IFLA_PERM_ADDRESS = 54
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_IFLA_VLAN_ID = 1
_SKIP_STATISTICS = 8
_ATTRIBUTE_KIND = 0x3FFF  # without the flags for nesting and byte order

_MESSAGE = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
_QUESTION = Struct("=IHHIIBBHiIIHHI")

# What has the addresses in place of the interfaces in it. One in a VRF keeps its own.
_GROUPS = ("bond", "bridge", "team")
_NESTING_MAX = 8


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. ``mac`` and ``permanent`` (what the hardware has; b'' if unknown) are as many bytes as they are.

    ``vlan`` is 0 for none, ``parent`` the index of what a VLAN is on, ``master`` that of what the interface is a part
    of, 0 for nothing. ``kind`` is the kernel's word for what is not hardware.
    """

    index: int
    name: str
    mac: bytes
    permanent: bytes
    vlan: int
    parent: int
    master: int
    kind: str


def find(links: Iterable[Link], mac: bytes, vlan: int) -> str:
    """Return the name of the interface that has this MAC address and VLAN (0: none) and can have an address, or ''.

    The VLANs of an interface have its MAC address, and so does a bond that the interface is a part of, or a bridge:
    then it is these that have the addresses.
    """
    known = {link.index: link for link in links}
    plain = {_top(link, known) for link in known.values() if not link.vlan and mac in (link.mac, link.permanent)}
    if not vlan:
        found = plain
    else:
        parents = {link.index for link in plain}
        tagged = [link for link in known.values() if link.vlan == vlan]
        found = {_top(link, known) for link in tagged if link.parent in parents or link.mac == mac}
    return min(found, key=lambda link: link.index).name if found else ""


def _top(link: Link, known: dict[int, Link]) -> Link:
    for _ in range(_NESTING_MAX):
        master = known.get(link.master)
        if master is None or master.kind not in _GROUPS:
            break
        link = master
    return link


def links() -> tuple[Link, ...]:
    """Return all interfaces. Blocks for a moment; raises OSError."""
    question = _QUESTION.pack(
        *(_QUESTION.size, _RTM_GETLINK, REQUEST_DUMP, 1, 0),
        *(0, 0, 0, 0, 0, 0),
        *(8, _IFLA_EXT_MASK, _SKIP_STATISTICS),
    )
    return tuple(_link(message) for message in dump(question, _RTM_NEWLINK))


def dump(question: bytes, answer: int) -> Iterator[bytes]:
    """Yield the bodies of the messages of type ``answer`` that a request for all brings. Blocks; raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(5)
        netlink.send(question)
        while True:
            for kind, message in _messages(netlink.recv(65536)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    code = -int.from_bytes(message[:4], sys.byteorder, signed=True)
                    raise OSError(code, os.strerror(code))
                if kind == answer:
                    yield message


async def follow(report: Callable[[tuple[Link, ...]], None]) -> None:
    """Call ``report`` with all interfaces, at once and whenever one of them has changed. Runs for ever."""
    await follow_all(links, _GROUP_LINK, report)


async def follow_all(read: Callable[[], T], groups: int, report: Callable[[T], None]) -> None:
    """Call ``report`` with what ``read`` returns, at once and when news of the multicast ``groups`` have changed it."""
    complained = False
    while True:
        try:
            await _follow(read, groups, report)
        except OSError as error:
            if not complained:
                log.warning("cannot hear of network interfaces: %s; trying again every %d s", error, RETRY_SECONDS)
            complained = True
        await asyncio.sleep(RETRY_SECONDS)


async def _follow(read: Callable[[], T], groups: int, report: Callable[[T], None]) -> None:
    loop = asyncio.get_running_loop()
    with _subscribe(groups) as netlink:
        news = asyncio.Event()
        loop.add_reader(netlink, _drain, netlink, news)
        try:
            last: T | None = None
            while True:
                news.clear()
                found = await asyncio.to_thread(read)
                if found != last:
                    report(found)
                last = found
                await news.wait()
                await asyncio.sleep(DEBOUNCE_SECONDS)
        finally:
            loop.remove_reader(netlink)


def _subscribe(groups: int) -> socket.socket:
    flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    netlink = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)
    netlink.bind((0, groups))
    return netlink


def _drain(netlink: socket.socket, news: asyncio.Event) -> None:
    """What the news are does not matter: all is read anew."""
    news.set()
    while True:
        try:
            netlink.recv(65536)
        except OSError:
            return  # There is no more. Or some were lost (ENOBUFS): the reader is called again for the rest.


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _MESSAGE.size:
        length, kind, _, _, _ = _MESSAGE.unpack_from(data)
        if length < _MESSAGE.size:
            return
        yield kind, data[_MESSAGE.size : length]
        data = data[(length + 3) & ~3 :]


def _link(message: bytes) -> Link:
    found = attributes(message[16:])
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    kind = _text(info.get(_IFLA_INFO_KIND, b""))
    data = attributes(info.get(_IFLA_INFO_DATA, b"")) if kind == "vlan" else {}
    return Link(
        index=_number(message[4:8]),
        name=_text(found.get(_IFLA_IFNAME, b"")),
        mac=found.get(_IFLA_ADDRESS, b""),
        permanent=found.get(_IFLA_PERM_ADDRESS, b""),
        vlan=_number(data.get(_IFLA_VLAN_ID, b"")),
        parent=_number(found.get(_IFLA_LINK, b"")),
        master=_number(found.get(_IFLA_MASTER, b"")),
        kind=kind,
    )


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message by their type, without one that is cut short."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _ATTRIBUTE_KIND] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, sys.byteorder)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")
