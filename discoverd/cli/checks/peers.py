# SPDX-License-Identifier: Apache-2.0
"""Other tools that connect controllers on this host."""

from discoverd.cli.checks.finding import Finding, hint, problem
from discoverd.cli.systemd import Systemd

_DAEMONS = {
    "nvme-discoverd.service": "nvme-cli's daemon",
    "stafd.service": "nvme-stas",
    "stacd.service": "nvme-stas",
}
# An instance stands for the template.
_LEGACY = (
    "nvmf-autoconnect.service",
    "nvmefc-boot-connections.service",
    "nvmf-connect-nbft.service",
    "nvmf-connect@discoverctl.service",
)
_STAND_BACK = "50-discoverd.conf"


def daemons(systemd: Systemd) -> list[Finding]:
    """Return the other daemons that run."""
    return [
        problem(
            f"{unit.name} ({_DAEMONS[unit.name]}) runs, and wants to own the same controllers as discoverd",
            f"use one of the two; for discoverd: systemctl disable --now {unit.name}",
        )
        for unit in systemd.units(_DAEMONS).values()
        if unit.up
    ]


def autoconnect(systemd: Systemd, discoverd_runs: bool) -> list[Finding]:
    """Return the units by which nvme-cli connects on its own, where they do not stand back for discoverd."""
    found = []
    for unit in systemd.units(_LEGACY).values():
        name = unit.name.replace("@discoverctl.", "@.")
        if unit.load in ("not-found", "masked"):
            continue
        if not any(path.endswith("/" + _STAND_BACK) for path in systemd.names(unit, "DropInPaths")):
            text = f"{name} connects on its own, also what an administrator has stopped"
            found.append(problem(text, f"install discoverd again, which has it stand back, or: systemctl mask {name}"))
        elif not discoverd_runs and systemd.file_state(name) in ("enabled", "enabled-runtime"):
            text = f"{name} is enabled, and connects on its own while discoverd does not run"
            found.append(hint(text, "start discoverd, or, if nothing is to be connected: systemctl disable " + name))
    return found
