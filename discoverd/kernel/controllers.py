# SPDX-License-Identifier: Apache-2.0
"""The controllers that the kernel has, read from sysfs, and whether one of them is the one that is wanted."""

import posix

CLASS = "/sys/class/nvme"
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
UUID_NQN_PREFIX = "nqn.2014-08.org.nvmexpress:uuid:"
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


def sysfs_inode(device: str) -> int:
    """Return a number that tells this controller from an earlier or later one of the same name; 0 if there
    is none.

    The kernel hands out the lowest free name again, but gives each sysfs directory an inode number of its
    own.
    """
    try:
        return posix.stat(f"{CLASS}/{device}/").st_ino
    except OSError:
        return 0


def hide_secrets(device: str, inode: int) -> str:
    """Let nobody but root read a controller's secrets in sysfs, where some kernels show them to everybody.

    Returns why that cannot be done, '' where it is done or there are none. ``inode`` as in :func:`sysfs_inode`.
    """
    try:
        folder = posix.open(f"{CLASS}/{device}", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError:
        return ""  # It is gone, and they are with it.
    try:
        for name in ("dhchap_secret", "dhchap_ctrl_secret") if posix.fstat(folder).st_ino == inode else ():
            try:
                mode = posix.stat(name, dir_fd=folder).st_mode & 0o777
                if mode & 0o077:
                    posix.chmod(name, mode & 0o700, dir_fd=folder)
            except FileNotFoundError:
                pass  # A kernel without in-band authentication.
            except OSError as error:
                return f"everybody can read {name} of {device} in sysfs: {error.strerror}"
    finally:
        posix.close(folder)
    return ""


def canonical_nqn(nqn: str) -> str:
    """Return what is equal for NQNs that count as one: the UUID of a UUID NQN is in lower case, all else as it is.

    For comparisons and names. A target compares byte for byte, so what it is sent is always the NQN as it was given.
    """
    return nqn.lower() if nqn[: len(UUID_NQN_PREFIX)] == UUID_NQN_PREFIX else nqn


def at_target(wanted: dict[str, str]) -> list[Controller]:
    """Return the controllers that are at the target of the fabrics options ``wanted``, in the order of their names.

    They are connected through whatever interface, from whatever address and as whatever host; none is about to go.
    """
    nqn = canonical_nqn(wanted.get("nqn", ""))
    found = []
    for device in sorted(names(), key=_by_number):
        # One file tells most of them apart; each worker of a host with hundreds of controllers looks at all.
        if nqn not in (DISCOVERY_NQN, canonical_nqn(attribute(device, "subsysnqn"))):
            continue
        one = Controller(device)
        if one.state not in _LEAVING and same_target(wanted, one):
            found.append(one)
    return found


def _by_number(device: str) -> tuple[int, str]:
    return len(device), device


def same_target(wanted: dict[str, str], live: Controller) -> bool:
    """Tell whether ``live`` is connected to the target of the fabrics options ``wanted``.

    That never changes in the life of a connection. The well-known discovery NQN asks for any discovery controller at
    the address, which may report a unique NQN (TP8013).
    """
    transport = wanted.get("transport", "")
    if live.transport != transport or live.trsvcid != wanted.get("trsvcid", ""):
        return False
    nqn = wanted.get("nqn", "")
    if canonical_nqn(live.subsysnqn) != canonical_nqn(nqn) and not (
        nqn == DISCOVERY_NQN and live.cntrltype == "discovery"
    ):
        return False
    return same_address(transport, live.traddr, wanted.get("traddr", ""))


def matches(wanted: dict[str, str], live: Controller) -> bool:
    """Tell whether ``live`` is what a connect with the fabrics options ``wanted`` asks for.

    What an option leaves open matches anything: who does not care for an interface is content with any.
    """
    if not same_target(wanted, live):
        return False
    hostnqn, hostid = wanted.get("hostnqn", ""), wanted.get("hostid", "")
    if hostnqn and live.hostnqn and canonical_nqn(live.hostnqn) != canonical_nqn(hostnqn):
        return False
    if hostid and live.hostid and live.hostid.lower() != hostid.lower():
        return False
    source = wanted.get("host_traddr", "")
    if live.transport == "tcp":
        return _same_tcp_source(source, wanted.get("host_iface", ""), live)
    if live.transport == "fc":
        return same_address("fc", live.host_traddr, source)
    return not source or same_address(live.transport, live.host_traddr, source)


def _same_tcp_source(source: str, interface: str, live: Controller) -> bool:
    if interface and live.host_iface and not _same_interface(interface, live.host_iface):
        return False
    if live.src_addr:
        # The kernel shows it without the zone.
        if source and not same_address("tcp", live.src_addr.partition("%")[0], source.partition("%")[0]):
            return False
        return not interface or bool(live.host_iface) or _has_address(interface, live.src_addr)
    # Before kernel 6.1, and while there is no connection: what was asked for at connect is all there is to go by; where
    # nothing was, assume a match.
    if source and live.host_traddr and not same_address("tcp", live.host_traddr, source):
        return False
    if source and not live.host_traddr and live.host_iface and not _has_address(live.host_iface, source):
        return False
    return not interface or bool(live.host_iface) or not live.host_traddr or _has_address(interface, live.host_traddr)


def _same_interface(one: str, other: str) -> bool:
    """Tell whether two names are of one interface at the moment, such as its name and its second name (altname).

    The kernel keeps the name that it was given at connect, and looks it up again at each reconnect; a name that no
    interface has any more is only that name.
    """
    if one == other:
        return True
    import _socket

    try:
        return _socket.if_nametoindex(one) == _socket.if_nametoindex(other)
    except OSError:
        return False


def _has_address(interface: str, address: str) -> bool:
    return any(_same_interface(interface, one) for one in _interfaces_of(address))


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
