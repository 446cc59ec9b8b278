# SPDX-License-Identifier: Apache-2.0
"""A hostile announcer on a link of the machine (guest_announcer.py), and a look at the supervisor from outside."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab import cdc, scenario
from tests.lab.machine import Machine

FOLDER = "/run/lab-announcer"
UNIT = "lab-announcer.service"
# As in guest_announcer.py.
STATE = "/run/lab-announcer.json"
ADDRESSES = ("192.0.2.66", "192.0.2.67")
CONTROLLERS = 64


class Announcer:
    """Announces 64 discovery controllers on path0 from the other side of the link, at addresses of its own."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def __enter__(self) -> "Announcer":
        for address in ADDRESSES:
            self.machine.run(f"ip -netns tgt address replace {address}/24 dev path0")
        self.machine.run(f"mkdir -p {FOLDER} && tar -xmC {FOLDER}", data=_archive())
        # Another host has processors of its own.
        self.machine.run(
            f"systemctl reset-failed {UNIT} 2>/dev/null; systemd-run --quiet --unit={UNIT} --collect --nice=19 "
            "--property=LimitNOFILE=65536 --property=NetworkNamespacePath=/run/netns/tgt "
            f"--setenv=PYTHONPATH={FOLDER} /usr/bin/python3 {FOLDER}/guest_announcer.py"
        )
        count = "avahi-browse --parsable --terminate _nvme-disc._tcp | grep -c ';path0;IPv4;'"
        self.machine.wait_until(
            f"[ $({count}) = {CONTROLLERS} ]", timeout=scenario.GENEROUS, what="Avahi hears all that is announced"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends it without a goodbye."""
        self.machine.run(f"systemctl kill --signal=KILL {UNIT}", check=False)
        for address in ADDRESSES:
            self.machine.run(f"ip -netns tgt address delete {address}/24 dev path0", check=False)

    def seen(self) -> dict[str, int]:
        """What it has seen of the host: connect, dim (registrations), silent connections at once, and others."""
        found: dict[str, int] = json.loads(self.machine.read(STATE))
        return found


@dataclass(frozen=True)
class Measured:
    """What guest_meter.py has measured: seconds, KiB, milliseconds; ``slowness`` as there."""

    live_seconds: float | None
    pss: int
    peak_rss: int
    workers: int
    turns: int
    longest: list[dict[str, float]]
    lost_events: int
    slowness: float


def measure(machine: Machine, prefix: str, count: int, seconds: int) -> Measured:
    """Start discoverd, and watch it for so many seconds, while so many controllers are to be live."""
    machine.put("/root/guest_meter.py", Path(__file__).with_name("guest_meter.py").read_text())
    command = ["python3", "/root/guest_meter.py", prefix, str(count), str(seconds)]
    found: dict[str, Any] = json.loads(machine.run(command, timeout=seconds + 240).stdout)
    names = ("all live", "pss", "peak rss", "workers", "turns", "longest", "lost events", "slowness")
    return Measured(*(found[name] for name in names))


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(Path(__file__).with_name("guest_announcer.py"), "guest_announcer.py")
        archive.add(Path(__file__).with_name("guest_mdns.py"), "tests/lab/guest_mdns.py")
        for path in sorted(cdc.SOURCES.glob("*.py")):
            archive.add(path, f"tests/cdc/{path.name}")
    return buffer.getvalue()
