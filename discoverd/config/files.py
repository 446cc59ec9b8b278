# SPDX-License-Identifier: Apache-2.0
"""All files that say what the daemon is to do, as they were read at one moment."""

from dataclasses import dataclass
from pathlib import Path

from .fabrics import FABRICS_CONF, RUNTIME_DROP_INS
from .identity import DIRECTORY, read_identity_files
from .settings import SETTINGS_CONF
from .sources import SourceFile, read_drop_ins, read_tree


@dataclass(frozen=True, slots=True)
class Files:
    """The daemon's settings and the connections, each the main file first and then its drop-ins, and who the host is.

    ``identity`` are hostnqn and hostid, one that is not there with a fault that says so; empty where nobody has looked.
    """

    settings: tuple[SourceFile, ...] = ()
    fabrics: tuple[SourceFile, ...] = ()
    identity: tuple[SourceFile, ...] = ()

    @property
    def all(self) -> tuple[SourceFile, ...]:
        """All of them."""
        return (*self.settings, *self.fabrics, *self.identity)


def read_files(directory: Path = DIRECTORY, runtime: Path = RUNTIME_DROP_INS) -> Files:
    """Read everything in a directory such as /etc/nvme, and the drop-ins in ``runtime``.

    Blocks on the disk; raises nothing.
    """
    return Files(
        read_tree(directory / SETTINGS_CONF.name),
        (*read_tree(directory / FABRICS_CONF.name), *read_drop_ins(runtime)),
        read_identity_files(directory),
    )
