# SPDX-License-Identifier: Apache-2.0
"""discoverd's own services, and the controllers' units."""

from collections.abc import Iterable

from discoverd import state
from discoverd.cli import text
from discoverd.cli.checks.finding import Finding, hint, problem
from discoverd.cli.overview import Controller
from discoverd.cli.systemd import Systemd
from discoverd.cli.unit import DAEMON

_MOUNTS = "discoverd-mounts.service"
_TEMPLATE = "nvme-ctrl@.service"


def services(systemd: Systemd) -> list[Finding]:
    """Return the services of discoverd that do not run."""
    units = systemd.units([DAEMON, _MOUNTS])
    found = []
    if not units[DAEMON].up:
        what = f"{DAEMON} does not run: nothing new is connected, and stopped units cannot be started"
        found.append(problem(what, f"systemctl enable --now {DAEMON}"))
    if not units[_MOUNTS].up:
        what = f"{_MOUNTS} does not run, so a mount without _netdev is not ended before its network"
        found.append(problem(what, f"systemctl start {_MOUNTS}"))
    return found


def template(systemd: Systemd) -> list[Finding]:
    """Return a finding if there is a file where none may be."""
    file_state = systemd.file_state(_TEMPLATE)
    if not file_state:
        return []
    if file_state.startswith("masked"):
        return [hint(f"{_TEMPLATE} is masked, so no controller gets a unit", f"systemctl unmask {_TEMPLATE}")]
    what = f"a unit file {_TEMPLATE} is installed, and systemd refuses to make transient units beside it"
    remedy = f"put what it says into {_TEMPLATE}.d/, and remove it; to see where it is: systemctl cat {_TEMPLATE}"
    return [problem(what, remedy)]


def failed(controllers: Iterable[Controller]) -> list[Finding]:
    """Return the controllers' units that have failed."""
    found = []
    for one in controllers:
        if not one.unit or one.unit.active != "failed":
            continue
        name = text.quoted(one.name)
        if one.state == state.REFUSED:
            what = f"{one.name} was stopped while in use: it is still connected, and nobody looks after it"
            found.append(
                problem(what, f"discoverctl start {name}; or end its use, then: discoverctl disconnect {name}")
            )
        else:
            what = f"the unit of {one.name} failed" + (f": {one.status}" if one.status else "")
            found.append(problem(what, f"see why: discoverctl why {name}; and then: discoverctl start {name}"))
    return found
