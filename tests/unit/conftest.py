# SPDX-License-Identifier: Apache-2.0
"""What every unit test is held to: an event loop that never blocks, and nothing left behind."""

import asyncio
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBusterFunction, blockbuster_ctx
from hypothesis import HealthCheck, settings

from discoverd import state, store

# A busy machine makes examples slow, and that is no fault of theirs.
settings.register_profile("unit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")

# Where PyGObject is installed, dbus-next imports it, and its importer is one that Python warns about.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)
    import discoverd.bus.client  # noqa: F401

    from . import fake_kernel
    from .fake_host import Host, install

# (function, file, functions in it that may call it). This list only ever shrinks.
MAY_BLOCK = [
    # Connecting a datagram socket to the service manager's waits for nobody; only sending could.
    ("socket.socket.connect", "sdnotify/__init__.py", {"__init__"}),
    # The D-Bus client connects to a socket of ours, which listens already (discoverd/bus/relay.py).
    ("socket.socket.connect", "dbus_next/message_bus.py", {"_setup_socket"}),
    # And writes through a file of a socket that does not block.
    ("io.BufferedWriter.write", "aio/message_bus.py", {"connect"}),
]


@pytest.fixture(autouse=True, scope="session")
def loop_never_blocks() -> Iterator[None]:
    """Fail any call that blocks, or that only the file thread may make, in a thread that runs an event loop."""
    with blockbuster_ctx("discoverd") as detector:
        for name, file, functions in MAY_BLOCK:
            detector.functions[name].can_block_in(file, functions)
        # These use the posix module directly, which the detector does not know.
        extra = [BlockBusterFunction(state, name) for name in ("read", "write")]
        extra += [
            BlockBusterFunction(store, name)
            for name in ("prepare", "find", "read_spec", "read_report", "read_log", "write_spec")
        ]
        for function in extra:
            function.activate()
        yield
        for function in extra:
            function.deactivate()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test whose event loop ends with tasks that nobody ended, or that leaves a child process."""
    left: list[asyncio.Task[object]] = []
    cancel_all = asyncio.runners._cancel_all_tasks  # type: ignore[attr-defined]

    def cancel(loop: asyncio.AbstractEventLoop) -> None:
        left.extend(asyncio.all_tasks(loop))
        cancel_all(loop)

    monkeypatch.setattr(asyncio.runners, "_cancel_all_tasks", cancel)
    yield
    assert left == [], "these tasks were left behind"
    try:
        child, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    pytest.fail(f"a child process was left behind: {child or 'it still runs'}")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A made-up host, installed in place of the real one."""
    made = Host(tmp_path)
    install(made, monkeypatch)
    yield made
    made.notify.close()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_kernel.Kernel]:
    """A made-up kernel, installed in place of what a worker calls."""
    made = fake_kernel.Kernel(tmp_path)
    fake_kernel.install(made, monkeypatch)
    yield made
    made.notify.close()
    made.uevents.close()
