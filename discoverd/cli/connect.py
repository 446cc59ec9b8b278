# SPDX-License-Identifier: Apache-2.0
"""``discoverctl connect``: a controller that nobody has configured, with a unit, until the next boot.

It is written into a drop-in of the configuration below /run, which discoverd reads as those in /etc; so it outlives
restarts of discoverd, and all that holds for configured controllers holds for it.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from discoverd import exclusions, state, store
from discoverd.cli import files, jobs, plan_file, runtime_drop_in, text
from discoverd.cli import overview as overviews
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview
from discoverd.cli.systemd import Systemd, UnitNotLoaded
from discoverd.cli.unit import DAEMON
from discoverd.config import fabrics, settings
from discoverd.config.identity import load_host_identity
from discoverd.config.model import Connection
from discoverd.config.sources import SourceFile
from discoverd.kernel.controllers import canonical_nqn
from discoverd.sources.ways import Ways
from discoverd.supervisor import reload
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TidError, TransportId, check_nqn

RELOAD_TIMEOUT_SECONDS = 90
# A first attempt ends, in success or in a scheduled retry, within so many seconds.
FIRST_ATTEMPT_TIMEOUT_SECONDS = 45.0
# Seconds between two looks at a report.
_POLL_FIRST, _POLL_MOST = 0.1, 1.0
_TEMPORARY = ".connect."
_HEAD = """\
# Written by discoverctl connect, until the next boot. To end it before: discoverctl disconnect, which removes this file
# as well. Where only the file is removed, and discoverd reloaded, what is connected stays until it is lost. To have it
# for good, put what follows into /etc/nvme/nvme-fabrics.conf.
"""
# How the plan begins to say who asks for what is configured.
_CONFIGURED = "configured at "


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be connected, as it was given; '' for what was not."""

    transport: str
    address: str
    nqn: str
    host_iface: str = ""
    host_traddr: str = ""

    @property
    def role(self) -> str:
        """The role: the well-known NQN asks for a discovery controller, and so does none."""
        return DISCOVERY if self.nqn in ("", DISCOVERY_NQN) else IO

    def target(self) -> tuple[str, str]:
        """Return address and service. Raises CliError."""
        if self.transport not in ("tcp", "rdma"):
            return self.address, ""
        address, service = self.address, ""
        if address.startswith("["):
            address, _, rest = address[1:].partition("]")
            if rest[:1] not in ("", ":"):
                raise CliError(f"{self.address} is no address; write [2001:db8::1]:4420", Exit.USAGE)
            service = rest[1:]
        elif address.count(":") == 1:
            address, _, service = address.partition(":")
        if service and not (service.isascii() and service.isdigit()):
            raise CliError(f"{service} is no port; write 192.0.2.1:4420, or [2001:db8::1]:4420", Exit.USAGE)
        return address, service


def connect(request: Request, systemd: Systemd, look: Callable[[], Overview]) -> Exit:
    """Have it connected, and wait until its first attempt has ended. Returns NOT_LIVE if it is neither live nor parked.

    What discoverd knows already is asked for all the same, unless the configuration does so: who asks for it now may
    not do so for long, or may have ceased to. Raises CliError, and then nothing is left of what discoverd has not taken
    up.
    """
    tid = _identity(request)
    ways = Ways.of(settings.load_settings(settings.SETTINGS_CONF)[0])
    if why := ways.refusal(tid.transport, tid.traddr):
        raise CliError(f"{why}; change that first", Exit.REFUSED)
    overview = look()
    tid = ways.identity(tid, {one.name for one in overview.controllers if one.known})
    present = _find(tid.instance, overview)
    if present is not None and present.known:
        # Its unit stands for it, so it is asked for as that is: two units would take the controller from each other.
        exact = replace(request, host_iface=present.host_iface, host_traddr=present.host_traddr)
        if _identity(exact).instance == present.name:
            request, tid = exact, _identity(exact)
    name = tid.instance
    if present is not None and present.device and present.device.foreign:
        what = f"{present.device.name} belongs to {present.device.owner}, which has it connected already"
        raise CliError(f"{what}; disconnect it with that tool first", Exit.REFUSED)
    if where := present.excluded if present is not None and present.excluded else _exclusion(tid):
        remedy = f"discoverctl unexclude {text.quoted(name)}"
        raise CliError(f"{name} is excluded by {where}; to have it connected: {remedy}", Exit.REFUSED)
    path = runtime_drop_in.path(name)
    if present is None or not _is_configured(present, path):
        _ask(request, path, systemd)
    if present is not None and present.known:
        (now,) = overviews.refreshed([present], systemd)
        if now.unit is not None and not now.unit.running:
            return jobs.start([now], systemd)
    return _settled(name, systemd, look)


def _is_configured(present: Controller, path: Path) -> bool:
    """Tell whether the configuration asks for it, and will do so at the next reload."""
    sources = present.planned.sources if present.planned else ""
    return sources.startswith(_CONFIGURED) and (path.exists() or str(path) not in sources)


def _ask(request: Request, path: Path, systemd: Systemd) -> None:
    """Have discoverd ask for it. Raises CliError, and then nothing is left of what it has not taken up."""
    asked = reload.now()
    try:
        _write(request, path)
        _reload(systemd, asked)
    except BaseException:
        # Nothing must come of it later that was not wanted any more; it may have been interrupted too late for that.
        answer = reload.answered(asked)
        if answer is None or answer:
            path.unlink(missing_ok=True)
        if answer is None:
            # It may have read it already, and not said so yet.
            with contextlib.suppress(CliError):
                _queue_reload(systemd)
        raise


