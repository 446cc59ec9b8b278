# SPDX-License-Identifier: Apache-2.0
"""What is asked for and cannot be connected, as discoverd has told it last."""

from collections.abc import Iterable

from discoverd.cli.checks.finding import Finding
from discoverd.cli.plan_file import Refused

# A log page can have a thousand.
_MOST = 20


def check(refusals: Iterable[Refused]) -> list[Finding]:
    """Return what is refused though it is meant; what only an announcement leads to is a hint."""
    meant = sorted((one for one in refusals if not one.expected), key=lambda one: one.trust == "announced")
    found = [
        Finding(
            "hint" if one.trust == "announced" else "problem",
            f"{one.what} ({one.source}) is not connected: {one.reason}",
            "mend what refuses it, then: systemctl reload discoverd",
        )
        for one in meant[:_MOST]
    ]
    if more := len(meant) - len(found):
        found.append(Finding(found[-1].severity, f"{more} more are refused", "see them: discoverctl status"))
    return found
