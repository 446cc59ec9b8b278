# SPDX-License-Identifier: Apache-2.0
"""In-band authentication against the kernel's target, and secrets that nobody else can read."""

import base64
import secrets
import zlib

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import unit_name


def make_key() -> str:
    """A DH-HMAC-CHAP secret in its interchange form (NVMe TP8006): base64 of 32 bytes and their CRC-32."""
    raw = secrets.token_bytes(32)
    return f"DHHC-1:00:{base64.b64encode(raw + zlib.crc32(raw).to_bytes(4, 'little')).decode()}:"


@pytest.mark.parametrize("key", ["kxchap", "dhchap"])
def test_both_ways_and_nobody_can_read_it(host: Machine, key: str) -> None:
    ours, theirs = make_key(), make_key()
    hostnqn = host.read("/etc/nvme/hostnqn").decode().strip()
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run(["lab-target", "host-key", "vol1", hostnqn, ours, theirs])
    scenario.start(
        host,
        f"""\
[Subsystem]
nqn = {scenario.nqn(1)}
{key}-secret = {ours}
{key}-ctrl-secret = {theirs}
controller = transport=tcp;traddr=192.0.2.1
""",
    )
    scenario.wait_live(host, 1)
    pid = scenario.unit(host, unit_name(1)).main_pid
    host.run("useradd --system --create-home reader 2>/dev/null || true")
    for secret in (ours, theirs):
        needle = secret.split(":")[2]
        places = (
            f"systemctl show '{unit_name(1)}'",
            f"systemctl cat '{unit_name(1)}'",
            f"systemctl status '{unit_name(1)}' discoverd.service --no-pager -n 1000",
            f"tr '\\0' ' ' </proc/{pid}/cmdline",
            f"tr '\\0' ' ' </proc/{pid}/environ",
            "journalctl --no-pager -b -o verbose",
            "busctl introspect org.freedesktop.systemd1 $(busctl --json=short call org.freedesktop.systemd1 "
            "/org/freedesktop/systemd1 org.freedesktop.systemd1.Manager GetUnit s "
            f"'{unit_name(1)}' | sed 's/.*\\[\"//; s/\".*//')",
        )
        for place in places:
            assert needle not in host.run(place).stdout, place
        # And nothing under /run or /etc that an ordinary user can open has it.
        found = host.run(
            "runuser -u reader -- grep -rlsF --exclude-dir=proc -- "
            f"'{needle}' /run /etc /tmp /var/lib /var/log || true",
            timeout=120,
        )
        assert found.stdout == ""
    # Root's copy is there, and root's alone; how things are, everybody may see.
    modes = host.run("stat -c %a /run/discoverd /run/discoverd/controllers/*/spec").stdout.split()
    assert modes == ["755", "600"]


def test_a_wrong_key_is_told(host: Machine) -> None:
    hostnqn = host.read("/etc/nvme/hostnqn").decode().strip()
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run(["lab-target", "host-key", "vol1", hostnqn, make_key()])
    scenario.start(
        host,
        f"[Subsystem]\nnqn = {scenario.nqn(1)}\nkxchap-secret = {make_key()}\n"
        "controller = transport=tcp;traddr=192.0.2.1\n",
    )
    scenario.wait_unit(host, unit_name(1), "authentication failed: check kxchap-secret")
    print(scenario.unit(host, unit_name(1)).status)
