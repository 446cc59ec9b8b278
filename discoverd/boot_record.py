# SPDX-License-Identifier: Apache-2.0
"""Which fabrics controllers the kernel had before anything of the booted system could connect one.

Those were connected by the initial RAM disk or by firmware, and discoverd takes care of them. One that an administrator
connects by hand later looks the same in sysfs, and is nobody's. So the list is made once, early in the boot, by
discoverd-boot.service, and is there until the next one. Imports only what a worker may, to be done quickly.
"""

import posix
import sys

from discoverd import notify, state
from discoverd.kernel import controllers, spawn

PATH = state.ROOT + "/boot-controllers"
KIND = "discoverd-boot-controllers 1"
_TRANSPORTS = ("tcp", "rdma", "fc")


def record() -> None:
    """Write down which fabrics controllers there are, with what tells each from a later one of the same name.

    Does nothing where there is a record, or where it is not certain that the boot has only begun: a list made later
    would have controllers in it that somebody connected by hand. Raises state.StateError.
    """
    if state.exists(PATH) or not _boot_has_just_begun():
        return
    found = []
    for device in sorted(controllers.names()):
        inode = controllers.sysfs_inode(device)
        if inode and controllers.attribute(device, "transport") in _TRANSPORTS:
            found.append((device, str(inode)))
    _make_directory()
    state.write(PATH, state.encode(KIND, found))
    if found:
        names = ", ".join(device for device, _ in found)
        notify.log(notify.INFO, f"connected before the system was booted: {names}")


def recorded() -> dict[str, int]:
    """Return the controllers of the record that are still there: names and sysfs_inode().

    Empty where there is no record, or one that is truncated, damaged or of another version.
    """
    try:
        fields = state.decode(KIND, state.read(PATH))
        listed = {device: state.number(inode) for device, inode in fields}
    except state.StateError:
        return {}
    there = set(controllers.names())
    return {
        name: number for name, number in listed.items() if name in there and controllers.sysfs_inode(name) == number
    }


def _make_directory() -> None:
    try:
        try:
            posix.mkdir(state.ROOT)
        except FileExistsError:
            pass
        posix.chmod(state.ROOT, state.PUBLIC_DIRECTORY)
    except OSError as error:
        raise state.StateError(f"{state.ROOT}: {error.strerror}") from None


def _boot_has_just_begun() -> bool:
    """Tell whether systemd has not reached basic.target yet, and the kernel is not that of an earlier user space."""
    try:
        status, output = spawn.run("systemctl", "show", "--property=SystemState,SoftRebootsCount")
    except OSError:
        return False
    shown = dict(line.partition("=")[::2] for line in output.split("\n"))
    # Before systemd 256 nobody counts.
    return status == 0 and shown.get("SystemState") == "initializing" and shown.get("SoftRebootsCount", "0") == "0"


def main() -> int:
    """Make the record; without one nothing is claimed, and everything else works."""
    notify.subject = "boot"
    try:
        record()
    except state.StateError as error:
        notify.log(
            notify.ERROR,
            f"{error}; discoverd leaves alone what the initial RAM disk connected, unless it is configured",
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
