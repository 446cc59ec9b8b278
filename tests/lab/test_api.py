# SPDX-License-Identifier: Apache-2.0
"""The D-Bus API on a real bus, with systemd and polkit: who may look, who may act, and what happens then."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from discoverd.api.interfaces import CONTROLLER, CONTROLLERS, DISCOVERY, MANAGER, NAME, ROOT, object_path
from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY_UNIT, GENEROUS, unit_name
from tests.lab.test_authentication import make_key
from tests.lab.test_bus import begin, result

SCRIPT = "/var/tmp/guest_api.py"
USER = "runuser -u caller --"
RULE = "/etc/polkit-1/rules.d/50-lab.rules"
# For one user, and with a start, which an administrator's rule leaves out (docs/samples/discoverd.rules.sample).
ALLOWS = """\
polkit.addRule(function(action, subject) {
    if (action.id == "org.freedesktop.systemd1.manage-units" &&
        action.lookup("unit").indexOf("nvme-ctrl@") == 0 && subject.user == "caller")
        return polkit.Result.YES;
});
"""
ALLOWS_EXCLUSIONS = """\
polkit.addRule(function(action, subject) {
    if (action.id == "org.freedesktop.systemd1.manage-unit-files" && subject.user == "caller")
        return polkit.Result.YES;
});
"""
ACCESS_DENIED = (
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
)


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    """The shared machine with four volumes and a user without rights."""
    host.run("id caller >/dev/null 2>&1 || useradd --create-home caller")
    host.put(SCRIPT, Path(__file__).with_name("guest_api.py").read_text())
    host.run("lab-target up --subsystems 4 --ports 192.0.2.1:4420")
    yield host
    host.run(f"rm -f {RULE}; umount /mnt; systemctl stop discoverd-api.service", check=False)


def start(host: Machine) -> None:
    scenario.start(host)
    scenario.wait_live(host, 5)
    scenario.wait_status(host, "5 controllers: 5 live")


def managed(host: Machine) -> dict[str, dict[str, dict[str, Any]]]:
    """All objects, as a user without rights gets them."""
    objects: dict[str, dict[str, dict[str, Any]]] = json.loads(
        host.run(f"{USER} python3 {SCRIPT} managed", timeout=GENEROUS).stdout
    )
    return objects


def path_of(unit: str) -> str:
    return object_path(CONTROLLERS, unit.removeprefix("nvme-ctrl@").removesuffix(".service"))


def call(host: Machine, path: str, interface: str, member: str, user: str = USER) -> str:
    command = f"{user} python3 {SCRIPT} call {path} {interface} {member}"
    return host.run(command, timeout=GENEROUS).stdout.strip()


def job_ended(host: Machine, answer: str) -> None:
    """Wait until the job with which a call was answered is no more."""
    number = json.loads(answer).rpartition("/")[2]
    assert number.isdigit(), answer
    host.wait_until(f"! systemctl list-jobs --no-legend | grep -qw {number}", timeout=GENEROUS, what=f"job {number}")


def test_everybody_reads_and_no_secret_is_told(host: Machine) -> None:
    ours, theirs = make_key(), make_key()
    hostnqn = host.read("/etc/nvme/hostnqn").decode().strip()
    host.run(["lab-target", "host-key", "vol1", hostnqn, ours, theirs])
    scenario.start(
        host,
        f"""\
