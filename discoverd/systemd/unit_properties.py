# SPDX-License-Identifier: Apache-2.0
"""The properties of a controller's transient unit, per transport: what makes start and shutdown order right."""

from discoverd import state
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, TransportId

# A property as it goes over D-Bus: name, signature, value.
Property = tuple[str, str, object]

# A disconnect of some 200 namespaces on 8 paths takes up to 40 seconds on a healthy host, and more on one
# that shuts down.
STOP_TIMEOUT_SECONDS = 300
RESTART_DELAY_SECONDS = 1
_SECOND = 1_000_000
_INFINITY = 2**64 - 1
# Of the end of the NQN, and of the address, in the description. An IPv4 address fits.
_NQN_COLUMNS, _ADDRESS_COLUMNS = 11, 15


def unless_exists(path: str) -> Property:
    """Return the property with which a start of the unit does nothing while there is such a file."""
    return ("Conditions", "a(sbbs)", [["ConditionPathExists", False, True, path]])


def unit_properties(
    tid: TransportId, role: str, placeholder: str, system: bool = False, trusted: bool = True
) -> list[Property]:
    """Return the properties for StartTransientUnit. ``placeholder`` is the path of the program of that name.

    With ``system`` the system itself runs from the subsystem, and a shutdown does not stop the unit.

    Nothing in here is secret: any user can read a unit's properties.
    """
    properties: list[Property] = [
        ("Description", "s", description(tid, role)),
        ("Documentation", "as", ["man:nvme-ctrl@.service(8)"]),
        ("Type", "s", "notify"),
        ("NotifyAccess", "s", "main"),
        # Standard input and output are one connection to the fork server, which systemd makes for one path only. Where
        # there is no such socket, it is an empty file, in which there is nothing to be read either.
        ("StandardInputFile", "s", state.FORK_SERVER),
        ("StandardOutputFile", "s", state.FORK_SERVER),
        ("StandardError", "s", "journal"),
        # Nothing that needs quotes: systemd 252 writes ";" and "$" into the unit's file so that it does not read them
        # back when it is reloaded.
        ("ExecStart", "a(sasb)", [[placeholder, [placeholder, tid.instance], False]]),
        ("Restart", "s", "on-failure"),
        ("RestartUSec", "t", RESTART_DELAY_SECONDS * _SECOND),
        # Never "start request repeated too quickly" for storage.
        ("StartLimitIntervalUSec", "t", 0),
        # The worker says READY=1 within a bounded time itself; killing it in the middle of a connect helps
        # nobody.
        ("TimeoutStartUSec", "t", _INFINITY),
        ("TimeoutStopUSec", "t", STOP_TIMEOUT_SECONDS * _SECOND),
        ("KillMode", "s", "mixed"),
        # Nothing asks for these units but the supervisor's call, and `systemctl isolate` stops what nothing asks for.
        ("IgnoreOnIsolate", "b", True),
        # Storage goes last when memory is short, but not what whoever is on a link has had connected.
        ("OOMScoreAdjust", "i", -900 if trusted else 0),
        ("SyslogIdentifier", "s", "nvme-ctrl"),
        ("LogExtraFields", "aay", journal_fields(tid)),
        *(_SYSTEM_ORDERING if system else _ordering(tid.transport)),
        *_SANDBOX,
    ]
    return properties


def description(tid: TransportId, role: str) -> str:
    """Return the unit's description: first what tells two controllers apart, as in ``vol1 192.0.2.1, NVMe/TCP …``.

    `systemctl list-units` cuts both the unit's name and this at its end, where the names differ. On a terminal of 80
    columns it leaves 27 for the description of units that run.
    """
    end = "discovery" if tid.subsysnqn == DISCOVERY_NQN else _end_of_nqn(tid.subsysnqn)
    place = _end(tid.traddr, _ADDRESS_COLUMNS)
    kind = f"NVMe/{tid.transport.upper()} {'discovery' if role == DISCOVERY else 'I/O'} controller"
    text = f"{end} {place}, {kind}" if place else f"{end}, {kind}"
    # The name says all the rest, unless it had to be cut.
    return text if tid.subsysnqn in tid.instance else f"{text} {tid}"


def _end_of_nqn(nqn: str) -> str:
    """Return as many of the last components of an NQN as there is room for, or the end of the last one."""
    *components, end = nqn.split(":")
    while components and len(components[-1]) + 1 + len(end) <= _NQN_COLUMNS:
        end = f"{components.pop()}:{end}"
    return _end(end, _NQN_COLUMNS)


def _end(text: str, columns: int) -> str:
    """Return the end of a text. What is cut are dots of ASCII: a console that is no terminal shows it too."""
    return text if len(text) <= columns else ".." + text[-(columns - 2) :]


