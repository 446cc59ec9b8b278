# SPDX-License-Identifier: Apache-2.0
"""The expected screens of screens/, and what two of them have in common however the kernel has numbered its devices."""

import re
from pathlib import Path

FOLDER = Path(__file__).parent / "screens"
# Of a terminal; 0 is a pipe.
WIDTHS = {"80": 80, "140": 140, "pipe": 0}
# What is shown, and the command.
COMMANDS = {"list": "list", "wide": "list -o wide", "topology": "topology"}
NAMES = tuple(f"{what}-{width}" for what in COMMANDS for width in WIDTHS)

ADDRESSES = ("192.0.2.1", "198.51.100.1")
MOUNTED, STOPPED, EXCLUDED, REFUSED = 2, 3, 4, 5
VOLUMES = range(1, 9)
TARGET = "/srv/data"
EXCLUSIONS = "/etc/nvme/exclusions.conf"
CONFIGURATION = "/etc/nvme/nvme-fabrics.conf"

# What differs from one boot to the next, and what stands for it.
_VARIES = (
    (r"nvme[0-9]+(n[0-9]+)?", "nvmeN"),
    (r"nvmeN(,nvmeN)*", "nvmeN"),
    (r"[0-9]+ entries", "N entries"),
    (r"generation [0-9]+", "generation N"),
    (r"([0-9]{4}-[0-9]{2}-[0-9]{2} )?\b[0-9]{2}:[0-9]{2}\b", "TIME"),
    # Columns and folds follow from the lengths of these.
    (r"\s+", " "),
)


def path(name: str) -> Path:
    """Return the file of an expected screen."""
    return FOLDER / f"{name}.txt"


def common(text: str) -> str:
    """Return what stays the same of a screen on another boot."""
    for pattern, replacement in _VARIES:
        text = re.sub(pattern, replacement, text)
    return text.strip()
