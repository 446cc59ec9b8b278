# SPDX-License-Identifier: Apache-2.0
"""What each verb of ``discoverctl`` runs. A verb's modules are imported when it is chosen, and no others."""

import os
from collections.abc import Callable

from discoverd.cli.exits import CliError, Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from discoverd.cli.overview import Overview
    from discoverd.cli.systemd import Systemd


def run(asked: "Namespace") -> Exit:
    """Run the verb that was asked for. Raises CliError, and OSError for what cannot be read or written."""
    return RUN[asked.verb](asked)


def _look() -> "tuple[Overview, Systemd]":
    """Return all controllers as they are, and the connection to systemd that told of their units. Raises CliError."""
    from discoverd.cli import overview
    from discoverd.cli.systemd import Systemd

    systemd = Systemd()
    return overview.look(systemd), systemd


def _need_root(why: str) -> None:
    """Raise CliError for an ordinary user, before anything is begun."""
    if os.geteuid():
        raise CliError(f"{why}; run it as root", Exit.NOT_PERMITTED)


def _list(asked: "Namespace") -> Exit:
    from discoverd.cli import listing

    overview, _ = _look()
    return listing.run(asked, overview)


def _topology(asked: "Namespace") -> Exit:
    from discoverd.cli import topology

    return topology.show(asked.json)


def _status(asked: "Namespace") -> Exit:
    from discoverd.cli import choose, status

    overview, systemd = _look()
    if not asked.controller:
        return status.daemon(overview, systemd, asked.json)
    return status.controllers(choose.choose(asked.controller, overview), asked.json)


def _why(asked: "Namespace") -> Exit:
    from discoverd.cli import why

    overview, _ = _look()
    return why.explain(asked.controller, overview, asked.json)


def _doctor(asked: "Namespace") -> Exit:
    from discoverd.cli import doctor

    overview, systemd = _look()
    return doctor.examine(overview, systemd, asked.json)


def _log_page(asked: "Namespace") -> Exit:
    from discoverd.cli import choose, log_page

    overview, _ = _look()
    return log_page.show(choose.choose(asked.controller, overview), overview, asked.json)


def _monitor(asked: "Namespace") -> Exit:
    from discoverd.cli import monitor

    return monitor.watch(asked.json)


def _wait(asked: "Namespace") -> Exit:
    from discoverd.cli import wait

    return wait.wait(asked.controller, asked.goal, asked.timeout)


def _metrics(asked: "Namespace") -> Exit:
    from discoverd.cli import metrics

    overview, systemd = _look()
    return metrics.show(overview, systemd, asked.output)


def _plan(asked: "Namespace") -> Exit:
    _need_root("the configuration and what runs can hold secrets")
    from pathlib import Path

    from discoverd.cli import plan, plan_file
    from discoverd.cli.systemd import Systemd
    from discoverd.config.identity import DIRECTORY

    return plan.show(Path(asked.config or DIRECTORY), plan_file.read(), Systemd(), asked.json)


def _config(asked: "Namespace") -> Exit:
    from pathlib import Path

    from discoverd.cli import config_show
    from discoverd.config.identity import DIRECTORY

    return config_show.show(Path(asked.config or DIRECTORY), asked.json)


def _identity(asked: "Namespace") -> Exit:
    from discoverd.cli import identity
    from discoverd.config.identity import DIRECTORY

    if asked.part == "show":
        return identity.show(DIRECTORY, asked.json)
    if asked.part == "init":
        return identity.init(DIRECTORY)
    return identity.set_symname(DIRECTORY, asked.name)


def _log(asked: "Namespace") -> Exit:
    from discoverd.cli import log_level

    _need_root("what discoverd logs is for root to change")
    return log_level.change(asked.level)


def _connect(asked: "Namespace") -> Exit:
    from discoverd.cli import connect
    from discoverd.cli import overview as overviews
    from discoverd.cli.systemd import Systemd

    _need_root("what is connected that is not configured is for root to say")
    request = connect.Request(asked.transport, asked.address, asked.nqn, asked.host_iface, asked.host_traddr)
    systemd = Systemd()
    return connect.connect(request, systemd, lambda: overviews.look(systemd))


def _restart(asked: "Namespace") -> Exit:
    from discoverd.cli import choose, jobs

    overview, systemd = _look()
    return jobs.restart(choose.choose(asked.controller, overview), systemd)


def _start(asked: "Namespace") -> Exit:
    from discoverd.cli import choose, jobs

    overview, systemd = _look()
    return jobs.start(choose.choose(asked.controller, overview), systemd)


def _stop(asked: "Namespace") -> Exit:
    from discoverd.cli import choose, jobs

    overview, systemd = _look()
    return jobs.stop(choose.choose(asked.controller, overview), systemd)


def _disconnect(asked: "Namespace") -> Exit:
    from discoverd.cli import choose, disconnect

    _need_root("a disconnect is for root, unless it is the stop of a unit: discoverctl stop")
    overview, systemd = _look()
    return disconnect.disconnect(choose.choose(asked.controller, overview), systemd, asked.force)


def _confirm(asked: "Namespace") -> Exit:
    from discoverd.cli import choose, confirm

    if not asked.dry_run:
        _need_root("what disconnects is for root to confirm")
    overview, _ = _look()
    return confirm.confirm(choose.choose(asked.controller, overview), overview.plan, asked.dry_run)


def _exclude(asked: "Namespace") -> Exit:
    from discoverd.cli import exclude

    if not asked.dry_run:
        _need_root("the exclusion lists are root's")
    overview, _ = _look()
    return exclude.exclude(asked.what, overview, asked.list, asked.dry_run, asked.json)


def _unexclude(asked: "Namespace") -> Exit:
    from discoverd.cli import exclude

    _need_root("the exclusion lists are root's")
    overview, _ = _look()
    return exclude.unexclude(asked.what, overview)


def _import_stas(asked: "Namespace") -> Exit:
    from pathlib import Path

    from discoverd.cli import import_stas

    source, target = Path(asked.source or import_stas.SOURCE), Path(asked.target or import_stas.TARGET)
    return import_stas.run(source, target, asked.dry_run, asked.force)


def _import_nvme_cli(asked: "Namespace") -> Exit:
    from pathlib import Path

    from discoverd.cli import import_nvme_cli

    source, target = Path(asked.source or import_nvme_cli.SOURCE), Path(asked.target or import_nvme_cli.TARGET)
    return import_nvme_cli.run(source, target, asked.dry_run, asked.force)


RUN: "dict[str, Callable[[Namespace], Exit]]" = {
    "list": _list,
    "topology": _topology,
    "status": _status,
    "why": _why,
    "doctor": _doctor,
    "log-page": _log_page,
    "monitor": _monitor,
    "wait": _wait,
    "metrics": _metrics,
    "plan": _plan,
    "config": _config,
    "identity": _identity,
    "log": _log,
    "connect": _connect,
    "restart": _restart,
    "start": _start,
    "stop": _stop,
    "disconnect": _disconnect,
    "confirm": _confirm,
    "exclude": _exclude,
    "unexclude": _unexclude,
    "import-stas": _import_stas,
    "import-nvme-cli": _import_nvme_cli,
}
