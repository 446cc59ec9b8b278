# SPDX-License-Identifier: Apache-2.0
"""The API's process: it shows on the bus what is known, and hands on what is asked for. It has no right to anything.

What it knows comes from /run/discoverd, from systemd over the bus, and from sysfs and the registry, which everybody may
read. It keeps nothing, so it may end at any moment: it does when the bus goes, and the next call has it
started again.
"""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial

from discoverd import registry
from discoverd.api import connection as connections
from discoverd.api import wire
from discoverd.api.connection import BUS, BUS_PATH, Connection, LostError, connected
from discoverd.api.devices import Devices
from discoverd.api.facts import Facts
from discoverd.api.feed import Feed
from discoverd.api.interfaces import MANAGER, NAME, OURS, ROOT
from discoverd.api.objects import Objects
from discoverd.api.owners import Owners
from discoverd.api.rounds import Rounds
from discoverd.api.service import Service
from discoverd.api.tree import Tree
from discoverd.api.units import Units
from discoverd.api.wire import Frame
from discoverd.cli.overview import Controller
from discoverd.config.errors import printable
from discoverd.sources.udev import listening_if_possible

log = logging.getLogger("discoverd.api")

# Callers are answered with what there is after this time, whoever has not told yet.
READY_TIMEOUT_SECONDS = 10
SWITCH_SECONDS = 0.0005
_DO_NOT_QUEUE, _PRIMARY_OWNER = 4, 1
# As the journal reads them in front of a line (sd-daemon(3)).
_PRIORITIES = {logging.ERROR: "<3>", logging.WARNING: "<4>", logging.INFO: "<6>"}


class Api:
    """The parts, and the connection that they share."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        news = asyncio.Event()
        self._devices = Devices(news.set)
        self._units = Units(news.set)
        facts = Facts(news.set, self._devices.changed, self._units.reported)
        self._feed = Feed(facts.take)
        tree = Tree(self._signal)
        objects = Objects(tree, self._room, self._event)
        self._rounds = Rounds(news, facts, self._units, self._devices, objects)
        self._service = Service(tree, objects, facts, self._rounds.look_again, self._feed.page)

    async def run(self) -> None:
        """Serve until the bus has gone. Raises OSError where there is none, or the name is somebody else's."""
        # What works beside the loop would otherwise keep it waiting for 5 ms each time that it has read or written.
        sys.setswitchinterval(SWITCH_SECONDS)
        async with self._watching(), connected(connections.SYSTEM_BUS, self._call, self._hear) as bus:
            self._service.connect(bus)
            self._connection = bus
            tasks = [
                asyncio.create_task(work)
                for work in (
                    self._rounds.run(),
                    self._feed.run(),
                    self._units.run(bus),
                    self._service.run(),
                    self._own_name(bus),
                    bus.closed(),
                )
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    with contextlib.suppress(LostError):
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self._service.end()

    async def _own_name(self, bus: Connection) -> None:
        """Take the name on the bus when everybody has told what there is, and keep it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_TIMEOUT_SECONDS):
                await self._rounds.ready.wait()
        if not self._rounds.ready.is_set():
            log.warning("not everything is known after %d s; showing what is", READY_TIMEOUT_SECONDS)
            await self._rounds.show()
            self._rounds.ready.set()
        (answer,) = await bus.call(BUS, BUS_PATH, BUS, "RequestName", "su", NAME, _DO_NOT_QUEUE, answer="u")
        if answer != _PRIMARY_OWNER:
            raise FileExistsError(f"somebody else is {NAME} on the bus; see: busctl status {NAME}")
        await asyncio.Event().wait()

    # What comes in -----------------------------------------------------------------------------------------

    def _call(self, frame: Frame) -> None:
        # Before that nobody knows our name, and who guesses it has to wait.
        if self._connection:
            self._service.hear(frame)

    def _hear(self, frame: Frame) -> None:
        if self._connection:
            try:
                self._units.heard(self._connection, frame)
            except wire.WireError as error:
                log.debug("a signal that makes no sense: %s", error)

    @contextlib.asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Hear of controllers that come, go, or have another owner."""
        loop = asyncio.get_running_loop()
        owners = Owners(self._devices.changed)

        def heard(properties: Mapping[str, str]) -> None:
            name = properties.get("DEVPATH", "").rpartition("/")[2]
            owners.look()
            self._devices.changed(name if registry.valid_device(name) else "")

        loop.add_reader(owners, owners.heard)
        unnoticed = "controllers of others that come and go are seen late"
        try:
            async with listening_if_possible("nvme", heard, partial(self._devices.changed, ""), unnoticed):
                yield
        finally:
            loop.remove_reader(owners)
            owners.close()

    # What goes out -----------------------------------------------------------------------------------------

    async def _room(self) -> None:
        if self._connection:
            await self._connection.room()

    def _signal(self, path: str, interface: str, member: str, signature: str, body: bytes) -> None:
        if self._connection and self._rounds.ready.is_set():
            self._connection.signal(path, interface, member, signature, body)

    def _event(self, path: str, instance: str, now: str, one: Controller | None) -> None:
        """Tell that a controller's state has changed; of what was there at first there is nothing to tell."""
        if not self._rounds.ready.is_set():
            return
        (event,) = OURS[MANAGER].signals
        microseconds = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        text = one.status if one else ""
        body = wire.marshal(event.signature, microseconds, now, path, printable(instance), printable(text))
        self._signal(ROOT, MANAGER, event.name, event.signature, body)


async def serve() -> int:
    """Serve until SIGTERM, or until the bus has gone. Returns the exit status."""
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(Api().run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return 0
    except OSError as error:
        log.error("cannot serve %s: %s", NAME, error)
        return 1
    log.info("the bus has gone; it is started again when it is called")
    return 0


def main() -> int:
    """Be the process. Returns the exit status."""
    for level, priority in _PRIORITIES.items():
        logging.addLevelName(level, priority)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s%(message)s", level=logging.INFO)
    return asyncio.run(serve())


if __name__ == "__main__":
    sys.exit(main())
