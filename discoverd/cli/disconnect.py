# SPDX-License-Identifier: Apache-2.0
"""``discoverctl disconnect``: the end of a controller, and with ``--force`` also of one that a worker would not let go.

What carries the root file system or /usr is never disconnected.
"""

from discoverd import registry
from discoverd.cli import holdings, jobs, runtime_drop_in, text
from discoverd.cli import overview as overviews
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Device
from discoverd.cli.systemd import Systemd
from discoverd.kernel import block, controllers, paths, usage
from discoverd.kernel import disconnect as disconnecting


def disconnect(chosen: list[Controller], systemd: Systemd, force: bool) -> Exit:
    """Stop the units, then see to it that the controllers are gone, as far as is allowed.

    Of one that is gone, what ``discoverctl connect`` has written goes as well. Returns REFUSED if one is still there.
    """
    # Before anything is changed: a worker that has ended looks after nothing any more.
    for one in chosen:
        if one.device:
            _refuse_system(one.device, force)
            if one.device.foreign and not force:
                raise CliError(_foreign(one.device), Exit.REFUSED)
    jobs.queue_stop(chosen, systemd)
    worst = Exit.OK
    for one, now in zip(chosen, overviews.refreshed(chosen, systemd), strict=True):
        try:
            ended = _finish(one, now, systemd, force)
            if ended is Exit.OK:
                runtime_drop_in.remove(one.name)
            worst = max(worst, ended)
        except CliError as error:
            # The workers of the others have ended too, so that those cannot be left half done.
            text.remark(f"{one.name}: {error}")
            worst = max(worst, error.exit_status)
    return worst


def _finish(before: Controller, now: Controller, systemd: Systemd, force: bool) -> Exit:
    """See to it that a controller whose unit was stopped is gone, and say what became of it. Raises CliError."""
    device = before.device or now.device
    if device is None or controllers.sysfs_inode(device.name) != device.sysfs_inode:
        text.line(f"{now.name}: disconnected" if device else f"{now.name}: was not connected")
        return _settle(now, systemd)
    if now.unit and now.unit.running:
        text.remark(f"{now.name}: its unit was started again meanwhile; try again")
        return Exit.FAILED
    if not force and device.owner == registry.FIRMWARE_OWNER:
        return _refuse(now, device, "was asked for by the firmware")
    answer = _disconnect(device, force)
    if answer.verdict == disconnecting.REFUSE:
        return _refuse(now, device, f"is in use by {answer.text}")
    # The clean-up rule does it too, a little later. An entry with another stamp is of a later controller of this name.
    if not controllers.sysfs_inode(device.name) and registry.retrieve(device.name, "seqnum") == device.stamp:
        registry.delete(device.name)
    text.line(f"{now.name}: disconnected {device.name}{answer.text}")
    return _settle(now, systemd)


def _refuse(controller: Controller, device: Device, why: str) -> Exit:
    text.remark(
        f"{controller.name}: {device.name} {why}, and stays connected; to disconnect it all the same, though data may "
        f"be lost: discoverctl disconnect --force {device.name}"
    )
    return Exit.REFUSED


def _refuse_system(device: Device, force: bool) -> None:
    """Raise CliError for what carries the system itself, and, without ``force``, where it cannot be told."""
    try:
        used = holdings.claimed(block.namespaces(device.name))
    except OSError as error:
        if not force:
            raise _unknown(device, error) from None
        # It is said later, when it is tried again.
        _refuse_subsystem_of_system(device)
        return
    if any(usage.carries_system(users) for users in used.values()):
        raise _carries_system(device)


def _refuse_subsystem_of_system(device: Device) -> None:
    """Raise CliError for a path to a subsystem that the system is mounted from: it can be told of that at least."""
    if controllers.attribute(device.name, "subsysnqn") in usage.system_subsystems():
        raise _carries_system(device)


def _disconnect(device: Device, force: bool) -> disconnecting.Answer:
    """Disconnect it unless it is in use, or carries the system. Raises CliError."""

    def judge(used: dict[str, list[usage.User]]) -> disconnecting.Answer | None:
        users = usage.everybody(used)
        if usage.carries_system(users):
            raise _carries_system(device)
        if force:
            return None
        fault = paths.fault(paths.others(device.name, used))
        if fault is None:
            return None
        return disconnecting.Answer(disconnecting.REFUSE, disconnecting.phrase(users) + fault)

    def on_error(error: OSError) -> None:
        if not force:
            raise _unknown(device, error)
        _refuse_subsystem_of_system(device)
        text.remark(f"{device.name}: cannot tell who uses it ({error.strerror or error}); disconnected all the same")

    try:
        return disconnecting.disconnect(
            device.name, device.sysfs_inode, disconnecting.TURN_TIMEOUT_SECONDS, judge, lambda: None, on_error
        )
    except FileNotFoundError:
        return disconnecting.Answer(disconnecting.DISCONNECTED)  # It went by itself.
    except OSError as error:
        raise CliError(f"cannot disconnect {device.name}: {error.strerror or error}; see: journalctl -k") from None


def _unknown(device: Device, error: OSError) -> CliError:
    return CliError(
        f"cannot tell who uses {device.name} ({error.strerror or error}), so it stays connected; mend that first, or "
        f"insist, though data may be lost: discoverctl disconnect --force {device.name}",
        Exit.REFUSED,
    )


def _carries_system(device: Device) -> CliError:
    return CliError(
        f"{device.name} carries the system itself (/ or /usr) and is never disconnected; to be rid of it, move the "
        "file system to another disk",
        Exit.REFUSED,
    )


def _foreign(device: Device) -> str:
    return (
        f"{device.name} belongs to {device.owner}; disconnect it with that tool, or insist: "
        f"discoverctl disconnect --force {device.name}"
    )


def _settle(controller: Controller, systemd: Systemd) -> Exit:
    """Have a unit that failed because its worker refused not be shown as failed any more, and return OK."""
    if controller.unit and controller.unit.active == "failed":
        systemd.reset_failed(controller.unit_name)
    return Exit.OK
