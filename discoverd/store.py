# SPDX-License-Identifier: Apache-2.0
"""The supervisor's side of the run-time state: specifications out, reports and log pages in.

Every call blocks.
"""

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from discoverd import registry, state
from discoverd.config.errors import Diagnostic
from discoverd.kernel import fabrics
from discoverd.plan.candidate import (
    CONFIGURATION,
    FIBRE_CHANNEL,
    MDNS,
    UNMANAGED,
    Announcement,
    Refusal,
    Wish,
    target_of,
)
from discoverd.plan.evidence import Asked
from discoverd.plan.facts import Decision, Known, Report
from discoverd.plan.log_page import LogPageError, PageRead, parse
from discoverd.public_spec import public
from discoverd.tid import TidError, TransportId

TYPE_CHECKING = False
if TYPE_CHECKING:
    # It brings along what reads the configuration, which a look does without.
    from discoverd.config.last_good import Kept

BOOT = "discoverd-boot 1"
WAKE = "discoverd-wake 1"
CONFIRMATION = "discoverd-confirm 1"
# Of nvme-cli's nvme-discoverd: a directory for each controller that it has connected, with the name of the unit.
HOLDERS = "/run/nvme/discoverd/controllers"
CONFIRMATION_MAX_SECONDS = 15
_LOG_LIMIT = 1 << 25
_KEEP_STOPPED = "stopped-by-an-administrator"


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier supervisor and its workers have left: known controllers, their reports, and announcements.

    The wishes are those of sources that hear of a controller once: mDNS and Fibre Channel. ``addresses`` are where
    configured controllers are, or were last tried.
    """

    known: dict[str, Known]
    reports: dict[str, Report]
    wishes: tuple[Wish, ...]
    addresses: frozenset[str]


def prepare() -> socket.socket:
    """Make the directories, and return the socket on which workers wake the supervisor, for root only.

    Everybody may see which controllers there are and how they are. Raises OSError.
    """
    os.makedirs(state.CONTROLLERS, exist_ok=True)
    for directory in (state.ROOT, state.CONTROLLERS):
        os.chmod(directory, state.PUBLIC_DIRECTORY)
    _open_up()
    wake = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    temporary = state.WAKE_SOCKET + ".new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    wake.bind(temporary)
    os.chmod(temporary, state.PRIVATE)
    # The rename leaves no moment without a socket, and takes the place of the one that a killed supervisor
    # left.
    os.rename(temporary, state.WAKE_SOCKET)
    with contextlib.suppress(state.StateError):  # A full /run: then it cannot be told whose the socket is.
        inode = str(os.lstat(state.WAKE_SOCKET).st_ino)
        state.write(_wake_record(), state.encode(WAKE, [("inode", inode)]), state.PUBLIC)
    return wake


def _open_up() -> None:
    """Let everybody read what an earlier version, to whom all was root's, has left of controllers."""
    with os.scandir(state.CONTROLLERS) as found:
        # What somebody else has put there may be anything.
        directories = [one.path for one in found if one.is_dir(follow_symlinks=False)]
    for directory in directories:
        os.chmod(directory, state.PUBLIC_DIRECTORY)
        for name in ("report", "log"):
            with contextlib.suppress(FileNotFoundError):
                os.chmod(f"{directory}/{name}", state.PUBLIC)


def wake_sockets() -> tuple[int, int]:
    """Return the inodes of the wake socket that the supervisor has made, and of the one that is there, 0 for none.

    Raises state.StateError where it is not known which it has made.
    """
    own = state.number(dict(state.decode(WAKE, state.read(_wake_record()))).get("inode", ""))
    try:
        return own, os.lstat(state.WAKE_SOCKET).st_ino
    except OSError:
        return own, 0


def _wake_record() -> str:
    return state.WAKE_SOCKET + ".inode"


def write_abilities(module: int, known: Iterable[str] | None) -> None:
    """Have workers know which options this loading of nvme-fabrics knows, None if it does not tell.

    Raises state.StateError.
    """
    fields = [("module", str(module)), *(("option", name) for name in sorted(known or ()))]
    state.write(fabrics.ABILITIES, state.encode(fabrics.ABILITIES_KIND, fields))


