# SPDX-License-Identifier: Apache-2.0
"""Other tools on the same host: who owns what, who gives way, and that nobody disconnects what is another's."""

import time
from collections.abc import Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, unit_name

REGISTRY = "/run/nvme/registry"
AUTOCONNECT = "nvmf-autoconnect.service"
# A worker looks at its live controller every 10 s; a busy machine needs some more.
ONE_LOOK = 25
ONE_CONFIGURED = f"""\
[Subsystem]
nqn = {scenario.nqn(1)}
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
"""


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    yield host
    host.run("systemctl stop stacd.service stafd.service", check=False, timeout=GENEROUS)
    host.run("rm -rf /etc/nvme/discovery.conf /run/stafd /run/stacd /var/cache/stafd /var/cache/stacd")


def device(host: Machine, volume: int) -> str:
    """The kernel's name of the subsystem's only controller."""
    return next(name for name, (found, _, _) in scenario.controllers(host).items() if found == scenario.nqn(volume))


def inodes(host: Machine) -> dict[str, str]:
    """NQN to the inode of its only controller: another one means that it was connected anew."""
    return {found: inode for found, _, inode in scenario.controllers(host).values()}


def take_over(host: Machine, name: str, owner: str) -> None:
    """Writes an entry as nvme-cli 3 does: beside its place, and the old one goes first."""
    host.run(
        f"cd {REGISTRY} && mkdir .{name}.new && echo {owner} >.{name}.new/owner && "
        f"cat /sys/kernel/uevent_seqnum >.{name}.new/seqnum && rm -r {name} && mv .{name}.new {name}"
    )


# The registry