def _identity(request: Request) -> TransportId:
    """Return which controller is meant. Raises CliError for what cannot be connected."""
    traddr, service = request.target()
    try:
        nqn = check_nqn(request.nqn) if request.nqn else DISCOVERY_NQN
        return TransportId.make(
            request.role,
            request.transport,
            traddr,
            service,
            canonical_nqn(nqn),
            host_traddr=request.host_traddr,
            host_iface=request.host_iface,
        )
    except TidError as error:
        raise CliError(str(error), Exit.USAGE) from None


def _exclusion(tid: TransportId) -> str:
    """Return where the exclusion stands that would keep it away (``file:line``), '' for none."""
    host = load_host_identity()
    options = {
        "transport": tid.transport,
        "traddr": tid.traddr,
        "trsvcid": tid.trsvcid,
        "nqn": tid.subsysnqn,
        "host_traddr": tid.host_traddr,
        "host_iface": tid.host_iface,
        "hostnqn": host.hostnqn,
        "hostid": host.hostid,
    }
    return exclusions.load(exclusions.ROOT).match(options)


def _find(name: str, overview: Overview) -> Controller | None:
    """Return the controller of this instance, or the one whose unit stands for it, as its path is said more exactly."""
    alike = [one for one in overview.controllers if one.name == name or one.name.startswith(f"{name}::")]
    return min(alike, key=lambda one: (not one.known, len(one.name)), default=None)


def content(request: Request) -> str:
    """Return the drop-in that asks for a controller. Raises CliError."""
    traddr, service = request.target()
    given = {
        "transport": request.transport,
        "traddr": traddr,
        "trsvcid": service,
        "host-traddr": request.host_traddr,
        "host-iface": request.host_iface,
    }
    line = ";".join(f"{key}={value}" for key, value in given.items() if value)
    section = "Discovery Controller" if request.role == DISCOVERY else "Subsystem"
    nqn = f"nqn = {request.nqn}\n" if request.nqn else ""
    return f"{_HEAD}\n[{section}]\n{nqn}controller = {line}\n"


def _write(request: Request, path: Path) -> None:
    data = content(request).encode()
    # The addresses have passed the grammar of their own; this holds all the rest to that of the file.
    found = fabrics.parse_fabrics([SourceFile(str(path), data, drop_in=True)])
    faults = [str(one) for one in found.diagnostics] + [one.problem for one in found.connections if one.problem]
    if faults or [_asked(one) for one in found.connections] != [(*request.target(), request.host_iface)]:
        raise CliError(f"this cannot be connected: {'; '.join(faults) or 'a part of it is no address'}", Exit.USAGE)
    if not os.path.isdir(state.ROOT):
        raise CliError(f"discoverd does not run; start it: systemctl start {DAEMON}")
    # Everybody may read it: there is no option with a secret among what it can say, and the plan shows the rest.
    path.parent.mkdir(exist_ok=True)
    path.parent.chmod(state.PUBLIC_DIRECTORY)
    files.replace(path, data, state.PUBLIC, _TEMPORARY)


def _asked(connection: Connection) -> tuple[str, str, str]:
    return connection.traddr, connection.trsvcid, connection.host_iface


def _reload(systemd: Systemd, asked: int) -> None:
    """Have discoverd read it. Raises CliError, also where it has not taken it."""
    # The controller only stands for the daemon, where jobs are waited for.
    jobs.wait_for_jobs({_queue_reload(systemd): Controller(DAEMON)}, systemd, RELOAD_TIMEOUT_SECONDS)
    mistakes = reload.answered(asked)
    if mistakes is None:
        raise CliError(f"discoverd has not taken it up; see: systemctl status {DAEMON}")
    if mistakes:
        raise CliError(f"discoverd takes up nothing new while there is a mistake; mend it: {reload.first(mistakes)}")


def _queue_reload(systemd: Systemd) -> int:
    with contextlib.suppress(UnitNotLoaded):
        if systemd.units([DAEMON])[DAEMON].up:
            return systemd.reload(DAEMON)
    raise CliError(f"discoverd does not run; start it: systemctl start {DAEMON}")


def _settled(name: str, systemd: Systemd, look: Callable[[], Overview]) -> Exit:
    """Wait until an attempt has ended, and say how. Only then is systemd asked, which a host may have much to ask."""
    deadline = time.monotonic() + FIRST_ATTEMPT_TIMEOUT_SECONDS
    pause = _POLL_FIRST
    while True:
        instance, excluded = _unit_for(name)
        report = store.read_report(instance) if instance else None
        if excluded:
            raise CliError(f"{name} is excluded by {excluded}; it is not connected", Exit.REFUSED)
        if report and report.state != state.CONNECTING and (found := _find(name, look())):
            (one,) = overviews.refreshed([found], systemd)
            text.line(f"{one.name}: {one.status}")
            return Exit.OK if one.in_order else Exit.NOT_LIVE
        if time.monotonic() > deadline:
            why = f"see: discoverctl why {text.quoted(name)}" if instance else f"see: journalctl -u {DAEMON}"
            raise CliError(f"{name}: no attempt to connect has ended yet; {why}", Exit.TIMED_OUT)
        time.sleep(pause)
        pause = min(_POLL_MOST, pause * 1.5)


def _unit_for(name: str) -> tuple[str, str]:
    """Return the instance that is this one or stands for it, '' for none yet, and where it is excluded."""
    planned = plan_file.read().controllers
    alike = [one for one in planned if one == name or one.startswith(f"{name}::")]
    instance = min(alike, key=len, default="")
    if instance:
        return instance, planned[instance].excluded_by
    return (name if os.path.isdir(state.directory(name)) else ""), ""
