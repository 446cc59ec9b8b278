# SPDX-License-Identifier: Apache-2.0
"""The objects that an overview makes: which there are, and what has changed since the one before.

They are put one after the other, with turns for callers in between, and while the bus takes what it is sent.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from discoverd import state
from discoverd.api import TURN_SECONDS, properties
from discoverd.api.interfaces import ROOT, SUBSYSTEMS, object_path
from discoverd.api.log_page import Head
from discoverd.api.properties import Identify
from discoverd.api.tree import Tree
from discoverd.cli.overview import Controller, Overview
from discoverd.supervisor.loop_turn import LoopTurn

# Path, instance, state, controller.
Transition = Callable[[str, str, str, Controller | None], None]
_NOBODY = Identify()


class Objects:
    """What the ``tree`` shows: the ``controllers`` by the paths of their objects, and in ``named`` by their names.
    Several have one name where only the host's side tells them apart.

    ``room`` waits until what was said has gone out; ``changed_state`` is called when a controller's state has changed,
    with its path, its name, the state, and the controller, None for one that is no more.
    """

    def __init__(self, tree: Tree, room: Callable[[], Awaitable[None]], changed_state: Transition) -> None:
        self._tree = tree
        self._room = room
        self._changed_state = changed_state
        self.controllers: Mapping[str, Controller] = {}
        self.named: Mapping[str, Sequence[Controller]] = {}
        self._heads: Mapping[str, Head | None] = {}
        self._subsystems: set[str] = set()

    async def show(self, now: Overview, heads: Mapping[str, Head], identified: Mapping[str, Identify]) -> None:
        """Show controllers and subsystems; ``heads`` of log pages are by instance, ``identified`` is by device."""
        found, named = await asyncio.to_thread(_index, now)
        turn = LoopTurn(TURN_SECONDS)
        before, before_heads = self.controllers, self._heads
        shown_heads: dict[str, Head | None] = {}
        self.controllers, self.named, self._heads = found, named, shown_heads
        groups: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)
        for path, one in found.items():
            head = shown_heads[path] = heads.get(one.name)
            if nqn := properties.subsystem_of(one):
                groups[nqn].append((path, one.live))
            was = before.get(path)
            if was != one or before_heads.get(path) != head:
                await self._room()
                extra = identified.get(one.device.name, _NOBODY) if one.device else _NOBODY
                self._tree.put(path, properties.controller(one, head, extra))
                if was is None or was.state != one.state:
                    self._changed_state(path, one.name, one.state, one)
            await turn.end_if_long()
        for path in before.keys() - found.keys():
            await self._room()
            self._tree.drop(path)
            self._changed_state(path, before[path].name, state.GONE, None)
            await turn.end_if_long()
        await self._show_subsystems(groups, turn)

    async def _show_subsystems(self, groups: Mapping[str, list[tuple[str, bool]]], turn: LoopTurn) -> None:
        shown = {object_path(SUBSYSTEMS, nqn): nqn for nqn in groups}
        for path, nqn in shown.items():
            await self._room()
            self._tree.put(path, properties.subsystem(nqn, groups[nqn]))
            await turn.end_if_long()
        for path in self._subsystems - shown.keys():
            self._tree.drop(path)
        self._subsystems = set(shown)

    async def show_manager(self, now: Overview, daemon: tuple[str, str], host: tuple[str, str]) -> None:
        """Show the root object; ``daemon`` and ``host`` are as for :func:`properties.manager`."""
        await self._room()
        self._tree.put(ROOT, properties.manager(now, daemon, host))


def _index(now: Overview) -> tuple[Mapping[str, Controller], dict[str, list[Controller]]]:
    """Return the controllers by the paths of their objects, and by their names."""
    named: defaultdict[str, list[Controller]] = defaultdict(list)
    for one in now.controllers:
        named[one.name].append(one)
    return properties.paths(now), dict(named)
