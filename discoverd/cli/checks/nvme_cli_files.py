# SPDX-License-Identifier: Apache-2.0
"""The files of nvme-cli 2: what they ask for, and nobody connects while discoverd runs."""

from discoverd.cli.checks.finding import Finding, problem
from discoverd.config.fabrics import load_fabrics
from discoverd.config.identity import load_host_identity
from discoverd.nvme_cli import unserved


def check() -> list[Finding]:
    """Return the entries of those files that the configuration does not ask for, and which of them cannot be read.

    Raises PermissionError where this user may not.
    """
    for file in unserved.read(unserved.DIRECTORY).values():
        if file.denied:
            raise PermissionError(f"{file.path} {file.fault}")
    return [
        problem(f"{one.path}:{one.line}: {one.message}" if one.line else f"{one.path}: {one.message}", one.hint)
        for one in unserved.look(load_fabrics(), load_host_identity())
    ]
