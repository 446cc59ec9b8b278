# SPDX-License-Identifier: Apache-2.0
"""The ownership registry: the clean-up rule, and what it must not take."""

from tests.lab import scenario
from tests.lab.machine import Machine

ROOT = "/run/nvme/registry"


def entry(host: Machine, device: str, **attributes: str) -> None:
    host.run(f"rm -rf {ROOT}/{device} && mkdir -p {ROOT}/{device}")
    for name, value in attributes.items():
        host.put(f"{ROOT}/{device}/{name}", value)


def clean_up(host: Machine, device: str, seqnum: int) -> bool:
    """Run what the rule runs; tell whether the entry is still there."""
    host.run(f"SEQNUM={seqnum} /usr/libexec/discoverd/registry-clean {device}")
    return host.run(f"test -d {ROOT}/{device}", check=False).returncode == 0


def test_which_entries_the_clean_up_takes(host: Machine) -> None:
    # What nvme-cli's own rule does with the same entries.
    entry(host, "nvme7", owner="stas\n", seqnum="100\n")
    assert clean_up(host, "nvme7", 99)
    assert clean_up(host, "nvme7", 100)
    assert not clean_up(host, "nvme7", 101)
    entry(host, "nvme7", owner="stas\n")
    assert not clean_up(host, "nvme7", 1)
    entry(host, "nvme7", owner="stas\n", seqnum="")
    assert not clean_up(host, "nvme7", 1)
    # The name is in use again.
    host.run("touch /dev/nvme7")
    entry(host, "nvme7", owner="stas\n", seqnum="100\n")
    assert clean_up(host, "nvme7", 101)
    host.run(f"rm -rf /dev/nvme7 {ROOT}/nvme7")
    assert not clean_up(host, "nvme7", 101)
    assert host.run(f"ls -A {ROOT}").stdout == ""


def test_the_rule_cleans_up_after_anybody(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run(f"modprobe nvme-tcp && nvme connect -t tcp -a 192.0.2.1 -s 4420 -n {scenario.nqn(1)}")
    entry(host, "nvme0", owner="stas\n", seqnum="1\n")
    host.run("nvme disconnect -d nvme0")
    host.wait_until(lambda: not scenario.registry(host), what="the entry is gone")
