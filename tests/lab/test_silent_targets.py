# SPDX-License-Identifier: Apache-2.0
"""What takes TCP connections and is no NVMe target, secrets that are none, and what the kernel refuses: nobody else
waits for it, the kernel's log has no secret, and the status says what is wrong.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import scenario
from tests.lab.cdc import Cdc
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn, unit_name
from tests.lab.test_authentication import make_key

ADDRESS = "192.0.2.1"
LISTENERS = "lab-listeners.service"
SILENT, FIRST_PORT = 32, 5001
# Takes connections on as many ports, says something or nothing, and keeps them.
PROGRAM = """
import select, socket, sys
first, count, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
servers = [socket.create_server(("192.0.2.1", first + number), backlog=64) for number in range(count)]
by_descriptor = {one.fileno(): one for one in servers}
poll = select.poll()
for descriptor in by_descriptor:
    poll.register(descriptor, select.POLLIN)
kept = []
while True:
    for descriptor, _ in poll.poll():
        connection, _ = by_descriptor[descriptor].accept()
        if words:
            connection.sendall(words + b"\\r\\n")
        kept.append(connection)
"""
FABRICS = "/dev/nvme-fabrics"
# Holds the kernel's lock: a connect to the port whose listener is silent, by somebody who does not probe it.
STUCK = f"nvme connect -t tcp -a {ADDRESS} -s {FIRST_PORT} -n {nqn('stuck')}"


@contextmanager
def listeners(host: Machine, count: int, words: str = "") -> Iterator[None]:
    """Listeners in the target's network, one on each port from FIRST_PORT on."""
    host.put("/run/lab-listeners.py", PROGRAM)
    host.run(
        f"systemctl reset-failed {LISTENERS} 2>/dev/null; systemd-run --quiet --unit={LISTENERS} --collect "
        "--property=LimitNOFILE=65536 --property=NetworkNamespacePath=/run/netns/tgt "
        f"/usr/bin/python3 -I -S /run/lab-listeners.py {FIRST_PORT} {count} '{words}'"
    )
    last = FIRST_PORT + count - 1
    host.wait_until(f"ip netns exec tgt ss -Htln 'sport = :{last}' | grep -q .", what="the listeners listen")
    try:
        yield
    finally:
        host.run(f"systemctl stop {LISTENERS}", check=False)


def silent_unit(number: int) -> str:
    return f"nvme-ctrl@tcp:{ADDRESS}:{FIRST_PORT + number}:{nqn(f'silent{number}')}.service"


def subsystem(volume: int | str, port: int = 4420, more: str = "") -> str:
    return f"[Subsystem]\nnqn = {nqn(volume)}\n{more}controller = transport=tcp;traddr={ADDRESS};trsvcid={port}\n"


def with_silent(count: int = SILENT) -> str:
    silent = (subsystem(f"silent{number}", FIRST_PORT + number) for number in range(count))
    return scenario.ONE_DISCOVERY_CONTROLLER + "".join(silent)


def listed(host: Machine) -> dict[str, dict[str, str]]:
    found = json.loads(host.run("discoverctl list --json").stdout)["controllers"]
    return {one["unit"]: one for one in found}


def clear_kernel_log(host: Machine) -> None:
    host.run("dmesg --clear")


def test_silent_targets_keep_nobody_waiting(host: Machine) -> None:
    host.run("lab-target up --subsystems 4 --ports 192.0.2.1:4420")
    clear_kernel_log(host)
    with listeners(host, SILENT):
        scenario.start(host, with_silent())
        seconds = scenario.wait_live(host, 5)
        print(f"five live {seconds:.1f} s after the start beside {SILENT} silent ones")
        assert host.run("systemctl is-active discoverd.service").stdout.strip() == "active"
        for number in (0, SILENT - 1):
            scenario.wait_unit(host, silent_unit(number), "takes the TCP connection and does not answer")
        found = listed(host)
        causes = {found[silent_unit(number)]["cause"] for number in range(SILENT)}
        print(causes)
        assert all("does not answer" in cause for cause in causes)
        # None of them got to the kernel.
        assert "icresp" not in host.run("dmesg").stdout

        # A stop does not wait for a probe, and a restart of discoverd for nothing of it.
        host.run(f"systemctl stop '{silent_unit(1)}'", timeout=GENEROUS)
        before = scenario.controllers(host)
        host.run("systemctl restart discoverd.service", timeout=GENEROUS)
        scenario.wait_status(host, "5 live")
        host.run("lab-target add-subsystem vol5 && lab-target link vol5 1")
        scenario.wait_live(host, 6)
        assert {name: one for name, one in scenario.controllers(host).items() if name in before} == before


