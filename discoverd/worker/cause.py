# SPDX-License-Identifier: Apache-2.0
"""The reason for a failed connect, in words an administrator can act on.

Follows what drivers/nvme/host/{fabrics,tcp,rdma,fc,auth}.c return from a write to /dev/nvme-fabrics, and what the probe
before it (kernel/fabrics.py) meets.
"""

from discoverd.kernel import fabrics

_SENTENCES = {
    2: "/dev/nvme-fabrics is missing: load the module nvme-fabrics",  # ENOENT
    # EIO is all that is left of an NVMe status, whichever the target answered with.
    5: "the target refuses: no such subsystem, this host not allowed, or wrong keys; the kernel's log says which",
    6: "/dev/nvme-fabrics has no driver behind it: load the module nvme-fabrics",  # ENXIO
    11: "the target takes the connection, and does not go on with it",  # EAGAIN: no ICResp for 10 s
    12: "the kernel is out of memory",
    13: "permission denied by the kernel",
    16: "the kernel is busy with this controller",
    19: "there is no such network interface",  # ENODEV
    22: "the kernel refuses these options, or the target has no such subsystem: see the kernel's log",
    98: "the address is in use",
    99: "this host has no such address (host-traddr)",
    100: "the network is down",
    101: "the network is unreachable",
    103: "the connection was aborted",
    104: "the target closed the connection",
    110: "timed out: no answer from the target",
    111: "connection refused: nothing listens there",
    112: "the target is down",
    113: "no route to the target",
    114: "the kernel has this controller already, but none that matches",
    126: "a required key is missing",  # ENOKEY
    127: "a key has expired",
    128: "a key was revoked",
    129: "authentication failed: check kxchap-secret and kxchap-ctrl-secret",  # EKEYREJECTED
    95: "the kernel or the target does not support this",  # EOPNOTSUPP
    93: "the kernel has no support for this transport: load its module",  # EPROTONOSUPPORT
}


# What a probe's answer begins with: the type of a PDU, or of a TLS record.
_ICRESP, _C2H_TERM_REQ, _TLS_ALERT = 0x01, 0x03, 0x15
# Fatal Error Status of a C2HTermReq (NVMe/TCP Transport Specification).
_FATAL_ERRORS = {
    1: "invalid PDU header field",
    2: "PDU sequence error",
    3: "header digest error",
    4: "data transfer out of range",
    5: "data transfer limit exceeded",
    6: "unsupported parameter",
}


def sentence(error: OSError) -> str:
    """Return a sentence, without a full stop, for a failed attempt to connect."""
    if isinstance(error, fabrics.ProbeError):
        return _probed(error)
    if isinstance(error, fabrics.WithheldError):
        return error.strerror or ""
    if error.errno == 2 and error.filename is None:
        # The device was there, and what is missing is what fc.c looks for.
        return "this host's port does not see the target's, or one of them is not there"
    return _SENTENCES.get(error.errno or 0) or error.strerror or str(error)


def _probed(error: fabrics.ProbeError) -> str:
    """Return what answers at the target's address instead of NVMe/TCP."""
    kind = error.answer[0] if error.answer else None
    if error.errno == 110:
        return "the target takes the TCP connection and does not answer: no NVMe/TCP there, it hangs, or it wants TLS"
    if error.errno == 104:
        return "the target takes the TCP connection and closes it: no NVMe/TCP there, or it wants TLS"
    if kind == _ICRESP and error.answer[4:8] == b"\x80\0\0\0":
        return "the target does not agree to the digests that are asked for (hdr-digest, data-digest)"
    if kind == _C2H_TERM_REQ:
        status = int.from_bytes(error.answer[8:10], "little")
        return f"the target ends the connection: {_FATAL_ERRORS.get(status, f'fatal error status {status:#x}')}"
    if kind == _TLS_ALERT:
        return "the target wants TLS on this port, or is no NVMe/TCP target"
    return "what answers there is not NVMe/TCP: check traddr and trsvcid"
