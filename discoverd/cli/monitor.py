# SPDX-License-Identifier: Apache-2.0
"""``discoverctl monitor``: a line for each thing that happens to a controller, as it happens."""

import contextlib
import errno
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from discoverd import state
from discoverd.cli import overview as overviews
from discoverd.cli import text
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview
from discoverd.kernel import inotify
from discoverd.kernel.inotify import Event, Inotify

# News come in bursts, so one look serves all of a tenth of a second; and the kernel tells nobody of some changes.
DEBOUNCE_SECONDS = 0.1
LOOK_SECONDS = 10.0
VERSION = 1


@dataclass(frozen=True, slots=True)
class Seen:
    """What is shown of a controller; ``losses`` and ``reconnects`` count since its worker began."""

    state: str
    device: str
    status: str
    decision: str
    losses: int = 0
    reconnects: int = 0


def watch(json: bool, look: Callable[[], Overview] | None = None, rounds: int = 0) -> Exit:
    """Print what changes until it is interrupted, or after so many ``rounds``, 0 for ever. Raises CliError."""
    look = look or (lambda: overviews.look(None))
    changes = _Changes()
    before = _see(look())
    if not json:
        text.line(f"{text.count(len(before), 'controller')}; what changes from now on follows")
    number = 0
    # An interrupt is how it is meant to end.
    with contextlib.suppress(KeyboardInterrupt):
        while not rounds or number < rounds:
            number += 1
            sys.stdout.flush()
            changes.wait()
            # Before the look, so that what changes in a new directory after it is not missed.
            changes.follow()
            now = _see(look())
            for name, kind, seen in _news(before, now):
                _tell(name, kind, seen, before.get(name), json)
            before = now
    return Exit.OK


class _Changes:
    """What is written about controllers in /run/discoverd, through inotify where there is one."""

    def __init__(self) -> None:
        try:
            self._inotify = Inotify()
            if not self._inotify.watch(state.ROOT):
                raise CliError(f"there is no {state.ROOT}; if discoverd does not run: systemctl start discoverd")
        except OSError as error:
            what = (
                "open too much already: fs.inotify.max_user_instances"
                if error.errno == errno.EMFILE
                else str(error.strerror)
            )
            raise CliError(f"cannot watch {state.ROOT}: {what}") from None
        self._watched: set[str] = set()
        self.follow()

    def follow(self) -> None:
        """Watch the controllers that there are by now."""
        # What could not be watched is tried at each look, and shows there until then.
        with contextlib.suppress(OSError):
            self._inotify.watch(state.ROOT)
            self._inotify.watch(state.CONTROLLERS)
            present = set(overviews.state_directories())
            self._watched &= present
            for instance in present - self._watched:
                if self._inotify.watch(state.directory(instance)):
                    self._watched.add(instance)

    def wait(self) -> None:
        """Return when something may have changed."""
        if select.select([self._inotify], [], [], LOOK_SECONDS)[0]:
            time.sleep(DEBOUNCE_SECONDS)
            while events := self._inotify.read():
                for event in events:
                    self._forget(event)

    def _forget(self, event: Event) -> None:
        """Count as not watched what is no more: another directory may have its name by now."""
        if event.mask & inotify.OVERFLOW:
            self._watched.clear()
        elif event.mask & (inotify.DELETE_SELF | inotify.MOVE_SELF):
            self._watched.discard(os.path.basename(event.directory))


def _see(overview: Overview) -> dict[str, Seen]:
    return {_key(one): _seen(one) for one in overview.controllers}


def _key(controller: Controller) -> str:
    """Return the instance; one that has no unit may share it with another of that name."""
    return (
        controller.name
        if controller.known or not controller.device
        else f"{controller.name} ({controller.device.name})"
    )


def _seen(controller: Controller) -> Seen:
    report, planned, device = controller.report, controller.planned, controller.device
    # Without systemd's word the worker's own counts.
    said = report.state if report else device.kernel.state if device else controller.state
    status = report.status if report else controller.status
    decision = f"{planned.action}: {planned.reason}" if planned else ""
    counts = (report.losses, report.reconnects) if report else (0, 0)
    return Seen(said, device.name if device else "", status, decision, *counts)


def _news(before: Mapping[str, Seen], now: Mapping[str, Seen]) -> list[tuple[str, str, Seen]]:
    news = [(name, "new", now[name]) for name in now if name not in before]
    news += [(name, "gone", before[name]) for name in before if name not in now]
    for name in now:
        if name in before and now[name] != before[name]:
            was, one = before[name], now[name]
            if _state(was) != _state(one) or _lost(was, one):
                news.append((name, "changed", one))
            elif was.decision != one.decision:
                news.append((name, "decided", one))
    return news


def _state(seen: Seen) -> tuple[str, str, str]:
    return seen.state, seen.device, seen.status


def _lost(was: Seen, now: Seen) -> bool:
    """Tell whether its connection was lost or made again since; another worker begins to count anew."""
    return now.losses > was.losses or now.reconnects > was.reconnects


def _tell(name: str, kind: str, seen: Seen, was: Seen | None, json: bool) -> None:
    if json:
        import json as encoder

        fields = {"version": VERSION, "time": time.time(), "controller": name, "event": kind, **asdict(seen)}
        sys.stdout.write(encoder.dumps(fields) + "\n")
        return
    what = seen.decision if kind == "decided" else "" if kind == "gone" else seen.status or seen.state
    if kind == "changed" and was and _state(was) == _state(seen):
        what += "; its connection was lost and made again"
    text.line(f"{time.strftime('%H:%M:%S')}  {kind:<8}{name}" + (f": {what}" if what else ""))