def test_supervisor_starts_while_the_kernel_waits_for_a_target(host: Machine) -> None:
    """Somebody else's connect has the kernel's lock, which reading the fabrics device takes as well."""
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run("modprobe nvme-tcp; rm -f /run/discoverd/abilities")
    with listeners(host, 1):
        # The kernel's lock goes from one who waits for it to the next: with three, nobody else has it for a while.
        again = f"for _ in 1 2 3; do while :; do {STUCK}; done & done; wait"
        host.run(["systemd-run", "--quiet", "--unit=stuck", "--collect", "bash", "-c", again])
        try:
            host.wait_until(f"pgrep -x nvme && ! timeout 1 head -c 1 {FABRICS}", timeout=GENEROUS, what="it is stuck")
            scenario.start(host)
            scenario.wait_unit(host, scenario.DISCOVERY_UNIT, "waiting")
            print(scenario.unit(host, scenario.DISCOVERY_UNIT).status)
        finally:
            host.run("systemctl stop stuck.service", check=False, timeout=GENEROUS)
        scenario.wait_live(host, 2)
        assert "option=traddr" in host.read("/run/discoverd/abilities").decode()
        assert host.run("stat -c %a /run/discoverd/abilities").stdout.strip() == "600"


def test_another_service_is_told_for_what_it_is(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    clear_kernel_log(host)
    with listeners(host, 1, "SSH-2.0-OpenSSH_9.2p1"):
        scenario.start(host, with_silent(1))
        scenario.wait_live(host, 2)
        scenario.wait_unit(host, silent_unit(0), "what answers there is not NVMe/TCP: check traddr and trsvcid")
        assert "icresp" not in host.run("dmesg").stdout


def test_targets_that_keep_the_kernel_go_in_turn(impatient: Machine) -> None:
    """They answer the probe, and leave the kernel without an answer to its first command."""
    host = impatient
    instances = {f"dc{number}": {"port": 8011 + number} for number in range(4)}
    host.run("lab-target up --subsystems 4 --ports 192.0.2.1:4420")
    with Cdc(host, instances=instances) as cdc:
        cdc.order("misbehave", step="connect", action="ignore")
        stuck = (f"controller = transport=tcp;traddr={ADDRESS};trsvcid={8011 + number}\n" for number in range(4))
        scenario.start(host, scenario.ONE_DISCOVERY_CONTROLLER + "".join(stuck))
        scenario.wait_live(host, 5, timeout=4 * GENEROUS)
        unit = f"nvme-ctrl@tcp:{ADDRESS}:{{}}:{scenario.DISCOVERY}.service"

        def in_turn() -> bool:
            return any("others come first" in scenario.unit(host, unit.format(8011 + n)).status for n in range(4))

        host.wait_until(in_turn, timeout=2 * GENEROUS, what="one waits for its turn")
        # What needs no turn is connected between two of them.
        host.run("lab-target add-subsystem vol5 && lab-target link vol5 1")
        scenario.wait_live(host, 6, timeout=2 * GENEROUS)
        cdc.order("behave")
        scenario.wait_live(host, 10, timeout=4 * GENEROUS)


# Secrets


def wrong_key() -> str:
    """A secret of which one character was mistyped."""
    key = make_key()
    return key[:20] + ("A" if key[20] != "A" else "B") + key[21:]


def told(host: Machine) -> str:
    return host.run("dmesg; journalctl --no-pager -b -o verbose", timeout=GENEROUS).stdout


def test_secret_with_a_wrong_checksum_never_gets_to_the_kernel(host: Machine) -> None:
    wrong, right = wrong_key(), make_key()
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host, subsystem(1, more=f"kxchap-secret = {wrong}\n"))
    scenario.wait_status(host, "checksum")
    print(scenario.status(host))
    assert not scenario.units(host)
    assert "/etc/nvme/nvme-fabrics.conf:3:" in told(host)
    assert wrong[10:40] not in told(host)

    # And where the file between supervisor and worker was changed.
    hostnqn = host.read("/etc/nvme/hostnqn").decode().strip()
    host.run(["lab-target", "host-key", "vol1", hostnqn, right])
    scenario.configure(host, subsystem(1, more=f"kxchap-secret = {right}\n"))
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)
    scenario.wait_live(host, 1)
    spec = f"/run/discoverd/controllers/{unit_name(1)[10:-8]}/spec"
    changed = host.read(spec).decode().replace(right, wrong)
    host.put(spec, changed, mode=0o600)
    host.run(f"nvme disconnect -n {nqn(1)}")
    scenario.wait_unit(host, unit_name(1), "its checksum (CRC-32) is wrong")
    for key in (wrong, right):
        assert key[10:40] not in told(host)


