# SPDX-License-Identifier: Apache-2.0
"""The socket on which workers wake discoverd."""

from discoverd import state, store
from discoverd.cli.checks.finding import Finding, problem


def check(runs: bool) -> list[Finding]:
    """Return a finding if there is another socket in the place of discoverd's own. ``runs``: discoverd does."""
    if not runs:
        return []
    try:
        own, there = store.wake_sockets()
    except state.StateError:
        return []  # This discoverd is of an earlier version, which says nothing about it.
    if own == there:
        return []
    what = "is another's" if there else "is gone"
    text = f"the socket {state.WAKE_SOCKET} {what}, so discoverd does not hear what workers report"
    return [problem(text, f"systemctl restart discoverd; if it comes back, see whose it is: fuser {state.WAKE_SOCKET}")]
