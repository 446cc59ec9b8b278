# SPDX-License-Identifier: Apache-2.0
"""sys.conf: who the host is to nvme-stas, as far as that is not what everybody else takes it for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from discoverd.config.errors import printable
from discoverd.config.finding import Findings
from discoverd.config.identity import HostIdentity, derived_hostid
from discoverd.config.model import Secrets
from discoverd.config.sources import read_file
from discoverd.config.usable import security_problem
from discoverd.kernel.controllers import canonical_nqn
from discoverd.tid import TidError, check_hostid, check_nqn

from .grammar import Option

SECTION = "Host"
KEYS = ("nqn", "id", "symname", "key")
_SYMNAME_MAX = 256


@dataclass(frozen=True, slots=True)
class Host:
    """The keys of our [Host] section, in their order; empty where the host's own identity is all there is."""

    settings: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def secret(self) -> str:
        """The host's secret for all controllers, '' without one."""
        return self.settings.get("kxchap-secret", "")


def translate(options: list[Option], findings: Findings, own: HostIdentity, directory: Path) -> Host:
    """Turn sys.conf into a [Host] section. ``own`` is the host's identity, ``directory`` where that and hostkey are.

    Blocks on the disk: values can stand in files of their own.
    """
    given: dict[str, Option] = {}
    for option in options:
        if option.section != SECTION or option.key not in KEYS:
            name = option.name if option.section == SECTION else f"[{printable(option.section)}]"
            findings.ignored(option.line, name, f"sys.conf has [{SECTION}] with {', '.join(KEYS)}; remove it")
        else:
            given[option.key] = option
    nqn = _checked(given.get("nqn"), findings, check_nqn)
    hostid = _checked(given.get("id"), findings, check_hostid)
    if canonical_nqn(nqn) == canonical_nqn(own.hostnqn):
        nqn = own.hostnqn
    settings = {"hostnqn": nqn or own.hostnqn}
    if nqn and nqn != own.hostnqn:
        settings |= _persona(given["nqn"], hostid, own, nqn, findings)
    elif hostid and hostid != own.hostid:
        settings["hostid"] = hostid
        text = f"the kernel takes one host ID for one host NQN, and {directory}/hostid has another; make them the same"
        findings.differs(given["id"].line, "id", text)
    if symname := _symname(given.get("symname"), findings):
        settings["hostsymname"] = symname
    if secret := _secret(given.get("key"), findings, directory):
        settings["kxchap-secret"] = secret
    if settings == {"hostnqn": own.hostnqn}:
        return Host()
    if not settings["hostnqn"]:
        text = f"this host has no NQN to go with it; create one: nvme gen-hostnqn > {directory}/hostnqn"
        findings.lost(0, f"[{SECTION}]", text)
        return Host()
    return Host(settings)


def _persona(option: Option, hostid: str, own: HostIdentity, nqn: str, findings: Findings) -> dict[str, str]:
    """Return the host ID of an NQN that is not the host's own, as a setting where it needs one."""
    same = hostid in ("", own.hostid)
    derived = derived_hostid(nqn)
    if same and derived in ("", own.hostid):
        text = (
            "nvme-stas connects as it with this host's ID, and two host NQNs must not share one; if it is the host's "
            "name, write it into /etc/nvme/hostnqn and import again, else give it an id"
        )
        findings.lost(option.line, "nqn", text)
    elif same:
        text = f"it goes with the host ID in it ({derived}), not with this host's, which nvme-stas uses; nothing to do"
        findings.differs(option.line, "nqn", text)
    text = (
        "it is not what /etc/nvme/hostnqn says, and counts for the controllers in these files and what they list; "
        "what announcements and firmware ask for is connected as /etc/nvme/hostnqn says, so make them the same"
    )
    findings.differs(option.line, "nqn", text)
    return {} if same else {"hostid": hostid}


def _checked(option: Option | None, findings: Findings, check: Callable[[str], str]) -> str:
    value = _value(option, findings)
    if option is None or not value:
        return ""
    try:
        return check(value)
    except TidError as error:
        findings.lost(option.line, option.key, f"{error}; write one that is by the rules")
        return ""


def _symname(option: Option | None, findings: Findings) -> str:
    value = _value(option, findings)
    if option is None or not value:
        return ""
    if not value.isprintable() or len(value.encode()) > _SYMNAME_MAX:
        text = f"it is longer than {_SYMNAME_MAX} bytes, or has a character that cannot be printed; write another"
        findings.lost(option.line, "symname", text)
        return ""
    return value


def _secret(option: Option | None, findings: Findings, directory: Path) -> str:
    line = option.line if option else 0
    if option is None:
        path = directory / "hostkey"
        if read_file(path) is None:
            return ""
        option = Option(SECTION, "key", f"file://{path}", 0)
    value = _value(option, findings)
    if value and (problem := security_problem(Secrets(kxchap_secret=value))):
        findings.lost(line, "key", f"{problem.message}; {problem.hint}")
        return ""
    return value


def _value(option: Option | None, findings: Findings) -> str:
    """Return an option's value, from the file that it names if it names one, where the first word counts."""
    if option is None:
        return ""
    if not option.value.startswith("file://"):
        if not option.value:
            findings.ignored(option.line, option.key, "it is empty; give a value, or remove it")
        return option.value
    path = option.value.removeprefix("file://")
    source = read_file(Path(path)) if path and "\0" not in path else None
    if source is None or source.fault:
        why = source.fault if source else "does not exist"
        findings.ignored(option.line, option.key, f"{printable(path)[:200]} {why}; mend that and import again")
        return ""
    words = source.data.split(b"\n", 1)[0].split()
    word = words[0] if words else b""
    if not word:
        findings.ignored(option.line, option.key, f"{printable(path)[:200]} is empty; mend that and import again")
    return word.decode("utf-8", "backslashreplace")
