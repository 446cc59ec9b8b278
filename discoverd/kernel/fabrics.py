# SPDX-License-Identifier: Apache-2.0
"""/dev/nvme-fabrics, and the way out: connect and delete a controller. Both block for as long as the kernel
needs.

Follows drivers/nvme/host/fabrics.c. The errno of a failed connect is the kernel's reason, and is kept.
"""

import _socket
import posix
import time

from discoverd import state
from discoverd.kernel import controllers

DEVICE = "/dev/nvme-fabrics"
# What the supervisor has found out about the module that is loaded, for the workers.
ABILITIES = state.ROOT + "/abilities"
ABILITIES_KIND = "discoverd-abilities 1"
# As long as the kernel's own attempt takes, which sends a second SYN after a second (TCP_SYNCNT 1).
REACH_TIMEOUT_SECONDS = 3
# Half as long as the kernel waits for an answer to its own ICReq, in which nobody else can connect.
ANSWER_TIMEOUT_SECONDS = 5

_MODULE = "/sys/class/misc/nvme-fabrics/"
_SO_BINDTODEVICE = 25
_IC_LENGTH = 128
# Of the PDU that ends a connection (C2HTermReq), what says why it was sent.
_TERM_LENGTH = 10


class ProbeError(OSError):
    """What takes TCP connections at a target's address does not go on as an NVMe/TCP controller does.

    ``errno`` is ETIMEDOUT if it said nothing, or too little, in time; ECONNRESET if it closed the connection; EPROTO if
    it said something else. ``answer`` is the beginning of what it said.
    """

    answer = b""


class UnknownAbilitiesError(OSError):
    """Nobody has found out yet which options the kernel knows."""


