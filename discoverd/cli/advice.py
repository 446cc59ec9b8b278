# SPDX-License-Identifier: Apache-2.0
"""What would help a controller that cannot be connected, by what the kernel answered to the attempt."""

import errno

from discoverd import state
from discoverd.cli.overview import Controller

_KEYS = "compare kxchap-secret and kxchap-ctrl-secret of its section with those of the target"
_ROUTE = "see which way leads there: ip route get {traddr}"

# By errno, as in discoverd.worker.cause. What is in braces is the controller's.
_ADVICE = {
    errno.ENOENT: "load the module: modprobe nvme-fabrics; on Fibre Channel, see whether both ports are in the fabric",
    errno.EIO: "see on the target whether there is a subsystem of this NQN at this address, and whether this host may "
    "use it; then " + _KEYS,
    errno.ENXIO: "load the module: modprobe nvme-fabrics",
    errno.EAGAIN: "see what the target's NVMe service does: it takes connections, and goes no further",
    errno.ENOMEM: "free memory on this host; it is tried again by itself",
    errno.EACCES: "see which security module denies it: journalctl -k",
    errno.EBUSY: "wait until the kernel has done with it; what else uses this controller: nvme list-subsys",
    errno.EXDEV: "bring the CPUs online, or set nr-io-queues to 1 in its section",
    errno.ENODEV: "see whether the interface is there: ip link; if it has another name by now, correct host-iface",
    errno.EINVAL: "see which option the kernel refuses, and take it out of its section; if it names none, see on the "
    "target whether there is such a subsystem",
    errno.EPROTO: "see what listens at this address: it is no NVMe/TCP, so correct traddr and trsvcid",
    errno.EPROTONOSUPPORT: "load the module: modprobe nvme-{transport}",
    errno.EOPNOTSUPP: "use a kernel that has it, or take the option that the cause names out of its section",
    errno.EADDRINUSE: "see which connection has the address: ss -tn; and correct host-traddr",
    errno.EADDRNOTAVAIL: "give this host the address, or correct host-traddr: ip address",
    errno.ENETDOWN: "bring the interface up: ip link; " + _ROUTE,
    errno.ENETUNREACH: "give this host a route: ip route; " + _ROUTE,
    errno.ECONNABORTED: "see what cuts connections on the way, such as a firewall; it is tried again by itself",
    errno.ECONNRESET: "see why the target ends connections: its log says it, or it wants TLS on this port",
    errno.ETIMEDOUT: "see whether the target is up, and whether something on the way drops what is sent to it; "
    + _ROUTE,
    errno.ECONNREFUSED: "start the NVMe service on the target, or correct traddr and trsvcid",
    errno.EHOSTDOWN: "see whether the target is up; " + _ROUTE,
    errno.EHOSTUNREACH: "see whether the target is up, and in the same network where it should be; " + _ROUTE,
    errno.EALREADY: "see who has connected it: nvme list-subsys; and disconnect it with that tool",
    errno.ENOKEY: "give it a key in its section, or let the target do without",
    errno.EKEYEXPIRED: "make a new key on both sides",
    errno.EKEYREVOKED: "make a new key on both sides",
    errno.EKEYREJECTED: _KEYS,
}
_OTHERWISE = "see what the kernel's log says about it: journalctl -k --grep nvme"
ERRNOS = frozenset(_ADVICE)
# A status of the target, the end of the connection, a failed authentication.
_REFUSES = (errno.EIO, errno.ECONNRESET, errno.EKEYREJECTED)


def help_for(controller: Controller, number: int) -> str:
    """Return what would help against the errno of this number, without a full stop; '' for 0, which is none."""
    advice = _ADVICE.get(number, _OTHERWISE if number else "")
    # No format(): what a peer calls itself may have braces in it.
    for name in ("transport", "traddr"):
        advice = advice.replace("{" + name + "}", getattr(controller, name).partition("%")[0])
    return advice


def answer(controller: Controller, number: int, answered: str) -> str:
    """Return a sentence on whether the target answers: what is silent is another fault than what refuses."""
    at = f"{controller.traddr} port {controller.trsvcid}" if controller.trsvcid else controller.traddr
    if answered == state.SILENT:
        return f"Its target, {at}, does not answer."
    if answered != state.ANSWERED:
        return ""
    if number == errno.ECONNREFUSED:
        return f"The host of its target answers, and nothing listens at {at}."
    if number in _REFUSES:
        return f"Its target, {at}, answers, and refuses."
    return f"Something answers at {at}, and no NVMe connection comes of it."
