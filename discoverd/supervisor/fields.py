# SPDX-License-Identifier: Apache-2.0
"""The journal fields of the supervisor's lines."""

from discoverd.plan.candidate import Candidate
from discoverd.systemd.unit_properties import journal_fields


def about(instance: str, candidate: Candidate | None = None, event: str = "") -> dict[str, dict[str, str]]:
    """Return the journal fields that name a controller, and the message ID of what has happened to it, if any."""
    fields = {"NVME_CTRL": instance}
    if candidate is not None:
        fields = dict(field.split("=", 1) for field in journal_fields(candidate.tid))
    return {"fields": {**fields, "MESSAGE_ID": event} if event else fields}
