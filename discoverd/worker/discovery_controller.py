# SPDX-License-Identifier: Apache-2.0
"""A worker's conversation with a discovery controller, in threads: the log page is read, and the host registered."""

import time

from discoverd import notify, state
from discoverd.kernel import admin
from discoverd.worker import discovery
from discoverd.worker.registration import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from discoverd.kernel import dim
    from discoverd.worker.interrogation import Interrogation

    class Call(Protocol):
        """What runs in a thread."""

        done: bool
        error: Exception | None


_BOOTTIME = 7


class DiscoveryController:
    """Asks what :class:`discovery.Discovery` decides to ask, and keeps the log page in ``directory``.

    ``start`` runs a function in a thread. ``record`` is what the controller may have on record of this host.
    """

    def __init__(
        self,
        directory: str,
        spec: state.Spec,
        random: "Callable[[], float]",
        start: "Callable[[Callable[[], Any]], Call]",
    ) -> None:
        self.discovery = discovery.Discovery(spec, random)
        self.record = Record()
        self._directory = directory
        self._start = start
        self._reading: Call | None = None
        self._registering: Call | None = None

    def request(self, fresh: bool = False) -> None:
        """Have the log page read; see Discovery.request."""
        self.discovery.request(time.monotonic(), fresh)

    def respecify(self, spec: state.Spec) -> None:
        """Take a new specification."""
        self.discovery.respecify(time.monotonic(), spec)

    def lost(self, seconds: float) -> None:
        """Take note of a connection that was lost after it had lasted for so many ``seconds``."""
        self.discovery.persistence.lost(self.discovery.spec, seconds)

    def abandon(self) -> None:
        """Do not wait for a reading: it may hang until its time-out, and is made anew if the controller stays."""
        if self._reading is not None:
            self._reading = None
            self.discovery.abandon(time.monotonic())

    def forget(self) -> None:
        """The controller is no more. A reading ends by itself, with nothing that still matters."""
        self._reading = None
        self.discovery.forget()

    def attend(self, device: str, sysfs_inode: int, live: bool, told: str) -> str | None:
        """Begin what there is to ask the controller now, and return why its connection is not to be persistent.

        '' if it is; None as long as that is not decided, or a reading is under way. Nothing is begun if that is news to
        who asks, who was ``told`` something else before.
        """
        now = time.monotonic()
        self.discovery.tick(now, live)
        verdict = self.discovery.verdict()
        if self._reading is None and verdict and verdict != told:
            return verdict
        if (asked := self.discovery.begin(now)) is not None:
            self._reading = self._read(asked, device, sysfs_inode)
        if (host := self.discovery.registration.begin(self.discovery.spec)) is not None:
            self._registering = self._register(host, device, sysfs_inode)
        return self.discovery.verdict() if self._reading is None else None

    def _read(self, asked: "Interrogation", device: str, instance: int) -> "Call":
        return self._start(lambda: asked.run(device, instance))

    def _register(self, host: "dim.Host", device: str, instance: int) -> "Call":
        self.record.expect()
        return self._start(lambda: self.record.register(device, instance, host))

    @property
    def has_read(self) -> bool:
        """Tell whether a reading has ended that was not heard yet."""
        return self._reading is not None and self._reading.done

    def hear(self) -> None:
        """Take in what has ended."""
        if self._reading is not None and self._reading.done:
            call, self._reading = self._reading, None
            self._reading_ended(call.error)
        if self._registering is not None and self._registering.done:
            call, self._registering = self._registering, None
            _expect(call.error)
            priority, text = self.discovery.registration.ended(time.monotonic(), call.error)
            if text:
                notify.log(priority, text)

    def _reading_ended(self, error: Exception | None) -> None:
        _expect(error)
        page = self.discovery.to_keep(time.clock_gettime(_BOOTTIME)) if error is None else None
        not_kept = ""
        if page is not None:
            try:
                state.write(self._directory + "/log", page, state.PUBLIC)
            except state.StateError as full:
                not_kept = f"cannot keep it: {full}"
        for priority, text in self.discovery.ended(time.monotonic(), error, not_kept):
            notify.log(priority, text)

    def pause(self) -> tuple[float, str]:
        """Return in how many seconds a controller that was disconnected is read again, and how often it is, in words.

        What was decided anew meanwhile is worth another look at once.
        """
        usual = self.discovery.spec.parked_interval
        seconds = self.discovery.interval(usual)
        often = f"{seconds:.0f} s" if seconds % 60 else f"{seconds // 60:.0f} min"
        decided = self.discovery.persistence.persistent is False
        return self.discovery.pause(usual) if decided else 0.0, often


def _expect(error: Exception | None) -> None:
    """Raise an error that neither the controller nor the kernel is at fault for."""
    if error is not None and not isinstance(error, (OSError, admin.AdminError)):
        raise error
