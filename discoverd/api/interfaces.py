# SPDX-License-Identifier: Apache-2.0
"""What the API consists of: names, objects, and the interfaces with their methods, properties and signals.

It is the one description: calls are checked against it, properties marshalled by it, and the introspection data, also
the file that is installed, made from it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

NAME = "org.nvmexpress.discoverd1"
ROOT = "/org/nvmexpress/discoverd1"
CONTROLLERS = ROOT + "/controller"
SUBSYSTEMS = ROOT + "/subsystem"
# An object that is none, where a method has none to name.
NO_OBJECT = "/"

MANAGER = NAME + ".Manager"
CONTROLLER = NAME + ".Controller"
DISCOVERY = NAME + ".Discovery"
SUBSYSTEM = NAME + ".Subsystem"

PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"

# Errors. The first ones are those that every service uses.
UNKNOWN_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
UNKNOWN_INTERFACE = "org.freedesktop.DBus.Error.UnknownInterface"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"
UNKNOWN_PROPERTY = "org.freedesktop.DBus.Error.UnknownProperty"
READ_ONLY = "org.freedesktop.DBus.Error.PropertyReadOnly"
INVALID_ARGUMENTS = "org.freedesktop.DBus.Error.InvalidArgs"
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"
INTERACTIVE_REQUIRED = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
LIMITS_EXCEEDED = "org.freedesktop.DBus.Error.LimitsExceeded"
FAILED = "org.freedesktop.DBus.Error.Failed"
NO_UNIT = NAME + ".Error.NoUnit"
NO_PAGE = NAME + ".Error.NoLogPage"

LOG_ENTRIES = "a(uyyyyqqqqsssayo)"


@dataclass(frozen=True, slots=True)
class Method:
    """A method: ``takes`` and ``gives`` are its arguments' names and signatures. ``acts``: it changes something."""

    name: str
    takes: tuple[tuple[str, str], ...] = ()
    gives: tuple[tuple[str, str], ...] = ()
    acts: bool = False

    @property
    def signature(self) -> str:
        """The signature of what it takes."""
        return "".join(signature for _, signature in self.takes)

    @property
    def answer(self) -> str:
        """The signature of what it gives."""
        return "".join(signature for _, signature in self.gives)


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal, and its arguments' names and signatures."""

    name: str
    arguments: tuple[tuple[str, str], ...] = ()

    @property
    def signature(self) -> str:
        """The signature of its arguments."""
        return "".join(signature for _, signature in self.arguments)


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface. Properties can only be read; ``constant`` are those that never change in the life of an object."""

    name: str
    methods: tuple[Method, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    signals: tuple[Signal, ...] = ()
    constant: frozenset[str] = frozenset()

    def method(self, name: str) -> Method | None:
        """Return a method by its name."""
        return next((one for one in self.methods if one.name == name), None)


_JOB = (("job", "o"),)

_MANAGER = Interface(
    MANAGER,
    (
        Method("Reload", (), _JOB, acts=True),
        Method("Plan", (), (("decisions", "a(sssss)"),)),
        Method("Find", (("what", "s"),), (("controllers", "ao"),)),
        Method("Exclude", (("exclusions", "as"),), (("places", "as"),), acts=True),
        Method("Unexclude", (("exclusions", "as"),), (("places", "as"),), acts=True),
    ),
    (
        ("Version", "s"),
        ("State", "s"),
        ("Status", "s"),
        ("HostNQN", "s"),
        ("HostID", "s"),
        ("Counts", "a{su}"),
        ("Live", "u"),
        ("Problems", "as"),
        ("Refusals", "a(sss)"),
        ("Fault", "s"),
    ),
    (Signal("Event", (("time", "t"), ("event", "s"), ("controller", "o"), ("instance", "s"), ("text", "s"))),),
    frozenset(("Version",)),
)

_CONTROLLER = Interface(
    CONTROLLER,
    (
        Method("Start", (), _JOB, acts=True),
        Method("Stop", (), _JOB, acts=True),
        Method("Restart", (), _JOB, acts=True),
        Method("Disconnect", (), _JOB, acts=True),
    ),
    (
        ("Instance", "s"),
        ("Unit", "s"),
        ("LoadState", "s"),
        ("ActiveState", "s"),
        ("SubState", "s"),
        ("State", "s"),
        ("Live", "b"),
        ("Status", "s"),
        ("Cause", "s"),
        ("Kept", "s"),
        ("Attempt", "u"),
        ("ReportTimestampBoottime", "t"),
        ("Device", "s"),
        ("KernelState", "s"),
        ("Owner", "s"),
        ("Role", "s"),
        ("Transport", "s"),
        ("Address", "s"),
        ("Service", "s"),
        ("SubsystemNQN", "s"),
        ("HostInterface", "s"),
        ("HostAddress", "s"),
        ("HostNQN", "s"),
        ("HostID", "s"),
        ("Subsystem", "o"),
        ("Options", "a{ss}"),
        ("Model", "s"),
        ("Serial", "s"),
        ("FirmwareRevision", "s"),
        ("DiscoveryControllerType", "s"),
        ("AnnouncedOn", "s"),
        ("AnnouncedUntil", "s"),
        ("GiveUpAfter", "t"),
        ("Sources", "s"),
        ("Trust", "s"),
        ("Action", "s"),
        ("Reason", "s"),
        ("Note", "s"),
        ("HeldBack", "s"),
        ("ExcludedBy", "s"),
        ("WithdrawnBy", "s"),
        ("WaitsFor", "s"),
        ("Why", "as"),
    ),
    constant=frozenset(("Instance",)),
)

_DISCOVERY = Interface(
    DISCOVERY,
    (
        Method(
            "LogPage",
            (),
            (("generation", "t"), ("read_timestamp_boottime", "t"), ("asked", "s"), ("entries", LOG_ENTRIES)),
        ),
    ),
    (
        ("Generation", "t"),
        ("Entries", "t"),
        ("ReadTimestampBoottime", "t"),
        ("Asked", "s"),
        ("SymbolicName", "s"),
        ("Fault", "s"),
    ),
)

_SUBSYSTEM = Interface(
    SUBSYSTEM,
    (),
    (("NQN", "s"), ("Controllers", "ao"), ("Live", "u")),
    constant=frozenset(("NQN",)),
)

OURS = {one.name: one for one in (_MANAGER, _CONTROLLER, _DISCOVERY, _SUBSYSTEM)}

STANDARD = {
    one.name: one
    for one in (
        Interface(INTROSPECTABLE, (Method("Introspect", (), (("data", "s"),)),)),
        Interface(PEER, (Method("Ping"), Method("GetMachineId", (), (("machine_uuid", "s"),)))),
        Interface(
            PROPERTIES,
            (
                Method("Get", (("interface", "s"), ("property", "s")), (("value", "v"),)),
                Method("GetAll", (("interface", "s"),), (("properties", "a{sv}"),)),
                Method("Set", (("interface", "s"), ("property", "s"), ("value", "v"))),
            ),
            signals=(
                Signal(
                    "PropertiesChanged",
                    (("interface", "s"), ("changed_properties", "a{sv}"), ("invalidated_properties", "as")),
                ),
            ),
        ),
        Interface(
            OBJECT_MANAGER,
            (Method("GetManagedObjects", (), (("objects", "a{oa{sa{sv}}}"),)),),
            signals=(
                Signal("InterfacesAdded", (("object", "o"), ("interfaces", "a{sa{sv}}"))),
                Signal("InterfacesRemoved", (("object", "o"), ("interfaces", "as"))),
            ),
        ),
    )
}

_UNSAFE = re.compile(rb"[^A-Za-z0-9]")
_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_CHANGES = "org.freedesktop.DBus.Property.EmitsChangedSignal"


def object_path(parent: str, name: str) -> str:
    """Return the path of the object for ``name``; different names have different paths, and one always the same.

    Bytes other than ASCII letters and digits are written as an underscore and two hexadecimal digits, as systemd does.
    """
    data = name.encode("utf-8", "surrogateescape")
    return f"{parent}/" + (_UNSAFE.sub(lambda found: b"_%02x" % found[0][0], data).decode() if data else "_")


def introspection(interfaces: Iterable[Interface], children: Iterable[str] = (), doctype: bool = True) -> str:
    """Return the introspection data of an object with these interfaces and these objects below it."""
    lines = ["<node>"]
    for one in interfaces:
        lines.append(f" <interface name={quoteattr(one.name)}>")
        for method in one.methods:
            arguments = [*_arguments(method.takes, "in"), *_arguments(method.gives, "out")]
            lines += _element("method", method.name, arguments)
        for signal in one.signals:
            lines += _element("signal", signal.name, list(_arguments(signal.arguments, "")))
        for name, signature in one.properties:
            lines.append(f'  <property name="{name}" type="{signature}" access="read">')
            changes = "const" if name in one.constant else "true"
            lines += [f'   <annotation name="{_CHANGES}" value="{changes}"/>', "  </property>"]
        lines.append(" </interface>")
    lines += [f' <node name="{child}"/>' for child in children]
    return (_DOCTYPE if doctype else "") + "\n".join([*lines, "</node>"]) + "\n"


def _element(kind: str, name: str, arguments: list[str]) -> list[str]:
    if not arguments:
        return [f'  <{kind} name="{name}"/>']
    return [f'  <{kind} name="{name}">', *arguments, f"  </{kind}>"]


def _arguments(arguments: Iterable[tuple[str, str]], direction: str) -> Iterable[str]:
    for name, signature in arguments:
        yield f'   <arg name="{name}" type="{signature}"' + (f' direction="{direction}"/>' if direction else "/>")


def installed() -> str:
    """Return the file that is installed: our interfaces, in one node."""
    return introspection(OURS.values())