def sweep() -> None:
    """Take away what killed processes have left half-written, here and in the registry. Raises OSError.

    Also what a killed supervisor kept units from starting with: nothing would start them, and not say why.
    """
    for folder in (state.ROOT, *(state.directory(instance) for instance in os.listdir(state.CONTROLLERS))):
        # What somebody else has put there is no directory, or has others below it.
        with contextlib.suppress(NotADirectoryError, IsADirectoryError):
            if _KEEP_STOPPED in os.listdir(folder):
                os.unlink(f"{folder}/{_KEEP_STOPPED}")
            state.sweep(folder)
    registry.sweep()


def find() -> Found:
    """Read what is there. What is unreadable, truncated or of another version counts as not there."""
    found = {}
    reports = {}
    wishes = []
    addresses = set()
    for instance in os.listdir(state.CONTROLLERS):
        report = read_report(instance)
        if report is not None:
            reports[instance] = report
        spec = read_spec(instance)
        if spec is not None:
            found[instance] = known(spec)
            # What was given up is not tried for as long again because the supervisor starts.
            given_up = report is not None and report.state == state.GIVEN_UP
            if spec.origin in (MDNS, FIBRE_CHANNEL) and not given_up and (one := wish(spec)):
                wishes.append(one)
            if spec.origin == CONFIGURATION and not spec.withdrawn:
                addresses.add(spec.option("traddr"))
    return Found(found, reports, tuple(wishes), frozenset(addresses))


def known(spec: state.Spec) -> Known:
    """Return what is known of the controller that a specification is about."""
    target = target_of(spec.role, *(spec.option(key) for key in ("transport", "traddr", "trsvcid", "nqn")))
    withdrawn = spec.note if spec.withdrawn else ""
    # An earlier version did not write down whom it trusted.
    trusted = spec.trusted and spec.origin not in (MDNS, UNMANAGED)
    return Known(spec.source, spec.origin, withdrawn, frozenset(spec.referrers.split()), target, spec.role, trusted)


def wish(spec: state.Spec) -> Wish | None:
    """Return the wish that a specification was made from, without what the configuration says; None for no target."""
    try:
        # Without the host NQN: no announcement has one, and what goes with it the configuration says anew.
        tid = TransportId.make(
            spec.role,
            spec.option("transport"),
            spec.option("traddr"),
            spec.option("trsvcid"),
            spec.option("nqn"),
            host_traddr=spec.option("host_traddr"),
            host_iface=spec.option("host_iface"),
        )
    except TidError:
        return None  # An earlier version took it for good, and it will be announced again.
    announcement = None
    if spec.announced_on or spec.announced_until:
        announcement = Announcement(spec.announced_on, spec.announced_until)
    return Wish(tid, spec.role, spec.source, spec.origin, give_up_after=spec.give_up_after, announcement=announcement)


def new_boot(soft_reboots: int) -> bool:
    """Tell whether user space was booted anew since the last call, and if so take away what the workers before said.

    A soft-reboot keeps /run, but what an administrator stopped comes back with the next boot of any kind.
    """
    path = state.ROOT + "/boot"
    data = state.encode(BOOT, [("soft-reboots", str(soft_reboots))])
    try:
        before = state.read(path)
    except state.StateError:
        before = data if not soft_reboots else b""
    if before != data:
        for instance in os.listdir(state.CONTROLLERS):
            # As in sweep(), for what somebody else has put there.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                os.unlink(state.directory(instance) + "/report")
    with contextlib.suppress(state.StateError):  # A full /run is no reason to stand still; the next call tries again.
        state.write(path, data)
    return before != data


def write_plan(
    rows: Iterable[str],
    refusals: Iterable[Refusal],
    complaints: Iterable[Diagnostic],
    pending: Mapping[str, Iterable[str]],
    kept: Iterable["tuple[Kept, str]"] = (),
) -> None:
    """Write what was decided, and why, for discoverctl; ``rows`` are :func:`plan_row`'s. Raises state.StateError.

    ``pending`` has by discovery controller what its log page does not list, and what stays until that is confirmed, and
    ``kept`` the configuration files that count as they were before, and since when.
    """
    said = list(complaints)
    rest = {
        "pending": [{"origin": origin, "instances": list(units)} for origin, units in pending.items()],
        "refusals": [_refusal_row(one) for one in refusals],
        "complaints": [str(one) for one in said],
        "errors": sum(one.severity == "error" for one in said),
        "kept": [{"file": one.path, "since": since, "mistake": str(one.mistake)} for one, since in kept],
    }
    # Put together from rows that are text already: one changes, and there may be a thousand.
    text = '{"version": 1, "controllers": [' + ",\n".join(rows) + "], " + json.dumps(rest)[1:]
    state.write(state.ROOT + "/plan", text.encode(), state.PUBLIC)


