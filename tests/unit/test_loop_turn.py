# SPDX-License-Identifier: Apache-2.0
"""Long work of the supervisor, done a piece in each turn of its loop, and what others do in between.

Nothing here asserts how long a piece takes: pieces are counted, with a clock that is always late.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from discoverd.plan import planner
from discoverd.plan.candidate import MDNS, Candidate
from discoverd.plan.facts import Decision, Facts, Known
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import LogPage, PageRead
from discoverd.sources import discovery_log, walk
from discoverd.sources.discovery_log import Listing, Parent
from discoverd.supervisor import loop_turn, reconciler
from discoverd.supervisor.inventory import Inventory
from discoverd.supervisor.loop_turn import LoopTurn
from discoverd.tid import DISCOVERY

from .fake_host import DC, Host, leave_log, until
from .log_pages import entry
from .test_inventory import House, in_loop, listing, wish

ENTRIES = 64


@pytest.fixture(autouse=True)
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn is long as soon as it begins, and there is much to do."""
    monkeypatch.setattr(loop_turn, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(walk, "ANNOUNCED_LISTED", 100 * ENTRIES)


class Turns:
    """Counts the loop's turns, and does something in each."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.count = 0
        self._meanwhile = meanwhile
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.count += 1
            self._meanwhile()
            await asyncio.sleep(0)

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def test_short_work_is_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_turn, "TURN_SECONDS", 1e9)

    async def main() -> None:
        turns = Turns()
        mine = LoopTurn()
        for _ in range(100):
            await mine.end_if_long()
        assert turns.count == 0
        await turns.end()

    asyncio.run(main())


def test_turn_begins_anew_when_others_had_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which each look takes a second."""
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(loop_turn, "TURN_SECONDS", 10.0)

    async def main() -> None:
        monkeypatch.setattr(time, "monotonic", monotonic)
        turns = Turns()
        mine = LoopTurn()
        for _ in range(100):
            await mine.end_if_long()
        monkeypatch.undo()
        assert 8 <= turns.count <= 11
        await turns.end()

    asyncio.run(main())


def roots(house: House, count: int) -> list[str]:
    """Announce discovery controllers, each with a page of its own."""
    wishes = [wish(MDNS, f"192.0.2.{number + 1}") for number in range(count)]
    house.configure()
    house.say(house.inventory.mdns, *wishes)
    for number, one in enumerate(wishes):
        names = [f"{number}-{index}" for index in range(ENTRIES)]
        house.inventory.put_page(one.tid.instance, PageRead(listing(*names), 1.0, "1"))
    return [one.tid.instance for one in wishes]


def test_each_page_is_understood_and_put_in_a_turn_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    work: Counter[tuple[str, int]] = Counter()
    understand, put = discovery_log.candidates, Wanted.put

    async def scenario(house: House) -> None:
        roots(house, 8)
        turns = Turns()

        def understood(page: LogPage, parent: Parent, *more: object) -> Listing:
            work["page", turns.count] += 1
            return understand(page, parent, *more)  # type: ignore[arg-type]

        def counted(wanted: Wanted, origin: str, candidates: tuple[Candidate, ...]) -> None:
            if len(candidates) == ENTRIES:
                work["put", turns.count] += 1
            put(wanted, origin, candidates)

        monkeypatch.setattr(discovery_log, "candidates", understood)
        monkeypatch.setattr(Wanted, "put", counted)
        await house.inventory.update()
        assert (work.total(), max(work.values())) == (16, 1)
        assert len(house.asked) == 8 * (ENTRIES + 1)
        await turns.end()

    in_loop(scenario)


def state_of(inventory: Inventory) -> list[object]:
    pages = inventory.log_pages
    return [
        inventory.wanted.asked,
        inventory.authoritative,
        inventory.excluded,
        pages.pending,
        pages.waiting,
        pages.listed,
        pages.closed,
        pages.depths,
        pages.refusals,
    ]


def test_result_is_the_same_in_one_turn_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for seconds in (1e9, 0.0):
        monkeypatch.setattr(loop_turn, "TURN_SECONDS", seconds)

        async def scenario(house: House) -> None:
            house.exclude("transport=tcp;nqn=nqn.0-0")
            names = roots(house, 4)
            touched = [list(await house.inventory.update())]
            house.inventory.put_page(names[0], PageRead(replace(listing("0-0", "x"), generation=2), 2.0, "1"))
            touched.append(sorted(await house.inventory.update()))
            results.append([*touched, *state_of(house.inventory)])

        in_loop(scenario)
    assert results[0] == results[1]


def test_news_that_come_meanwhile_are_for_the_next_update() -> None:
    """And make none of what this one works with another."""

    async def scenario(house: House) -> None:
        names = roots(house, 4)
        later = wish(MDNS, "192.0.2.99")
        calls = 0

        def meanwhile() -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                house.say(house.inventory.mdns, later)

        turns = Turns(meanwhile)
        seen = await house.inventory.update()
        assert calls > 3
        assert later.tid.instance not in seen
        assert set(names) <= seen.keys()
        assert len(house.asked) == 4 * (ENTRIES + 1)
        await turns.end()
        assert set(await house.inventory.update()) == {*names, later.tid.instance} | seen.keys()
        assert set(house.asked) == {later.tid.instance}

    in_loop(scenario)


def test_controllers_that_become_known_meanwhile_still_count_as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts write specifications while pages are followed, and room is for so many in all."""
    monkeypatch.setattr(walk, "ANNOUNCED_LISTED", ENTRIES)

    async def scenario(house: House) -> None:
        roots(house, 4)

        def meanwhile() -> None:
            # Once the first page has been put.
            for number in range(1, 4 if house.inventory.wanted.origins() - {MDNS} else 0):
                house.known |= {
                    f"tcp:192.0.2.1:4420:nqn.{number}-{index}": Known("listed", "a") for index in range(ENTRIES)
                }

        turns = Turns(meanwhile)
        await house.inventory.update()
        await turns.end()
        assert len(house.known) == 3 * ENTRIES
        assert len(house.asked) == 4 + ENTRIES

    in_loop(scenario)


def test_decisions_are_made_and_carried_out_a_piece_in_each_turn(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure("[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.1\n")
    work: Counter[tuple[str, int]] = Counter()
    plan, apply = planner.plan, reconciler.Reconciler._apply

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        turns = Turns()

        def planned(facts: Facts, instances: list[str]) -> list[Decision]:
            work["plan", turns.count] += len(instances)
            return plan(facts, instances)

        def applied(self: reconciler.Reconciler, decision: Decision) -> Awaitable[None]:
            work["apply", turns.count] += 1
            return apply(self, decision)

        monkeypatch.setattr(reconciler, "plan", planned)
        monkeypatch.setattr(reconciler.Reconciler, "_apply", applied)
        leave_log(*(entry(f"nqn.{number}") for number in range(ENTRIES)))
        await until(lambda: len(host.decisions) == ENTRIES + 1)
        assert sum(count for (kind, _), count in work.items() if kind == "apply") >= ENTRIES
        assert max(work.values()) == 1
        await turns.end()

    assert host.play(scenario) == 0


def test_round_ends_though_something_is_new_all_the_time(host: Host) -> None:
    """Whoever announces, and lists, something else in each turn of the loop keeps nobody else waiting."""
    host.configure("[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.1\n")

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        mdns = host.inventory.mdns
        numbers = iter(range(10**9))

        def meanwhile() -> None:
            one = wish(MDNS, f"192.0.2.{next(numbers) % 200 + 2}", DISCOVERY)
            mdns.wishes = (one,)
            host.inventory._news()

        turns = Turns(meanwhile)
        leave_log(entry("nqn.a"))
        await until(lambda: any("nqn.a" in one for one in host.decisions))
        await turns.end()

    assert host.play(scenario) == 0
    assert DC in host.systemd.started
