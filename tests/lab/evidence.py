# SPDX-License-Identifier: Apache-2.0
"""What a failed scenario leaves behind for whoever reads the failure."""

import contextlib
import re
import shutil
from pathlib import Path

from tests.lab import journal
from tests.lab.image import CACHE
from tests.lab.machine import LabError, Machine

COMMANDS = {
    "units.txt": "systemctl list-units --all --no-pager --full",
    "status.txt": "systemctl status --no-pager --full --lines=30 discoverd.service 'nvme-ctrl@*'",
    "registry.txt": "cd /run/nvme/registry && grep -r . . ; ls -la /run/discoverd",
    "controllers.txt": "nvme list-subsys; ip address; mount; ps -e -o pid,ppid,stat,wchan:32,args",
}


def keep(test: str, machine: Machine) -> Path:
    """Writes journal, console and, of a machine that runs, its states to `.cache/lab/results/<test>/`."""
    folder = CACHE / "results" / re.sub(r"[^A-Za-z0-9_.-]+", "_", test) / machine.folder.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "console.txt").write_text(machine.console())
    (folder / "journal.txt").write_text("".join(f"{stamp(entry)} {entry}\n" for entry in machine.journal()))
    for name, command in COMMANDS.items():
        if machine.running:
            with contextlib.suppress(LabError):
                result = machine.run(command, check=False)
                (folder / name).write_bytes(result.output + result.errors)
    return folder


def stamp(entry: journal.Entry) -> str:
    """Seconds since the guest booted, as in the kernel's log."""
    return f"[{int(journal.text_of(entry.fields.get('__MONOTONIC_TIMESTAMP', '0'))) / 1e6:12.6f}]"
