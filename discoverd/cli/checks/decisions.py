# SPDX-License-Identifier: Apache-2.0
"""Whether there is a plan to go by: what discoverd has decided about each controller."""

from discoverd.cli.checks.finding import Finding, problem
from discoverd.cli.plan_file import PlanFile


def check(plan: PlanFile) -> list[Finding]:
    """Return why the plan cannot be read. Who has none knows neither what is wanted nor what is refused."""
    if not plan.fault:
        return []
    text, _, remedy = plan.fault.rpartition("; ")
    return [problem(f"{text}; what is refused and what is not connected cannot be checked without it", remedy)]
