# SPDX-License-Identifier: Apache-2.0
"""What a log page proves by what it does not list, with a central discovery controller that restarts."""

from tests.lab import scenario
from tests.lab.cdc import ADDRESS, Cdc, entry
from tests.lab.machine import Machine
from tests.lab.scenario import nqn, unit_name

PARENT = f"tcp:{ADDRESS}:8009:{scenario.DISCOVERY}"
UNIT = f"nvme-ctrl@{PARENT}.service"
SECOND_NQN = "nqn.2024-08.com.example:second"
SECOND_PORT = 8010
SECOND_UNIT = f"nvme-ctrl@tcp:{ADDRESS}:{SECOND_PORT}:{SECOND_NQN}.service"
CONFIGURATION = f"""\
[Discovery Controller Defaults]
reconnect-delay = 1
keep-alive-tmo = 5
[Discovery Controller]
controller = transport=tcp;traddr={ADDRESS};trsvcid=8009
"""
VOLUMES = 20
# Longer than a withdrawal takes.
LATER = 4


def volumes(host: Machine) -> dict[str, tuple[str, str, str]]:
    """The I/O controllers of the kernel."""
    return {name: row for name, row in scenario.controllers(host).items() if ":vol" in row[0]}


@scenario.long
def test_restarted_cdc_disconnects_nothing_until_it_has_said_so_again(host: Machine) -> None:
    """Then what it takes away while it runs goes at once, half of it at once only when that is confirmed, and what
    refers to itself when nobody else does."""
    host.run(f"lab-target up --subsystems {VOLUMES + 1} --ports {ADDRESS}:4420", timeout=scenario.GENEROUS)
    entries = [entry(nqn(number), instances=["first"]) for number in range(1, VOLUMES + 1)]
    only_second = entry(nqn(VOLUMES + 1), instances=["second"])
    instances = {"first": {}, "second": {"nqn": SECOND_NQN, "port": SECOND_PORT}}
    # One list of referrals for both ports, as SPDK has it.
    referrals = {"first": ["second"], "second": ["second"]}
    with Cdc(host, instances=instances, entries=[*entries, only_second], referrals=referrals) as cdc:

        def list_volumes(*numbers: int) -> None:
            cdc.order("load", entries=[*(entries[number - 1] for number in numbers), only_second])

        def listed(count: int) -> None:
            scenario.wait_unit(host, UNIT, f"{count} entries in its log page")

        def gone(unit: str, what: str, timeout: float = scenario.GENEROUS) -> None:
            host.wait_until(lambda: unit not in scenario.units(host), timeout=timeout, what=f"{what} is gone")
            left = int(str(host.journal(unit)[-1].fields["__REALTIME_TIMESTAMP"])) / 1e6
            print(f"{what} is gone after {left - began:.1f} s")

        scenario.start(host, CONFIGURATION)
        scenario.wait_live(host, VOLUMES + 3)
        before = volumes(host)

        # One of twenty is zoned away.
        began = scenario.clock(host)
        list_volumes(*range(1, VOLUMES))
        gone(unit_name(VOLUMES), "one volume of twenty")
        before = {name: row for name, row in before.items() if row[0] != nqn(VOLUMES)}
        assert volumes(host) == before

        # It restarts: empty, then with its referral only, then volume by volume, and without one of them.
        cdc.kill()
        host.wait_until("grep -q connecting /sys/class/nvme/nvme*/state", what="the kernel has lost it")
        cdc.start(entries=[], referrals={})
        scenario.wait_unit(host, UNIT, "1 entry in its log page")
        cdc.order("refer", instance="first", to=["second"])
        cdc.order("refer", instance="second", to=["second"])
        listed(2)
        host.run(f"sleep {LATER}")
        for number in range(1, VOLUMES - 1):
            list_volumes(*range(1, number + 1))
        listed(VOLUMES)
        began = scenario.clock(host)
        scenario.wait_unit(host, UNIT, "has started anew")
        assert volumes(host) == before
        why = host.run(f"discoverctl why {nqn(VOLUMES - 1)}").stdout
        assert f"discoverctl confirm {PARENT}" in why, why

        # What it still does not list after some minutes was taken away.
        gone(unit_name(VOLUMES - 1), "what the restarted one lists no more", timeout=400)
        before = {name: row for name, row in before.items() if row[0] != nqn(VOLUMES - 1)}
        assert volumes(host) == before

        # Its second port refers to itself; nobody else does any more.
        began = scenario.clock(host)
        cdc.order("refer", instance="first", to=[])
        gone(SECOND_UNIT, "the second port")
        gone(unit_name(VOLUMES + 1), "what only the second port listed")
        before = {name: row for name, row in before.items() if row[0] != nqn(VOLUMES + 1)}
        assert volumes(host) == before

        # Half of the page at once.
        since = host.journal_end()
        list_volumes(*range(1, VOLUMES // 2))
        scenario.wait_unit(
            host, UNIT, "they are more than disconnect-share; to disconnect them now: discoverctl confirm"
        )
        scenario.wait_status(host, "they are more than disconnect-share")
        assert any(
            "more than disconnect-share" in line.message for line in host.journal("discoverd.service", since=since)
        )
        host.run(f"sleep {LATER}")
        assert volumes(host) == before
        shown = host.run(f"discoverctl confirm {PARENT}").stdout.splitlines()
        assert len(shown) == VOLUMES // 2 - 1, shown
        scenario.wait_live(host, 1 + VOLUMES // 2 - 1)
        host.wait_until(
            lambda: (
                "disconnect-share" not in scenario.status(host)
                and "disconnect-share" not in scenario.unit(host, UNIT).status
            ),
            what="nothing is held back any more",
        )
