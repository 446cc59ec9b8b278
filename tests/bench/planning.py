# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench.planning`: what it costs to know many controllers. Needs no machine and no root.

Prints CPU time of this process, the best of several rounds. Nothing here passes or fails. The service manager and the
workers are made up (tests/unit/fake_host.py), so what systemd's half costs is not in it; the state files are real.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from discoverd import state
from discoverd.config.identity import HostIdentity
from discoverd.config.model import DiscoveredScope, FabricsConfig, Secrets
from discoverd.plan.candidate import MDNS, Candidate, Wish, granted
from discoverd.plan.facts import Action, Facts, UnitFact
from discoverd.plan.folding import Wanted
from discoverd.plan.log_page import PageRead, parse
from discoverd.plan.planner import plan
from discoverd.sources.discovery_log import Parent, candidates
from discoverd.sources.log_pages import LogPages
from discoverd.sources.walk import Context
from discoverd.supervisor import daemon
from discoverd.supervisor.changes import Changes
from discoverd.systemd import unit_signals
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, TransportId
from tests.unit.fake_host import Host, install, quiet, report, until
from tests.unit.log_pages import entry, page

ENTRIES = 1000
MANY = 10_000
KNOWN = (10, 100, 1000, 5000)
ROUNDS = 5
EVENTS = 40

HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
SCOPE = DiscoveredScope({"ctrl-loss-tmo": "-1"}, Secrets(), "", "", "", "")
SUBSYSTEM = "[Subsystem]\nnqn = {}\ncontroller = transport=tcp;traddr=192.0.2.1;trsvcid=4420\n"


def nqn(number: int) -> str:
    return f"nqn.2024-08.com.example:vol{number}"


def instance(number: int) -> str:
    return f"tcp:192.0.2.1:4420:{nqn(number)}"


def dc(number: int) -> TransportId:
    return TransportId.make(DISCOVERY, "tcp", f"198.51.100.{number}", "", DISCOVERY_NQN)


