# SPDX-License-Identifier: Apache-2.0
"""The configuration files, as ``discoverd --check`` judges them."""

from discoverd.cli.checks.finding import Finding
from discoverd.config.fabrics import load_fabrics
from discoverd.config.settings import load_settings


def check() -> list[Finding]:
    """Return the faults of the files, a secret that others can read among them."""
    diagnostics = (*load_fabrics().diagnostics, *load_settings()[1])
    return [
        Finding(
            "problem" if one.severity == "error" or "secret" in one.message else "hint",
            f"{one.path}:{one.line}: {one.message}" if one.line else f"{one.path}: {one.message}",
            f"{one.hint}, then: systemctl reload discoverd"
            if one.hint
            else "mend it, then: systemctl reload discoverd",
        )
        for one in diagnostics
    ]
