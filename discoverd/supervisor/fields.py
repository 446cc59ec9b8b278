# SPDX-License-Identifier: Apache-2.0
"""The journal fields of the supervisor's lines."""

from discoverd.plan.candidate import Candidate
from discoverd.systemd.unit_properties import journal_fields


def about(instance: str, candidate: Candidate | None = None) -> dict[str, dict[str, str]]:
    """Return the journal fields that name a controller."""
    if candidate is None:
        return {"fields": {"NVME_CTRL": instance}}
    return {"fields": dict(field.split("=", 1) for field in journal_fields(candidate.tid))}