def cpu(function: Callable[[], object]) -> float:
    """Return the CPU seconds of the quickest of some calls."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)


def listed(parent: TransportId, count: int, first: int = 0) -> tuple[Candidate, ...]:
    data = parse(page(*(entry(nqn(first + number)) for number in range(count))))
    return candidates(data, Parent(parent, parent.instance, SCOPE, SCOPE, 0, 0), HOST).candidates


# Without a loop -------------------------------------------------------------------------------------------


def one_page() -> tuple[float, float]:
    """A page of ENTRIES entries from bytes to decisions; and one of its entries replaced by another."""
    parent = granted_root(dc(1))
    before = page(*(entry(nqn(number)) for number in range(ENTRIES)))
    after = page(*(entry(nqn(number + 1)) for number in range(ENTRIES)), generation=2)
    context = Context(FabricsConfig(scopes={("", "io"): SCOPE, ("", "discovery"): SCOPE}), HOST, {}, {}, 0, 0, 25)

    def first() -> tuple[Wanted, LogPages]:
        wanted, pages = Wanted(lambda _: False), LogPages()
        wanted.put(parent.origin, (parent,))
        pages.put(parent.tid.instance, PageRead(parse(before), 0))
        for _ in pages.follow(wanted, context, {}, {}):
            pass
        decisions = plan(Facts(wanted.asked), wanted.changes())
        if len(decisions) != ENTRIES + 1:
            raise AssertionError(len(decisions))
        return wanted, pages

    made = [first() for _ in range(ROUNDS)]

    def second() -> None:
        wanted, pages = made.pop()
        pages.put(parent.tid.instance, PageRead(parse(after), 0))
        for _ in pages.follow(wanted, context, {}, {}):
            pass
        decisions = plan(Facts(wanted.asked), wanted.changes())
        if len(decisions) != 1 or len(wanted.asked) != ENTRIES + 1:
            raise AssertionError(decisions)

    return cpu(first), cpu(second)


def granted_root(tid: TransportId) -> Candidate:
    return granted(Wish(tid, DISCOVERY, "announced", MDNS), SCOPE, HOST, {})


def many_candidates() -> tuple[float, float]:
    """MANY candidates of ten origins through folding and planner; and what one more origin's change costs then."""
    origins = [(dc(number), listed(dc(number), MANY // 10, number * MANY // 10)) for number in range(10)]
    more = listed(dc(77), 1)
    wanted = Wanted(lambda _: False)

    def everything() -> None:
        nonlocal wanted
        wanted = Wanted(lambda _: False)
        for parent, found in origins:
            wanted.put(parent.instance, found)
        if len(plan(Facts(wanted.asked), wanted.changes())) != MANY:
            raise AssertionError

    def one() -> None:
        for some in (more, ()):
            wanted.put(dc(77).instance, some)
            plan(Facts(wanted.asked), wanted.changes())

    return cpu(everything), cpu(one)


# The running supervisor -----------------------------------------------------------------------------------


def populate(host: Host, count: int) -> None:
    """Let so many configured controllers be live already."""
    host.configure("".join(SUBSYSTEM.format(nqn(number)) for number in range(count)))
    for number in range(count):
        Path(state.directory(instance(number))).mkdir(parents=True)
        report(instance(number), "live")
        host.systemd.units[instance(number)] = UnitFact("loaded", "active")


async def per_event(act: Callable[[int], Awaitable[None]]) -> float:
    """Return the CPU seconds of one event, the median of many, which come one by one."""
    times = []
    for number in range(EVENTS):
        began = time.process_time()
        await act(number)
        times.append(time.process_time() - began)
    return statistics.median(times)


def events(count: int) -> tuple[float, dict[str, float]]:
    """With so many controllers known, return the CPU seconds of the start, and of one controller's event by kind."""
    took: dict[str, float] = {}
    started = 0.0
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        host = Host(Path(folder))
        install(host, patch)
        patch.setattr(daemon, "PAUSE_FACTOR", 0)
        rounds = 0
        wait = Changes.wait

        async def count_and_wait(changes: Changes) -> None:
            nonlocal rounds
            rounds += 1
            await wait(changes)

        patch.setattr(Changes, "wait", count_and_wait)
        populate(host, count)
        one = instance(count // 2)

        async def scenario() -> None:
            nonlocal started
            await until(lambda: f"{count} live" in host.status, patience=300)
            started = time.process_time() - began
            await quiet()
            states = ("reconnecting", "live")

            async def worker_reports(number: int) -> None:
                await asyncio.to_thread(report, one, states[number % 2])
                before = rounds
                await until(lambda: host.seen.reports[one].state == states[number % 2] and rounds > before)

            async def job_ends(_: int) -> None:
                asked, before = len(host.systemd.listed), rounds
                host.systemd.signal(unit_signals.JobRemoved(one, "done"))
                await until(lambda: len(host.systemd.listed) > asked and rounds > before)

            async def is_stopped_and_started(_: int) -> None:
                await asyncio.to_thread(host.systemd.stop, one)
                await until(lambda: host.decisions[one].action is Action.KEEP_STOPPED)
                await asyncio.to_thread(report, one, "live")
                host.systemd.units[one] = UnitFact("loaded", "active")
                host.systemd.signal(unit_signals.JobRemoved(one, "done"))
                await until(lambda: host.decisions[one].action is Action.KEEP)

            took["its worker reports"] = await per_event(worker_reports)
            took["a job of its unit ends"] = await per_event(job_ends)
            took["it is stopped and started"] = await per_event(is_stopped_and_started)

        began = time.process_time()
        host.play(scenario)
        host.notify.close()
    return started, took


def main() -> int:
    """Print the tables."""
    show = sys.stdout.write
    show(f"CPU time of this process, milliseconds (Python {sys.version.split()[0]})\n\n")
    first, second = one_page()
    show(f"  a log page of {ENTRIES}, from its bytes to decisions      {first * 1000:8.1f}\n")
    show(f"  another page with one entry replaced              {second * 1000:8.1f}\n")
    first, second = many_candidates()
    show(f"  {MANY} candidates, folded and planned            {first * 1000:8.1f}\n")
    show(f"  one more, and gone again, beside them             {second * 1000:8.3f}\n\n")
    results = [(count, *events(count)) for count in KNOWN]
    show("  controllers known to a running supervisor " + "".join(f"{count:>10}" for count, *_ in results) + "\n")
    show(
        "  start, all live already                   " + "".join(f"{one * 1000:10.0f}" for _, one, _ in results) + "\n"
    )
    for name in results[0][2]:
        show(f"  one: {name:<37}" + "".join(f"{took[name] * 1000:10.2f}" for _, _, took in results) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
