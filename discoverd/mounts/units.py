# SPDX-License-Identifier: Apache-2.0
"""The unit that systemd's fstab generator made of a line without ``_netdev``, put right for as long as it is mounted.

Such a unit is ordered before local-fs.target, and what its file says, utab cannot take back. Ordered as a remote mount
as well it is part of a cycle at shutdown, and systemd breaks one by dropping whichever stop it meets. So the unit is
written anew, as the generator would have made it of a line with ``_netdev``, where it comes before the generator's: in
/run/systemd/system (systemd.unit(5), unit file load path).
"""

import posix

from discoverd import notify, state
from discoverd.kernel import files, mounts, spawn

GENERATED = "/run/systemd/generator/"
OURS = "/run/systemd/system"
_LOCAL = "local-fs.target"
_MARK = "# discoverd-mounts.service: fstab's unit with _netdev, so that it is unmounted before the network goes.\n"


class MountUnits:
    """Units that are written over while their mount point is mounted."""

    def __init__(self) -> None:
        # Mount point to file; what an earlier process has written is looked after as well.
        self._written: dict[str, str] = {}
        for name in posix.listdir(OURS):
            text = files.whole(f"{OURS}/{name}").decode("utf-8", "surrogateescape") if name.endswith(".mount") else ""
            if text.startswith(_MARK):
                where = [line[6:] for line in text.split("\n") if line[:6] == "Where="]
                self._written[where[0] if where else ""] = f"{OURS}/{name}"
        self._changed = False

    def correct(self, target: str) -> None:
        """Write a mount's unit over if it is generated and ordered as a local one; takes effect with :meth:`reload`."""
        status, output = spawn.run("systemctl", "show", "-p", "Id", "-p", "Before", "-p", "FragmentPath", "--", target)
        shown = dict(line.partition("=")[::2] for line in output.split("\n"))
        fragment = shown.get("FragmentPath", "")
        if status != 0 or _LOCAL not in shown.get("Before", "").split(" ") or fragment[: len(GENERATED)] != GENERATED:
            return
        path = f"{OURS}/{shown['Id']}"
        unit = remote(files.whole(fragment).decode("utf-8", "surrogateescape"))
        try:
            state.write(path, (_MARK + unit).encode("utf-8", "surrogateescape"), 0o644)
        except state.StateError as error:
            notify.log(
                notify.ERROR, f"{shown['Id']} stays ordered as a local mount: {error}; add _netdev in /etc/fstab"
            )
            return
        self._written[target] = path
        self._changed = True
        notify.log(
            notify.WARNING, f"{target} has no _netdev in /etc/fstab: corrected until it is unmounted; add it there"
        )

    def forget_all_but(self, lines: list[bytes]) -> None:
        """Give back the units of what is in none of these lines of mountinfo any more."""
        if not self._written:
            return
        mounted = {mounts.Mount(line.decode("utf-8", "surrogateescape")).target for line in lines if line}
        for target in self._written.keys() - mounted:
            try:
                posix.unlink(self._written.pop(target))
            except FileNotFoundError:
                continue  # Somebody has tidied up.
            self._changed = True

    def reload(self) -> None:
        """Have systemd read what has changed, if anything has."""
        if self._changed:
            self._changed = False
            status, output = spawn.run("systemctl", "daemon-reload")
            if status != 0:
                notify.log(
                    notify.ERROR, f"systemd has not read the mounts' units: {output}; run: systemctl daemon-reload"
                )


def remote(unit: str) -> str:
    """Return a mount unit's text with ``_netdev`` among its options, and not before local-fs.target."""
    lines = []
    options = False
    for line in unit.split("\n"):
        key, equals, value = line.partition("=")
        if key == "Before":
            value = " ".join(name for name in value.split(" ") if name != _LOCAL)
            if not value:
                continue
        elif key == "Options":
            options = True
            value += ",_netdev"
        lines.append(key + equals + value)
    if not options:
        lines = [part for line in lines for part in ((line, "Options=_netdev") if line == "[Mount]" else (line,))]
    return "\n".join(lines)
