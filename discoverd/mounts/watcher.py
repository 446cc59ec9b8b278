# SPDX-License-Identifier: Apache-2.0
"""The process that has systemd order each mount on an NVMe/TCP or RDMA namespace as a remote file system.

systemd takes a mount of a block device for a local one, and unmounts it after it has stopped the network, unless its
options in /run/mount/utab have ``_netdev``. ``mount --fake -o remount,_netdev`` enters just that: the mount itself is
not touched, and systemd, which watches the file, orders the mount anew at once (mount_setup_existing_unit in
src/core/mount.c). It must happen in the host's mount namespace; the supervisor has its own, so it does not do it.

It looks at the kernel's table of mounts when that has changed, and at each line once.
"""

import posix
import select
import sys
import time

from discoverd import notify
from discoverd.kernel import block, files, mounts, processes, spawn
from discoverd.mounts.units import MountUnits

UTAB = "/run/mount/utab"
# Mounts come in bursts, at boot and when a host starts containers; the table is read once for a burst. The kernel
# writes all of it out each time, so a long one is read less often: at most a twentieth of a processor goes into it.
DEBOUNCE_SECONDS = 0.05
DEBOUNCE_FACTOR = 20
DEBOUNCE_MAX_SECONDS = 1
_REMOTE = ("tcp", "rdma")


class Table:
    """The mounts that systemd sees, and what has been done about them. :meth:`look` raises OSError for no mount."""

    def __init__(self) -> None:
        # Each line of mountinfo that has been dealt with: whether the mount is on a remote namespace.
        self._lines: dict[bytes, bool] = {}
        self._failed: set[bytes] = set()
        self._units = MountUnits()
        # How many seconds the last reading of the kernel's table took.
        self.took = 0.0
        # The root file system stays until the end, and so does what the initial RAM disk has mounted for it.
        self._system = mounts.system_numbers()

    @property
    def count(self) -> int:
        """Return how many mounts are on remote namespaces."""
        return sum(self._lines.values())

    def look(self) -> None:
        """Bring the table up to date, and enter what is new and needs it."""
        before = self._lines
        began = time.monotonic()
        lines = mounts.table().split(b"\n")
        self._lines = {line: before[line] for line in lines if line in before}
        self.took = time.monotonic() - began
        self._failed.intersection_update(lines)
        news = [line for line in lines if line and line not in before]
        if news:
            entered: set[tuple[str, str]] | None = None
            for line in news:
                mount = mounts.Mount(line.decode("utf-8", "surrogateescape"))
                remote = self._system.isdisjoint(mount.numbers()) and is_remote(mount)
                if remote and _is_covered(line, lines):
                    continue  # It is looked at again when the table changes the next time.
                self._lines[line] = remote
                if remote:
                    if entered is None:
                        entered = _entered()
                    if (mount.target, mount.source) not in entered:
                        self._enter(line, mount)
        self._units.forget_all_but(lines)
        self._units.reload()

    def _enter(self, line: bytes, mount: mounts.Mount) -> None:
        status, output = spawn.run(
            "mount",
            *("--fake", "--internal-only", "--no-canonicalize"),
            # What the table of mounts has about it is kept, and fstab's wishes stay out of it.
            *("--options-source", "mtab", "--options-mode", "append"),
            *("-o", "remount,_netdev", "--", mount.target),
        )
        target = "".join(one if one.isprintable() else "?" for one in mount.target)
        if status == 0:
            notify.log(
                notify.NOTICE,
                f"{target} is on NVMe over a network: entered _netdev, so that it is unmounted before the network goes",
            )
            self._units.correct(mount.target)
            return
        # It is tried again when the table changes the next time.
        del self._lines[line]
        if line not in self._failed:
            self._failed.add(line)
            why = output or f"mount ended with status {status}"
            notify.log(
                notify.ERROR,
                f"cannot enter _netdev for {target}: {why}; "
                "mount it with -o _netdev, or unmount it before you shut down",
            )


def is_remote(mount: mounts.Mount) -> bool:
    """Tell whether a mount's block device lies on a namespace that is reached through TCP or RDMA."""
    return any(
        not block.transports(namespace).isdisjoint(_REMOTE)
        for number in mount.numbers()
        for namespace in block.below(number)
    )


def _is_covered(line: bytes, lines: list[bytes]) -> bool:
    """Tell whether something is mounted over a mount: mount(8) would take that for it."""
    target = line.split(b" ", 5)[4]
    return any(later.split(b" ", 5)[4] == target for later in lines[lines.index(line) + 1 :] if later)


def _entered() -> set[tuple[str, str]]:
    """Return targets and sources that have _netdev in utab, of fstab's or of anybody else's doing."""
    found = set()
    for line in files.whole(UTAB).decode("utf-8", "surrogateescape").split("\n"):
        fields = dict(field.partition("=")[::2] for field in line.split(" "))
        if "_netdev" in fields.get("OPTS", "").split(","):
            found.add((mounts.unescape(fields.get("TARGET", "")), mounts.unescape(fields.get("SRC", ""))))
    return found


def main() -> int:
    """Watch until killed."""
    notify.subject = "mounts"
    table = Table()
    fd = posix.open(f"{processes.PROC}/self/mountinfo", posix.O_RDONLY | posix.O_CLOEXEC)
    poll = select.poll()
    # Always readable; a change shows as an error and as urgent (proc_pid_mountinfo(5)).
    poll.register(fd, select.POLLPRI)
    table.look()
    notify.send("READY=1")
    while True:
        notify.status(f"{table.count} mounts on NVMe over TCP or RDMA")
        poll.poll()
        time.sleep(min(DEBOUNCE_MAX_SECONDS, max(DEBOUNCE_SECONDS, DEBOUNCE_FACTOR * table.took)))
        table.look()


if __name__ == "__main__":
    sys.exit(main())
