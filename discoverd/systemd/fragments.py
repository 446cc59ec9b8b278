# SPDX-License-Identifier: Apache-2.0
"""Unit files that stand where discoverd has systemd make transient units, and what to do about them.

systemd makes no transient unit under a name that it finds a file for, and a template is one for all names
(unit_is_pristine() in src/core/unit.c). `systemctl edit nvme-ctrl@.service` finds no unit file, proposes `--force`, and
with `--full` makes just such a template. Drop-ins are no fragments, and apply to transient units as well.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from discoverd.tid import UNIT_PREFIX, UNIT_SUFFIX, unit_instance

TEMPLATE = UNIT_PREFIX + UNIT_SUFFIX
# Where systemctl(1) puts what an administrator writes, for good and until the next boot, in systemd's order.
DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system")
# What systemd has made and not unloaded yet, running or not, has its file here, which comes before these.
TRANSIENT = "/run/systemd/transient"
# Longer ones are no overrides.
_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Fragment:
    """A unit file. ``executes``: it says what to execute, so that as a drop-in it would have that done as well."""

    path: str
    executes: bool

    @property
    def remedy(self) -> str:
        """The shell command that puts it right, for root."""
        # Quoted: an instance may have a backslash in it.
        if self.executes:
            return f"mv '{self.path}' '{self.path}.disabled' && systemctl daemon-reload"
        drop_in = f"{self.path}.d/override.conf"
        return f"mkdir -p '{self.path}.d' && mv -n '{self.path}' '{drop_in}' && systemctl daemon-reload"

    @property
    def problem(self) -> str:
        """A sentence, without a full stop, that says what it does and ends in the command."""
        whose = "any controller" if self.path.endswith("/" + TEMPLATE) else "this controller"
        what = f"{self.path} is a unit file, and beside it systemd makes no unit for {whose}"
        way = "put it out of the way" if self.executes else "make a drop-in of it, which systemd heeds"
        return f"{what}; {way}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class Fragments:
    """The unit files by instance; '' is the template, which stands in the way of all but those that are ``made``."""

    found: Mapping[str, Fragment] = field(default_factory=dict)
    made: frozenset[str] = frozenset()

    def blocking(self, instance: str) -> Fragment | None:
        """Return the file that keeps the unit of this instance from being made, None if there is none."""
        return None if instance in self.made else self.found.get(instance) or self.found.get("")

    @property
    def paths(self) -> dict[str, str]:
        """The paths by instance."""
        return {instance: fragment.path for instance, fragment in self.found.items()}


def find() -> Fragments:
    """Look for them. A mask is none, and what cannot be read counts as not there. Blocks."""
    found: dict[str, Fragment] = {}
    for directory in DIRECTORIES:
        for instance, name in _units(directory).items():
            path = f"{directory}/{name}"
            if instance not in found and not _masks(path):
                found[instance] = Fragment(path, _executes(path))
    # There are as many as there are controllers, and nearly never a reason to look.
    return Fragments(found, frozenset(_units(TRANSIENT)) if found else frozenset())


def _units(directory: str) -> dict[str, str]:
    """Return the names of the controllers' unit files in a directory, by instance; '' is the template."""
    try:
        names = os.listdir(directory)
    except OSError:
        return {}
    ours = [name for name in names if name.startswith(UNIT_PREFIX) and name.endswith(UNIT_SUFFIX)]
    return {unit_instance(name) or "": name for name in ours}


def _masks(path: str) -> bool:
    """Tell whether a file stands for no unit: a link to /dev/null, or empty."""
    try:
        return os.path.realpath(path) == "/dev/null" or not os.stat(path).st_size
    except OSError:
        return True  # A link that leads nowhere is no file to systemd either.


def _executes(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return any(line.lstrip().startswith(b"Exec") for line in file.read(_LIMIT).splitlines())
    except OSError:
        return True
