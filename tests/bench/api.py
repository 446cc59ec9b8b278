# SPDX-License-Identifier: Apache-2.0
"""What the D-Bus API costs with a thousand controllers: a made-up host, a real dbus-daemon, no machine.

    python -m tests.bench.api [--controllers N] [--rounds N]

First, what it takes to marshal the answer to GetManagedObjects: with dbus-next, with jeepney, and from entries that are
kept. Then the API in a process of its own: the longest turn of its loop, while everything is asked for twenty times at
once, while every worker reports, and while others ask for all in a loop; and how long a stop takes meanwhile.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from discoverd import store
from discoverd.api import properties, wire
from discoverd.api.interfaces import CONTROLLER, CONTROLLERS, NAME, OBJECT_MANAGER, OURS, PEER, ROOT, object_path
from discoverd.api.tree import Tree
from discoverd.cli import overview, plan_file
from discoverd.cli.unit import Unit
from discoverd.systemd.fragments import Fragments
from discoverd.tid import unit_name
from tests.unit import private_bus
from tests.unit.private_bus import Bus, Client, client, instance, populate, report

AT_ONCE = 20
_SIGNATURE = "a{oa{sa{sv}}}"


def milliseconds(work: Callable[[], object], rounds: int) -> str:
    """Return the median and the longest of so many runs, in time of the processor: machines have other work."""
    took = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        took.append((time.process_time() - began) * 1000)
    return f"{statistics.median(took):8.1f} ms, at most {max(took):.1f} ms"


def marshalling(names: list[str], rounds: int) -> None:
    """Compare the ways to make the answer."""
    with warnings.catch_warnings(action="ignore"):
        from dbus_next import Variant
        from dbus_next._private.marshaller import Marshaller
    units = {name: Unit(unit_name(name), "loaded", "active", "running", False, "/a") for name in names}
    specs = {name: store.read_spec(name) for name in names}
    reports = {name: store.read_report(name) for name in names}
    began = time.process_time()
    now = overview.assemble(plan_file.read(), units, specs, reports, [], Fragments())
    print(f"facts to controllers:              {(time.process_time() - began) * 1000:8.1f} ms")
    tree = Tree(lambda *_: None)
    began = time.process_time()
    found = {
        path: properties.controller(one, None, properties.Identify()) for path, one in properties.paths(now).items()
    }
    print(f"controllers to properties:         {(time.process_time() - began) * 1000:8.1f} ms")
    began = time.process_time()
    for path, interfaces in found.items():
        tree.put(path, interfaces)
    print(f"properties to entries, each once:  {(time.process_time() - began) * 1000:8.1f} ms")
    signatures = {one.name: dict(one.properties) for one in OURS.values()}
    typed = {
        path: {
            name: {key: (signatures[name][key], value) for key, value in given.items()}
            for name, given in interfaces.items()
        }
        for path, interfaces in found.items()
    }
    variants = {
        path: {name: {key: Variant(*pair) for key, pair in given.items()} for name, given in interfaces.items()}
        for path, interfaces in typed.items()
    }
    whole = wire.marshal(_SIGNATURE, typed)
    assert tree.managed() == whole
    print(f"the answer, {len(whole)} bytes:")

    def anew() -> None:
        tree._managed = None
        tree.managed()

    print("  dbus-next        ", milliseconds(lambda: Marshaller(_SIGNATURE, [variants]).marshall(), rounds))
    print("  jeepney          ", milliseconds(lambda: wire.marshal(_SIGNATURE, typed), rounds))
    print("  kept entries     ", milliseconds(anew, rounds))
    print("  kept answer      ", milliseconds(tree.managed, rounds))


async def stop(one: Client, number: int) -> float:
    """Return how many milliseconds it takes until a stop is answered."""
    began = time.perf_counter()
    path = object_path(CONTROLLERS, instance(number))
    await one.call(path, CONTROLLER, "Stop", answer="o", seconds=60)
    return (time.perf_counter() - began) * 1000


async def process(bus: Bus, count: int, rounds: int) -> None:
    """Measure the API's process."""
    began = time.perf_counter()
    async with bus.api_process() as api, contextlib.AsyncExitStack() as stack:
        print(f"from its start to its name on the bus: {(time.perf_counter() - began) * 1000:.0f} ms")
        one = await stack.enter_async_context(client())
        others = [await stack.enter_async_context(client()) for _ in range(4)]

        async def tell(what: str, seconds: float) -> None:
            told = await api.measured()
            print(
                f"{what:34} longest turn {told['longest_us'] / 1000:6.1f} ms (work "
                f"{told['worked_us'] / 1000:5.1f}), processor "
                f"{told['cpu_us'] / 1000:7.0f} ms of {seconds * 1000:6.0f}, memory {told['rss_kb'] / 1024:5.1f} MiB"
            )

        await api.measured()
        await asyncio.sleep(2)
        await tell("nothing", 2)
        for _ in range(rounds):
            began = time.perf_counter()
            await asyncio.gather(*(one.all_bytes() for _ in range(AT_ONCE)))
            await tell(f"everything, {AT_ONCE} times at once", time.perf_counter() - began)
        took = [await stop(one, number) for number in range(10)]
        print(f"a stop, until it is answered: {statistics.median(took):.1f} ms, at most {max(took):.1f} ms")
        await api.measured()

        def all_report(now: str) -> None:
            for number in range(count):
                report(instance(number), now, status=now)

        for now in ("connecting", "waiting"):
            began = time.perf_counter()
            await asyncio.to_thread(all_report, now)
            await asyncio.gather(*(one.all_bytes() for _ in range(AT_ONCE)))
            await asyncio.sleep(5)
            await tell("every worker reports, and the same", time.perf_counter() - began)

        async def ask(who: Client) -> None:
            while True:
                for _ in range(8):
                    fields = {wire.PATH: ROOT, wire.INTERFACE: OBJECT_MANAGER, wire.MEMBER: "GetManagedObjects"}
                    who.connection.send(wire.CALL, {**fields, wire.DESTINATION: NAME})
                await who.call(ROOT, PEER, "Ping", seconds=60)

        asking = [asyncio.create_task(ask(who)) for who in others]
        await asyncio.sleep(1)
        began = time.perf_counter()
        took = [await stop(one, number) for number in range(10)]
        await tell("four ask for all in a loop", time.perf_counter() - began)
        print(f"a stop meanwhile: {statistics.median(took):.1f} ms, at most {max(took):.1f} ms")
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the D-Bus API costs.")
    parser.add_argument("--controllers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        private_bus.make(Path(folder))
        private_bus.patch(Path(folder), monkeypatch)
        bus = Bus(Path(folder))
        bus.acting.set()
        try:
            marshalling(populate(bus, asked.controllers), max(3, asked.rounds))
            asyncio.run(process(bus, asked.controllers, asked.rounds))
        finally:
            bus.end()


if __name__ == "__main__":
    main()
