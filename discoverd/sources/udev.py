# SPDX-License-Identifier: Apache-2.0
"""udev's events of one subsystem, delivered in the event loop through pyudev."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

log = logging.getLogger("discoverd")


@contextlib.asynccontextmanager
async def listening(
    subsystem: str, heard: Callable[[Mapping[str, str]], None], missed: Callable[[], None]
) -> AsyncIterator[None]:
    """Call ``heard`` with the properties of each event of ``subsystem`` that udev has dealt with, from the entry on.

    ``missed`` is called when there were more than the socket could hold. Other subsystems' events are dropped in the
    kernel, and wake nobody. Raises ImportError where pyudev or its library is not there, OSError where udev is not.
    """
    loop = asyncio.get_running_loop()
    # It reads a hundred modules and runs ldconfig.
    monitor = await asyncio.to_thread(_open, subsystem)
    descriptor = monitor.fileno()
    loop.add_reader(descriptor, _receive, monitor, heard, missed)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


@contextlib.asynccontextmanager
async def listening_if_possible(
    subsystem: str, heard: Callable[[Mapping[str, str]], None], missed: Callable[[], None], unnoticed: str
) -> AsyncIterator[None]:
    """As :func:`listening`; where there is no udev to listen to, log so, after what goes ``unnoticed``, and go on."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(listening(subsystem, heard, missed))
        except (ImportError, OSError) as error:
            log.error("%s: udev cannot be listened to: %s; check that pyudev is there", unnoticed, error)
        yield


def _open(subsystem: str) -> Any:
    import pyudev

    # What the kernel sends itself would wake us for every device of the host: only udev's own messages have a mark of
    # their subsystem that a filter in the kernel can see.
    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
    monitor.filter_by(subsystem)
    monitor.start()
    return monitor


def _receive(monitor: Any, heard: Callable[[Mapping[str, str]], None], missed: Callable[[], None]) -> None:
    try:
        device = monitor.poll(timeout=0)
    except OSError:  # ENOBUFS
        missed()
        return
    if device is not None:
        heard(device.properties)
