# SPDX-License-Identifier: Apache-2.0
"""What the tests of a whole worker have in common: its specification, and who uses its controller."""

from collections.abc import Callable

import pytest

from discoverd import state
from discoverd.kernel import block, fabrics, paths, usage
from discoverd.kernel.usage import User
from discoverd.worker import disconnect, discovery, machine

from .fake_kernel import Kernel, leave_spec
from .log_pages import entry, page

NQN = "nqn.2024-08.com.example:vol1"
INSTANCE = f"tcp:192.0.2.1:4420:{NQN}"
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
DISCOVERY = f"tcp:192.0.2.1:8009:{DISCOVERY_NQN}"
NOTE = "no longer listed"
WITHDRAWN = {"withdrawn": True, "note": NOTE, "disconnect": "ours"}
# What NVME_AEN says of a log page that has changed.
CHANGED = "0x70f002"
DATA = User("mount", "/data")


def install_users(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> list[User]:
    """Return who uses the only namespace, to be changed; there is no other path to it, and the waits are short."""
    found: list[User] = []
    for module, name, value in (
        (usage, "users", lambda *_: {"nvme0n1": list(found)} if found else {}),
        (usage, "processes", lambda _: []),
        (usage, "system_subsystems", set),
        (paths, "_answering", lambda others: set().union(*others)),
        (block, "namespaces", lambda _: ["nvme0n1"]),
        (block, "usable_paths", lambda _: ["nvme0"]),
        (disconnect, "system_state", lambda: "running"),
        (disconnect, "_urge", lambda _: None),
        (discovery, "EVENT_INTERVAL_SECONDS", 0.02),
        (machine, "WITHDRAW_DEBOUNCE_SECONDS", 0.05),
        (
            machine,
            "DISCONNECT_RETRY_SECONDS",
            {**machine.DISCONNECT_RETRY_SECONDS, machine.STOP: 0.05, machine.GIVE_UP: 0.05},
        ),
    ):
        monkeypatch.setattr(module, name, value)
    kernel.log_pages = [page(entry(NQN), generation=number) for number in (1, 2, 3)]
    return found


def install_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system go down."""
    monkeypatch.setattr(disconnect, "system_state", lambda: "stopping")


def specify(**changes: object) -> state.Spec:
    """Write the specification of an I/O controller."""
    return leave_spec(INSTANCE, NQN, **changes)


def specify_discovery(**changes: object) -> state.Spec:
    """Write the specification of a discovery controller, which is polled unless the changes say otherwise."""
    return leave_spec(DISCOVERY, DISCOVERY_NQN, **{"role": "discovery", "persistent": "no", **changes})


def report(instance: str = INSTANCE) -> dict[str, str]:
    """Return the fields that the worker has reported."""
    return dict(state.decode(state.REPORT, state.read(state.directory(instance) + "/report")))


def during_delete(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen while the kernel disconnects a controller, the first time it does."""
    delete, left = fabrics.delete, [act]

    def slow(device: str, kernel_instance: int) -> None:
        if left:
            left.pop()()
        delete(device, kernel_instance)

    monkeypatch.setattr(fabrics, "delete", slow)