def supported() -> set[str] | None:
    """Ask the kernel which option names it knows; None where it does not tell (before 5.17).

    Blocks for as long as anything is being connected, and nothing ends that, not even SIGKILL: reading takes the same
    lock as a connect. Raises OSError.
    """
    fd = posix.open(DEVICE, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        text = posix.read(fd, 4096).decode()
    except OSError:
        return None
    finally:
        posix.close(fd)
    return {token.partition("=")[0].strip() for token in text.split(",")}


def module() -> int:
    """Return a number that tells the nvme-fabrics that is loaded from an earlier and a later one, 0 if none is."""
    try:
        return posix.stat(_MODULE).st_ino
    except OSError:
        return 0


def abilities() -> set[str] | None:
    """Return what :func:`supported` has said of the module that is loaded, without asking the kernel again.

    Raises FileNotFoundError where there is no device, UnknownAbilitiesError where nobody has found out yet.
    """
    posix.stat(DEVICE)
    try:
        fields = state.decode(ABILITIES_KIND, state.read(ABILITIES))
    except state.StateError:
        fields = []
    if fields[:1] != [("module", str(module()))]:
        raise UnknownAbilitiesError(0, "the kernel is busy connecting, and has not said yet which options it knows")
    return {name for _, name in fields[1:]} or None


class WithheldError(OSError):
    """What was asked for is not written to this kernel; ``strerror`` says why, and shows no secret."""


def connect_string(options: list[tuple[str, str]], known: set[str] | None) -> str:
    """Return what is written to the device. An option without a value is a flag; what the kernel lacks is left out.

    Raises WithheldError for an option that the kernel lacks and that cannot be left out, and for a secret that it would
    not understand: it logs what it does not know, and a secret of another form, with the value.
    """
    for key, value in options:
        if key not in (_ESSENTIAL if known is None else known) and key in _ESSENTIAL | _SECURITY:
            raise WithheldError(95, f"this kernel does not know the option {key}, which cannot be left out")
        if key[:7] == "dhchap_":
            # Few have a secret.
            from discoverd.kernel import dhchap

            if problem := dhchap.problem(value):
                raise WithheldError(129, f"{key} is not given to the kernel: {problem}")
    lacks = lacking(options, known)
    return ",".join(f"{key}={value}" if value else key for key, value in options if key not in lacks)


def lacking(options: list[tuple[str, str]], known: set[str] | None) -> list[str]:
    """Return the options that the kernel does not know and that a connect does without.

    Those without which the connection would be another one are never left out.
    """
    if known is None:
        return []
    return [key for key, _ in options if key not in known and key not in _ESSENTIAL | _SECURITY]


# Leaving one of these out would connect something else than what was asked for.
_ESSENTIAL = frozenset(
    ("nqn", "transport", "traddr", "trsvcid", "host_traddr", "host_iface", "hostnqn", "hostid", "discovery")
)
# Or less safely. No kernel that does not tell what it knows has them.
_SECURITY = frozenset(("dhchap_secret", "dhchap_ctrl_secret", "tls", "tls_key", "keyring", "concat"))


def reach(options: dict[str, str]) -> None:
    """Raise OSError unless what is at the target's address takes a TCP connection within REACH_TIMEOUT_SECONDS, and
    initialises it as NVMe/TCP within ANSWER_TIMEOUT_SECONDS (ICReq, ICResp). Other transports pass.

    The kernel connects one controller at a time (nvmf_dev_mutex), and waits seconds for a target that does not answer:
    the controllers of one dead or silent array would keep those of all others waiting. The connection is closed before
    its first command, so that no controller is made at the target. With TLS the probe ends with the TCP connection:
    what comes next is the handshake's.
    """
    if options.get("transport") != "tcp":
        return
    port = int(options.get("trsvcid", "0"))
    target = _socket_address(options.get("traddr", ""), port)
    probe = _socket.socket(
        _socket.AF_INET if len(target) == 2 else _socket.AF_INET6, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC
    )
    try:
        probe.settimeout(REACH_TIMEOUT_SECONDS)
        if interface := options.get("host_iface"):
            probe.setsockopt(_socket.SOL_SOCKET, _SO_BINDTODEVICE, interface.encode() + b"\0")
        if source := options.get("host_traddr"):
            probe.bind(_socket_address(source, 0))
        probe.connect(target)
        if "tls" not in options:
            _initialize(probe, ("hdr_digest" in options) | ("data_digest" in options) << 1)
    except TimeoutError:
        raise OSError(110, "timed out") from None
    finally:
        probe.close()


def _initialize(probe: _socket.socket, digests: int) -> None:
    """Initialise a connection as the kernel will, with the same digests (bit 0 for headers, bit 1 for data).

    Raises ProbeError. What else of the answer may not suit the kernel is for the kernel to say; it does so at once.
    """
    length = _IC_LENGTH.to_bytes(4, "little")
    answer = b""
    deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS
    errno = 0
    try:
        # Type 0, no flags, its length twice; PDU format 0, no alignment, digests, one R2T at a time.
        probe.send(b"\0\0\x80\0" + length + b"\0\0\0" + digests.to_bytes(1, "little") + bytes(_IC_LENGTH - 12))
        while len(answer) < (_IC_LENGTH if answer[:1] in (b"", b"\1") else _TERM_LENGTH):
            probe.settimeout(max(deadline - time.monotonic(), 0.001))
            if not (more := probe.recv(_IC_LENGTH - len(answer))):
                errno = 104  # ECONNRESET
                break
            answer += more
    except TimeoutError:
        errno = 110
    except OSError:
        errno = 104  # Or EPIPE, where it was closed before it was asked.
    begun = answer[:1] in (b"", b"\1")
    if errno or not begun or answer[4:8] != length or (answer[11] ^ digests) & 3:
        error = ProbeError(errno if errno and begun else 71, "no NVMe/TCP connection can be initialised")  # EPROTO
        error.answer = answer
        raise error


def _socket_address(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    if ":" not in address:
        return address, port
    address, _, zone = address.partition("%")
    return address, port, 0, _socket.if_nametoindex(zone) if zone else 0


def connect(options: list[tuple[str, str]], known: set[str] | None) -> str:
    """Connect with what of ``options`` the kernel knows, and return the new controller's name.

    Raises WithheldError, and OSError with the kernel's errno.
    """
    text = connect_string(options, known)
    fd = posix.open(DEVICE, posix.O_RDWR | posix.O_CLOEXEC)
    try:
        posix.write(fd, text.encode())
        reply = posix.read(fd, 4096).decode()
    finally:
        posix.close(fd)
    for token in reply.strip().split(","):
        key, _, value = token.partition("=")
        if key == "instance" and value.isascii() and value.isdigit():
            return "nvme" + value
    raise OSError(0, f"the kernel answered {reply[:80]!r} without an instance")


def delete(device: str, sysfs_inode: int) -> None:
    """Disconnect and remove a controller. Raises OSError; FileNotFoundError if it is gone already.

    ``sysfs_inode`` (kernel/controllers.py) tells it from a later one of the same name, which is left alone.
    """
    folder = posix.open(f"{controllers.CLASS}/{device}", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        if posix.fstat(folder).st_ino != sysfs_inode:
            raise FileNotFoundError(2, "it is gone, and its name is another's")
        # Through the open directory: if the name changes hands now, this is still the old one's, and fails.
        fd = posix.open("delete_controller", posix.O_WRONLY | posix.O_CLOEXEC, dir_fd=folder)
    finally:
        posix.close(folder)
    try:
        posix.write(fd, b"1")
    finally:
        posix.close(fd)