def journal_fields(tid: TransportId) -> list[str]:
    """Return ``FIELD=value`` for each journal field that tells which controller a line is about."""
    fields = {
        "NVME_CTRL": tid.instance,
        "NVME_TRANSPORT": tid.transport,
        "NVME_TRADDR": tid.traddr,
        "NVME_TRSVCID": tid.trsvcid,
        "NVME_SUBSYSNQN": tid.subsysnqn,
        "NVME_HOST_IFACE": tid.host_iface,
        "NVME_HOST_TRADDR": tid.host_traddr,
    }
    return [f"{name}={value}" for name, value in fields.items() if value]


# Nothing of what stops other units, such as a slice of their own: it lives until the last signals of a shutdown, which
# its worker takes as such.
_SYSTEM_ORDERING: list[Property] = [
    ("DefaultDependencies", "b", False),
    ("After", "as", ["systemd-udevd.service"]),
    ("Slice", "s", "system.slice"),
]


def _ordering(transport: str) -> list[Property]:
    if transport in ("tcp", "rdma"):
        # Shutdown goes backwards: remote mounts, then the controller, then the network. remote-fs-pre.target
        # is passive: without Wants= it is in no transaction, and the ordering with it means nothing.
        return [
            ("After", "as", ["network.target"]),
            ("Before", "as", ["remote-fs-pre.target"]),
            ("Wants", "as", ["remote-fs-pre.target"]),
        ]
    # Mounts on Fibre Channel are local ones to systemd, and go last. Without the default dependencies
    # nothing but this stops the unit at shutdown.
    return [
        ("DefaultDependencies", "b", False),
        ("After", "as", ["systemd-udevd.service"]),
        ("Before", "as", ["local-fs-pre.target", "shutdown.target"]),
        ("Wants", "as", ["local-fs-pre.target"]),
        ("Conflicts", "as", ["shutdown.target"]),
    ]


# Not a list of what is allowed: that makes each start of a unit half as long again, since systemd compiles a filter of
# several hundred calls for it. What is given up with that are calls that no group has, of kernels to come above all.
_DENIED_CALLS = (
    # All groups that systemd-analyze(1) asks for.
    *("@clock", "@cpu-emulation", "@debug", "@module", "@mount", "@obsolete", "@privileged", "@raw-io", "@reboot"),
    *("@resources", "@swap"),
    # What CAP_SYS_PTRACE would allow besides looking, and what has the kernel work past a filter, or had many faults.
    *("bpf", "io_uring_enter", "io_uring_register", "io_uring_setup", "perf_event_open", "process_madvise"),
    *("process_vm_readv", "process_vm_writev", "userfaultfd"),
)

# The worker writes the fabrics device, sysfs, the registry and /run/discoverd, talks netlink, opens one TCP connection
# and runs systemctl. Nothing here gives it a mount namespace of its own, which would cost each start its time, make
# sysfs with delete_controller read-only, and hide from it what is mounted.
_SANDBOX: list[Property] = [
    # CAP_SYS_ADMIN for the fabrics device and admin commands; root needs no right for its own files. CAP_SYS_PTRACE and
    # CAP_DAC_READ_SEARCH to see which processes have a namespace open: /proc shows that to who could trace them.
    ("CapabilityBoundingSet", "t", 1 << 21 | 1 << 19 | 1 << 2),
    ("NoNewPrivileges", "b", True),
    ("LimitCORE", "t", 0),
    ("LimitCORESoft", "t", 0),
    # Before a disconnect it has each device open that lies on the controller.
    ("LimitNOFILE", "t", 65536),
    ("LimitNOFILESoft", "t", 65536),
    ("RestrictRealtime", "b", True),
    ("RestrictSUIDSGID", "b", True),
    # CLONE_NEWUTS alone, of no use with ProtectHostname=. systemd writes "none" into the unit's file as an empty value,
    # which it reads as no restriction when it is reloaded.
    ("RestrictNamespaces", "t", 0x04000000),
    ("LockPersonality", "b", True),
    ("MemoryDenyWriteExecute", "b", True),
    ("ProtectClock", "b", True),
    ("ProtectHostname", "b", True),
    ("KeyringMode", "s", "private"),
    ("UMask", "u", 0o077),
    ("RestrictAddressFamilies", "(bas)", [True, ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]]),
    ("SystemCallArchitectures", "as", ["native"]),
    ("SystemCallErrorNumber", "i", 1),
    ("SystemCallFilter", "(bas)", [False, list(_DENIED_CALLS)]),
    ("DevicePolicy", "s", "closed"),
    # /dev/nvme-fabrics by its class, for it may appear later; block devices to see whether somebody has claimed them.
    ("DeviceAllow", "a(ss)", [["char-misc", "rw"], ["char-nvme", "rw"], ["block-*", "r"]]),
]
