# SPDX-License-Identifier: Apache-2.0
"""The configuration files, as a reload would judge them, and which of them count as they were before."""

from discoverd.cli.checks.finding import Finding, problem
from discoverd.cli.plan_file import PlanFile
from discoverd.config import record
from discoverd.config.files import Files, read_files
from discoverd.config.last_good import settle

_RELOAD = "systemctl reload discoverd"


def check(plan: PlanFile) -> list[Finding]:
    """Return the faults of the files, a secret that others can read among them, but not what discoverd refuses, and the
    files that it takes as they were before."""
    files = read_files()
    diagnostics = settle(Files(files.settings, files.fabrics), record.files()).complaints
    refused = {one.source for one in plan.refusals}
    found = [
        Finding(
            "problem" if one.severity == "error" or "secret" in one.message else "hint",
            f"{one.path}:{one.line}: {one.message}" if one.line else f"{one.path}: {one.message}",
            f"{one.hint}, then: {_RELOAD}" if one.hint else f"mend it, then: {_RELOAD}",
        )
        for one in diagnostics
        if one.severity == "error" or f"{one.path}:{one.line}" not in refused
    ]
    return found + [
        problem(
            f"{one.file} counts as it was on {one.since}, because of a mistake that came into it since: {one.mistake}",
            f"mend it, and have what it says now taken: {_RELOAD}",
        )
        for one in plan.kept
    ]
