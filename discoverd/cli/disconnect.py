# SPDX-License-Identifier: Apache-2.0
"""``discoverctl disconnect``: the end of a controller, and with ``--force`` also of one that a worker would not let go.

What carries the root file system or /usr is never disconnected.
"""

from discoverd import registry
from discoverd.cli import holdings, jobs, text
from discoverd.cli import overview as overviews
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Device
from discoverd.cli.systemd import Systemd
from discoverd.kernel import controllers, fabrics


def disconnect(chosen: list[Controller], systemd: Systemd, force: bool) -> Exit:
    """Stop the units, then see to it that the controllers are gone, as far as is allowed.

    Returns REFUSED if one is still there.
    """
    # Before anything is changed: a worker that has ended looks after nothing any more.
    for one in chosen:
        if one.device:
            _must_not_carry_system(one.device)
            if one.device.foreign and not force:
                raise CliError(_foreign(one.device), Exit.REFUSED)
    jobs.queue_stop(chosen, systemd)
    worst = Exit.OK
    for one in chosen:
        try:
            worst = max(worst, _finish(one, overviews.refreshed(one, systemd), systemd, force))
        except CliError as error:
            # The workers of the others have ended too, so that those cannot be left half done.
            text.remark(f"{one.name}: {error}")
            worst = max(worst, error.exit_status)
    return worst


def _finish(before: Controller, now: Controller, systemd: Systemd, force: bool) -> Exit:
    device = before.device or now.device
    if device is None or controllers.kernel_instance(device.name) != device.instance:
        text.line(f"{now.name}: disconnected" if device else f"{now.name}: was not connected")
        return _settle(now, systemd)
    if now.unit and now.unit.running:
        text.remark(f"{now.name}: its unit was started again meanwhile; try again")
        return Exit.FAILED
    found = _must_not_carry_system(device)
    users = holdings.in_use(found)
    if not force and (users or device.owner == registry.FIRMWARE_OWNER):
        why = f"is in use by {users}" if users else "was asked for by the firmware"
        text.remark(
            f"{now.name}: {device.name} {why}, and stays connected; to disconnect it all the same, though data may be "
            f"lost: discoverctl disconnect --force {device.name}"
        )
        return Exit.REFUSED
    _delete(device)
    text.line(f"{now.name}: disconnected {device.name}" + (f", though in use by {users}" if users else ""))
    return _settle(now, systemd)


def _must_not_carry_system(device: Device) -> list[holdings.Namespace]:
    try:
        found = holdings.namespaces(device.name)
    except OSError as error:
        raise CliError(
            f"cannot tell who uses {device.name} ({error.strerror or error}), so it stays connected; mend that first",
            Exit.REFUSED,
        ) from None
    if holdings.carries_system(found):
        raise CliError(
            f"{device.name} carries the system itself (/ or /usr) and is never disconnected; to be rid of it, move the "
            "file system to another disk",
            Exit.REFUSED,
        )
    return found


def _foreign(device: Device) -> str:
    return (
        f"{device.name} belongs to {device.owner}; disconnect it with that tool, or insist: "
        f"discoverctl disconnect --force {device.name}"
    )


def _delete(device: Device) -> None:
    try:
        fabrics.delete(device.name, device.instance)
    except FileNotFoundError:
        pass  # It went by itself.
    except OSError as error:
        raise CliError(f"cannot disconnect {device.name}: {error.strerror or error}; see: journalctl -k") from None
    # The clean-up rule does it too, a little later. An entry with another stamp is of a later controller of this name.
    if not controllers.kernel_instance(device.name) and registry.retrieve(device.name, "seqnum") == device.stamp:
        registry.delete(device.name)


def _settle(controller: Controller, systemd: Systemd) -> Exit:
    """A unit that failed because its worker refused has no reason to be shown as failed any more."""
    if controller.unit and controller.unit.active == "failed":
        systemd.reset_failed(controller.unit_name)
    return Exit.OK
