# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a fabric while it serves: one JSON object an order, one JSON object an answer."""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from .fabric import Entry, Fabric, Instance, Zone
from .misbehaviour import Distortion, Rule
from .server import Server

Answer = dict[str, object]
# Of an instance, what an order may not change.
FIXED = {"name", "address", "port", "counters", "distortion"}


class OrderError(Exception):
    """An order that makes no sense; the text says why."""


class Orders:
    """Carries orders out. README.md lists them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._fabric = server.fabric
        self._storms: set[asyncio.Task[None]] = set()

    async def carry_out(self, order: Mapping[str, Any]) -> Answer:
        """Raises OrderError."""
        words = dict(order)
        name = str(words.pop("order", ""))
        method: Callable[..., Any] | None = getattr(self, "_do_" + name.replace("-", "_"), None)
        if method is None:
            known = sorted(word[4:].replace("_", "-") for word in dir(self) if word.startswith("_do_"))
            raise OrderError(f"no order {name!r}; there are {', '.join(known)}")
        try:
            answer = method(**words)
            if asyncio.iscoroutine(answer):
                answer = await answer
        except (TypeError, ValueError, KeyError, OSError) as error:
            raise OrderError(f"{name}: {type(error).__name__}: {error}") from error
        return answer or {}

    async def end(self) -> None:
        """Ends storms that are under way."""
        for storm in self._storms:
            storm.cancel()
        await asyncio.gather(*self._storms, return_exceptions=True)

    # What there is

    def _do_status(self) -> Answer:
        shown = {}
        for name, instance in self._fabric.instances.items():
            facts = dataclasses.asdict(instance)
            facts["counters"] = dict(instance.counters)
            facts["listening"] = self._server.listens(name)
            facts["connections"] = self._server.connections(name)
            shown[name] = facts
        rules = [dataclasses.asdict(rule) for rule in self._fabric.behaviour.rules]
        return {"instances": shown, "rules": rules, "storms": len(self._storms)}

    def _do_counters(self, instance: str | None = None) -> Answer:
        """Of one instance, or summed over all."""
        total: dict[str, object] = {}
        for one in self._chosen(instance):
            for name, count in one.counters.items():
                total[name] = int(str(total.get(name, 0))) + count
        return total

    def _do_record(self, instance: str | None = None, what: str | None = None, raw: bool = False) -> Answer:
        """History, and who is registered; `raw` adds what each registration's bytes were."""
        record = self._fabric.record
        history = [
            note for note in record.history if instance in (None, note["instance"]) and what in (None, note["what"])
        ]
        registered = []
        for (name, nqn), told in record.registered.items():
            if instance in (None, name):
                facts = dataclasses.asdict(told) | {"host_id": told.host_id, "symbolic_name": told.symbolic_name}
                facts["raw"] = told.raw.hex() if raw else len(told.raw)
                registered.append(facts | {"instance": name, "nqn": nqn})
        return {"history": history, "registered": registered}

    def _do_forget(self) -> None:
        """Empties the record and the counters."""
        self._fabric.record.forget()
        for instance in self._fabric.instances.values():
            instance.counters.clear()

    # What hosts see

    def _do_load(self, quiet: bool = False, **model: Any) -> Answer:
        """Entries, zones and referrals, each as a whole where named; instances only before they listen."""
        fill(self._fabric, model)
        return self._changed(quiet)

    def _do_add(self, quiet: bool = False, **entry: Any) -> Answer:
        self._fabric.entries.append(_entry(entry))
        return self._changed(quiet)

    def _do_remove(self, nqn: str, traddr: str | None = None, quiet: bool = False) -> Answer:
        before = len(self._fabric.entries)
        self._fabric.entries = [
            entry for entry in self._fabric.entries if entry.nqn != nqn or traddr not in (None, entry.traddr)
        ]
        return {"removed": before - len(self._fabric.entries)} | self._changed(quiet)

    def _do_zone(self, name: str, quiet: bool = False, **zone: Any) -> Answer:
        self._fabric.zones[name] = _zone(zone)
        return self._changed(quiet)

    def _do_unzone(self, name: str, quiet: bool = False) -> Answer:
        del self._fabric.zones[name]
        return self._changed(quiet)

    def _do_refer(self, instance: str, to: list[str], quiet: bool = False) -> Answer:
        """The instance refers to these instances, and to no others."""
        for name in (instance, *to):
            self._instance(name)
        self._fabric.referrals[instance] = list(to)
        return self._changed(quiet)

    def _do_instance(self, name: str, quiet: bool = False, **values: Any) -> Answer:
        instance = self._instance(name)
        for key, value in values.items():
            if key in FIXED or key not in {field.name for field in dataclasses.fields(Instance)}:
                raise OrderError(f"instance: {key!r} is nothing to change")
            setattr(instance, key, value)
        return self._changed(quiet)

    def _do_page(self, instance: str | None = None, quiet: bool = False, **values: Any) -> Answer:
        """Distorts log pages from now on; without values they are right again."""
        distortion = Distortion(**values)
        for one in self._chosen(instance):
            one.distortion = distortion
        return self._changed(quiet, always=True)

    # What happens

    def _do_event(
        self,
        instance: str | None = None,
        host: str | None = None,
        count: int = 1,
        seconds: float = 0,
        force: bool = False,
        change: bool = False,
    ) -> None:
        """Events, spread over `seconds`. `force`: also to a host that has not read the page since the last;
        `change`: each with a new generation."""
        self._chosen(instance)

        def once() -> None:
            for session in tuple(self._fabric.sessions):
                if instance in (None, session.instance.name) and host in (None, session.host):
                    if change:
                        self._fabric.advance(session.instance, session.host)
                    session.notify(force=force)

        async def storm() -> None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in range(count):
                await asyncio.sleep(max(0, began + seconds * number / count - loop.time()))
                once()

        if count == 1:
            once()
        else:
            task = asyncio.create_task(storm())
            self._storms.add(task)
            task.add_done_callback(self._storms.discard)

    def _do_misbehave(self, first: bool = False, **rule: Any) -> None:
        rules = self._fabric.behaviour.rules
        rules.insert(0 if first else len(rules), Rule(**rule))

    def _do_behave(self) -> Answer:
        """No rules and no distortions any more."""
        self._fabric.behaviour.rules.clear()
        distorted = [one for one in self._fabric.instances.values() if one.distortion != Distortion()]
        for instance in distorted:
            instance.distortion = Distortion()
        return self._changed(False, always=True) if distorted else {}

    def _do_disconnect(self, instance: str | None = None, host: str | None = None) -> Answer:
        return {"connections": self._server.disconnect("on order", instance, host)}

    async def _do_down(self, instance: str) -> None:
        """The instance dies: its port refuses, its connections are reset."""
        self._instance(instance)
        await self._server.down(instance)

    async def _do_up(self, instance: str) -> None:
        self._instance(instance)
        await self._server.up(instance)

    def _changed(self, quiet: bool, *, always: bool = False) -> Answer:
        return {"views": self._fabric.changed(quiet=quiet, always=always)}

    def _instance(self, name: str) -> Instance:
        if name not in self._fabric.instances:
            raise OrderError(f"no instance {name!r}; there are {', '.join(self._fabric.instances)}")
        return self._fabric.instances[name]

    def _chosen(self, name: str | None) -> list[Instance]:
        return list(self._fabric.instances.values()) if name is None else [self._instance(name)]


