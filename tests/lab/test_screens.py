# SPDX-License-Identifier: Apache-2.0
"""What discoverctl shows on a real host in the scenario of screens/README, beside the files there."""

import pytest

from tests.lab import scenario, screen
from tests.lab.machine import Machine
from tests.lab.scenario import GENEROUS, nqn, unit_name

# Longer than any of the scenario, so that the kernel goes on reconnecting.
CONFIGURATION = f"""\
[Discovery Controller]
controller = transport=tcp;traddr={screen.ADDRESSES[0]};trsvcid=4420
controller = transport=tcp;traddr={screen.ADDRESSES[1]};trsvcid=4420

[Subsystem]
nqn = {nqn(screen.REFUSED)}
tls = true
controller = transport=tcp;traddr={screen.ADDRESSES[0]};trsvcid=4420
controller = transport=tcp;traddr={screen.ADDRESSES[1]};trsvcid=4420
"""
# Without what is excluded and what is refused.
LIVE = 2 + 2 * (len(screen.VOLUMES) - 2)


@pytest.fixture(scope="module")
def host(machine: Machine) -> Machine:
    """The scenario, which only looking does not change."""
    machine.run("lab-target up --subsystems 8 --ports " + " ".join(f"{one}:4420" for one in screen.ADDRESSES))
    machine.put(screen.EXCLUSIONS, f"[exclusions]\nexclusion = nqn={nqn(screen.EXCLUDED)}\n")
    scenario.start(machine, CONFIGURATION)
    scenario.wait_live(machine, LIVE)
    for address in screen.ADDRESSES:
        machine.run(f"systemctl stop '{unit_name(screen.STOPPED, address)}'", timeout=GENEROUS)
    scenario.wait_status(machine, "2 stopped")
    name = namespace(machine, screen.MOUNTED)
    machine.run(f"mkfs.ext4 -q /dev/{name} && mkdir -p {screen.TARGET} && mount /dev/{name} {screen.TARGET}")
    machine.cut_link("path1")
    scenario.wait_status(machine, "6 live, 6 reconnecting")
    return machine


def namespace(machine: Machine, volume: int) -> str:
    """The block device of a volume."""
    # Not those of single paths, such as nvme2c3n1, which the kernel hides.
    names = "ls /sys/class/block | grep -E '^nvme[0-9]+n[0-9]+$'"
    head = "/sys/class/block/$one/device/subsysnqn"
    find = f"for one in $({names}); do grep -qsx {nqn(volume)} {head} && echo $one; done"
    machine.wait_until(f'[ -n "$({find})" ]', what="the namespace is there")
    return machine.run(f"({find}) | head -n 1").stdout.strip()


def shown(machine: Machine, name: str) -> str:
    """What a command shows on a terminal of this width, or in a pipe."""
    what, _, width = name.partition("-")
    command = f"discoverctl {screen.COMMANDS[what]}"
    if columns := screen.WIDTHS[width]:
        command = f"COLUMNS={columns} TERM=dumb script -qec '{command}' /dev/null </dev/null"
    text = machine.run(command, timeout=GENEROUS).stdout.replace("\r\n", "\n")
    print(f"# {command}\n{text}")
    assert not columns or max(map(len, text.splitlines())) <= columns
    return text


@pytest.mark.parametrize("name", screen.NAMES)
def test_screen_is_as_the_file_shows_it(host: Machine, name: str) -> None:
    expected = screen.path(name).read_text()
    assert screen.common(shown(host, name)) == screen.common(expected)


def test_units_are_told_apart_at_80_columns(host: Machine) -> None:
    command = 'systemctl list-units --no-legend "nvme-ctrl@*"'
    text = host.run(f"SYSTEMD_COLORS=0 script -qec 'stty cols 80; {command}' /dev/null </dev/null").stdout
    print(text)
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").splitlines() if "nvme-ctrl@" in line]
    assert len(lines) == LIVE - 2
    assert max(map(len, lines)) <= 80
    for volume in (1, screen.MOUNTED, 6, 7, 8):
        for address in screen.ADDRESSES:
            # The end of a line may be cut, what tells it apart may not.
            assert sum(f" vol{volume} {address}" in line for line in lines) == 1


def test_why_says_of_each_what_it_is(host: Machine) -> None:
    def why(word: str, status: int = 0) -> str:
        ended = host.run(f"discoverctl why '{word}'", check=False, timeout=GENEROUS)
        print(f"# discoverctl why {word}\n{ended.stdout}{ended.stderr}")
        assert ended.returncode == status
        return ended.stdout

    assert "TLS is not supported yet" in why(nqn(screen.REFUSED), 4)
    assert f"excluded by {screen.EXCLUSIONS}:2" in why(f"vol{screen.EXCLUDED}")
    assert "To have it back: discoverctl start" in why(f"vol{screen.STOPPED}")
    # A mount is both paths; of the one that is down the kernel says so.
    mounted = why(screen.TARGET)
    assert "reconnecting" in mounted
    assert "The kernel says: nvme nvme" in mounted


def test_every_name_of_a_controller_means_it(host: Machine) -> None:
    name = namespace(host, screen.MOUNTED)
    by_id = host.run(f"find -L /dev/disk/by-id -samefile /dev/{name} | head -n 1").stdout.strip()
    whole = nqn(screen.MOUNTED)
    words = [whole, f"vol{screen.MOUNTED}", f"*:vol{screen.MOUNTED}", name, f"/dev/{name}", by_id, screen.TARGET]
    expected = host.run(f"discoverctl list -o name '{whole}'").stdout
    assert len(expected.splitlines()) == 2
    for word in words:
        assert host.run(f"discoverctl list -o name '{word}'").stdout == expected, word
    # One for each subsystem that is not refused, and the discovery controller.
    there = host.run("discoverctl list -o name 198.51.100.1:4420").stdout.splitlines()
    assert len(there) == len(screen.VOLUMES)


@pytest.mark.parametrize("columns", [1, 20])
def test_narrow_terminal_and_full_disk_are_no_traceback(host: Machine, columns: int) -> None:
    text = host.run(f"COLUMNS={columns} TERM=dumb script -qec 'discoverctl list' /dev/null </dev/null").stdout
    assert "Traceback" not in text
    for verb in ("list", "list --json", "status", "why nvme0", "topology", "doctor"):
        ended = host.run(f"discoverctl {verb} >/dev/full", check=False, timeout=GENEROUS)
        assert ended.returncode == 1, verb
        assert ended.stderr.startswith("discoverctl: output: No space left on device"), verb
        assert ended.stderr.count("\n") == 1, verb


def test_bus_that_is_down_is_one_sentence(host: Machine) -> None:
    host.run("mv /run/dbus/system_bus_socket /run/dbus/away")
    try:
        ended = host.run("discoverctl list", check=False, timeout=GENEROUS)
    finally:
        host.run("mv /run/dbus/away /run/dbus/system_bus_socket")
    assert ended.returncode == 1
    assert ended.stderr.startswith("discoverctl: cannot talk to systemd: ")
    assert ended.stderr.count("\n") == 1
