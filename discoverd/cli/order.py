# SPDX-License-Identifier: Apache-2.0
"""The orders in which controllers are listed."""

import re
from collections.abc import Callable, Iterable

from discoverd import state
from discoverd.cli.overview import BLOCKED, LEFT_ALONE, Controller
from discoverd.tid import DISCOVERY

# What is worst comes first, and what is as it should be last. What is not here comes before that.
_WORST = (
    *("failed", state.REFUSED, BLOCKED, state.GIVEN_UP, "dead", state.RECONNECTING, state.WAITING, state.CONNECTING),
    *("starting", state.STOPPING, state.GONE, LEFT_ALONE, "masked", state.EXCLUDED, state.STOPPED),
)
_BEST = (state.PARKED, state.LIVE)
# Of a worker that ends, of systemd while a unit has not reported, and of the kernel for what has no unit.
_PASSING = (
    *(state.WITHDRAWN, "activating", "active", "reloading", "refreshing", "deactivating", "inactive", "maintenance"),
    *("new", "resetting", "deleting", "deleting (no IO)"),
)
STATES = (*_BEST, *_WORST, *_PASSING)


def natural(text: str) -> list[tuple[int, str]]:
    """Return what sorts texts with numbers in them by the numbers: vol2 before vol10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", text)]


def address(transport: str, traddr: str, trsvcid: str) -> tuple[object, ...]:
    """Return what sorts addresses."""
    return transport, natural(traddr), natural(trsvcid)


def _by_address(one: Controller) -> tuple[object, ...]:
    return address(one.transport, one.traddr, one.trsvcid)


def _by_subsystem(one: Controller) -> tuple[object, ...]:
    return one.role != DISCOVERY, natural(one.subsysnqn), *_by_address(one), one.name


def _by_state(one: Controller) -> int:
    if one.state in _BEST:
        return len(_WORST) + 1 + _BEST.index(one.state)
    return _WORST.index(one.state) if one.state in _WORST else len(_WORST)


# What is equal by these is ordered by subsystem.
# The names are those of discoverd.cli.command_line.ORDERS.
_KEYS: dict[str, Callable[[Controller], object]] = {
    "subsystem": lambda _: 0,
    "state": _by_state,
    "device": lambda one: (one.device is None, natural(one.device.name if one.device else "")),
    "address": _by_address,
    # What has changed last comes first.
    "since": lambda one: -one.since,
}


def ordered(controllers: Iterable[Controller], name: str = "subsystem") -> list[Controller]:
    """Return the controllers in an order of command_line.ORDERS, discovery controllers first among what is equal."""

    def key(one: Controller) -> tuple[object, ...]:
        return _KEYS[name](one), _by_subsystem(one)

    return sorted(controllers, key=key)