def _refusal_row(refusal: Refusal) -> dict[str, str]:
    transport, traddr, trsvcid, subsysnqn = refusal.target
    return {
        "what": refusal.what,
        "source": refusal.source,
        "reason": refusal.reason,
        "expected": "yes" if refusal.expected else "",
        "transport": transport,
        "traddr": traddr,
        "trsvcid": trsvcid,
        "subsysnqn": subsysnqn,
        "trust": "" if refusal.trusted else "announced",
    }


def plan_row(decision: Decision) -> str:
    """Return a decision as it stands in the plan."""
    row = {
        "instance": decision.instance,
        "action": decision.action.value,
        "reason": decision.reason,
        "note": decision.note,
        "held_back": decision.held_back,
        "excluded_by": decision.excluded_by,
        "withdrawn_by": decision.withdrawn_by,
        "blocked_by": decision.blocked_by,
        "trust": decision.candidate.trust if decision.candidate else "",
    }
    candidate = decision.candidate
    for field in ("transport", "traddr", "trsvcid", "subsysnqn", "host_iface", "host_traddr"):
        row[field] = getattr(candidate.tid, field) if candidate else ""
    row["role"] = candidate.role if candidate else ""
    row["sources"] = candidate.source if candidate else ""
    return json.dumps(row)


def keep_stopped(instance: str) -> str:
    """Make the file that keeps a unit from starting, and return its path. systemd shows it in the unit's status.

    Raises state.StateError.
    """
    path = f"{state.directory(instance)}/{_KEEP_STOPPED}"
    state.write(path, b"")
    return path


def allow_start(instance: str) -> None:
    """Let the unit be started from now on. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{state.directory(instance)}/{_KEEP_STOPPED}")


def read_spec(instance: str) -> state.Spec | None:
    """Return a controller's specification, None where there is no usable one."""
    try:
        return state.Spec.decode(state.read(state.directory(instance) + "/spec"))
    except state.StateError:
        return None


def read_report(instance: str) -> Report | None:
    """Return a worker's report, None where there is no usable one."""
    try:
        return parse_report(state.read(state.directory(instance) + "/report"))
    except state.StateError:
        return None


def parse_report(data: bytes) -> Report | None:
    """Return the report that a file has in it, None for one that is not usable."""
    try:
        fields = dict(state.decode(state.REPORT, data))
        if fields.get("state") not in state.STATES:
            return None
        return Report(
            state=fields["state"],
            status=fields.get("status", ""),
            device=fields.get("device", ""),
            log_read=fields.get("log-read", ""),
            attempt=state.number(fields.get("attempt", "0")),
            time=state.number(fields.get("time", "0")),
            sysfs_inode=state.number(fields.get("kernel-instance", "0")),
            cause=fields.get("cause", ""),
            kept=fields.get("kept", ""),
            attempts_made=state.number(fields.get("attempts-made", "0")),
            losses=state.number(fields.get("losses", "0")),
            reconnects=state.number(fields.get("reconnects", "0")),
            registered=fields.get("registered", ""),
            errno=state.number(fields.get("errno", "0")),
            since=state.number(fields.get("since", "0")),
            detail=fields.get("detail", ""),
            answer=fields.get("answer", ""),
            owner=fields.get("owner", ""),
        )
    except state.StateError:
        return None


