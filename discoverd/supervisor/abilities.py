# SPDX-License-Identifier: Apache-2.0
"""Which options of connects the kernel knows: asked beside everything else, and kept for the workers.

The kernel answers only when nothing is being connected, and a peer decides how long that takes.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from threading import Thread
from typing import Any

from discoverd import state, store
from discoverd.kernel import fabrics

log = logging.getLogger("discoverd")


class Abilities:
    """``known`` are the options, None where the kernel does not tell, or has not answered yet.

    ``blocking`` runs a function beside the loop, one at a time; what waits for the kernel runs in a thread of its own,
    which may outlive the loop. ``answered`` is called in the loop when the kernel has said what was not known before.
    """

    def __init__(self, blocking: Callable[..., Awaitable[Any]], answered: Callable[[], None]) -> None:
        self.known: frozenset[str] | None = None
        self._blocking = blocking
        self._answered = answered
        # The module that ``known`` is about; 0 for none.
        self._module = 0
        # It has answered, and does not tell (before 5.17).
        self._silent = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._complaint = ""

    @property
    def unique_nqn(self) -> bool:
        """Tell whether the kernel takes any NQN for a discovery controller's (since 5.16), as far as it has answered.

        Of one that does not tell that is not certain; every discovery controller has the well-known NQN as well.
        """
        return not self._silent if self.known is None else "discovery" in self.known

    async def look(self, seconds: float = 0) -> None:
        """Have the kernel asked, if it has not said it about the module that is loaded, and wait ``seconds`` for it."""
        module = await self._blocking(fabrics.module)
        if self._idle.is_set() and (seconds or module != self._module):
            await self._remember(module)
        if seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)

    async def _remember(self, module: int) -> None:
        try:
            self._take(module, await self._blocking(fabrics.abilities))
        except fabrics.UnknownAbilitiesError:
            self._idle.clear()
            Thread(target=self._ask, args=(asyncio.get_running_loop(), module), name="abilities", daemon=True).start()
        except OSError:
            self._module = 0  # Without the device every connect fails, and says so.

    def _ask(self, loop: asyncio.AbstractEventLoop, module: int) -> None:
        known: set[str] | None = None
        complaint = ""
        try:
            known = fabrics.supported()
            store.write_abilities(module, known)
        except OSError as error:
            complaint = f"cannot read {fabrics.DEVICE}: {error.strerror}"
        except state.StateError as error:
            complaint = f"workers cannot connect: {error}; free space there, or mount it writable"
        with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(self._hear, module, known, complaint)

    def _hear(self, module: int, known: set[str] | None, complaint: str) -> None:
        self._idle.set()
        if complaint and complaint != self._complaint:
            log.error("%s", complaint)
        self._complaint = complaint
        if not complaint:
            self._take(module, known)
            self._answered()

    def _take(self, module: int, known: set[str] | None) -> None:
        self._module, self._silent = module, known is None
        self.known = None if known is None else frozenset(known)
