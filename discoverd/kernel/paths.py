# SPDX-License-Identifier: Apache-2.0
"""The other paths of what is in use: those that the kernel calls live, and of those the ones that answer.

Used by workers, so it imports only what they may.
"""

import _thread
import time

from discoverd.kernel import admin, block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from discoverd.kernel.usage import User

# The kernel calls a path live until the keep-alive time-out. One that works answers within so many seconds.
ANSWER_TIMEOUT_SECONDS = 5
# The kernel waits for as long as it does for any command: it would reset a controller that does not answer in less, and
# may only be slow.
_SESSION_TIMEOUT_SECONDS = 60
_POLL_INTERVAL_SECONDS = 0.01
_IDENTIFY, _CNS_CONTROLLER = 0x06, 0x01


def others(device: str, used: "dict[str, list[User]]") -> list[set[str]]:
    """Return, for each namespace in use, the controllers other than ``device`` that are said to be usable."""
    return [_usable(namespace, users) - {device} for namespace, users in used.items()]


def _usable(namespace: str, users: "list[User]") -> set[str]:
    names = {namespace, *block.partitions(namespace)}
    own = {path for name in names for _, _, path in block.nodes(name)}
    usable = set(block.usable_paths(namespace))
    # What has opened one path of dm-multipath itself is not helped by the others.
    if not any(user.kind in ("process", "target") and user.name in own for user in users):
        for sibling in block.siblings(namespace):
            usable.update(block.usable_paths(sibling))
    return usable


def fault(others: list[set[str]]) -> str | None:
    """Tell whether each namespace can do with its other paths: None if one of them answers.

    Otherwise, what is wrong, to be added to who uses it; '' if there is no other path. Blocks, for
    ANSWER_TIMEOUT_SECONDS at most.
    """
    if not all(others):
        return ""
    silent = set().union(*others) - _answering(others)
    if all(paths - silent for paths in others):
        return None
    names = ", ".join(sorted(silent))
    return f", and its other path {names} does not answer" if len(silent) == 1 else f", and {names} do not answer"


def _answering(others: list[set[str]]) -> set[str]:
    """Return the controllers that have answered by the time when each of ``others`` has one, or none is left to."""
    outcome: dict[str, bool] = {}
    asked = set().union(*others)
    for device in asked:
        # It may be left behind: nothing ends a command that is under way.
        _thread.start_new_thread(_ask, (device, outcome))
    deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS
    while len(outcome) < len(asked) and time.monotonic() < deadline:
        if all(any(outcome.get(device) for device in paths) for paths in others):
            break
        time.sleep(_POLL_INTERVAL_SECONDS)
    return {device for device in asked if outcome.get(device)}


def _ask(device: str, outcome: dict[str, bool]) -> None:
    try:
        with admin.Session(device, _SESSION_TIMEOUT_SECONDS) as session:
            session.send(_IDENTIFY, bytearray(4096), _CNS_CONTROLLER)
        outcome[device] = True
    except admin.RefusedError:
        outcome[device] = True
    except (admin.AdminError, OSError):
        outcome[device] = False
