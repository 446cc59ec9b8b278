# SPDX-License-Identifier: Apache-2.0
"""``discoverctl start``, ``stop`` and ``restart``: jobs of systemd, and what the controllers are after them."""

import time
from collections.abc import Callable, Mapping

from discoverd import state
from discoverd.cli import overview as overviews
from discoverd.cli import text
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller
from discoverd.cli.systemd import Systemd, UnitMasked, UnitNotLoaded
from discoverd.systemd.unit_properties import STOP_TIMEOUT_SECONDS

# Seconds. A unit has started after 30 at the latest, when nothing it waits for holds it up.
START_JOB_TIMEOUT_SECONDS = 120
STOP_JOB_TIMEOUT_SECONDS = STOP_TIMEOUT_SECONDS + 30
# Between two looks at the jobs.
_POLL_FIRST, _POLL_MOST = 0.02, 0.25


def start(chosen: list[Controller], systemd: Systemd) -> Exit:
    """Start the units, and wait until their first attempts have ended.

    Returns NOT_LIVE if one is neither live nor parked then.
    """
    return _run(chosen, systemd, systemd.start, START_JOB_TIMEOUT_SECONDS)


def restart(chosen: list[Controller], systemd: Systemd) -> Exit:
    """Restart the units, those that are stopped too, and wait until their first attempts have ended.

    A worker that does not disconnect what is in use makes room for one that takes the connection over. Returns as
    :func:`start`.
    """
    return _run(chosen, systemd, systemd.restart, STOP_JOB_TIMEOUT_SECONDS + START_JOB_TIMEOUT_SECONDS)


def _run(chosen: list[Controller], systemd: Systemd, queue: Callable[[str], int], limit: float) -> Exit:
    """Queue a job for each unit, wait for all, ``limit`` seconds at most, and say what became of each.

    Returns the worst of it.
    """
    queued = {}
    worst = Exit.OK
    for one in chosen:
        try:
            queued[_queue(one, queue)] = one
        except CliError as error:
            # The other paths of a subsystem are wanted all the same.
            text.remark(str(error))
            worst = max(worst, error.exit_status)
    wait_for_jobs(queued, systemd, limit)
    return max([worst, *map(_started, overviews.refreshed(list(queued.values()), systemd))])


def _queue(controller: Controller, queue: Callable[[str], int]) -> int:
    """Return the number of the job. Raises CliError where there can be none."""
    unit = controller.unit_name
    if controller.blocked and controller.fragment:
        raise CliError(f"{controller.name}: {controller.fragment.problem}")
    try:
        return queue(unit)
    except UnitMasked:
        raise CliError(f"{unit} is masked; to allow it: systemctl unmask {text.quoted(unit)}") from None
    except UnitNotLoaded:
        raise CliError(_no_unit(controller), Exit.REFUSED if _foreign(controller) else Exit.FAILED) from None


def _no_unit(controller: Controller) -> str:
    if not controller.known and controller.device:
        owner = controller.device.owner
        whose = f"belongs to {owner}" if owner else "is nobody's"
        return (
            f"{controller.device.name} {whose} and has no unit; to have one, configure it in "
            "/etc/nvme/nvme-fabrics.conf, then: systemctl reload discoverd"
        )
    return f"{controller.name} has no unit at the moment, because discoverd makes it; see: systemctl status discoverd"


def _foreign(controller: Controller) -> bool:
    return controller.device is not None and controller.device.foreign


def _started(controller: Controller) -> Exit:
    """Say what became of a start: NOT_LIVE where the attempt has ended without a connection."""
    unit = controller.unit
    if unit is None or unit.active == "failed":
        text.remark(
            f"{controller.name}: failed: {controller.status}; see: journalctl -u {text.quoted(controller.unit_name)}"
        )
        return Exit.FAILED
    text.line(f"{controller.name}: {controller.status}")
    return Exit.OK if controller.in_order else Exit.NOT_LIVE


def stop(chosen: list[Controller], systemd: Systemd) -> Exit:
    """Stop the units and wait for it.

    Returns REFUSED if one stays connected: a worker did not want to disconnect what is in use, or somebody else has it.
    """
    for one in chosen:
        if one.unit is None and one.device:
            raise CliError(
                f"{one.device.name} has no unit that could be stopped; to disconnect it: "
                f"discoverctl disconnect {one.device.name}",
                Exit.REFUSED,
            )
    queue_stop(chosen, systemd)
    return max(map(_stopped, overviews.refreshed(chosen, systemd)))


def queue_stop(chosen: list[Controller], systemd: Systemd) -> None:
    """Stop those of the units that run, and wait until they have ended, whatever came of it."""
    queued = {}
    for one in chosen:
        if one.unit and one.unit.running:
            try:
                queued[systemd.stop(one.unit_name)] = one
            except UnitNotLoaded:
                pass  # It has just ended by itself.
    wait_for_jobs(queued, systemd, STOP_JOB_TIMEOUT_SECONDS)


def _stopped(controller: Controller) -> Exit:
    """Say what became of a stop: REFUSED where it is still connected."""
    unit = controller.unit
    if unit is None or unit.active == "inactive":
        device = controller.device
        if device and not device.kernel.state.startswith("deleting"):
            whose = f", and belongs to {device.owner}" if device.foreign else ""
            text.remark(
                f"{controller.name}: stopped, but {device.name} is still connected{whose}; to disconnect it: "
                f"discoverctl disconnect {device.name}"
            )
            return Exit.REFUSED
        text.line(f"{controller.name}: {controller.status or 'stopped'}")
        return Exit.OK
    if controller.state == state.REFUSED:
        text.remark(f"{controller.name}: {controller.status}")
        return Exit.REFUSED
    text.remark(
        f"{controller.name}: {unit.active}: {controller.status}; see: systemctl status {text.quoted(unit.name)}"
    )
    return Exit.FAILED


def wait_for_jobs(queued: Mapping[int, Controller], systemd: Systemd, limit: float) -> None:
    """Wait until the jobs are gone. Raises CliError when the limit, in seconds, is over."""
    began = time.monotonic()
    pause = _POLL_FIRST
    with text.waiting() as show:
        while left := queued.keys() & systemd.jobs():
            first = queued[min(left)]
            if time.monotonic() - began > limit:
                raise CliError(
                    f"{text.count(len(left), 'job')} not done after {limit:.0f} s, {first.name} among them; the wait "
                    "goes on without this command; see: systemctl list-jobs",
                    Exit.TIMED_OUT,
                )
            show(f"{len(left)} of {len(queued)} not done, {first.name} among them")
            time.sleep(pause)
            pause = min(_POLL_MOST, pause * 1.5)
