# SPDX-License-Identifier: Apache-2.0
"""nvme-fabrics.conf and its drop-ins, nvme-cli 3's shared format: from files to a :class:`FabricsConfig`."""

from collections.abc import Iterable
from pathlib import Path

from .. import state
from .cascade import check_personas, distrust_defaults, resolve
from .model import FabricsConfig
from .sections import parse_file
from .sources import SourceFile, read_drop_ins, read_tree

FABRICS_CONF = Path("/etc/nvme/nvme-fabrics.conf")
# Drop-ins until the next boot, which `discoverctl connect` writes. Ours alone: nvme-cli does not read them.
RUNTIME_DROP_INS = Path(state.ROOT) / "nvme-fabrics.conf.d"


def load_fabrics(main: Path = FABRICS_CONF, runtime: Path = RUNTIME_DROP_INS) -> FabricsConfig:
    """Read and resolve ``main``, ``main.d/*.conf`` and the drop-ins in ``runtime``, which come last.

    Blocks on the disk; never raises for what files hold. Files that do not exist are no fault.
    """
    return parse_fabrics([*read_tree(main), *read_drop_ins(runtime)])


def parse_fabrics(sources: Iterable[SourceFile]) -> FabricsConfig:
    """Resolve files that were read already, the main one (if there is one) first. Pure; raises nothing."""
    files = [parse_file(source) for source in sources]
    check_personas(files)
    distrust_defaults(files)
    connections, scopes = resolve(files)
    return FabricsConfig(
        tuple(connections),
        tuple(diagnostic for file in files for diagnostic in sorted(file.report.diagnostics)),
        not any(file.report.broken for file in files),
        scopes,
    )
