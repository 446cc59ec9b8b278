# SPDX-License-Identifier: Apache-2.0
"""The reason for a failed connect, in words an administrator can act on.

Follows what drivers/nvme/host/{fabrics,tcp,rdma,fc,auth}.c return from a write to /dev/nvme-fabrics, and what the probe
before it (kernel/fabrics.py) meets.
"""

import posix

from discoverd import state
from discoverd.kernel import fabrics, hosts

_OFFLINE_CPUS = "/sys/devices/system/cpu/offline"

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


# Which transports take an option that not all take, and the numbers that the kernel takes: from, and to.
_TRANSPORTS = {
    **dict.fromkeys(("hdr_digest", "data_digest", "host_iface", "tls", "tls_key", "keyring", "concat"), ("tcp",)),
    **dict.fromkeys(("tos", "nr_write_queues", "nr_poll_queues"), ("tcp", "rdma")),
    **dict.fromkeys(("reconnect_delay", "ctrl_loss_tmo"), ("tcp", "rdma", "fc")),
}
_NUMBERS = {
    "queue_size": (16, 1024),
    **dict.fromkeys(("nr_io_queues", "nr_write_queues", "nr_poll_queues", "reconnect_delay"), (1, 2**31 - 1)),
    **dict.fromkeys(("keep_alive_tmo", "tos"), (0, 2**31 - 1)),
}


def sentence(error: OSError, options: dict[str, str] | None = None) -> str:
    """Return a sentence, without a full stop, for a failed attempt to connect with these options.

    Looks into sysfs for what the kernel says in its log only, which a worker may not read.
    """
    if isinstance(error, fabrics.ProbeError):
        return _probed(error)
    if isinstance(error, fabrics.WithheldError):
        return error.strerror or ""
    if error.errno == 2 and error.filename is None:
        # The device was there, and what is missing is what fc.c looks for.
        return "this host's port does not see the target's, or one of them is not there"
    more = ""
    if error.errno == 22 and options:
        more = _whose_identity(options) or _refused_option(options)
    elif error.errno == 18:  # EXDEV
        more = _offline_cpus()
    return more or _SENTENCES.get(error.errno or 0) or error.strerror or str(error)


# A status, half a connection, something else than NVMe, an end, a closed port, a failed authentication; and a time-out,
# a host that is down, or that its neighbours do not find.
_ANSWERED, _SILENT = (5, 11, 71, 104, 111, 129), (110, 112, 113)


def answer(error: OSError) -> str:
    """Return whether the target has answered to a failed attempt (discoverd.state), '' where that cannot be told."""
    if isinstance(error, fabrics.WithheldError):
        return ""
    if isinstance(error, fabrics.ProbeError) or error.errno in _ANSWERED:
        return state.ANSWERED
    return state.SILENT if error.errno in _SILENT else ""


def _whose_identity(options: dict[str, str]) -> str:
    """Return who has the host NQN or the host ID in another pair, '' if nobody has."""
    hostnqn, hostid = options.get("hostnqn", ""), options.get("hostid", "")
    found = hosts.holder(hostnqn, hostid)
    if found is None:
        return ""
    if found.hostnqn == hostnqn:
        what = f"{found.device} is connected as {hostnqn} with another host ID, {found.hostid}"
    else:
        what = f"{found.device} is connected with the host ID {hostid} as another host, {found.hostnqn}"
    return f"{what}: the kernel takes one host ID for one host NQN; give each its own, or disconnect {found.device}"


def _refused_option(options: dict[str, str]) -> str:
    """Return which option the kernel never takes like this, '' for none."""
    transport = options.get("transport", "")
    for key, value in options.items():
        name = key.replace("_", "-")
        if transport not in _TRANSPORTS.get(key, (transport,)):
            return f"the kernel takes no {name} over {transport}: remove it"
        least, most = _NUMBERS.get(key, (0, 0))
        if most and not (value.isascii() and value.isdigit() and least <= int(value) <= most):
            return f"the kernel does not take {name} = {value}: it has to be at least {least}, at most {most}"
    return ""


def _offline_cpus() -> str:
    """Return which CPUs are offline, '' for none: the kernel connects no I/O queue of which all are."""
    try:
        fd = posix.open(_OFFLINE_CPUS, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        offline = posix.read(fd, 4096).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    finally:
        posix.close(fd)
    if not offline:
        return ""
    return f"an I/O queue has only CPUs that are offline ({offline}): bring them online, or set nr-io-queues to 1"


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