def test_secrets_in_sysfs_are_roots_alone(host: Machine) -> None:
    key = make_key()
    hostnqn = host.read("/etc/nvme/hostnqn").decode().strip()
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run(["lab-target", "host-key", "vol1", hostnqn, key])
    scenario.start(host, subsystem(1, more=f"kxchap-secret = {key}\n"))
    scenario.wait_live(host, 1)
    modes = "stat -Lc %a /sys/class/nvme/nvme*/dhchap_secret /sys/class/nvme/nvme*/dhchap_ctrl_secret"
    host.wait_until(lambda: set(host.run(modes).stdout.split()) == {"600"}, what="root alone may read them")
    # As kernels have them that show them to everybody.
    host.run("chmod 644 /sys/class/nvme/nvme*/dhchap_secret /sys/class/nvme/nvme*/dhchap_ctrl_secret")
    host.run(f"systemctl kill -s KILL '{unit_name(1)}'")
    host.wait_until(lambda: set(host.run(modes).stdout.split()) == {"600"}, timeout=GENEROUS, what="and again")
    assert not [entry for entry in host.journal(unit_name(1)) if "everybody can read" in entry.message]


# What the kernel refuses


@pytest.mark.parametrize("same", [True, False], ids=["another spelling", "another host"])
def test_host_id_that_is_taken_is_told_or_the_spelling_is_taken_over(host: Machine, same: bool) -> None:
    hostid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
    uuid_nqn = "nqn.2014-08.org.nvmexpress:uuid:"
    taken = uuid_nqn + hostid if same else "nqn.2024-08.com.example:another-host"
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    host.run(f"modprobe nvme-tcp && nvme connect -t tcp -a {ADDRESS} -n {nqn(2)} -q {taken} -I {hostid}")
    before = host.read("/etc/nvme/hostnqn"), host.read("/etc/nvme/hostid")
    host.put("/etc/nvme/hostnqn", f"{uuid_nqn}{hostid.upper()}\n")
    host.put("/etc/nvme/hostid", f"{hostid}\n")
    try:
        scenario.start(host, subsystem(1))
        if same:
            scenario.wait_live(host, 2)
            assert any(f"connected as {taken}" in entry.message for entry in host.journal(unit_name(1)))
        elif not any("different host" in line for line in host.run("dmesg").stdout.splitlines()):
            scenario.wait_live(host, 2)  # Kernels before 6.5 take two hosts for one ID.
        else:
            scenario.wait_unit(host, unit_name(1), f"nvme0 is connected with the host ID {hostid} as another host")
            print(scenario.unit(host, unit_name(1)).status)
    finally:
        host.put("/etc/nvme/hostnqn", before[0])
        host.put("/etc/nvme/hostid", before[1])