[Subsystem]
nqn = {scenario.nqn(1)}
kxchap-secret = {ours}
kxchap-ctrl-secret = {theirs}
controller = transport=tcp;traddr=192.0.2.1
[Subsystem]
nqn = {scenario.nqn(2)}
controller = transport=tcp;traddr=192.0.2.1
[Subsystem]
nqn = {scenario.nqn("nowhere")}
controller = transport=tcp;traddr=192.0.2.1
""",
    )
    scenario.wait_live(host, 2)
    assert host.run("systemctl is-active discoverd-api.service", check=False).stdout.strip() == "inactive"
    objects = managed(host)
    shown = objects[path_of(unit_name(1))][CONTROLLER]
    assert (shown["State"], shown["Live"], shown["KernelState"]) == ("live", True, "live")
    assert shown["Owner"] == "nvme-ctrl"
    assert shown["ActiveState"] == "active"
    assert shown["HostNQN"] == hostnqn
    assert shown["Model"]
    refused = objects[path_of(unit_name("nowhere"))][CONTROLLER]
    assert refused["State"] in ("waiting", "connecting")
    assert refused["Live"] is False
    listed = json.loads(host.run("discoverctl list --json").stdout)["controllers"]
    # The one that is tried again and again is in another state a moment later.
    steady = {one["controller"]: one["state"] for one in listed if "nowhere" not in one["controller"]}
    shown_too = [found[CONTROLLER] for found in objects.values() if CONTROLLER in found]
    assert steady.items() <= {one["Instance"]: one["State"] for one in shown_too}.items()
    assert len(shown_too) == len(listed)
    said = (
        json.dumps(objects)
        + host.run(
            f"{USER} busctl --json=short call {NAME} {ROOT} org.freedesktop.DBus.Properties GetAll s {MANAGER}"
        ).stdout
    )
    for secret in (ours, theirs):
        assert secret.split(":")[2] not in said

    process = host.run("systemctl show -P MainPID discoverd-api.service").stdout.strip()
    status = host.run(f"grep -E '^(Uid|CapEff|CapBnd|CapPrm)' /proc/{process}/status").stdout.split()
    assert status.count("0000000000000000") == 3, status
    assert host.run(f"stat -c %U /proc/{process}").stdout.strip() == "discoverd-api"
    instance = unit_name(1).removeprefix("nvme-ctrl@").removesuffix(".service")
    spec = f"/run/discoverd/controllers/{instance}/spec"
    assert ours in host.read(spec).decode()
    assert host.run(["runuser", "-u", "discoverd-api", "--", "cat", spec], check=False).returncode != 0
    assert host.run("stat -c '%U %a' /run/discoverd-api-action").stdout.split() == ["discoverd-api", "600"]


def test_polkit_decides_who_stops_a_controller(host: Machine) -> None:
    start(host)
    path = path_of(unit_name(1))
    for member in ("Stop", "Disconnect"):
        assert call(host, path, CONTROLLER, member) in ACCESS_DENIED
    assert call(host, ROOT, MANAGER, "Reload") in ACCESS_DENIED
    assert len(scenario.live(host)) == 5
    host.put(RULE, ALLOWS)
    host.run("systemctl restart polkit.service", timeout=GENEROUS)
    job_ended(host, call(host, path, CONTROLLER, "Stop"))
    scenario.wait_status(host, "4 live, 1 stopped")
    host.wait_until(lambda: managed(host)[path][CONTROLLER]["State"] == "stopped", what="it is shown as stopped")
    job_ended(host, call(host, path, CONTROLLER, "Start"))
    scenario.wait_live(host, 5)
    before = scenario.unit(host, unit_name(1)).main_pid
    job_ended(host, call(host, path, CONTROLLER, "Restart"))
    assert scenario.unit(host, unit_name(1)).main_pid != before
    # The rule is for controllers.
    assert call(host, ROOT, MANAGER, "Reload") in ACCESS_DENIED
    # Root is not asked about.
    job_ended(host, call(host, ROOT, MANAGER, "Reload", user=""))


def test_disconnect_ends_when_it_is_gone_and_fails_where_it_is_not(
    host: Machine, allow_journal: Callable[[str], None]
) -> None:
    allow_journal("in use by /mnt")
    start(host)
    host.put(RULE, ALLOWS)
    host.run("systemctl restart polkit.service", timeout=GENEROUS)
    device = managed(host)[path_of(unit_name(1))][CONTROLLER]["Device"]
    host.run(f"mkfs.ext4 -q /dev/{device}n1 && mount /dev/{device}n1 /mnt", timeout=GENEROUS)
    unit = unit_name(1).replace("nvme-ctrl@", "nvme-drop@")
    job_ended(host, call(host, path_of(unit_name(1)), CONTROLLER, "Disconnect"))
    assert scenario.nqn(1) in scenario.live(host), "it is in use"
    assert any("in use" in line.message for line in host.journal(unit))
    host.run("umount /mnt")
    # Its worker has ended, so only this can disconnect it.
    job_ended(host, call(host, path_of(unit_name(1)), CONTROLLER, "Disconnect"))
    scenario.wait_live(host, 4)
    job_ended(host, call(host, path_of(unit_name(2)), CONTROLLER, "Disconnect"))
    scenario.wait_live(host, 3)


def test_exclusions_by_who_may_change_unit_files(host: Machine) -> None:
    start(host)
    exclude = f"busctl call {NAME} {ROOT} {MANAGER} Exclude as 1 {scenario.nqn(3)}"
    unexclude = f"busctl call {NAME} {ROOT} {MANAGER} Unexclude as 1 {scenario.nqn(3)}"
    assert host.run(f"{USER} {exclude}", check=False).returncode != 0
    host.put(RULE, ALLOWS_EXCLUSIONS)
    host.run("systemctl restart polkit.service", timeout=GENEROUS)
    assert "exclusions.conf:" in host.run(f"{USER} {exclude}", timeout=GENEROUS).stdout
    path = path_of(unit_name(3))
    host.wait_until(
        lambda: "exclusions.conf:" in managed(host)[path][CONTROLLER]["ExcludedBy"], what="it is shown as excluded"
    )
    assert "exclusions.conf:" in host.run(f"{USER} {unexclude}", timeout=GENEROUS).stdout
    host.wait_until(lambda: not managed(host)[path][CONTROLLER]["ExcludedBy"], what="it is excluded no more")


def test_changes_are_heard_by_everybody(host: Machine) -> None:
    start(host)
    begin(host, "events", "guest_api.py", "caller", "events", "25")
    output = "/var/tmp/events.out"
    host.wait_until(f"grep -q ready {output}", timeout=GENEROUS)
    host.run(["systemctl", "stop", unit_name(1)], timeout=GENEROUS)
    host.run(["systemctl", "start", unit_name(1)], timeout=GENEROUS)
    host.run("lab-target up --subsystems 5 --ports 192.0.2.1:4420")
    host.wait_until("! systemctl is-active -q events.service", timeout=25 + GENEROUS)
    heard = [json.loads(line) for line in host.read(output).decode().splitlines() if line.startswith("[")]
    states = [body[1] for path, member, body in heard if member == "Event" and body[2] == path_of(unit_name(1))]
    assert "stopped" in states
    assert states[-1] == "live"
    # The path of an object is in the ObjectManager's own signal.
    added = [body[0] for path, member, body in heard if member == "InterfacesAdded"]
    assert path_of(unit_name(5)) in added
    pages = [body for path, member, body in heard if path == path_of(DISCOVERY_UNIT) and member == "PropertiesChanged"]
    assert any(body[0] == DISCOVERY and "Generation" in body[1] for body in pages)


def test_introspection_is_what_is_installed(host: Machine) -> None:
    start(host)
    installed = host.read("/usr/share/dbus-1/interfaces/org.nvmexpress.discoverd1.xml").decode()
    for path, interface in ((ROOT, MANAGER), (path_of(unit_name(1)), CONTROLLER), (path_of(DISCOVERY_UNIT), DISCOVERY)):
        answer = host.run(f"{USER} busctl introspect --xml-interface {NAME} {path}", timeout=GENEROUS).stdout
        begins = f' <interface name="{interface}">'
        assert begins in answer
        assert begins + installed.split(begins)[1].split(" </interface>")[0] in answer
    tree = host.run(f"{USER} busctl tree --list {NAME}", timeout=GENEROUS).stdout.split()
    assert path_of(unit_name(1)) in tree


def test_page_of_a_discovery_controller(host: Machine) -> None:
    start(host)
    generation, read, _, entries = json.loads(
        host.run(
            f"{USER} busctl --json=short call {NAME} {path_of(DISCOVERY_UNIT)} {DISCOVERY} LogPage", timeout=GENEROUS
        ).stdout
    )["data"]
    assert generation
    assert read
    assert {entry[13] for entry in entries} >= {path_of(unit_name(number)) for number in range(1, 5)}


def test_nobody_waits_for_one_who_does_not_read(host: Machine) -> None:
    start(host)
    managed(host)
    before = int(host.run("systemctl show -P MainPID discoverd-api.service").stdout)
    for number in range(4):
        host.run(f"systemd-run -q --uid=caller --unit=deaf{number} python3 {SCRIPT} deaf 60")
    begin(host, "turns", "guest_turns.py", "root", "10")
    command = " & ".join([f"{USER} python3 {SCRIPT} all 20"] * 3)
    print(host.run(f"{command}; wait", timeout=GENEROUS).stdout)
    longest, count = result(host, "turns")
    print(f"the supervisor's longest turn: {longest} ms of {count}")
    job_ended(host, call(host, path_of(unit_name(1)), CONTROLLER, "Stop", user=""))
    assert int(host.run("systemctl show -P MainPID discoverd-api.service").stdout) == before
    memory = int(host.run("systemctl show -P MemoryCurrent discoverd-api.service").stdout)
    print(f"the API's memory: {memory >> 20} MiB")
    assert memory < 256 << 20
    host.run("systemctl stop 'deaf*'", check=False)


def test_whatever_ends_it_it_is_there_again(host: Machine) -> None:
    start(host)
    assert len(managed(host)) == 5 + 4
    host.run("systemctl kill -s KILL discoverd-api.service")
    host.wait_until(lambda: len(managed(host)) == 9, timeout=GENEROUS, what="it is there after a kill")
    host.run("systemctl restart discoverd-api-action.socket")
    job_ended(host, call(host, path_of(unit_name(1)), CONTROLLER, "Stop", user=""))

    def stopped() -> bool:
        return bool(managed(host)[path_of(unit_name(1))][CONTROLLER]["State"] == "stopped")

    host.wait_until(stopped, timeout=GENEROUS, what="it hands on to another socket")
    host.run("systemctl stop discoverd.service", timeout=GENEROUS)
    shown = f"{USER} busctl get-property {NAME} {ROOT} {MANAGER} State"
    host.wait_until(f"{shown} | grep -q inactive", timeout=GENEROUS, what="it tells that discoverd does not run")
    host.run("systemctl start discoverd.service", timeout=GENEROUS)
    host.wait_until(f"{shown} | grep -qw active", timeout=GENEROUS)
    host.run("systemctl restart dbus.service", timeout=GENEROUS)
    host.wait_until(lambda: len(managed(host)) == 9, timeout=GENEROUS, what="it is there after the bus came back")
