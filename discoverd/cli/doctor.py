# SPDX-License-Identifier: Apache-2.0
"""``discoverctl doctor``: looks for what administrators get wrong, and says what to do."""

import os
from collections.abc import Callable

from discoverd.cli import text
from discoverd.cli.checks import (
    abilities,
    code,
    configuration,
    connections,
    decisions,
    exclusion_lists,
    identity,
    in_use,
    nvme_cli_files,
    owners,
    peers,
    refusals,
    tables,
    units,
    wake_socket,
)
from discoverd.cli.checks.finding import Finding, hint, problem
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Overview
from discoverd.cli.systemd import Systemd
from discoverd.cli.unit import DAEMON
from discoverd.config.files import read_files


def examine(overview: Overview, systemd: Systemd, json: bool) -> Exit:
    """Make all checks and print what they find. Returns FAILED if there is a problem; hints do not count."""
    results = [(title, _run(title, check)) for title, check in _checks(overview, systemd)]
    if json:
        text.document({"version": 1, "checks": [_document(*result) for result in results]})
    else:
        for title, found in results:
            _print(title, found)
    problems = sum(one.severity == "problem" for _, found in results for one in found)
    return Exit.FAILED if problems else Exit.OK


def _checks(overview: Overview, systemd: Systemd) -> list[tuple[str, Callable[[], list[Finding]]]]:
    runs = systemd.units([DAEMON])[DAEMON].up
    # Without a plan nothing speaks against these, which proves nothing.
    by_the_plan: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("nothing that is asked for is refused", lambda: refusals.check(overview.plan.refusals)),
        ("what is wanted is connected", lambda: connections.unconnected(overview.controllers)),
        ("no subsystem is on its last path", lambda: connections.last_paths(overview.controllers)),
    ]
    return [
        ("discoverd's services run", lambda: units.services(systemd)),
        ("discoverd's decisions can be read", lambda: decisions.check(overview.plan)),
        ("the controllers' units can be made", lambda: units.template(systemd)),
        ("no controller's unit has failed", lambda: units.failed(overview.controllers)),
        ("workers reach discoverd", lambda: wake_socket.check(runs)),
        ("what runs is what is installed", lambda: code.check(overview.controllers, systemd)),
        ("the configuration is sound", lambda: _with_files(lambda: configuration.check(overview.plan))),
        ("the kernel knows all options that are asked for", lambda: abilities.check(overview.controllers)),
        *([] if overview.plan.fault else by_the_plan),
        ("the exclusion lists are sound", exclusion_lists.check),
        ("the host's identity is its own", lambda: _with_files(lambda: identity.check(overview.controllers))),
        ("nvme-cli's files ask for nothing more", lambda: _with_files(nvme_cli_files.check)),
        ("no other daemon owns controllers", lambda: peers.daemons(systemd)),
        ("who owns controllers looks after them", lambda: owners.check(overview.controllers, systemd, runs)),
        ("nvme-cli does not connect on its own", lambda: peers.autoconnect(systemd, runs)),
        ("fstab and crypttab have the options that they need", tables.check),
        ("mounts end before their network", lambda: in_use.mount_order(systemd)),
        ("no swap over a network", in_use.swap),
    ]


def _with_files(check: Callable[[], list[Finding]]) -> list[Finding]:
    """Make a check that needs the whole configuration. Raises PermissionError where this user may not read it."""
    for source in read_files().all:
        if source.denied:
            raise PermissionError(f"{source.path} {source.fault}")
    return check()


def _run(title: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that cannot be made says so, and leaves the others their turn."""
    try:
        return check()
    except PermissionError as error:
        if not os.geteuid():
            return [problem(f"this cannot be checked: {error}", "mend that, and run the doctor again")]
        what = f"only root can tell whether {title}"
        return [hint(what, "run it as root: discoverctl doctor")]
    except (CliError, OSError) as error:
        return [problem(f"this cannot be checked: {error}", "mend that, and run the doctor again")]


def _document(title: str, found: list[Finding]) -> dict[str, object]:
    findings = [{"severity": one.severity, "text": one.text, "remedy": one.remedy} for one in found]
    return {"check": title, "ok": not found, "findings": findings}


def _print(title: str, found: list[Finding]) -> None:
    if not found:
        text.line(f"ok       {title}")
    for one in found:
        text.line(f"{one.severity:<7}  {one.text}")
        text.line(f"         to do: {one.remedy}")
