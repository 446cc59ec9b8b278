# SPDX-License-Identifier: Apache-2.0
"""The file by which ``discoverctl connect`` asks for a controller, until the next boot."""

import hashlib
from pathlib import Path

from discoverd.config import fabrics


def path(name: str) -> Path:
    """Return where it is for the controller of this instance."""
    return fabrics.RUNTIME_DROP_INS / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.conf"


def remove(name: str) -> None:
    """Ask no longer for the controller of this instance, from the next reload on. Raises OSError."""
    path(name).unlink(missing_ok=True)
