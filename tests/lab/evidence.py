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

# Lines of the journal that the report of a failure shows: where tests run unseen, it is all that is left.
SHOWN = 40


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


def last_words(machine: Machine) -> str:
    """The last lines that discoverd and its workers have logged themselves, without what systemd says of them."""
    said = [entry for entry in machine.journal() if journal.OUR_UNITS.search(entry.unit)]
    said = [entry for entry in said if entry.identifier != "systemd"]
    return "".join(f"{stamp(entry)} {entry}\n" for entry in said[-SHOWN:])


def stamp(entry: journal.Entry) -> str:
    """Seconds since the guest booted, as in the kernel's log."""
    return f"[{int(journal.text_of(entry.fields.get('__MONOTONIC_TIMESTAMP', '0'))) / 1e6:12.6f}]"
