# SPDX-License-Identifier: Apache-2.0
"""The controllers that the kernel has, read from sysfs, and whether one of them is the one that is wanted."""

import posix

CLASS = "/sys/class/nvme"
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
# States in which the kernel is about to let a controller go: nothing to adopt.
_LEAVING = ("deleting", "deleting (no IO)", "dead")


class Controller:
    """One fabrics controller in the kernel. '' where sysfs says nothing, or ``none``."""

    __slots__ = (
        "cntrltype",
        "device",
        "host_iface",
        "host_traddr",
        "hostid",
        "hostnqn",
        "src_addr",
        "state",
        "subsysnqn",
        "traddr",
        "transport",
        "trsvcid",
    )

    def __init__(self, device: str) -> None:
        self.device = device
        self.transport = attribute(device, "transport")
        self.subsysnqn = attribute(device, "subsysnqn")
        self.hostnqn = attribute(device, "hostnqn")
        self.hostid = attribute(device, "hostid")
        self.cntrltype = attribute(device, "cntrltype")
        self.state = attribute(device, "state")
        address = {}
        for part in attribute(device, "address").split(","):
            key, _, value = part.partition("=")
            address[key] = "" if value.lower() == "none" else value
        self.traddr = address.get("traddr", "")
        self.trsvcid = address.get("trsvcid", "")
        self.host_traddr = address.get("host_traddr", "")
        self.host_iface = address.get("host_iface", "")
        # Since kernel 6.1, TCP only: the address that the connection really has.
        self.src_addr = address.get("src_addr", "")


def attribute(device: str, name: str) -> str:
    """Return a sysfs attribute of a controller, '' where it is missing, unreadable or ``(efault)``."""
    try:
        fd = posix.open(f"{CLASS}/{device}/{name}", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        text = posix.read(fd, 4096).decode("utf-8", "replace").strip()
    except OSError:
        return ""  # The controller is going away while we read.
    finally:
        posix.close(fd)
    return "" if text in ("none", "(efault)") else text


def names() -> list[str]:
    """Return the names of all controllers, PCIe ones included; none where the kernel has no NVMe core."""
    try:
        return [name for name in posix.listdir(CLASS) if name[:4] == "nvme"]
    except FileNotFoundError:
        return []


def kernel_instance(device: str) -> int:
    """Return a number that tells this controller from an earlier or later one of the same name; 0 if there
    is none.

    The kernel hands out the lowest free name again, but gives each sysfs directory an inode number of its
    own.
    """
    try:
        return posix.stat(f"{CLASS}/{device}/").st_ino
    except OSError:
        return 0


def find(wanted: dict[str, str]) -> Controller | None:
    """Return the controller that a connect with the fabrics options ``wanted`` would duplicate, or None."""
    nqn = wanted.get("nqn", "")
    for device in names():
        # One file tells most of them apart; each worker of a host with hundreds of controllers looks at all.
        if nqn not in (DISCOVERY_NQN, attribute(device, "subsysnqn")):
            continue
        one = Controller(device)
        if one.state not in _LEAVING and matches(wanted, one):
            return one
    return None


def matches(wanted: dict[str, str], live: Controller) -> bool:
    """Tell whether ``live`` is what a connect with the fabrics options ``wanted`` asks for.

    What an option leaves open matches anything: who does not care for an interface is content with any. The
    well-known discovery NQN asks for any discovery controller at the address, which may report a unique NQN
    (TP8013).
    """
    transport = wanted.get("transport", "")
    if live.transport != transport or live.trsvcid != wanted.get("trsvcid", ""):
        return False
    hostnqn, hostid = wanted.get("hostnqn", ""), wanted.get("hostid", "")
    if hostnqn and live.hostnqn and live.hostnqn != hostnqn:
        return False
    if hostid and live.hostid and live.hostid.lower() != hostid.lower():
        return False
    nqn = wanted.get("nqn", "")
    if live.subsysnqn != nqn and not (nqn == DISCOVERY_NQN and live.cntrltype == "discovery"):
        return False
    if not same_address(transport, live.traddr, wanted.get("traddr", "")):
        return False
    source = wanted.get("host_traddr", "")
    if transport == "tcp":
        return _same_tcp_source(source, wanted.get("host_iface", ""), live)
    if transport == "fc":
        return same_address(transport, live.host_traddr, source)
    return not source or same_address(transport, live.host_traddr, source)


def _same_tcp_source(source: str, interface: str, live: Controller) -> bool:
    if not source and not interface:
        return True
    if live.src_addr:
        # The kernel shows it without the zone.
        if source and not same_address("tcp", live.src_addr.partition("%")[0], source.partition("%")[0]):
            return False
        return not interface or interface in _interfaces_of(live.src_addr)
    # Before kernel 6.1: what was asked for at connect is all there is to go by; where nothing was, assume a
    # match.
    if source and live.host_traddr and not same_address("tcp", live.host_traddr, source):
        return False
    if source and not live.host_traddr and live.host_iface and live.host_iface not in _interfaces_of(source):
        return False
    if interface and live.host_iface:
        return live.host_iface == interface
    return not interface or not live.host_traddr or interface in _interfaces_of(live.host_traddr)


def interface_of(source: str) -> str:
    """Return the one interface that has this address, '' for none or several."""
    found = _interfaces_of(source)
    return found[0] if len(found) == 1 else ""


def _interfaces_of(address: str) -> list[str]:
    # Few configurations name an interface, so the common worker does without.
    from discoverd.kernel import routes

    packed = packed_address(address)
    return [interface for interface, owned in routes.local_addresses() if owned == packed]


def same_address(transport: str, one: str, other: str) -> bool:
    """Tell whether two spellings are one transport address. IPv4-mapped IPv6 is IPv4; zones must be equal."""
    if one == other:
        return True
    if transport in ("tcp", "rdma"):
        if one.partition("%")[2] != other.partition("%")[2]:
            return False
        packed = packed_address(one)
        return packed is not None and packed == packed_address(other)
    return one.lower().replace(",", ":") == other.lower().replace(",", ":")


def packed_address(address: str) -> bytes | None:
    """Return a numeric IP address in network byte order, IPv4-mapped IPv6 as IPv4, without its zone; else None."""
    import _socket

    address = address.partition("%")[0]
    try:
        if ":" not in address:
            return _socket.inet_pton(_socket.AF_INET, address)
        packed = _socket.inet_pton(_socket.AF_INET6, address)
    except (OSError, ValueError):
        return None
    mapped = b"\0" * 10 + b"\xff\xff"
    return packed[12:] if packed[:12] == mapped else packed
