# SPDX-License-Identifier: Apache-2.0
"""config.json: hosts with their subsystems, and the ports that lead to each, as libnvme 1 reads them.

libnvme takes an array of hosts, and its schema describes an object that has one: both are understood.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from discoverd.config.errors import did_you_mean, printable
from discoverd.config.finding import Findings
from discoverd.config.ini import key_name
from discoverd.config.sources import SourceFile
from discoverd.tid import DISCOVERY_NQN, TRANSPORTS

from . import located_json, options
from .entry import Entry, Host
from .located_json import JsonError, Member, Object
from .options import BadValueError, Option

NAME = "config.json"
# The application that nvme-cli's unit connects as; what belongs to another one it leaves alone.
AUTOCONNECT = "autoconnect"

_SECRETS = {"dhchap_key": "dhchap-secret", "dhchap_ctrl_key": "dhchap-ctrl-secret"}
_HOST_KEYS = ("hostnqn", "hostid", "hostsymname", "dhchap_key", "persistent_discovery_ctrl", "subsystems")
_SUBSYSTEM_KEYS = ("nqn", "application", "dhchap_key", "ports")
_PORT_KINDS = ("address", "int", "flag", "text", "secret", "persistent")
_PORT_OPTIONS: dict[str, Option] = {
    **{
        option.name.replace("-", "_"): option
        for option in options.OPTIONS
        if option.kind in _PORT_KINDS and not option.name.startswith("dhchap-")
    },
    **{key: options.LONG[name] for key, name in _SECRETS.items()},
}
_PORT_KEYS = (*_PORT_OPTIONS, "discovery")
# What the kernel takes where a port on TCP names none.
_DEFAULT_PORT = "8009"


@dataclass(slots=True)
class _Port:
    """What a port says, by our keys."""

    address: dict[str, str] = field(default_factory=dict)
    tunables: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict, repr=False)
    discovery: bool = False
    lost: bool = False


def read(source: SourceFile, findings: Findings) -> list[Entry]:
    """Return what the ports ask for, in their order; what does not count, or not as it stands, is a finding."""
    try:
        value = located_json.load(source.data.decode())
    except UnicodeDecodeError as error:
        line = source.data.count(b"\n", 0, error.start) + 1
        findings.lost(line, "the file", "it is not valid UTF-8, and nvme-cli reads nothing of it; write it again")
        return []
    except JsonError as error:
        findings.lost(
            error.line,
            "the file",
            f"it is no JSON ({error}), and nvme-cli reads nothing of it; mend that and import again",
        )
        return []
    return list(_Reader(source.path, findings).hosts(value))


class _Reader:
    def __init__(self, path: str, findings: Findings) -> None:
        self._path = path
        self._findings = findings

    def hosts(self, value: Any) -> Iterator[Entry]:
        if isinstance(value, Object):
            text = "nvme-cli reads nothing of a file that is not an array of hosts; it counts from now on"
            self._findings.ignored(value.line, "the file", text)
            self._check_members(value, ("hosts",), "the file")
            member = value.get("hosts")
            value = member.value if member else []
        for one in self._objects(value, 1, "hosts"):
            yield from self._host(one)

    def _objects(self, value: Any, line: int, name: str) -> Iterator[Object]:
        if not isinstance(value, list):
            self._findings.ignored(line, name, "it is not an array, so nothing of it counts; make it one")
            return
        for one in value:
            if isinstance(one, Object):
                yield one
            else:
                self._findings.ignored(line, name, "there is something in it that is no object; remove that")

    def _host(self, one: Object) -> Iterator[Entry]:
        self._check_members(one, _HOST_KEYS, "a host")
        hostnqn = self._text(one, "hostnqn")
        if not hostnqn:
            text = "a host without one is not looked at, nor what it has; add it, or remove the host"
            self._findings.ignored(one.line, "hostnqn", text)
            return
        if member := one.get("persistent_discovery_ctrl"):
            text = (
                "connections to discovery controllers are persistent here where these want it; persistent = force in "
                "their section has it in any case, see discoverd-fabrics(5)"
            )
            self._findings.differs(member.line, member.key, text)
        host = Host(
            hostnqn,
            self._text(one, "hostid"),
            self._text(one, "hostsymname"),
            self._secret(one.get("dhchap_key")),
            self._path,
            one.line,
        )
        if subsystems := one.get("subsystems"):
            for subsystem in self._objects(subsystems.value, subsystems.line, "subsystems"):
                yield from self._subsystem(subsystem, host)

    def _subsystem(self, one: Object, host: Host) -> Iterator[Entry]:
        self._check_members(one, _SUBSYSTEM_KEYS, "a subsystem")
        nqn = self._text(one, "nqn")
        if not nqn:
            text = "a subsystem without one is not looked at, nor its ports; add it, or remove the subsystem"
            self._findings.ignored(one.line, "nqn", text)
            return
        application = self._text(one, "application")
        if application not in ("", AUTOCONNECT):
            text = "the subsystem is another application's, and nvmf-autoconnect.service does not connect it; nor do we"
            self._findings.ignored(one.line, "application", text)
            return
        secret = self._secret(member := one.get("dhchap_key"))
        if member and secret:
            text = "nvme-cli does not use it here, though documented; it is used for the subsystem from now on"
            self._findings.ignored(member.line, member.key, text)
        if ports := one.get("ports"):
            for port in self._objects(ports.value, ports.line, "ports"):
                if entry := self._port(port, nqn, secret, host):
                    yield entry

    def _port(self, one: Object, nqn: str, secret: str, host: Host) -> Entry | None:
        self._check_members(one, _PORT_KEYS, "a port")
        port = _Port()
        for member in {member.key: member for member in one.members}.values():
            if member.key in _PORT_KEYS:
                try:
                    self._take(member, port)
                except BadValueError as error:
                    option = _PORT_OPTIONS.get(member.key)
                    port.lost = port.lost or (option is not None and option.kind == "address")
                    self._findings.lost(member.line, member.key, str(error))
        place = one.get("traddr") or one.get("transport")
        line = place.line if place else one.line
        discovery = port.discovery or nqn == DISCOVERY_NQN
        if port.lost or not self._check_address(port, discovery, one, line):
            return None
        if "persistent" in port.settings and not discovery:
            del port.settings["persistent"]
            text = "it is about the discovery controller that nvme-cli looks for there; nothing to do"
            self._findings.differs(line, "persistent", text)
        if host.secret and "kxchap-secret" in port.settings:
            text = f"the host's, line {host.line} and below, beats it, as long as there is one; it is left out"
            self._findings.ignored(line, "dhchap_key", text)
            del port.settings["kxchap-secret"]
        elif secret and not host.secret:
            port.settings.setdefault("kxchap-secret", secret)
        return Entry(
            self._path,
            line,
            "discovery" if discovery else "io",
            port.address,
            "" if nqn == DISCOVERY_NQN else nqn,
            host,
            port.tunables,
            {},
            port.settings,
        )

    def _check_address(self, port: _Port, discovery: bool, one: Object, line: int) -> bool:
        """Complete the address, and tell whether it can be one."""
        transport = port.address.get("transport", "")
        if not transport:
            text = "a port without one is not looked at; add it, or remove the port"
            self._findings.ignored(one.line, "transport", text)
            return False
        if transport not in TRANSPORTS:
            hint = did_you_mean(transport, TRANSPORTS) or f"write one of {', '.join(TRANSPORTS)}"
            self._findings.ignored(line, "transport", f"it is none that nvme-cli connects over; {hint}")
            return False
        if "traddr" not in port.address and transport != "loop":
            self._findings.ignored(line, "traddr", "a port without one cannot be connected; add it, or remove the port")
            return False
        if transport == "tcp" and "trsvcid" not in port.address:
            port.address["trsvcid"] = _DEFAULT_PORT
            if not discovery:
                text = "nvme-cli connects to port 8009 without one, and so do we here; add 4420 if that is meant"
                self._findings.differs(line, "trsvcid", text)
        if transport in ("fc", "loop"):
            port.address.pop("trsvcid", None)
        if transport != "tcp" and "host-iface" in port.address:
            text = f"nvme-cli and the kernel take none over {transport}; it is left out, and the port connected"
            self._findings.ignored(line, "host_iface", text)
            del port.address["host-iface"]
        return True

    def _take(self, member: Member, port: _Port) -> None:
        """Take one member of a port. Raises BadValueError."""
        if member.key == "discovery":
            port.discovery = self._is_on(member)
            return
        option = _PORT_OPTIONS[member.key]
        if option.kind == "persistent":
            if self._is_on(member):
                port.settings["persistent"] = "force"
        elif option.kind == "int":
            self._put(port.tunables, option, options.number(option, _integer(member.value)), member)
        elif option.kind == "flag":
            target = port.settings if option.name in options.SECTION_FLAGS else port.tunables
            if _truth(member.value):
                target[option.ours] = "true"
        else:
            text = _string(member.value)
            target = port.address if option.kind == "address" else port.settings
            if text not in ("", "none"):
                target[option.ours] = options.check_text(text)

    def _put(self, target: dict[str, str], option: Option, text: str, member: Member) -> None:
        if text:
            target[option.ours] = text
        else:
            why = "it leaves the value to the kernel, as if it were not there; nothing to do"
            self._findings.ignored(member.line, member.key, why)

    def _is_on(self, member: Member) -> bool:
        """Tell whether a switch is on, which to libnvme it is with any value."""
        if member.value in (False, 0, None):
            text = "nvme-cli takes any value for true, and here it counts as it is written; write true if that is meant"
            self._findings.differs(member.line, member.key, text)
            return False
        return True

    def _text(self, one: Object, key: str) -> str:
        member = one.get(key)
        if member is None:
            return ""
        return self._checked(member, _string)

    def _secret(self, member: Member | None) -> str:
        text = self._checked(member, _string) if member else ""
        return "" if text == "none" else text

    def _checked(self, member: Member, convert: Callable[[Any], str]) -> str:
        try:
            return options.check_text(convert(member.value))
        except BadValueError as error:
            self._findings.lost(member.line, member.key, str(error))
            return ""

    def _check_members(self, one: Object, known: tuple[str, ...], what: str) -> None:
        """Tell of members that say nothing to libnvme, or are there twice."""
        lasts = {member.key: member for member in one.members}
        for member in one.members:
            if member.key not in known:
                hint = "" if self._findings.many else did_you_mean(member.key.replace("-", "_"), known)
                text = f"it is no key of {what}; {hint or 'remove it'}"
                self._findings.ignored(member.line, _name(member.key), text)
            elif (last := lasts[member.key]) is not member:
                text = f"it stands there again in line {last.line}, which counts; remove one of the two"
                self._findings.ignored(member.line, member.key, text)


def _name(key: str) -> str:
    return printable(key_name(key).strip('"'))


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise BadValueError("it is not a text; write it in quotation marks")


def _integer(value: Any) -> str:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    raise BadValueError("it is not a whole number; write one")


def _truth(value: Any) -> bool:
    if isinstance(value, (bool, int)):
        return bool(value)
    raise BadValueError("it is not true or false; write one, without quotation marks")
