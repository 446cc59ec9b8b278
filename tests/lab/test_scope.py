# SPDX-License-Identifier: Apache-2.0
"""What others connected, and no log page lists: it stays, unless `disconnect-scope = all` says that it goes."""

import re

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, nqn, unit_name

SETTINGS = "/etc/nvme/discoverd.conf"
# What a page never listed goes by its word when it has stayed the same for some minutes.
SETTLED = 400
# The discovery controller is asked at the first port, and tells of the volumes there only.
TARGET = """
lab-target up --subsystems 4 --ports 192.0.2.1:4420 192.0.2.1:4421
for volume in vol2 vol3 vol4; do lab-target unlink $volume 1; done
"""


def by_hand(volume: int) -> str:
    return f"nvme connect -t tcp -a 192.0.2.1 -s 4421 -n {nqn(volume)}"


def unit(volume: int) -> str:
    return unit_name(volume).replace(":4420:", ":4421:")


def reload(machine: Machine, settings: str) -> None:
    machine.put(SETTINGS, settings)
    machine.run("systemctl reload discoverd.service")


def why(machine: Machine, volume: int) -> str:
    return machine.run(["discoverctl", "why", nqn(volume)], check=False).stdout


@scenario.long
def test_unlisted_controller_goes_if_the_scope_is_all(host: Machine) -> None:
    host.run(TARGET)
    host.run(f"modprobe nvme-tcp && {by_hand(2)} && {by_hand(3)}")
    host.run("lab-storage use ext4=vol3")
    scenario.start(host)
    scenario.wait_live(host, 4)
    scenario.wait_status(host, "2 live")
    before = scenario.controllers(host)

    # The idle one goes, with the reason; the mounted and the excluded one stay, and say why.
    host.run(f"{by_hand(4)} && discoverctl exclude nqn={nqn(4)}")
    reload(host, "[Global]\ndisconnect-scope = all\n")
    seconds = host.wait_until(lambda: nqn(2) not in scenario.live(host), timeout=SETTLED, what="vol2 is disconnected")
    print(f"from the reload to the disconnect: {seconds:.1f} s")
    scenario.wait_unit(host, unit(3), "and stays: in use by")
    host.wait_until(lambda: "connected by others" in why(host, 4), what="it is explained")
    assert "but excluded by /etc/nvme/exclusions" in why(host, 4)
    host.wait_until(lambda: unit(2) not in scenario.units(host), what="the unit is gone")
    said = [entry.message for entry in host.journal(unit(2))]
    reason = rf"it is connected by others, and in no log page \(generation \d+ of {DISCOVERY_UNIT[10:-8]}\)"
    assert any(re.search(f"disconnected nvme\\d+: {reason}", text) for text in said), said
    assert re.search(reason.removeprefix("it is "), why(host, 3))
    after = scenario.controllers(host)
    assert after == {name: row for name, row in before.items() if row[0] != nqn(2)} | {
        name: row for name, row in after.items() if row[0] == nqn(4)
    }

    # Without the word of each discovery controller nothing goes; with it, also what was connected since.
    host.run(["systemctl", "stop", DISCOVERY_UNIT])
    host.run(by_hand(2))
    host.wait_until(lambda: "may be another one by now" in why(host, 2), what="it is explained")
    scenario.wait_unit(host, unit(3), "in no log page")
    host.wait_until(lambda: "and stays" not in scenario.unit(host, unit(3)).status, what="nothing is to go")
    assert nqn(2) in scenario.live(host)

    # With the default all that is there stays, and is not in the way of who has it.
    reload(host, "")
    host.run(["systemctl", "start", DISCOVERY_UNIT])
    scenario.wait_unit(host, DISCOVERY_UNIT, "entries in its log page")
    host.run("udevadm settle && systemctl reload discoverd.service")
    assert [nqn(number) in scenario.live(host) for number in (1, 2, 3, 4)] == [True] * 4
    assert unit(2) not in scenario.units(host)
