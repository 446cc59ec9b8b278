# SPDX-License-Identifier: Apache-2.0
"""One nvme-fabrics.conf file as written: its sections with their settings, before anything is inherited."""

from dataclasses import dataclass, field

from ..tid import TidError, check_hostid, check_nqn
from . import keys
from .errors import Report, did_you_mean, quote
from .ini import Entry, Section, comment_hint, key_name, scan
from .paths import PathLine, parse_path
from .sources import SourceFile
from .usable import secret_problem

Settings = dict[str, str]


@dataclass(slots=True)
class Endpoint:
    """A ``[Discovery Controller]`` or ``[Subsystem]`` section."""

    section: str
    line: int
    column: int
    nqn: str = ""
    nqn_place: tuple[int, int] = (0, 0)
    settings: Settings = field(default_factory=dict, repr=False)
    paths: list[PathLine] = field(default_factory=list)


@dataclass(slots=True)
class FabricsFile:
    """One file. ``settings`` holds those of all sections but endpoints; '' as a value is a reset.

    ``unread``: nothing is known about what it holds.
    """

    path: str
    drop_in: bool
    report: Report
    settings: dict[str, Settings] = field(default_factory=dict, repr=False)
    endpoints: list[Endpoint] = field(default_factory=list)
    host_line: int = 0
    identity: Settings = field(default_factory=dict)
    identity_places: dict[str, tuple[int, int]] = field(default_factory=dict)
    secret_place: tuple[int, int] | None = None
    unread: bool = False


def parse_file(source: SourceFile) -> FabricsFile:
    """Parse one file; faults go to ``report``, and what is sound is kept even when another part is not."""
    return _Parser(source).parse()


class _Parser:
    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.report = Report(source.path)
        self.file = FabricsFile(source.path, source.drop_in, self.report)
        self.file.unread = bool(source.fault) or b"\0" in source.data
        # None before the first section, '' inside an unknown one.
        self.section: str | None = None
        self.endpoint: Endpoint | None = None
        self.seen: dict[str, int] = {}

    def parse(self) -> FabricsFile:
        for item in scan(self.source, self.report):
            if isinstance(item, Section):
                self._enter(item)
            else:
                self._entry(item)
        for endpoint in self.file.endpoints:
            if endpoint.section == keys.SUBSYSTEM and not endpoint.nqn_place[0]:
                hint = "add: nqn = <the subsystem's NQN>"
                self.report.error(endpoint.line, endpoint.column, "[Subsystem] without an nqn", hint)
        if self.file.secret_place and self.source.mode & 0o044:
            hint = f"chmod 600 {self.source.path}"
            self.report.warn(*self.file.secret_place, "the file holds a secret, and others than root can read it", hint)
        return self.file

    def _enter(self, section: Section) -> None:
        name, line, column = section.name, section.line, section.column
        self.endpoint = None
        self.seen = {}
        if name not in keys.SECTIONS:
            hint = "" if self.report.full else did_you_mean(name, keys.SECTIONS)
            what = f"the unknown section [{quote(name)[1:-1]}] is ignored"
            self.report.warn(line, column, what, hint, ignored=True)
            self.section = ""
            return
        self.section = name
        if name in (keys.DISCOVERY, keys.SUBSYSTEM):
            self.endpoint = Endpoint(name, line, column)
            self.file.endpoints.append(self.endpoint)
        elif name not in self.file.settings:
            self.file.settings[name] = {}
            if name == keys.HOST:
                self.file.host_line = line
        elif name == keys.HOST:
            hint = f"put a second persona into a file of its own; the first is in line {self.file.host_line}"
            self.report.error(line, column, "a second [Host] section", hint)
        else:
            self.report.warn(line, column, f"a repeated section [{name}]", "both count, later lines win")

    def _entry(self, entry: Entry) -> None:
        if self.section == "":
            return
        if self.section is None:
            self.report.error(
                entry.line,
                entry.column,
                f"the key {key_name(entry.key)} stands before any section",
                "put it below a [Section]",
            )
            return
        name = keys.OLDER_NAMES.get(entry.key, entry.key)
        if name != entry.key:
            self.report.warn(
                entry.line,
                entry.column,
                f"{entry.key} is the older name of {name}",
                f"write {name}; nvme-cli ignores the older one",
            )
        key = keys.KEYS.get(name)
        if not key:
            hint = "" if self.report.full else did_you_mean(entry.key, keys.KEYS)
            what = f"the unknown key {key_name(entry.key)} is ignored"
            self.report.warn(entry.line, entry.column, what, hint, ignored=True)
            return
        if self.section not in key.sections:
            where = ", ".join(f"[{section}]" for section in keys.SECTIONS if section in key.sections)
            message = f"{name} does not belong in [{self.section}]"
            self.report.error(entry.line, entry.column, message, f"it can stand in {where}")
            return
        if key.kind == "controller":
            self._controller(entry)
            return
        if name in self.seen:
            message = f"{name} is set again; line {self.seen[name]} said something already"
            self.report.warn(entry.line, entry.column, message, "the last line wins")
        self.seen[name] = entry.line
        if key.kind in ("nqn", "hostid") or name == "hostsymname":
            self._identity(key, entry)
        else:
            self._setting(key, entry)

    def _controller(self, entry: Entry) -> None:
        assert self.endpoint is not None  # noqa: S101 - the key table allows controller in endpoint sections only
        path = parse_path(entry, self.endpoint.section, self.report)
        if path:
            self.endpoint.paths.append(path)

    def _identity(self, key: keys.Key, entry: Entry) -> None:
        place = (entry.line, entry.value_column)
        value = entry.value
        if not value and key.name == "nqn":
            self.report.error(*place, "the nqn is empty", "write the subsystem's NQN, or remove the line")
        try:
            if value and key.kind == "nqn":
                value = check_nqn(value)
                if not value.isascii():
                    raise TidError("the NQN holds a character that is not ASCII, and nvme-cli allows none here")
            elif value and key.kind == "hostid":
                value = check_hostid(value)
        except TidError as error:
            self.report.error(*place, f"{key.name}: {error}", comment_hint(value))
        if key.name == "hostsymname" and not value.isprintable():
            self.report.warn(*place, "hostsymname holds a control character", "it is not used; write plain text")
            value = ""
        if self.endpoint:
            self.endpoint.nqn, self.endpoint.nqn_place = value, place
        else:
            self.file.identity[key.name] = value
            self.file.identity_places[key.name] = place

    def _setting(self, key: keys.Key, entry: Entry) -> None:
        try:
            value = keys.canonical_value(key, entry.value)
        except keys.BadValueError as fault:
            self.report.error(entry.line, entry.value_column, str(fault), fault.hint)
            return
        if key.secret and value and not (key.name == "tls-key" and value[0].isdigit()):
            # A TLS key that begins with a digit is the serial number of a key in the kernel: no secret.
            self.file.secret_place = self.file.secret_place or (entry.line, entry.column)
        if key.name in keys.DHCHAP and (problem := secret_problem(key.name, value)):
            self.report.warn(entry.line, entry.value_column, problem.message, problem.hint, ignored=True)
        target = self.endpoint.settings if self.endpoint else self.file.settings[self.section or ""]
        target[key.name] = value