def fill(fabric: Fabric, model: Mapping[str, Any]) -> None:
    """Takes over what a description of a fabric names. Raises OrderError, TypeError, ValueError."""
    unknown = model.keys() - {"instances", "entries", "zones", "referrals", "rules"}
    if unknown:
        raise OrderError(f"a fabric has no {', '.join(sorted(unknown))}")
    for name, values in model.get("instances", {}).items():
        fabric.instances[name] = Instance(name, **values)
    if "entries" in model:
        fabric.entries = [_entry(entry) for entry in model["entries"]]
    if "zones" in model:
        fabric.zones = {name: _zone(zone) for name, zone in model["zones"].items()}
    for name, to in model.get("referrals", {}).items():
        if not {name, *to} <= fabric.instances.keys():
            raise OrderError(f"a referral from {name} to {', '.join(to)}, of which not all are instances")
        fabric.referrals[name] = list(to)
    fabric.behaviour.rules += [Rule(**rule) for rule in model.get("rules", ())]


def _entry(values: Mapping[str, Any]) -> Entry:
    instances = values.get("instances")
    return Entry(**{**values, "instances": None if instances is None else tuple(instances)})


def _zone(values: Mapping[str, Any]) -> Zone:
    unknown = values.keys() - {"hosts", "subsystems"}
    if unknown:
        raise OrderError(f"a zone has no {', '.join(sorted(unknown))}")
    return Zone(frozenset(values.get("hosts", ())), frozenset(values.get("subsystems", ())))
