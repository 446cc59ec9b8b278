# SPDX-License-Identifier: Apache-2.0
"""The Identify Controller data structure of a discovery controller (Base Specification 2.0 §5.17.2.1, figure 275)."""

import struct

from .fabric import Instance

VERSION = 0x20000
DISCOVERY_CHANGE = 1 << 31
AER_LIMIT = 3
IN_CAPSULE = 8192
DCTYPE = {"none": 0, "ddc": 1, "cdc": 2}


def controller(instance: Instance, cntlid: int) -> bytes:
    """Return the 4096 bytes."""
    data = bytearray(4096)

    def put(offset: int, form: str, *values: int | bytes) -> None:
        struct.pack_into("<" + form, data, offset, *values)

    put(
        4,
        "20s40s8s",
        f"CDC{instance.name}"[:20].ljust(20).encode(),
        b"lab discovery controller".ljust(40),
        b"1".ljust(8),
    )
    put(77, "BHI", 0, cntlid, VERSION)
    put(92, "I", DISCOVERY_CHANGE if instance.events else 0)
    put(111, "B", 2)
    put(258, "BB", 3, AER_LIMIT)
    # Get Log Page takes offsets and long lengths; Supported Log Pages is there.
    put(261, "B", 1 << 2 | 1 << 5)
    put(320, "H", instance.kas)
    put(514, "H", 128)
    put(536, "I", 1 | 1 << 20)
    put(768, "256s", instance.identity.encode())
    put(1792, "IIHBB", (64 + IN_CAPSULE) // 16, 1, 0, 0, 1)
    put(1806, "B", DCTYPE[instance.dctype])
    return bytes(data)
