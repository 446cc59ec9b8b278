# SPDX-License-Identifier: Apache-2.0
"""Options that controllers are to be connected with, and that this kernel does not know."""

import errno
import os
from collections.abc import Iterable

from discoverd import state
from discoverd.cli.checks.finding import Finding, hint, problem
from discoverd.cli.overview import Controller
from discoverd.cli.text import count
from discoverd.kernel import fabrics


def check(controllers: Iterable[Controller]) -> list[Finding]:
    """Return the options: a problem where it is not connected without one, a hint where it is.

    Raises PermissionError for who may not read the specifications of workers.
    """
    controllers = list(controllers)
    for one in controllers:
        specification = state.directory(one.name) + "/spec"
        if one.spec is None and os.path.exists(specification) and not os.access(specification, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), specification)
    try:
        known = fabrics.abilities()
    except OSError:
        return []  # Nobody has found out yet, or there is no device; then the status of each worker says so.
    if known is None:
        return []
    asked: dict[str, list[Controller]] = {}
    for one in controllers:
        for key in {key for key, _ in one.spec.options} - known if one.spec else ():
            asked.setdefault(key, []).append(one)
    found = []
    for key, some in sorted(asked.items()):
        text = f"this kernel does not know the option {key}, which {count(len(some), 'controller')} should have"
        if fabrics.lacking([(key, "")], known):
            remedy = f"use a later kernel, or remove {key.replace('_', '-')} from the configuration"
            found.append(hint(f"{text}: connected without", remedy))
        else:
            found.append(problem(f"{text}: not connected", f"use a later kernel; see: discoverctl why {some[0].name}"))
    return found
