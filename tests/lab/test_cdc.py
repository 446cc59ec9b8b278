# SPDX-License-Identifier: Apache-2.0
"""The discovery controller for tests is one to the kernel and to nvme-cli as well; discoverd has no part in this."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.cdc import ADDRESS, Cdc, entry
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY, nqn

UNIQUE = "nqn.2024-08.com.example:cdc"
SECOND = "2001:db8:1::1"
DISCOVER = ["nvme", "discover", "-t", "tcp", "-s", "8009", "-o", "json"]
EVENTS = "/run/lab-cdc/events"


@pytest.fixture
def quiet(impatient: Machine) -> Iterator[Machine]:
    """Nothing but the test reacts to what the discovery controller says, and the kernel is not patient for a minute."""
    impatient.run("systemctl mask --runtime --quiet nvmf-connect@.service")
    yield impatient
    impatient.run("systemctl unmask --runtime --quiet nvmf-connect@.service")


def discover(machine: Machine, *options: str, address: str = ADDRESS) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(machine.run([*DISCOVER, "-a", address, *options]).stdout)
    return answer


def listed(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(record["subtype"], record["subnqn"]) for record in answer["records"]]


def test_nvme_discover_reads_a_fabric(quiet: Machine) -> None:
    instances = {"cdc": {"nqn": UNIQUE}, "ddc": {"address": SECOND, "dctype": "ddc", "epcsd": False}}
    entries = [entry(nqn(number)) for number in range(512)]
    with Cdc(quiet, instances=instances, entries=entries, referrals={"cdc": ["ddc"], "ddc": ["cdc"]}) as cdc:
        for options in ((), ("-n", UNIQUE), ("--hdr-digest",), ("--data-digest",), ("--hdr-digest", "--data-digest")):
            shown = listed(discover(quiet, *options))
            assert shown[:3] == [
                ("current discovery subsystem", UNIQUE),
                ("discovery subsystem referral", DISCOVERY),
                ("nvme subsystem", nqn(0)),
            ]
            assert len(shown) == 514
        cdc.order("zone", name="z", hosts=["nqn.2024-08.com.example:host"], subsystems=[nqn(7)])
        assert len(listed(discover(quiet, address=SECOND))) == 2
        mine = discover(quiet, "--hostnqn", "nqn.2024-08.com.example:host", address=SECOND)
        assert listed(mine)[2:] == [("nvme subsystem", nqn(7))]
        digests = {(note["header_digest"], note["data_digest"]) for note in cdc.history("connected")}
        assert digests == {(False, False), (True, False), (False, True), (True, True)}
        assert cdc.counter("protocol-errors") == 0


def test_the_kernel_holds_a_connection_and_passes_events_on(quiet: Machine) -> None:
    with Cdc(quiet, instances={"cdc": {"nqn": UNIQUE}}, entries=[entry(nqn(1))]) as cdc:
        discover(quiet, "--persistent", "-n", UNIQUE, "--keep-alive-tmo", "2")
        device = quiet.run("ls /sys/class/nvme").stdout.strip()
        shown = quiet.run(f"cd /sys/class/nvme/{device} && cat dctype cntrltype kato subsysnqn").stdout.split()
        assert shown == ["cdc", "discovery", "2", UNIQUE]
        quiet.run(f"udevadm monitor -k -p -s nvme >{EVENTS} 2>&1 & sleep 0.5", check=False)
        try:
            cdc.order("add", **entry(nqn(2)))
            quiet.wait_until(f"grep -q NVME_AEN=0x70f002 {EVENTS}", what="the kernel announces the event")
            cdc.order("event")
            assert cdc.counter("events") == 1, "masked until the page is read"
            assert len(listed(discover(quiet, "--device", device, "-n", UNIQUE))) == 3
            cdc.order("event")
            quiet.wait_until(f"[ $(grep -c NVME_AEN= {EVENTS}) = 2 ]", what="a second event")
        finally:
            quiet.run("pkill -x udevadm")
        pages = quiet.run(["nvme", "supported-log-pages", f"/dev/{device}"]).stdout
        assert "0x70" in pages

        quiet.run(["nvme", "dim", "-d", device, "--task", "register"])
        (host,) = cdc.registered().values()
        assert (host["name"], host["task"], host["host_id"]) == ("lab", "register", cdc.connections()[0]["host_id"])
        quiet.run(["nvme", "dim", "-d", device, "--task", "deregister"])
        assert not cdc.registered()
        cdc.order("misbehave", step="dim", action="status", value=0x4002, times=1)
        refused = quiet.run(["nvme", "dim", "-d", device, "--task", "register"], check=False)
        assert refused.returncode != 0
        quiet.wait_until(lambda: cdc.counter("keep-alive") >= 2, what="keep-alives")
        quiet.run(["nvme", "disconnect", "-n", UNIQUE])
        assert cdc.history()[-1]["what"] == "shutdown"


def test_the_kernel_meets_what_goes_wrong(quiet: Machine) -> None:
    with Cdc(quiet, instances={"cdc": {"nqn": UNIQUE}}, entries=[entry(nqn(1)), entry(nqn(2))]) as cdc:
        for step, action in (
            ("accept", "drop"),
            ("icreq", "cut"),
            ("connect", "status"),
            ("identify", "cut"),
        ):
            # Every attempt: nvme-cli may try again in another way.
            cdc.order("misbehave", step=step, action=action, value=0x4181 if action == "status" else 99)
            assert not quiet.run([*DISCOVER, "-a", ADDRESS, "-n", UNIQUE], check=False).stdout, (step, action)
            cdc.order("behave")
        cdc.order("misbehave", step="log-header", action="digest", times=1)
        assert not quiet.run([*DISCOVER, "-a", ADDRESS, "--data-digest"], check=False).stdout
        cdc.order("misbehave", step="log-entries", action="generation", times=2)
        assert len(listed(discover(quiet, "-n", UNIQUE))) == 3
        assert cdc.counter("log-entries") >= 3

        discover(quiet, "--persistent", "-n", UNIQUE, "--keep-alive-tmo", "2", "--reconnect-delay", "1")
        state = "cat /sys/class/nvme/nvme*/state"
        cdc.order("down", instance="cdc")
        quiet.wait_until(f"{state} | grep -q connecting", what="the kernel has lost it")
        cdc.order("up", instance="cdc")
        quiet.wait_until(f"{state} | grep -q live", what="the kernel has it again")