def read_log(instance: str) -> PageRead | None:
    """Return the log page that a discovery controller's worker has left.

    None where there is no usable one. Raises LogPageError for one that is there and makes no sense.
    """
    path = state.directory(instance) + "/log"
    try:
        data = state.read(path, _LOG_LIMIT)
        if not data.startswith(b"discoverd-log "):
            # A worker of an earlier version does not say how it has read it.
            age = max(0.0, time.time() - os.stat(path).st_mtime)
            return PageRead(parse(data), time.clock_gettime(time.CLOCK_BOOTTIME) - age)
        fields, page = state.split(state.LOG, data)
        told = dict(fields)
        milliseconds = state.number(told.get("milliseconds", "0"))
        if milliseconds > time.clock_gettime(time.CLOCK_BOOTTIME) * 1000:
            raise state.StateError(f"{path}: it was read in the future")
    except FileNotFoundError:
        return None  # It went with its directory in this moment.
    except state.StateError as error:
        if os.path.exists(path):
            raise LogPageError(str(error)) from error
        return None
    asked = next((one for one in Asked if one.value == told.get("asked")), Asked.UNKNOWN)
    return PageRead(parse(page), milliseconds / 1000, told.get("connection", ""), asked)


def confirm(instance: str, units: Iterable[str]) -> str:
    """Leave an administrator's word that a log page rightly lists these units no longer, and return where it is.

    Whoever takes it removes the file. Raises state.StateError.
    """
    path = _confirmation(instance)
    now = ("milliseconds", str(int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)))
    state.write(path, state.encode(CONFIRMATION, [now, *(("unit", unit) for unit in units)]))
    return path


def take_confirmation(instance: str) -> list[str]:
    """Return and remove what :func:`confirm` has left; empty where there is nothing that makes sense.

    Neither does a word of more than CONFIRMATION_MAX_SECONDS ago: who gave it was told that it had not been
    heard.
    """
    try:
        fields = state.decode(CONFIRMATION, state.read(_confirmation(instance)))
        given = state.number(dict(fields).get("milliseconds", "0")) / 1000
    except state.StateError:
        fields, given = [], 0.0
    with contextlib.suppress(OSError):
        os.unlink(_confirmation(instance))
    if not 0 <= time.clock_gettime(time.CLOCK_BOOTTIME) - given <= CONFIRMATION_MAX_SECONDS:
        return []
    return [value for key, value in fields if key == "unit" and state.valid_instance(value)]


def _confirmation(instance: str) -> str:
    return state.directory(instance) + "/confirm"


def take_back(instance: str, device: str, owner: str) -> None:
    """Leave word for a worker that this owner of its controller does not count any more. Raises state.StateError.

    It holds for state.TAKE_BACK_SECONDS: what it says was found out in this moment.
    """
    now = ("milliseconds", str(int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)))
    fields = [now, ("device", device), ("owner", owner)]
    state.write(f"{state.directory(instance)}/take-back", state.encode(state.TAKE_BACK, fields))


def holder(device: str) -> str:
    """Return the unit that holds a controller by the record of nvme-cli's nvme-discoverd, '' where there is none."""
    try:
        name = state.read(f"{HOLDERS}/{device}/unit", 4096).decode("utf-8", "replace").strip()
    except state.StateError:
        return ""
    return name if name.isprintable() else ""


def forget(instance: str) -> None:
    """Remove a controller's state. What cannot be removed stays, and is found again by the next supervisor."""
    shutil.rmtree(state.directory(instance), ignore_errors=True)


def write_spec(instance: str, spec: state.Spec) -> bool:
    """Write a controller's specification if it differs; tell whether it did. Raises state.StateError."""
    directory = state.directory(instance)
    data = spec.encode()
    if _has(directory + "/spec", data):
        _write_public(directory, spec)
        return False
    try:
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, state.PUBLIC_DIRECTORY)
    except OSError as error:
        raise state.StateError(f"{directory}: {error.strerror}") from error
    state.write(directory + "/spec", data)
    _write_public(directory, spec)
    return True


def _has(path: str, data: bytes) -> bool:
    try:
        return state.read(path) == data
    except state.StateError:
        return False  # There is none, or none that can be read.


def _write_public(directory: str, spec: state.Spec) -> None:
    """Have everybody know what of a specification he may, also of one that an earlier version has written."""
    path, data = f"{directory}/{state.PUBLIC_SPEC}", public(spec).encode()
    if not _has(path, data):
        with contextlib.suppress(state.StateError):  # A full /run: then it is shown as it was.
            state.write(path, data, state.PUBLIC)
