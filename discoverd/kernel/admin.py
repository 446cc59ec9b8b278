# SPDX-License-Identifier: Apache-2.0
"""Admin commands through a controller's character device, and what a discovery controller answers to them.

Follows linux/nvme_ioctl.h and the NVMe Base Specification 2.0: §5.16 (Get Log Page; figures 202 for Supported Log
Pages, 294 and 295 for the discovery log page and its entries, basic and extended), §5.17 (Identify, figure 275). Where
the revision in which the extended entries came differs from the older ones, the older ones reserve the bytes.
"""

import _ctypes
import fcntl
import posix
import time
from _struct import pack_into, unpack_from

from discoverd.kernel.controllers import same_address

_ADMIN_CMD = 0xC0484E41  # _IOWR('N', 0x41, struct nvme_admin_cmd)
_GET_LOG_PAGE = 0x02
_IDENTIFY = 0x06
_KEEP_ALIVE = 0x18
_CNS_CONTROLLER = 0x01
_LOG_SUPPORTED = 0x00
_LOG_DISCOVERY = 0x70
# Seconds for one command. The kernel takes a command that is not answered for a lost connection, and resets it: so
# less would harm a controller that is only slow.
_TIMEOUT_SECONDS = 30
# And for the questions that a controller can do without.
_OPTIONAL_TIMEOUT_SECONDS = 10

HEADER_SIZE = 1024
ENTRY_SIZE = 1024
# What an extended entry has before its attributes: a basic entry, its total length and the number of attributes.
_EXTENDED_SIZE = ENTRY_SIZE + 8
_IDENTIFY_SIZE = 4096
_SUPPORTED_SIZE = 1024
# A controller need not transfer more than a page of memory in one command.
_CHUNK = 4096
# The largest log page that is believed; a controller that claims more is broken or hostile.
MAX_ENTRIES = 16_384
# So many of them are read. Pages are kept in /run and in memory, anybody on a link can announce a discovery controller,
# and more controllers of one are not connected anyway.
READ_ENTRIES = 2048
# Of a page that only an announcement leads to: each entry costs memory, here and under /run.
READ_UNTRUSTED_ENTRIES = 256
# Seconds before a page that has changed meanwhile is read again, each time, until it is given up. One that changes all
# the time costs no more readings than one that is announced all the time.
CHANGED_RETRY_SECONDS = (1, 2, 2, 2, 2)

# Discovery log page: what Supported Log Pages announces, and the same bits ask for.
EXTENDED, PORT_LOCAL, ALL_SUBSYSTEMS = 1, 2, 4
# DLPF, the flags in a discovery log page's header.
_HEADER_EXTENDED = 0x1
TRTYPES = {1: "rdma", 2: "fc", 3: "tcp", 254: "loop"}
_SELF, _EPCSD = 3, 0x2

DCTYPES = ("none", "ddc", "cdc")
_EVENT_DISCOVERY_CHANGE = 1 << 31

_STATUSES = {
    0x001: "invalid opcode",
    0x002: "invalid field",
    0x006: "internal error",
    0x007: "aborted",
    0x109: "invalid log page",
}
# The kernel's own, for a command that the controller has not got or whose answer was not waited for: it has refused
# nothing. 107 is ENOTCONN, 103 ECONNABORTED.
_UNANSWERED = {0x370: (107, "no connection"), 0x371: (103, "aborted by this host")}


class AdminError(Exception):
    """An admin command that the controller refused, or an answer that makes no sense; the text says which."""


class RefusedError(AdminError):
    """The controller answered with this NVMe ``status``."""

    def __init__(self, status: int) -> None:
        name = _STATUSES.get(status & 0x7FF, "")
        super().__init__(f"the controller answered with NVMe status 0x{status:04x}" + (name and f" ({name})"))
        self.status = status


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]
    # ctypes.py would cost a worker half a megabyte; this is all it needs of it: the address of a buffer.
    _type_ = "c"