def test_an_entry_that_another_tool_erased_comes_back(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    host.wait_until(lambda: len(scenario.registry(host)) == 3, what="three registry entries")
    before, connected = scenario.registry(host), scenario.controllers(host)
    name = device(host, 1)

    refused = host.run(f"nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {scenario.nqn(1)}", check=False)
    print(refused.stderr.strip())
    assert refused.returncode != 0
    # nvme-cli 3 erases the entry of the controller that it did not get.
    host.run(f"rm -r {REGISTRY}/{name}")

    def back() -> bool:
        entry = scenario.registry(host).get(name, {})
        return entry.get("owner") == "nvme-ctrl" and entry.get("unit") == before[name]["unit"]

    seconds = host.wait_until(back, timeout=ONE_LOOK, what="the entry is back")
    print(f"back after {seconds:.1f} s")
    assert scenario.controllers(host) == connected
    assert scenario.unit(host, unit_name(1)).status == f"live {name}"


def test_an_entry_that_another_owner_took_over_is_given_up(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    connected = scenario.controllers(host)
    name = device(host, 1)

    take_over(host, name, "orchestrator")
    scenario.wait_unit(host, unit_name(1), f"left alone: {name} belongs to orchestrator", timeout=ONE_LOOK)
    scenario.wait_status(host, "3 controllers: 2 live, 1 left alone")
    assert any("orchestrator" in entry.message for entry in host.journal(unit_name(1)))
    assert scenario.controllers(host) == connected
    assert set(scenario.registry(host)[name]) == {"owner", "seqnum"}

    # Not ours, so not ours to disconnect, whoever asks.
    host.run(f"systemctl restart '{unit_name(1)}'", timeout=GENEROUS)
    scenario.wait_unit(host, unit_name(1), f"left alone: {name} belongs to orchestrator")
    host.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
    assert scenario.controllers(host) == connected
    assert scenario.registry(host)[name]["owner"] == "orchestrator"

    host.run(f"systemctl start '{unit_name(1)}'", timeout=GENEROUS)
    scenario.wait_unit(host, unit_name(1), f"left alone: {name} belongs to orchestrator")
    # Its owner lets go of it.
    host.run(f"rm -r {REGISTRY}/{name}")
    scenario.wait_unit(host, unit_name(1), f"live {name}", timeout=ONE_LOOK)
    host.wait_until(lambda: scenario.registry(host).get(name, {}).get("owner") == "nvme-ctrl", what="it is ours again")
    assert scenario.controllers(host) == connected
    scenario.wait_status(host, "3 controllers: 3 live")


# The connections


def test_controller_disconnected_by_hand_is_connected_again(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    before = inodes(host)
    for round_ in range(3):
        host.run(f"nvme disconnect -d {device(host, 1)}")
        seconds = scenario.wait_live(host, 3)
        print(f"round {round_}: live again after {seconds:.1f} s")
    after = inodes(host)
    assert {nqn for nqn in before if before[nqn] != after[nqn]} == {scenario.nqn(1)}
    host.run("nvme disconnect-all", check=False)
    host.wait_until(lambda: len(live := inodes(host)) == 3 and not set(live.values()) & set(after.values()))
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    host.wait_until(lambda: len(scenario.registry(host)) == 3, what="three registry entries, and none of the old")


def test_unowned_controller_connected_first_is_adopted(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run(f"modprobe nvme-tcp && nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {scenario.nqn(1)}")
    before = scenario.controllers(host)
    scenario.start(host, ONE_CONFIGURED)
    scenario.wait_unit(host, unit_name(1), "live nvme0")
    assert scenario.controllers(host) == before
    assert scenario.registry(host)["nvme0"]["owner"] == "nvme-ctrl"
    # An administrator asked us for it, so it is ours to disconnect.
    host.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
    assert scenario.controllers(host) == {}
    assert scenario.registry(host) == {}


def test_owned_controller_connected_first_is_left_alone(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run(f"modprobe nvme-tcp && nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {scenario.nqn(1)}")
    host.run(f"mkdir -p {REGISTRY}/nvme0")
    take_over(host, "nvme0", "discoverd")
    before = scenario.controllers(host)
    scenario.start(host, ONE_CONFIGURED)
    scenario.wait_unit(host, unit_name(1), "left alone: nvme0 belongs to discoverd")
    host.run(f"systemctl stop '{unit_name(1)}'", timeout=GENEROUS)
    assert scenario.controllers(host) == before
    host.run(f"systemctl start '{unit_name(1)}'", timeout=GENEROUS)
    # When its owner disconnects it, it is for us to connect.
    host.run("nvme disconnect -d nvme0")
    scenario.wait_unit(host, unit_name(1), "live nvme")
    # The clean-up for the one that went may be under way.
    host.wait_until(
        lambda: scenario.registry(host).get(device(host, 1), {}).get("owner") == "nvme-ctrl",
        what="it is entered as ours",
    )


# nvme-stas


STAFD = """\
[Global]
[Service Discovery]
zeroconf = disabled
[Controllers]
controller = transport=tcp;traddr=192.0.2.1;trsvcid=4420
"""


@pytest.mark.parametrize(
    "stas_first",
    [pytest.param(False, id="discoverd first", marks=scenario.long), pytest.param(True, id="stas first")],
)
def test_nvme_stas_beside_us(host: Machine, stas_first: bool) -> None:
    """Both are told of the same discovery controller. Neither flaps, the set is complete, and each may go."""
    host.run("lab-target up --subsystems 4 --ports 192.0.2.1:4420")
    host.run("modprobe nvme-tcp")
    host.put("/etc/stas/stafd.conf", STAFD)

    def start_stas() -> None:
        host.run("systemctl start stafd.service stacd.service", timeout=GENEROUS)

    if stas_first:
        start_stas()
        scenario.wait_live(host, 5)
    scenario.start(host)
    scenario.wait_live(host, 5)
    if not stas_first:
        start_stas()
    scenario.wait_status(host, "5 controllers: 5 live")
    host.wait_until(lambda: len(scenario.registry(host)) == 5, what="five registry entries")
    before = scenario.controllers(host)
    nqns = {found for found, _, _ in before.values()}

    for _ in range(5):
        time.sleep(3)
        assert scenario.controllers(host) == before

    # Both hear of it at once; there is one controller for it in the end, and one owner.
    host.run("lab-target add-subsystem vol5 && lab-target link vol5 1")
    scenario.wait_live(host, 6)
    scenario.wait_status(host, "6 controllers: 6 live")
    time.sleep(15)
    after = scenario.controllers(host)
    assert {name: one for name, one in after.items() if name in before} == before
    assert {found for found, _, _ in after.values()} == nqns | {scenario.nqn(5)}

    host.run("systemctl stop stacd.service stafd.service", timeout=GENEROUS)
    time.sleep(5)
    scenario.wait_live(host, 6)
    io = {name: one for name, one in after.items() if one[0] != scenario.DISCOVERY}
    assert {name: one for name, one in scenario.controllers(host).items() if name in io} == io
    assert {unit.active for unit in scenario.units(host).values()} == {"active"}

    start_stas()
    time.sleep(5)
    connected = scenario.controllers(host)
    host.run("systemctl stop discoverd.service", timeout=GENEROUS)
    time.sleep(5)
    assert scenario.controllers(host) == connected


# nvme-cli's own connections


def skipped(host: Machine, unit: str, since: int) -> bool:
    return any(
        entry.unit.startswith(unit) and "Skipped due to 'exec-condition'" in entry.message
        for entry in host.journal(since=since)
    )


def test_autoconnect_stands_back_while_discoverd_runs(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    host.put("/etc/nvme/discovery.conf", "--transport=tcp --traddr=192.0.2.1 --trsvcid=4420\n")
    scenario.start(host)
    scenario.wait_live(host, 3)
    host.run(f"systemctl stop '{unit_name(2)}'", timeout=GENEROUS)
    scenario.wait_status(host, "3 controllers: 2 live, 1 stopped")
    since = host.journal_end()
    host.run(f"systemctl start {AUTOCONNECT}", timeout=GENEROUS)
    shown = host.run(f"systemctl status --no-pager {AUTOCONNECT}", check=False).stdout
    assert "Result: exec-condition" in shown
    assert "discoverd.service looks after NVMe over Fabrics" in shown
    # The udev rule starts an instance of nvmf-connect@ at each change of a log page.
    host.run("lab-target add-subsystem vol3 && lab-target link vol3 1")
    scenario.wait_live(host, 3)
    host.wait_until(lambda: skipped(host, "nvmf-connect@", since), what="nvmf-connect@ was skipped")

    # The gap before systemd starts a killed daemon again, and a restart.
    before = scenario.controllers(host)
    for _ in range(5):
        since = host.journal_end()
        host.run(f"systemctl kill -s KILL discoverd.service; systemctl start {AUTOCONNECT}", timeout=GENEROUS)
        assert skipped(host, AUTOCONNECT, since)
        host.wait_until("test $(systemctl is-active discoverd.service) = active", timeout=GENEROUS)
    since = host.journal_end()
    host.run(f"systemctl restart --no-block discoverd.service; systemctl start {AUTOCONNECT}", timeout=GENEROUS)
    assert skipped(host, AUTOCONNECT, since)
    scenario.wait_status(host, "4 controllers: 3 live, 1 stopped")
    assert scenario.controllers(host) == before

    # Stopped, it is nobody's business any more what nvme-cli connects.
    host.run("systemctl stop discoverd.service", timeout=GENEROUS)
    host.run("lab-target add-subsystem vol4 && lab-target link vol4 1")
    scenario.wait_live(host, 5)
    assert {scenario.nqn(2), scenario.nqn(4)} <= set(scenario.live(host))
    assert {name: one for name, one in scenario.controllers(host).items() if name in before} == before


@scenario.long
def test_autoconnect_at_boot(fresh_machine: Machine) -> None:
    fresh_machine.put("/etc/lab-target.conf", "TARGET=--subsystems 2 --ports 192.0.2.1:4420\n")
    fresh_machine.put("/etc/nvme/discovery.conf", "--transport=tcp --traddr=192.0.2.1 --trsvcid=4420\n")
    scenario.configure(fresh_machine)
    fresh_machine.run(f"systemctl enable discoverd.service {AUTOCONNECT} nvmefc-boot-connections.service")
    units = f"discoverd.service discoverd-mounts.service {AUTOCONNECT} nvmf-connect@x.service"
    verified = fresh_machine.run(f"systemd-analyze verify --man=no {units}")
    assert verified.stderr == ""
    since = fresh_machine.journal_end()
    fresh_machine.reboot()
    scenario.wait_live(fresh_machine, 3)
    scenario.wait_status(fresh_machine, "3 controllers: 3 live")
    assert skipped(fresh_machine, AUTOCONNECT, since)
    assert not [entry for entry in fresh_machine.journal(since=since) if "ordering cycle" in entry.message]
    assert {entry["owner"] for entry in scenario.registry(fresh_machine).values()} == {"nvme-ctrl"}

    # Not enabled, or not there any more, it keeps nobody from anything.
    fresh_machine.run("systemctl disable discoverd.service", timeout=GENEROUS)
    fresh_machine.reboot()
    scenario.wait_live(fresh_machine, 2)
    assert scenario.units(fresh_machine) == {}
    assert not scenario.registry(fresh_machine)
    fresh_machine.run(
        "nvme disconnect-all && rm /usr/lib/systemd/system/discoverd*.service "
        f"/usr/lib/systemd/system/nvm*.d/50-discoverd.conf && systemctl daemon-reload && systemctl start {AUTOCONNECT}",
        timeout=GENEROUS,
    )
    scenario.wait_live(fresh_machine, 2)
