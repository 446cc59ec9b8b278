# SPDX-License-Identifier: Apache-2.0
"""What would help a controller that cannot be connected, by what the kernel answered to the attempt."""

from discoverd import state
from discoverd.cli.overview import Controller

_KEYS = "compare kxchap-secret and kxchap-ctrl-secret of its section with those of the target"
_ROUTE = "see which way leads there: ip route get {traddr}"

# By errno, as in discoverd.worker.cause. What is in braces is the controller's.
_ADVICE = {
    2: "load the module: modprobe nvme-fabrics; on Fibre Channel, see whether both ports are in the fabric",
    5: "see on the target whether there is a subsystem of this NQN at this address, and whether this host may use it; "
    "then " + _KEYS,
    6: "load the module: modprobe nvme-fabrics",
    11: "see what the target's NVMe service does: it takes connections, and goes no further",
    12: "free memory on this host; it is tried again by itself",
    13: "see which security module denies it: journalctl -k",
    16: "wait until the kernel has done with it; what else uses this controller: nvme list-subsys",
    18: "bring the CPUs online, or set nr-io-queues to 1 in its section",
    19: "see whether the interface is there: ip link; if it has another name by now, correct host-iface",
    22: "see which option the kernel refuses, and take it out of its section; if it names none, see on the target "
    "whether there is such a subsystem",
    71: "see what listens at this address: it is no NVMe/TCP, so correct traddr and trsvcid",
    93: "load the module: modprobe nvme-{transport}",
    95: "use a kernel that has it, or take the option that the cause names out of its section",
    98: "see which connection has the address: ss -tn; and correct host-traddr",
    99: "give this host the address, or correct host-traddr: ip address",
    100: "bring the interface up: ip link; " + _ROUTE,
    101: "give this host a route: ip route; " + _ROUTE,
    103: "see what cuts connections on the way, such as a firewall; it is tried again by itself",
    104: "see why the target ends connections: its log says it, or it wants TLS on this port",
    110: "see whether the target is up, and whether something on the way drops what is sent to it; " + _ROUTE,
    111: "start the NVMe service on the target, or correct traddr and trsvcid",
    112: "see whether the target is up; " + _ROUTE,
    113: "see whether the target is up, and in the same network where it should be; " + _ROUTE,
    114: "see who has connected it: nvme list-subsys; and disconnect it with that tool",
    126: "give it a key in its section, or let the target do without",
    127: "make a new key on both sides",
    128: "make a new key on both sides",
    129: _KEYS,
}
_OTHERWISE = "see what the kernel's log says about it: journalctl -k --grep nvme"
ERRNOS = frozenset(_ADVICE)
# A status of the target, the end of the connection, a failed authentication.
_REFUSES = (5, 104, 129)


def help_for(controller: Controller, errno: int) -> str:
    """Return what would help, without a full stop; '' without an errno."""
    advice = _ADVICE.get(errno, _OTHERWISE if errno else "")
    # No format(): what a peer calls itself may have braces in it.
    for name in ("transport", "traddr"):
        advice = advice.replace("{" + name + "}", getattr(controller, name).partition("%")[0])
    return advice


def answer(controller: Controller, errno: int, answered: str) -> str:
    """Return a sentence on whether the target answers: what is silent is another fault than what refuses."""
    at = f"{controller.traddr} port {controller.trsvcid}" if controller.trsvcid else controller.traddr
    if answered == state.SILENT:
        return f"Its target, {at}, does not answer."
    if answered != state.ANSWERED:
        return ""
    if errno == 111:
        return f"The host of its target answers, and nothing listens at {at}."
    if errno in _REFUSES:
        return f"Its target, {at}, answers, and refuses."
    return f"Something answers at {at}, and no NVMe connection comes of it."