def command(fd: int, opcode: int, data: bytearray, cdw: tuple[int, ...], timeout_ms: int) -> int:
    """Issue an admin command with a data buffer, which may be empty, and CDW10 onwards; return the result (DW0).

    Raises RefusedError for an NVMe status, OSError if the command could not be sent, was aborted, or had no answer in
    time.
    """
    words = [*cdw, *[0] * (6 - len(cdw))]
    frame = bytearray(72)
    address = _ctypes.addressof(_Byte.from_buffer(data)) if data else 0
    pack_into("=BBHIIIQQII6III", frame, 0, opcode, 0, 0, 0, 0, 0, 0, address, 0, len(data), *words, timeout_ms, 0)
    status = fcntl.ioctl(fd, _ADMIN_CMD, frame, True)
    if status & 0x7FF in _UNANSWERED:
        raise OSError(*_UNANSWERED[status & 0x7FF])
    if status:
        raise RefusedError(status)
    result: int = unpack_from("=I", frame, 68)[0]
    return result


class Session:
    """An open controller, for commands that have ``seconds`` all together. Raises OSError if there is none."""

    __slots__ = ("_deadline", "_fd", "_seconds")

    def __init__(self, device: str, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._fd = posix.open(f"/dev/{device}", posix.O_RDONLY | posix.O_CLOEXEC)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        posix.close(self._fd)

    def send(self, opcode: int, data: bytearray, *cdw: int, timeout: float = _TIMEOUT_SECONDS) -> int:
        """Issue a command as :func:`command`, which ends after ``timeout`` seconds or with the session's time."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise AdminError(f"the controller took more than {self._seconds:g} s to answer")
        return command(self._fd, opcode, data, cdw, max(1, int(min(timeout, left) * 1000)))

    def log_page(
        self, page: int, offset: int, size: int, specific: int = 0, timeout: float = _TIMEOUT_SECONDS
    ) -> bytearray:
        """Return ``size`` bytes of a log page; ``specific`` is the log specific parameter."""
        data = bytearray(size)
        dwords = size // 4 - 1
        # Retain Asynchronous Event stays 0: reading the page is what makes the controller send the next event.
        cdw10 = page | specific << 8 | (dwords & 0xFFFF) << 16
        self.send(_GET_LOG_PAGE, data, cdw10, dwords >> 16, offset & 0xFFFFFFFF, offset >> 32, timeout=timeout)
        return data


class Identity:
    """What Identify Controller says about a discovery controller; ``dctype`` is '' for a value nobody defined.

    ``keep_alive``: it says that it takes Keep Alive. ``announces``: it sends an event when its log page has changed.
    """

    __slots__ = ("announces", "dctype", "keep_alive")

    def __init__(self, data: bytes | bytearray) -> None:
        """Take the 4096 bytes apart."""
        self.announces = bool(unpack_from("<I", data, 92)[0] & _EVENT_DISCOVERY_CHANGE)
        self.keep_alive = unpack_from("<H", data, 320)[0] != 0
        self.dctype = DCTYPES[data[1806]] if data[1806] < len(DCTYPES) else ""


def identify(session: Session) -> Identity:
    """Ask a controller what it is. Raises AdminError and OSError. Blocks."""
    data = bytearray(_IDENTIFY_SIZE)
    session.send(_IDENTIFY, data, _CNS_CONTROLLER, timeout=_OPTIONAL_TIMEOUT_SECONDS)
    return Identity(data)


def takes_keep_alive(session: Session) -> bool:
    """Tell whether a controller takes the Keep Alive command.

    The Linux target does, though its discovery controllers say that they do not (KAS is 0). Raises AdminError if there
    was no time for an answer, and OSError as :func:`command`. Blocks.
    """
    try:
        session.send(_KEEP_ALIVE, bytearray(), timeout=_OPTIONAL_TIMEOUT_SECONDS)
    except RefusedError:
        return False
    return True


def discovery_options(session: Session) -> int:
    """Return which of EXTENDED, PORT_LOCAL and ALL_SUBSYSTEMS its discovery log page knows.

    Raises AdminError for a controller without Supported Log Pages, OSError as :func:`command`. Blocks.
    """
    data = session.log_page(_LOG_SUPPORTED, 0, _SUPPORTED_SIZE, timeout=_OPTIONAL_TIMEOUT_SECONDS)
    supported: int = unpack_from("<I", data, _LOG_DISCOVERY * 4)[0]
    # Bit 0 says that the page is there at all; the upper half is the page's own.
    return supported >> 16 & (EXTENDED | PORT_LOCAL | ALL_SUBSYSTEMS) if supported & 1 else 0


class Log:
    """A discovery log page: header and the first of its ``records`` entries, all of 1024 bytes."""

    __slots__ = ("data", "generation", "records")

    def __init__(self, generation: int, records: int, data: bytes) -> None:
        self.generation = generation
        self.records = records
        self.data = data

    def persistent(self, transport: str, traddr: str, trsvcid: str) -> bool:
        """Tell whether the entry of the discovery subsystem's port at this address says that its connection can be
        persistent (EPCSD).

        The page has an entry for each of its ports, and each speaks for itself.
        """
        data = self.data
        return any(
            data[start + 2] == _SELF
            and data[start + 10] & _EPCSD
            and TRTYPES.get(data[start]) == transport
            and same_address(transport, _field(data, start + 512, 256), traddr.partition("%")[0])
            and (transport == "fc" or _field(data, start + 32, 32) == trsvcid)
            for start in range(HEADER_SIZE, len(data), ENTRY_SIZE)
        )


def _field(data: bytes, start: int, size: int) -> str:
    """Return a text of an entry; some controllers pad with blanks instead of NULs."""
    return data[start : start + size].partition(b"\0")[0].decode("utf-8", "replace").strip(" ")


def read_discovery_log(session: Session, specific: int = 0, most: int = READ_ENTRIES) -> Log:
    """Read a discovery controller's log page, asked for with ``specific`` (such as PORT_LOCAL), ``most`` entries of it.

    The header is read before and after; a change in between means reading again, a little later. Extended entries,
    which were not asked for and which some controller may send all the same, lose what they have more than basic ones.
    Raises AdminError if the page changes each time, or cannot be right, and OSError as :func:`command`. Blocks.
    """
    for pause in (0, *CHANGED_RETRY_SECONDS):
        time.sleep(pause)
        header = _Header(session, specific)
        fault: AdminError | None = None
        try:
            page = header.entries(session, most)
        except AdminError as error:
            # Half of it may be from before a change and half from after it.
            fault = error
        if _Header(session, specific).fields != header.fields:
            continue
        if fault is not None:
            raise fault
        return Log(header.fields[0], header.fields[1], bytes(page))
    raise AdminError(f"its discovery log page changed during each of {1 + len(CHANGED_RETRY_SECONDS)} readings")


class _Header:
    """The header of a discovery log page, read now. Raises AdminError for one that cannot be right."""

    __slots__ = ("_data", "_specific", "fields")

    def __init__(self, session: Session, specific: int) -> None:
        self._specific = specific
        self._data = session.log_page(_LOG_DISCOVERY, 0, HEADER_SIZE, specific)
        # Generation, number of records, record format, flags, total length.
        self.fields = unpack_from("<QQHBxI", self._data)
        _, records, form, _, _ = self.fields
        if form != 0:
            raise AdminError(f"its discovery log page has the record format {form}, and only 0 is known")
        if records > MAX_ENTRIES:
            raise AdminError(f"its discovery log page claims {records} entries, more than {MAX_ENTRIES}")

    def entries(self, session: Session, most: int) -> bytearray:
        """Return a page in the basic format: this header, and ``most`` entries at most."""
        _, records, _, flags, length = self.fields
        count = min(records, most)
        page = bytearray(self._data)
        if flags & _HEADER_EXTENDED:
            # The file that is made of it says what is in it. A length that does not fit stays, and tells of it.
            page[18] = 0
            if self._extended(session, page, count, length) == length:
                page[20:24] = bytes(4)
            return page
        if 0 < length < HEADER_SIZE + records * ENTRY_SIZE:
            raise AdminError(f"its discovery log page claims {records} entries in {length} bytes")
        end = HEADER_SIZE + count * ENTRY_SIZE
        while len(page) < end:
            size = min(_CHUNK, end - len(page))
            page += session.log_page(_LOG_DISCOVERY, len(page), size, self._specific)
        return page

    def _extended(self, session: Session, page: bytearray, count: int, length: int) -> int:
        """Append the basic part of each entry, and return where the last one ends.

        Their attributes, labels of all kinds, are stepped over unread.
        """
        offset = HEADER_SIZE
        for number in range(count):
            if offset + _EXTENDED_SIZE > length:
                raise AdminError(f"its discovery log page of {length} bytes ends before entry {number}")
            entry = session.log_page(_LOG_DISCOVERY, offset, _EXTENDED_SIZE, self._specific)
            size = unpack_from("<I", entry, ENTRY_SIZE)[0]
            if size < _EXTENDED_SIZE or size % 4 or offset + size > length:
                raise AdminError(f"entry {number} of its discovery log page claims to have {size} bytes")
            page += entry[:ENTRY_SIZE]
            offset += size
        return offset
