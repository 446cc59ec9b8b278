# SPDX-License-Identifier: Apache-2.0
"""Admin commands through a controller's character device, and the discovery log page read with them.

Follows linux/nvme_ioctl.h and the NVMe Base Specification 2.0 §5.16 (Get Log Page), NVMe-oF 1.1 §5.3
(Discovery Log Page).
"""

import _ctypes
import fcntl
import posix
from _struct import pack_into, unpack_from

_ADMIN_CMD = 0xC0484E41  # _IOWR('N', 0x41, struct nvme_admin_cmd)
_GET_LOG_PAGE = 0x02
_LOG_DISCOVERY = 0x70
_TIMEOUT_MS = 30_000

HEADER_SIZE = 1024
ENTRY_SIZE = 1024
# A controller need not transfer more than a page of memory in one command.
_CHUNK = 4096
# The largest log page that is believed; a controller that claims more is broken or hostile.
MAX_ENTRIES = 16_384
# So many of them are read. Pages are kept in /run and in memory, anybody on a link can announce a discovery controller,
# and more controllers of one are not connected anyway.
READ_ENTRIES = 2048
_GENERATION_RETRIES = 6


class AdminError(Exception):
    """An admin command that the controller refused, or an answer that makes no sense; the text says which."""


class _Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]
    # ctypes.py would cost a worker half a megabyte; this is all it needs of it: the address of a buffer.
    _type_ = "c"


def command(fd: int, opcode: int, data: bytearray, *cdw: int) -> int:
    """Issue an admin command with a data buffer and CDW10 onwards; return the result (DW0).

    Raises AdminError for an NVMe status, OSError if the command could not be sent or was aborted.
    """
    words = list(cdw) + [0] * (6 - len(cdw))
    frame = bytearray(72)
    address = _ctypes.addressof(_Byte.from_buffer(data))
    pack_into("=BBHIIIQQII6III", frame, 0, opcode, 0, 0, 0, 0, 0, 0, address, 0, len(data), *words, _TIMEOUT_MS, 0)
    status = fcntl.ioctl(fd, _ADMIN_CMD, frame, True)
    if status:
        raise AdminError(f"the controller answered with NVMe status 0x{status:04x}")
    result: int = unpack_from("=I", frame, 68)[0]
    return result


def _log_page(fd: int, offset: int, size: int) -> bytearray:
    data = bytearray(size)
    dwords = size // 4 - 1
    # Retain Asynchronous Event stays 0: reading the page is what makes the controller send the next event.
    cdw10 = _LOG_DISCOVERY | (dwords & 0xFFFF) << 16
    command(fd, _GET_LOG_PAGE, data, cdw10, dwords >> 16, offset & 0xFFFFFFFF, offset >> 32)
    return data


def read_discovery_log(device: str) -> tuple[int, int, bytes]:
    """Return (generation counter, number of records, header and the first READ_ENTRIES entries) of a discovery
    controller's log page.

    The generation counter is read before and after; a change in between means reading again. Raises
    AdminError if it changes each time, or for a page that cannot be right, and OSError as :func:`command`.
    Blocks.
    """
    fd = posix.open(f"/dev/{device}", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        for _ in range(_GENERATION_RETRIES):
            header = _log_page(fd, 0, HEADER_SIZE)
            generation, records, form = unpack_from("<QQH", header)
            if form != 0:
                raise AdminError(f"its discovery log page has the record format {form}, and only 0 is known")
            if records > MAX_ENTRIES:
                raise AdminError(f"its discovery log page claims {records} entries, more than {MAX_ENTRIES}")
            page = bytearray(header)
            end = HEADER_SIZE + min(records, READ_ENTRIES) * ENTRY_SIZE
            while len(page) < end:
                page += _log_page(fd, len(page), min(_CHUNK, end - len(page)))
            if unpack_from("<QQ", _log_page(fd, 0, HEADER_SIZE)) == (generation, records):
                return generation, records, bytes(page)
        raise AdminError(f"its discovery log page changed during each of {_GENERATION_RETRIES} readings")
    finally:
        posix.close(fd)
