# SPDX-License-Identifier: Apache-2.0
"""The daemon: it makes the parts of the supervisor, keeps them going, and answers the service manager.

It makes no blocking call: files are read and written in a thread, systemd is asked through the unit agent's
process. It keeps nothing that it cannot find again in configuration, systemd and /run/discoverd, so it may
be killed at any moment.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Never, TypeVar

from discoverd import log_level, state, store
from discoverd.config.errors import Diagnostic
from discoverd.kernel import addresses, usage
from discoverd.sources import boot
from discoverd.supervisor import reload
from discoverd.supervisor.changes import Changes
from discoverd.supervisor.configuration import Configuration
from discoverd.supervisor.connection import Connection
from discoverd.supervisor.former_owners import FormerOwners
from discoverd.supervisor.inventory import Inventory
from discoverd.supervisor.observed import Observed
from discoverd.supervisor.plan_file import PlanFile
from discoverd.supervisor.reconciler import Reconciler
from discoverd.supervisor.specifications import Specifications
from discoverd.supervisor.starter import Starter
from discoverd.supervisor.status_line import Tally
from discoverd.systemd import journal, unit_signals
from discoverd.systemd.agent_process import AGENT, AgentProcess
from discoverd.systemd.notifier import Notifier
from discoverd.systemd.units import UnitError

log = logging.getLogger("discoverd")
T = TypeVar("T")

# News come in bursts; a round waits this long (seconds) for the rest of one, and begins after the last one not before
# four times what that took of the processor, so that a storm costs a fifth of one at most.
DEBOUNCE_SECONDS = 0.05
PAUSE_FACTOR = 4
# Mounts that need a network wait for the first attempts, but no longer than this.
READY_TIMEOUT_SECONDS = 30
# A restart waits so long for the first look-ups of host names.
FIRST_LOOKUP_TIMEOUT_SECONDS = 5
EXIT_SOFTWARE = 70


class _StopError(Exception):
    """The daemon is to end."""


class Supervisor:
    """The daemon. ``libexec`` is the directory of placeholder and unit agent, and ``agent`` the process that
    was started there already, if any.

    What it has besides the parts of the supervisor is the thread for files, the tasks, and whether it is ready or to
    stop.
    """

    def __init__(self, libexec: str, agent: AgentProcess | None = None) -> None:
        self._libexec = libexec
        self._files = ThreadPoolExecutor(1, "files")
        self._stop = asyncio.Event()
        self._ready = False
        self._changes = Changes()
        self._configuration = Configuration(self._blocking, self._apply)
        self._specifications = Specifications(self._blocking)
        self._observed = Observed(self._blocking)
        self._connection = Connection(libexec + AGENT, self._blocking, self._changes, agent)

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; the controllers' units live on. Returns the exit status."""
        journal.set_up("info")
        loop = asyncio.get_running_loop()
        self._notifier = Notifier()
        self._inventory = Inventory(self._specifications.known, self._changes.wake)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, _pass)  # What it would have read anew has not been read yet.
        status = 0
        try:
            async with asyncio.TaskGroup() as self._tasks:
                try:
                    status = await self._live()
                finally:
                    loop.add_signal_handler(signal.SIGHUP, _pass)  # A group that ends takes no more tasks.
                raise _StopError
        except* _StopError:
            pass
        except* Exception as errors:
            # Ours, and not to be lived with: systemd starts the daemon anew, and it finds everything again.
            for error in _each(errors):
                log.critical("internal error, restarting: %r", error, exc_info=error)
            status = EXIT_SOFTWARE
        await self._inventory.names.close()
        self._files.shutdown(wait=False)
        return status

    async def _live(self) -> int:
        """Set everything going, and return the exit status when it is to end."""
        loop = asyncio.get_running_loop()
        try:
            wake = await self._start()
        except OSError as error:
            log.error("cannot use %s: %s; free space there, or mount it writable", state.ROOT, error.strerror)
            return 1
        with wake:
            loop.add_reader(wake, self._woken, wake)
            try:
                await self._stop.wait()
            finally:
                loop.remove_reader(wake)
                self._notifier.stopping()
        return 0

    async def _start(self) -> socket.socket:
        """Find out how everything is, and have it looked after from now on. Returns the wake socket. Raises OSError."""
        wake: socket.socket = await self._blocking(store.prepare)
        await self._blocking(store.sweep)
        tally = Tally()
        self._starter = Starter(
            self._libexec + "/placeholder",
            await self._blocking(usage.system_subsystems),
            self._tasks,
            self._changes,
            self._connection,
            self._specifications,
            tally,
        )
        self._reconciler = Reconciler(
            self._changes,
            self._connection,
            self._observed,
            self._configuration,
            self._specifications,
            self._inventory,
            self._starter,
            tally,
            PlanFile(self._blocking),
        )
        self._former_owners = FormerOwners(
            self._blocking, self._connection, self._observed, self._reconciler.decisions, tally
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: self._tasks.create_task(self._reload()))
        began = reload.now()
        await self._answer(began, await self._load())
        await self._find()
        inventory = self._inventory
        sources = (
            inventory.exclusions,
            inventory.mdns,
            inventory.nbft,
            inventory.fibre_channel,
            inventory.unmanaged_source,
            inventory.transports,
        )
        for source in sources:
            self._tasks.create_task(source.run())
        self._tasks.create_task(addresses.follow(inventory.locate))
        self._tasks.create_task(self._connection.run(self._signalled))
        self._tasks.create_task(self._former_owners.run())
        self._tasks.create_task(self._rounds())
        return wake

    async def _find(self) -> None:
        """Take up what an earlier supervisor has left, and what was connected before the boot. Raises OSError."""
        found = await self._blocking(store.find)
        self._specifications.take_up(found.known)
        self._observed.take_up(found.reports)
        self._changes.add(found.known)
        self._inventory.remember(found.wishes, found.addresses)
        if found.known:
            # What a name stands for has a unit already; what others ask for must not get one beside it meanwhile.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LOOKUP_TIMEOUT_SECONDS):
                    await self._inventory.names.answered()
        # Before any announcement or log page counts, whatever else becomes known later.
        with contextlib.suppress(OSError):
            self._inventory.locate(await self._blocking(addresses.read))
        self._inventory.booted(await self._blocking(boot.claims, self._configuration.current.host.hostnqn))

    async def _blocking(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, function, *arguments)

    # Configuration -----------------------------------------------------------------------------------------

    async def _load(self) -> tuple[Diagnostic, ...]:
        """Read the configuration, and have everybody go by it. Returns the mistakes for which it was not taken, or not
        all of it at the start.
        """
        policy = self._configuration.current.policy
        mistakes = await self._configuration.load()
        await self._inventory.exclusions.load()
        self._apply()
        if self._configuration.current.policy != policy:
            self._changes.add(self._specifications.known)
        self._tasks.create_task(self._configuration.remember())
        return mistakes

    def _apply(self) -> None:
        """Have everybody go by the configuration that is in force."""
        current = self._configuration.current
        self._specifications.configure(current.settings, current.abilities)
        self._inventory.configure(current.fabrics, current.host, current.settings, unique_nqn=current.unique_nqn)
        self._changes.add(self._inventory.wanted.discovery)

    async def _reload(self) -> None:
        # While it starts, the service manager waits for the end of that.
        ready = self._ready
        if ready:
            self._notifier.reloading()
        began = reload.now()
        mistakes = await self._load()
        if not mistakes:
            await self._reconciler.read_parked()
        if ready:
            self._notifier.ready()
        await self._answer(began, mistakes)

    async def _answer(self, began: int, mistakes: tuple[Diagnostic, ...]) -> None:
        try:
            await self._blocking(reload.answer, began, mistakes)
        except state.StateError as error:
            log.error("cannot answer who asks for a reload: %s; free space there, or mount it writable", error)

    # News --------------------------------------------------------------------------------------------------

    def _woken(self, wake: socket.socket) -> None:
        while True:
            try:
                instance = wake.recv(4096).decode("utf-8", "replace")
            except BlockingIOError:
                return
            if instance == log_level.WAKE.decode():
                self._tasks.create_task(self._configuration.set_log_level())
            if state.valid_instance(instance):
                self._changes.add_report(instance)

    def _signalled(self, news: unit_signals.Signal) -> None:
        if isinstance(news, unit_signals.JobRemoved):
            self._starter.job_ended(news.instance)
            self._changes.add_unit(news.instance)
            return
        if isinstance(news, unit_signals.Released):
            self._changes.add_unit(news.instance)
            return
        if isinstance(news, unit_signals.ManagerChanged):
            self._starter.systemd_reloaded()
        elif isinstance(news, unit_signals.Shutdown) and not self._stop.is_set():
            self._tasks.create_task(self._tell_shutdown(news.begun))
        self._changes.add_all_units()

    async def _tell_shutdown(self, begun: bool) -> None:
        """Tell all workers: one whose target is dead must end what waits for it, before its own turn to stop comes."""
        for instance, unit in list(self._observed.units.items()):
            units = self._connection.units
            if unit.running and units is not None:
                with contextlib.suppress(UnitError):
                    await (units.going_down(instance) if begun else units.hang_up(instance))

    # Rounds ------------------------------------------------------------------------------------------------

    async def _rounds(self) -> Never:
        loop = asyncio.get_running_loop()
        loop.call_later(READY_TIMEOUT_SECONDS, self._become_ready)
        not_before = 0.0
        while True:
            await self._changes.wait()
            await asyncio.sleep(max(DEBOUNCE_SECONDS, not_before - loop.time()))
            worked = time.thread_time()
            # A worker that waits for it reports, and so there is a round.
            await self._configuration.abilities.look()
            await self._reconciler.round()
            self._former_owners.notice()
            self._notifier.status(self._reconciler.status)
            if self._reconciler.settled:
                self._become_ready()
            # Not the time that it has waited for files and for systemd; what others had of their turns counts.
            not_before = loop.time() + PAUSE_FACTOR * (time.thread_time() - worked)

    def _become_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._notifier.ready()


def _pass() -> None:
    """What a signal does that is not to end the process."""


def _each(errors: ExceptionGroup[Exception]) -> Iterator[Exception]:
    """Return the errors in a group of them, and in the groups in it."""
    for error in errors.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _each(error)
        else:
            yield error
